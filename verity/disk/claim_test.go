package disk_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/verity/disk"
)

// A checkpoint takes the place of earlier checkpoints and of nothing else.
func TestCheckpointKeepsWhatIsNotItsOwn(t *testing.T) {
	model := t.TempDir()
	if err := os.WriteFile(filepath.Join(model, "weights"), make([]byte, 100_000), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		setup func(dir string) error
	}{
		{"a file of the user's", func(dir string) error { return os.WriteFile(dir+"/cp", []byte("precious"), 0o600) }},
		{"a table of the user's", func(dir string) error { return os.WriteFile(dir+"/cp.digests", []byte("precious"), 0o600) }},
		{"a link for the table", func(dir string) error {
			return errors.Join(os.WriteFile(dir+"/theirs", []byte("precious"), 0o600), os.Symlink("theirs", dir+"/cp.digests"))
		}},
		{"a link for the state", func(dir string) error {
			return errors.Join(os.WriteFile(dir+"/theirs", []byte("precious"), 0o600), os.Symlink("theirs", dir+"/cp"))
		}},
		{"a link to nothing", func(dir string) error { return os.Symlink("made", dir+"/cp.digests") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := c.setup(dir); err != nil {
				t.Fatal(err)
			}
			_, err := disk.Measure(t.Context(), disk.Options{Dir: model, Normalize: true, Checkpoint: dir + "/cp"})
			var re *disk.ResumeError
			if !errors.As(err, &re) {
				t.Errorf("got %v, want a refusal", err)
			}
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if data, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil && string(data) != "precious" {
					t.Errorf("%s holds %q now", e.Name(), data)
				}
				if e.Name() == "made" || strings.Contains(e.Name(), "tmp") {
					t.Errorf("%s was made", e.Name())
				}
			}
		})
	}
}
