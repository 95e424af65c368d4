// Package outfile is the one place that decides what may be written where.
// Output never replaces an input of the run, never follows a link, never takes
// the place of a file of another kind, and goes through to pipes and devices.
package outfile

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/retally/retally/internal/atomicfile"
)

// Kind says what an output is, so that an earlier one of the same kind may be
// replaced and nothing else.
type Kind struct {
	Name string // "a retally report in HTML"
	// Is reports whether the beginning of a file, at most HeadSize bytes, is of
	// this kind. Nil: no file is.
	Is func(head []byte) bool
}

// HeadSize is how much of an existing file is shown to Kind.Is.
const HeadSize = 64 << 10

// Error says why something is not written.
type Error struct {
	Path string
	What string
	Hint string
}

func (e *Error) Error() string { return "write " + e.Path + ": " + e.What }

// Guard knows what must not be written over. Its zero value protects nothing
// and still follows no link.
type Guard struct {
	// Force lets a file of another kind be replaced. It never lets an input be.
	Force bool
	// Stdout is where "-" goes.
	Stdout io.Writer

	inputs []input
}

type input struct {
	name   string
	info   os.FileInfo
	folder string // cleaned absolute real path, for folders
}

// Protect names an input of the run: a file, or a folder of which everything
// counts. A name that leads nowhere protects nothing.
func (g *Guard) Protect(name string) {
	if name == "" || name == "-" {
		return
	}
	info, err := os.Stat(name)
	if err != nil {
		return
	}
	in := input{name: name, info: info}
	if info.IsDir() {
		if in.folder, err = real(name); err != nil {
			return
		}
	}
	g.inputs = append(g.inputs, in)
}

func real(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}

// Check says whether path may be written, without writing.
func (g *Guard) Check(path string, k Kind) error {
	_, err := g.check(path, k)
	return err
}

// check also tells whether the bytes go through to a pipe or device.
func (g *Guard) check(path string, k Kind) (through bool, err error) {
	if path == "-" {
		return true, nil
	}
	fail := func(hint, format string, args ...any) (bool, error) {
		return false, &Error{Path: path, What: fmt.Sprintf(format, args...), Hint: hint}
	}
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return fail("make the folder first: mkdir -p "+dir, "its folder does not exist")
	case !info.IsDir():
		return fail("name a file in a folder", "%s is no folder", dir)
	}
	realDir, err := real(dir)
	if err != nil {
		return fail("", "%v", err)
	}
	for _, in := range g.inputs {
		if in.folder != "" && (realDir == in.folder || strings.HasPrefix(realDir, in.folder+string(filepath.Separator))) {
			return fail("name a place outside of "+in.name, "lies in the folder %s, which is an input of this run", in.name)
		}
	}
	there, err := os.Lstat(path)
	if os.IsNotExist(err) {
		return false, nil
	}
	if err != nil {
		return fail("", "%v", unwrapPath(err))
	}
	if there.Mode()&os.ModeSymlink != 0 {
		// /dev/stdout and the like lead to what the shell opened.
		to, err := os.Stat(path)
		if err == nil && goesThrough(to.Mode()) {
			return true, nil
		}
		return fail("remove the link, or name the file itself", "is a link; links are not followed")
	}
	if goesThrough(there.Mode()) {
		return true, nil
	}
	if !there.Mode().IsRegular() {
		return fail("name another file", "is no regular file")
	}
	for _, in := range g.inputs {
		if os.SameFile(in.info, there) {
			return fail("name another file", "is an input of this run (%s)", in.name)
		}
	}
	if there.Size() == 0 || g.Force {
		return false, nil
	}
	head, err := readHead(path)
	if err != nil {
		return fail("", "%v", unwrapPath(err))
	}
	if k.Is == nil || !k.Is(head) {
		return fail("name another file, or --force to replace it", "holds something else than %s", k.Name)
	}
	return false, nil
}

func goesThrough(m os.FileMode) bool {
	return m&(os.ModeNamedPipe|os.ModeCharDevice) != 0
}

func readHead(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, HeadSize))
	return head, err
}

func unwrapPath(err error) error {
	if p, ok := err.(*os.PathError); ok {
		return p.Err
	}
	return err
}

// Write puts data at path: whole or not at all into a file, at once through a
// pipe, a device or "-".
func (g *Guard) Write(path string, k Kind, data []byte, perm os.FileMode) error {
	through, err := g.check(path, k)
	if err != nil {
		return err
	}
	if !through {
		return atomicfile.Write(path, data, perm)
	}
	return g.Copy(path, bytes.NewReader(data))
}

// Through reports whether what is written to path goes through to a pipe, a
// device or "-".
func (g *Guard) Through(path string) bool {
	through, err := g.check(path, Kind{})
	return err == nil && through
}

// Copy writes through to a path of which Through says that it can be.
func (g *Guard) Copy(path string, r io.Reader) error {
	if path == "-" {
		_, err := io.Copy(g.Stdout, r)
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return &Error{Path: path, What: unwrapPath(err).Error()}
	}
	_, err = io.Copy(f, r)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return &Error{Path: path, What: unwrapPath(err).Error()}
	}
	return nil
}

// Folder makes the output folder dir, and the folders of name below it, and
// returns where name lies. None of the folders below dir may be a link, so
// that what was laid into an output folder leads nowhere else.
func Folder(dir, name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", &Error{Path: filepath.Join(dir, name), What: "leads out of the output folder"}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", &Error{Path: dir, What: "make folder: " + unwrapPath(err).Error()}
	}
	at := dir
	parts := strings.Split(filepath.Clean(name), string(filepath.Separator))
	for _, part := range parts[:len(parts)-1] {
		at = filepath.Join(at, part)
		if err := os.Mkdir(at, 0o755); err != nil && !os.IsExist(err) {
			return "", &Error{Path: at, What: "make folder: " + unwrapPath(err).Error()}
		}
		info, err := os.Lstat(at)
		if err != nil || !info.IsDir() {
			return "", &Error{Path: at, What: "is no folder of its own; links are not followed", Hint: "remove it, or name another output folder"}
		}
	}
	return filepath.Join(dir, filepath.Clean(name)), nil
}
