package pipeline

import (
	"errors"
	"fmt"
	"os"
)

// InputError is a failure to read an input.
type InputError struct {
	Op, File string
	Err      error
	Hint     string
}

func (e *InputError) Error() string {
	s := fmt.Sprintf("%s %s: %v", e.Op, e.File, e.Err)
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

func (e *InputError) Unwrap() error { return e.Err }

// NewInputError says that op failed on a named input.
func NewInputError(op, name string, err error) error {
	// The path of this machine says nothing more than the name; the reason does.
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return &InputError{Op: op, File: name, Err: err}
}
