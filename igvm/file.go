package igvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"math/bits"
	"strings"

	"github.com/retally/retally/internal/place"
)

// Faults that callers tell apart with errors.Is.
var (
	// ErrFormat: the file is not what the format says.
	ErrFormat = errors.New("malformed IGVM file")
	// ErrUnknown: the file may be well formed, but what it asks for is not
	// known here, so no measurement of it can be trusted.
	ErrUnknown = errors.New("not known here")
)

// Platform is what a guest runs on.
type Platform uint8

// The platforms of version 1 and 2 of the format.
const (
	Native Platform = 0
	VSM    Platform = 1 // Hyper-V's isolation
	SNP    Platform = 2
	TDX    Platform = 3
	SEV    Platform = 4
	SEVES  Platform = 5
)

// String names the platform.
func (p Platform) String() string {
	switch p {
	case Native:
		return "native"
	case VSM:
		return "VSM"
	case SNP:
		return "SEV-SNP"
	case TDX:
		return "TDX"
	case SEV:
		return "SEV"
	case SEVES:
		return "SEV-ES"
	default:
		return fmt.Sprintf("platform %d", uint8(p))
	}
}

// Type is the type of a variable header.
type Type uint32

// The types of variable headers, by section: platform, initialization,
// directive.
const (
	SupportedPlatform Type = 0x001

	GuestPolicy       Type = 0x101
	RelocatableRegion Type = 0x102
	PageTableRegion   Type = 0x103
	CoRIMDocument     Type = 0x104
	CoRIMSignature    Type = 0x105

	ParameterArea   Type = 0x301
	PageData        Type = 0x302
	ParameterInsert Type = 0x303
	VPContext       Type = 0x304
	RequiredMemory  Type = 0x305
	VPCount         Type = 0x307
	SRAT            Type = 0x308
	MADT            Type = 0x309
	MMIORanges      Type = 0x30a
	SNPIDBlock      Type = 0x30b
	MemoryMap       Type = 0x30c
	ErrorRange      Type = 0x30d
	CommandLine     Type = 0x30e
	SLIT            Type = 0x30f
	PPTT            Type = 0x310
	VBSMeasurement  Type = 0x311
	DeviceTree      Type = 0x312
	EnvironmentInfo Type = 0x313

	// ignorable is set in the type of a header that a loader may pass over.
	ignorable Type = 1 << 31
)

// kind is what is known of a type.
type kind struct {
	name string
	size int
	mask int // offset of the compatibility mask, -1 if there is none
}

func (t Type) kind() (k kind, ok bool) {
	switch t {
	case SupportedPlatform:
		k = kind{"supported platform", 16, 0}
	case GuestPolicy:
		k = kind{"guest policy", 16, 8}
	case RelocatableRegion:
		k = kind{"relocatable region", 48, 0}
	case PageTableRegion:
		k = kind{"page table region", 32, 0}
	case CoRIMDocument:
		k = kind{"CoRIM document", 16, 0}
	case CoRIMSignature:
		k = kind{"CoRIM signature", 16, 0}
	case ParameterArea:
		k = kind{"parameter area", 16, -1}
	case PageData:
		k = kind{"page", 24, 8}
	case ParameterInsert:
		k = kind{"parameter insert", 16, 8}
	case VPContext:
		k = kind{"VP context", 20, 8}
	case RequiredMemory:
		k = kind{"required memory", 24, 8}
	case VPCount:
		k = kind{"parameter: number of VPs", 8, -1}
	case SRAT:
		k = kind{"parameter: ACPI SRAT", 8, -1}
	case MADT:
		k = kind{"parameter: ACPI MADT", 8, -1}
	case MMIORanges:
		k = kind{"parameter: MMIO ranges", 8, -1}
	case SNPIDBlock:
		k = kind{"SNP ID block", 696, 0}
	case MemoryMap:
		k = kind{"parameter: memory map", 8, -1}
	case ErrorRange:
		k = kind{"error range", 16, 8}
	case CommandLine:
		k = kind{"parameter: command line", 8, -1}
	case SLIT:
		k = kind{"parameter: ACPI SLIT", 8, -1}
	case PPTT:
		k = kind{"parameter: ACPI PPTT", 8, -1}
	case VBSMeasurement:
		k = kind{"VBS measurement", 864, 0}
	case DeviceTree:
		k = kind{"parameter: device tree", 8, -1}
	case EnvironmentInfo:
		k = kind{"parameter: environment", 8, -1}
	default:
		return k, false
	}
	return k, true
}

// section is 0 for platform headers, 1 for initialization, 2 for directives,
// -1 for a type of none.
func (t Type) section() int {
	switch t &^= ignorable; {
	case t >= 1 && t <= 0x100:
		return 0
	case t > 0x100 && t <= 0x200:
		return 1
	case t > 0x300 && t <= 0x400:
		return 2
	}
	return -1
}

const (
	fixedSize   = 24
	fixedSizeV2 = 32
	headSize    = 8 // type and length before each header
	pageSize    = 4096
	// maxHeaders bounds the variable headers, which are held in memory: enough
	// for a gigabyte of pages.
	maxHeaders = 8 << 20
	// maxArea bounds the memory that parameter areas and documents take up together.
	maxArea = 1 << 32
)

// File is a parsed file. Its pages stay where they are.
type File struct {
	Name    string
	Size    int64
	Version uint32
	// Platforms are the supported platforms in the order of the file.
	Platforms []SupportedBy

	r       io.ReaderAt
	start   int64 // of the variable headers in the file
	headers []byte
}

// SupportedBy is a supported platform and the bit that stands for it.
type SupportedBy struct {
	Platform Platform
	Mask     uint32
	// HighestVTL is 0, or 2 where a paravisor runs below the guest.
	HighestVTL uint8
	// SharedBoundary is the guest address above which memory is shared, or 0.
	SharedBoundary uint64
}

// Header is one variable header.
type Header struct {
	Index  int
	Offset int64 // of its type in the file
	Type   Type  // as it stands in the file
	Known  bool  // type and size are those of the format
	Mask   uint32
	Masked bool // there is a mask; without one a header is for every platform
	Body   []byte
}

func (h *Header) u16(at int) uint16 { return binary.LittleEndian.Uint16(h.Body[at:]) }
func (h *Header) u32(at int) uint32 { return binary.LittleEndian.Uint32(h.Body[at:]) }
func (h *Header) u64(at int) uint64 { return binary.LittleEndian.Uint64(h.Body[at:]) }

// For reports whether the header counts on a platform, given by its bit.
func (h *Header) For(mask uint32) bool { return !h.Masked || h.Mask&mask == mask }

func (f *File) fault(offset int64, field, found, want string, kind error) *place.Fault {
	return &place.Fault{Input: "IGVM file", Where: place.InFile(f.Name).At(offset), Field: field, Found: found, Want: want, Err: kind}
}

// Parse reads and checks the headers of a file. Faults are a *place.Fault.
func Parse(name string, r io.ReaderAt, size int64) (*File, error) {
	f := &File{Name: name, Size: size, r: r}
	if err := f.readFixed(); err != nil {
		return nil, err
	}
	if err := f.split(); err != nil {
		return nil, err
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *File) readFixed() error {
	if f.Size < fixedSize || f.Size > 1<<32-1 {
		return f.fault(0, "size", fmt.Sprint(f.Size), "24 bytes to 4 GiB", ErrFormat)
	}
	head := make([]byte, min(f.Size, fixedSizeV2))
	if err := f.read(head, 0); err != nil {
		return err
	}
	le := binary.LittleEndian
	if string(head[:4]) != "IGVM" {
		return f.fault(0, "magic", fmt.Sprintf("%q", head[:4]), `"IGVM"`, ErrFormat)
	}
	fixed := int64(fixedSize)
	switch f.Version = le.Uint32(head[4:]); f.Version {
	case 1:
		head = head[:fixedSize]
	case 2:
		fixed = fixedSizeV2
		if f.Size < fixed {
			return f.fault(0, "size", fmt.Sprint(f.Size), "at least 32 bytes in version 2", ErrFormat)
		}
		if arch := le.Uint32(head[24:]); arch != 0 {
			return f.fault(24, "architecture", fmt.Sprint(arch), "0, x86-64", ErrUnknown)
		}
		if page := le.Uint32(head[28:]); page != pageSize {
			return f.fault(28, "page size", fmt.Sprint(page), "4096", ErrUnknown)
		}
	default:
		return f.fault(4, "format version", fmt.Sprint(f.Version), "1 or 2", ErrUnknown)
	}
	if total := int64(le.Uint32(head[16:])); total != f.Size {
		return f.fault(16, "total size", fmt.Sprint(total), fmt.Sprintf("the file's %d", f.Size), ErrFormat)
	}
	length := int64(le.Uint32(head[12:]))
	f.start = int64(le.Uint32(head[8:]))
	switch {
	case f.start < fixed || f.start%8 != 0:
		return f.fault(8, "offset of the variable headers", fmt.Sprint(f.start), fmt.Sprintf("a multiple of 8 from %d on", fixed), ErrFormat)
	case f.start+length > f.Size:
		return f.fault(12, "size of the variable headers", fmt.Sprint(length), fmt.Sprintf("at most %d", f.Size-f.start), ErrFormat)
	case length > maxHeaders:
		return f.fault(12, "size of the variable headers", fmt.Sprint(length), fmt.Sprintf("at most %d", maxHeaders), ErrUnknown)
	}
	f.headers = make([]byte, length)
	if err := f.read(f.headers, f.start); err != nil {
		return err
	}
	sum := le.Uint32(head[20:])
	clear(head[20:24])
	if got := crc32.Update(crc32.ChecksumIEEE(head), crc32.IEEETable, f.headers); got != sum {
		return f.fault(20, "checksum", fmt.Sprintf("%08x", sum), fmt.Sprintf("%08x, that of the headers", got), ErrFormat)
	}
	return nil
}

func (f *File) read(b []byte, offset int64) error {
	n, err := f.r.ReadAt(b, offset)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %s: offset %#x: %w", f.Name, offset+int64(n), err)
}

// split walks the chain of headers and checks their lengths, padding and
// sections.
func (f *File) split() error {
	section := 0
	for at := 0; at < len(f.headers); {
		offset := f.start + int64(at)
		if len(f.headers)-at < headSize {
			return f.fault(offset, "variable header", fmt.Sprintf("%d bytes", len(f.headers)-at), "type and length", ErrFormat)
		}
		typ, length := Type(binary.LittleEndian.Uint32(f.headers[at:])), int64(binary.LittleEndian.Uint32(f.headers[at+4:]))
		end := int64(at) + headSize + (length+7)/8*8
		if end > int64(len(f.headers)) {
			return f.fault(offset+4, "length of the variable header", fmt.Sprint(length), "an end within the headers", ErrFormat)
		}
		for _, b := range f.headers[int64(at)+headSize+length : end] {
			if b != 0 {
				return f.fault(offset+headSize+length, "padding", fmt.Sprintf("%#02x", b), "zeros", ErrFormat)
			}
		}
		s := typ.section()
		switch {
		case s < 0:
			return f.fault(offset, "type of the variable header", fmt.Sprintf("%#x", uint32(typ)), "one of the format", ErrUnknown)
		case s < section:
			return f.fault(offset, "type of the variable header", fmt.Sprintf("%#x after those of a later section", uint32(typ)), "platforms, initialization, directives, in this order", ErrFormat)
		}
		section = s
		k, known := (typ &^ ignorable).kind()
		switch {
		case !known && typ&ignorable == 0:
			return f.fault(offset, "type of the variable header", fmt.Sprintf("%#x", uint32(typ)), "one of the format", ErrUnknown)
		case known && typ&ignorable == 0 && int64(k.size) != length:
			return f.fault(offset+4, "length of the "+k.name, fmt.Sprint(length), fmt.Sprint(k.size), ErrUnknown)
		}
		at = int(end)
	}
	return nil
}

// Headers are the variable headers in the order of the file.
func (f *File) Headers() iter.Seq[Header] {
	return func(yield func(Header) bool) {
		for at, i := 0, 0; at < len(f.headers); i++ {
			typ, length := Type(binary.LittleEndian.Uint32(f.headers[at:])), int(binary.LittleEndian.Uint32(f.headers[at+4:]))
			h := Header{Index: i, Offset: f.start + int64(at), Type: typ, Body: f.headers[at+headSize : at+headSize+length]}
			// A header that may be passed over is not looked into: whoever wrote
			// it expects loaders that do not know it.
			if k, ok := typ.kind(); ok {
				h.Known = true
				if k.mask >= 0 {
					h.Masked, h.Mask = true, h.u32(k.mask)
				}
			}
			if !yield(h) {
				return
			}
			at += headSize + (length+7)/8*8
		}
	}
}

// check holds the headers against each other.
func (f *File) check() error {
	areas := map[uint32]uint64{}
	// What headers refer to is bounded together: each may name the whole file.
	var used uint64
	for h := range f.Headers() {
		if !h.Known {
			continue
		}
		var err error
		switch h.Type {
		case SupportedPlatform:
			err = f.checkPlatform(&h)
		case GuestPolicy:
			if h.u32(12) != 0 {
				err = f.fault(h.Offset+headSize+12, "reserved", fmt.Sprint(h.u32(12)), "0", ErrUnknown)
			}
		case CoRIMDocument, CoRIMSignature:
			used += uint64(h.u32(8))
			err = f.checkData(&h, 4, int64(h.u32(8)))
		case ParameterArea:
			if err = f.checkArea(&h, areas); err == nil {
				used += areas[h.u32(8)]
			}
		case PageData:
			err = f.checkPage(&h)
		case ParameterInsert:
			size, ok := areas[h.u32(12)]
			if !ok || size == inserted {
				err = f.fault(h.Offset+headSize+12, "parameter area", fmt.Sprint(h.u32(12)), "one that is declared before and not inserted yet", ErrFormat)
				break
			}
			areas[h.u32(12)] = inserted
			err = f.checkAddress(&h, 0, size)
		case VPCount, SRAT, MADT, MMIORanges, MemoryMap, CommandLine, SLIT, PPTT, DeviceTree, EnvironmentInfo:
			if size, ok := areas[h.u32(0)]; !ok || size == inserted {
				err = f.fault(h.Offset+headSize, "parameter area", fmt.Sprint(h.u32(0)), "one that is declared before and not inserted yet", ErrFormat)
			}
		case VPContext:
			err = f.checkContext(&h)
		case RequiredMemory:
			err = f.checkAddress(&h, 0, uint64(h.u32(12)))
		case ErrorRange:
			err = f.checkAddress(&h, 0, uint64(h.u32(12)))
		}
		if err == nil && used > maxArea {
			err = f.fault(h.Offset, "parameter areas and documents", fmt.Sprintf("%d bytes with this one", used), "at most 4 GiB", ErrUnknown)
		}
		if err != nil {
			return err
		}
	}
	if len(f.Platforms) == 0 {
		return f.fault(f.start, "platforms", "none", "at least one", ErrFormat)
	}
	return nil
}

// inserted marks a parameter area that must not be used again. No area has
// that size: sizes are whole pages.
const inserted = 1

func (f *File) checkPlatform(h *Header) error {
	p := SupportedBy{Platform: Platform(h.Body[5]), Mask: h.Mask, HighestVTL: h.Body[4], SharedBoundary: h.u64(8)}
	at := h.Offset + headSize
	switch {
	case bits.OnesCount32(p.Mask) != 1:
		return f.fault(at, "compatibility mask", fmt.Sprintf("%#x", p.Mask), "one bit", ErrFormat)
	case p.HighestVTL != 0 && p.HighestVTL != 2:
		return f.fault(at+4, "highest VTL", fmt.Sprint(p.HighestVTL), "0 or 2", ErrUnknown)
	case p.Platform > SEVES:
		return f.fault(at+5, "platform", fmt.Sprint(h.Body[5]), "0 to 5", ErrUnknown)
	case h.u16(6) != 1:
		return f.fault(at+6, "version of the platform", fmt.Sprint(h.u16(6)), "1", ErrUnknown)
	}
	for _, q := range f.Platforms {
		if q.Platform == p.Platform {
			return f.fault(at+5, "platform", p.Platform.String()+" a second time", "each platform once", ErrFormat)
		}
		if q.Mask == p.Mask {
			return f.fault(at, "compatibility mask", fmt.Sprintf("%#x a second time", p.Mask), "a bit for each platform", ErrFormat)
		}
	}
	f.Platforms = append(f.Platforms, p)
	return nil
}

// checkData checks that a file offset leaves room for n bytes behind the
// headers. Offset 0 stands for zeros.
func (f *File) checkData(h *Header, field int, n int64) error {
	offset := int64(h.u32(field))
	if offset != 0 && (offset < f.start+int64(len(f.headers)) || n > f.Size-offset) {
		return f.fault(h.Offset+headSize+int64(field), "file offset", fmt.Sprint(offset), fmt.Sprintf("0, or %d to %d for %d bytes", f.start+int64(len(f.headers)), max(0, f.Size-n), n), ErrFormat)
	}
	return nil
}

func (f *File) checkAddress(h *Header, field int, size uint64) error {
	address := h.u64(field)
	if address%pageSize != 0 || size%pageSize != 0 || address+size < address {
		return f.fault(h.Offset+headSize+int64(field), "address and size", fmt.Sprintf("%#x, %#x", address, size), "multiples of 4096 that end below 2^64", ErrFormat)
	}
	return nil
}

func (f *File) checkArea(h *Header, areas map[uint32]uint64) error {
	size, index := h.u64(0), h.u32(8)
	if size%pageSize != 0 || size > maxArea {
		return f.fault(h.Offset+headSize, "size of the parameter area", fmt.Sprint(size), "a multiple of 4096 up to 4 GiB", ErrFormat)
	}
	if _, ok := areas[index]; ok {
		return f.fault(h.Offset+headSize+8, "parameter area", fmt.Sprintf("%d a second time", index), "each index once", ErrFormat)
	}
	areas[index] = size
	return f.checkData(h, 12, int64(size))
}

// Flags and types of a page.
const (
	flag2MiB       = 1 << 0
	flagUnmeasured = 1 << 1
	flagShared     = 1 << 2
	flagsKnown     = flag2MiB | flagUnmeasured | flagShared

	dataNormal  = 0
	dataSecrets = 1
	dataCPUID   = 2
	dataCPUIDXF = 3
)

func (f *File) checkPage(h *Header) error {
	at := h.Offset + headSize
	switch flags, typ := h.u32(16), h.u16(20); {
	case flags&^flagsKnown != 0:
		return f.fault(at+16, "flags of the page", fmt.Sprintf("%#x", flags), "bits 0 to 2", ErrUnknown)
	case flags&flag2MiB != 0:
		return f.fault(at+16, "flags of the page", "a page of 2 MiB", "pages of 4096 bytes", ErrUnknown)
	case typ > dataCPUIDXF:
		return f.fault(at+20, "type of the page's data", fmt.Sprint(typ), "0 to 3", ErrUnknown)
	case h.u16(22) != 0:
		return f.fault(at+22, "reserved", fmt.Sprint(h.u16(22)), "0", ErrUnknown)
	}
	if err := f.checkAddress(h, 0, pageSize); err != nil {
		return err
	}
	return f.checkData(h, 12, pageSize)
}

// checkContext: a context is for one platform, and TDX has none.
func (f *File) checkContext(h *Header) error {
	at := h.Offset + headSize
	p, ok := f.platformOf(h.Mask)
	switch {
	case !ok:
		return f.fault(at+8, "compatibility mask of the VP context", fmt.Sprintf("%#x", h.Mask), "that of one platform", ErrFormat)
	case p == TDX:
		return f.fault(at+8, "VP context", "one for TDX", "none: a TDX guest starts from its reset state", ErrFormat)
	case h.u32(12) == 0:
		return f.fault(at+12, "file offset of the VP context", "0", "where its registers are", ErrFormat)
	}
	if err := f.checkAddress(h, 0, 0); err != nil {
		return err
	}
	n := int64(pageSize)
	if p == VSM {
		n = 4 // a count of registers
	}
	return f.checkData(h, 12, n)
}

func (f *File) platformOf(mask uint32) (Platform, bool) {
	for _, p := range f.Platforms {
		if p.Mask == mask {
			return p.Platform, true
		}
	}
	return 0, false
}

// Mask is the bit of a platform, if the file supports it.
func (f *File) Mask(p Platform) (uint32, bool) {
	for _, q := range f.Platforms {
		if q.Platform == p {
			return q.Mask, true
		}
	}
	return 0, false
}

// Supported names the platforms of a mask.
func (f *File) supported(h *Header) string {
	if !h.Masked {
		return "every platform"
	}
	var names []string
	for _, p := range f.Platforms {
		if h.Mask&p.Mask != 0 {
			names = append(names, p.Platform.String())
		}
	}
	if len(names) == 0 {
		return "no platform"
	}
	return strings.Join(names, ", ")
}
