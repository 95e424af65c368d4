package zlib_test

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/imagehash/internal/zlib"
	"github.com/retally/retally/internal/testenv"
)

func compress(t testing.TB, level int, p []byte, piece int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zlib.NewWriter(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	for len(p) > 0 {
		n := min(piece, len(p))
		if _, err := w.Write(p[:n]); err != nil {
			t.Fatal(err)
		}
		p = p[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func samples() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	out := map[string][]byte{"empty": nil, "one": []byte("x"), "two": []byte("xy"), "zeros": make([]byte, 300_000)}
	noise := make([]byte, 200_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	out["noise"] = noise
	var text bytes.Buffer
	for i := 0; text.Len() < 400_000; i++ {
		fmt.Fprintf(&text, "%d layer %x of sha256:%08x\n", i, r.IntN(50), r.Uint32()>>uint(r.IntN(30)))
	}
	out["text"] = text.Bytes()
	few := make([]byte, 150_000)
	for i := range few {
		few[i] = "abcd"[r.IntN(4)]
	}
	out["few"] = few
	out["mix"] = bytes.Join([][]byte{noise[:70_000], few[:70_000], make([]byte, 70_000), text.Bytes()[:100_000], noise[:70_000]}, nil)
	return out
}

func TestInflates(t *testing.T) {
	for name, p := range samples() {
		for level := 1; level <= 9; level++ {
			z := compress(t, level, p, len(p)+1)
			got, err := io.ReadAll(flate.NewReader(bytes.NewReader(z)))
			if err != nil || !bytes.Equal(got, p) {
				t.Errorf("%s level %d: got %d bytes, %v", name, level, len(got), err)
			}
			if piecewise := compress(t, level, p, 777); !bytes.Equal(piecewise, z) {
				t.Errorf("%s level %d: the pieces of the input show in the output", name, level)
			}
		}
	}
}

// Python's zlib module is the C library.
func TestSameAsZlib(t *testing.T) {
	python := testenv.Oracle(t, "python3")
	dir := t.TempDir()
	for name, p := range samples() {
		if err := os.WriteFile(filepath.Join(dir, name), p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const script = `
import hashlib, os, sys, zlib
for name in sorted(os.listdir(sys.argv[1])):
    p = open(os.path.join(sys.argv[1], name), "rb").read()
    for level in range(1, 10):
        c = zlib.compressobj(level, zlib.DEFLATED, -15)
        z = c.compress(p) + c.flush()
        print(name, level, len(z), hashlib.sha256(z).hexdigest())
`
	out, err := exec.Command(python, "-c", script, dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if want := 9 * len(samples()); len(lines) != want {
		t.Fatalf("got %d lines of python3, want %d", len(lines), want)
	}
	for _, want := range lines {
		var name string
		var level int
		if _, err := fmt.Sscan(want, &name, &level); err != nil {
			t.Fatal(err)
		}
		z := compress(t, level, samples()[name], 1<<20)
		if got := fmt.Sprintf("%s %d %d %x", name, level, len(z), sha256.Sum256(z)); got != want {
			t.Errorf("got %s, zlib has %s", got, want)
		}
	}
}

func FuzzInflates(f *testing.F) {
	f.Add([]byte("hello hello hello"), 6)
	f.Fuzz(func(t *testing.T, p []byte, level int) {
		level = (level&0xff)%9 + 1
		z := compress(t, level, p, len(p)+1)
		got, err := io.ReadAll(flate.NewReader(bytes.NewReader(z)))
		if err != nil || !bytes.Equal(got, p) {
			t.Errorf("level %d: got %d bytes of %d, %v", level, len(got), len(p), err)
		}
	})
}

// What follows a dictionary, and what GNU gzip's ends of blocks make, is read by
// any reader; pieces that end at a byte can be put one behind the other.
func TestPiecesInflate(t *testing.T) {
	for name, data := range samples() {
		for level := 1; level <= 9; level++ {
			var gnu bytes.Buffer
			w, err := zlib.NewGNUWriter(&gnu, level)
			if err != nil {
				t.Fatal(err)
			}
			w.Write(data)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(flate.NewReader(&gnu)); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s, GNU level %d: %v", name, level, err)
			}
			for _, piece := range []int{1, 2, 100, 50_000, 131_072} {
				if len(data)/piece > 50 {
					continue
				}
				var out bytes.Buffer
				for at := 0; at == 0 || at < len(data); at += piece {
					end := min(at+piece, len(data))
					w, err := zlib.NewWriterDict(&out, level, data[max(0, at-32<<10):at])
					if err != nil {
						t.Fatal(err)
					}
					w.Write(data[at:end])
					finish := w.CloseBlock
					if end == len(data) {
						finish = w.Close
					}
					if err := finish(); err != nil {
						t.Fatal(err)
					}
				}
				if got, err := io.ReadAll(flate.NewReader(&out)); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s, level %d in pieces of %d: %v", name, level, piece, err)
				}
			}
		}
	}
}
