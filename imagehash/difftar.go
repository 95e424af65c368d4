package imagehash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/retally/retally/imagehash/internal/gunzip"
	"github.com/retally/retally/imagehash/internal/rawtar"
)

// maxMembers bounds the layers that are compared member by member; each
// member's headers are kept.
const maxMembers = 400_000

// tarMember is one member as it stands in a layer.
type tarMember struct {
	name    string // normalized
	h       rawtar.Header
	raw     [rawtar.BlockSize]byte
	content [sha256.Size]byte
	padding []byte // nil if zeros, as it should be
}

// tarIndex is a layer's members in order.
type tarIndex struct {
	members []*tarMember
	trailer int64  // bytes from the first zero block on
	rest    []byte // the trailer, if it is not all zeros
	unkept  bool   // the trailer was too long to keep
}

// unpackedReader decompresses a blob that was verified.
func unpackedReader(ctx context.Context, r io.ReadCloser, p packing, limits Limits) (io.ReadCloser, error) {
	in := &hashingReader{ctx: ctx, r: r}
	switch p {
	case packGzip:
		return &closingReader{gunzip.NewReader(in), func() { r.Close() }}, nil
	case packZstd:
		z, err := newZstd(in, limits.Window, nil)
		if err != nil {
			r.Close()
			return nil, err
		}
		return &closingReader{z, func() { z.close(); r.Close() }}, nil
	}
	return &closingReader{in, func() { r.Close() }}, nil
}

// walkPlain streams a layer's tar through a visitor.
func (l diffLayer) walkPlain(ctx context.Context, limits Limits, v rawtar.Visitor) error {
	r, err := l.plain(ctx, limits)
	if err != nil {
		return err
	}
	defer r.Close()
	scan := rawtar.NewScanner(v)
	if _, err := io.CopyBuffer(struct{ io.Writer }{scan}, r, make([]byte, chunkSize)); err != nil {
		return err
	}
	return scan.Close()
}

var errTooMany = fmt.Errorf("more than %d members", maxMembers)

// index reads a layer's members.
func (l diffLayer) index(ctx context.Context, limits Limits) (*tarIndex, error) {
	t := &tarIndex{}
	var m *tarMember
	var h hash.Hash
	finish := func() {
		if m != nil {
			h.Sum(m.content[:0])
		}
	}
	zeros := true
	err := l.walkPlain(ctx, limits, rawtar.Visitor{
		Member: func(hd *rawtar.Header) error {
			finish()
			if len(t.members) >= maxMembers {
				return errTooMany
			}
			m = &tarMember{h: *hd, raw: *hd.Raw}
			m.name, _ = cleanPath(hd.Name)
			if hd.Global {
				m.name = "pax global header"
			}
			m.h.Raw = &m.raw
			m.h.Ext, m.h.Sparse, m.h.Records = slices.Clone(hd.Ext), slices.Clone(hd.Sparse), slices.Clone(hd.Records)
			h = sha256.New()
			t.members = append(t.members, m)
			return nil
		},
		Content: func(p []byte) error { h.Write(p); return nil },
		Padding: func(p []byte) error {
			if len(m.padding) > 0 || !allZero(p) {
				// A piece may follow zeros of an earlier one.
				if m.padding == nil {
					m.padding = make([]byte, int(-m.h.Size&(rawtar.BlockSize-1))-len(p))
				}
				m.padding = append(m.padding, p...)
			}
			return nil
		},
		Trailer: func(p []byte) error {
			zeros = zeros && allZero(p)
			if !zeros && !t.unkept {
				if t.trailer+int64(len(p)) > 1<<20 {
					t.unkept, t.rest = true, nil
				} else {
					if t.rest == nil {
						t.rest = make([]byte, t.trailer)
					}
					t.rest = append(t.rest, p...)
				}
			}
			t.trailer += int64(len(p))
			return nil
		},
	})
	finish()
	return t, err
}

func allZero(p []byte) bool {
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}

// field is a part of the header block and the cause that it belongs to.
type field struct {
	from, to int
	kind     string
	number   bool // octal or base-256: two writings of one value are a matter of format
}

// The header block (POSIX.1-1988, section 10.1.1). The checksum follows from
// the rest, the size from the content.
func fields(gnu bool) []field {
	prefix := field{345, 500, "name-form", false}
	if gnu {
		prefix.kind = "tar-format" // times and sparse maps, no name
	}
	return []field{
		{0, 100, "name-form", false},
		{100, 108, "mode", true},
		{108, 116, "uid", true},
		{116, 124, "gid", true},
		{124, 136, "content", true},
		{136, 148, "mtime", true},
		{156, 157, "type", false},
		{157, 257, "link", false},
		{257, 265, "tar-format", false},
		{265, 297, "uname", false},
		{297, 329, "gname", false},
		{329, 337, "device", true},
		{337, 345, "device", true},
		prefix,
		{500, 512, "tar-format", false},
	}
}

// recordKind is the cause that a pax record belongs to.
func recordKind(key string) string {
	switch key {
	case "path", "GNU.sparse.name":
		return "name-form"
	case "linkpath":
		return "link"
	case "mtime", "uid", "gid", "uname", "gname":
		return key
	case "size":
		return "content"
	}
	if strings.HasPrefix(key, "SCHILY.xattr.") || strings.HasPrefix(key, "LIBARCHIVE.xattr.") || strings.HasPrefix(key, "SCHILY.acl.") {
		return "xattr"
	}
	return "pax"
}

// compareMembers lists what differs between two members of one name.
func compareMembers(a, b *tarMember) []leaf {
	if a.h.Type != b.h.Type || a.h.Global != b.h.Global {
		l := leaf{kind: "type", a: typeName(&a.h), b: typeName(&b.h)}
		if a.h.Type == '1' || b.h.Type == '1' {
			l.note = "a hard link on one side"
		}
		return []leaf{l}
	}
	var out []leaf
	add := func(kind, va, vb string) {
		for i := range out {
			if out[i].kind == kind {
				return
			}
		}
		out = append(out, leaf{kind: kind, a: va, b: vb})
	}
	sameContent := a.content == b.content && a.h.Size == b.h.Size
	if !sameContent {
		add("content", fmt.Sprintf("%d bytes, sha256:%s", a.h.Size, hex.EncodeToString(a.content[:])), fmt.Sprintf("%d bytes, sha256:%s", b.h.Size, hex.EncodeToString(b.content[:])))
	}
	compareRecords(a, b, sameContent, add)
	for _, f := range fields(isGNU(&a.raw) && isGNU(&b.raw)) {
		fa, fb := a.raw[f.from:f.to], b.raw[f.from:f.to]
		if bytes.Equal(fa, fb) {
			continue
		}
		switch {
		case f.kind == "content":
			na, _ := rawtar.Number(fa)
			nb, _ := rawtar.Number(fb)
			if na == nb || sameContent {
				add("tar-format", fmt.Sprintf("size written %q", fa), fmt.Sprintf("%q", fb))
			}
		case f.number:
			na, ea := rawtar.Number(fa)
			nb, eb := rawtar.Number(fb)
			if na == nb && ea == nil && eb == nil {
				add("tar-format", fmt.Sprintf("%s written %q", f.kind, fa), fmt.Sprintf("%q", fb))
			} else {
				add(f.kind, numberText(f.kind, na), numberText(f.kind, nb))
			}
		case f.kind == "type": // 0 and '0'
			add("tar-format", fmt.Sprintf("type written %q", fa), fmt.Sprintf("%q", fb))
		case f.kind == "link" && a.h.Linkname == b.h.Linkname:
			add("tar-format", fmt.Sprintf("link target written %q", cut(fa)), fmt.Sprintf("%q", cut(fb)))
		case f.kind == "link":
			add("link", a.h.Linkname, b.h.Linkname)
		case f.kind == "name-form" && a.h.Name == b.h.Name:
			add("tar-format", fmt.Sprintf("name written %q", cut(fa)), fmt.Sprintf("%q", cut(fb)))
		case f.kind == "name-form":
			add("name-form", a.h.Name, b.h.Name)
		default:
			add(f.kind, string(cut(fa)), string(cut(fb)))
		}
	}
	if !bytes.Equal(a.padding, b.padding) {
		add("tar-padding", fmt.Sprintf("%x behind the content", a.padding), fmt.Sprintf("%x", b.padding))
	}
	if !bytes.Equal(a.h.Sparse, b.h.Sparse) {
		add("tar-format", "sparse map", "another sparse map")
	}
	// What is left of the header once all that is undone is the way the
	// checksum is written.
	if undone := undo(a, b, out); undone != a.raw {
		add("tar-format", fmt.Sprintf("checksum written %q", a.raw[148:156]), fmt.Sprintf("%q", b.raw[148:156]))
	}
	return out
}

func cut(p []byte) []byte { return bytes.TrimRight(p, "\x00") }

func isGNU(raw *[rawtar.BlockSize]byte) bool { return bytes.Equal(raw[257:265], []byte("ustar  \x00")) }

func numberText(kind string, n int64) string {
	switch kind {
	case "mode":
		return fmt.Sprintf("%04o", n)
	case "mtime":
		return fmt.Sprintf("%d (%s)", n, time.Unix(n, 0).UTC().Format(time.RFC3339))
	}
	return strconv.FormatInt(n, 10)
}

func typeName(h *rawtar.Header) string {
	if h.Global {
		return "pax global header"
	}
	switch h.Type {
	case '0':
		return "regular file"
	case '1':
		return "hard link to " + clip(h.Linkname)
	case '2':
		return "symbolic link to " + clip(h.Linkname)
	case '3':
		return "character device"
	case '4':
		return "block device"
	case '5':
		return "folder"
	case '6':
		return "fifo"
	}
	return fmt.Sprintf("type %q", h.Type)
}

// compareRecords looks at the extension headers.
func compareRecords(a, b *tarMember, sameContent bool, add func(kind, va, vb string)) {
	seen := map[string]bool{}
	found := false
	for _, list := range [][]rawtar.Record{a.h.Records, b.h.Records} {
		for _, r := range list {
			if seen[r.Key] {
				continue
			}
			seen[r.Key] = true
			va, hasA := a.h.Record(r.Key)
			vb, hasB := b.h.Record(r.Key)
			if hasA == hasB && va == vb {
				continue
			}
			found = true
			kind := recordKind(r.Key)
			switch {
			case kind == "content" && !sameContent:
				continue
			case kind == "name-form" && a.h.Name == b.h.Name, kind == "link" && a.h.Linkname == b.h.Linkname:
				kind = "pax"
			case hasA != hasB && headerHolds(a, b, kind):
				// The plain field says the same on both sides; the
				// record only adds to it, as sub-seconds do.
				kind = "pax"
			}
			add(kind, recordText(r.Key, va, hasA), recordText(r.Key, vb, hasB))
		}
	}
	if found {
		return
	}
	// The same records in other clothes: their order, or the extension
	// header's own name and times.
	if len(a.h.Ext) != len(b.h.Ext) {
		add("tar-format", fmt.Sprintf("%d extension headers", len(a.h.Ext)), strconv.Itoa(len(b.h.Ext)))
		return
	}
	for i := range a.h.Ext {
		ea, eb := &a.h.Ext[i], &b.h.Ext[i]
		switch {
		case ea.Raw[156] != eb.Raw[156]:
			add("tar-format", fmt.Sprintf("extension header %q", ea.Raw[156]), fmt.Sprintf("%q", eb.Raw[156]))
		case !bytes.Equal(ea.Data, eb.Data):
			switch kind := ea.Raw[156]; {
			case kind == 'L' && a.h.Name != b.h.Name:
				add("name-form", a.h.Name, b.h.Name)
			case kind == 'K' && a.h.Linkname != b.h.Linkname:
				add("link", a.h.Linkname, b.h.Linkname)
			default:
				add("pax", "records in one order", "in another")
			}
		case ea.Raw != eb.Raw:
			add("pax", fmt.Sprintf("extension header %q", cut(ea.Raw[:100])), fmt.Sprintf("%q or with other fields", cut(eb.Raw[:100])))
		}
	}
}

// headerHolds reports whether the plain header fields of a kind are equal.
func headerHolds(a, b *tarMember, kind string) bool {
	for _, f := range fields(false) {
		if f.kind == kind {
			return bytes.Equal(a.raw[f.from:f.to], b.raw[f.from:f.to])
		}
	}
	return false
}

func recordText(key, value string, has bool) string {
	if !has {
		return "no record " + key
	}
	return clip(fmt.Sprintf("%s=%q", key, value))
}

// tarDiff is the comparison of two layers' content.
type tarDiff struct {
	leaves []leaf
	pairs  []pair // in A's order; b is -1 for members of A alone
	causes map[int][]leaf
}

// compareTars pairs members by name and lists what differs.
func compareTars(a, b *tarIndex) *tarDiff {
	d := &tarDiff{causes: map[int][]leaf{}}
	ka, kb := memberNames(a), memberNames(b)
	at := make(map[string]int, len(kb))
	for i, k := range kb {
		at[k] = i
	}
	taken := make([]bool, len(kb))
	for i, k := range ka {
		p := pair{i, -1}
		if j, ok := at[k]; ok {
			p.b, taken[j] = j, true
		}
		d.pairs = append(d.pairs, p)
	}
	d.whiteouts(a, b, at, taken)
	for _, p := range d.pairs {
		ma := a.members[p.a]
		if p.b < 0 {
			d.leaves = append(d.leaves, leaf{kind: "only-in-a", place: ma.name, a: typeName(&ma.h)})
			continue
		}
		mb := b.members[p.b]
		if len(d.causes[p.a]) == 0 { // not a whiteout in two forms
			d.causes[p.a] = compareMembers(ma, mb)
		}
		for _, l := range d.causes[p.a] {
			l.place = ma.name
			d.leaves = append(d.leaves, l)
		}
	}
	for j, used := range taken {
		if !used {
			mb := b.members[j]
			d.leaves = append(d.leaves, leaf{kind: "only-in-b", place: mb.name, b: typeName(&mb.h)})
		}
	}
	d.order(a, b)
	if a.trailer != b.trailer || !bytes.Equal(a.rest, b.rest) {
		d.leaves = append(d.leaves, leaf{kind: "tar-padding", a: fmt.Sprintf("%d bytes behind the last member", a.trailer), b: fmt.Sprintf("%d bytes", b.trailer)})
	}
	return d
}

// memberNames makes names unique by counting repetitions.
func memberNames(t *tarIndex) []string {
	seen := make(map[string]int, len(t.members))
	out := make([]string, len(t.members))
	for i, m := range t.members {
		out[i] = m.name
		if n := seen[m.name]; n > 0 {
			out[i] += "\x00" + strconv.Itoa(n)
		}
		seen[m.name]++
	}
	return out
}

// whiteouts pairs the two forms of a deletion: a file .wh.NAME (AUFS, OCI
// image-spec, layer.md) and a character device 0/0 called NAME (overlayfs).
func (d *tarDiff) whiteouts(a, b *tarIndex, at map[string]int, taken []bool) {
	for i := range d.pairs {
		p := &d.pairs[i]
		if p.b >= 0 {
			continue
		}
		ma := a.members[p.a]
		dir, base := path.Split(ma.name)
		other := dir + ".wh." + base
		if rest, ok := strings.CutPrefix(base, ".wh."); ok {
			other = dir + rest
		}
		j, ok := at[other]
		if !ok || taken[j] || isWhiteout(ma) == "" || isWhiteout(b.members[j]) == "" {
			continue
		}
		p.b, taken[j] = j, true
		d.causes[p.a] = []leaf{{kind: "whiteout-form", a: isWhiteout(ma), b: isWhiteout(b.members[j])}}
	}
}

func isWhiteout(m *tarMember) string {
	major, _ := rawtar.Number(m.raw[329:337])
	minor, _ := rawtar.Number(m.raw[337:345])
	switch {
	case strings.HasPrefix(path.Base(m.name), ".wh.") && m.h.Type == '0':
		return "file " + path.Base(m.name)
	case m.h.Type == '3' && major == 0 && minor == 0:
		return "character device 0/0"
	}
	return ""
}

// order reports members that both sides have in another order.
func (d *tarDiff) order(a, b *tarIndex) {
	last := -1
	moved := 0
	first := ""
	for _, p := range d.pairs {
		if p.b < 0 {
			continue
		}
		if p.b < last {
			moved++
			if first == "" {
				first = a.members[p.a].name
			}
			continue
		}
		last = p.b
	}
	if moved > 0 {
		d.leaves = append(d.leaves, leaf{kind: "order", note: fmt.Sprintf("%d members stand elsewhere, the first is %s", moved, clip(first))})
	}
}
