package tarproof

import (
	"maps"
	"path"
	"strings"

	"github.com/retally/retally/imagehash/internal/rawtar"
)

const opaque = ".wh..wh..opq"

// Merged reports whether one layer is the layers below it put into one: their
// union, whiteouts applied (OCI image-spec, layer.md, "Applying Changesets"),
// holds the members of the one layer, attribute for attribute. With base there
// are layers further down, so that whiteouts must have been kept.
func Merged(layers []*Index, one *Index, base bool) bool {
	have := map[string]merged{}
	for n, l := range layers {
		for _, m := range l.Members {
			if m.H.Global {
				return false
			}
			dir, name := path.Split(m.Name)
			switch {
			case name == opaque:
				below(have, path.Clean(dir), n)
			case isWhiteout(m) != "" && m.H.Type == '3':
				return false // overlayfs devices are no part of the format
			case strings.HasPrefix(name, ".wh."):
				target := dir + strings.TrimPrefix(name, ".wh.")
				below(have, target, n)
				if h, ok := have[target]; ok && h.layer < n {
					delete(have, target)
				}
			}
		}
		for _, m := range l.Members {
			if have[m.Name].m != nil && m.H.Type != '5' {
				below(have, m.Name, n) // in place of a folder
			}
			have[m.Name] = merged{m, n}
		}
	}
	for _, h := range have {
		// A further name of a file that a later layer replaced is still the old
		// file, and a link in one layer would lead to the new one.
		if h.m.H.Type == '1' {
			target, _ := rawtar.CleanPath(h.m.H.Linkname)
			if t, ok := have[target]; !ok || t.layer != h.layer {
				return false
			}
		}
	}
	if !base {
		// There is nothing that they could hide.
		maps.DeleteFunc(have, func(_ string, h merged) bool { return strings.HasPrefix(path.Base(h.m.Name), ".wh.") })
	}
	seen := map[string]bool{}
	for _, m := range one.Members {
		if !base && strings.HasPrefix(path.Base(m.Name), ".wh.") && m.H.Type == '0' {
			continue
		}
		h, ok := have[m.Name]
		if !ok || seen[m.Name] || m.H.Global || !sameMember(h.m, m) {
			return false
		}
		seen[m.Name] = true
	}
	return len(seen) == len(have)
}

type merged struct {
	m     *Member
	layer int
}

// below takes away what earlier layers have in a folder.
func below(have map[string]merged, dir string, layer int) {
	maps.DeleteFunc(have, func(name string, h merged) bool {
		return h.layer < layer && name != dir && (dir == "." || strings.HasPrefix(name, dir+"/"))
	})
}

// sameMember compares what is unpacked of two members.
func sameMember(a, b *Member) bool {
	for _, name := range []string{"mode", "uid", "gid", "mtime", "major", "minor"} {
		f, _ := fieldOf(name)
		na, ea := rawtar.Number(f.of(&a.raw))
		nb, eb := rawtar.Number(f.of(&b.raw))
		if name == "mode" {
			na, nb = na&permissions, nb&permissions
		}
		if ea != nil || eb != nil || na != nb {
			return false
		}
	}
	records := func(m *Member) map[string]string {
		out := map[string]string{}
		for _, r := range m.H.Records {
			if r.Key != "path" && r.Key != "linkpath" {
				out[r.Key] = r.Value
			}
		}
		return out
	}
	la, lb := a.H.Linkname, b.H.Linkname
	if a.H.Type == '1' {
		la, _ = rawtar.CleanPath(la)
		lb, _ = rawtar.CleanPath(lb)
	}
	return a.H.Type == b.H.Type && !a.sparse && !b.sparse && a.Content == b.Content && la == lb && maps.Equal(records(a), records(b))
}
