package imagehash

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/retally/retally/imagehash/internal/gunzip"
	"github.com/retally/retally/imagehash/internal/inside"
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

// lookInside says what differs in the contents of members that are not too
// large: what is known of such files, or where the first difference is.
func lookInside(ctx context.Context, a, b diffLayer, d *tarproof.Diff, limits Limits) (map[int]*inside.Finding, error) {
	const most, sum = 64, 64 << 20 // files, bytes
	ofA, ofB := map[int]*bytes.Buffer{}, map[int]*bytes.Buffer{}
	var leaves []int
	room := int64(sum)
	for i := range d.Leaves {
		l := &d.Leaves[i]
		if l.Kind != "content" || len(leaves) >= most || l.A0 < 0 || l.B0 < 0 {
			continue
		}
		for _, e := range l.Edits {
			if ca, cb := e.A.Content, e.B.Content; ca != nil && cb != nil && ca.Size <= inside.Most && cb.Size <= inside.Most && ca.Size+cb.Size <= room {
				room -= ca.Size + cb.Size
				ofA[l.A0], ofB[l.B0] = &bytes.Buffer{}, &bytes.Buffer{}
				leaves = append(leaves, i)
			}
		}
	}
	found := map[int]*inside.Finding{}
	if len(leaves) == 0 {
		return found, nil
	}
	if err := a.keep(ctx, limits, ofA); err != nil {
		return nil, err
	}
	if err := b.keep(ctx, limits, ofB); err != nil {
		return nil, err
	}
	for _, i := range leaves {
		l := &d.Leaves[i]
		pa, pb := ofA[l.A0].Bytes(), ofB[l.B0].Bytes()
		at := 0
		for at < len(pa) && at < len(pb) && pa[at] == pb[at] {
			at++
		}
		l.Note = fmt.Sprintf("first difference at byte %d", at)
		if f := inside.Explain(l.Place, pa, pb); f != nil {
			found[i], l.Note = f, f.Words
		}
	}
	return found, nil
}

// keep reads the contents of some members, by number.
func (l diffLayer) keep(ctx context.Context, limits Limits, into map[int]*bytes.Buffer) error {
	i := -1
	return l.walkPlain(ctx, limits, rawtar.Visitor{
		Member: func(*rawtar.Header) error { i++; return nil },
		Content: func(p []byte) error {
			if b, ok := into[i]; ok {
				b.Write(p)
			}
			return nil
		},
	})
}
