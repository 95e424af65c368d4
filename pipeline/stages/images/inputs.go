package images

import (
	"os"
	"path/filepath"
	"strings"
)

// InputPaths are the files and folders that sources of images lead to. Of a
// folder that is no layout itself what lies in it counts.
func InputPaths(sources []string) []string {
	var out []string
	for _, name := range sources {
		if _, err := os.Stat(name); err != nil {
			_, name, _ = strings.Cut(name, ":") // oci:DIR
		}
		entries, err := os.ReadDir(name)
		if _, layout := os.Stat(filepath.Join(name, "oci-layout")); err != nil || layout == nil {
			out = append(out, name)
			continue
		}
		for _, e := range entries {
			below := filepath.Join(name, e.Name())
			if _, layout := os.Stat(filepath.Join(below, "oci-layout")); layout == nil || !e.IsDir() {
				out = append(out, below)
			}
		}
	}
	return out
}
