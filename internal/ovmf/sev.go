package ovmf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// SEVSectionType is the kind of a section of the SEV metadata.
type SEVSectionType uint32

// The section types (edk2, OvmfSevMetadata.asm).
const (
	SEVMemory       SEVSectionType = 1    // memory that the firmware uses before it validates any
	SEVSecrets      SEVSectionType = 2    // the secrets page
	SEVCPUID        SEVSectionType = 3    // the CPUID page
	SEVSVSMArea     SEVSectionType = 4    // the SVSM calling area
	SEVKernelHashes SEVSectionType = 0x10 // the page with the hashes of kernel, initrd and command line
)

// Known reports whether the type is one of the above.
func (t SEVSectionType) Known() bool {
	return t >= SEVMemory && t <= SEVSVSMArea || t == SEVKernelHashes
}

// String names the type.
func (t SEVSectionType) String() string {
	switch t {
	case SEVMemory:
		return "memory"
	case SEVSecrets:
		return "secrets"
	case SEVCPUID:
		return "CPUID"
	case SEVSVSMArea:
		return "SVSM calling area"
	case SEVKernelHashes:
		return "kernel hashes"
	default:
		return fmt.Sprintf("type %#x", uint32(t))
	}
}

// SEVSection is one entry of the SEV metadata: a range of guest memory.
type SEVSection struct {
	Address uint32         // guest physical
	Size    uint32         // bytes
	Type    SEVSectionType // what the range is
}

// SEV is what an image says about its launch under SEV, SEV-ES and SEV-SNP. A
// nil address is one that the image does not give.
type SEV struct {
	FileSize int64
	Entries  []Entry // of the table, from the end of the file; none where there is no table
	// HashesTable is the guest address of the hashes of kernel, initrd and
	// command line; 0 says that the firmware does not look at them.
	HashesTable *uint32
	// ResetEIP is where the second and later CPUs start.
	ResetEIP *uint32
	// SVSMEntry is where an SVSM starts, from its load address.
	SVSMEntry *uint32
	// HasMetadata tells no metadata from metadata without sections.
	HasMetadata    bool
	MetadataOffset int64 // in the file
	Sections       []SEVSection
	// Repeated are structures that the table has more than once. The lowest in
	// the file counts here, as for sev-snp-measure; QEMU takes the highest.
	Repeated []GUID
}

const (
	sevHeaderSize = 16 // "ASEV", size, version, count
	sevItemSize   = 12
)

// ReadSEV reads the table and the SEV metadata. An image without a table, or
// with one whose length is below its own header's, has neither addresses nor
// sections, which is no error: SEV without a kernel needs none. What is there
// and malformed is an *Error.
func ReadSEV(r io.ReaderAt, size int64) (*SEV, error) {
	s := &SEV{FileSize: size, MetadataOffset: -1}
	entries, _, err := walkTable(r, size)
	var bad *Error
	switch {
	case errors.As(err, &bad) && (bad.Code == NoFooter || bad.Code == BadTableLength && bad.short):
		return s, nil
	case err != nil:
		return nil, err
	}
	s.Entries = entries
	seen := map[GUID]bool{}
	var metadata *Entry
	for i, e := range entries {
		if seen[e.GUID] {
			s.Repeated = append(s.Repeated, e.GUID)
		}
		seen[e.GUID] = true
		var to **uint32
		switch e.GUID {
		case SEVHashesGUID:
			to = &s.HashesTable
		case SEVResetGUID:
			to = &s.ResetEIP
		case SVSMInfoGUID:
			to = &s.SVSMEntry
		case SEVMetadataGUID:
			metadata = &entries[i]
		}
		if to != nil {
			v, err := e.u32()
			if err != nil {
				return nil, err
			}
			*to = &v
		}
	}
	if metadata == nil {
		return s, nil
	}
	return s, s.readMetadata(r, *metadata)
}

// u32 is the number that an entry begins with.
func (e Entry) u32() (uint32, error) {
	if len(e.Data) < 4 {
		return 0, fail(BadEntryLength, e.Offset, "at least 4", "entry %s has %d bytes of data", e.GUID, len(e.Data))
	}
	return binary.LittleEndian.Uint32(e.Data), nil
}

func (s *SEV) readMetadata(r io.ReaderAt, e Entry) error {
	back, err := e.u32()
	if err != nil {
		return err
	}
	if int64(back) > s.FileSize || back < sevHeaderSize {
		return fail(BadSEVMetadata, e.Offset, fmt.Sprintf("%d to %d", sevHeaderSize, s.FileSize),
			"SEV metadata is %d bytes before the end of the file", back)
	}
	start := s.FileSize - int64(back)
	head := make([]byte, sevHeaderSize)
	if err := readAt(r, head, start); err != nil {
		return err
	}
	if string(head[:4]) != "ASEV" {
		return fail(BadSEVMetadata, start, `"ASEV"`, "wrong SEV metadata signature %q", head[:4])
	}
	if v := binary.LittleEndian.Uint32(head[8:]); v != 1 {
		return fail(BadSEVMetadata, start+8, "1", "wrong SEV metadata version %d", v)
	}
	// The sections lie between the header and the size that it gives.
	size, n := int64(binary.LittleEndian.Uint32(head[4:])), int64(binary.LittleEndian.Uint32(head[12:]))
	if need := sevHeaderSize + n*sevItemSize; n > 0 && min(size, int64(back)) < need {
		return fail(BadSEVMetadata, start+4, fmt.Sprintf("at least %d", need), "SEV metadata of %d bytes, %d of them in the file, with %d sections", size, back, n)
	}
	if n > maxSections {
		return fail(BadSectionCount, start+12, fmt.Sprintf("at most %d", maxSections), "%d sections", n)
	}
	raw := make([]byte, n*sevItemSize)
	if err := readAt(r, raw, start+sevHeaderSize); err != nil {
		return err
	}
	s.HasMetadata, s.MetadataOffset = true, start
	for i := range n {
		b := raw[i*sevItemSize:]
		s.Sections = append(s.Sections, SEVSection{
			Address: binary.LittleEndian.Uint32(b), Size: binary.LittleEndian.Uint32(b[4:]), Type: SEVSectionType(binary.LittleEndian.Uint32(b[8:])),
		})
	}
	return nil
}

// SectionOffset is where a section's entry lies in the file, -1 if the
// sections are of no file.
func (s *SEV) SectionOffset(index int) int64 {
	if s.MetadataOffset < 0 {
		return -1
	}
	return s.MetadataOffset + sevHeaderSize + int64(index)*sevItemSize
}

// Has reports whether there is a section of the type.
func (s *SEV) Has(t SEVSectionType) bool {
	for _, x := range s.Sections {
		if x.Type == t {
			return true
		}
	}
	return false
}
