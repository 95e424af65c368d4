package policygen_test

import (
	"io/fs"
	"testing"

	"github.com/retally/retally/policygen/internal/vectors"
)

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
	root := vectors.Committed(t)
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
