package images

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
)

const namedAtMost = 10_000

// Named gives layouts and archives, or those in folders, the names that they are
// called by: that of the folder, or of the file without its suffix. Two of one
// name are an error: which is meant, nobody but the user knows.
func Named(paths []string) (map[string]config.Image, error) {
	out := map[string]config.Image{}
	add := func(path string, archive bool) error {
		name := filepath.Base(path)
		image := config.Image{OCI: path}
		if archive {
			image = config.Image{Archive: path}
			name, _, _ = strings.Cut(name, ".tar")
		}
		if other, dup := out[name]; dup && other != image {
			return &pipeline.InputError{Op: "name images", File: path, Err: errors.New("another one is called " + name + ", too"), Hint: "images are found by the last part of their names: move one away"}
		}
		out[name] = image
		return nil
	}
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, pipeline.NewInputError("find images", p, err)
		}
		abs, err := filepath.Abs(p)
		if err != nil {
			return nil, pipeline.NewInputError("find images", p, err)
		}
		switch {
		case !info.IsDir():
			err = add(abs, true)
		case isLayout(p):
			err = add(abs, false)
		default:
			var entries []os.DirEntry
			if entries, err = os.ReadDir(p); err != nil {
				return nil, pipeline.NewInputError("list", p, err)
			}
			if len(entries) > namedAtMost {
				return nil, &pipeline.InputError{Op: "list", File: p, Err: errors.New("holds more than 10000 entries")}
			}
			for _, e := range entries {
				at := filepath.Join(abs, e.Name())
				switch {
				case isLayout(at):
					err = add(at, false)
				case e.Type().IsRegular() && strings.Contains(e.Name(), ".tar"):
					err = add(at, true)
				}
				if err != nil {
					return nil, err
				}
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func isLayout(dir string) bool {
	info, err := os.Stat(filepath.Join(dir, "oci-layout"))
	return err == nil && info.Mode().IsRegular()
}
