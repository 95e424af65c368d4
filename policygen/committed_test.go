package policygen_test

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/retally/retally/internal/testenv"
)

// committed unpacks fixtures/policy/own-policy.tar.gz in memory.
func committed(t testing.TB) fs.FS {
	t.Helper()
	f, err := os.Open(filepath.Join(testenv.ModuleRoot(t), "fixtures", "policy", "own-policy.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // read only
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{}
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimSuffix(h.Name, "/")] = &fstest.MapFile{Data: data, Mode: 0o444}
	}
}

func sub(t testing.TB, dir fs.FS, name string) fs.FS {
	t.Helper()
	d, err := fs.Sub(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func committedFamily(t testing.TB) family {
	t.Helper()
	root := committed(t)
	rules, err := fs.ReadFile(root, "rules/mini.rego")
	if err != nil {
		t.Fatal(err)
	}
	return family{cases: sub(t, root, "cases"), base: root, images: sub(t, root, "images"), miniRules: rules}
}

// TestCommittedVectors proves parity from the module alone.
func TestCommittedVectors(t *testing.T) {
	f := committedFamily(t)
	f.run(t)
	entries, err := fs.ReadDir(f.cases, ".")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(entries), 138; got != want {
		t.Errorf("%d cases, want %d", got, want)
	}
}
