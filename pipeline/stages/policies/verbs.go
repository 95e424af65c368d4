package policies

import (
	"fmt"
	"io"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/policygen"
)

// WorkloadName is KIND NAMESPACE/NAME as far as a file says.
func WorkloadName(kind, namespace, name string) string {
	if namespace != "" {
		name = namespace + "/" + name
	}
	return strings.TrimSpace(kind + " " + name)
}

// Differences are two sets of policies, compared.
type Differences struct {
	Equal     bool                     `json:"equal"`
	Workloads []policygen.WorkloadDiff `json:"workloads"`

	nameA, nameB string
	differs      bool
}

// Compare compares two sets of policies.
func Compare(a, b []policygen.NamedPolicy, nameA, nameB string) *Differences {
	d := &Differences{Equal: true, Workloads: policygen.Diff(a, b), nameA: nameA, nameB: nameB}
	for _, w := range d.Workloads {
		d.Equal = d.Equal && w.State == "equal"
		d.differs = d.differs || w.State != "equal" && w.State != "unchecked"
	}
	return d
}

// Out has a value for each workload: that its policies are the same, as A has
// it. What cannot be compared as a whole has none.
func (d *Differences) Out() *run.Out {
	out := run.NewOut()
	same, seen := pipeline.OfText("as A has it"), map[pipeline.Key]int{}
	for _, w := range d.Workloads {
		key := pipeline.NewKey("policy", show.Or(w.Kind, "policy"), show.Or(w.Namespace, "-"), show.Or(w.Name, "-"))
		if seen[key]++; seen[key] > 1 {
			key = pipeline.NewKey(append(key.Parts(), fmt.Sprint(seen[key]))...)
		}
		want := same
		switch w.State {
		case "equal":
			out.Take(key, same, d.nameA)
		case "unchecked":
			out.Notes[key] = strings.Join(w.Unchecked, "; ")
		default:
			out.Take(key, same, d.nameA)
			want = pipeline.OfText(w.State)
		}
		out.Refer(key, want, pipeline.Where{File: d.nameB}, "policy of "+WorkloadName(w.Kind, w.Namespace, w.Name))
		for _, c := range w.Causes {
			out.Causes[key] = append(out.Causes[key], pipeline.Cause{
				Path: []string{string(key), c.Container, c.Path}, Expected: clipText(c.A), Actual: clipText(c.B), Note: strings.TrimSuffix(c.Category+": "+c.Note, ": "),
				Standing: pipeline.Suspected, Hint: "policy-content", Where: pipeline.Where{File: d.nameB},
			})
		}
	}
	return out
}

// Text is the form for people.
func (d *Differences) Text(w io.Writer, verbose bool) {
	differing := 0
	for _, x := range d.Workloads {
		if x.State != "equal" {
			differing++
		}
	}
	switch {
	case d.Equal:
		show.Line(w, "MATCH  %s", show.Plural(len(d.Workloads), "policy is the same", "policies are the same"))
		return
	case d.differs:
		show.Line(w, "DIFFERS  %d of %s", differing, show.Plural(len(d.Workloads), "workload", "workloads"))
	default:
		show.Line(w, "UNCHECKED  nothing differs, but %s not be compared as a whole", show.Plural(differing, "policy could", "policies could"))
	}
	show.Line(w, "  A %s", d.nameA)
	show.Line(w, "  B %s", d.nameB)
	const most = 40
	for _, x := range d.Workloads {
		name := show.Or(WorkloadName(x.Kind, x.Namespace, x.Name), "the policy")
		if x.State == "equal" {
			if verbose {
				show.Line(w, "  %s: the same", name)
			}
			continue
		}
		show.Line(w, "  %s: %s", name, x.State)
		if x.InitdataA != "" && x.InitdataB != "" && x.InitdataA != x.InitdataB {
			show.Line(w, "    initdata digest, which is attested: %s in A, %s in B", x.InitdataA, x.InitdataB)
		}
		for i, c := range x.Causes {
			if i == most && !verbose {
				show.Line(w, "    and %d more (-v shows all)", len(x.Causes)-most)
				break
			}
			show.Line(w, "    %s", c)
		}
		for _, u := range x.Unchecked {
			show.Line(w, "    unchecked: %s", u)
		}
	}
}
