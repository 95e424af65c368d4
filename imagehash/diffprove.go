package imagehash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/retally/retally/imagehash/internal/rawtar"
	"github.com/retally/retally/internal/digest"
)

// undo makes B's header block say what A's says in the fields of the given
// causes, and writes the checksum in B's way.
func undo(a, b *tarMember, causes []leaf) [rawtar.BlockSize]byte {
	kinds := map[string]bool{}
	for _, c := range causes {
		kinds[c.kind] = true
	}
	if kinds["type"] || kinds["whiteout-form"] {
		return a.raw
	}
	raw := b.raw
	for _, f := range fields(isGNU(&a.raw) && isGNU(&b.raw)) {
		if kinds[f.kind] || kinds["tar-format"] && sameValue(f, a, b) {
			copy(raw[f.from:f.to], a.raw[f.from:f.to])
		}
	}
	writeChecksum(&raw, b.raw[148:156])
	if kinds["tar-format"] {
		writeChecksum(&raw, a.raw[148:156])
	}
	return raw
}

// sameValue reports whether a field holds the same value on both sides, so
// that a difference in it is one of writing.
func sameValue(f field, a, b *tarMember) bool {
	switch {
	case f.number:
		na, ea := rawtar.Number(a.raw[f.from:f.to])
		nb, eb := rawtar.Number(b.raw[f.from:f.to])
		return ea == nil && eb == nil && na == nb || f.kind == "content" && a.content == b.content
	case f.kind == "name-form":
		return a.h.Name == b.h.Name
	case f.kind == "link":
		return a.h.Linkname == b.h.Linkname
	case f.kind == "type":
		return a.h.Type == b.h.Type
	}
	return false
}

// writeChecksum puts the sum into the header in the way of a model: as many
// octal digits, and whatever stands around them.
func writeChecksum(raw *[rawtar.BlockSize]byte, model []byte) {
	field := slices.Clone(model)
	from, to := 0, len(field)
	for from < to && (field[from] < '0' || field[from] > '7') {
		from++
	}
	end := from
	for end < to && field[end] >= '0' && field[end] <= '7' {
		end++
	}
	sum, _ := rawtar.Checksum(raw)
	if digits := fmt.Sprintf("%0*o", end-from, sum); len(digits) == end-from {
		copy(field[from:end], digits)
	}
	copy(raw[148:156], field)
}

// prove makes A's content from B with the causes undone and compares its hash
// with A's diffID. The content of members that are equal (their hashes are)
// and of those whose content is undone is read from A.
func (d *tarDiff) prove(ctx context.Context, a diffLayer, ia, ib *tarIndex, limits Limits) (bool, error) {
	if ia.unkept || ib.unkept {
		return false, nil
	}
	h := a.diffID.Algorithm().New()
	i := 0
	err := a.walkPlain(ctx, limits, rawtar.Visitor{
		Member: func(hd *rawtar.Header) error {
			if i >= len(d.pairs) {
				return errors.New("the layer changed while it was read")
			}
			p := d.pairs[i]
			i++
			if p.b < 0 || len(d.causes[p.a]) > 0 && (d.causes[p.a][0].kind == "type" || d.causes[p.a][0].kind == "whiteout-form") {
				writeMember(h, hd.Ext, *hd.Raw, hd.Sparse)
				return nil
			}
			ma, mb := ia.members[p.a], ib.members[p.b]
			causes := d.causes[p.a]
			ext, sparse := mb.h.Ext, mb.h.Sparse
			for _, c := range causes {
				if c.kind == "tar-format" {
					sparse = ma.h.Sparse
				}
			}
			if extensionsUndone(causes, ma, mb) {
				ext = ma.h.Ext
			}
			raw := undo(ma, mb, causes)
			if hd.Global {
				// A global header is nothing but its extension.
				writeMember(h, ext[:len(ext)-1], ext[len(ext)-1].Raw, nil)
				h.Write(ext[len(ext)-1].Data)
				h.Write(make([]byte, -len(ext[len(ext)-1].Data)&(rawtar.BlockSize-1)))
				return nil
			}
			writeMember(h, ext, raw, sparse)
			return nil
		},
		Content: func(p []byte) error { h.Write(p); return nil },
		Padding: func(p []byte) error { h.Write(p); return nil },
		Trailer: func(p []byte) error { h.Write(p); return nil },
	})
	if err != nil {
		return false, err
	}
	return digest.FromHash(a.diffID.Algorithm(), h) == a.diffID, nil
}

// extensionsUndone reports whether the causes of a member reach into its
// extension headers.
func extensionsUndone(causes []leaf, a, b *tarMember) bool {
	if len(a.h.Ext) == 0 && len(b.h.Ext) == 0 {
		return false
	}
	for _, c := range causes {
		switch c.kind {
		case "pax", "xattr", "tar-format", "name-form", "link", "mtime", "uid", "gid", "uname", "gname", "content":
			return true
		}
	}
	return false
}

func writeMember(w io.Writer, ext []rawtar.Extension, raw [rawtar.BlockSize]byte, sparse []byte) {
	for i := range ext {
		w.Write(ext[i].Raw[:])
		w.Write(ext[i].Data)
		w.Write(make([]byte, -len(ext[i].Data)&(rawtar.BlockSize-1)))
	}
	w.Write(raw[:])
	w.Write(sparse)
}

// firstDifference finds where the content of a member differs, for a few
// members that are not too large.
func firstDifference(ctx context.Context, a, b diffLayer, d *tarDiff, ia, ib *tarIndex, limits Limits) error {
	const most, size = 8, 4 << 20
	held := map[int][]byte{} // by index in A
	ofB := map[int]int{}
	for _, p := range d.pairs {
		if p.b < 0 || len(held) >= most || ib.members[p.b].h.Size > size {
			continue
		}
		if slices.ContainsFunc(d.causes[p.a], func(l leaf) bool { return l.kind == "content" }) {
			held[p.a] = []byte{}
			ofB[p.b] = p.a
		}
	}
	if len(held) == 0 {
		return nil
	}
	j := -1
	err := b.walkPlain(ctx, limits, rawtar.Visitor{
		Member: func(*rawtar.Header) error { j++; return nil },
		Content: func(p []byte) error {
			if i, ok := ofB[j]; ok {
				held[i] = append(held[i], p...)
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	at := map[string]int64{}
	i, pos, done := -1, int64(0), false
	note := func(offset int64) { at[ia.members[i].name] = offset; done = true }
	err = a.walkPlain(ctx, limits, rawtar.Visitor{
		Member: func(*rawtar.Header) error { i++; pos, done = 0, false; return nil },
		Content: func(p []byte) error {
			other, ok := held[i]
			if !ok || done {
				return nil
			}
			for k, c := range p {
				if o := pos + int64(k); o >= int64(len(other)) || other[o] != c {
					note(o)
					return nil
				}
			}
			pos += int64(len(p))
			return nil
		},
	})
	for k := range d.leaves {
		if l := &d.leaves[k]; l.kind == "content" {
			if o, ok := at[l.place]; ok {
				l.note = fmt.Sprintf("first difference at byte %d", o)
			} else if ia != nil && l.note == "" {
				l.note = ""
			}
		}
	}
	return err
}
