package vectest

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/retally/retally/internal/testenv"
)

// Load reads own/verity/name.json from the golden vectors, or, in a clone
// without them, from the compressed copy in fixtures.
func Load[T any](t testing.TB, name string) []T {
	t.Helper()
	var r io.Reader
	if os.Getenv("RETALLY_VECTORS") != "" {
		f, err := os.Open(testenv.Vectors(t, "own/verity/"+name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		r = f
	} else {
		f, err := os.Open(filepath.Join(testenv.ModuleRoot(t), "fixtures", "verity", name+".json.gz"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if r, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	var cases []T
	if err := json.NewDecoder(r).Decode(&cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) == 0 {
		t.Fatalf("no cases in %s", name)
	}
	return cases
}
