package manifest

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
)

// GeneratedValue is one value of a generated manifest.
type GeneratedValue struct {
	Key   pipeline.Key `json:"key"`
	Value string       `json:"value,omitempty"`
	// Basis is the weakest that the value rests on; "missing" where there is no
	// value.
	Basis   string   `json:"basis"`
	Missing []string `json:"missing"`
}

// MadeManifest is a generated manifest as a verb shows it.
type MadeManifest struct {
	Manifest string
	Values   []GeneratedValue
	Assumed  []string

	out   *run.Out
	lacks []pipeline.Lack
}

// NewGenerated takes the manifest and its values out of a run.
func NewGenerated(res *run.Result) *MadeManifest {
	g := &MadeManifest{out: run.NewOut(), Assumed: []string{}, Values: []GeneratedValue{}}
	g.out.Measurements = res.Report.Measurements
	for _, l := range res.Report.Lacks {
		if k := pipeline.Key(l.For); ofManifest(k) || k.Kind() == "platform" || k == "policy/**" {
			g.lacks = append(g.lacks, l)
		}
	}
	g.out.Lacks = g.lacks
	for _, a := range res.Artifacts {
		if a.Name == "manifest.json" {
			g.Manifest = string(a.Data)
		}
	}
	standings := pipeline.Standings(res.Report.Measurements)
	has := map[pipeline.Key]bool{}
	for _, m := range res.Report.Measurements {
		if m.Key == "manifest/bytes" || holdsPlaceholder(m.Value) || !ofManifest(m.Key) {
			continue
		}
		// What was said by somebody lacks what it would be computed from.
		lacks := append([]string{}, res.Missing[m.Key]...)
		has[m.Key] = true
		g.Values = append(g.Values, GeneratedValue{Key: m.Key, Value: m.Value.String(), Basis: standings[m.Key].Effective.String(), Missing: lacks})
	}
	for _, key := range slices.Sorted(maps.Keys(res.Missing)) {
		if !has[key] {
			g.Values = append(g.Values, GeneratedValue{Key: key, Basis: "missing", Missing: res.Missing[key]})
		}
	}
	slices.SortStableFunc(g.Values, func(a, b GeneratedValue) int { return strings.Compare(string(a.Key), string(b.Key)) })
	for _, p := range res.Report.Problems {
		if p.Code == "assumed" {
			g.Assumed = append(g.Assumed, strings.TrimPrefix(p.Msg, "assumed"))
			g.Assumed[len(g.Assumed)-1] = strings.TrimLeft(g.Assumed[len(g.Assumed)-1], ": ")
			continue
		}
		g.out.Problems = append(g.out.Problems, p)
	}
	return g
}

// Out has the values, what is missing, and the defects of the inputs. It
// compares nothing.
func (g *MadeManifest) Out() *run.Out { return g.out }

// ofManifest reports whether a key is one of a manifest's fields, not of what
// they are made of.
func ofManifest(k pipeline.Key) bool {
	parts := k.Parts()
	switch parts[0] {
	case "policy", "keys", "manifest":
		return true
	case "snp", "tdx":
		// A manifest spells its platforms with capitals, and measures nothing but
		// these. What is lacked of all of them has the kind alone.
		return len(parts) == 1 || parts[1] == "-" || strings.ToLower(parts[1]) != parts[1]
	}
	return false
}

// Complete reports whether nothing is missing but what every generate makes anew.
func (g *MadeManifest) Complete() bool { return len(g.lacks) == 0 }

// Counts are the values by how they are known.
func (g *MadeManifest) Counts() map[string]int {
	n := map[string]int{}
	for _, v := range g.Values {
		n[v.Basis]++
	}
	return n
}

// JSON is the form that scripts read.
func (g *MadeManifest) JSON() any {
	// A manifest generated whole is no match: nothing was compared.
	outcome, reasons := pipeline.OutcomeUnchecked, []string{}
	if g.Complete() {
		reasons = append(reasons, "nothing is missing, and nothing was compared")
	}
	for _, l := range g.lacks {
		reasons = append(reasons, l.For+": not reproduced: "+l.What)
	}
	for _, p := range g.out.Problems {
		if p.Level == pipeline.LevelError {
			outcome = pipeline.OutcomeDiffers
			reasons = append(reasons, p.Msg)
		}
	}
	return map[string]any{
		"schema": "retally/manifest-generate/1", "outcome": outcome, "reasons": reasons,
		"manifest": g.Manifest, "values": g.Values, "assumed": g.Assumed, "counts": g.Counts(),
	}
}

// Text prints the manifest.
func (g *MadeManifest) Text(w io.Writer, _ bool) { _, _ = io.WriteString(w, g.Manifest) }

// Talk is what people hear beside the manifest: problems, what is assumed, what
// is missing and for which values, and the count.
func (g *MadeManifest) Talk(verbose bool) []string {
	var out []string
	said := map[string]int{}
	for _, p := range g.out.Problems {
		if p.Level == pipeline.LevelNote && !verbose {
			continue
		}
		at := p.Where.File
		if at != "" {
			at += ": "
		}
		line := p.Level + ": " + at + p.Msg
		if said[line]++; said[line] == 1 {
			out = append(out, line)
		}
	}
	for i, line := range out {
		if n := said[line]; n > 1 {
			out[i] += fmt.Sprintf(" (at %d places)", n)
		}
	}
	switch n := len(g.Assumed); {
	case n > 0 && verbose:
		for _, a := range g.Assumed {
			out = append(out, "assumed: "+a)
		}
	case n > 0:
		out = append(out, show.Plural(n, "choice is", "choices are")+" assumed and nowhere confirmed (-v lists them with their sources)")
	}
	type input struct{ what, how string }
	var order []input
	needs := map[input][]string{}
	for _, l := range g.lacks {
		in := input{l.What, l.How}
		if needs[in] == nil {
			order = append(order, in)
		}
		needs[in] = append(needs[in], l.For)
	}
	for _, in := range order {
		line := "not reproduced: " + strings.Join(needs[in], ", ") + ": missing " + in.what
		if in.how != "" {
			line += " (" + in.how + ")"
		}
		out = append(out, line)
	}
	n := g.Counts()
	var counts []string
	for _, b := range slices.Sorted(maps.Keys(n)) {
		counts = append(counts, show.Plural(n[b], "value ", "values ")+b)
	}
	return append(out, strings.Join(counts, ", "))
}
