package imagehash

import (
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/retally/retally/imagehash/internal/gunzip"
	"github.com/retally/retally/imagehash/internal/zstdframe"
)

// limitError says that a bound was passed.
type limitError struct{ produced, limit int64 }

func (e *limitError) Error() string {
	return fmt.Sprintf("more than %d bytes uncompressed", e.limit)
}

// unpack decompresses from src into buffers of free, which it sends to out.
func unpack(f *facts, how reading, src io.Reader, out chan<- *chunk, free <-chan *chunk) error {
	limit := how.limits.Expanded
	if how.size >= 0 {
		limit = how.limits.expanded(how.size)
	}
	var fillChunk func(c *chunk) error
	switch f.packing {
	case packGzip:
		z := gunzip.NewReader(src)
		fillChunk = func(c *chunk) (err error) {
			c.n, err = z.Fill(c.buf)
			return err
		}
	case packZstd:
		z, err := newZstd(src, how.limits.Window, how.pool, how.large)
		if err != nil {
			return err
		}
		defer z.close()
		fillChunk = func(c *chunk) (err error) {
			c.n, err = fill(z, c.buf[gunzip.History:])
			return err
		}
	default:
		return errors.ErrUnsupported
	}
	for {
		c := <-free
		err := fillChunk(c)
		f.plain += int64(c.n)
		if f.plain > limit {
			return &limitError{f.plain, limit}
		}
		// After io.EOF the content is complete; after another error what
		// came before it is still walked, so that findings name a place.
		out <- c
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// zstdReader decodes behind a scanner of frames.
type zstdReader struct {
	dec  *zstd.Decoder
	tap  *zstdTap
	pool *pool
}

// zstdTap shows the compressed bytes to the scanner before the decoder gets
// them.
type zstdTap struct {
	r    io.Reader
	scan *zstdframe.Scanner
	// large is called once, before the first window above plainWindow.
	large func() error
	err   error // of the scanner or the reader, which the decoder may wrap away
}

func (t *zstdTap) Read(p []byte) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	n, err := t.r.Read(p)
	took, serr := t.scan.Write(p[:n])
	if t.large != nil && t.scan.Info().MaxWindow > plainWindow {
		if lerr := t.large(); lerr != nil {
			t.err = lerr
			return 0, lerr
		}
		t.large = nil
	}
	switch {
	case serr != nil:
		n, t.err = took, serr
	case err == io.EOF:
		if cerr := t.scan.Close(); cerr != nil {
			t.err = cerr
			return n, cerr
		}
		return n, io.EOF
	case err != nil:
		t.err = err
	}
	return n, t.err
}

func newZstd(src io.Reader, window uint64, p *pool, large func() error) (*zstdReader, error) {
	tap := &zstdTap{r: src, scan: zstdframe.NewScanner(window), large: large}
	if dec := p.decoder(); dec != nil {
		if err := dec.Reset(tap); err == nil {
			return &zstdReader{dec: dec, tap: tap, pool: p}, nil
		}
		dec.Close()
	}
	dec, err := zstd.NewReader(tap,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(max(window, zstd.MinWindowSize)))
	if err != nil {
		if tap.err != nil {
			err = tap.err
		}
		return nil, err
	}
	return &zstdReader{dec: dec, tap: tap, pool: p}, nil
}

// close keeps the decoder, unless its window was a large one.
func (z *zstdReader) close() {
	if z.tap.scan.Info().MaxWindow > plainWindow {
		z.dec.Close()
		return
	}
	z.pool.keep(z.dec)
}

func (z *zstdReader) Read(p []byte) (int, error) {
	n, err := z.dec.Read(p)
	if err == nil {
		return n, nil
	}
	if z.tap.err != nil {
		return n, z.tap.err
	}
	if err == io.EOF {
		// The decoder may stop without having looked behind the last
		// frame.
		var rest [512]byte
		for {
			_, rerr := z.tap.Read(rest[:])
			if rerr == io.EOF {
				return n, io.EOF
			}
			if rerr != nil {
				return n, rerr
			}
		}
	}
	return n, &zstdframe.Error{Kind: zstdframe.Corrupt, Offset: -1, Msg: err.Error()}
}
