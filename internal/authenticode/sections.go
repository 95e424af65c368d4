package authenticode

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Section is a named section of an image. Size is what a loader reads of it:
// VirtualSize where that is smaller than the data in the file, else the data.
type Section struct {
	Name   string
	Offset int64
	Size   int64
	// Virtual is VirtualSize as the table has it. Where it is larger than the
	// data, memory behind the data is zero when the image is loaded.
	Virtual int64
	At      int64 // offset of the section's table entry
}

// Sections reads the section table in its own order. Names that fill their
// eight bytes have no end mark (PE/COFF specification, "Section Table").
func Sections(r io.ReaderAt, size int64) ([]Section, error) {
	h, err := readHeaders(r, size)
	if err != nil {
		return nil, err
	}
	out := make([]Section, 0, len(h.table)/sectionHeader)
	for i := 0; i+sectionHeader <= len(h.table); i += sectionHeader {
		b := h.table[i:]
		s := Section{
			Offset: int64(binary.LittleEndian.Uint32(b[20:])), Size: int64(binary.LittleEndian.Uint32(b[16:])),
			Virtual: int64(binary.LittleEndian.Uint32(b[8:])), At: h.tableAt + int64(i),
		}
		var rest string
		s.Name, rest, _ = strings.Cut(string(b[:8]), "\x00")
		// Programs differ in whether they look behind the end mark.
		if strings.Trim(rest, "\x00") != "" {
			return nil, fail(s.At, "zero bytes behind the name's end mark", "section name %q", b[:8])
		}
		s.Size = min(s.Size, s.Virtual)
		if s.Size > 0 && s.Offset+s.Size > size {
			return nil, fail(s.At+16, fmt.Sprintf("an end of at most %#x", size), "section %q is %#x bytes at %#x", s.Name, s.Size, s.Offset)
		}
		out = append(out, s)
	}
	return out, nil
}

// CertificateTable returns where the certificate table is; Size 0 in an
// unsigned image.
func CertificateTable(r io.ReaderAt, size int64) (Range, error) {
	h, err := readHeaders(r, size)
	if err != nil {
		return Range{}, err
	}
	if c := h.certificates; c.Size > 0 && (c.Offset < 0 || c.Offset+c.Size > size) {
		return Range{}, fail(h.security, fmt.Sprintf("an end of at most %#x", size), "certificate table of %#x bytes at %#x", c.Size, c.Offset)
	}
	return h.certificates, nil
}

const (
	pkcsSignedData = 2
	maxSignatures  = 16
)

// Signatures returns the PKCS #7 signatures of an image, without their
// WIN_CERTIFICATE heads (PE/COFF specification, "The Attribute Certificate
// Table"). Entries of other types are left out. An unsigned image has none.
func Signatures(r io.ReaderAt, size int64) ([][]byte, error) {
	c, err := CertificateTable(r, size)
	if err != nil || c.Size == 0 {
		return nil, err
	}
	if c.Size > 1<<20 {
		return nil, fail(c.Offset, "at most 1 MiB", "certificate table of %#x bytes", c.Size)
	}
	table, err := window(r, size, c.Offset, c.Size)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for at := 0; at+8 <= len(table); {
		n := int(binary.LittleEndian.Uint32(table[at:]))
		if n < 8 || n > len(table)-at {
			return nil, fail(c.Offset+int64(at), fmt.Sprintf("8 to %d", len(table)-at), "certificate of %d bytes", n)
		}
		if binary.LittleEndian.Uint16(table[at+6:]) == pkcsSignedData {
			if len(out) == maxSignatures {
				return nil, fail(c.Offset+int64(at), fmt.Sprintf("at most %d signatures", maxSignatures), "one more")
			}
			out = append(out, slices.Clone(table[at+8:at+n]))
		}
		at += (n + 7) &^ 7
	}
	return out, nil
}
