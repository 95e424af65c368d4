// Package zstdframe follows the frames of a zstd file (RFC 8878) without
// decompressing it: a check in front of the decoder, which then never sees a
// window too large, a dictionary, or bytes behind the last frame, and which
// says which of these it was.
package zstdframe

import (
	"encoding/binary"
	"fmt"
)

// Kind says what is wrong with a file.
type Kind uint8

// The kinds of errors.
const (
	Corrupt    Kind = iota + 1 // not zstd, or an impossible header
	Truncated                  // the file ends inside a frame
	Trailing                   // something that is no frame follows the last one
	Window                     // a frame wants a larger window than is allowed
	Dictionary                 // a frame needs a dictionary, which images do not carry
)

// Error says where a file is wrong.
type Error struct {
	Kind   Kind
	Offset int64
	Msg    string
}

func (e *Error) Error() string { return fmt.Sprintf("zstd offset %d: %s", e.Offset, e.Msg) }

// Frame magic numbers (RFC 8878, sections 3.1.1 and 3.1.2).
const (
	magic         = 0xfd2fb528
	skippable     = 0x184d2a50
	skippableMask = 0xfffffff0
)

// Magic reports whether a file that begins with p is zstd.
func Magic(p []byte) bool {
	if len(p) < 4 {
		return false
	}
	m := binary.LittleEndian.Uint32(p)
	return m == magic || m&skippableMask == skippable
}

// Info is what the frame headers say.
type Info struct {
	Frames, Skippable int
	First             Frame  // header of the first data frame
	MaxWindow         uint64 // largest window of all frames, bytes
	Blocks            int64
}

// Frame is one frame header (RFC 8878, section 3.1.1.1).
type Frame struct {
	Single   bool // one segment: the window is the content size
	Checksum bool
	Window   uint64 // bytes
	Content  int64  // bytes, -1 if not given
}

type state uint8

const (
	atMagic state = iota
	atDescriptor
	atHeader
	atBlock
	skipping
	atSkipSize
)

// Scanner is a writer that takes a file in pieces of any size. Its Write fails
// before the decoder can be given the offending bytes.
type Scanner struct {
	max  uint64
	st   state
	next state // after skipping
	pos  int64
	buf  [16]byte
	fill int
	want int
	skip uint64
	sum  bool
	info Info
	err  error
}

// NewScanner refuses windows above maxWindow bytes.
func NewScanner(maxWindow uint64) *Scanner {
	return &Scanner{max: maxWindow, want: 4}
}

// Info returns what was seen so far.
func (s *Scanner) Info() Info { return s.info }

// Write takes the next piece. After an error every further call returns it.
func (s *Scanner) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && s.err == nil {
		var took int
		if s.st == skipping {
			took = int(min(uint64(len(p)), s.skip))
			s.skip -= uint64(took)
			if s.skip == 0 {
				s.goTo(s.next)
			}
		} else {
			took = copy(s.buf[s.fill:s.want], p)
			s.fill += took
			if s.fill == s.want {
				s.fill = 0
				at := s.pos + int64(took) - int64(s.want)
				s.err = s.complete(at)
			}
		}
		s.pos += int64(took)
		p = p[took:]
	}
	return n - len(p), s.err
}

// Close says whether the file may end here.
func (s *Scanner) Close() error {
	switch {
	case s.err != nil:
	case s.st == atMagic && s.info.Frames+s.info.Skippable == 0:
		s.err = &Error{Truncated, s.pos, "the file ends before the first frame"}
	case s.st == atMagic && s.fill == 0:
	case s.st == atMagic:
		s.err = &Error{Trailing, s.pos - int64(s.fill), "bytes that are no frame follow the last one"}
	default:
		s.err = &Error{Truncated, s.pos, "the file ends inside a frame"}
	}
	return s.err
}

func (s *Scanner) goTo(st state) {
	s.st, s.fill = st, 0
	switch st {
	case atMagic, atSkipSize:
		s.want = 4
	case atDescriptor:
		s.want = 1
	case atBlock:
		s.want = 3
	}
}

func (s *Scanner) pass(n uint64, then state) {
	if n == 0 {
		s.goTo(then)
		return
	}
	s.st, s.skip, s.next = skipping, n, then
}

func (s *Scanner) complete(at int64) error {
	switch s.st {
	case atMagic:
		return s.magic(at)
	case atSkipSize:
		s.pass(uint64(binary.LittleEndian.Uint32(s.buf[:4])), atMagic)
	case atDescriptor:
		return s.descriptor(at)
	case atHeader:
		return s.header(at)
	case atBlock:
		return s.block(at)
	}
	return nil
}

func (s *Scanner) magic(at int64) error {
	m := binary.LittleEndian.Uint32(s.buf[:4])
	switch {
	case m == magic:
		s.info.Frames++
		s.goTo(atDescriptor)
	case m&skippableMask == skippable:
		s.info.Skippable++
		s.goTo(atSkipSize)
	case s.info.Frames+s.info.Skippable > 0:
		return &Error{Trailing, at, "bytes that are no frame follow the last one"}
	default:
		return &Error{Corrupt, at, "no zstd magic"}
	}
	return nil
}

func (s *Scanner) descriptor(at int64) error {
	d := s.buf[0]
	if d&8 != 0 {
		return &Error{Corrupt, at, "reserved bit of the frame header descriptor is set"}
	}
	s.st, s.want = atHeader, 1 // keeps the descriptor in buf[0]
	s.fill = 1
	if d&0x20 == 0 {
		s.want++ // window descriptor
	}
	s.want += []int{0, 1, 2, 4}[d&3]
	switch d >> 6 {
	case 0:
		if d&0x20 != 0 {
			s.want++
		}
	case 1:
		s.want += 2
	case 2:
		s.want += 4
	case 3:
		s.want += 8
	}
	return nil
}

func (s *Scanner) header(at int64) error {
	d, p := s.buf[0], s.buf[1:s.want]
	f := Frame{Single: d&0x20 != 0, Checksum: d&4 != 0, Content: -1}
	if !f.Single {
		exp, mantissa := p[0]>>3, uint64(p[0]&7)
		base := uint64(1) << (10 + exp)
		f.Window = base + base/8*mantissa
		p = p[1:]
	}
	var dict uint32
	for i := range []int{0, 1, 2, 4}[d&3] {
		dict |= uint32(p[i]) << (8 * i)
	}
	p = p[[]int{0, 1, 2, 4}[d&3]:]
	if len(p) > 0 {
		var n uint64
		for i, c := range p {
			n |= uint64(c) << (8 * i)
		}
		if len(p) == 2 {
			n += 256
		}
		if n > 1<<62 {
			return &Error{Corrupt, at, fmt.Sprintf("frame content size %d is beyond every file", n)}
		}
		f.Content = int64(n)
		if f.Single {
			f.Window = n
		}
	}
	if dict != 0 {
		return &Error{Dictionary, at, fmt.Sprintf("the frame needs dictionary %d", dict)}
	}
	if f.Window > s.max {
		return &Error{Window, at, fmt.Sprintf("the frame wants a window of %d bytes, the limit is %d", f.Window, s.max)}
	}
	if s.info.Frames == 1 {
		s.info.First = f
	}
	s.info.MaxWindow = max(s.info.MaxWindow, f.Window)
	s.sum = f.Checksum
	s.goTo(atBlock)
	return nil
}

func (s *Scanner) block(at int64) error {
	h := uint32(s.buf[0]) | uint32(s.buf[1])<<8 | uint32(s.buf[2])<<16
	last, kind, size := h&1 == 1, h>>1&3, uint64(h>>3)
	s.info.Blocks++
	switch {
	case kind == 3:
		return &Error{Corrupt, at, "block of the reserved type 3"}
	case size > 128<<10:
		return &Error{Corrupt, at, fmt.Sprintf("block of %d bytes, the limit is 128 KiB", size)}
	case kind == 1:
		size = 1
	}
	then := atBlock
	if last {
		then = atMagic
		if s.sum {
			size += 4
		}
	}
	s.pass(size, then)
	return nil
}
