package report

import (
	"io"

	"github.com/retally/retally/pipeline"
)

// statementType and predicateType name the statement's forms: in-toto
// attestation framework v1, Statement, and what retally says in it.
const (
	statementType = "https://in-toto.io/Statement/v1"
	predicateType = Home + "/blob/main/docs/gate.md#predicate-v1"
)

type (
	inTotoStatement struct {
		Type          string          `json:"_type"`
		Subject       []inTotoSubject `json:"subject"`
		PredicateType string          `json:"predicateType"`
		Predicate     inTotoPredicate `json:"predicate"`
	}
	inTotoSubject struct {
		Name   string            `json:"name"`
		Digest map[string]string `json:"digest"`
	}
	inTotoPredicate struct {
		Tool         pipeline.Tool       `json:"tool"`
		Outcome      pipeline.Outcome    `json:"outcome"`
		Summary      string              `json:"summary"`
		TestRoots    []string            `json:"testRoots,omitempty"`
		Coverage     pipeline.Coverage   `json:"coverage"`
		Measurements []inTotoMeasurement `json:"measurements"`
		Denied       []pipeline.Problem  `json:"denied,omitempty"`
		Accepted     []pipeline.Accepted `json:"accepted,omitempty"`
	}
	inTotoMeasurement struct {
		Key       pipeline.Key   `json:"key"`
		Value     pipeline.Value `json:"value"`
		Basis     pipeline.Basis `json:"basis"`
		Effective pipeline.Basis `json:"effective"`
	}
)

// InToto writes an unsigned in-toto statement that cosign can sign: its subjects
// are the inputs and the published file, its predicate is what was recounted and
// how each value is known.
func InToto(w io.Writer, r *pipeline.Report) error {
	s := inTotoStatement{
		Type: statementType, Subject: []inTotoSubject{}, PredicateType: predicateType,
		Predicate: inTotoPredicate{Tool: r.Tool, Outcome: r.Outcome, Summary: r.Summary, TestRoots: r.TestRoots, Coverage: r.Coverage, Measurements: []inTotoMeasurement{}},
	}
	seen := map[string]bool{}
	subject := func(name, alg, hex string) {
		if id := name + "\x00" + hex; !seen[id] && hex != "" {
			seen[id] = true
			s.Subject = append(s.Subject, inTotoSubject{name, map[string]string{alg: hex}})
		}
	}
	for _, in := range r.Inputs {
		subject(in.File, "sha256", in.Digest.Hex())
	}
	if d := r.Bytes.Want.Digest(); !d.IsZero() {
		subject(sideName(r.WantName, "published"), "sha256", d.Hex())
	}
	standings := pipeline.Standings(r.Measurements)
	for _, m := range r.Measurements {
		s.Predicate.Measurements = append(s.Predicate.Measurements, inTotoMeasurement{m.Key, m.Value, m.Basis, standings[m.Key].Effective})
	}
	if g := r.Gate; g != nil {
		s.Predicate.Denied, s.Predicate.Accepted = g.Denied, g.Accepted
	}
	return writeJSON(w, s)
}
