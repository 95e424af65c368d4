package main

import (
	"io"
	"sync/atomic"

	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/tdxmeasure"
)

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
	if path == "-" {
		data, err := in.app.readInput(in.op, path, pipeLimit)
		return tdxmeasure.Bytes("stdin", data), err
	}
	input, closer, err := tdx.OpenInput(in.op, flag, path, pipeLimit, &in.read)
	if closer != nil {
		in.closers = append(in.closers, closer)
		in.total.Add(input.Size)
	}
	return input, plain(err)
}

// counted runs work with the progress of reading shown.
func (in *inputs) counted(work func() error) error {
	defer in.app.follow(in.op, in.read.Load, in.total.Load)()
	return work()
}
