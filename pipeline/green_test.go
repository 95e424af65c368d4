package pipeline_test

import (
	"strings"
	"testing"

	"github.com/retally/retally/pipeline"
)

// What nothing was compared for is no match, and leave of any kind does not
// change that.
func TestNothingComparedIsNoMatch(t *testing.T) {
	known := pipeline.Measurement{Key: "image/a/manifest", Value: pipeline.OfText("x"), Basis: pipeline.Recomputed}
	copied := pipeline.Measurement{Key: "snp/b/launch", Value: pipeline.OfText("y"), Basis: pipeline.Copied}
	volatile := pipeline.Measurement{Key: "keys/K", Value: pipeline.OfText("z"), Basis: pipeline.Recomputed}
	ref := func(m pipeline.Measurement, r pipeline.Relation) pipeline.Reference {
		return pipeline.Reference{Key: m.Key, Relation: r, Want: m.Value}
	}
	renewed := ref(volatile, pipeline.Volatile)
	renewed.Want = pipeline.OfText("another")
	for _, c := range []struct {
		name  string
		ms    []pipeline.Measurement
		c     pipeline.Case
		roots []string
		want  pipeline.Outcome
		says  string
	}{
		{"one value recounted", []pipeline.Measurement{known}, pipeline.Case{References: []pipeline.Reference{ref(known, pipeline.Equal)}}, nil, pipeline.OutcomeMatch, "agrees: 1 value"},
		{"nothing at all", nil, pipeline.Case{}, nil, pipeline.OutcomeUnchecked, "Nothing published"},
		{"only what is expected to change", []pipeline.Measurement{volatile}, pipeline.Case{References: []pipeline.Reference{renewed}}, nil, pipeline.OutcomeUnchecked, "Nothing was recounted"},
		{"only what was copied, with leave", []pipeline.Measurement{copied}, pipeline.Case{References: []pipeline.Reference{ref(copied, pipeline.Equal)}, Allow: []string{"**"}}, nil, pipeline.OutcomeUnchecked, "Nothing was recounted"},
		{"two files, nothing recounted by nature", []pipeline.Measurement{copied}, pipeline.Case{References: []pipeline.Reference{ref(copied, pipeline.Equal)}, Allow: []string{"**"}, NothingRecounted: true}, nil, pipeline.OutcomeMatch, ""},
		{"only without a hit", []pipeline.Measurement{known}, pipeline.Case{References: []pipeline.Reference{ref(known, pipeline.Equal)}, Only: []string{"none/*"}}, nil, pipeline.OutcomeUnchecked, ""},
		{"one of two globs without a hit", []pipeline.Measurement{known}, pipeline.Case{References: []pipeline.Reference{ref(known, pipeline.Equal)}, Only: []string{"image/**", "none/*"}}, nil, pipeline.OutcomeUnchecked, ""},
		{"a stale leave", []pipeline.Measurement{known}, pipeline.Case{References: []pipeline.Reference{ref(known, pipeline.Equal)}, Allow: []string{"gone/**"}}, nil, pipeline.OutcomeUnchecked, ""},
		{"a test root", []pipeline.Measurement{known}, pipeline.Case{References: []pipeline.Reference{ref(known, pipeline.Equal)}}, []string{"root.pem"}, pipeline.OutcomeUnchecked, "TEST ROOT: "},
		{"a test root with leave", []pipeline.Measurement{known}, pipeline.Case{References: []pipeline.Reference{ref(known, pipeline.Equal)}, TestRootOK: true}, []string{"root.pem"}, pipeline.OutcomeMatch, "TEST ROOT: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &pipeline.Report{Measurements: c.ms, TestRoots: c.roots}
			r.Judge(c.c)
			if r.Outcome != c.want || !strings.Contains(r.Summary, c.says) {
				t.Errorf("got %s: %s", r.Outcome, r.Summary)
			}
			if r.Meaning.Equal == 0 && r.Meaning.Verdict == pipeline.Match {
				t.Error("the meaning matches with nothing equal")
			}
		})
	}
	// A missing input leaves something unchecked.
	r := &pipeline.Report{Measurements: []pipeline.Measurement{known}, Lacks: []pipeline.Lack{{What: "the manifest", For: "policy/**"}}}
	r.Judge(pipeline.Case{References: []pipeline.Reference{ref(known, pipeline.Equal)}})
	if r.Outcome != pipeline.OutcomeUnchecked {
		t.Errorf("with a missing input: %s", r.Outcome)
	}
}
