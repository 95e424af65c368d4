package run

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/retally/retally/internal/digest"
)

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What is read through a link is what it leads to: so is the stamp.
func TestStampLooksThroughLinks(t *testing.T) {
	for name, links := range map[string]map[string]string{
		"link to a file":           {"tree/model": "../blobs/w"},
		"link to a folder":         {"tree/model": "../blobs"},
		"the folder itself a link": {"tree": "blobs"},
		"a link to a link":         {"tree/model": "../other", "other": "blobs/w"},
		"a circle":                 {"tree/model": "../blobs", "blobs/back": "../tree"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir+"/blobs/w", "weights")
			for at, to := range links {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, at)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(to, filepath.Join(dir, at)); err != nil {
					t.Fatal(err)
				}
			}
			r := NewReader(dir, nil)
			before, ok := r.stampNow("tree")
			if !ok {
				t.Fatal("no stamp")
			}
			if again, _ := r.stampNow("tree"); again != before {
				t.Fatal("the stamp changes by itself")
			}
			time.Sleep(settle)
			put(t, dir+"/blobs/w", "WEIGHTS")
			if after, _ := r.stampNow("tree"); after == before {
				t.Error("the file behind the link changed, the stamp did not")
			}
		})
	}
}

// A write through a mapping that was made, and made dirty, before the file was
// read changes the stamp all the same.
func TestStampSeesMappedWrites(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", string(make([]byte, 8192)))
	f, err := os.OpenFile(dir+"/f", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := syscall.Mmap(int(f.Fd()), 0, 8192, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(m)
	m[0] = 1
	time.Sleep(2 * settle)
	rec, err := NewReader(dir, nil).ReadTree("f", func(string) (digest.Digest, int64, error) {
		return digest.SHA256.Sum(m), 8192, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if (rec.stamp == stamp{}) {
		t.Skip("SKIP-VISIBLE this file system tells nothing of mapped writes: nothing on it is reused")
	}
	time.Sleep(settle)
	m[100] = 'E'
	if now, ok := NewReader(dir, nil).stampNow("f"); ok && now == rec.stamp {
		t.Error("a byte changed through the mapping, the stamp did not")
	}
}
