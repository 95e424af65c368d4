package tdx

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/tdxmeasure"
)

// OpenInput opens a file for a look inside it, without a run. A regular file is
// read where it lies, its reads are counted, and whoever opened it closes it;
// what is no file is read whole, up to limit bytes, and has nothing to close. ""
// is absent.
func OpenInput(op, field, path string, limit int64, read *atomic.Int64) (tdxmeasure.Input, io.Closer, error) {
	fail := func(err error, hint string) (tdxmeasure.Input, io.Closer, error) {
		e, _ := pipeline.NewInputError(op, path, err).(*pipeline.InputError)
		e.Hint = hint
		return tdxmeasure.Input{}, nil, e
	}
	if path == "" {
		return tdxmeasure.Input{}, nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return fail(err, "{"+field+"} FILE")
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		f.Close()
		return fail(err, "")
	case info.IsDir():
		f.Close()
		return fail(fmt.Errorf("is a folder, want a file"), "{"+field+"} FILE")
	case info.Mode().IsRegular():
		return tdxmeasure.Input{Name: path, R: countedFile{f, read}, Size: info.Size()}, f, nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("more than %s come from a pipe; give a file", show.Size(limit))
	}
	if err != nil {
		return fail(err, "")
	}
	return tdxmeasure.Bytes(path, data), nil, nil
}

// countedFile counts the bytes that are read.
type countedFile struct {
	r io.ReaderAt
	n *atomic.Int64
}

// ReadAt implements io.ReaderAt.
func (c countedFile) ReadAt(p []byte, at int64) (int, error) {
	n, err := c.r.ReadAt(p, at)
	c.n.Add(int64(n))
	return n, err
}
