package nar

import (
	"cmp"
	"fmt"
	"slices"
)

// Change is one place in which two trees differ.
type Change struct {
	Path string // "" is the root
	// What is added, removed, type, executable, target or content.
	What string
	A, B string // both sides in words, "" where a side has none
}

// Diff lists in what two trees differ, by path. An empty list means equal
// archives: nothing else counts in one.
func Diff(a, b *Tree) []Change {
	side := func(t *Tree) map[string]*Entry {
		m := make(map[string]*Entry, len(t.Entries))
		for i := range t.Entries {
			m[t.Entries[i].Path] = &t.Entries[i]
		}
		return m
	}
	ea, eb := side(a), side(b)
	var out []Change
	add := func(path, what, x, y string) { out = append(out, Change{path, what, x, y}) }
	for p, x := range ea {
		y := eb[p]
		switch {
		case y == nil:
			add(p, "removed", x.words(), "")
		case x.Kind != y.Kind:
			add(p, "type", x.words(), y.words())
		case x.Kind == Symlink && x.Target != y.Target:
			add(p, "target", x.Target, y.Target)
		case x.Kind == Regular:
			if x.Executable != y.Executable {
				add(p, "executable", yes(x.Executable), yes(y.Executable))
			}
			if x.SHA256 != y.SHA256 {
				add(p, "content", x.content(), y.content())
			}
		}
	}
	for p, y := range eb {
		if ea[p] == nil {
			add(p, "added", "", y.words())
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.What, b.What)) })
	return out
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (e *Entry) content() string { return fmt.Sprintf("%d bytes, sha256:%x", e.Size, e.SHA256) }

func (e *Entry) words() string {
	switch e.Kind {
	case Symlink:
		return "symbolic link to " + e.Target
	case Directory:
		return "folder"
	default:
		return "file of " + e.content()
	}
}
