package ovmf

import (
	"encoding/binary"
	"fmt"
	"io"
)

// SectionType is the kind of a TDVF section.
type SectionType uint32

// The section types (TDX Virtual Firmware Design Guide, table 11-3).
const (
	BFV          SectionType = iota // boot firmware volume: the code
	CFV                             // configuration firmware volume: the variable store
	TDHOB                           // where the hypervisor puts the hand-off blocks
	TempMem                         // temporary memory
	PermMem                         // permanent memory
	Payload                         // a payload, such as a kernel
	PayloadParam                    // the payload's parameters
	TDInfo                          // information for the build process
	TDParams                        // parameters
)

var sectionTypes = [...]string{"BFV", "CFV", "TD_HOB", "TempMem", "PermMem", "Payload", "PayloadParam", "TD_INFO", "TD_PARAMS"}

// String names the type as the design guide does.
func (t SectionType) String() string {
	if int64(t) < int64(len(sectionTypes)) {
		return sectionTypes[t]
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Section attributes.
const (
	AttrExtend uint32 = 1 << 0 // MR.EXTEND: the contents are measured into MRTD
	AttrAug    uint32 = 1 << 1 // PAGE.AUG: the pages are added when the guest asks for them
)

// Section is one entry of the TDVF descriptor.
type Section struct {
	DataOffset    uint32      // in the file
	RawSize       uint32      // bytes in the file
	MemoryAddress uint64      // guest physical address, a multiple of 4096
	MemorySize    uint64      // bytes in the guest, a multiple of 4096
	Type          SectionType // what it is
	Attributes    uint32      // AttrExtend, AttrAug
}

// PageSize is the unit in which memory is added to a guest.
const PageSize = 4096

const (
	sectionSize    = 32
	descriptorSize = 16
	// maxSections bounds work that is quadratic in the sections. Real
	// firmware has about six.
	maxSections = 4096
)

// TDVF is the descriptor of the guest's initial memory.
type TDVF struct {
	Offset   int64 // of the descriptor in the file
	FileSize int64
	Sections []Section
}

// ReadTDVF finds and checks the descriptor of a firmware image of the given
// size. The sections' data is not read. Errors are *Error, or of reading.
func ReadTDVF(r io.ReaderAt, size int64) (*TDVF, error) {
	entries, tableErr := ReadTable(r, size)
	for _, e := range entries {
		if e.GUID == TDXMetadataGUID {
			return readDescriptor(r, size, e)
		}
	}
	if tableErr != nil {
		return nil, tableErr
	}
	// The table's own entry is where a reader begins to look.
	err := fail(NoTDXEntry, size-footerEnd-headerSize, TDXMetadataGUID.String(), "no TDX metadata among the %d entries of the table", len(entries))
	err.Hint = "this firmware was built without TDX, or is the CODE half of a pair; measure the unified .fd file"
	return nil, err
}

func readDescriptor(r io.ReaderAt, size int64, e Entry) (*TDVF, error) {
	if len(e.Data) < 4 {
		return nil, fail(BadEntryLength, e.Offset, "at least 4", "TDX metadata entry has %d bytes of data", len(e.Data))
	}
	back := int64(binary.LittleEndian.Uint32(e.Data[len(e.Data)-4:]))
	if back > size || back < descriptorSize {
		return nil, fail(BadDescriptor, e.Offset, fmt.Sprintf("%d to %d", descriptorSize, size),
			"descriptor is %d bytes before the end of the file", back)
	}
	t := &TDVF{Offset: size - back, FileSize: size}
	head := make([]byte, descriptorSize)
	if err := readAt(r, head, t.Offset); err != nil {
		return nil, err
	}
	if string(head[:4]) != "TDVF" {
		return nil, fail(BadDescriptor, t.Offset, `"TDVF"`, "signature %q", head[:4])
	}
	// The length at 4 is not checked: no hypervisor and no other tool reads it.
	if v := binary.LittleEndian.Uint32(head[8:]); v != 1 {
		return nil, fail(BadDescriptor, t.Offset+8, "1", "version %d", v)
	}
	n := int64(binary.LittleEndian.Uint32(head[12:]))
	if limit := min((back-descriptorSize)/sectionSize, maxSections); n > limit {
		return nil, fail(BadSectionCount, t.Offset+12, fmt.Sprintf("at most %d", limit), "%d sections", n)
	}
	raw := make([]byte, n*sectionSize)
	if err := readAt(r, raw, t.Offset+descriptorSize); err != nil {
		return nil, err
	}
	for i := range int(n) {
		s := decodeSection(raw[i*sectionSize:])
		if err := s.check(i, t.Offset+descriptorSize+int64(i)*sectionSize); err != nil {
			return nil, err
		}
		t.Sections = append(t.Sections, s)
	}
	return t, nil
}

func decodeSection(b []byte) Section {
	return Section{
		DataOffset:    binary.LittleEndian.Uint32(b),
		RawSize:       binary.LittleEndian.Uint32(b[4:]),
		MemoryAddress: binary.LittleEndian.Uint64(b[8:]),
		MemorySize:    binary.LittleEndian.Uint64(b[16:]),
		Type:          SectionType(binary.LittleEndian.Uint32(b[24:])),
		Attributes:    binary.LittleEndian.Uint32(b[28:]),
	}
}

// check refuses what no hypervisor would load. Data past the end of the file
// is refused where the data is used: a CODE-only image is still worth
// inspecting.
func (s Section) check(index int, offset int64) error {
	bad := func(at int64, want, format string, args ...any) error {
		return &Error{Code: BadSection, Offset: offset + at, Section: index, Found: fmt.Sprintf(format, args...), Want: want}
	}
	switch {
	case s.MemoryAddress%PageSize != 0:
		return bad(memoryAddressField, "a multiple of 4096", "memory address %#x", s.MemoryAddress)
	case s.MemorySize%PageSize != 0:
		return bad(MemorySizeField, "a multiple of 4096", "memory size %#x", s.MemorySize)
	case s.MemorySize < uint64(s.RawSize):
		return bad(MemorySizeField, fmt.Sprintf("at least the raw size %#x", s.RawSize), "memory size %#x", s.MemorySize)
	case s.MemoryAddress+s.MemorySize < s.MemoryAddress:
		return bad(memoryAddressField, "an end below 2^64", "memory %#x+%#x wraps around", s.MemoryAddress, s.MemorySize)
	}
	return nil
}

// Data returns a reader of the section's raw bytes, or an *Error where the
// file does not have them.
func (t *TDVF) Data(r io.ReaderAt, index int) (*io.SectionReader, error) {
	s := t.Sections[index]
	if end := int64(s.DataOffset) + int64(s.RawSize); end > t.FileSize {
		return nil, &Error{
			Code: SectionPastEnd, Offset: int64(s.DataOffset), Section: index,
			Found: fmt.Sprintf("%s data ends at %#x", s.Type, end),
			Want:  fmt.Sprintf("at most the file's size %#x", t.FileSize),
			Hint:  "a CODE file without its VARS half cannot be measured; take the unified .fd file",
		}
	}
	return io.NewSectionReader(r, int64(s.DataOffset), int64(s.RawSize)), nil
}

// Offsets of fields in a section's entry of the descriptor, for errors.
const (
	memoryAddressField = 8
	// MemorySizeField is the section's size in the guest.
	MemorySizeField = 16
)

// FieldOffset is where a field of a section's entry lies in the file.
func (t *TDVF) FieldOffset(index, field int) int64 {
	return t.Offset + descriptorSize + int64(index)*sectionSize + int64(field)
}

// First returns the index of the first section of a type, or -1.
func (t *TDVF) First(typ SectionType) int {
	for i, s := range t.Sections {
		if s.Type == typ {
			return i
		}
	}
	return -1
}
