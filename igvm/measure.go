package igvm

import (
	"context"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/gctx"
	"github.com/retally/retally/trace"
)

// Measurement is the value that a guest started from the file has on one
// platform: the launch digest of SEV-SNP, the MRTD of TDX.
type Measurement struct {
	Platform Platform
	Digest   digest.Digest // SHA-384
	Trace    trace.Trace
	// Notes say what a reader of the value must know.
	Notes []string
}

// Measure computes the value of a platform, SNP or TDX. A file with a header
// that is not known here is refused: what it adds is not known either.
func (f *File) Measure(ctx context.Context, p Platform) (*Measurement, error) {
	mask, ok := f.Mask(p)
	if !ok {
		return nil, f.fault(f.start, "platforms", fmt.Sprint(f.names()), p.String(), ErrFormat)
	}
	w := &walk{file: f, mask: mask, areas: map[uint32]area{}, page: make([]byte, pageSize)}
	w.m.Platform = p
	w.m.Trace = trace.Trace{Fold: trace.GCTX, Algorithm: digest.SHA384}
	switch p {
	case SNP:
		w.to = &snp{}
	case TDX:
		w.m.Trace.Fold = trace.Running
		w.to = newTDX()
	default:
		return nil, f.fault(f.start, "platform", p.String(), "SEV-SNP or TDX, which measure the guest's memory", ErrUnknown)
	}
	policy := false
	for h := range f.Headers() {
		if h.Index%1024 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !h.Known {
			return nil, f.fault(h.Offset, "type of the variable header", fmt.Sprintf("%#x, which a loader may pass over", uint32(h.Type)), "types that are known here", ErrUnknown)
		}
		if !h.For(mask) {
			continue
		}
		policy = policy || h.Type == GuestPolicy
		if h.Type == RelocatableRegion || h.Type == PageTableRegion {
			w.note("the file has regions that a loader may move; the value is that of the addresses in the file")
		}
		if err := w.directive(&h); err != nil {
			return nil, err
		}
	}
	w.flush()
	if p == SNP && !policy {
		w.note("the file has no guest policy for SEV-SNP: the crate igvm does not measure such a file")
	}
	if w.unmeasured > 0 {
		w.note(fmt.Sprintf("contents of %d pages are loaded from the file without being measured", w.unmeasured))
	}
	var err error
	if w.m.Digest, err = w.m.Trace.Compute(); err != nil {
		return nil, err
	}
	return &w.m, nil
}

func (f *File) names() (names []string) {
	for _, p := range f.Platforms {
		names = append(names, p.Platform.String())
	}
	return names
}

// pageKind is how a page is added.
type pageKind string

const (
	normal     pageKind = "measured"
	zeroPage   pageKind = "measured, zeros"
	unmeasured pageKind = "unmeasured"
	secrets    pageKind = "secrets"
	cpuid      pageKind = "CPUID"
	registers  pageKind = "registers"
)

// platform extends a launch measurement by a page. data has the page's bytes
// where they are measured.
type platform interface {
	page(kind pageKind, address uint64, data []byte)
	sum() digest.Digest
}

// area is a declared parameter area; contents tells that it begins with bytes
// of the file.
type area struct {
	size     uint64
	contents bool
}

// walk goes through the directives of one platform. Neighboring pages of one
// kind become one event.
type walk struct {
	file       *File
	mask       uint32
	to         platform
	areas      map[uint32]area
	m          Measurement
	page       []byte
	unmeasured int

	kind       pageKind
	first, end uint64
	from       trace.Origin
	open       bool
}

func (w *walk) note(s string) {
	for _, n := range w.m.Notes {
		if n == s {
			return
		}
	}
	w.m.Notes = append(w.m.Notes, s)
}

func (w *walk) directive(h *Header) error {
	switch h.Type {
	case ParameterArea:
		w.areas[h.u32(8)] = area{h.u64(0), h.u32(12) != 0}
	case PageData:
		return w.pageData(h)
	case ParameterInsert:
		from := w.areas[h.u32(12)]
		if from.contents {
			w.unmeasured += int(from.size / pageSize)
		}
		for at := uint64(0); at < from.size; at += pageSize {
			w.add(unmeasured, h.u64(0)+at, nil, trace.Origin{Size: -1})
		}
	case VPContext:
		if w.m.Platform == SNP {
			w.flush() // each CPU's registers are an event
			return w.contents(registers, h.u64(0), int64(h.u32(12)))
		}
	}
	return nil
}

// pageData adds a page as the platform does. A shared page is not part of the
// launch; secrets and CPUID pages are filled by the secure processor, on TDX
// they are pages like others.
func (w *walk) pageData(h *Header) error {
	address, offset, flags, typ := h.u64(0), int64(h.u32(12)), h.u32(16), h.u16(20)
	if flags&flagShared != 0 {
		if offset != 0 {
			w.unmeasured++
		}
		return nil
	}
	if w.m.Platform == SNP && typ != dataNormal {
		kind := cpuid
		if typ == dataSecrets {
			kind = secrets
		}
		w.add(kind, address, nil, trace.Origin{Size: -1})
		return nil
	}
	switch {
	case flags&flagUnmeasured != 0:
		if offset != 0 {
			w.unmeasured++
		}
		w.add(unmeasured, address, nil, trace.Origin{Size: -1})
	case offset == 0:
		clear(w.page)
		w.add(zeroPage, address, w.page, trace.Origin{Size: -1})
	default:
		return w.contents(normal, address, offset)
	}
	return nil
}

func (w *walk) contents(kind pageKind, address uint64, offset int64) error {
	if err := w.file.read(w.page, offset); err != nil {
		return err
	}
	w.add(kind, address, w.page, trace.Origin{Input: w.file.Name, Offset: offset, Size: pageSize})
	return nil
}

// add adds a page and begins a new event where it does not continue the last
// one, in the guest and in the file.
func (w *walk) add(kind pageKind, address uint64, data []byte, from trace.Origin) {
	follows := w.open && w.kind == kind && w.end == address && kind != registers &&
		(from.Size < 0 && w.from.Size < 0 || from.Size > 0 && w.from.Offset+w.from.Size == from.Offset)
	if !follows {
		w.flush()
		w.kind, w.first, w.from, w.open = kind, address, from, true
	} else if from.Size > 0 {
		w.from.Size += from.Size
	}
	w.end = address + pageSize
	w.to.page(kind, address, data)
}

func (w *walk) flush() {
	if !w.open {
		return
	}
	label := fmt.Sprintf("pages %#x to %#x, %s", w.first, w.end, w.kind)
	if w.end-w.first == pageSize {
		label = fmt.Sprintf("page %#x, %s", w.first, w.kind)
	}
	w.m.Trace.Add(label, w.to.sum(), w.from)
	w.open = false
}

// snp is the launch digest of SEV-SNP.
type snp struct{ ld gctx.State }

func (s *snp) page(kind pageKind, address uint64, data []byte) {
	var sum [sha512.Size384]byte
	if data != nil {
		sum = sha512.Sum384(data)
	}
	typ := gctx.Normal
	switch kind {
	case unmeasured:
		typ = gctx.Unmeasured
	case secrets:
		typ = gctx.Secrets
	case cpuid:
		typ = gctx.CPUID
	case registers:
		typ = gctx.VMSA
	}
	s.ld.Update(typ, &sum, address)
}

func (s *snp) sum() digest.Digest {
	d, _ := digest.FromBytes(digest.SHA384, s.ld[:]) // of the right length by its type
	return d
}

// tdx is MRTD: TDH.MEM.PAGE.ADD of every page, TDH.MR.EXTEND of the measured
// ones in pieces of 256 bytes (Intel TDX Module ABI).
type tdx struct {
	hash     hash.Hash
	add, ext [128]byte
}

const extendSize = 256

func newTDX() *tdx {
	t := &tdx{hash: sha512.New384()}
	copy(t.add[:], "MEM.PAGE.ADD")
	copy(t.ext[:], "MR.EXTEND")
	return t
}

func (t *tdx) page(_ pageKind, address uint64, data []byte) {
	binary.LittleEndian.PutUint64(t.add[16:], address)
	t.hash.Write(t.add[:])
	for at := 0; at < len(data); at += extendSize {
		binary.LittleEndian.PutUint64(t.ext[16:], address+uint64(at))
		t.hash.Write(t.ext[:])
		t.hash.Write(data[at : at+extendSize])
	}
}

func (t *tdx) sum() digest.Digest { return digest.FromHash(digest.SHA384, t.hash) }
