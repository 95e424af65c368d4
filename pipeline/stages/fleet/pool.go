package fleet

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/snpmeasure"
	"github.com/retally/retally/tdxmeasure"
)

// The bounds of the inputs.
const (
	maxFiles  = 10_000
	wholeFile = 64 << 20 // bytes: larger files are only hashed
)

// held is a file that has a digest that a list may name.
type held struct {
	file string
	data []byte // nil for what is only hashed
}

// pool finds inputs by their digest: no name counts.
type pool struct {
	files map[digest.Digest]held   // by SHA-256
	mrtds map[digest.Digest]string // firmware by the MRTD that it gives
	seeds map[digest.Digest]string // firmware by the launch digest after its pages
}

func openPool(ctx context.Context, in *run.In, names []string) (*pool, error) {
	p := &pool{files: map[digest.Digest]held{}, mrtds: map[digest.Digest]string{}, seeds: map[digest.Digest]string{}}
	n := 0
	for _, name := range names {
		files, err := list(in, name)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if n++; n > maxFiles {
				return nil, &pipeline.InputError{Op: "read inputs", File: name, Err: fmt.Errorf("more than %d files", maxFiles), Hint: "name the files that count"}
			}
			if err := p.take(ctx, in, file); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// list names a file, or every regular file below a folder. Links are not
// followed: they would lead out of what was named.
func list(in *run.In, name string) ([]string, error) {
	root := in.Path(name)
	info, err := os.Stat(root)
	if err != nil {
		return nil, pipeline.NewInputError("read inputs", name, err)
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	var out []string
	walk := func(dir string) (digest.Digest, int64, error) {
		out = nil
		err := filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			rel, err := filepath.Rel(dir, at)
			if len(out) > maxFiles {
				return errors.New("has too many files")
			}
			out = append(out, path.Join(filepath.ToSlash(name), filepath.ToSlash(rel)))
			return err
		})
		return digest.SHA256.Sum([]byte(strings.Join(out, "\x00"))), int64(len(out)), err
	}
	if err := in.ReadTree(name, walk); err != nil {
		return nil, err
	}
	if out == nil { // recorded before: only the names are needed
		if _, _, err := walk(root); err != nil {
			return nil, pipeline.NewInputError("read inputs", name, err)
		}
	}
	return out, nil
}

func (p *pool) take(ctx context.Context, in *run.In, file string) error {
	info, err := os.Stat(in.Path(file))
	if err != nil {
		return pipeline.NewInputError("read inputs", file, err)
	}
	if info.Size() > wholeFile {
		s, err := in.Sums(ctx, file, false)
		if err != nil {
			return err
		}
		p.files[s.SHA256] = held{file: file}
		return nil
	}
	data, err := in.ReadFile(ctx, file, wholeFile)
	if err != nil {
		return err
	}
	p.files[digest.SHA256.Sum(data)] = held{file, data}
	if z, err := gzip.NewReader(bytes.NewReader(data)); err == nil {
		if plain, err := io.ReadAll(io.LimitReader(z, wholeFile+1)); err == nil && len(plain) <= wholeFile {
			p.files[digest.SHA256.Sum(plain)] = held{file, plain}
		}
	}
	return p.firmware(ctx, file, data)
}

// firmware adds what a file gives as firmware; most files are none.
func (p *pool) firmware(ctx context.Context, file string, data []byte) error {
	if tdvf, err := ovmf.ReadTDVF(bytes.NewReader(data), int64(len(data))); err == nil {
		orders := []tdxmeasure.PageOrder{tdxmeasure.SinglePass, tdxmeasure.TwoPass, tdxmeasure.RawExtend}
		traces, err := tdxmeasure.MeasureMRTD(ctx, tdxmeasure.Bytes(file, data), tdvf, tdxmeasure.MRTDOptions{}, orders...)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for i := range traces {
			if d, foldErr := traces[i].Compute(); err == nil && foldErr == nil {
				p.mrtds[d] = file
			}
		}
	}
	res, err := snpmeasure.New(snpmeasure.Artifacts{Firmware: snpmeasure.Bytes(file, data)}).Measure(ctx, snpmeasure.Config{Mode: snpmeasure.OVMFHash, VMM: snpmeasure.QEMU})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		p.seeds[res.Digest] = file
	}
	return nil
}

// byDigest is a value that is the SHA-256 of a file.
func (p *pool) byDigest(name, what string, want digest.Digest) *Value {
	v := &Value{Name: name, Want: want}
	if h, ok := p.files[want]; ok {
		v.Got, v.Basis, v.From, v.Note = want, pipeline.Recomputed, []string{h.file}, "SHA-256 of "+h.file
		return v
	}
	v.Needs = []string{fmt.Sprintf("%s %s", what, want)}
	return v
}

// mrtd is the register of a firmware.
func (p *pool) mrtd(name string, want digest.Digest) *Value {
	v := &Value{Name: name, Want: want}
	if file, ok := p.mrtds[want]; ok {
		v.Got, v.Basis, v.From, v.Note = want, pipeline.Recomputed, []string{file}, "of the firmware "+file
		return v
	}
	v.Needs = []string{"firmware with MRTD " + want.Hex()}
	return v
}

// seed is the launch digest after the pages of a firmware.
func (p *pool) seed(name string, want digest.Digest) *Value {
	v := &Value{Name: name, Want: want}
	if file, ok := p.seeds[want]; ok {
		v.Got, v.Basis, v.From, v.Note = want, pipeline.Recomputed, []string{file}, "of the pages of "+file
		return v
	}
	v.Needs = []string{"SEV firmware whose pages give " + want.Hex()}
	return v
}
