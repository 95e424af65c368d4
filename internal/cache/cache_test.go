package cache_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/retally/retally/internal/cache"
)

func open(t *testing.T, limit int64) *cache.Store {
	t.Helper()
	s, err := cache.Open(filepath.Join(t.TempDir(), "c"), limit)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestGetPutClean(t *testing.T) {
	s := open(t, 0)
	if _, ok := s.Get("k"); ok {
		t.Fatal("an empty cache has an entry")
	}
	if err := s.Put("k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	if got, ok := s.Get("k"); !ok || string(got) != "v" {
		t.Fatalf("got %q %v, want v", got, ok)
	}
	mine := filepath.Join(s.Dir(), "mine.txt")
	if err := os.WriteFile(mine, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if n, size, err := s.Clean(); err != nil || n != 1 || size != 33 {
		t.Errorf("Clean: got %d entries, %d bytes, %v; want 1, 33", n, size, err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Errorf("Clean removed a file that is not its own: %v", err)
	}
	if _, ok := s.Get("k"); ok {
		t.Error("entry survived Clean")
	}
}

func TestDamagedEntryIsAbsent(t *testing.T) {
	s := open(t, 0)
	if err := s.Put("k", []byte("value")); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(s.Dir(), "*"))
	if len(files) != 1 {
		t.Fatalf("got %v, want one file", files)
	}
	data, _ := os.ReadFile(files[0])
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1
		if err := os.WriteFile(files[0], bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, ok := s.Get("k"); ok {
			t.Fatalf("byte %d changed: got %q, want nothing", i, got)
		}
	}
}

func TestEvictsLongestUnused(t *testing.T) {
	s := open(t, 3*132)
	for i := range 3 {
		if err := s.Put(fmt.Sprint(i), make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-time.Hour)
	files, _ := filepath.Glob(filepath.Join(s.Dir(), "*"))
	for _, f := range files {
		if err := os.Chtimes(f, old, old); err != nil {
			t.Fatal(err)
		}
	}
	s.Get("0")
	if err := s.Put("3", make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Get("0"); !ok {
		t.Error("the entry used last was evicted")
	}
	if n, size, err := s.Usage(); err != nil || n != 3 || size != 3*132 {
		t.Errorf("got %d entries of %d bytes, %v; want 3 of 396", n, size, err)
	}
}

func TestManyAtOnce(t *testing.T) {
	s := open(t, 4000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 50 {
				key := fmt.Sprint(i % 7)
				if err := s.Put(key, bytes.Repeat([]byte(key), 500)); err != nil {
					t.Error(err)
				}
				if got, ok := s.Get(key); ok && !bytes.Equal(got, bytes.Repeat([]byte(key), 500)) {
					t.Errorf("key %s: wrong content", key)
				}
			}
		})
	}
	wg.Wait()
}

func TestOthersCouldWrite(t *testing.T) {
	s := open(t, 0)
	if err := s.Put("k", []byte("v")); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(s.Dir(), "*"))
	if err := os.Chmod(files[0], 0o666); err != nil {
		t.Fatal(err)
	}
	if got, ok := s.Get("k"); ok {
		t.Errorf("an entry that everybody may write gave %q", got)
	}
	if err := os.Chmod(files[0], 0o600); err != nil {
		t.Fatal(err)
	}
	moved := files[0] + ".moved"
	if err := os.Rename(files[0], moved); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(moved, files[0]); err != nil {
		t.Fatal(err)
	}
	if got, ok := s.Get("k"); ok {
		t.Errorf("an entry that is a link gave %q", got)
	}
	for _, mode := range []os.FileMode{0o777, 0o770} {
		if err := os.Chmod(s.Dir(), mode); err != nil {
			t.Fatal(err)
		}
		if _, err := cache.Open(s.Dir(), 0); err == nil {
			t.Errorf("a folder of mode %o is used", mode)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chmod(s.Dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(s.Dir(), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Open(s.Dir(), 0); err == nil {
		t.Error("another user's folder is used")
	}
}
