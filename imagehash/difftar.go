package imagehash

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/retally/retally/imagehash/internal/gunzip"
	"github.com/retally/retally/imagehash/internal/rawtar"
	"github.com/retally/retally/imagehash/internal/tarproof"
)

// unpackedReader decompresses a blob that was verified.
func unpackedReader(ctx context.Context, r io.ReadCloser, p packing, limits Limits) (io.ReadCloser, error) {
	in := &hashingReader{ctx: ctx, r: r}
	switch p {
	case packGzip:
		return &closingReader{gunzip.NewReader(in), func() { r.Close() }}, nil
	case packZstd:
		z, err := newZstd(in, limits.Window, nil, nil)
		if err != nil {
			r.Close()
			return nil, err
		}
		return &closingReader{z, func() { z.close(); r.Close() }}, nil
	}
	return &closingReader{in, func() { r.Close() }}, nil
}

// walkPlain streams a layer's tar through a visitor.
func (l diffLayer) walkPlain(ctx context.Context, limits Limits, v rawtar.Visitor) error {
	r, err := l.plain(ctx, limits)
	if err != nil {
		return err
	}
	defer r.Close()
	scan := rawtar.NewScanner(v)
	if _, err := io.CopyBuffer(struct{ io.Writer }{scan}, r, make([]byte, chunkSize)); err != nil {
		return err
	}
	return scan.Close()
}

// index reads a layer's members.
func (l diffLayer) index(ctx context.Context, limits Limits) (*tarproof.Index, error) {
	x := tarproof.NewIndexer()
	err := l.walkPlain(ctx, limits, x.Visitor())
	return x.Index(), err
}

// contents reads the contents of all members of a layer, one behind the other.
// Whoever reads them believes nothing but their hashes.
type contents struct {
	r    *bufio.Reader
	pipe *io.PipeReader
	done chan struct{}
}

func (l diffLayer) contents(ctx context.Context, limits Limits) *contents {
	pr, pw := io.Pipe()
	c := &contents{r: bufio.NewReaderSize(pr, chunkSize), pipe: pr, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		w := bufio.NewWriterSize(pw, chunkSize)
		err := l.walkPlain(ctx, limits, rawtar.Visitor{Content: func(p []byte) error {
			_, err := w.Write(p)
			return err
		}})
		pw.CloseWithError(errors.Join(err, w.Flush()))
	}()
	return c
}

// read copies the next n bytes, or fewer at the end.
func (c *contents) read(w io.Writer, n int64) error {
	_, err := io.CopyN(w, c.r, n)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (c *contents) close() {
	c.pipe.CloseWithError(io.ErrClosedPipe)
	<-c.done
}

// firstDifference finds where the content of a member differs, for a few
// members that are not too large.
func firstDifference(ctx context.Context, a, b diffLayer, d *tarproof.Diff, limits Limits) error {
	const most, size = 8, 4 << 20
	held := map[int][]byte{} // of B, by index in A
	ofB := map[int]int{}
	leafOf := map[int]int{}
	for i := range d.Leaves {
		l := &d.Leaves[i]
		if l.Kind != "content" || len(held) >= most || l.B0 < 0 {
			continue
		}
		for _, e := range l.Edits {
			if e.B.Content != nil && e.B.Content.Size <= size {
				held[l.A0], ofB[l.B0], leafOf[l.A0] = []byte{}, l.A0, i
			}
		}
	}
	if len(held) == 0 {
		return nil
	}
	j := -1
	err := b.walkPlain(ctx, limits, rawtar.Visitor{
		Member: func(*rawtar.Header) error { j++; return nil },
		Content: func(p []byte) error {
			if i, ok := ofB[j]; ok {
				held[i] = append(held[i], p...)
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	i, pos, done := -1, int64(0), false
	note := func(i int, at int64) {
		d.Leaves[leafOf[i]].Note = fmt.Sprintf("first difference at byte %d", at)
		done = true
	}
	ended := func() {
		if other, ok := held[i]; ok && !done && pos < int64(len(other)) {
			note(i, pos) // A is the beginning of B
		}
	}
	err = a.walkPlain(ctx, limits, rawtar.Visitor{
		Member: func(*rawtar.Header) error { ended(); i++; pos, done = 0, false; return nil },
		Content: func(p []byte) error {
			other, ok := held[i]
			if !ok || done {
				return nil
			}
			for k, c := range p {
				if o := pos + int64(k); o >= int64(len(other)) || other[o] != c {
					note(i, o)
					return nil
				}
			}
			pos += int64(len(p))
			return nil
		},
	})
	ended()
	return err
}
