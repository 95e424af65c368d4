package run

import (
	"maps"
	"slices"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
)

// NewReport is a report of nothing yet: what the subject is, and no empty list
// that JSON would call null.
func NewReport(tool pipeline.Tool, subject string) *pipeline.Report {
	return &pipeline.Report{
		Schema: pipeline.Schema, Tool: tool, Subject: subject,
		Findings: []pipeline.Finding{}, Inputs: []pipeline.Input{}, Measurements: []pipeline.Measurement{},
	}
}

// Judge adds what stages, or a single verb, found to a report and lets the judge
// compare it. What the case has already counts, too.
func Judge(rep *pipeline.Report, c pipeline.Case, outs ...*Out) {
	if c.Causes == nil {
		c.Causes = map[pipeline.Key][]pipeline.Cause{}
	}
	if c.Notes == nil {
		c.Notes = map[pipeline.Key]string{}
	}
	c.CompleteKeys, c.PublishedKeys = map[pipeline.Key]bool{}, map[pipeline.Key]bool{}
	for _, out := range outs {
		c.References = append(c.References, out.References...)
		out.absence(&c.CompareOptions)
		rep.Measurements = append(rep.Measurements, out.Measurements...)
		rep.Problems = append(rep.Problems, out.Problems...)
		rep.Facts = append(rep.Facts, out.Facts...)
		rep.Lacks = append(rep.Lacks, out.Lacks...)
		for k, cs := range out.Causes {
			c.Causes[k] = append(c.Causes[k], cs...)
		}
		maps.Copy(c.Notes, out.Notes)
		rep.TestRoots = append(rep.TestRoots, out.TestRoots...)
		if out.Bytes != nil {
			rep.Bytes = *out.Bytes
		}
	}
	slices.Sort(rep.TestRoots)
	rep.TestRoots = slices.Compact(rep.TestRoots)
	rep.Judge(c)
}

// JudgeTaken judges two published things, of which nobody here computed either.
// That both sides are copied is said as the provenance and is no lack, unless
// something of them could not be compared.
func JudgeTaken(rep *pipeline.Report, c pipeline.Case, out *Out) {
	c.NothingRecounted = true
	if len(out.Measurements) == len(out.References) {
		c.Allow = append(c.Allow, "**")
	}
	Judge(rep, c, out)
	rep.Provenance.Note = "both sides are taken as they are, nothing was recomputed"
	if n := rep.Meaning.Equal; rep.Outcome == pipeline.OutcomeMatch {
		rep.Summary = "The two are the same: " + show.Plural(n, "value", "values") + "."
	}
}

// NewOut is an Out that takes causes and notes.
func NewOut() *Out {
	return &Out{Causes: map[pipeline.Key][]pipeline.Cause{}, Notes: map[pipeline.Key]string{}}
}

// Measure adds a value that was computed from a file.
func (out *Out) Measure(key pipeline.Key, got pipeline.Value, file, note string) {
	out.Measurements = append(out.Measurements, pipeline.Measurement{
		Key: key, Value: got, Basis: pipeline.Recomputed, Inputs: []pipeline.InputRef{pipeline.FromFile(file)}, Note: note,
	})
}

// Take adds a value that is taken as it is: nobody here computed it.
func (out *Out) Take(key pipeline.Key, got pipeline.Value, file string) {
	out.Measurements = append(out.Measurements, pipeline.Measurement{Key: key, Value: got, Basis: pipeline.Copied, Inputs: []pipeline.InputRef{pipeline.FromFile(file)}})
}

// Refer adds what a value must be.
func (out *Out) Refer(key pipeline.Key, want pipeline.Value, where pipeline.Where, words string) {
	out.References = append(out.References, pipeline.Reference{Key: key, Relation: pipeline.Equal, Want: want, Where: where, Words: words})
}

// Problem adds a defect of an input.
func (out *Out) Problem(level, code string, where pipeline.Where, msg, hint string) {
	out.Problems = append(out.Problems, pipeline.Problem{Level: level, Code: code, Where: where, Msg: msg, Hint: hint})
}
