package outfile

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A File is one of several that are written together.
type File struct {
	Name string // in the folder
	Kind Kind
	Data func() []byte // put together one at a time
}

// WriteFolder writes files into a folder, which is made if need be: all of them
// under other names first, so that a failure leaves what was there as it was.
func (g *Guard) WriteFolder(dir string, files []File) (err error) {
	made := false
	if _, serr := os.Stat(dir); errors.Is(serr, fs.ErrNotExist) {
		made = true
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, f := range files {
		if err := g.Check(filepath.Join(dir, f.Name), f.Kind); err != nil {
			return err
		}
		if info, err := root.Lstat(f.Name); err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("%s is there already and no regular file", f.Name)
		}
	}
	prefix := ".retally-" + rand.Text() + "-"
	written := 0
	defer func() {
		if err == nil {
			return
		}
		for _, f := range files[:written] {
			_ = root.Remove(prefix + f.Name)
		}
		if made {
			_ = os.Remove(dir)
		}
	}()
	for _, f := range files {
		w, err := root.OpenFile(prefix+f.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		written++
		_, err = w.Write(f.Data())
		if err = errors.Join(err, w.Close()); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := root.Rename(prefix+f.Name, f.Name); err != nil {
			return err
		}
	}
	return nil
}

// Via lets work that can only write a file of its own write to path: what goes
// through to a pipe or device is made beside and copied. Without a path there is
// nothing to write.
func (g *Guard) Via(path string, work func(path string) error) error {
	if path == "" || !g.Through(path) {
		return work(path)
	}
	dir, err := os.MkdirTemp("", "retally-")
	if err != nil {
		return &Error{Path: path, What: unwrapPath(err).Error()}
	}
	defer os.RemoveAll(dir)
	made := filepath.Join(dir, "made")
	if err := work(made); err != nil {
		return err
	}
	f, err := os.Open(made)
	if err != nil {
		return err
	}
	defer f.Close()
	return g.Copy(path, f)
}
