package tdxmeasure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/retally/retally/internal/digest"
)

// Input is one artifact: a name for traces and errors, and its bytes. The
// bytes are never changed and never held whole. An Input without a reader is
// absent.
type Input struct {
	Name string
	R    io.ReaderAt
	Size int64
	// Known is the digest of the whole file where it is known without the
	// bytes, as from a registry row. Its algorithm must be the one that the
	// register uses.
	Known digest.Digest
}

// Bytes makes an Input of bytes in memory.
func Bytes(name string, data []byte) Input {
	return Input{Name: name, R: bytes.NewReader(data), Size: int64(len(data))}
}

// Present reports whether the input was given, as bytes or as a digest.
func (in Input) Present() bool { return in.R != nil || !in.Known.IsZero() }

// FileError names the file in which another error was found.
type FileError struct {
	Name string
	Err  error
}

// Error implements error.
func (e *FileError) Error() string { return e.Name + ": " + e.Err.Error() }

// Unwrap gives the error itself.
func (e *FileError) Unwrap() error { return e.Err }

// Error says which input cannot be measured and why.
type Error struct {
	Input  string // the artifact or setting
	Offset int64  // byte offset in it; -1 where none applies
	Found  string
	Want   string
	// Hint is what helps. It names a field of the machine's description as
	// {field} or {field: value}: a room does not know by which name its user
	// gives it.
	Hint string
}

// Error implements error.
func (e *Error) Error() string {
	s := e.Input
	if e.Offset >= 0 {
		s += fmt.Sprintf(": offset %#x", e.Offset)
	}
	s += ": " + e.Found
	if e.Want != "" {
		s += ", want " + e.Want
	}
	if e.Hint != "" {
		s += " (" + NameFields(e.Hint, nil) + ")"
	}
	return s
}

// fieldMark is a field of a machine's description in a hint, with a value or
// without.
var fieldMark = regexp.MustCompile(`\{([a-z][a-z0-9_]*)(?:: ([^{}]*))?\}`)

// NameFields replaces the fields in a hint: name says how its user gives a field
// and the value proposed for it, if one is. Without name it is "field: value".
func NameFields(hint string, name func(field, value string) string) string {
	return fieldMark.ReplaceAllStringFunc(hint, func(mark string) string {
		m := fieldMark.FindStringSubmatch(mark)
		switch {
		case name != nil:
			return name(m[1], m[2])
		case m[2] == "":
			return m[1]
		default:
			return m[1] + ": " + m[2]
		}
	})
}

const chunk = 256 << 10

// Sum hashes the whole input, unless its digest is known.
func (in Input) Sum(ctx context.Context, alg digest.Algorithm) (digest.Digest, error) {
	if !in.Known.IsZero() {
		if in.Known.Algorithm() != alg {
			return digest.Digest{}, &Error{Input: in.Name, Offset: -1, Found: "a known " + in.Known.Algorithm().String() + " digest", Want: alg.String()}
		}
		return in.Known, nil
	}
	h := alg.New()
	if err := in.copyTo(ctx, h, 0, in.Size); err != nil {
		return digest.Digest{}, err
	}
	return digest.FromHash(alg, h), nil
}

// copyTo writes n bytes from offset to w. Less than that is an error: the
// size was promised.
func (in Input) copyTo(ctx context.Context, w io.Writer, offset, n int64) error {
	buf := make([]byte, min(chunk, n))
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(int64(len(buf)), n)]
		got, err := in.R.ReadAt(b, offset)
		if got < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read %s: offset %#x: %w", in.Name, offset+int64(got), err)
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		offset += int64(got)
		n -= int64(got)
	}
	return nil
}
