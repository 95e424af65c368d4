package deployment

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// Problem is something odd in the file, with its place.
type Problem struct {
	Code         Code
	File         string
	Line, Column int
	Workload     string // Object.ID, "" where none is concerned
	Container    string
	Msg          string
	Hint         string
}

// Code is a stable name for a kind of problem.
type Code string

// The kinds of problem.
const (
	ShapeWrong         Code = "shape"                // a field is not of the kind Kubernetes has there
	KindUnknown        Code = "unknown-kind"         // has pod templates, but is no workload kind
	DuplicateObject    Code = "duplicate-object"     // same kind, namespace and name twice
	NotConfidential    Code = "not-confidential"     // runs outside a contrast-cc runtime class
	RuntimeClassOdd    Code = "runtime-class"        // starts with contrast-cc but names no platform
	CoordinatorOdd     Code = "coordinator"          // the role on something that cannot have it
	ImageMissing       Code = "image-missing"        // a container without image
	ImageMalformed     Code = "image-malformed"      // not a reference by the grammar
	ImageUnpinned      Code = "image-unpinned"       // no digest
	ImageTwoDigests    Code = "image-two-digests"    // same name and tag, another digest
	DiskNoRootHash     Code = "disk-no-root-hash"    // disk-mounter without one
	DiskRootHash       Code = "disk-root-hash"       // not a SHA-256 or SHA-512 in hex
	DiskTwoRootHashes  Code = "disk-two-hashes"      // same model, another root hash
	DiskArgsUnused     Code = "disk-args-unused"     // the command override does not pass the args on
	DiskArgsOdd        Code = "disk-args"            // neither the flags nor the three positions
	CheckMalformed     Code = "check-malformed"      // the expected value cannot be that hash
	CheckNotInline     Code = "check-not-inline"     // the expected value is not in the file
	CheckNotEnforced   Code = "check-not-enforced"   // a mismatch is only printed
	CheckInverted      Code = "check-inverted"       // a match stops the container
	CheckNotUnderstood Code = "check-not-understood" // hashes a file beside a constant, in an unknown way
	TooMany            Code = "too-many"             // the list ends here
)

// Error gives the problem in one line, so that it can serve as an error.
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
	if p.Workload != "" {
		b.WriteString(p.Workload + ": ")
	}
	if p.Container != "" {
		b.WriteString("container " + p.Container + ": ")
	}
	b.WriteString(p.Msg)
	if p.Hint != "" {
		b.WriteString(" (" + p.Hint + ")")
	}
	return b.String()
}

// maxProblems bounds the list; a hostile file could hold a million.
const maxProblems = 10_000

func (d *Deployment) report(p Problem) {
	p.File = d.File
	switch n := len(d.problems); {
	case n < maxProblems:
		d.problems = append(d.problems, p)
	case n == maxProblems:
		d.problems = append(d.problems, Problem{Code: TooMany, File: d.File, Line: p.Line, Msg: fmt.Sprintf("more than %d problems", maxProblems)})
	}
}

func (d *Deployment) reportAt(n *yaml.Node, code Code, workload, container, format string, args ...any) {
	p := Problem{Code: code, Workload: workload, Container: container, Msg: fmt.Sprintf(format, args...)}
	if n != nil {
		p.Line, p.Column = n.Line, n.Column
	}
	d.report(p)
}

func (d *Deployment) sortProblems() {
	slices.SortStableFunc(d.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Code, b.Code))
	})
}

// clip bounds what a message quotes of foreign input.
func clip(s string) string {
	const limit = 100
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
