package imagehash

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/retally/retally/imagehash/internal/gunzip"
	"github.com/retally/retally/imagehash/internal/recompress"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/proof"
)

// layer compares two layers whose blobs differ: first the tar inside, then the
// way it is compressed. Without manifests the packaging does not matter.
func (x *differ) layer(object []string, a, b diffLayer, packaging bool) error {
	limits := x.opts.Limits.orDefault()
	if a.diffID != b.diffID {
		if err := x.content(object, a, b, limits); err != nil {
			return err
		}
	}
	switch {
	case !packaging:
		return nil
	case a.packing != b.packing:
		return x.format(object, a, b, limits)
	case a.packing == packPlain:
		return nil
	}
	return x.packing(object, a, b, limits)
}

// gzipForm is a gzip file's header and the recipe of its deflate stream.
type gzipForm struct {
	header  gunzip.Header
	raw     []byte // of the header
	members int
}

// maxGzipHeader bounds a gzip header whose bytes are compared.
const maxGzipHeader = 1 << 20

func (l diffLayer) gzipForm(ctx context.Context) (f gzipForm, err error) {
	r, err := l.open(ctx)
	if err != nil {
		return f, err
	}
	defer r.Close()
	head := &headKeeper{r: &hashingReader{ctx: ctx, r: r}}
	z := gunzip.NewReader(head)
	_, err = io.Copy(io.Discard, struct{ io.Reader }{z})
	f = gzipForm{header: z.First(), members: z.Members()}
	if f.header.Size <= len(head.kept) {
		f.raw = head.kept[:f.header.Size]
	}
	return f, err
}

// headKeeper keeps the beginning of what is read.
type headKeeper struct {
	r    io.Reader
	kept []byte
}

func (h *headKeeper) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	if room := maxGzipHeader - len(h.kept); room > 0 {
		h.kept = append(h.kept, p[:min(n, room)]...)
	}
	return n, err
}

// packing compares two blobs of the same format.
//
// A's blob is its header, which is made of B's and the named differences, and
// the compressed tar. The latter is proved where it is B's own, where A's
// compressor is known (it makes A's blob of A's tar, which was tried), and where
// both hold the same tar, so that only the compression can differ.
func (x *differ) packing(object []string, a, b diffLayer, limits Limits) error {
	place := append(append([]string{}, object...), "compression")
	ra, err := x.identify(a, limits)
	if err != nil {
		return err
	}
	rb, err := x.identify(b, limits)
	if err != nil {
		return err
	}
	sameTar := a.diffID == b.diffID
	sameBody := ra.Known() && ra == rb
	header := true
	membersA, membersB := 1, 1
	var leaves []leaf
	if a.packing == packGzip {
		fa, err := a.gzipForm(x.ctx)
		if err != nil {
			return err
		}
		fb, err := b.gzipForm(x.ctx)
		if err != nil {
			return err
		}
		if !sameBody && sameTar && fa.members == 1 && fb.members == 1 {
			if sameBody, err = x.sameTail(a, fa.header.Size, b, fb.header.Size); err != nil {
				return err
			}
		}
		membersA, membersB = fa.members, fb.members
		if leaves, header, err = compareGzipHeaders(fa, fb, ra, sameBody); err != nil {
			return err
		}
	}
	proved := header
	var ta, tb string
	if !sameBody {
		if ta, err = a.compressorText(x.ctx, ra); err != nil {
			return err
		}
		if tb, err = b.compressorText(x.ctx, rb); err != nil {
			return err
		}
		if membersA != membersB {
			// A known compressor makes one, which is worth a word here.
			ta, tb = withMembers(ta, ra, membersA), withMembers(tb, rb, membersB)
		}
	}
	switch {
	case sameBody:
	case ra.Known() && rb.Known():
		kind := "compression-level"
		if ra.Implementation != rb.Implementation {
			kind = "compression-implementation"
		}
		leaves = append(leaves, leaf{kind: kind, a: ta, b: tb, sameTar: sameTar})
	case sameTar:
		// The blob's own hash stands for its bytes: they hold the same tar.
		leaves = append(leaves, leaf{
			kind: "compression", a: ta + ", blob " + a.digest.String(), b: tb + ", blob " + b.digest.String(),
			note: "the same tar, compressed with another level or implementation", sameTar: true,
		})
		proved = true
	case ra.Known():
		leaves = append(leaves, leaf{kind: "compression", a: ta, b: tb, note: "b's compressor is none that is known: they differ"})
	case rb.Known():
		leaves = append(leaves, leaf{kind: "compression", a: ta, b: tb, note: "a's compressor is none that is known: they differ"})
		fallthrough
	default:
		if !rb.Known() && ta != tb {
			leaves = append(leaves, leaf{kind: "compression", a: ta, b: tb, note: "neither compressor is known, and what can be seen of them differs"})
		}
		proved = false
		x.notes = append(x.notes, fmt.Sprintf("%s: the compressed form of a was not made again, its compressor is not known; what is proved is proved up to the diffID", object[len(object)-1]))
	}
	x.add(place, leaves...)
	x.settle(place, proved)
	return nil
}

// format names another format of compression. It is proved if A is not
// compressed at all, if the tars are equal, or if A's compressor is known.
func (x *differ) format(object []string, a, b diffLayer, limits Limits) error {
	place := append(append([]string{}, object...), "compression")
	l := leaf{kind: "compression-format", a: a.packing.String(), b: b.packing.String(), sameTar: a.diffID == b.diffID}
	proved := a.packing == packPlain || l.sameTar
	if l.sameTar {
		l.note = "the same tar; blob " + a.digest.String() + " and " + b.digest.String()
	} else if !proved {
		r, err := x.identify(a, limits)
		if err != nil {
			return err
		}
		proved, l.note = r.Known(), "a is of "+r.String()
		if a.packing == packGzip && proved {
			f, err := a.gzipForm(x.ctx)
			if err != nil {
				return err
			}
			l.note += ", header " + proof.Value{Bytes: []byte(fmt.Sprintf("%x", f.raw))}.String()
		}
	}
	x.add(place, l)
	x.settle(place, proved)
	return nil
}

func (x *differ) identify(l diffLayer, limits Limits) (recompress.Recipe, error) {
	format := recompress.Gzip
	if l.packing == packZstd {
		format = recompress.Zstd
	}
	return recompress.Identify(x.ctx, format,
		func() (io.ReadCloser, error) { return l.open(x.ctx) },
		func() (io.ReadCloser, error) { return l.plain(x.ctx, limits) })
}

// sameTail compares what follows the gzip headers.
func (x *differ) sameTail(a diffLayer, skipA int, b diffLayer, skipB int) (bool, error) {
	ra, err := a.open(x.ctx)
	if err != nil {
		return false, err
	}
	defer ra.Close()
	rb, err := b.open(x.ctx)
	if err != nil {
		return false, err
	}
	defer rb.Close()
	if _, err := io.CopyN(io.Discard, ra, int64(skipA)); err != nil {
		return false, err
	}
	if _, err := io.CopyN(io.Discard, rb, int64(skipB)); err != nil {
		return false, err
	}
	pa, pb := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		if err := x.ctx.Err(); err != nil {
			return false, err
		}
		na, ea := fill(ra, pa)
		nb, eb := fill(rb, pb)
		if na != nb || string(pa[:na]) != string(pb[:nb]) {
			return false, nil
		}
		switch {
		case ea == io.EOF && eb == io.EOF:
			return true, nil
		case ea != nil && ea != io.EOF:
			return false, ea
		case eb != nil && eb != io.EOF:
			return false, eb
		case ea != nil || eb != nil:
			return false, nil
		}
	}
}

// headerPart is a part of a gzip header (RFC 1952, section 2.3) as an edit
// changes it.
type headerPart struct {
	field, kind string
	number      bool
	get         func(h *gunzip.Header) []byte
	set         func(h *gunzip.Header, v []byte) bool
}

const (
	hasCRC     = 1 << 1
	hasExtra   = 1 << 2
	hasName    = 1 << 3
	hasComment = 1 << 4
)

func headerParts() []headerPart {
	one := func(field, kind string, at func(h *gunzip.Header) *byte) headerPart {
		return headerPart{
			field, kind, true,
			func(h *gunzip.Header) []byte { return []byte{*at(h)} },
			func(h *gunzip.Header, v []byte) bool {
				if len(v) == 1 {
					*at(h) = v[0]
				}
				return len(v) == 1
			},
		}
	}
	return []headerPart{
		{
			"mtime", "gzip-header-mtime", true,
			func(h *gunzip.Header) []byte { return binary.BigEndian.AppendUint32(nil, h.MTime) },
			func(h *gunzip.Header, v []byte) bool {
				if len(v) == 4 {
					h.MTime = binary.BigEndian.Uint32(v)
				}
				return len(v) == 4
			},
		},
		one("OS", "gzip-header-os", func(h *gunzip.Header) *byte { return &h.OS }),
		{
			"name", "gzip-header-name", false,
			func(h *gunzip.Header) []byte {
				if h.Flags&hasName == 0 {
					return []byte("none")
				}
				return fmt.Appendf(nil, "%q", h.Name)
			},
			func(h *gunzip.Header, v []byte) bool {
				if h.Flags &^= hasName; string(v) == "none" {
					h.Name = ""
					return true
				}
				h.Flags |= hasName
				_, err := fmt.Sscanf(string(v), "%q", &h.Name)
				return err == nil
			},
		},
		one("XFL", "gzip-header-xfl", func(h *gunzip.Header) *byte { return &h.XFL }),
		{
			"other", "gzip-header", false,
			func(h *gunzip.Header) []byte {
				return fmt.Appendf(nil, "flags %#x, extra %q, comment %q", h.Flags&^hasName, h.Extra, h.Comment)
			},
			func(h *gunzip.Header, v []byte) bool {
				var flags byte
				var extra, comment string
				if _, err := fmt.Sscanf(string(v), "flags %v, extra %q, comment %q", &flags, &extra, &comment); err != nil {
					return false
				}
				h.Flags, h.Extra, h.Comment = h.Flags&hasName|flags, []byte(extra), comment
				return true
			},
		},
	}
}

// encodeHeader writes a gzip header.
func encodeHeader(h *gunzip.Header) []byte {
	out := []byte{0x1f, 0x8b, 8, h.Flags}
	out = binary.LittleEndian.AppendUint32(out, h.MTime)
	out = append(out, h.XFL, h.OS)
	if h.Flags&hasExtra != 0 {
		out = binary.LittleEndian.AppendUint16(out, uint16(len(h.Extra)))
		out = append(out, h.Extra...)
	}
	if h.Flags&hasName != 0 {
		out = append(append(out, h.Name...), 0)
	}
	if h.Flags&hasComment != 0 {
		out = append(append(out, h.Comment...), 0)
	}
	if h.Flags&hasCRC != 0 {
		out = binary.LittleEndian.AppendUint16(out, uint16(crc32.ChecksumIEEE(out)))
	}
	return out
}

// rebuildHeader applies edits to B's header.
func rebuildHeader(b gunzip.Header, edits []proof.Edit) ([]byte, error) {
	for _, e := range edits {
		known := false
		for _, p := range headerParts() {
			if p.field != e.Field {
				continue
			}
			known = true
			if e.Op != proof.Set || string(p.get(&b)) != string(e.B.Bytes) || !p.set(&b, e.A.Bytes) {
				return nil, proof.Unfitf("the %s of a gzip header is another one", e.Field)
			}
		}
		if !known {
			return nil, proof.Unfitf("a gzip header has no %q", e.Field)
		}
	}
	return encodeHeader(&b), nil
}

// xflOf is the byte in which compressors note their level: 2 for the best, 4
// for the fastest (RFC 1952, section 2.3.1; zlib 1.2.11, deflate.c; Go,
// compress/gzip).
func xflOf(r recompress.Recipe) byte {
	switch {
	case r.Level == 9:
		return 2
	case r.Level == 1:
		return 4
	}
	return 0
}

// compareGzipHeaders names the differences of two headers and makes A's again of
// B's and them. XFL follows from the level where A's compressor is known and it
// keeps to the rule.
func compareGzipHeaders(a, b gzipForm, ra recompress.Recipe, sameBody bool) (leaves []leaf, proved bool, err error) {
	from := b.header
	if !sameBody && ra.Known() && a.header.XFL == xflOf(ra) {
		from.XFL = xflOf(ra) // what the named level gives
	}
	var edits []proof.Edit
	for _, p := range headerParts() {
		va, vb := p.get(&a.header), p.get(&from)
		if string(va) == string(vb) {
			continue
		}
		e := proof.Edit{Field: p.field, Op: proof.Set, A: proof.Value{Bytes: va}, B: proof.Value{Bytes: vb}}
		edits = append(edits, e)
		ta, tb := e.A.String(), e.B.String()
		if p.number {
			ta, tb = number(va), number(vb)
		}
		leaves = append(leaves, leaf{kind: p.kind, a: ta, b: tb})
	}
	if a.raw == nil {
		return leaves, false, nil
	}
	v, err := proof.Check(digest.SHA256.Sum(a.raw), edits, func(edits []proof.Edit) (digest.Digest, error) {
		out, err := rebuildHeader(from, edits)
		return digest.SHA256.Sum(out), err
	})
	return leaves, v.Proved, err
}

// number shows a byte as a number, a time as docker's tools show it.
func number(p []byte) string {
	if len(p) == 4 {
		return fmt.Sprintf("%#x", binary.BigEndian.Uint32(p))
	}
	return fmt.Sprint(p[0])
}
