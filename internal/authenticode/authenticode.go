// Package authenticode computes the Authenticode digest of a PE/COFF image,
// the value that UEFI firmware measures for an EFI application or a kernel
// (Microsoft, "Windows Authenticode Portable Executable Signature Format",
// "Calculating the PE Image Hash"). It streams: the image is never held whole.
package authenticode

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/retally/retally/internal/digest"
)

// Options are the points in which programs differ.
type Options struct {
	// PadTo8 hashes zero bytes up to a multiple of eight of the file's length,
	// as signing tools and go-uefi do. Firmware does not pad.
	PadTo8 bool
	// TailOnlyWithCertificate leaves bytes behind the sections out unless the
	// image has a certificate table, as dstack-mr and tdx-measure do.
	TailOnlyWithCertificate bool
}

// Error says what is wrong with an image, and where.
type Error struct {
	Offset int64
	Found  string
	Want   string
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("read PE image: offset %#x: %s, want %s", e.Offset, e.Found, e.Want)
}

func fail(offset int64, want, format string, args ...any) error {
	return &Error{Offset: offset, Found: fmt.Sprintf(format, args...), Want: want}
}

const (
	magicPE32     = 0x10b
	magicPE32Plus = 0x20b
	securityIndex = 4
	sectionHeader = 40
)

// Range is a run of bytes of the image.
type Range struct{ Offset, Size int64 }

// Layout is what of an image is hashed, in order.
type Layout struct {
	Ranges []Range
	// Padding is the number of zero bytes hashed at the end.
	Padding int64
	// Certificates is the certificate table, empty in an unsigned image.
	Certificates Range
}

// Parse reads the headers of an image of the given size and says what is
// hashed.
func Parse(r io.ReaderAt, size int64, opt Options) (*Layout, error) {
	h, err := readHeaders(r, size)
	if err != nil {
		return nil, err
	}
	l := &Layout{Certificates: h.certificates}
	add := func(offset, end int64) {
		if end > offset {
			l.Ranges = append(l.Ranges, Range{offset, end - offset})
		}
	}
	// Steps 3 to 7: the headers without the checksum and without the
	// directory entry of the certificate table.
	add(0, h.checksum)
	if h.security >= 0 {
		add(h.checksum+4, h.security)
		add(h.security+8, h.sizeOfHeaders)
	} else {
		add(h.checksum+4, h.sizeOfHeaders)
	}
	// Steps 8 to 12: the sections by their place in the file.
	sum := h.sizeOfHeaders
	for _, s := range h.sections {
		add(s.Offset, s.Offset+s.Size)
		sum += s.Size
	}
	// Steps 13 and 14: what remains, counted by the sum of the sizes and not
	// by the end of the last section, without the certificate table.
	if size > sum && (h.certificates.Size > 0 || !opt.TailOnlyWithCertificate) {
		add(sum, size-h.certificates.Size)
	}
	if opt.PadTo8 && size%8 != 0 {
		l.Padding = 8 - size%8
	}
	return l, nil
}

type headers struct {
	checksum, security, sizeOfHeaders int64
	certificates                      Range
	sections                          []Range
	table                             []byte // of sections, as it is
	tableAt                           int64
}

func readHeaders(r io.ReaderAt, size int64) (*headers, error) {
	dos, err := window(r, size, 0, 64)
	if err != nil {
		return nil, err
	}
	if string(dos[:2]) != "MZ" {
		return nil, fail(0, `"MZ"`, "signature %q", dos[:2])
	}
	pe := int64(binary.LittleEndian.Uint32(dos[0x3c:]))
	coff, err := window(r, size, pe, 24)
	if err != nil {
		return nil, err
	}
	if string(coff[:4]) != "PE\x00\x00" {
		return nil, fail(pe, `"PE\x00\x00"`, "signature %q", coff[:4])
	}
	count := int64(binary.LittleEndian.Uint16(coff[6:]))
	optSize := int64(binary.LittleEndian.Uint16(coff[20:]))
	opt := pe + 24
	raw, err := window(r, size, opt, optSize)
	if err != nil {
		return nil, err
	}
	h, err := readOptional(raw, opt, size)
	if err != nil {
		return nil, err
	}
	table, err := window(r, size, opt+optSize, count*sectionHeader)
	if err != nil {
		return nil, err
	}
	h.table, h.tableAt = table, opt+optSize
	var total int64
	for i := range count {
		b := table[i*sectionHeader:]
		s := Range{int64(binary.LittleEndian.Uint32(b[20:])), int64(binary.LittleEndian.Uint32(b[16:]))}
		if s.Size == 0 {
			continue
		}
		if s.Offset+s.Size > size {
			return nil, fail(opt+optSize+i*sectionHeader+16, fmt.Sprintf("an end of at most %#x", size),
				"section %d is %#x bytes at %#x", i, s.Size, s.Offset)
		}
		// Sections that overlap would make the work grow with their number.
		if total += s.Size; total > 2*size {
			return nil, fail(opt+optSize+i*sectionHeader+16, "sections that do not overlap", "the sections have %#x bytes together, the file %#x", total, size)
		}
		h.sections = append(h.sections, s)
	}
	slices.SortStableFunc(h.sections, func(a, b Range) int {
		switch {
		case a.Offset < b.Offset:
			return -1
		case a.Offset > b.Offset:
			return 1
		default:
			return 0
		}
	})
	return h, nil
}

func readOptional(raw []byte, opt, size int64) (*headers, error) {
	if len(raw) < 68 {
		return nil, fail(opt, "at least 68 bytes", "optional header of %d bytes", len(raw))
	}
	h := &headers{checksum: opt + 64, security: -1, sizeOfHeaders: int64(binary.LittleEndian.Uint32(raw[60:]))}
	directories := 0
	switch magic := binary.LittleEndian.Uint16(raw); magic {
	case magicPE32:
		directories = 96
	case magicPE32Plus:
		directories = 112
	default:
		return nil, fail(opt, "0x10b (PE32) or 0x20b (PE32+)", "magic %#x", magic)
	}
	if h.sizeOfHeaders < opt+68 || h.sizeOfHeaders > size {
		return nil, fail(opt+60, fmt.Sprintf("%#x to %#x", opt+68, size), "SizeOfHeaders %#x", h.sizeOfHeaders)
	}
	if len(raw) < directories || binary.LittleEndian.Uint32(raw[directories-4:]) <= securityIndex {
		return h, nil // no certificate table entry: nothing more is left out
	}
	entry := directories + 8*securityIndex
	if len(raw) < entry+8 {
		return nil, fail(opt, fmt.Sprintf("at least %d bytes", entry+8), "optional header of %d bytes with %d directories",
			len(raw), binary.LittleEndian.Uint32(raw[directories-4:]))
	}
	h.security = opt + int64(entry)
	h.certificates = Range{int64(binary.LittleEndian.Uint32(raw[entry:])), int64(binary.LittleEndian.Uint32(raw[entry+4:]))}
	if h.certificates.Size > size {
		return nil, fail(h.security+4, fmt.Sprintf("at most %#x", size), "certificate table of %#x bytes", h.certificates.Size)
	}
	if h.sizeOfHeaders < h.security+8 {
		return nil, fail(opt+60, fmt.Sprintf("at least %#x", h.security+8), "SizeOfHeaders %#x", h.sizeOfHeaders)
	}
	return h, nil
}

// window reads n bytes at offset, all of which the file must have.
func window(r io.ReaderAt, size, offset, n int64) ([]byte, error) {
	if offset < 0 || offset+n > size {
		return nil, fail(offset, fmt.Sprintf("%d bytes", n), "the file ends at %#x", size)
	}
	b := make([]byte, n)
	if err := readFull(r, b, offset); err != nil {
		return nil, err
	}
	return b, nil
}

func readFull(r io.ReaderAt, b []byte, offset int64) error {
	n, err := r.ReadAt(b, offset)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read PE image: offset %#x: %w", offset, err)
}

// Digest computes the digest of an image of the given size.
func Digest(ctx context.Context, alg digest.Algorithm, r io.ReaderAt, size int64, opt Options) (digest.Digest, error) {
	l, err := Parse(r, size, opt)
	if err != nil {
		return digest.Digest{}, err
	}
	h := alg.New()
	buf := make([]byte, min(size, 256<<10))
	for _, run := range l.Ranges {
		if err := copyRange(ctx, h, r, run, buf); err != nil {
			return digest.Digest{}, err
		}
	}
	h.Write(make([]byte, l.Padding))
	return digest.FromHash(alg, h), nil
}

func copyRange(ctx context.Context, h hash.Hash, r io.ReaderAt, run Range, buf []byte) error {
	for o, end := run.Offset, run.Offset+run.Size; o < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(int64(len(buf)), end-o)]
		if err := readFull(r, b, o); err != nil {
			return err
		}
		h.Write(b)
		o += int64(len(b))
	}
	return nil
}
