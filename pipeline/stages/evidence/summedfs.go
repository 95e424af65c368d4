package evidence

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/retally/retally/internal/digest"
)

// summedFS is a folder that keeps account of what is read of it: the identity
// of a capture is that of the files that were opened.
type summedFS struct {
	dir  fs.FS
	read map[string]*summedFile
}

func newSummedFS(path string) *summedFS {
	return &summedFS{dir: os.DirFS(path), read: map[string]*summedFile{}}
}

type summedFile struct {
	fs.File
	sum hash.Hash
	n   int64
}

// Stat does not count as reading.
func (s *summedFS) Stat(name string) (fs.FileInfo, error) { return fs.Stat(s.dir, name) }

// Open opens a file and counts what is read of it.
func (s *summedFS) Open(name string) (fs.File, error) {
	f, err := s.dir.Open(name)
	if err != nil {
		return nil, err
	}
	s.read[name] = &summedFile{File: f, sum: sha256.New()}
	return s.read[name], nil
}

// Read counts and hashes.
func (f *summedFile) Read(b []byte) (int, error) {
	n, err := f.File.Read(b)
	f.sum.Write(b[:n])
	f.n += int64(n)
	return n, err
}

// identity is the SHA-256 over the names and digests of the files read, in the
// form that sha256sum prints, and their size.
func (s *summedFS) identity() (digest.Digest, int64) {
	all := sha256.New()
	var n int64
	for _, name := range slices.Sorted(maps.Keys(s.read)) {
		f := s.read[name]
		fmt.Fprintf(all, "%x  %s\n", f.sum.Sum(nil), name)
		n += f.n
	}
	return digest.FromHash(digest.SHA256, all), n
}
