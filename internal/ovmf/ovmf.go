// Package ovmf reads what a virtual machine's UEFI firmware image says about
// itself at its end: the table of GUIDed structures, and from it the TDVF
// descriptor, the list of sections that make up the initial memory of a TDX
// guest (Intel, "TDX Virtual Firmware Design Guide", chapter 11; the table is
// OVMF's ResetVector.nasmb), and the SEV metadata, the same list for a guest of
// AMD SEV-SNP (edk2, OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm).
//
// The image is foreign data: every length and offset is bounded by the file,
// and what is wrong is an *Error naming the place.
package ovmf

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// GUID is an EFI GUID in the byte order in which EFI stores it: the first
// three groups little-endian, the last two as written.
type GUID [16]byte

// The structures of the table that measurements need.
var (
	FooterGUID      = mustGUID("96b582de-1fb2-45f7-baea-a366c55a082d")
	TDXMetadataGUID = mustGUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
	SEVMetadataGUID = mustGUID("dc886566-984a-4798-a75e-5585a7bf67cc")
	SEVHashesGUID   = mustGUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
	SEVResetGUID    = mustGUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
	SEVSecretGUID   = mustGUID("4c2eb361-7d9b-4cc3-8081-127c90d3d294")
	SVSMInfoGUID    = mustGUID("a789a612-0597-4c4b-a49f-cbb1fe9d1ddd")
)

// ParseGUID reads the text form, 8-4-4-4-12 hex digits.
func ParseGUID(s string) (GUID, error) {
	var g GUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, fmt.Errorf("GUID %.40q is not in the form 8-4-4-4-12 hex digits", s)
	}
	raw, err := hex.DecodeString(s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:])
	if err != nil {
		return g, fmt.Errorf("GUID %.40q is not hexadecimal", s)
	}
	g = GUID(raw)
	g[0], g[1], g[2], g[3] = g[3], g[2], g[1], g[0]
	g[4], g[5] = g[5], g[4]
	g[6], g[7] = g[7], g[6]
	return g, nil
}

func mustGUID(s string) GUID {
	g, err := ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}

// String writes the text form.
func (g GUID) String() string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(g[:4]),
		binary.LittleEndian.Uint16(g[4:6]), binary.LittleEndian.Uint16(g[6:8]), g[8:10], g[10:])
}

// Code tells the kinds of error apart.
type Code string

// The kinds of error.
const (
	TooSmall         Code = "too-small"          // the file cannot hold a footer
	NoFooter         Code = "no-footer"          // the footer GUID is not there
	BadTableLength   Code = "bad-table-length"   // zero, or more than the file has
	BadEntryLength   Code = "bad-entry-length"   // shorter than its own header, or longer than what is left
	NoTDXEntry       Code = "no-tdx-entry"       // firmware built without TDX
	BadDescriptor    Code = "bad-descriptor"     // offset, signature or version
	BadSectionCount  Code = "bad-section-count"  // the section table runs past the end of the file
	BadSection       Code = "bad-section"        // alignment, sizes
	SectionPastEnd   Code = "section-past-end"   // data outside the file
	SectionTooLarge  Code = "section-too-large"  // more guest memory than can be measured in sensible time
	ExtendBeyondData Code = "extend-beyond-data" // measured memory without data in the file
	BadSEVMetadata   Code = "bad-sev-metadata"   // offset, signature, version or size of the SEV metadata
)

// Error says what is wrong with a firmware image, and where.
type Error struct {
	Code    Code
	Offset  int64 // byte offset in the file; -1 where none applies
	Section int   // index of the section; -1 outside of sections
	Found   string
	Want    string
	Hint    string
	short   bool // a table whose length is below its own header's
}

// Error implements error.
func (e *Error) Error() string {
	s := "read firmware"
	if e.Section >= 0 {
		s += fmt.Sprintf(": section %d", e.Section)
	}
	if e.Offset >= 0 {
		s += fmt.Sprintf(": offset %#x", e.Offset)
	}
	s += ": " + e.Found
	if e.Want != "" {
		s += ", want " + e.Want
	}
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

const (
	footerEnd  = 32 // the reset vector's bytes behind the table
	headerSize = 18 // u16 length and GUID, behind an entry's data
)

// Entry is one structure of the GUIDed table.
type Entry struct {
	GUID   GUID
	Offset int64 // of the data in the file
	Data   []byte
}

func fail(code Code, offset int64, want, format string, args ...any) *Error {
	return &Error{Code: code, Offset: offset, Section: -1, Found: fmt.Sprintf(format, args...), Want: want}
}

// ReadTable walks the table backwards, from the footer at the end of the file,
// and returns its entries in that order. Where an entry is malformed the
// entries found until then come with the error.
func ReadTable(r io.ReaderAt, size int64) ([]Entry, error) {
	entries, left, err := walkTable(r, size)
	if err == nil && left.Size > 0 {
		err = fail(BadEntryLength, left.Offset, "at least 18", "%d bytes left for an entry", left.Size)
	}
	return entries, err
}

// rest is what lies in a table above its topmost entry, too short to be one.
type rest struct{ Offset, Size int64 }

func walkTable(r io.ReaderAt, size int64) ([]Entry, rest, error) {
	if size < footerEnd+headerSize {
		return nil, rest{}, fail(TooSmall, -1, "at least 50", "file has %d bytes", size)
	}
	foot := make([]byte, headerSize)
	if err := readAt(r, foot, size-footerEnd-headerSize); err != nil {
		return nil, rest{}, err
	}
	if found := GUID(foot[2:]); found != FooterGUID {
		return nil, rest{}, fail(NoFooter, size-footerEnd-16, FooterGUID.String(), "footer GUID %s", found)
	}
	length := int64(binary.LittleEndian.Uint16(foot))
	if room := size - footerEnd; length < headerSize || length > room-headerSize {
		want := fmt.Sprintf("%d to %d", headerSize, room-headerSize)
		if room < 2*headerSize {
			want = "a larger file: this is the end of one"
		}
		err := fail(BadTableLength, room-headerSize, want, "table length %d", length)
		err.short = length < headerSize
		return nil, rest{}, err
	}
	start := size - footerEnd - length
	table := make([]byte, length-headerSize)
	if err := readAt(r, table, start); err != nil {
		return nil, rest{}, err
	}
	var entries []Entry
	for p := len(table); p > 0; {
		if p < headerSize {
			return entries, rest{start, int64(p)}, nil
		}
		n := int(binary.LittleEndian.Uint16(table[p-headerSize:]))
		if n < headerSize || n > p {
			return entries, rest{}, fail(BadEntryLength, start+int64(p)-headerSize,
				fmt.Sprintf("%d to %d", headerSize, p), "entry length %d", n)
		}
		entries = append(entries, Entry{
			GUID: GUID(table[p-16 : p]), Offset: start + int64(p-n), Data: table[p-n : p-headerSize],
		})
		p -= n
	}
	return entries, rest{}, nil
}

func readAt(r io.ReaderAt, buf []byte, offset int64) error {
	n, err := r.ReadAt(buf, offset)
	if n == len(buf) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read firmware: offset %#x: %w", offset, err)
}
