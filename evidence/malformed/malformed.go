// Package malformed holds the one error of everything that reads evidence:
// foreign bytes that are not what they must be, with the place, what was found
// there and what was expected.
package malformed

import (
	"strconv"
	"strings"
)

// maxQuote bounds what an error repeats of foreign input, in bytes.
const maxQuote = 120

// Error says which input is wrong where.
type Error struct {
	Input string // what is read: "TDX quote", "collateral", a file name
	Place string // "offset 632", "/tcb_info", "line 7", "certificate 2"
	Field string // the field there, as its specification names it
	Found string
	Want  string
}

// Error gives one line: input, place, field, found and expected.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("read ")
	b.WriteString(e.Input)
	for _, part := range []string{e.Place, e.Field} {
		if part != "" {
			b.WriteString(": ")
			b.WriteString(part)
		}
	}
	b.WriteString(": found ")
	b.WriteString(clip(e.Found))
	if e.Want != "" {
		b.WriteString(", want ")
		b.WriteString(e.Want)
	}
	return b.String()
}

// Offset is the place of a byte.
func Offset(n int) string { return "offset " + strconv.Itoa(n) }

// Line is the place of a line, from 1.
func Line(n int) string { return "line " + strconv.Itoa(n) }

func clip(s string) string {
	if len(s) <= maxQuote {
		return s
	}
	return strings.ToValidUTF8(s[:maxQuote], "") + "…"
}
