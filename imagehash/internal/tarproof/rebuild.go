package tarproof

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/imagehash/internal/rawtar"
	"github.com/retally/retally/internal/proof"
)

// The places and fields of edits. A place is a member's key in B; archive
// stands for what belongs to none.
const (
	archive       = "\x00"
	fieldTrailer  = "trailer"
	fieldRecord   = "record" // the trailer fills the last record, as B's does
	fieldContent  = "content"
	fieldPadding  = "padding"
	fieldSparse   = "sparse map"
	fieldChecksum = "checksum"
	fieldSize     = "size"
	asWritten     = " as written" // of a number whose value has an edit of its own
)

// extField names a part of the i-th extension header of B's member.
func extField(i int, part string) string {
	if part == "" {
		return fmt.Sprintf("extension header %d", i)
	}
	return fmt.Sprintf("extension header %d %s", i, part)
}

// splitExt is the reverse of extField.
func splitExt(field string) (i int, part string, ok bool) {
	rest, ok := strings.CutPrefix(field, "extension header ")
	if !ok {
		return 0, "", false
	}
	number, part, _ := strings.Cut(rest, " ")
	i, err := strconv.Atoi(number)
	return i, part, err == nil && i >= 0
}

const recordPart = "record "

// field is a part of the header block.
type field struct {
	name     string
	from, to int
}

// headerFields are those of POSIX.1-1988, section 10.1.1, in their order. The
// last ones are split as GNU tar uses them.
var headerFields = [...]field{
	{"name", 0, 100},
	{"mode", 100, 108},
	{"uid", 108, 116},
	{"gid", 116, 124},
	{fieldSize, 124, 136},
	{"mtime", 136, 148},
	{fieldChecksum, 148, 156},
	{"type", 156, 157},
	{"link", 157, 257},
	{"magic", 257, 265},
	{"uname", 265, 297},
	{"gname", 297, 329},
	{"major", 329, 337},
	{"minor", 337, 345},
	{"prefix", 345, 386},
	{"prefix, sparse map", 386, 495},
	{"prefix, end", 495, 500},
	{"rest", 500, 512},
}

func fieldOf(name string) (field, bool) {
	for _, f := range headerFields {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

func (f field) of(raw *[rawtar.BlockSize]byte) []byte { return raw[f.from:f.to] }

// Rebuild writes B with the edits applied. It knows nothing of A. The error is
// a *proof.Unfit, or one of fetching content.
func Rebuild(out *proof.Out, b *Index, edits []proof.Edit) error {
	if b.unkept {
		return proof.Unfitf("what stands behind the last member of B is too long to be kept")
	}
	r := &rebuilder{b: b, byKey: map[string][]*proof.Edit{}}
	for i := range edits {
		r.note(&edits[i])
	}
	steps, err := r.steps()
	if err != nil {
		return err
	}
	for _, s := range steps {
		p := s.put
		if p == nil {
			if p, err = patch(s.m, r.byKey[s.m.Key]); err != nil {
				return err
			}
		}
		if err := p.write(out); err != nil {
			return err
		}
	}
	return r.trailer(out)
}

type rebuilder struct {
	b       *Index
	byKey   map[string][]*proof.Edit // of members that stay
	inserts []*proof.Edit            // in A's order
	order   *proof.Edit
	tail    *proof.Edit
	filled  bool // the trailer fills a record
	twice   bool
}

func (r *rebuilder) note(e *proof.Edit) {
	switch {
	case e.Place == archive && e.Op == proof.Order:
		r.twice = r.twice || r.order != nil
		r.order = e
	case e.Place == archive && e.Op == proof.Derive && e.Field == fieldRecord:
		r.filled = true
	case e.Place == archive && e.Op == proof.Set && e.Field == fieldTrailer:
		r.twice = r.twice || r.tail != nil
		r.tail = e
	case e.Op == proof.Insert && (e.Field == "" || e.Field == fieldContent || e.Field == fieldPadding):
		r.inserts = append(r.inserts, e)
	default:
		r.byKey[e.Place] = append(r.byKey[e.Place], e)
	}
}

// step is a member of B, or one that is put in.
type step struct {
	m   *Member
	put *patched
}

func (r *rebuilder) steps() ([]step, error) {
	if r.twice {
		return nil, proof.Unfitf("two edits of one place")
	}
	var list []step
	known := 0
	for _, m := range r.b.Members {
		edits := r.byKey[m.Key]
		if len(edits) > 0 {
			known++
		}
		if len(edits) > 0 && edits[0].Op == proof.Remove && edits[0].Field == "" {
			if len(edits) > 1 {
				return nil, proof.Unfitf("%s: a member is taken away and changed", m.Place)
			}
			if !bytes.Equal(edits[0].B.Bytes, m.headers()) {
				return nil, proof.Unfitf("%s: B has another member of this name", m.Place)
			}
			continue
		}
		list = append(list, step{m: m})
	}
	if known != len(r.byKey) {
		return nil, proof.Unfitf("an edit of a member that B does not have")
	}
	var err error
	if r.order != nil {
		if list, err = proof.Permute(list, r.order.Perm); err != nil {
			return nil, err
		}
	}
	var more []step
	var at []int
	for _, e := range r.inserts {
		switch last := len(more) - 1; {
		case e.Field == "":
			more, at = append(more, step{put: &patched{literal: e.A.Bytes}}), append(at, e.At)
		case last < 0 || at[last] != e.At:
			return nil, proof.Unfitf("%s: content without a member", e.Place)
		case e.Field == fieldContent && e.A.Content != nil && more[last].put.content.Size == 0:
			more[last].put.content = *e.A.Content
			more[last].put.padding = make([]byte, fill(e.A.Content.Size))
		case e.Field == fieldPadding && len(e.A.Bytes) == len(more[last].put.padding):
			more[last].put.padding = e.A.Bytes
		default:
			return nil, proof.Unfitf("%s: content that does not fit", e.Place)
		}
	}
	return proof.Place(list, at, more)
}

// headers is everything of a member but content and padding.
func (m *Member) headers() []byte {
	var b bytes.Buffer
	for i := range m.H.Ext {
		writeExt(&b, m.H.Ext[i].Raw[:], m.H.Ext[i].Data)
	}
	if !m.H.Global {
		b.Write(m.raw[:])
		b.Write(m.H.Sparse)
	}
	return b.Bytes()
}

type byteWriter interface{ Write(p []byte) (int, error) }

func writeExt(w byteWriter, raw, data []byte) {
	w.Write(raw)
	w.Write(data)
	w.Write(make([]byte, fill(int64(len(data)))))
}

// contentPadding is what follows a member's content.
func (m *Member) contentPadding() []byte {
	if m.padding != nil {
		return m.padding
	}
	return make([]byte, fill(m.Content.Size))
}

// zerosPrefix and bytesPrefix are the two forms of a trailer as a value.
const (
	zerosPrefix = "zeros: "
	bytesPrefix = "bytes: "
)

func (t *Index) trailerValue() proof.Value {
	if t.rest == nil {
		return proof.Text(zerosPrefix + strconv.FormatInt(t.trailer, 10))
	}
	return proof.Value{Bytes: append([]byte(bytesPrefix), t.rest...)}
}

// fills reports whether the archive was written in whole records and ends with
// the first one that holds the end marker.
func (t *Index) fills() bool {
	return t.rest == nil && !t.unkept && t.trailer == recordTrailer(t.size)
}

// recordTrailer is the end marker and what fills its record.
func recordTrailer(size int64) int64 {
	n := int64(2 * rawtar.BlockSize)
	return n + (record-(size+n)%record)%record
}

func (r *rebuilder) trailer(out *proof.Out) error {
	value := r.b.trailerValue()
	switch {
	case r.filled && (r.tail != nil || !r.b.fills()):
		return proof.Unfitf("B does not fill its last record")
	case r.filled:
		value = proof.Text(zerosPrefix + strconv.FormatInt(recordTrailer(out.Len()), 10))
	case r.tail != nil && !r.tail.B.Equal(value):
		return proof.Unfitf("B has other bytes behind its last member")
	case r.tail != nil:
		value = r.tail.A
	}
	if rest, ok := bytes.CutPrefix(value.Bytes, []byte(bytesPrefix)); ok {
		out.Write(rest)
		return nil
	}
	text, ok := strings.CutPrefix(string(value.Bytes), zerosPrefix)
	n, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil || n < 0 {
		return proof.Unfitf("no trailer: %s", value)
	}
	zeros := make([]byte, 64<<10)
	for n > 0 {
		k := min(n, int64(len(zeros)))
		out.Write(zeros[:k])
		n -= k
	}
	return nil
}

// patched is a member of B with edits applied.
type patched struct {
	literal []byte // of a member that is put in: all headers
	global  bool
	ext     []ext
	raw     [rawtar.BlockSize]byte
	sparse  []byte
	content proof.Content
	padding []byte
}

type ext struct {
	raw     [rawtar.BlockSize]byte
	data    []byte
	resized bool // the size field follows
	touched bool // the checksum follows
}

func (p *patched) write(out *proof.Out) error {
	if p.literal != nil {
		out.Write(p.literal)
	} else {
		for i := range p.ext {
			writeExt(out, p.ext[i].raw[:], p.ext[i].data)
		}
		if p.global {
			return nil
		}
		out.Write(p.raw[:])
		out.Write(p.sparse)
	}
	if p.literal != nil && p.content == (proof.Content{}) {
		return nil // headers alone
	}
	if err := out.Put(proof.Value{Content: &p.content}); err != nil {
		return err
	}
	out.Write(p.padding)
	return nil
}

// patch applies the edits of one member. Sizes of extension headers and all
// checksums follow from the rest, written as B writes them, before the edits of
// those fields are applied.
func patch(m *Member, edits []*proof.Edit) (*patched, error) {
	p := &patched{global: m.H.Global, raw: m.raw, sparse: m.H.Sparse, content: m.Content, padding: m.contentPadding()}
	p.ext = make([]ext, len(m.H.Ext))
	for i := range m.H.Ext {
		p.ext[i] = ext{raw: m.H.Ext[i].Raw, data: m.H.Ext[i].Data}
	}
	if len(edits) == 0 {
		return p, nil
	}
	x := &patcher{p: p, m: m, removed: map[int]bool{}, records: map[int]*recordEdits{}}
	for pass := range 3 {
		for _, e := range edits {
			if passOf(e.Field) != pass {
				continue
			}
			if err := x.apply(e); err != nil {
				return nil, err
			}
		}
		if pass == 0 {
			if err := x.applyRecords(); err != nil {
				return nil, err
			}
		}
		x.follow(pass)
	}
	return p, x.assemble()
}

// passOf orders the edits: the way that a number is written behind its value,
// sizes of extension headers behind their data, checksums last.
func passOf(fieldName string) int {
	_, part, inExt := splitExt(fieldName)
	switch {
	case fieldName == fieldChecksum || inExt && part == fieldChecksum:
		return 2
	case inExt && part == fieldSize, strings.HasSuffix(fieldName, asWritten):
		return 1
	}
	return 0
}

type patcher struct {
	p       *patched
	m       *Member
	touched bool
	removed map[int]bool
	insert  []*proof.Edit
	records map[int]*recordEdits
}

func (x *patcher) unfit(e *proof.Edit, format string, args ...any) error {
	return proof.Unfitf("%s, %s: %s", x.m.Place, e.Field, fmt.Sprintf(format, args...))
}

func (x *patcher) differs(e *proof.Edit) error { return x.unfit(e, "B has another value") }

func (x *patcher) apply(e *proof.Edit) error {
	if i, part, ok := splitExt(e.Field); ok {
		return x.applyExt(e, i, part)
	}
	if e.Op != proof.Set || x.p.global {
		return x.unfit(e, "an edit that this format does not know")
	}
	switch e.Field {
	case fieldContent:
		if !e.B.Equal(proof.Value{Content: &x.p.content}) || e.A.Content == nil {
			return x.differs(e)
		}
		x.p.content = *e.A.Content
		x.p.padding = make([]byte, fill(x.p.content.Size))
	case fieldPadding:
		if !bytes.Equal(e.B.Bytes, x.p.padding) || len(e.A.Bytes) != len(x.p.padding) {
			return x.differs(e)
		}
		x.p.padding = e.A.Bytes
	case fieldSparse:
		if !bytes.Equal(e.B.Bytes, x.p.sparse) || len(e.A.Bytes)%rawtar.BlockSize != 0 {
			return x.differs(e)
		}
		x.p.sparse = e.A.Bytes
	default:
		f, ok := fieldOf(strings.TrimSuffix(e.Field, asWritten))
		if !ok || !bytes.Equal(e.B.Bytes, f.of(&x.p.raw)) || len(e.A.Bytes) != f.to-f.from {
			return x.differs(e)
		}
		copy(f.of(&x.p.raw), e.A.Bytes)
		x.touched = true
	}
	return nil
}

func (x *patcher) applyExt(e *proof.Edit, i int, part string) error {
	if e.Op == proof.Insert && part == "" {
		x.insert = append(x.insert, e)
		return nil
	}
	if i >= len(x.p.ext) || x.removed[i] {
		return x.unfit(e, "B has no such header")
	}
	h := &x.p.ext[i]
	switch {
	case part == "" && e.Op == proof.Remove:
		if !bytes.Equal(e.B.Bytes, append(slices.Clone(h.raw[:]), h.data...)) {
			return x.differs(e)
		}
		x.removed[i] = true
	case part == "data" && e.Op == proof.Set:
		if !bytes.Equal(e.B.Bytes, h.data) {
			return x.differs(e)
		}
		h.data, h.resized, h.touched = e.A.Bytes, true, true
	case part == "records" && e.Op == proof.Order, strings.HasPrefix(part, recordPart):
		r := x.records[i]
		if r == nil {
			r = newRecordEdits(h.data)
			x.records[i] = r
		}
		if err := r.note(e, part); err != nil {
			return x.unfit(e, "%v", err)
		}
	case e.Op == proof.Set:
		f, ok := fieldOf(part)
		if !ok || !bytes.Equal(e.B.Bytes, f.of(&h.raw)) || len(e.A.Bytes) != f.to-f.from {
			return x.differs(e)
		}
		copy(f.of(&h.raw), e.A.Bytes)
		h.touched = true
	default:
		return x.unfit(e, "an edit that this format does not know")
	}
	return nil
}

func (x *patcher) applyRecords() error {
	for i, r := range x.records {
		data, err := r.apply()
		if err != nil {
			return err
		}
		h := &x.p.ext[i]
		h.data, h.resized, h.touched = data, true, true
	}
	return nil
}

// follow computes what follows from the edits of a pass.
func (x *patcher) follow(pass int) {
	size, _ := fieldOf(fieldSize)
	for i := range x.p.ext {
		h := &x.p.ext[i]
		if pass == 0 && h.resized {
			if field := respell(size.of(&h.raw), int64(len(h.data))); field != nil {
				copy(size.of(&h.raw), field)
			}
		}
		if pass == 1 && h.touched {
			sum(&h.raw)
		}
	}
	if pass == 1 && x.touched {
		sum(&x.p.raw)
	}
}

// assemble takes headers away and puts others in.
func (x *patcher) assemble() error {
	if len(x.removed) == 0 && len(x.insert) == 0 {
		return nil
	}
	var list, more []ext
	var at []int
	for i, h := range x.p.ext {
		if !x.removed[i] {
			list = append(list, h)
		}
	}
	for _, e := range x.insert {
		if len(e.A.Bytes) < rawtar.BlockSize {
			return x.unfit(e, "no header")
		}
		h := ext{data: e.A.Bytes[rawtar.BlockSize:]}
		copy(h.raw[:], e.A.Bytes)
		more, at = append(more, h), append(at, e.At)
	}
	var err error
	x.p.ext, err = proof.Place(list, at, more)
	return err
}

// sum writes the checksum in the way of the one that is there: as many octal
// digits, and whatever stands around them.
func sum(raw *[rawtar.BlockSize]byte) {
	n, _ := rawtar.Checksum(raw)
	if field := respell(raw[148:156], n); field != nil {
		copy(raw[148:156], field)
	}
}

// respell writes a number in the way of another one: octal digits filled up
// with zeros or blanks, or base 256. It returns nil where that is not possible.
func respell(model []byte, n int64) []byte {
	out := slices.Clone(model)
	if n < 0 || len(out) == 0 {
		return nil
	}
	if out[0]&0x80 != 0 {
		if out[0]&0x40 != 0 {
			return nil // negative numbers
		}
		for i := len(out) - 1; i > 0; i-- {
			out[i] = byte(n)
			n >>= 8
		}
		if out[0] = 0x80; n != 0 {
			return nil
		}
		return out
	}
	from := 0
	for from < len(out) && out[from] == ' ' {
		from++
	}
	end := from
	for end < len(out) && out[end] >= '0' && out[end] <= '7' {
		end++
	}
	if end == from {
		return nil
	}
	digits := strconv.FormatInt(n, 8)
	if len(digits) > end {
		return nil
	}
	pad := byte('0')
	if from > 0 {
		pad = ' '
	}
	if pad == '0' && len(digits) > end-from {
		return nil
	}
	for i := range end {
		out[i] = pad
	}
	copy(out[end-len(digits):end], digits)
	return out
}

// recordEdits are the changes of one pax extension header.
type recordEdits struct {
	list    []rawtar.Record
	usual   bool           // list is all of B's header
	where   map[string]int // in list
	set     map[string]proof.Value
	removed map[string]bool
	perm    []int
	added   map[string]bool
	more    []rawtar.Record
	at      []int
}

func newRecordEdits(data []byte) *recordEdits {
	r := &recordEdits{where: map[string]int{}, set: map[string]proof.Value{}, removed: map[string]bool{}, added: map[string]bool{}}
	r.list, r.usual = records(data)
	for i, rec := range r.list {
		r.where[rec.Key] = i
	}
	return r
}

func (r *recordEdits) note(e *proof.Edit, part string) error {
	if !r.usual {
		return errors.New("the records of B are not written in the usual way")
	}
	if e.Op == proof.Order {
		if r.perm != nil {
			return errors.New("two orders")
		}
		r.perm = e.Perm
		return nil
	}
	key := strings.TrimPrefix(part, recordPart)
	i, has := r.where[key]
	_, set := r.set[key]
	switch {
	case e.Op == proof.Insert && !has && !r.added[key]:
		r.added[key] = true
		r.more, r.at = append(r.more, rawtar.Record{Key: key, Value: string(e.A.Bytes)}), append(r.at, e.At)
	case !has || r.list[i].Value != string(e.B.Bytes) || set || r.removed[key]:
		return errors.New("the record of B has another value")
	case e.Op == proof.Set:
		r.set[key] = e.A
	case e.Op == proof.Remove:
		r.removed[key] = true
	default:
		return errors.New("an edit that this format does not know")
	}
	return nil
}

func (r *recordEdits) apply() ([]byte, error) {
	var kept []rawtar.Record
	for _, rec := range r.list {
		if v, ok := r.set[rec.Key]; ok {
			rec.Value = string(v.Bytes)
		}
		if !r.removed[rec.Key] {
			kept = append(kept, rec)
		}
	}
	var err error
	if r.perm != nil {
		if kept, err = proof.Permute(kept, r.perm); err != nil {
			return nil, err
		}
	}
	if kept, err = proof.Place(kept, r.at, r.more); err != nil {
		return nil, err
	}
	return encode(kept), nil
}

// records reads pax records that are written in the usual way: the length
// without leading zeros, no key twice, nothing else.
func records(data []byte) ([]rawtar.Record, bool) {
	list, err := rawtar.ParseRecords(data)
	if err != nil || !bytes.Equal(encode(list), data) {
		return nil, false
	}
	seen := map[string]bool{}
	for _, r := range list {
		if seen[r.Key] {
			return nil, false
		}
		seen[r.Key] = true
	}
	return list, true
}

// encode writes pax records (POSIX.1-2001, pax Extended Header).
func encode(list []rawtar.Record) []byte {
	var b bytes.Buffer
	for _, r := range list {
		n := len(r.Key) + len(r.Value) + 3 // blank, equals sign, line feed
		total := n + len(strconv.Itoa(n))
		if len(strconv.Itoa(total)) > len(strconv.Itoa(n)) {
			total++
		}
		fmt.Fprintf(&b, "%d %s=%s\n", total, r.Key, r.Value)
	}
	return b.Bytes()
}
