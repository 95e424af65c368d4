// Package gunzip reads gzip files (RFC 1952 over RFC 1951) for judging them:
// every member, every checksum, and a clear difference between a file that
// ends too early, one that is damaged and one with something behind its end,
// where compress/gzip has one error for two of them. It is also what bounds
// the speed of recounting an image, so the decoder is made for whole buffers.
package gunzip

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// Kind says what is wrong with a file.
type Kind uint8

// The kinds of errors.
const (
	Corrupt   Kind = iota + 1 // not gzip, an impossible code, or a wrong checksum
	Truncated                 // the file ends inside a member
	Trailing                  // something that is no member follows the last one
)

// Error says where a file is wrong.
type Error struct {
	Kind   Kind
	Offset int64 // in the compressed file
	Msg    string
}

func (e *Error) Error() string { return fmt.Sprintf("gzip offset %d: %s", e.Offset, e.Msg) }

// maxText bounds the extra field, name and comment of a header together.
const maxText = 1 << 17

// Header is the header of one member (RFC 1952, section 2.3).
type Header struct {
	Flags   byte
	MTime   uint32 // seconds since 1970, 0 for none
	XFL     byte   // 2: best compression, 4: fastest
	OS      byte
	Extra   []byte
	Name    string // Latin-1 bytes, without the final NUL
	Comment string
	Size    int // bytes of the header in the file
}

// History is the number of bytes at the start of a buffer given to Fill that
// belong to the reader.
const History = window

// MinBuffer is the least length of a buffer given to Fill.
const MinBuffer = History + 4096

// Reader decompresses one file.
type Reader struct {
	d       decoder
	first   Header
	members int
	inside  bool // within a member
	crc     uint32
	size    uint32
	err     error

	own        []byte // buffer of Read
	from, upto int
}

// NewReader reads a file from src. Nothing is read before the first call of
// Fill or Read.
func NewReader(src io.Reader) *Reader {
	return &Reader{d: decoder{src: src, in: make([]byte, inputSize+inputPad)}}
}

// First returns the header of the first member once something was read.
func (z *Reader) First() Header { return z.first }

// Members returns the number of members begun.
func (z *Reader) Members() int { return z.members }

// Compressed returns the number of compressed bytes decoded so far.
func (z *Reader) Compressed() int64 { return z.d.offset() }

// Fill decompresses into buf[History:] and returns how many bytes it put
// there. The bytes before that are scratch. The error is io.EOF at the end of
// the file, and then n may be positive; of another error the bytes are not to
// be used. buf has at least MinBuffer bytes.
func (z *Reader) Fill(buf []byte) (n int, err error) {
	if z.err != nil {
		return 0, z.err
	}
	copy(buf, z.d.hist[:])
	o := History
	for {
		if !z.inside {
			if z.err = z.next(); z.err != nil {
				break
			}
		}
		start := o
		var done bool
		o, done, z.err = z.d.inflate(buf, o)
		z.crc = crc32.Update(z.crc, crc32.IEEETable, buf[start:o])
		z.size += uint32(o - start)
		if z.err != nil {
			break
		}
		if done {
			if z.err = z.trailer(); z.err != nil {
				break
			}
			z.inside = false
			continue
		}
		break
	}
	copy(z.d.hist[:], buf[o-History:o])
	if z.err != nil && z.err != io.EOF {
		return 0, z.err
	}
	return o - History, z.err
}

// Read implements io.Reader.
func (z *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for z.from == z.upto {
		if z.own == nil {
			z.own = make([]byte, History+64<<10)
		}
		n, err := z.Fill(z.own)
		z.from, z.upto = History, History+n
		if n == 0 && err != nil {
			return 0, err
		}
	}
	n := copy(p, z.own[z.from:z.upto])
	z.from += n
	return n, nil
}

// next begins a member, or returns io.EOF where the file may end.
func (z *Reader) next() error {
	d := &z.d
	for d.pos >= d.end && !d.eof {
		if err := d.more(); err != nil {
			return err
		}
	}
	if d.pos >= d.end {
		if z.members > 0 {
			return io.EOF
		}
		return d.fail(Truncated, "the file is empty")
	}
	at := d.offset()
	c := d.in[d.pos]
	if c == 0x1f {
		// The second byte may have to be fetched.
		if d.pos+1 >= d.end {
			if err := d.more(); err != nil {
				return err
			}
		}
		if d.pos+1 < d.end {
			c = d.in[d.pos+1]
		} else if z.members == 0 {
			return &Error{Truncated, at, "the file ends inside the first header"}
		}
	} else {
		c = 0
	}
	if c != 0x8b {
		if z.members > 0 {
			return &Error{Trailing, at, "bytes that are no gzip member follow the last one"}
		}
		return &Error{Corrupt, at, "no gzip magic"}
	}
	h, err := z.header()
	if err != nil {
		return err
	}
	if z.members == 0 {
		z.first = h
	}
	z.members++
	z.inside, z.crc, z.size = true, 0, 0
	d.out, d.st, d.last = 0, betweenBlocks, false
	return nil
}

func (z *Reader) byte() (byte, error) {
	d := &z.d
	for d.pos >= d.end {
		if d.eof {
			return 0, d.fail(Truncated, "the file ends inside a header or trailer")
		}
		if err := d.more(); err != nil {
			return 0, err
		}
	}
	c := d.in[d.pos]
	d.pos++
	return c, nil
}

func (z *Reader) header() (Header, error) {
	var h Header
	sum := crc32.NewIEEE()
	at := z.d.offset()
	next := func() (byte, error) {
		c, err := z.byte()
		if err == nil {
			h.Size++
			sum.Write([]byte{c})
			if h.Size > maxText {
				err = &Error{Corrupt, at, "header longer than 128 KiB"}
			}
		}
		return c, err
	}
	var fixed [10]byte
	for i := range fixed {
		c, err := next()
		if err != nil {
			return h, err
		}
		fixed[i] = c
	}
	h.Flags, h.MTime, h.XFL, h.OS = fixed[3], binary.LittleEndian.Uint32(fixed[4:]), fixed[8], fixed[9]
	if fixed[2] != 8 {
		return h, &Error{Corrupt, at, fmt.Sprintf("compression method %d, only 8 is defined", fixed[2])}
	}
	if h.Flags&0xe0 != 0 {
		return h, &Error{Corrupt, at, fmt.Sprintf("reserved flags %#x", h.Flags&0xe0)}
	}
	if h.Flags&4 != 0 {
		lo, err := next()
		if err != nil {
			return h, err
		}
		hi, err := next()
		if err != nil {
			return h, err
		}
		for range int(lo) | int(hi)<<8 {
			c, err := next()
			if err != nil {
				return h, err
			}
			h.Extra = append(h.Extra, c)
		}
	}
	for _, text := range []struct {
		flag byte
		to   *string
	}{{8, &h.Name}, {16, &h.Comment}} {
		if h.Flags&text.flag == 0 {
			continue
		}
		var b []byte
		for {
			c, err := next()
			if err != nil {
				return h, err
			}
			if c == 0 {
				break
			}
			b = append(b, c)
		}
		*text.to = string(b)
	}
	if h.Flags&2 != 0 {
		want := uint16(sum.Sum32())
		lo, err := next()
		if err != nil {
			return h, err
		}
		hi, err := next()
		if err != nil {
			return h, err
		}
		if got := uint16(lo) | uint16(hi)<<8; got != want {
			return h, &Error{Corrupt, at, fmt.Sprintf("header checksum %#04x, want %#04x", got, want)}
		}
	}
	return h, nil
}

func (z *Reader) trailer() error {
	z.d.align()
	at := z.d.offset()
	var t [8]byte
	for i := range t {
		c, err := z.byte()
		if err != nil {
			return err
		}
		t[i] = c
	}
	if got := binary.LittleEndian.Uint32(t[:]); got != z.crc {
		return &Error{Corrupt, at, fmt.Sprintf("checksum of the content %#08x, want %#08x", got, z.crc)}
	}
	if got := binary.LittleEndian.Uint32(t[4:]); got != z.size {
		return &Error{Corrupt, at + 4, fmt.Sprintf("length of the content %d, want %d", got, z.size)}
	}
	return nil
}
