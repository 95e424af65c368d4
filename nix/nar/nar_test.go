package nar_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/nix/nar"
)

type node struct {
	Path    string `json:"path"`
	Type    string `json:"type"`
	Mode    string `json:"mode"`
	Content string `json:"content_base64"`
	Target  string `json:"target"`
}

func plant(t testing.TB, root string, tree []node) {
	t.Helper()
	for _, n := range tree {
		name := filepath.Join(root, filepath.FromSlash(n.Path))
		var err error
		switch n.Type {
		case "directory":
			err = os.MkdirAll(name, 0o755)
		case "symlink":
			err = os.Symlink(n.Target, name)
		default:
			var data []byte
			if data, err = base64.StdEncoding.DecodeString(n.Content); err == nil {
				if err = os.WriteFile(name, data, 0o644); err == nil {
					mode, perr := strconv.ParseUint(strings.TrimPrefix(n.Mode, "0o"), 8, 32)
					if perr != nil {
						t.Fatal(perr)
					}
					err = os.Chmod(name, os.FileMode(mode))
				}
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestVectors: trees with the hash that nix hash path gave.
func TestVectors(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(testenv.Vectors(t, "own/nix/nar"), "nar.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		ID, SRI, Nix32, Hex string
		Tree                []node
		Size                int64 `json:"nar_size"`
	}
	if err := json.Unmarshal(data, &cases); err != nil || len(cases) < 12 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, c := range cases {
		root := filepath.Join(t.TempDir(), "root")
		plant(t, root, c.Tree)
		got, err := nar.Hash(context.Background(), root, nar.Options{})
		if err != nil {
			t.Fatalf("%s: %v", c.ID, err)
		}
		if got.SRI() != c.SRI || got.Nix32() != c.Nix32 || got.Hex() != c.Hex || got.Size != c.Size {
			t.Errorf("%s: %s %s %d, want %s %s %d", c.ID, got.SRI(), got.Nix32(), got.Size, c.SRI, c.Nix32, c.Size)
		}
	}
}

// TestAgainstNix: random trees, hashed by Nix itself.
func TestAgainstNix(t *testing.T) {
	nix := testenv.Oracle(t, "nix")
	r := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	for i := range 12 {
		root := filepath.Join(dir, strconv.Itoa(i))
		grow(t, r, root, 3)
		cmd := exec.Command(nix, "--extra-experimental-features", "nix-command", "--store", filepath.Join(dir, "store"), "hash", "path", root)
		cmd.Env = append(os.Environ(), "HOME="+dir)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		want, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, stderr.String())
		}
		got, err := nar.Hash(context.Background(), root, nar.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got.SRI() != strings.TrimSpace(string(want)) {
			t.Errorf("tree %d: %s, nix says %s", i, got.SRI(), want)
		}
	}
}

func grow(t testing.TB, r *rand.Rand, name string, depth int) {
	t.Helper()
	var err error
	switch k := r.IntN(4); {
	case depth > 0 && k < 2 || depth == 3:
		if err = os.Mkdir(name, 0o755); err == nil {
			for _, n := range []string{"a", "B", "ä", "a.b", "a b", "-x"}[:r.IntN(7)] {
				grow(t, r, filepath.Join(name, n), depth-1)
			}
		}
	case k == 2:
		err = os.Symlink(strings.Repeat("x/", r.IntN(9))+"t", name)
	default:
		data := make([]byte, r.IntN(40))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		if err = os.WriteFile(name, data, 0o644); err == nil {
			err = os.Chmod(name, []os.FileMode{0o644, 0o755, 0o600, 0o700, 0o654, 0o4744}[r.IntN(6)])
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := nar.Hash(context.Background(), filepath.Join(dir, "none"), nar.Options{}); err == nil {
		t.Error("a path that is not there has a hash")
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Skipf("SKIP-VISIBLE nar: no fifo: %v", err)
	}
	if _, err := nar.Hash(context.Background(), dir, nar.Options{}); err == nil || !strings.Contains(err.Error(), "pipe") {
		t.Errorf("a fifo: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := nar.Hash(ctx, dir, nar.Options{}); err == nil {
		t.Error("cancelled, and hashed")
	}
}

func TestDiff(t *testing.T) {
	dir := t.TempDir()
	hash := func(name string, tree ...node) *nar.Tree {
		root := filepath.Join(dir, name)
		plant(t, root, tree)
		tr, err := nar.Hash(context.Background(), root, nar.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return tr
	}
	a := hash("a", node{Type: "directory"}, node{Path: "f", Mode: "0o644", Content: "eA=="}, node{Path: "x", Mode: "0o755", Content: "eA=="}, node{Path: "l", Type: "symlink", Target: "f"}, node{Path: "gone", Type: "directory"}, node{Path: "t", Type: "directory"})
	b := hash("b", node{Type: "directory"}, node{Path: "f", Mode: "0o600", Content: "eQ=="}, node{Path: "x", Mode: "0o644", Content: "eA=="}, node{Path: "l", Type: "symlink", Target: "g"}, node{Path: "new", Mode: "0o644"}, node{Path: "t", Mode: "0o644"})
	var got []string
	for _, c := range nar.Diff(a, b) {
		got = append(got, c.Path+" "+c.What)
	}
	if want := "f content, gone removed, l target, new added, t type, x executable"; strings.Join(got, ", ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if d := nar.Diff(a, a); len(d) != 0 {
		t.Errorf("equal trees differ: %v", d)
	}
}

func FuzzNix32(f *testing.F) {
	f.Add([]byte("0123456789abcdef0123"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 64 {
			return
		}
		back, err := nar.ParseNix32(nar.Nix32(b), len(b))
		if err != nil || !bytes.Equal(back, b) {
			t.Errorf("%x -> %s -> %x, %v", b, nar.Nix32(b), back, err)
		}
		_, _ = nar.ParseNix32(string(b), 32)
	})
}

func BenchmarkHash(b *testing.B) {
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 64<<20), 0o644); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(64 << 20)
	for b.Loop() {
		if _, err := nar.Hash(context.Background(), dir, nar.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
