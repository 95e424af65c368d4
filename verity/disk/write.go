package disk

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
)

// diskFile is a disk that is being written: under another name in the same
// folder until it is whole, with holes where there are only zeros.
type diskFile struct {
	path    string
	tmp     *os.File
	written atomic.Int64
}

func createDisk(path string) (*diskFile, error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-")
	if err != nil {
		return nil, fmt.Errorf("write disk: %w", err)
	}
	return &diskFile{path: path, tmp: tmp}, nil
}

// WriteAt writes blocks and skips those that are all zero. It may be called
// from several goroutines for different blocks.
func (d *diskFile) WriteAt(b []byte, off int64) (int, error) {
	for at := 0; at < len(b); {
		// The longest run of blocks of one kind.
		zero := isZero(b[at:min(at+blockSize, len(b))])
		end := at
		for end < len(b) && isZero(b[end:min(end+blockSize, len(b))]) == zero {
			end = min(end+blockSize, len(b))
		}
		if !zero {
			if _, err := d.tmp.WriteAt(b[at:end], off+int64(at)); err != nil {
				return at, err
			}
			d.written.Add(int64(end - at))
		}
		at = end
	}
	return len(b), nil
}

// commit gives the file its size and its name.
func (d *diskFile) commit(size int64) error {
	err := d.tmp.Truncate(size)
	if err == nil {
		err = d.tmp.Chmod(0o644)
	}
	if err == nil {
		err = d.tmp.Sync()
	}
	if closeErr := d.tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(d.tmp.Name(), d.path)
	}
	if err != nil {
		os.Remove(d.tmp.Name())
		return fmt.Errorf("write disk: %w", err)
	}
	if dir, err := os.Open(filepath.Dir(d.path)); err == nil {
		_ = dir.Sync() // makes the name last; the content is already there
		dir.Close()
	}
	return nil
}

func (d *diskFile) abort() {
	d.tmp.Close()
	os.Remove(d.tmp.Name())
}

func isZero(b []byte) bool {
	// Eight words at a time is what the compiler makes of comparing arrays.
	for len(b) >= 64 {
		if [64]byte(b) != [64]byte{} {
			return false
		}
		b = b[64:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// offsetWriter counts on from an offset.
type offsetWriter struct {
	w   io.WriterAt
	off int64
}

func (o *offsetWriter) Write(b []byte) (int, error) {
	n, err := o.w.WriteAt(b, o.off)
	o.off += int64(n)
	return n, err
}
