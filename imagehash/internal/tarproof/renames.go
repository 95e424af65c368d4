package tarproof

import (
	"bytes"
	"maps"
	"slices"

	"github.com/retally/retally/imagehash/internal/rawtar"
	"github.com/retally/retally/internal/proof"
)

// renames pairs files that only one side has, and that differ in their names
// alone.
func (c *comparer) renames(taken []bool) map[int]int {
	left := map[proof.Content][]int{}
	for j, m := range c.b.Members {
		if !taken[j] && nameable(m) {
			left[m.Content] = append(left[m.Content], j)
		}
	}
	out := map[int]int{}
	for _, p := range c.d.Pairs {
		ma := c.a.Members[p.A]
		if p.B >= 0 || !nameable(ma) {
			continue
		}
		list := left[ma.Content]
		k := slices.IndexFunc(list, func(j int) bool { return sameButName(ma, c.b.Members[j]) })
		if k < 0 {
			continue
		}
		out[p.A], taken[list[k]] = list[k], true
		left[ma.Content] = slices.Delete(list, k, k+1)
	}
	return out
}

// nameable reports whether a member is a file that its content tells from
// others.
func nameable(m *Member) bool { return m.H.Type == '0' && !m.H.Global && m.Content.Size > 0 }

// sameButName compares all of two members but their names and what follows from
// them.
func sameButName(a, b *Member) bool {
	blank := func(m *Member) (raw [rawtar.BlockSize]byte) {
		raw = m.raw
		names := []string{"name", fieldChecksum}
		if !m.isGNU() {
			names = append(names, "prefix", "prefix, sparse map", "prefix, end")
		}
		for _, name := range names {
			f, _ := fieldOf(name)
			clear(f.of(&raw))
		}
		return raw
	}
	records := func(m *Member) map[string]string {
		out := map[string]string{}
		for _, r := range m.H.Records {
			if r.Key != "path" {
				out[r.Key] = r.Value
			}
		}
		return out
	}
	return blank(a) == blank(b) && bytes.Equal(a.H.Sparse, b.H.Sparse) && bytes.Equal(a.padding, b.padding) && maps.Equal(records(a), records(b))
}

// renamed is the leaf of a file with another name. Its edits put A's member in
// and take B's away, whole.
func (c *comparer) renamed(i, j int) Leaf {
	mb := c.b.Members[j]
	l := c.onlyInA(i)
	l.Kind, l.A, l.B, l.B0 = "renamed", l.Place+", "+l.A, mb.Place+", "+describe(mb), j
	l.Note = "the same content under another name"
	l.Edits = append(l.Edits, proof.Edit{Place: mb.Key, Op: proof.Remove, B: proof.Value{Bytes: mb.headers()}})
	return l
}
