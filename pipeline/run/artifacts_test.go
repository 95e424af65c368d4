package run

import (
	"bytes"
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/retally/retally/internal/digest"
)

// TestOnePass: whatever a room reads, it gets the file's bytes, and the digest
// is that of the whole file.
func TestOnePass(t *testing.T) {
	data := make([]byte, 3*keptHead+77)
	rnd := rand.NewChaCha8([32]byte{1})
	rnd.Read(data)
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	want := digest.SHA256.Sum(data)
	rapid.Check(t, func(t *rapid.T) {
		f, size, err := OpenRegular("f", path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		count := new(Counter)
		p := &onePass{name: "f", file: f, size: size, count: count, sum: sha256.New()}
		forward, at := true, int64(0)
		for range rapid.IntRange(0, 20).Draw(t, "reads") {
			offset := rapid.Int64Range(0, size+10).Draw(t, "offset")
			b := make([]byte, rapid.IntRange(0, 2*keptHead).Draw(t, "length"))
			n, _ := p.ReadAt(b, offset)
			wantN := max(0, min(len(b), int(size-offset)))
			if n != wantN || n > 0 && !bytes.Equal(b[:n], data[offset:offset+int64(n)]) {
				t.Fatalf("%d bytes at %d: got %d, right: %v", len(b), offset, n, n == wantN)
			}
			forward = forward && (offset >= at || offset+int64(n) <= int64(len(p.head)))
			at = max(at, offset+int64(n))
		}
		got, err := p.finish(context.Background())
		if err != nil || got != want {
			t.Fatalf("got %s, %v; want %s", got, err, want)
		}
		if again := count.BytesRead.Load(); forward && again != 0 {
			t.Fatalf("a room that only goes forward makes %d bytes be read again", again)
		}
	})
}

// TestSumsOfAKnownFile: a file that another room recorded under an identity of
// its own is hashed as it is.
func TestSumsOfAKnownFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	in := &In{Progress: new(Progress), reader: NewReader(dir, nil)}
	foreign := digest.SHA256.Sum([]byte("the identity of another room"))
	if err := in.ReadTree("f", func(string) (digest.Digest, int64, error) { return foreign, 3, nil }); err != nil {
		t.Fatal(err)
	}
	s, err := in.Sums(context.Background(), "f", true)
	if err != nil || s.SHA256 != digest.SHA256.Sum([]byte("abc")) || s.SHA384 != digest.SHA384.Sum([]byte("abc")) || s.Size != 3 {
		t.Errorf("got %+v, %v", s, err)
	}
	read := false
	err = in.ReadOnePass(context.Background(), "f", func(f Opened) {
		b := make([]byte, 3)
		n, _ := f.R.ReadAt(b, 0)
		read = n == 3 && string(b) == "abc" && f.Size == 3
	})
	if err != nil || !read {
		t.Errorf("a recorded file cannot be used: %v", err)
	}
}
