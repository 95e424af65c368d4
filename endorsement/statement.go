package endorsement

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
)

// statementTypes are the versions of in-toto statements (in-toto attestation
// framework, statement).
var statementTypes = []string{"https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"}

// The predicates that are understood.
const (
	PredicateOak     = "https://project-oak.github.io/oak/tr/endorsement/v1"
	PredicateSLSA1   = "https://slsa.dev/provenance/v1"
	PredicateSLSA02  = "https://slsa.dev/provenance/v0.2"
	PredicateTinfoil = "https://tinfoil.sh/predicate/snp-tdx-multiplatform/v1"
)

// endless are predicates whose definitions have no field for an end.
var endless = []string{PredicateSLSA1, PredicateSLSA02, PredicateTinfoil, "https://model_signing/signature/v1.0", "https://model_signing/Digests/v0.1"}

// Statement is what an endorsement says.
type Statement struct {
	PredicateType string
	Subjects      []Subject
	// Of Oak's endorsements: the zero time is none.
	IssuedOn, NotBefore, NotAfter time.Time
	Claims                        []string
	// Of SLSA provenance.
	Builder   string
	BuildType string
	Sources   []Source
}

// Subject is one thing that a statement is about, by all its digests that are
// known; Other lists the names of those that are not.
type Subject struct {
	Name    string
	Digests []digest.Digest
	Other   []string
}

// Source is something that SLSA provenance says was built from.
type Source struct {
	URI    string
	Digest map[string]string
}

func (r *reader) statement(n node) *Statement {
	if t := r.text(n, "_type"); r.err == nil && !slices.Contains(statementTypes, t) {
		r.fail(n.get("_type"), t, strings.Join(statementTypes, ", "))
	}
	s := &Statement{PredicateType: r.text(n, "predicateType")}
	for _, e := range r.list(n, "subject", maxSubjects) {
		s.Subjects = append(s.Subjects, r.subject(e))
	}
	if r.err == nil && len(s.Subjects) == 0 {
		r.fail(n.get("subject"), "nobody", "at least one subject")
	}
	p := n.get("predicate")
	if s.PredicateType == PredicateOak || s.PredicateType == PredicateSLSA1 || s.PredicateType == PredicateSLSA02 {
		if p.v == nil || p.v.Kind != jsondoc.Object {
			r.fail(p, "no object", "the predicate "+s.PredicateType)
			return s
		}
	}
	switch s.PredicateType {
	case PredicateOak:
		r.oak(p, s)
	case PredicateSLSA1:
		run := p.get("runDetails").get("builder")
		s.Builder = r.text(run, "id")
		def := p.get("buildDefinition")
		s.BuildType = r.text(def, "buildType")
		s.Sources = r.sources(def, "resolvedDependencies")
	case PredicateSLSA02:
		s.Builder = r.text(p.get("builder"), "id")
		s.BuildType = r.text(p, "buildType")
		s.Sources = r.sources(p, "materials")
	}
	return s
}

// subject reads a name and a set of digests. A digest that is malformed for its
// algorithm makes the whole malformed; one of an unknown algorithm is named.
func (r *reader) subject(n node) Subject {
	s := Subject{Name: r.optional(n, "name")}
	set := n.get("digest")
	if set.v == nil || set.v.Kind != jsondoc.Object || len(set.v.Members) == 0 {
		r.fail(set, "no digest", "an object of digests by algorithm")
		return s
	}
	for _, m := range set.v.Members {
		at := set.get(m.Key)
		a, known := algorithms[m.Key]
		if !known || strings.HasPrefix(m.Key, "SHA2_") {
			s.Other = append(s.Other, m.Key)
			continue
		}
		d, err := digest.ParseHex(a, strings.ToLower(r.text(set, m.Key)))
		if err != nil {
			r.fail(at, err.Error(), "the digest in hex")
			return s
		}
		s.Digests = append(s.Digests, d)
	}
	return s
}

// oak reads an endorsement of Project Oak (project-oak/oak, docs/tr/endorsement).
func (r *reader) oak(p node, s *Statement) {
	s.IssuedOn = r.time(p, "issuedOn")
	if v := p.get("validity"); !v.v.IsNull() {
		s.NotBefore, s.NotAfter = r.time(v, "notBefore"), r.time(v, "notAfter")
	}
	for _, c := range r.list(p, "claims", maxSubjects) {
		s.Claims = append(s.Claims, r.text(c, "type"))
	}
}

func (r *reader) time(n node, key string) time.Time {
	t, err := time.Parse(time.RFC3339, r.text(n, key))
	if err != nil {
		r.fail(n.get(key), "no time", "a time such as 2026-01-31T00:00:00Z")
	}
	return t
}

func (r *reader) sources(n node, key string) []Source {
	var out []Source
	for _, e := range r.list(n, key, maxSubjects) {
		s := Source{URI: r.optional(e, "uri"), Digest: map[string]string{}}
		if d := e.get("digest"); d.v != nil && d.v.Kind == jsondoc.Object {
			for _, m := range d.v.Members {
				s.Digest[m.Key] = r.text(d, m.Key)
			}
		}
		out = append(out, s)
	}
	return out
}

// Covers finds the subject with a digest.
func (d *Document) Covers(want digest.Digest) (name string, ok bool) {
	if d.Statement == nil {
		return "", !want.IsZero() && d.Message == want
	}
	for _, s := range d.Statement.Subjects {
		if slices.Contains(s.Digests, want) {
			return s.Name, true
		}
	}
	return "", false
}

// Subjects counts and names what an endorsement is about, for people.
func (d *Document) Subjects() string {
	if d.Statement == nil {
		return d.Message.String()
	}
	first := d.Statement.Subjects[0]
	text := first.Name
	if len(first.Digests) > 0 {
		text = strings.TrimSpace(text + " " + first.Digests[0].String())
	}
	if n := len(d.Statement.Subjects); n > 1 {
		text += fmt.Sprintf(" and %d more", n-1)
	}
	return text
}
