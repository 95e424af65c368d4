package pipeline

import (
	"cmp"
	"fmt"
	"slices"
)

// Case is what a report's measurements are judged by.
type Case struct {
	CompareOptions
	References []Reference
	Causes     map[Key][]Cause // used where the key's finding is bad
	Notes      map[Key]string  // shown with the key's finding where it is unchecked
	Only       []string        // globs: keep these keys only; none keeps all
	Allow      []string        // globs: these keys may stay unchecked
	// NothingRecounted is set where both sides are published files: equal is
	// then all that can be said, and nothing has to be recounted for it.
	NothingRecounted bool
	// TestRootOK is the user's leave to end in a match under a root of trust
	// that is not the vendor's (Report.TestRoots).
	TestRootOK bool
}

// Judge compares the report's measurements, and computes everything of it that
// follows: findings with their causes, outcome, counts, the sentence, the order
// of every list. What was put into it before is Measurements, Inputs, Problems,
// Lacks, Facts and Bytes.
func (r *Report) Judge(c Case) {
	slices.SortFunc(r.Measurements, func(a, b Measurement) int { return cmp.Compare(a.Key, b.Key) })
	r.Findings, r.Sets = Compare(r.Measurements, c.References, c.CompareOptions)
	if r.Findings == nil {
		r.Findings = []Finding{} // JSON would call it null
	}
	standings := Standings(r.Measurements)
	r.staleGlobs(&c)
	if len(c.Only) > 0 {
		r.Findings = slices.DeleteFunc(r.Findings, func(f Finding) bool { return !f.Key.MatchAny(c.Only) })
		r.Measurements = slices.DeleteFunc(r.Measurements, func(m Measurement) bool { return !m.Key.MatchAny(c.Only) })
		r.Lacks = slices.DeleteFunc(r.Lacks, func(l Lack) bool { return !Key(l.For).MatchAny(c.Only) })
	}
	explained := map[Key]bool{}
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Bad() && !explained[f.Key] {
			f.Why = append(f.Why, c.Causes[f.Key]...)
			explained[f.Key] = true // two findings of one key have one reason
		}
		if n := c.Notes[f.Key]; n != "" && f.Verdict == Unchecked {
			f.Note = n
		}
	}
	explainSwaps(r.Findings)
	r.finish(standings, &c)
}

// staleGlobs names the globs of --only and --allow-unchecked that fit no key of
// this report: whoever wrote them thought of something that is not there.
func (r *Report) staleGlobs(c *Case) {
	fits := func(glob string) bool {
		return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Key.Match(glob) })
	}
	for _, g := range c.Only {
		if !fits(g) && !slices.ContainsFunc(r.Measurements, func(m Measurement) bool { return m.Key.Match(g) }) {
			r.Problems = append(r.Problems, Problem{Level: LevelWarning, Code: codeStaleGlob, Msg: fmt.Sprintf("%q, which only is to be compared, fits no key: nothing was compared for it", g), Hint: "retally plan lists the keys"})
		}
	}
	if c.NothingRecounted {
		return
	}
	for _, g := range c.Allow {
		if !fits(g) {
			r.Problems = append(r.Problems, Problem{Level: LevelWarning, Code: codeStaleGlob, Msg: fmt.Sprintf("%q, which may stay unchecked, fits nothing that was published", g), Hint: "take it away, or mend it"})
		}
	}
}

// codeNotObeyed is the code of the problem that a configuration was found where
// nobody's word counts.
const codeNotObeyed = "config-not-obeyed"

// aboutUs puts first what says what this run did not do: a long list of
// oddities in the inputs must not hide it.
func aboutUs(code string) int {
	if code == codeNotObeyed || code == codeStaleGlob {
		return 0
	}
	return 1
}

// codeStaleGlob is the code of the problem that a glob fits nothing. It leaves
// the outcome unchecked.
const codeStaleGlob = "stale-glob"

// finish computes everything of the report that follows from its findings,
// measurements and problems, and puts all lists into their one order.
func (r *Report) finish(standings map[Key]Standing, c *Case) {
	for i := range r.Findings {
		f := &r.Findings[i]
		f.Standing = standings[f.Key]
		f.Allowed = f.Key.MatchAny(c.Allow)
	}
	r.sort()
	r.count()
	r.judge(c)
}

// sort puts all lists into their one order.
func (r *Report) sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return cmp.Compare(a.Key, b.Key) })
	slices.SortStableFunc(r.Measurements, func(a, b Measurement) int { return cmp.Compare(a.Key, b.Key) })
	slices.SortFunc(r.Inputs, func(a, b Input) int { return cmp.Compare(a.File, b.File) })
	r.Inputs = slices.Compact(r.Inputs)
	slices.SortStableFunc(r.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(levelOrder(a.Level), levelOrder(b.Level)), cmp.Compare(aboutUs(a.Code), aboutUs(b.Code)), cmp.Compare(a.Where.File, b.Where.File), cmp.Compare(a.Where.Line, b.Where.Line), cmp.Compare(a.Code, b.Code))
	})
}
