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
	NotString          Code = "not-string"           // a name that the API server reads as a number or a boolean
	KindUnknown        Code = "unknown-kind"         // no kind that is known: Unknown lists it
	ExemptionOdd       Code = "exemption"            // an exemption that names nothing, or gives no reason
	Exempt             Code = "exempt"               // outside a contrast-cc runtime class, by the user's leave
	StartOpaque        Code = "start-opaque"         // what a container starts is not understood: Opaque lists it
	DuplicateObject    Code = "duplicate-object"     // same kind, namespace and name twice
	NotConfidential    Code = "not-confidential"     // runs outside a contrast-cc runtime class
	RuntimeClassOdd    Code = "runtime-class"        // starts with contrast-cc and is no class of Contrast's
	CoordinatorOdd     Code = "coordinator"          // the role on something that cannot have it
	ImageMissing       Code = "image-missing"        // a container without image
	ImageMalformed     Code = "image-malformed"      // not a reference by the grammar
	ImageUnpinned      Code = "image-unpinned"       // no digest
	ImageTwoDigests    Code = "image-two-digests"    // same name and tag, another digest
	DiskNoRootHash     Code = "disk-no-root-hash"    // disk-mounter without one
	DiskRootHash       Code = "disk-root-hash"       // not a SHA-256 or SHA-512 in hex
	DiskTwoRootHashes  Code = "disk-two-hashes"      // same model, another root hash
	DiskSecondRootHash Code = "disk-second-hash"     // another root hash beside the one that is judged
	DiskArgsUnused     Code = "disk-args-unused"     // the command override does not pass the args on
	DiskArgsOdd        Code = "disk-args"            // neither the flags nor the three positions
	CheckMalformed     Code = "check-malformed"      // the expected value cannot be that hash
	CheckNotEnforced   Code = "check-not-enforced"   // a mismatch is only printed
	CheckInverted      Code = "check-inverted"       // a match stops the container
	CheckNotUnderstood Code = "check-not-understood" // hashes a file beside a constant, in an unknown way
	TooMany            Code = "too-many"             // the list was cut, or the work
)

// Level says how bad a kind of problem is by itself.
type Level string

// An error leaves something that runs unbound, or could hide that it does. An
// unchecked problem stands for a value of its own that nobody checked (see
// [Deployment.Opaque] and [Deployment.Unknown]). A warning may be meant.
const (
	Error     Level = "error"
	Unchecked Level = "unchecked"
	Warning   Level = "warning"
)

// Level gives the level of a kind.
func (c Code) Level() Level {
	switch c {
	case StartOpaque, KindUnknown, CheckNotUnderstood:
		return Unchecked
	case NotString, CoordinatorOdd, ImageTwoDigests, DiskTwoRootHashes, DiskArgsOdd, ExemptionOdd, Exempt:
		return Warning
	}
	return Error
}

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

// maxProblems bounds the problems of one code that are kept; a hostile file
// could hold a million. By code, so that no number of one pushes out another:
// warnings no errors, and harmless errors none that matters.
const maxProblems = 1_000

type problems struct {
	kept  []Problem
	count map[Code]int
}

func (p *problems) add(q Problem) {
	if p.count == nil {
		p.count = map[Code]int{}
	}
	if p.count[q.Code]++; p.count[q.Code] <= maxProblems {
		p.kept = append(p.kept, q)
	}
}

// list gives what was kept: errors first by line where the list was cut,
// behind a problem for every code that says how many are missing; else all by
// line.
func (p *problems) list() []Problem {
	byLine := func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Code, b.Code))
	}
	out := slices.Clone(p.kept)
	slices.SortStableFunc(out, byLine)
	var cuts []Problem
	for code, n := range p.count {
		if n > maxProblems {
			i := slices.IndexFunc(out, func(q Problem) bool { return q.Code == code })
			cuts = append(cuts, Problem{
				Code: TooMany, File: out[i].File, Line: out[i].Line,
				Msg: fmt.Sprintf("%d problems of the kind %s, of which the first %d are listed", n, code, maxProblems),
			})
		}
	}
	if len(cuts) == 0 {
		return out
	}
	slices.SortFunc(cuts, func(a, b Problem) int { return cmp.Or(byLine(a, b), cmp.Compare(a.Msg, b.Msg)) })
	rank := map[Level]int{Error: 0, Unchecked: 1, Warning: 2}
	slices.SortStableFunc(out, func(a, b Problem) int { return cmp.Compare(rank[a.Code.Level()], rank[b.Code.Level()]) })
	return append(cuts, out...)
}

func (d *Deployment) report(p Problem) {
	p.File = d.File
	d.problems.add(p)
}

func (d *Deployment) reportAt(n *yaml.Node, code Code, workload, container, format string, args ...any) {
	p := Problem{Code: code, Workload: workload, Container: container, Msg: fmt.Sprintf(format, args...)}
	if n != nil {
		p.Line, p.Column = n.Line, n.Column
	}
	d.report(p)
}

// clip bounds what a message quotes of foreign input.
func clip(s string) string {
	const limit = 100
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
