package pipeline

import "slices"

// Gate is what a written policy made of a report, before a release.
type Gate struct {
	Policy   string `json:"policy,omitempty"`   // the policy's file, "" where none was given
	At       string `json:"at"`                 // the day that terms are counted from, RFC 3339
	Previous string `json:"previous,omitempty"` // the release before
	// Denied are the reasons against the release; each stands among the
	// report's problems, too.
	Denied []Problem `json:"denied,omitempty"`
	// Accepted are differences, and leaves, that somebody answers for.
	Accepted []Accepted `json:"accepted,omitempty"`
	// Moved is what is another than in the release before: Got is the earlier
	// side, Want this one. The note names the input files that the value comes
	// from and that are others, as far as the earlier report names its inputs.
	Moved []Finding `json:"moved,omitempty"`
}

// Accepted is a difference that somebody acknowledged, or a leave that somebody
// gave, with a reason and an end.
type Accepted struct {
	Rule    string `json:"rule"` // known, or the rule that the leave is from
	Key     Key    `json:"key,omitempty"`
	Got     Value  `json:"got"`
	Want    Value  `json:"want"`
	Reason  string `json:"reason"`
	Owner   string `json:"owner"`
	Expires string `json:"expires"`
	Where   Where  `json:"where"` // in the policy
}

// OutcomeDenied is a gate's: something stands against the release. Its exit
// code is 1.
const OutcomeDenied Outcome = "denied"

// Gated judges a report once more, after a gate has marked what is accepted
// (Finding.Accepted, Finding.Allowed) and listed what it denies. c is the case
// of the first judgement; lacks are globs of the inputs that may be missing.
func (r *Report) Gated(c Case, g *Gate) {
	r.Gate = g
	r.Problems = append(r.Problems, g.Denied...)
	standings := Standings(r.Measurements)
	for i := range r.Findings {
		r.Findings[i].Standing = standings[r.Findings[i].Key]
	}
	r.sort()
	r.count()
	r.judge(&c)
	if r.Outcome == OutcomeDiffers {
		r.Outcome = OutcomeDenied
	}
}

// Denies reports whether a problem of the list is a gate's own.
func (g *Gate) Denies(p Problem) bool { return g != nil && slices.Contains(g.Denied, p) }
