package imagehash

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/retally/retally/internal/digest"
)

// Store keeps pulled blobs in a folder, one file for each digest. A blob gets
// its name only when it is complete and has that digest, and it is hashed
// again whenever it is used. Several programs may use one folder.
type Store struct{ root *os.Root }

// OpenStore makes the folder if need be. Remains of interrupted pulls that are
// older than a day are removed.
func OpenStore(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{root}
	if err := s.clean(time.Now().Add(-24 * time.Hour)); err != nil {
		root.Close()
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

// Close releases the folder.
func (s *Store) Close() error { return s.root.Close() }

const partial = ".part-"

func (s *Store) clean(before time.Time) error {
	dir, err := s.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	list, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range list {
		if info, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), partial) && info.ModTime().Before(before) {
			s.root.Remove(e.Name())
		}
	}
	return nil
}

func storeName(d digest.Digest) string { return d.Algorithm().String() + "-" + d.Hex() }

// open returns a stored blob after hashing it; one that is not what its name
// says is removed. It returns nil if there is none.
func (s *Store) open(d digest.Digest) io.ReadCloser {
	if s == nil {
		return nil
	}
	info, err := s.root.Lstat(storeName(d))
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	f, err := s.root.Open(storeName(d))
	if err != nil {
		return nil
	}
	h := d.Algorithm().New()
	_, err = io.Copy(h, f)
	if err == nil && digest.FromHash(d.Algorithm(), h) == d {
		if _, err = f.Seek(0, io.SeekStart); err == nil {
			return f
		}
	}
	f.Close()
	s.root.Remove(storeName(d))
	return nil
}

// keep returns a reader that stores what passes through it if, at its end, the
// digest is right.
func (s *Store) keep(r io.ReadCloser, d digest.Digest) (io.ReadCloser, error) {
	if s == nil {
		return r, nil
	}
	// CreateTemp does not know os.Root; a name from the digest, the process
	// and the time is as unique as needed and is created exclusively.
	name := fmt.Sprintf("%s%s-%d-%d", partial, d.Hex()[:16], os.Getpid(), time.Now().UnixNano())
	f, err := s.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("store %s: %w", d, err)
	}
	return &keeper{r: r, s: s, f: f, name: name, d: d, h: d.Algorithm().New()}, nil
}

type keeper struct {
	r    io.ReadCloser
	s    *Store
	f    *os.File
	name string
	d    digest.Digest
	h    hash.Hash
	end  bool
	err  error
}

func (k *keeper) Read(p []byte) (int, error) {
	n, err := k.r.Read(p)
	if n > 0 && k.err == nil {
		k.h.Write(p[:n])
		_, k.err = k.f.Write(p[:n])
	}
	if err == io.EOF {
		k.end = true
	}
	return n, err
}

// Close gives the blob its name, or removes what there is of it.
func (k *keeper) Close() error {
	err := k.r.Close()
	good := k.err == nil && k.end && digest.FromHash(k.d.Algorithm(), k.h) == k.d
	if good {
		k.err = k.f.Sync()
	}
	k.err = errors.Join(k.err, k.f.Close())
	if good && k.err == nil {
		if k.err = k.s.root.Rename(k.name, storeName(k.d)); k.err == nil {
			return err
		}
	}
	k.s.root.Remove(k.name)
	if k.err != nil {
		return errors.Join(err, fmt.Errorf("store %s: %w", filepath.Base(k.name), k.err))
	}
	return err
}
