package policygen

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// ProblemKind says what sort of fault a Problem is.
type ProblemKind uint8

// The kinds of problems.
const (
	Syntax       ProblemKind = iota // not YAML, JSON or TOML at all
	Limit                           // larger or deeper than the bounds allow
	UnknownField                    // a field the generator does not know
	MissingField                    // a required field is absent
	Type                            // a value of the wrong type or range
	Unsupported                     // known, but without a defined policy (kinds, volumes, subPath)
	Reference                       // a ConfigMap, Secret, label or field that is not there
	Image                           // an image reference, config or layer
	SettingsKind                    // the settings do not hold what is needed
	InitdataKind                    // the base initdata document
	GuestPull                       // user and groups that guest pull cannot reproduce (genpolicy: exit 1)
	Unpinned                        // an image without digest where the image is bound
)

var problemNames = [...]string{
	"syntax", "limit", "unknown-field", "missing-field", "type", "unsupported", "reference", "image",
	"settings", "initdata", "guest-pull", "unpinned",
}

// String is the stable name of the kind.
func (k ProblemKind) String() string { return problemNames[k] }

// MarshalText writes the stable name.
func (k ProblemKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Problem is one fault of the input with its place.
type Problem struct {
	File   string      `json:"file"`
	Line   int         `json:"line,omitempty"`   // from 1; 0 where it is not known
	Column int         `json:"column,omitempty"` // from 1
	Path   string      `json:"path,omitempty"`   // spec.containers[0].workingDir
	Kind   ProblemKind `json:"kind"`
	// Harmless is set for unknown fields that no container can notice (status,
	// managedFields): they may be accepted with AcceptHarmless.
	Harmless bool   `json:"harmless,omitempty"`
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`
}

func (p Problem) String() string {
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
	b.WriteString(p.Message)
	if p.Hint != "" {
		b.WriteString(" (" + p.Hint + ")")
	}
	return b.String()
}

// Problems are all faults that were found, in input order. It is an error:
// nothing was generated.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// Only reports whether every problem is of that kind.
func (p Problems) Only(k ProblemKind) bool {
	return len(p) > 0 && !slices.ContainsFunc(p, func(one Problem) bool { return one.Kind != k })
}

// maxProblems bounds a report; a file with more is not read any better for it.
const maxProblems = 1000

// collector gathers problems of one file.
type collector struct {
	file     string
	problems Problems
	notes    Problems // accepted unknown fields
}

func (c *collector) add(at *value, path string, k ProblemKind, format string, args ...any) {
	if len(c.problems) >= maxProblems {
		return
	}
	p := Problem{File: c.file, Path: path, Kind: k, Message: fmt.Sprintf(format, args...)}
	if at != nil {
		p.Line, p.Column = at.line, at.column
	}
	c.problems = append(c.problems, p)
}

// hint sets the hint of the problem added last.
func (c *collector) hint(format string, args ...any) {
	if n := len(c.problems); n > 0 {
		c.problems[n-1].Hint = fmt.Sprintf(format, args...)
	}
}

func (p Problems) sorted() Problems {
	slices.SortStableFunc(p, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return p
}
