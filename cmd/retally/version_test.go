package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/retally/retally/internal/testenv"
)

// A build that sets no version, as `go install` does, must name the same one as
// a release build, which takes it from the file VERSION.
func TestVersionFile(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(testenv.ModuleRoot(t), "VERSION"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := version+"\n", string(text); got != want {
		t.Errorf("default version of the program: got %q, want %q as in VERSION", got, want)
	}
}
