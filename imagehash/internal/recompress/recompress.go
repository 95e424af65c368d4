// Package recompress finds out which compressor made a stream, by compressing
// the content again with the ones it knows and comparing the bytes. Only the
// one that made it comes to the end; the others part after a few kilobytes.
package recompress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	stdflate "compress/flate"

	kflate "github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"github.com/retally/retally/imagehash/internal/zlib"
)

// Format is the format of a file.
type Format uint8

// The formats.
const (
	Gzip Format = iota + 1
	Zstd
)

// Recipe is how a stream was compressed. The zero value is unknown.
type Recipe struct {
	Implementation string
	Level          int
}

// Known reports whether the compressor was found.
func (r Recipe) Known() bool { return r.Implementation != "" }

// String names implementation and level.
func (r Recipe) String() string {
	if !r.Known() {
		return "an unknown compressor"
	}
	return fmt.Sprintf("%s, level %d", r.Implementation, r.Level)
}

// Names of implementations.
const (
	Zlib      = "zlib"
	Go        = "Go compress/flate"
	Klauspost = "klauspost/compress"
	Pgzip     = "klauspost/pgzip"
	GNU       = "GNU gzip"
	Pigz      = "pigz"
	Stored    = "stored blocks" // of the largest size, the last one marked as such
)

type candidate struct {
	recipe Recipe
	open   func(io.Writer) (io.WriteCloser, error)
}

// flateCandidates are the known deflate compressors, usual levels first.
func flateCandidates() []candidate {
	var list []candidate
	add := func(impl string, level int, open func(io.Writer, int) (io.WriteCloser, error)) {
		list = append(list, candidate{Recipe{impl, level}, func(w io.Writer) (io.WriteCloser, error) { return open(w, level) }})
	}
	for _, level := range []int{6, 9, 1, 5, 4, 3, 2, 7, 8, -2, 0} {
		add(Go, level, func(w io.Writer, l int) (io.WriteCloser, error) { return stdflate.NewWriter(w, l) })
		add(Klauspost, level, func(w io.Writer, l int) (io.WriteCloser, error) { return kflate.NewWriter(w, l) })
		add(Pgzip, level, func(w io.Writer, l int) (io.WriteCloser, error) { return newBlocks(w, l) })
		if level > 0 {
			add(Zlib, level, func(w io.Writer, l int) (io.WriteCloser, error) { return zlib.NewWriter(w, l) })
			add(GNU, level, func(w io.Writer, l int) (io.WriteCloser, error) { return zlib.NewGNUWriter(w, l) })
			add(Pigz, level, func(w io.Writer, l int) (io.WriteCloser, error) { return &pigz{w: w, level: l}, nil })
		}
	}
	return append(list, candidate{Recipe{Stored, 0}, func(w io.Writer) (io.WriteCloser, error) { return &storedWriter{w: w}, nil }})
}

func zstdCandidates() []candidate {
	var list []candidate
	for _, level := range []zstd.EncoderLevel{zstd.SpeedDefault, zstd.SpeedFastest, zstd.SpeedBetterCompression, zstd.SpeedBestCompression} {
		list = append(list, candidate{Recipe{Klauspost, int(level)}, func(w io.Writer) (io.WriteCloser, error) {
			return zstd.NewWriter(w, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1))
		}})
	}
	return list
}

// Identify compares the compressed file with what the known compressors make
// of its content. Both are opened as often as needed.
func Identify(ctx context.Context, format Format, compressed, plain func() (io.ReadCloser, error)) (Recipe, error) {
	list := flateCandidates()
	if format == Zstd {
		list = zstdCandidates()
	}
	for _, c := range list {
		same, err := try(ctx, format, c, compressed, plain)
		if err != nil {
			return Recipe{}, err
		}
		if same {
			return c.recipe, nil
		}
	}
	return Recipe{}, nil
}

var errParted = errors.New("the streams part")

func try(ctx context.Context, format Format, c candidate, compressed, plain func() (io.ReadCloser, error)) (bool, error) {
	want, err := compressed()
	if err != nil {
		return false, err
	}
	defer want.Close()
	content, err := plain()
	if err != nil {
		return false, err
	}
	defer content.Close()
	m := &matcher{ctx: ctx, want: bufio.NewReaderSize(want, 32<<10)}
	if format == Gzip {
		if err := skipGzipHeader(m.want); err != nil {
			return false, err
		}
	}
	w, err := c.open(m)
	if err != nil {
		return false, err
	}
	// In small steps, so that a compressor that parts is stopped soon.
	buf := make([]byte, 32<<10)
	for {
		n, rerr := content.Read(buf)
		if _, err := w.Write(buf[:n]); err != nil {
			return false, m.reason(err)
		}
		if rerr == io.EOF {
			break
		}
		if rerr != nil {
			return false, rerr
		}
	}
	if err := w.Close(); err != nil {
		return false, m.reason(err)
	}
	// Behind the deflate stream there are checksum and length, in a zstd
	// file nothing.
	tail := 0
	if format == Gzip {
		tail = 8
	}
	n, err := m.want.Discard(tail)
	if err != nil || n != tail {
		return false, nil
	}
	_, err = m.want.ReadByte()
	return err == io.EOF, nil
}

// matcher is a writer that wants to see certain bytes.
type matcher struct {
	ctx  context.Context
	want *bufio.Reader
	err  error
}

func (m *matcher) Write(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		m.err = err
		return 0, err
	}
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), 4096)
		got, err := m.want.Peek(k)
		if len(got) < k {
			if err != io.EOF {
				m.err = err
			} else {
				m.err = errParted
			}
			return 0, m.err
		}
		if string(got) != string(p[:k]) {
			m.err = errParted
			return 0, errParted
		}
		m.want.Discard(k)
		p = p[k:]
	}
	return n, nil
}

// reason tells parting from trouble.
func (m *matcher) reason(err error) error {
	if m.err == errParted {
		return nil
	}
	if m.err != nil {
		return m.err
	}
	return err
}

// skipGzipHeader reads over the first member's header, which was parsed before.
func skipGzipHeader(r *bufio.Reader) error {
	h, err := r.Peek(10)
	if err != nil {
		return err
	}
	flags := h[3]
	if _, err := r.Discard(10); err != nil {
		return err
	}
	if flags&4 != 0 {
		n, err := r.Peek(2)
		if err != nil {
			return err
		}
		if _, err := r.Discard(2 + int(n[0]) + int(n[1])<<8); err != nil {
			return err
		}
	}
	for _, bit := range []byte{8, 16} {
		if flags&bit != 0 {
			for {
				c, err := r.ReadByte()
				if err != nil {
					return err
				}
				if c == 0 {
					break
				}
			}
		}
	}
	if flags&2 != 0 {
		_, err := r.Discard(2)
		return err
	}
	return nil
}

// blocks compresses as pgzip does: pieces of 1 MiB, each with the end of the
// one before as dictionary, joined by empty stored blocks.
type blocks struct {
	w     io.Writer
	level int
	piece []byte
	dict  []byte
}

const (
	pgzipBlock = 1 << 20
	pgzipTail  = 16 << 10
)

func newBlocks(w io.Writer, level int) (*blocks, error) {
	if level < -2 || level > 9 {
		return nil, fmt.Errorf("level %d", level)
	}
	return &blocks{w: w, level: level}, nil
}

func (b *blocks) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), pgzipBlock-len(b.piece))
		b.piece = append(b.piece, p[:k]...)
		p = p[k:]
		if len(b.piece) == pgzipBlock {
			if err := b.flush(false); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (b *blocks) flush(last bool) error {
	w, err := kflate.NewWriterDict(b.w, b.level, b.dict)
	if err != nil {
		return err
	}
	if _, err := w.Write(b.piece); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if last {
		if err := w.Close(); err != nil {
			return err
		}
	}
	b.dict = append([]byte(nil), b.piece[max(0, len(b.piece)-pgzipTail):]...)
	b.piece = b.piece[:0]
	return nil
}

func (b *blocks) Close() error { return b.flush(true) }
