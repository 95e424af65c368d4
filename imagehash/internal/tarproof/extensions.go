package tarproof

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/imagehash/internal/rawtar"
	"github.com/retally/retally/internal/proof"
)

func sumOf(p []byte) [sha256.Size]byte { return sha256.Sum256(p) }

// extPair joins extension headers of one type; -1 for none.
type extPair struct{ a, b int }

// extPairs pairs the first of a type with the first of that type, as far as the
// order allows.
func extPairs(a, b *Member) []extPair {
	var out []extPair
	j := 0
	for i := range a.H.Ext {
		k := j
		for k < len(b.H.Ext) && b.H.Ext[k].Raw[156] != a.H.Ext[i].Raw[156] {
			k++
		}
		if k == len(b.H.Ext) {
			out = append(out, extPair{i, -1})
			continue
		}
		for ; j < k; j++ {
			out = append(out, extPair{-1, j})
		}
		out = append(out, extPair{i, k})
		j = k + 1
	}
	for ; j < len(b.H.Ext); j++ {
		out = append(out, extPair{-1, j})
	}
	return out
}

// kept are the extension headers that both have.
func (d *pairDiff) kept() []extPair {
	return slices.DeleteFunc(extPairs(d.a, d.b), func(p extPair) bool { return p.a < 0 || p.b < 0 })
}

// extensions compares the extension headers: each record, and each header's own
// fields.
func (d *pairDiff) extensions() {
	for _, p := range extPairs(d.a, d.b) {
		switch {
		case p.a < 0:
			h := &d.b.H.Ext[p.b]
			d.alone(h, false, proof.Edit{Place: d.b.Key, Field: extField(p.b, ""), Op: proof.Remove, B: proof.Value{Bytes: headerAndData(h)}})
		case p.b < 0:
			h := &d.a.H.Ext[p.a]
			d.alone(h, true, proof.Edit{Place: d.b.Key, Field: extField(p.a, ""), Op: proof.Insert, At: p.a, A: proof.Value{Bytes: headerAndData(h)}})
		default:
			d.extension(p)
		}
	}
}

func headerAndData(h *rawtar.Extension) []byte { return append(slices.Clone(h.Raw[:]), h.Data...) }

// describeExt names a whole extension header.
func describeExt(h *rawtar.Extension) string {
	return fmt.Sprintf("extension header %q called %s, %s", h.Raw[156], proof.Clip(string(cut(h.Raw[:100]))),
		proof.Value{Content: &proof.Content{Size: int64(len(headerAndData(h))), Sum: sumOf(headerAndData(h))}})
}

// alone puts a header of one side under the kinds of its records.
func (d *pairDiff) alone(h *rawtar.Extension, inA bool, e proof.Edit) {
	text := func(kind, s string, edits ...proof.Edit) {
		if inA {
			d.note(kind, s, "no "+kindWord(h), edits...)
		} else {
			d.note(kind, "no "+kindWord(h), s, edits...)
		}
	}
	switch h.Raw[156] {
	case 'x', 'g':
		list, err := rawtar.ParseRecords(h.Data)
		if err != nil || len(list) == 0 {
			text("pax", describeExt(h), e)
			return
		}
		for i, r := range list {
			edits := []proof.Edit{}
			s := recordText(r.Key, r.Value, true)
			if i == 0 {
				s += ", in an " + describeExt(h)
				edits = append(edits, e)
			}
			text(d.recordKind(r.Key, r.Value, inA, !inA), s, edits...)
		}
	case 'L':
		text(d.nameKind(), describeExt(h), e)
	case 'K':
		text(d.linkKind(), describeExt(h), e)
	default:
		text("tar-format", describeExt(h), e)
	}
}

func kindWord(h *rawtar.Extension) string { return fmt.Sprintf("extension header %q", h.Raw[156]) }

func (d *pairDiff) nameKind() string {
	switch {
	case d.whiteout:
		return "whiteout-form"
	case d.a.H.Name == d.b.H.Name:
		return "tar-format"
	}
	return "name-form"
}

func (d *pairDiff) linkKind() string {
	switch {
	case d.a.H.Linkname == d.b.H.Linkname:
		return "tar-format"
	case d.types:
		return d.whole("link")
	}
	return "link"
}

// extension compares two headers of one type.
func (d *pairDiff) extension(p extPair) {
	a, b := &d.a.H.Ext[p.a], &d.b.H.Ext[p.b]
	if !bytes.Equal(a.Data, b.Data) {
		switch a.Raw[156] {
		case 'x', 'g':
			d.records(p.b, a.Data, b.Data)
		default:
			kind := "tar-format"
			switch a.Raw[156] {
			case 'L':
				kind = d.nameKind()
			case 'K':
				kind = d.linkKind()
			}
			e := d.set(extField(p.b, "data"), a.Data, b.Data)
			d.note(kind, fmt.Sprintf("%s %q", e.Field, e.A.String()), strconv.Quote(e.B.String()), e)
		}
	}
	for i := range headerFields {
		f := &headerFields[i]
		fa, fb := f.of(&a.Raw), f.of(&b.Raw)
		if f.name == fieldSize || f.name == fieldChecksum || bytes.Equal(fa, fb) {
			continue // those follow, see remains
		}
		kind := "tar-format"
		if a.Raw[156] == 'x' || a.Raw[156] == 'g' {
			kind = "pax"
		}
		// Many writers repeat the member's own value, which then has a cause.
		if repeated(f.name) && !d.a.H.Global && !sameNumber(fa, fb) && bytes.Equal(fa, f.of(&d.a.raw)) && bytes.Equal(fb, f.of(&d.b.raw)) {
			if kind = f.name; d.whiteout && f.name == "mode" {
				kind = "whiteout-form"
			}
		}
		e := d.set(extField(p.b, f.name), fa, fb)
		d.note(kind, e.Field+" "+quote(fa), quote(fb), e)
	}
}

func repeated(name string) bool {
	return slices.Contains([]string{"mode", "uid", "gid", "mtime", "uname", "gname"}, name)
}

func sameNumber(fa, fb []byte) bool {
	na, ea := rawtar.Number(fa)
	nb, eb := rawtar.Number(fb)
	return ea == nil && eb == nil && na == nb
}

// records compares pax records one by one. What is not written in the usual way
// is exchanged as a whole, with every record that differs named.
func (d *pairDiff) records(i int, da, db []byte) {
	ra, usualA := records(da)
	rb, usualB := records(db)
	if !usualA || !usualB {
		e := d.set(extField(i, "data"), da, db)
		d.note("pax", e.Field+" "+e.A.String(), e.B.String(), e)
		ra, _ = rawtar.ParseRecords(da)
		rb, _ = rawtar.ParseRecords(db)
		d.unusual(ra, rb)
		return
	}
	where := make(map[string]int, len(rb))
	for k, r := range rb {
		where[r.Key] = k
	}
	inA := make(map[string]bool, len(ra))
	var common []int
	for k, r := range ra {
		inA[r.Key] = true
		e := proof.Edit{Place: d.b.Key, Field: extField(i, recordPart+r.Key), A: proof.Text(r.Value)}
		j, both := where[r.Key]
		switch {
		case !both:
			e.Op, e.At = proof.Insert, k
			d.note(d.recordKind(r.Key, r.Value, true, false), recordText(r.Key, r.Value, true), recordText(r.Key, "", false), e)
			continue
		case rb[j].Value != r.Value:
			e.Op, e.B = proof.Set, proof.Text(rb[j].Value)
			d.note(d.recordKind(r.Key, "", true, true), recordText(r.Key, r.Value, true), recordText(r.Key, rb[j].Value, true), e)
		}
		common = append(common, j)
	}
	for _, r := range rb {
		if !inA[r.Key] {
			e := proof.Edit{Place: d.b.Key, Field: extField(i, recordPart+r.Key), Op: proof.Remove, B: proof.Text(r.Value)}
			d.note(d.recordKind(r.Key, r.Value, false, true), recordText(r.Key, "", false), recordText(r.Key, r.Value, true), e)
		}
	}
	if perm, same := proof.Ranks(common); !same {
		d.note("pax", "records "+keysText(ra), keysText(rb), proof.Edit{Place: d.b.Key, Field: extField(i, "records"), Op: proof.Order, Perm: perm})
	}
}

// unusual names the records that differ in headers that are exchanged whole.
func (d *pairDiff) unusual(ra, rb []rawtar.Record) {
	last := func(list []rawtar.Record, key string) (string, bool) {
		for i := len(list) - 1; i >= 0; i-- {
			if list[i].Key == key {
				return list[i].Value, true
			}
		}
		return "", false
	}
	seen := map[string]bool{}
	for _, r := range slices.Concat(ra, rb) {
		if seen[r.Key] {
			continue
		}
		seen[r.Key] = true
		va, hasA := last(ra, r.Key)
		vb, hasB := last(rb, r.Key)
		if hasA != hasB || va != vb {
			d.note(d.recordKind(r.Key, va+vb, hasA, hasB), recordText(r.Key, va, hasA), recordText(r.Key, vb, hasB))
		}
	}
}

func keysText(list []rawtar.Record) string {
	var keys []string
	for _, r := range list {
		keys = append(keys, r.Key)
	}
	return proof.Clip(strings.Join(keys, ", "))
}

func recordText(key, value string, has bool) string {
	if !has {
		return "no record " + proof.Clip(key)
	}
	return fmt.Sprintf("%s=%s", proof.Clip(key), strconv.Quote(proof.Clip(value)))
}

// recordKind is the cause that a pax record belongs to. A record of one side
// alone that only repeats the header's own field, or adds the parts of a second
// to it, is a matter of form.
func (d *pairDiff) recordKind(key, value string, hasA, hasB bool) string {
	switch key {
	case "path", "GNU.sparse.name":
		if kind := d.nameKind(); kind != "tar-format" {
			return kind
		}
		return "pax"
	case "linkpath":
		if kind := d.linkKind(); kind != "tar-format" {
			return kind
		}
		return "pax"
	case "mtime", "uid", "gid", "uname", "gname":
		if m := d.side(hasA); hasA != hasB && !m.H.Global && repeats(m, key, value) {
			return "pax"
		}
		return key
	case "size":
		if !d.content && !d.types && d.a.H.Claimed == d.b.H.Claimed {
			return "pax"
		}
		return d.whole("content")
	case "comment", "atime", "ctime", "charset", "LIBARCHIVE.creationtime", "SCHILY.dev", "SCHILY.ino", "SCHILY.nlink":
		return "pax" // known to mean nothing for what is unpacked
	}
	for _, prefix := range []string{"SCHILY.xattr.", "LIBARCHIVE.xattr.", "SCHILY.acl.", "RHT.security.", "MSWINDOWS."} {
		if strings.HasPrefix(key, prefix) {
			return "xattr"
		}
	}
	if strings.HasPrefix(key, "GNU.sparse.") {
		return d.whole("content") // where the bytes go
	}
	return "pax-unknown"
}

func (d *pairDiff) side(inA bool) *Member {
	if inA {
		return d.a
	}
	return d.b
}

// repeats reports whether a record says what the header that it belongs to
// says. Where the headers differ there is a cause for that.
func repeats(m *Member, key, value string) bool {
	f, _ := fieldOf(key)
	own := f.of(&m.raw)
	if key == "uname" || key == "gname" {
		return string(cut(own)) == value
	}
	whole, _, parts := strings.Cut(value, ".")
	if parts && (key != "mtime" || strings.HasPrefix(value, "-")) {
		return false // rounding of times before 1970 is another question
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	plain, ferr := rawtar.Number(own)
	return err == nil && ferr == nil && n == plain
}
