package tdxmeasure

import (
	"context"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/trace"
)

// PageOrder is the order in which a hypervisor adds and measures the pages of
// a section.
type PageOrder string

// The orders that hypervisors use.
const (
	// SinglePass adds and measures page by page (QEMU 9.0 and newer).
	SinglePass PageOrder = "single-pass"
	// TwoPass adds all pages of a section, then measures them (the TDX
	// branches of QEMU 8).
	TwoPass PageOrder = "two-pass"
	// RawExtend adds all pages of a section, then measures as many bytes as
	// the file has, and adds pages with PAGE.AUG too (Contrast's tool).
	RawExtend PageOrder = "raw-extend"
)

// ParsePageOrder reads an order as flags, configurations and profiles write it;
// "single" is short for "single-pass".
func ParsePageOrder(text string) (PageOrder, error) {
	switch o := PageOrder(text); o {
	case "single":
		return SinglePass, nil
	case SinglePass, TwoPass, RawExtend:
		return o, nil
	default:
		return "", fmt.Errorf("unknown page order %q", text)
	}
}

// PageOrders lists the words that ParsePageOrder takes.
func PageOrders() []string {
	return []string{string(SinglePass), "single", string(TwoPass), string(RawExtend)}
}

const (
	extendChunk = 256
	// maxMeasuredPages bounds the time a hostile descriptor can take: 4 GiB of
	// memory added before the guest starts. Real firmware adds about 4 MiB.
	maxMeasuredPages = 1 << 20
)

// MRTDOptions are the switches of the MRTD walk.
type MRTDOptions struct {
	// ReadOn measures what follows a section's data in the file when a
	// measured section has less data than memory. Some tools do; the default
	// is to refuse, because no hypervisor loads such a section that way.
	ReadOn bool
}

// MeasureMRTD walks the sections once and returns a Running trace for each
// order asked for, one event a section (TDX Module ABI: TDH.MEM.PAGE.ADD
// hashes 128 bytes with the page's address; TDH.MR.EXTEND hashes 128 bytes
// with the chunk's address and the 256 bytes).
func MeasureMRTD(ctx context.Context, firmware Input, tdvf *ovmf.TDVF, opt MRTDOptions, orders ...PageOrder) ([]Trace, error) {
	walks := make([]mrtdWalk, len(orders))
	for i, o := range orders {
		switch o {
		case SinglePass, TwoPass, RawExtend:
		default:
			return nil, &Error{Input: "page order", Offset: -1, Found: fmt.Sprintf("%q", o), Want: "single-pass, two-pass or raw-extend"}
		}
		walks[i] = mrtdWalk{order: o, hash: sha512.New384(), trace: newTrace(trace.Running)}
	}
	var pages uint64
	for i, s := range tdvf.Sections {
		if s.Attributes&ovmf.AttrAug == 0 || s.Attributes&ovmf.AttrExtend != 0 {
			pages += s.MemorySize / ovmf.PageSize
		}
		if pages > maxMeasuredPages {
			return nil, &ovmf.Error{
				Code: ovmf.SectionTooLarge, Offset: tdvf.FieldOffset(i, ovmf.MemorySizeField), Section: i,
				Found: fmt.Sprintf("memory size %#x", s.MemorySize), Want: "at most 4 GiB of initial memory in all sections",
			}
		}
		data, err := sectionData(ctx, firmware, tdvf, i, opt, orders)
		if err != nil {
			return nil, err
		}
		for w := range walks {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			walks[w].section(s, i, data, firmware.Name)
		}
	}
	traces := make([]Trace, len(walks))
	for i := range walks {
		traces[i] = walks[i].trace
	}
	return traces, nil
}

// sectionData returns the bytes that a measured section hashes: its memory
// size, or its raw size where only RawExtend is asked for.
func sectionData(ctx context.Context, firmware Input, tdvf *ovmf.TDVF, i int, opt MRTDOptions, orders []PageOrder) ([]byte, error) {
	s := tdvf.Sections[i]
	if s.Attributes&ovmf.AttrExtend == 0 {
		return nil, nil
	}
	if _, err := tdvf.Data(firmware.R, i); err != nil {
		return nil, err
	}
	size := uint64(s.RawSize)
	for _, o := range orders {
		if o != RawExtend {
			size = s.MemorySize
		}
	}
	switch {
	case size <= uint64(s.RawSize):
	case !opt.ReadOn:
		return nil, &ovmf.Error{
			Code: ovmf.ExtendBeyondData, Offset: tdvf.FieldOffset(i, ovmf.MemorySizeField), Section: i,
			Found: fmt.Sprintf("%s measures %#x bytes of memory but has %#x bytes of data", s.Type, s.MemorySize, s.RawSize),
			Want:  "as much data as memory", Hint: "some tools read on past the data; the read-on switch does as they do",
		}
	case uint64(s.DataOffset)+size > uint64(tdvf.FileSize):
		return nil, &ovmf.Error{
			Code: ovmf.SectionPastEnd, Offset: int64(s.DataOffset), Section: i,
			Found: fmt.Sprintf("%s, read on to its memory size, ends at %#x", s.Type, uint64(s.DataOffset)+size),
			Want:  fmt.Sprintf("at most the file's size %#x", tdvf.FileSize),
		}
	}
	var b sliceWriter = make([]byte, 0, size)
	err := firmware.copyTo(ctx, &b, int64(s.DataOffset), int64(size))
	return b, err
}

type sliceWriter []byte

func (w *sliceWriter) Write(p []byte) (int, error) {
	*w = append(*w, p...)
	return len(p), nil
}

type mrtdWalk struct {
	order PageOrder
	hash  hash.Hash
	trace Trace
	add   [128]byte
	ext   [128]byte
}

func (w *mrtdWalk) section(s ovmf.Section, index int, data []byte, name string) {
	copy(w.add[:], "MEM.PAGE.ADD")
	copy(w.ext[:], "MR.EXTEND")
	pages := s.MemorySize / ovmf.PageSize
	skipAdd := s.Attributes&ovmf.AttrAug != 0 && w.order != RawExtend
	addPage := func(p uint64) {
		if !skipAdd {
			binary.LittleEndian.PutUint64(w.add[16:], s.MemoryAddress+p*ovmf.PageSize)
			w.hash.Write(w.add[:])
		}
	}
	extend := func(from, to uint64) {
		for o := from; o < to; o += extendChunk {
			binary.LittleEndian.PutUint64(w.ext[16:], s.MemoryAddress+o)
			w.hash.Write(w.ext[:])
			w.hash.Write(data[o:min(o+extendChunk, uint64(len(data)))])
		}
	}
	// EXTEND happens also where PAGE.AUG left the ADD out.
	measured := s.Attributes&ovmf.AttrExtend != 0
	switch {
	case skipAdd && !measured: // added when the guest asks, never measured
	case w.order == SinglePass:
		for p := range pages {
			addPage(p)
			if measured {
				extend(p*ovmf.PageSize, (p+1)*ovmf.PageSize)
			}
		}
	default:
		for p := range pages {
			addPage(p)
		}
		if measured && w.order == RawExtend {
			extend(0, uint64(s.RawSize))
		} else if measured {
			extend(0, pages*ovmf.PageSize)
		}
	}
	from := trace.Origin{Input: name, Size: -1}
	if measured {
		from = trace.Origin{Input: name, Offset: int64(s.DataOffset), Size: int64(len(data))}
	}
	w.trace.Add(fmt.Sprintf("section %d %s at %#x", index, s.Type, s.MemoryAddress), digest.FromHash(digest.SHA384, w.hash), from)
}
