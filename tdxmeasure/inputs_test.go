package tdxmeasure_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testtdx"
	"github.com/retally/retally/tdxmeasure"
)

const mib = 1 << 20

func readJSON(t testing.TB, path string, into any) {
	t.Helper()
	testtdx.ReadJSON(t, path, into)
}

type recipe = testtdx.Recipe

// files are the inputs of the vectors by their names.
type files struct {
	*testtdx.Files
	dir string
}

func newFiles(t testing.TB) *files {
	t.Helper()
	f := testtdx.NewFiles(t)
	return &files{f, f.Dir}
}

func (f *files) input(t testing.TB, name string) tdxmeasure.Input {
	t.Helper()
	if name == "" {
		return tdxmeasure.Input{}
	}
	return tdxmeasure.Bytes(name, f.Get(t, name))
}

// acpi returns a tables blob of the vectors as a source.
func (f *files) acpi(t testing.TB, name string) tdxmeasure.Source {
	t.Helper()
	for _, path := range []string{filepath.Join(f.dir, "acpi", name+".hex"), filepath.Join(f.dir, "../../published/tdx/acpi", name+".hex")} {
		if data, err := os.ReadFile(path); err == nil {
			s, err := tdxmeasure.NewFileSource(name, data)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	}
	t.Fatalf("no tables %s", name)
	return nil
}

func profile(t testing.TB, name string) tdxmeasure.Profile {
	t.Helper()
	p, err := tdxmeasure.LoadProfile(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func equal(t testing.TB, what string, got digest.Digest, want string) {
	t.Helper()
	if got.Hex() != want {
		t.Errorf("%s = %s, want %s", what, got.Hex(), want)
	}
}

func compute(t testing.TB, trace tdxmeasure.Trace) digest.Digest {
	t.Helper()
	d, err := trace.Compute()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func asError[T error](err error, into *T) bool { return errors.As(err, into) }
