package inspect

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/tdxmeasure"
)

// File is an entry of a cpio archive.
type File struct {
	Name   string        `json:"name"`
	Mode   uint32        `json:"mode"` // as in struct stat
	UID    uint32        `json:"uid"`
	GID    uint32        `json:"gid"`
	Size   int64         `json:"size"`
	SHA256 digest.Digest `json:"sha256,omitzero"` // of regular files' and links' contents
}

// Segment is one archive of an initrd; the kernel unpacks them in order.
type Segment struct {
	Offset      int64  `json:"offset"`      // in the file
	Compression string `json:"compression"` // "none", "gzip", or one that is only named
	Files       []File `json:"files,omitempty"`
}

// Limits of an initrd.
const (
	maxFiles    = 1 << 20
	maxUnpacked = 16 << 30
	maxName     = 4096
)

var magics = []struct {
	name  string
	bytes string
}{
	{"gzip", "\x1f\x8b"},
	{"xz", "\xfd7zXZ\x00"},
	{"zstd", "\x28\xb5\x2f\xfd"},
	{"lz4", "\x02\x21\x4c\x18"},
	{"bzip2", "BZh"},
	{"lzma", "\x5d\x00\x00"},
	{"lzo", "\x89LZO"},
}

// ReadInitrd lists the archives of an initrd. What is compressed with
// something else than gzip is named and not opened.
func ReadInitrd(ctx context.Context, in tdxmeasure.Input) ([]Segment, error) {
	c := &counter{ctx: ctx, r: bufio.NewReaderSize(io.NewSectionReader(in.R, 0, in.Size), 1<<16)}
	var out []Segment
	for {
		if err := c.skipZeros(); err != nil {
			return out, err
		}
		head, err := c.r.Peek(6)
		if len(head) == 0 {
			return out, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return out, fmt.Errorf("read %s: %w", in.Name, err)
		}
		s := Segment{Offset: c.n, Compression: "none"}
		if !isCPIO(head) {
			s.Compression = compression(head)
		}
		switch s.Compression {
		case "none":
			s.Files, err = readCPIO(c)
		case "gzip":
			s.Files, err = readGzip(c)
		case "":
			err = fmt.Errorf("bytes %x, want a cpio archive or a known compression", head)
		default:
			return append(out, s), nil // where it ends is not known
		}
		out = append(out, s)
		if err != nil {
			return out, fmt.Errorf("read %s: archive at %#x: %w", in.Name, s.Offset, err)
		}
	}
}

func isCPIO(head []byte) bool {
	return bytes.HasPrefix(head, []byte("070701")) || bytes.HasPrefix(head, []byte("070702"))
}

func compression(head []byte) string {
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.bytes)) {
			return m.name
		}
	}
	return ""
}

// counter counts what is taken, and stops with its context.
type counter struct {
	ctx context.Context
	r   *bufio.Reader
	n   int64
}

func (c *counter) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	if c.n > maxUnpacked {
		return 0, fmt.Errorf("more than %d bytes", int64(maxUnpacked))
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// ReadByte lets gzip stop exactly behind its stream.
func (c *counter) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

func (c *counter) skipZeros() error {
	for {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		b, err := c.r.Peek(4096)
		if len(b) == 0 {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		}
		rest := bytes.TrimLeft(b, "\x00")
		skipped, err := c.r.Discard(len(b) - len(rest))
		c.n += int64(skipped)
		if err != nil || len(rest) > 0 {
			return err
		}
	}
}

func readGzip(c *counter) ([]File, error) {
	z, err := gzip.NewReader(c)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	inner := &counter{ctx: c.ctx, r: bufio.NewReaderSize(z, 1<<16)}
	var files []File
	for {
		if err := inner.skipZeros(); err != nil {
			return files, err
		}
		head, err := inner.r.Peek(6)
		if len(head) == 0 && errors.Is(err, io.EOF) {
			return files, nil
		}
		if !isCPIO(head) {
			return files, fmt.Errorf("unpacked offset %#x: bytes %x, want a cpio archive", inner.n, head)
		}
		more, err := readCPIO(inner)
		if files = append(files, more...); err != nil {
			return files, fmt.Errorf("unpacked: %w", err)
		}
	}
}

// readCPIO reads one archive of the "new" format up to its trailer (cpio(5)).
func readCPIO(c *counter) ([]File, error) {
	var files []File
	start := c.n
	for {
		at := c.n
		var head [110]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return files, fmt.Errorf("offset %#x: header: %w", at, noEOF(err))
		}
		if !isCPIO(head[:]) {
			return files, fmt.Errorf("offset %#x: magic %q, want 070701", at, head[:6])
		}
		var f [13]uint32
		for i := range f {
			v, err := strconv.ParseUint(string(head[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				return files, fmt.Errorf("offset %#x: field %d is not hexadecimal", at, i)
			}
			f[i] = uint32(v)
		}
		size, nameSize := int64(f[6]), int64(f[11])
		if nameSize < 1 || nameSize > maxName {
			return files, fmt.Errorf("offset %#x: name of %d bytes, want 1 to %d", at, nameSize, maxName)
		}
		name := make([]byte, nameSize)
		if _, err := io.ReadFull(c, name); err != nil {
			return files, fmt.Errorf("offset %#x: name: %w", at, noEOF(err))
		}
		if err := c.align(start); err != nil {
			return files, err
		}
		text := string(bytes.TrimRight(name, "\x00"))
		if text == "TRAILER!!!" {
			return files, nil
		}
		if len(files) == maxFiles {
			return files, fmt.Errorf("offset %#x: more than %d files", at, maxFiles)
		}
		file := File{Name: text, Mode: f[1], UID: f[2], GID: f[3], Size: size}
		h := digest.SHA256.New()
		if _, err := io.CopyN(h, c, size); err != nil {
			return files, fmt.Errorf("offset %#x: contents of %.80q: %w", at, text, noEOF(err))
		}
		if kind := f[1] & 0o170000; kind == 0o100000 || kind == 0o120000 {
			file.SHA256 = digest.FromHash(digest.SHA256, h)
		}
		files = append(files, file)
		if err := c.align(start); err != nil {
			return files, err
		}
	}
}

// align skips to a multiple of four from the archive's start.
func (c *counter) align(start int64) error {
	n := int((4 - (c.n-start)%4) % 4)
	skipped, err := c.r.Discard(n)
	c.n += int64(skipped)
	if errors.Is(err, io.EOF) {
		return nil // padding at the very end may be left out
	}
	return err
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
