// Package vectors gives tests the policy vectors that the module carries.
package vectors

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

// Committed unpacks fixtures/policy/own-policy.tar.gz in memory.
func Committed(t testing.TB) fs.FS {
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
