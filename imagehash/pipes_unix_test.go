//go:build unix

package imagehash_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/retally/retally/imagehash"
)

// A pipe without a writer in the place of an archive, or in a layout, must not
// stop the program.
func TestPipesAreRefused(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	layout, _ := layoutOf(t, randomImage(1))
	if err := os.Remove(filepath.Join(layout, "index.json")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(layout, "index.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(pipe, link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		pipe: "is a named pipe", "oci-archive:" + pipe: "is a named pipe", link: "is a named pipe", os.DevNull: "is a character device", "/dev/zero": "is a character device", layout: "entry-unsafe-type",
	} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			r, err := imagehash.VerifyRef(t.Context(), path, imagehash.Options{})
			switch {
			case err != nil && strings.Contains(err.Error(), want):
			case r != nil && !r.OK() && r.AllProblems()[0].Code == want:
			default:
				t.Errorf("%s: got %+v, %v", path, r, err)
			}
		}()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: hangs", path)
		}
	}
}
