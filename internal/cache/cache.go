// Package cache keeps results of earlier runs in a folder: each entry whole or
// absent, checked against its own digest when read, evicted by age when the
// folder grows over its limit. Several processes may use one folder at once.
//
// An entry is as good as those who may write it: a folder or an entry that
// another user owns or could write is not used.
package cache

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/retally/retally/internal/atomicfile"
)

// DefaultLimit is the size in bytes above which old entries are dropped.
const DefaultLimit = 256 << 20

// maxEntry bounds one entry, so that a broken folder cannot fill memory.
const maxEntry = 64 << 20

const suffix = ".retally-result"

// Store is a folder of entries.
type Store struct {
	dir   string
	limit int64
}

// Open returns the store in dir, which is made if needed.
func Open(dir string, limit int64) (*Store, error) {
	if limit <= 0 {
		limit = DefaultLimit
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	if info.Mode()&os.ModeSymlink != 0 {
		// The link may be the user's; what counts is where it leads.
		if dir, err = filepath.EvalSymlinks(dir); err == nil {
			info, err = os.Lstat(dir)
		}
		if err != nil {
			return nil, fmt.Errorf("open cache: %w", err)
		}
	}
	if why := foreign(info); why != "" {
		return nil, fmt.Errorf("open cache %s: %s, so its entries prove nothing (chown it to yourself and chmod 700, or name another folder by RETALLY_CACHE)", dir, why)
	}
	return &Store{dir: dir, limit: limit}, nil
}

// Dir returns the folder.
func (s *Store) Dir() string { return s.dir }

// Limit returns the size limit in bytes.
func (s *Store) Limit() int64 { return s.limit }

func (s *Store) path(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(s.dir, hex.EncodeToString(sum[:])+suffix)
}

// Get returns an entry. One that is damaged, or that another user owns or
// could write, counts as absent.
func (s *Store) Get(key string) ([]byte, bool) {
	path := s.path(key)
	// The checks are of the file that is read, whatever the name leads to later.
	f, err := os.OpenFile(path, os.O_RDONLY|nofollow, 0)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxEntry || foreign(info) != "" {
		return nil, false
	}
	data, err := io.ReadAll(io.LimitReader(f, maxEntry+1))
	if err != nil || len(data) < sha256.Size {
		return nil, false
	}
	sum := sha256.Sum256(data[sha256.Size:])
	if !bytes.Equal(sum[:], data[:sha256.Size]) {
		return nil, false
	}
	now := time.Now()
	_ = os.Chtimes(path, now, now) // used again: evict it last
	return data[sha256.Size:], true
}

// Put stores an entry and evicts the longest unused ones above the limit.
func (s *Store) Put(key string, data []byte) error {
	if len(data) > maxEntry {
		return fmt.Errorf("cache entry has %d bytes, the limit is %d", len(data), maxEntry)
	}
	sum := sha256.Sum256(data)
	if err := atomicfile.Write(s.path(key), slices.Concat(sum[:], data), 0o600); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return s.evict()
}

type entry struct {
	name string
	size int64
	used time.Time
}

func (s *Store) entries() ([]entry, error) {
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("read cache: %w", err)
	}
	var out []entry
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), suffix) {
			continue // not ours, whatever it is
		}
		if info, err := f.Info(); err == nil && info.Mode().IsRegular() {
			out = append(out, entry{f.Name(), info.Size(), info.ModTime()})
		}
	}
	return out, nil
}

func (s *Store) evict() error {
	list, err := s.entries()
	if err != nil {
		return err
	}
	var total int64
	for _, e := range list {
		total += e.size
	}
	slices.SortFunc(list, func(a, b entry) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.name, b.name)) })
	for _, e := range list {
		if total <= s.limit {
			break
		}
		if err := os.Remove(filepath.Join(s.dir, e.name)); err == nil || os.IsNotExist(err) {
			total -= e.size
		}
	}
	return nil
}

// Usage returns the number of entries and their size in bytes.
func (s *Store) Usage() (entries int, size int64, err error) {
	list, err := s.entries()
	for _, e := range list {
		size += e.size
	}
	return len(list), size, err
}

// Clean removes every entry, and nothing else, and says how much that was.
func (s *Store) Clean() (entries int, size int64, err error) {
	list, err := s.entries()
	for _, e := range list {
		rmErr := os.Remove(filepath.Join(s.dir, e.name))
		if rmErr != nil && !os.IsNotExist(rmErr) {
			return entries, size, fmt.Errorf("clean cache: %w", rmErr)
		}
		entries++
		size += e.size
	}
	return entries, size, err
}

// Dir is where the environment wants the cache: RETALLY_CACHE, or retally's
// folder among the user's caches.
func Dir(env func(string) string) (string, error) {
	if dir := env("RETALLY_CACHE"); dir != "" {
		return dir, nil
	}
	if dir := env("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "retally"), nil
	}
	if home := env("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".cache", "retally"), nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place for the cache: neither RETALLY_CACHE, XDG_CACHE_HOME nor HOME is set")
	}
	return filepath.Join(dir, "retally"), nil
}
