// Package inputfile opens what people name as an input. A named pipe or a
// character device would hold a run for ever, or give other bytes each time it
// is read, so neither is an input; a pipe that the shell opened for this
// process (process substitution, /dev/stdin) is.
package inputfile

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// KindError is a name that leads to something that is no input.
type KindError struct {
	Path string
	What string // "a named pipe"
	Hint string
}

func (e *KindError) Error() string {
	s := "open " + e.Path + ": is " + e.What
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Allow says what may be opened beside regular files and the process's own
// pipes.
type Allow uint8

// What else may be an input.
const (
	BlockDevices Allow = 1 << iota // a disk or partition, as data
	Folders                        // for readers that list them
)

// Open opens an input for reading. It never waits for a writer.
func Open(path string, allow Allow) (*os.File, error) {
	return OpenFlag(path, os.O_RDONLY, allow)
}

// OpenFlag is Open with os.O_RDWR or os.O_CREATE beside, for files that are
// written into in place.
func OpenFlag(path string, flag int, allow Allow) (*os.File, error) {
	f, err := os.OpenFile(path, flag|nonblock, 0o666)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if e := judge(path, info.Mode(), allow); e != nil {
		f.Close()
		return nil, e
	}
	return f, nil
}

// Check says whether path may be opened, without opening it.
func Check(path string, allow Allow) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if e := judge(path, info.Mode(), allow); e != nil {
		return e
	}
	return nil
}

func judge(path string, m os.FileMode, allow Allow) *KindError {
	switch {
	case m.IsRegular():
		return nil
	case m.IsDir():
		if allow&Folders != 0 {
			return nil
		}
		return &KindError{path, "a folder", "name a file"}
	case m&os.ModeNamedPipe != 0:
		if handedOver(path) {
			return nil
		}
		return &KindError{path, "a named pipe, which may wait for ever", "name a file; many verbs read stdin as -"}
	case m&os.ModeCharDevice != 0:
		if handedOver(path) {
			return nil
		}
		return &KindError{path, "a character device", "name a file; an empty one for nothing"}
	case m&os.ModeDevice != 0:
		if allow&BlockDevices != 0 {
			return nil
		}
		return &KindError{path, "a block device", "name a file"}
	case m&os.ModeSocket != 0:
		return &KindError{path, "a socket", "name a file"}
	default:
		return &KindError{path, fmt.Sprintf("no file (mode %s)", m), "name a file"}
	}
}

// handedOver reports whether the name is that of a descriptor which this
// process was started with.
func handedOver(path string) bool {
	switch path {
	case "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0":
		return true
	}
	for _, dir := range []string{"/dev/fd/", "/proc/self/fd/"} {
		if n, ok := strings.CutPrefix(filepath.Clean(path), dir); ok && n != "" && strings.Trim(n, "0123456789") == "" {
			return true
		}
	}
	return false
}

// Read returns the content of an input of at most limit bytes.
func Read(path string, limit int64) ([]byte, error) {
	f, err := Open(path, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, &KindError{Path: path, What: fmt.Sprintf("more than %d bytes, the limit for this kind of file", limit)}
	}
	return data, nil
}
