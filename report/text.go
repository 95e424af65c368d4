package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
)

// TextOptions say how text is laid out.
type TextOptions struct {
	Color   bool
	Width   int  // columns, at least 40; 0 means 80
	Verbose bool // whole digests, all inputs
}

type textWriter struct {
	b     strings.Builder
	o     TextOptions
	width int
}

// Text renders for a terminal or a log.
func Text(w io.Writer, r *pipeline.Report, o TextOptions) error {
	t := &textWriter{o: o, width: o.Width}
	if t.width == 0 {
		t.width = 80
	}
	t.width = max(t.width, 40)
	t.report(NewView(r, Options{Full: o.Verbose, AllCauses: o.Verbose}))
	_, err := io.WriteString(w, t.b.String())
	return err
}

func (t *textWriter) report(v *View) {
	t.b.WriteString(t.paint(v.Verdict, outcomeColor(v.Outcome)) + "  ")
	t.wrapRest(show.Width(v.Verdict)+2, 2, show.Text(v.Summary))
	if v.Subject != "" {
		t.line(2, v.Subject)
	}
	for _, f := range v.Facts {
		t.line(2, f)
	}
	t.b.WriteByte('\n')
	for _, r := range v.Results {
		fmt.Fprintf(&t.b, "  %-11s ", r.Name)
		t.b.WriteString(t.paint(fmt.Sprintf("%-10s", r.Verdict), verdictColor(r.Verdict)) + " ")
		t.wrapRest(25, 25, show.Text(r.Words))
	}
	for i := range v.Groups {
		t.group(&v.Groups[i])
	}
	t.problems(v)
	t.gate(v.Gate)
	t.lacks(v)
	if t.o.Verbose && len(v.Inputs) > 0 {
		t.b.WriteString("\nInputs\n")
		for _, in := range v.Inputs {
			t.line(2, fmt.Sprintf("%s  %s  %d bytes", in.Digest, in.File, in.Size))
		}
	}
	if v.Next != "" {
		t.b.WriteString("\nNext: ")
		t.command(6, 2, v.Next)
		if v.NextWhy != "" {
			t.line(2, v.NextWhy)
		}
	}
}

func (t *textWriter) group(g *Group) {
	if len(g.Lines) == 0 && g.Agree == 0 && len(g.Alone) == 0 {
		return
	}
	t.b.WriteByte('\n')
	head := g.Title
	if g.Coverage != "" {
		head += ": " + g.Coverage
	}
	t.line(0, head)
	if g.Agree > 0 {
		t.line(2, show.Plural(g.Agree, "value agrees", "values agree"))
	}
	for i, a := range g.Alone {
		const most = 24
		if i == most && !t.o.Verbose {
			t.line(2, fmt.Sprintf("and %d more (-v shows all)", len(g.Alone)-most))
			break
		}
		t.line(2, fmt.Sprintf("%s %s (%s)", a.Words, a.Value, a.Basis))
	}
	if t.o.Verbose {
		for i := range g.Agreeing {
			t.agreeing(&g.Agreeing[i])
		}
	}
	for _, l := range g.Lines {
		t.marked(l.mark(), t.color(l), l.Text)
		for _, d := range l.Details {
			t.line(6, d)
		}
		t.causes(&l)
	}
}

// agreeing shows a value that matches, for those who asked for everything.
func (t *textWriter) agreeing(f *pipeline.Finding) {
	s := fmt.Sprintf("%s %s (%s)", f.Key, f.Got, f.Standing)
	if f.Where.File != "" {
		s += " [" + Place(f.Where) + "]"
	}
	t.marked("=", green, s)
}

// mark is the first column of a line: the verdict at a glance, in ASCII.
func (l *Line) mark() string {
	switch {
	case l.Class == pipeline.ClassVolatile:
		return "."
	case l.Verdict == pipeline.Unchecked:
		return "?"
	case l.Verdict == pipeline.Missing:
		return "-"
	case l.Verdict == pipeline.Extra:
		return "+"
	default:
		return "!"
	}
}

func (t *textWriter) color(l Line) string {
	switch {
	case l.Class == pipeline.ClassVolatile:
		return ""
	case l.Verdict == pipeline.Unchecked:
		return yellow
	default:
		return red
	}
}

func (t *textWriter) causes(l *Line) {
	const most = 6
	causes := l.folded()
	if t.o.Verbose {
		causes = causes[:0]
		for _, c := range l.Causes {
			causes = append(causes, Cause{Cause: c})
		}
	}
	for i, c := range causes {
		if i == most && !t.o.Verbose {
			t.line(6, fmt.Sprintf("and %d more causes (-v shows all)", len(causes)-most))
			return
		}
		t.line(6, c.words())
	}
}

// CauseWords says a cause in one line, with the place in the documents that says
// more.
func CauseWords(c pipeline.Cause) string {
	s := plainCause(c)
	if c.Hint != "" {
		s += " (docs/why-it-differs.md#" + c.Hint + ")"
	}
	return s
}

func plainCause(c pipeline.Cause) string {
	var b strings.Builder
	fmt.Fprintf(&b, "cause (%s): ", c.Standing)
	if c.Note != "" {
		b.WriteString(c.Note)
	} else {
		b.WriteString(strings.Join(c.Path, " > "))
	}
	switch {
	case c.Expected != "" && c.Actual != "":
		fmt.Fprintf(&b, ": expected %s, found %s", c.Expected, c.Actual)
	case c.Expected != "":
		fmt.Fprintf(&b, ": %s", c.Expected)
	case c.Actual != "":
		fmt.Fprintf(&b, ": %s", c.Actual)
	}
	if c.Where.File != "" {
		fmt.Fprintf(&b, " [%s]", Place(c.Where))
	}
	return b.String()
}

// Place says where a value stands: file:line and JSON pointer.
func Place(w pipeline.Where) string {
	s := w.File
	if w.Line > 0 {
		s += fmt.Sprintf(":%d", w.Line)
	}
	if w.Pointer != "" {
		s += " " + w.Pointer
	}
	return s
}

func (t *textWriter) problems(v *View) {
	if len(v.Problems) == 0 {
		return
	}
	t.b.WriteString("\nFound in the inputs\n")
	const most = 12
	for i, p := range v.Problems {
		if i == most && !t.o.Verbose {
			t.line(2, fmt.Sprintf("and %d more (-v shows all)", len(v.Problems)-most))
			break
		}
		color, mark := "", "."
		switch p.Level {
		case pipeline.LevelError:
			color, mark = red, "!"
		case pipeline.LevelWarning:
			color, mark = yellow, "?"
		}
		t.marked(mark, color, problemWords(p))
	}
}

func problemWords(p pipeline.Problem) string {
	s := p.Msg
	if p.Where.File != "" {
		s = Place(p.Where) + ": " + s
	}
	if p.Hint != "" {
		s += " (" + p.Hint + ")"
	}
	return s
}

func (t *textWriter) lacks(v *View) {
	if len(v.Lacks)+len(v.More) == 0 {
		return
	}
	t.b.WriteString("\nMissing to check more\n")
	for _, l := range slices.Concat(v.Lacks, v.More) {
		s := l.What
		if l.For != "" {
			s += ", for " + l.For
		}
		if l.How != "" {
			s += ": " + l.How
		}
		t.line(2, s)
	}
}

// marked writes a line with a one-character mark in front.
func (t *textWriter) marked(mark, color, s string) {
	t.b.WriteString("  " + t.paint(mark, color) + " ")
	t.wrapRest(4, 6, show.Text(s))
}

func (t *textWriter) line(indent int, s string) {
	t.b.WriteString(strings.Repeat(" ", indent))
	t.wrapRest(indent, indent+2, show.Text(s))
}

// wrapRest writes s from column at on, with further lines indented. A word
// that is longer than a line is not broken: digests and paths are copied.
func (t *textWriter) wrapRest(at, indent int, s string) {
	show.Wrap(&t.b, t.width, at, indent, strings.Fields(s), "")
	t.b.WriteByte('\n')
}

// command writes a command from column at on. Where it is longer than a line it
// goes on behind a backslash, which a shell takes as the same command.
func (t *textWriter) command(at, indent int, s string) {
	show.Wrap(&t.b, t.width, at, indent, shellWords(show.Text(s)), " \\")
	t.b.WriteByte('\n')
}

// shellWords splits a command at the blanks where a shell does; quotes stay.
func shellWords(s string) []string {
	var out []string
	var word strings.Builder
	quoted := false
	for _, r := range s {
		switch {
		case r == ' ' && !quoted:
			if word.Len() > 0 {
				out = append(out, word.String())
				word.Reset()
			}
			continue
		case r == '\'':
			quoted = !quoted
		}
		word.WriteRune(r)
	}
	if word.Len() > 0 {
		out = append(out, word.String())
	}
	return out
}

const (
	red    = "31"
	green  = "32"
	yellow = "33"
)

func (t *textWriter) paint(s, color string) string {
	if !t.o.Color || color == "" {
		return s
	}
	return "\x1b[1;" + color + "m" + s + "\x1b[0m"
}

func outcomeColor(o pipeline.Outcome) string {
	return map[pipeline.Outcome]string{pipeline.OutcomeMatch: green, pipeline.OutcomeDiffers: red, pipeline.OutcomeUnchecked: yellow}[o]
}

func verdictColor(v pipeline.Verdict) string {
	return map[pipeline.Verdict]string{pipeline.Match: green, pipeline.Differs: red, pipeline.Unchecked: yellow}[v]
}
