package report

import (
	"fmt"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
)

// GateView is what a gate has to say beside the problems: in words, raw.
type GateView struct {
	Accepted []string
	Previous string
	Moved    []string
	Volatile int // moved, as expected
}

func newGateView(g *pipeline.Gate) *GateView {
	if g == nil {
		return nil
	}
	v := &GateView{Previous: g.Previous}
	for i := range g.Accepted {
		a := &g.Accepted[i]
		what := a.Rule
		if a.Key != "" {
			what += " " + string(a.Key)
		}
		switch {
		case !a.Want.IsNone():
			what += fmt.Sprintf(" (%s, published %s)", short(a.Got, false), short(a.Want, false))
		case !a.Got.IsNone():
			what += fmt.Sprintf(" (%s)", short(a.Got, false))
		}
		v.Accepted = append(v.Accepted, fmt.Sprintf("%s: %s; %s, until %s (%s)", what, a.Reason, a.Owner, a.Expires, at(a.Where)))
	}
	for i := range g.Moved {
		m := &g.Moved[i]
		if m.Class == pipeline.ClassVolatile {
			v.Volatile++
			continue
		}
		s := fmt.Sprintf("%s: %s -> %s", m.Key, short(m.Got, false), short(m.Want, false))
		switch {
		case m.Got.IsNone():
			s = fmt.Sprintf("%s: new, %s", m.Key, short(m.Want, false))
		case m.Want.IsNone():
			s = fmt.Sprintf("%s: gone, was %s", m.Key, short(m.Got, false))
		case m.Got.Kind() == pipeline.ListKind && m.Want.Kind() == pipeline.ListKind:
			s = string(m.Key) + ":" + listChange(&pipeline.Finding{Got: m.Got, Want: m.Want}, false)
		}
		if m.Class == pipeline.ClassLoosened || m.Class == pipeline.ClassTightened {
			s += ", " + classWords[m.Class]
		}
		var from []string
		if p := at(m.Where); p != "" {
			from = append(from, p)
		}
		if m.Note != "" {
			from = append(from, m.Note)
		}
		if len(from) > 0 {
			s += " (" + strings.Join(from, ", ") + ")"
		}
		v.Moved = append(v.Moved, s)
	}
	return v
}

// MovedTitle says what the list of moved values is.
func (v *GateView) MovedTitle() string {
	s := fmt.Sprintf("Moved since %s: %s", v.Previous, show.Plural(len(v.Moved), "value", "values"))
	if v.Volatile > 0 {
		s += fmt.Sprintf(" and %d that always do", v.Volatile)
	}
	return s
}

func (t *textWriter) gate(v *GateView) {
	if v == nil {
		return
	}
	const most = 40
	list := func(title string, lines []string) {
		t.b.WriteByte('\n')
		t.line(0, title)
		for i, l := range lines {
			if i == most && !t.o.Verbose {
				t.line(2, fmt.Sprintf("and %d more (-v shows all)", len(lines)-most))
				return
			}
			t.line(2, ". "+l)
		}
	}
	if len(v.Accepted) > 0 {
		list("Accepted by the policy", v.Accepted)
	}
	if v.Previous != "" {
		list(v.MovedTitle(), v.Moved)
	}
}

func markdownGate(b *strings.Builder, v *GateView) {
	if v == nil {
		return
	}
	list := func(title string, lines []string) {
		fmt.Fprintf(b, "\n## %s\n\n", show.Markdown(title))
		for _, l := range lines {
			fmt.Fprintf(b, "- %s\n", show.Markdown(l))
		}
	}
	if len(v.Accepted) > 0 {
		list("Accepted by the policy", v.Accepted)
	}
	if v.Previous != "" {
		list(v.MovedTitle(), v.Moved)
	}
}
