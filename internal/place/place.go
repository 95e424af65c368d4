// Package place has the one form of a position in an input and of a fault
// there: which file, where in it, what was found, what was wanted, what mends
// it.
package place

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxQuote bounds what a fault repeats of foreign input, in bytes.
const maxQuote = 120

// Where is a position in an input. The zero value is no position.
type Where struct {
	File    string // the input's name as it was given
	Line    int    // from 1; 0: none
	Column  int    // from 1; 0: none
	Pointer string // JSON pointer (RFC 6901)
	Part    string // "certificate 2", "section .linux"
	offset  int64  // byte offset + 1, so that the zero value is none
}

// InFile is a whole input.
func InFile(name string) Where { return Where{File: name} }

// At is w at a byte offset.
func (w Where) At(offset int64) Where { w.offset = offset + 1; return w }

// Offset returns the byte offset and whether there is one.
func (w Where) Offset() (n int64, ok bool) { return w.offset - 1, w.offset > 0 }

// String gives "file:line:column: pointer, offset N, part" as far as known.
func (w Where) String() string {
	s := w.File
	if w.Line > 0 {
		if s == "" {
			s = "line "
		} else {
			s += ":"
		}
		s += strconv.Itoa(w.Line)
		if w.Column > 0 {
			s += ":" + strconv.Itoa(w.Column)
		}
	}
	var more []string
	if w.Pointer != "" {
		more = append(more, w.Pointer)
	}
	if n, ok := w.Offset(); ok {
		more = append(more, "offset "+strconv.FormatInt(n, 10))
	}
	if w.Part != "" {
		more = append(more, w.Part)
	}
	if s == "" {
		return strings.Join(more, ", ")
	}
	if len(more) > 0 {
		s += ": " + strings.Join(more, ", ")
	}
	return s
}

// Fault is an input that is not what it must be.
type Fault struct {
	Op    string // what was done: "read", "measure"; "" is "read"
	Input string // what is read: "TDX quote", "SEV metadata"; may be ""
	Where Where
	Field string // the field there, as its specification names it
	Found string
	Want  string
	Hint  string // what mends it, without a leading capital
	Err   error  // the reason below, if there is one
}

// Error gives one line: operation, input, place, field, found and wanted.
func (f *Fault) Error() string {
	var b strings.Builder
	b.WriteString(f.Op)
	if f.Op == "" {
		b.WriteString("read")
	}
	if f.Input != "" {
		b.WriteString(" " + f.Input)
	}
	if w := f.Where.String(); w != "" {
		b.WriteString(" " + w)
	}
	if f.Field != "" {
		b.WriteString(": " + f.Field)
	}
	if f.Found != "" {
		b.WriteString(": found " + clip(f.Found))
	}
	if f.Want != "" {
		if f.Found == "" {
			b.WriteString(": want " + f.Want)
		} else {
			b.WriteString(", want " + f.Want)
		}
	}
	if f.Err != nil {
		b.WriteString(": " + f.Err.Error())
	}
	return b.String()
}

// Unwrap gives the reason below.
func (f *Fault) Unwrap() error { return f.Err }

func clip(s string) string {
	if len(s) <= maxQuote {
		return s
	}
	return strings.ToValidUTF8(s[:maxQuote], "") + "…"
}

// MaxFaults bounds how many faults of one input are kept.
const MaxFaults = 1000

// Faults collects independent faults. The zero value is ready. What is beyond
// MaxFaults is counted, and Err says so: a list that was cut off never looks
// complete.
type Faults struct {
	list []*Fault
	more int
}

// Add keeps a fault.
func (fs *Faults) Add(f *Fault) {
	if len(fs.list) >= MaxFaults {
		fs.more++
		return
	}
	fs.list = append(fs.list, f)
}

// Len is the number of faults, kept or not.
func (fs *Faults) Len() int { return len(fs.list) + fs.more }

// List returns the kept faults in the order of their finding, and how many
// more there were.
func (fs *Faults) List() (kept []*Fault, more int) { return fs.list, fs.more }

// Err joins them, a line each; nil if there is none.
func (fs *Faults) Err() error {
	if fs.Len() == 0 {
		return nil
	}
	errs := make([]error, 0, len(fs.list)+1)
	for _, f := range fs.list {
		errs = append(errs, f)
	}
	if fs.more > 0 {
		errs = append(errs, fmt.Errorf("and %d more faults", fs.more))
	}
	return errors.Join(errs...)
}
