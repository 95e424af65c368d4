package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/tdxmeasure"
)

// Small inputs are held in memory: metadata, tables, logs, compose files, and
// what comes from a pipe.
const (
	tdxSmallFile = 16 << 20
	tdxPipe      = 64 << 20
)

// inputs opens files and counts what is read of them.
type inputs struct {
	app     *app
	op      string
	closers []io.Closer
	total   atomic.Int64
	read    atomic.Int64
	stdin   string // the flag that took stdin
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
	if err := in.claim(flag, path); err != nil {
		return tdxmeasure.Input{}, err
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
		data, err := io.ReadAll(io.LimitReader(f, tdxPipe+1))
		if err == nil && len(data) > tdxPipe {
			err = fmt.Errorf("more than %s come from a pipe; give a file", size(tdxPipe))
		}
		if err != nil {
			return tdxmeasure.Input{}, &userError{op: in.op, path: path, err: reason(err)}
		}
		return tdxmeasure.Bytes(path, data), nil
	}
	data, err := in.app.readInput(in.op, path, tdxPipe)
	return tdxmeasure.Bytes("stdin", data), err
}

// claim lets one flag only read stdin.
func (in *inputs) claim(flag, path string) error {
	if path != "-" {
		return nil
	}
	if in.stdin != "" {
		return &userError{op: in.op, msg: fmt.Sprintf("--%s and --%s both read stdin", in.stdin, flag), hint: "give a file for one of them"}
	}
	in.stdin = flag
	return nil
}

// small reads a small file whole.
func (in *inputs) small(flag, path string) ([]byte, error) {
	if err := in.claim(flag, path); err != nil {
		return nil, err
	}
	return in.app.readInput(in.op, path, tdxSmallFile)
}

// digestOr opens an artifact that may be given by its SHA-256 instead.
func (in *inputs) digestOr(flag, value string) (tdxmeasure.Input, error) {
	hex, ok := strings.CutPrefix(value, "sha256:")
	if !ok {
		return in.artifact(flag, value)
	}
	d, err := digest.ParseHex(digest.SHA256, strings.ToLower(hex))
	if err != nil {
		return tdxmeasure.Input{}, &userError{op: in.op, msg: fmt.Sprintf("--%s %.100s: %v", flag, value, err), hint: "sha256: and 64 hex digits, or a file"}
	}
	return tdxmeasure.Input{Name: value, Known: d}, nil
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

// embedded takes a document out of a larger reply: where data is an object
// with a text member of that name, the text; else data itself. dstack's guest
// agent answers in this way.
func embedded(data []byte, member string) []byte {
	trimmed := bytes.TrimLeft(data, " \t\r\n")
	if len(trimmed) == 0 || trimmed[0] != '{' {
		return data
	}
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: tdxSmallFile})
	if err != nil || doc.Kind != jsondoc.Object {
		return data
	}
	if v := doc.Get(member); v != nil && v.Kind == jsondoc.String {
		return []byte(v.Text)
	}
	return data
}

// tdxTrouble gives the rooms' errors the form of all others.
func tdxTrouble(op string, err error) error {
	var u *userError
	if err == nil || errors.As(err, &u) {
		return err
	}
	e := &userError{op: op, err: err}
	var t *tdxmeasure.Error
	var o *ovmf.Error
	switch {
	case errors.As(err, &t):
		e.path, e.hint = "", t.Hint
	case errors.As(err, &o):
		e.hint = o.Hint
	}
	return e
}
