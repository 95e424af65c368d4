package main

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/tdxmeasure"
)

// tdxSmallFile bounds inputs that are held in memory: tables, logs.
const tdxSmallFile = 16 << 20

// inputs opens files for a look inside them, and counts what is read.
type inputs struct {
	app     *app
	op      string
	closers []io.Closer
	total   atomic.Int64
	read    atomic.Int64
}

func (in *inputs) close() {
	for _, c := range in.closers {
		c.Close()
	}
}

// artifact opens one input that flag names. "" is absent. A regular file is
// read where it lies; a pipe is read whole first.
func (in *inputs) artifact(flag, path string) (tdxmeasure.Input, error) {
	if path == "" {
		return tdxmeasure.Input{}, nil
	}
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return tdxmeasure.Input{}, &userError{op: in.op, path: path, err: reason(err), hint: "--" + flag + " FILE"}
		}
		in.closers = append(in.closers, f)
		info, err := f.Stat()
		switch {
		case err != nil:
			return tdxmeasure.Input{}, &userError{op: in.op, path: path, err: reason(err)}
		case info.IsDir():
			return tdxmeasure.Input{}, &userError{op: in.op, path: path, msg: "is a folder, want a file", hint: "--" + flag + " FILE"}
		case info.Mode().IsRegular():
			in.total.Add(info.Size())
			return tdxmeasure.Input{Name: path, R: countedFile{f, &in.read}, Size: info.Size()}, nil
		}
		data, err := io.ReadAll(io.LimitReader(f, pipeLimit+1))
		if err == nil && len(data) > pipeLimit {
			err = fmt.Errorf("more than %s come from a pipe; give a file", size(pipeLimit))
		}
		if err != nil {
			return tdxmeasure.Input{}, &userError{op: in.op, path: path, err: reason(err)}
		}
		return tdxmeasure.Bytes(path, data), nil
	}
	data, err := in.app.readInput(in.op, path, pipeLimit)
	return tdxmeasure.Bytes("stdin", data), err
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

// counted runs work with the progress of reading shown.
func (in *inputs) counted(work func() error) error {
	p := run.FollowProgress(in.op, in.read.Load, in.total.Load)
	stop := in.app.showProgress(p.Progress)
	defer func() {
		stop()
		p.Stop()
	}()
	return work()
}
