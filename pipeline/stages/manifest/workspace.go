package manifest

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/privatemode"
)

// Latest gives, of a folder that is a proxy's workspace, the file of the manifest
// that the latest entry of its log names, with what is to be said of it. A file
// is itself. A log that cannot be read in full has no latest entry.
//
// Names start from root.
func Latest(root, name string) (file string, said []pipeline.Problem, err error) {
	if name == "" {
		return "", nil, nil
	}
	dir := name
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(root, filepath.FromSlash(name))
	}
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() {
		return name, nil, nil // whoever reads it says what is wrong
	}
	fail := func(err error, hint string) (string, []pipeline.Problem, error) {
		return "", nil, &pipeline.InputError{Op: "find the published manifest", File: name, Err: err, Hint: hint}
	}
	w, err := privatemode.OpenWorkspace(dir)
	if err != nil {
		return fail(err, "give the proxy's workspace, which holds manifests/log.txt, or a manifest")
	}
	defer w.Close()
	if len(w.Faults) > 0 {
		return fail(fmt.Errorf("which entry is the latest cannot be told: %w", w.Faults), "name the manifest itself")
	}
	latest, ok := w.Log.Latest()
	if !ok {
		return fail(errors.New("the log has no entry"), "start the proxy once, or name a manifest")
	}
	for _, m := range w.Missing {
		if m.Line == latest.Line {
			return fail(fmt.Errorf("log.txt:%d: the latest entry's manifest %s is not there", latest.Line, latest.Path), "")
		}
	}
	for _, rel := range []string{latest.Path, strings.TrimPrefix(latest.Path, "manifests/")} {
		// A link could lead out of the workspace.
		if info, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(rel))); err == nil && info.Mode().IsRegular() {
			where := pipeline.Where{File: "log.txt", Line: latest.Line}
			return path.Join(filepath.ToSlash(name), rel), []pipeline.Problem{{
				Level: pipeline.LevelNote, Code: "proxy-log", Where: where, Msg: fmt.Sprintf("the latest of %s, of %s, names %s; %s", show.Plural(len(w.Log.Entries), "entry", "entries"), latest.TimeText, latest.Path, FetchWarning),
			}}, nil
		}
	}
	return fail(fmt.Errorf("log.txt:%d: the latest entry's manifest %s is no plain file", latest.Line, latest.Path), "")
}
