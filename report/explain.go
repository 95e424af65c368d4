package report

import (
	"fmt"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
)

// Explanation is what a report knows of one key, for people.
func Explanation(e *pipeline.Explanation) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(show.Text(fmt.Sprintf(format, args...)) + "\n") }
	line("%s", e.Key)
	if f := e.Finding; f != nil {
		if f.Words != "" {
			line("  what       %s", f.Words)
		}
		line("  verdict    %s (%s)", f.Verdict, f.Class)
		line("  here       %s", orNone(f.Got))
		line("  published  %s", orNone(f.Want))
		if f.Relation != pipeline.Equal {
			line("  relation   %s", f.Relation)
		}
		if f.Where.File != "" {
			line("  stands in  %s", Place(f.Where))
		}
		if f.Note != "" {
			line("  note       %s", f.Note)
		}
	} else {
		line("  value      %s", orNone(e.Measurement.Value))
	}
	if e.Measurement != nil {
		line("  how known  %s", e.Standing)
		for _, k := range e.Standing.RestsOn {
			line("             rests on %s", k)
		}
		if e.Measurement.Note != "" {
			line("  about      %s", e.Measurement.Note)
		}
	}
	if e.Finding != nil {
		for _, c := range e.Finding.Why {
			line("  %s", CauseWords(c))
			if len(c.Path) > 0 {
				line("    at %s", strings.Join(c.Path, " > "))
			}
		}
	}
	if len(e.Tree) > 0 {
		line("  computed from")
		for _, t := range e.Tree {
			basis := ""
			if t.Basis != 0 {
				basis = " (" + t.Basis.String() + ")"
			}
			line("%s%s%s  %s", strings.Repeat("  ", t.Depth+2), t.Name, basis, t.Value)
		}
	}
	if m := e.Measurement; m != nil && m.Trace != nil {
		line("  trace, folded by %s with %s", m.Trace.Fold, m.Trace.Algorithm)
		for _, ev := range m.Trace.Events {
			line("    %3d  %s  %s", ev.Index, ev.Digest.Hex(), ev.Label)
		}
	}
	for _, s := range e.Sets {
		line("  set %s: %d match, %d differ, %d unchecked, of %s", s.Set, s.Match, s.Differs, s.Unchecked, show.Plural(s.Alternatives, "set", "sets"))
	}
	return b.String()
}

func orNone(v pipeline.Value) string {
	if v.IsNone() {
		return "(none)"
	}
	return v.String()
}
