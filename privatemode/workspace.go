package privatemode

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// Workspace is the proxy's workspace directory: manifests/log.txt and the
// fetched manifests beside it.
type Workspace struct {
	Log *Log
	// Faults are the lines of the log that could not be read.
	Faults Problems
	// Unlogged are .json files in manifests that no entry names.
	Unlogged []string
	// Missing are entries whose file is not there or is no plain file.
	Missing []LogEntry
	// Overwritten are entries whose file a later entry names too, so that the
	// file holds the later manifest.
	Overwritten []LogEntry

	fsys   fs.FS // rooted at the folder manifests
	closer io.Closer
}

// ErrNoLog says that there are manifests without log.txt, which the proxy
// itself takes for an error.
var ErrNoLog = errors.New("manifest files without log.txt")

const (
	maxManifest = 16 << 20
	maxFiles    = 100_000
)

// OpenWorkspace opens a workspace directory or its folder manifests. No file
// outside the given directory is ever read, whatever links are in it. Close
// the workspace after use.
func OpenWorkspace(dir string) (*Workspace, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open proxy workspace: %w", err)
	}
	w, err := OpenWorkspaceFS(dir, root.FS())
	if err != nil {
		root.Close()
		return nil, err
	}
	w.closer = root
	return w, nil
}

// OpenWorkspaceFS is OpenWorkspace on any file system; name is for errors.
func OpenWorkspaceFS(name string, fsys fs.FS) (*Workspace, error) {
	sub := fsys
	if info, err := fs.Stat(fsys, "manifests"); err == nil && info.IsDir() {
		if sub, err = fs.Sub(fsys, "manifests"); err != nil {
			return nil, fmt.Errorf("open proxy workspace %s: %w", name, err)
		}
		name = path.Join(name, "manifests")
	}
	entries, err := fs.ReadDir(sub, ".")
	if err != nil {
		return nil, fmt.Errorf("open proxy workspace: %w", err)
	}
	if len(entries) > maxFiles {
		return nil, fmt.Errorf("open proxy workspace: %s has %d files, the limit is %d", name, len(entries), maxFiles)
	}
	w := &Workspace{fsys: sub}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") {
			w.Unlogged = append(w.Unlogged, e.Name())
		}
	}
	logFile := path.Join(name, "log.txt")
	data, err := readFile(sub, "log.txt", maxLogBytes)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(w.Unlogged) > 0:
		return nil, fmt.Errorf("%s: %w: %s", name, ErrNoLog, clip(strings.Join(w.Unlogged, ", ")))
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: no proxy workspace: %w", name, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", logFile, err)
	}
	if w.Log, err = ParseLog(logFile, data); err != nil && !errors.As(err, &w.Faults) {
		return nil, err
	}
	w.match()
	return w, nil
}

// match joins entries and files.
func (w *Workspace) match() {
	last := map[string]int{}
	for _, e := range w.Log.Entries {
		last[e.Path] = e.Line
	}
	for _, e := range w.Log.Entries {
		name := fileName(e)
		if last[e.Path] != e.Line {
			w.Overwritten = append(w.Overwritten, e)
		}
		if info, err := fs.Stat(w.fsys, name); err != nil || !info.Mode().IsRegular() {
			w.Missing = append(w.Missing, e)
		}
		if i := slices.Index(w.Unlogged, name); i >= 0 {
			w.Unlogged = slices.Delete(w.Unlogged, i, i+1)
		}
	}
}

func fileName(e LogEntry) string { return strings.TrimPrefix(e.Path, "manifests/") }

// Manifest reads the manifest of an entry: the raw bytes that were fetched.
func (w *Workspace) Manifest(e LogEntry) ([]byte, error) {
	data, err := readFile(w.fsys, fileName(e), maxManifest)
	if err != nil {
		return nil, fmt.Errorf("%s:%d: manifest of the entry: %w", w.Log.File, e.Line, err)
	}
	return data, nil
}

// Close releases the directory.
func (w *Workspace) Close() error {
	if w.closer == nil {
		return nil
	}
	return w.closer.Close()
}

// readFile reads a plain file up to a limit.
func readFile(fsys fs.FS, name string, limit int64) ([]byte, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	// Before opening: opening a fifo would wait for a writer.
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("not a plain file")}
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("more than %d bytes", limit)}
	}
	return data, nil
}
