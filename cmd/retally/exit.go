package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/internal/inputfile"
	"github.com/retally/retally/internal/outfile"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/tdxmeasure"
)

// exitCodes is the contract with scripts; docs/exit-codes.md and the man page
// are made from it.
var exitCodes = []struct {
	code int
	what string
}{
	{0, "all compared values match; or nothing was asked to be compared, and it is computed"},
	{1, "something differs, or an input is invalid where validity was the question"},
	{2, "could not run: usage, I/O or bad input; nothing was concluded"},
	{3, "nothing differs, but something published was not recomputed or an input is missing"},
	{130, "interrupted"},
}

const (
	exitMatch       = 0
	exitDiffers     = 1
	exitTrouble     = 2
	exitUnchecked   = 3
	exitInterrupted = 130
)

// outcomeError carries an exit code that is a result, not a failure. It
// travels up like an error so that only main exits.
type outcomeError struct{ code int }

func (e outcomeError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// end is the one place that turns a result into an exit code.
func (c conclusion) end() error {
	switch {
	case c.word == string(pipeline.OutcomeMatch), c.computed:
		return nil
	case c.word == string(pipeline.OutcomeDiffers), c.word == wordInvalid, c.word == wordDenied:
		return outcomeError{exitDiffers}
	default:
		return outcomeError{exitUnchecked}
	}
}

// refused is the end of a verb that said by itself why there is no result: the
// input was understood and does not hold (invalid), or could not be used.
func refused(invalid bool) (code int, err error) {
	code = exitTrouble
	if invalid {
		code = exitDiffers
	}
	return code, outcomeError{code}
}

// userError is a failure with what would mend it.
type userError struct {
	op, path, msg, hint string
	err                 error
}

func (e *userError) Error() string {
	s := e.op
	for _, part := range []struct{ between, text string }{{" ", e.path}, {": ", e.msg}} {
		if s != "" && part.text != "" {
			s += part.between
		}
		s += part.text
	}
	if e.err != nil {
		if s != "" {
			s += ": "
		}
		s += e.err.Error()
	}
	return s
}

func (e *userError) Unwrap() error { return e.err }

// describe takes an error apart for the JSON form.
func describe(err error) (op, path, msg, hint string) {
	msg = err.Error()
	var u *userError
	if errors.As(err, &u) {
		op, path, hint = u.op, u.path, u.hint
	}
	var s *run.StageError
	if errors.As(err, &s) {
		op = s.Stage
	}
	var in *pipeline.InputError
	if errors.As(err, &in) {
		op, path, hint = in.Op, in.File, in.Hint
	}
	var fault *run.Fault
	if errors.As(err, &fault) {
		hint = fault.Hint
	}
	var k *inputfile.KindError
	if errors.As(err, &k) {
		path, hint = k.Path, k.Hint
	}
	var w *outfile.Error
	if errors.As(err, &w) {
		op, path, hint = "write", w.Path, w.Hint
	}
	var y *yamldoc.Error
	if errors.As(err, &y) {
		path, hint = y.File, y.Hint
	}
	var at *place.Fault
	if errors.As(err, &at) {
		if op == "" {
			op = at.Op
		}
		if path == "" {
			path = at.Where.File
		}
		if hint == "" {
			hint = at.Hint
		}
	}
	// A room names its file itself; the message has it already.
	var f *tdxmeasure.FileError
	var m *malformed.Error
	switch {
	case path != "":
	case errors.As(err, &f):
		path = f.Name
	case errors.As(err, &m):
		path = m.Input
	}
	var p *os.PathError
	if errors.As(err, &p) && path == "" {
		op, path = p.Op, p.Path
	}
	return op, path, msg, hint
}

// report prints an error and returns the exit code.
func (a *app) exit(err error, asJSON bool) int {
	var o outcomeError
	switch {
	case err == nil:
		return exitMatch
	case errors.As(err, &o):
		return o.code
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(a.stderr, "retally: interrupted")
		return exitInterrupted
	}
	op, path, msg, hint := describe(err)
	given := a.asGiven(path)
	msg = once(msg, path, given)
	names := []string{path, given}
	path = given
	if asJSON {
		a.writeFailure(failureError{exitTrouble, op, path, msg, hint}, nil)
		return exitTrouble
	}
	// An error may join several; each is a line of its own. A line break in a
	// file's name must not look like one more.
	for _, name := range append(slices.Clone(a.args), names...) {
		if _, value, ok := strings.Cut(name, "="); ok && strings.HasPrefix(name, "--") {
			name = value
		}
		if strings.ContainsAny(name, "\n\r") {
			msg = strings.ReplaceAll(msg, name, strings.NewReplacer("\n", `\n`, "\r", `\r`).Replace(name))
		}
	}
	for _, line := range strings.Split(msg, "\n") {
		fmt.Fprintln(a.stderr, "retally: "+show.Text(line))
	}
	if hint != "" && !strings.Contains(msg, hint) {
		fmt.Fprintln(a.stderr, "retally: hint: "+show.Text(hint))
	}
	return exitTrouble
}

// writeJSON prints a value as the JSON forms of all verbs do.
func writeJSON(w io.Writer, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(show.JSON(b.Bytes()))
	return err
}
