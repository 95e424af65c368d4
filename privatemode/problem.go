// Package privatemode reads the files that Privatemode and its users' tools
// publish: image hashes (hashes-<host>.json), published models (models.yaml),
// the proxy's workspace with its log of manifests, `docker inspect` of the
// proxy image, and the layout of a checkout of privatemode-public.
//
// It reads and locates; it compares with nothing. Foreign input is bounded,
// and all independent faults of a file are reported together.
package privatemode

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one fault in a file.
type Problem struct {
	File         string
	Line, Column int    // from 1; 0 where none applies
	Path         string // field or key, "" if none
	Msg          string
}

// Error gives the problem in one line.
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
		if p.Column > 0 {
			fmt.Fprintf(&b, ":%d", p.Column)
		}
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Msg)
	return b.String()
}

// Problems are all faults of a file, by line. It is the error type of this
// package's parsers.
type Problems []Problem

// Error gives one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, e := range p {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// err is nil for no problems, so that an empty list is no error.
func (p Problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// maxProblems bounds the list.
const maxProblems = 1000

func (p *Problems) add(e Problem) {
	switch {
	case len(*p) < maxProblems:
		*p = append(*p, e)
	case len(*p) == maxProblems:
		*p = append(*p, Problem{File: e.File, Line: e.Line, Msg: fmt.Sprintf("more than %d problems", maxProblems)})
	}
}

// lineIndex finds lines in a text without reading it again each time.
type lineIndex []int

func newLineIndex(data []byte) lineIndex {
	idx := lineIndex{0}
	for i, c := range data {
		if c == '\n' {
			idx = append(idx, i+1)
		}
	}
	return idx
}

// at returns line and column, both from 1, of a byte offset.
func (l lineIndex) at(off int) (line, column int) {
	i, exact := slices.BinarySearch(l, off)
	if !exact {
		i--
	}
	return i + 1, off - l[i] + 1
}

// clip bounds what a message quotes of foreign input.
func clip(s string) string {
	const limit = 100
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
