package images_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/pipeline/stages/images"
)

// Images are called by their folder or file; two of one name are an error, and
// what is no image is none.
func TestNamed(t *testing.T) {
	dir := t.TempDir()
	write := func(names ...string) {
		for _, name := range names {
			at := filepath.Join(dir, filepath.FromSlash(name))
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(at, []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("all/a/oci-layout", "all/b.tar.gz", "all/note.txt", "all/c/other", "one/oci-layout", "more/a/oci-layout")
	got, err := images.Named([]string{filepath.Join(dir, "all"), filepath.Join(dir, "one"), filepath.Join(dir, "all", "a")})
	if err != nil {
		t.Fatal(err)
	}
	if names := strings.Join(slices.Sorted(maps.Keys(got)), " "); names != "a b one" || got["b"].Archive == "" || got["a"].OCI == "" {
		t.Errorf("got %v", got)
	}
	if _, err := images.Named([]string{filepath.Join(dir, "all"), filepath.Join(dir, "more")}); err == nil || !strings.Contains(err.Error(), "another one is called a") {
		t.Errorf("two of one name: got %v", err)
	}
	if _, err := images.Named([]string{filepath.Join(dir, "nowhere")}); err == nil {
		t.Error("nothing there: want an error")
	}
}
