// Package atomicfile writes a file whole or not at all: whatever kills the
// process, a reader sees the old content or the new one.
package atomicfile

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Write replaces path by a file with the given content.
func Write(path string, data []byte, perm os.FileMode) error {
	return WriteFrom(path, perm, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// WriteFrom replaces path by what fill writes. If fill fails, path stays as it
// was.
func WriteFrom(path string, perm os.FileMode, fill func(io.Writer) error) (err error) {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	sweep(dir, base)
	f, err := create(dir, base, perm)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := fill(f); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	// Without syncing the folder a power cut could forget the rename; that is
	// the old content, which is allowed, so an error here is no failure.
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		d.Close()
	}
	return nil
}

const mark = ".retally-tmp-"

// create opens a new temporary file beside the target and locks it, so that
// another process's sweep leaves it alone. Names are never used twice: a sweep
// that is about to remove one must not meet a younger file there.
func create(dir, base string, perm os.FileMode) (*os.File, error) {
	for {
		var id [12]byte
		rand.Read(id[:])
		name := filepath.Join(dir, "."+base+mark+hex.EncodeToString(id[:]))
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
		if err != nil {
			return nil, err
		}
		lock(f)
		// Between opening and locking a sweep may have taken it for abandoned.
		mine, err1 := f.Stat()
		there, err2 := os.Lstat(name)
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			return f, nil
		}
		f.Close()
		if err1 != nil {
			return nil, err1
		}
		if err2 != nil && !os.IsNotExist(err2) {
			return nil, err2
		}
	}
}

// sweep removes temporary files of this target that a killed process left.
func sweep(dir, base string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "."+base+mark) || !e.Type().IsRegular() {
			continue
		}
		name := filepath.Join(dir, e.Name())
		if f, err := os.OpenFile(name, os.O_RDWR, 0); err == nil {
			if abandoned(f) {
				os.Remove(name)
			}
			f.Close()
		}
	}
}
