package tarproof

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/retally/retally/imagehash/internal/rawtar"
	"github.com/retally/retally/internal/proof"
)

// Leaf is one difference as it is reported: a kind of attribute of one member.
// Texts and edits say the same.
type Leaf struct {
	Kind  string
	Place string // the member; "" for the archive
	A, B  string
	Note  string
	Edits []proof.Edit
	A0    int // the member's number in A, -1 for none
	B0    int
}

// Pair joins members of A and B.
type Pair struct{ A, B int }

// Diff is what makes A of B.
type Diff struct {
	Leaves []Leaf
	// Follows are edits that say nothing about A: a rule that both sides keep.
	Follows []proof.Edit
	Pairs   []Pair // in A's order
}

// Edits returns all edits.
func (d *Diff) Edits() []proof.Edit {
	n := len(d.Follows)
	for i := range d.Leaves {
		n += len(d.Leaves[i].Edits)
	}
	out := append(make([]proof.Edit, 0, n), d.Follows...)
	for i := range d.Leaves {
		out = append(out, d.Leaves[i].Edits...)
	}
	return out
}

type comparer struct {
	a, b  *Index
	d     *Diff
	edits int
}

// Compare pairs members by name and lists what differs. The error is
// ErrTooMany.
func Compare(a, b *Index) (*Diff, error) {
	c := &comparer{a: a, b: b, d: &Diff{}}
	byKey := make(map[string]int, len(b.Members))
	for i, m := range b.Members {
		byKey[m.Key] = i
	}
	taken := make([]bool, len(b.Members))
	for i, m := range a.Members {
		p := Pair{i, -1}
		if j, ok := byKey[m.Key]; ok {
			p.B, taken[j] = j, true
		}
		c.d.Pairs = append(c.d.Pairs, p)
	}
	whiteouts := c.whiteouts(byKey, taken)
	renames := c.renames(taken)
	var common []int
	for _, p := range c.d.Pairs {
		if p.B >= 0 {
			common = append(common, p.B)
			if err := c.member(p, whiteouts[p.A]); err != nil {
				return nil, err
			}
			continue
		}
		l := c.onlyInA(p.A)
		if j, ok := renames[p.A]; ok {
			l = c.renamed(p.A, j)
		}
		if err := c.add(l); err != nil {
			return nil, err
		}
	}
	for j, used := range taken {
		if !used {
			m := b.Members[j]
			err := c.add(Leaf{Kind: "only-in-b", Place: m.Place, B: describe(m), A0: -1, B0: j, Edits: []proof.Edit{{Place: m.Key, Op: proof.Remove, B: proof.Value{Bytes: m.headers()}}}})
			if err != nil {
				return nil, err
			}
		}
	}
	c.order(common)
	c.trailer()
	return c.d, nil
}

func (c *comparer) add(l Leaf) error {
	if c.edits += len(l.Edits); c.edits > maxEdits {
		return fmt.Errorf("%w: more than %d differences", ErrTooMany, maxEdits)
	}
	c.d.Leaves = append(c.d.Leaves, l)
	return nil
}

func (c *comparer) onlyInA(i int) Leaf {
	m := c.a.Members[i]
	l := Leaf{Kind: "only-in-a", Place: m.Place, A: describe(m), A0: i, B0: -1}
	put := func(field string, v proof.Value) {
		l.Edits = append(l.Edits, proof.Edit{Place: m.Key, Field: field, Op: proof.Insert, At: i, A: v})
	}
	put("", proof.Value{Bytes: m.headers()})
	if m.Content.Size > 0 {
		put(fieldContent, proof.Value{Content: &m.Content})
	}
	if m.padding != nil {
		put(fieldPadding, proof.Value{Bytes: m.padding})
	}
	return l
}

// describe names a whole member: what it is, its content and its headers.
func describe(m *Member) string {
	s := typeName(&m.H)
	if m.Content.Size > 0 {
		s += ", " + proof.Value{Content: &m.Content}.String()
	}
	return s + ", headers of " + proof.Value{Content: &proof.Content{Size: int64(len(m.headers())), Sum: sumOf(m.headers())}}.String()
}

// whiteouts pairs the two forms of a deletion: a file .wh.NAME (AUFS, OCI
// image-spec, layer.md) and a character device 0/0 called NAME (overlayfs).
func (c *comparer) whiteouts(byKey map[string]int, taken []bool) map[int]bool {
	found := map[int]bool{}
	for i := range c.d.Pairs {
		p := &c.d.Pairs[i]
		if p.B >= 0 {
			continue
		}
		ma := c.a.Members[p.A]
		dir, base := path.Split(ma.Name)
		other := dir + ".wh." + base
		if rest, ok := strings.CutPrefix(base, ".wh."); ok {
			other = dir + rest
		}
		j, ok := byKey[other]
		if !ok || taken[j] || isWhiteout(ma) == "" || isWhiteout(c.b.Members[j]) == "" {
			continue
		}
		p.B, taken[j], found[p.A] = j, true, true
	}
	return found
}

func isWhiteout(m *Member) string {
	major, errMajor := rawtar.Number(m.raw[329:337])
	minor, errMinor := rawtar.Number(m.raw[337:345])
	switch {
	case strings.HasPrefix(path.Base(m.Name), ".wh.") && m.H.Type == '0' && m.Content.Size == 0:
		return "file " + path.Base(m.Name)
	case m.H.Type == '3' && major == 0 && minor == 0 && errMajor == nil && errMinor == nil:
		return "character device 0/0"
	}
	return ""
}

// order reports members that both sides have in another order.
func (c *comparer) order(common []int) {
	perm, same := proof.Ranks(common)
	if same {
		return
	}
	last, moved, first := -1, 0, ""
	for _, p := range c.d.Pairs {
		switch {
		case p.B < 0:
		case p.B < last:
			if moved++; first == "" {
				first = c.a.Members[p.A].Place
			}
		default:
			last = p.B
		}
	}
	c.d.Leaves = append(c.d.Leaves, Leaf{
		Kind: "order", A0: -1, B0: -1, A: "names in the order " + orderSum(c.a), B: "names in the order " + orderSum(c.b),
		Note:  fmt.Sprintf("%d members stand elsewhere, the first is %s", moved, proof.Clip(first)),
		Edits: []proof.Edit{{Place: archive, Op: proof.Order, Perm: perm}},
	})
}

func orderSum(t *Index) string {
	var b bytes.Buffer
	for _, m := range t.Members {
		b.WriteString(m.Key)
		b.WriteString("\x00\x00")
	}
	return fmt.Sprintf("sha256:%x", sumOf(b.Bytes()))
}

// trailer compares what stands behind the last member.
func (c *comparer) trailer() {
	va, vb := c.a.trailerValue(), c.b.trailerValue()
	if va.Equal(vb) && !c.a.unkept && !c.b.unkept {
		return
	}
	if c.a.fills() && c.b.fills() {
		// The member before says how much: no cause of its own.
		c.d.Follows = append(c.d.Follows, proof.Edit{Place: archive, Field: fieldRecord, Op: proof.Derive})
		return
	}
	l := Leaf{Kind: "tar-padding", A0: -1, B0: -1, A: c.a.trailerText(), B: c.b.trailerText()}
	if !c.a.unkept && !c.b.unkept {
		l.Edits = []proof.Edit{{Place: archive, Field: fieldTrailer, Op: proof.Set, A: va, B: vb}}
	}
	c.d.Leaves = append(c.d.Leaves, l)
}

func (t *Index) trailerText() string {
	s := fmt.Sprintf("%d bytes behind the last member", t.trailer)
	switch {
	case t.unkept:
		return s + ", not all zeros and too many to be kept"
	case t.rest != nil:
		return s + fmt.Sprintf(", not all zeros, sha256:%x", sumOf(t.rest))
	}
	return s
}

// pairDiff compares two members.
type pairDiff struct {
	a, b     *Member
	whiteout bool
	types    bool // the types differ
	content  bool // the contents differ
	holes    bool // both unpack to the same file, one at least is sparse
	leaves   []Leaf
}

// note puts an edit under a kind. Nothing is kept of A that the text of the
// leaf does not name.
func (d *pairDiff) note(kind, ta, tb string, edits ...proof.Edit) {
	for i := range d.leaves {
		l := &d.leaves[i]
		if l.Kind == kind {
			l.A, l.B = l.A+"; "+ta, l.B+"; "+tb
			l.Edits = append(l.Edits, edits...)
			return
		}
	}
	d.leaves = append(d.leaves, Leaf{Kind: kind, Place: d.a.Place, A: ta, B: tb, Edits: edits})
}

// attach puts an edit under a kind whose text names its values already.
func (d *pairDiff) attach(kind string, e proof.Edit) bool {
	for i := range d.leaves {
		if d.leaves[i].Kind == kind {
			d.leaves[i].Edits = append(d.leaves[i].Edits, e)
			return true
		}
	}
	return false
}

func (d *pairDiff) set(field string, a, b []byte) proof.Edit {
	return proof.Edit{Place: d.b.Key, Field: field, Op: proof.Set, A: proof.Value{Bytes: present(a)}, B: proof.Value{Bytes: present(b)}}
}

// present makes no bytes a value.
func present(p []byte) []byte {
	if p == nil {
		return []byte{}
	}
	return p
}

func (c *comparer) member(p Pair, whiteout bool) error {
	d := &pairDiff{a: c.a.Members[p.A], b: c.b.Members[p.B], whiteout: whiteout}
	d.types = d.a.H.Type != d.b.H.Type
	d.content = d.a.Content != d.b.Content
	d.holes = sameFile(d.a, d.b)
	if !d.a.H.Global {
		d.contents()
	}
	d.extensions()
	if !d.a.H.Global {
		for i := range headerFields {
			d.header(&headerFields[i])
		}
	}
	// Where the edits do not fit nothing will be proved; what differs is named
	// all the same.
	var unfit *proof.Unfit
	if err := d.remains(); err != nil && !errors.As(err, &unfit) {
		return err
	}
	for _, l := range d.leaves {
		l.A0, l.B0 = p.A, p.B
		if err := c.add(l); err != nil {
			return err
		}
	}
	return nil
}

// whole is the kind that takes over what goes with another type of member, or
// the kind itself.
func (d *pairDiff) whole(kind string) string {
	switch {
	case d.whiteout:
		return "whiteout-form"
	case d.holes && (kind == "content" || kind == "type"):
		return "sparse-form"
	case d.types:
		return "type"
	}
	return kind
}

// sameFile reports whether two members, one of them sparse at least, unpack to the
// same regular file.
func sameFile(a, b *Member) bool {
	file := func(m *Member) *proof.Content {
		switch {
		case m.sparse:
			return m.unpacked
		case m.H.Type == '0' && !m.H.Global:
			return &m.Content
		}
		return nil
	}
	fa, fb := file(a), file(b)
	return (a.sparse || b.sparse) && fa != nil && fb != nil && *fa == *fb
}

func (d *pairDiff) contents() {
	if d.whiteout {
		// What is said first is the form.
		d.note("whiteout-form", isWhiteout(d.a), isWhiteout(d.b))
	} else if d.types {
		d.note(d.whole("type"), typeName(&d.a.H), typeName(&d.b.H))
		if d.a.H.Type == '1' || d.b.H.Type == '1' {
			d.leaves[0].Note = "a hard link on one side"
		}
	}
	if d.content {
		va, vb := proof.Value{Content: &d.a.Content}, proof.Value{Content: &d.b.Content}
		d.note(d.whole("content"), va.String(), vb.String(), proof.Edit{Place: d.b.Key, Field: fieldContent, Op: proof.Set, A: va, B: vb})
	}
	if !bytes.Equal(d.a.H.Sparse, d.b.H.Sparse) {
		e := d.set(fieldSparse, d.a.H.Sparse, d.b.H.Sparse)
		d.note(d.whole("content"), "sparse map "+e.A.String(), "sparse map "+e.B.String(), e)
	}
}

// header compares one field of the header block.
func (d *pairDiff) header(f *field) {
	fa, fb := f.of(&d.a.raw), f.of(&d.b.raw)
	if f.name == fieldChecksum || bytes.Equal(fa, fb) {
		return
	}
	quoted := func(kind, what string) {
		d.note(kind, what+quote(fa), what+quote(fb), d.set(f.name, fa, fb))
	}
	written := func() { quoted("tar-format", f.name+" written ") }
	switch f.name {
	case "name", "prefix", "prefix, sparse map", "prefix, end":
		switch {
		case d.whiteout:
			quoted("whiteout-form", f.name+" ")
		case f.name == "prefix, sparse map" && (d.a.H.Type == 'S' || d.b.H.Type == 'S'):
			quoted(d.whole("content"), "sparse map and size ")
		case d.a.H.Name == d.b.H.Name:
			written()
		case f.name != "name" && (d.a.isGNU() || d.b.isGNU()):
			written() // times and the like, no part of a name
		default:
			d.note("name-form", d.a.H.Name, d.b.H.Name, d.set(f.name, fa, fb))
		}
	case "mode", "uid", "gid", "mtime", "major", "minor":
		d.number(f)
	case fieldSize:
		na, ea := rawtar.Number(fa)
		nb, eb := rawtar.Number(fb)
		switch {
		case ea == nil && eb == nil && na == nb, !d.content && !d.types && d.a.H.Claimed == d.b.H.Claimed:
			written()
		case d.content && bytes.Equal(fa, respell(fb, d.a.Content.Size)) && nb == d.b.Content.Size && d.attach(d.whole("content"), d.set(f.name, fa, fb)):
			// The number of bytes is named with the content.
		default:
			quoted(d.whole("content"), "size ")
		}
	case "type":
		if d.types && !d.whiteout && plainType(fa[0]) && plainType(fb[0]) && d.attach("type", d.set(f.name, fa, fb)) {
			return // named by its word
		}
		if d.types {
			quoted(d.whole("type"), "type flag ")
		} else { // 0 and '0'
			written()
		}
	case "link":
		switch {
		case d.a.H.Linkname == d.b.H.Linkname && bytes.Equal(cut(fa), cut(fb)), d.a.H.Linkname == d.b.H.Linkname && !d.types:
			written()
		case d.types && !d.whiteout && d.linkNamed(fa, d.a) && d.linkNamed(fb, d.b) && d.attach("type", d.set(f.name, fa, fb)):
		case d.types || d.whiteout:
			quoted(d.whole("link"), "link target ")
		default:
			d.note("link", proof.Clip(d.a.H.Linkname), proof.Clip(d.b.H.Linkname), d.set(f.name, fa, fb))
		}
	case "uname", "gname":
		if bytes.Equal(cut(fa), cut(fb)) {
			written()
		} else {
			quoted(f.name, "")
		}
	default: // magic, rest
		written()
	}
}

// quote shows a field; the NULs that fill up a text say nothing.
func quote(p []byte) string {
	if len(p) > 12 {
		p = bytes.TrimRight(p, "\x00")
	}
	return strconv.Quote(string(p))
}

// plainType reports whether a type flag is what the word for it says; a regular
// file has two.
func plainType(flag byte) bool { return flag >= '0' && flag <= '6' }

// linkNamed reports whether the word for a member's type names its link field
// whole: the target of a link, nothing for other members.
func (d *pairDiff) linkNamed(field []byte, m *Member) bool {
	want := ""
	if m.H.Type == '1' || m.H.Type == '2' {
		want = m.H.Linkname
	}
	return len(want) <= 100 && string(bytes.TrimRight(field, "\x00")) == want
}

// cut is a text field up to its NUL.
func cut(p []byte) []byte {
	p, _, _ = bytes.Cut(p, []byte{0})
	return p
}

func (m *Member) isGNU() bool { return bytes.Equal(m.raw[257:265], []byte("ustar  \x00")) }

// permissions are the bits of a mode that are not the file's type.
const permissions = 0o7777

// fileType is what stat(2) puts above the permissions.
func fileType(t byte) int64 {
	switch t {
	case '0', '7', 'S', '1':
		return 0o100000
	case '2':
		return 0o120000
	case '3':
		return 0o020000
	case '4':
		return 0o060000
	case '5':
		return 0o040000
	case '6':
		return 0o010000
	}
	return 0
}

// number compares a numeric field: another value, the value written in another
// way, or both.
func (d *pairDiff) number(f *field) {
	fa, fb := f.of(&d.a.raw), f.of(&d.b.raw)
	na, ea := rawtar.Number(fa)
	nb, eb := rawtar.Number(fb)
	kind := f.name
	switch {
	case f.name == "major" || f.name == "minor":
		kind = "device"
		if d.whiteout {
			kind = "whiteout-form"
		}
	case f.name == "mode" && d.whiteout:
		kind = "whiteout-form"
	case f.name == "mode" && d.types && (d.a.H.Type == '2' || d.b.H.Type == '2'):
		kind = "type" // a symbolic link has no mode of its own (symlink(7))
	}
	if ea != nil || eb != nil {
		d.note(kind, fmt.Sprintf("%s %q", f.name, fa), fmt.Sprintf("%q", fb), d.set(f.name, fa, fb))
		return
	}
	value := na
	if f.name == "mode" {
		// Old writers put the type's bits beside the permissions.
		ta, tb := na&^permissions, nb&^permissions
		if (ta == 0 || ta == fileType(d.a.H.Type)) && (tb == 0 || tb == fileType(d.b.H.Type)) {
			value = na&permissions | tb
		}
	}
	if value == nb {
		d.note("tar-format", fmt.Sprintf("%s written %q", f.name, fa), fmt.Sprintf("%s written %q", f.name, fb), d.set(f.name, fa, fb))
		return
	}
	text := func(n int64) string {
		if kind != f.name && f.name == "mode" {
			return "mode " + numberText(f.name, n)
		}
		return numberText(f.name, n)
	}
	mid := respell(fb, value)
	if mid == nil || bytes.Equal(mid, fa) {
		ta, tb := text(na), text(nb)
		if mid == nil {
			ta, tb = fmt.Sprintf("%s written %q", ta, fa), fmt.Sprintf("%s written %q", tb, fb)
		}
		d.note(kind, ta, tb, d.set(f.name, fa, fb))
		return
	}
	d.note(kind, text(value), text(nb), d.set(f.name, mid, fb))
	d.note("tar-format", fmt.Sprintf("%s written %q", f.name, fa), fmt.Sprintf("%s written %q", f.name, mid), d.set(f.name+asWritten, fa, mid))
}

func numberText(name string, n int64) string {
	switch name {
	case "mode":
		return fmt.Sprintf("%04o", n)
	case "mtime":
		return fmt.Sprintf("%d (%s)", n, time.Unix(n, 0).UTC().Format(time.RFC3339))
	case "major", "minor":
		return fmt.Sprintf("%s %d", name, n)
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
		return "hard link to " + proof.Clip(h.Linkname)
	case '2':
		return "symbolic link to " + proof.Clip(h.Linkname)
	case '3':
		return "character device"
	case '4':
		return "block device"
	case '5':
		return "folder"
	case '6':
		return "fifo"
	case 'S':
		return "sparse file"
	}
	return fmt.Sprintf("type %q", h.Type)
}

// remains names what is left once all that is undone: sizes of extension
// headers, checksums and padding that do not follow in B's way.
func (d *pairDiff) remains() error {
	if len(d.leaves) == 0 && bytes.Equal(d.a.headers(), d.b.headers()) && bytes.Equal(d.a.contentPadding(), d.b.contentPadding()) {
		return nil
	}
	for _, part := range []string{fieldSize, fieldChecksum} {
		p, err := d.patched()
		if err != nil {
			return err
		}
		f, _ := fieldOf(part)
		// Headers that were taken away or put in shift those of B.
		for _, k := range d.kept() {
			if !bytes.Equal(f.of(&p.ext[k.a].raw), f.of(&d.a.H.Ext[k.a].Raw)) {
				e := d.set(extField(k.b, part), f.of(&d.a.H.Ext[k.a].Raw), f.of(&p.ext[k.a].raw))
				d.note("tar-format", fmt.Sprintf("%s written %q", e.Field, e.A.Bytes), fmt.Sprintf("%q", e.B.Bytes), e)
			}
		}
		if part == fieldChecksum && !d.a.H.Global && !bytes.Equal(f.of(&p.raw), f.of(&d.a.raw)) {
			e := d.set(part, f.of(&d.a.raw), f.of(&p.raw))
			d.note("tar-format", fmt.Sprintf("checksum written %q", e.A.Bytes), fmt.Sprintf("%q", e.B.Bytes), e)
		}
	}
	p, err := d.patched()
	if err != nil {
		return err
	}
	if pad := d.a.contentPadding(); !d.a.H.Global && len(pad) == len(p.padding) && !bytes.Equal(pad, p.padding) {
		d.note("tar-padding", fmt.Sprintf("%x behind the content", pad), fmt.Sprintf("%x", p.padding), d.set(fieldPadding, pad, p.padding))
	}
	return nil
}

func (d *pairDiff) patched() (*patched, error) {
	var edits []*proof.Edit
	for i := range d.leaves {
		for k := range d.leaves[i].Edits {
			edits = append(edits, &d.leaves[i].Edits[k])
		}
	}
	return patch(d.b, edits)
}
