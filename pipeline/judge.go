package pipeline

import (
	"cmp"
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
}

// Judge compares the report's measurements, and computes everything of it that
// follows: findings with their causes, outcome, counts, the sentence, the order
// of every list. What was put into it before is Measurements, Inputs, Problems,
// Lacks, Facts and Bytes.
func (r *Report) Judge(c Case) {
	slices.SortFunc(r.Measurements, func(a, b Measurement) int { return cmp.Compare(a.Key, b.Key) })
	r.Findings, r.Sets = Compare(r.Measurements, c.References, c.CompareOptions)
	standings := Standings(r.Measurements)
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
	r.finish(standings, c.Allow)
}

// finish computes everything of the report that follows from its findings,
// measurements and problems, and puts all lists into their one order.
func (r *Report) finish(standings map[Key]Standing, allow []string) {
	for i := range r.Findings {
		f := &r.Findings[i]
		f.Standing = standings[f.Key]
		f.Allowed = f.Key.MatchAny(allow)
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return cmp.Compare(a.Key, b.Key) })
	slices.SortStableFunc(r.Measurements, func(a, b Measurement) int { return cmp.Compare(a.Key, b.Key) })
	slices.SortFunc(r.Inputs, func(a, b Input) int { return cmp.Compare(a.File, b.File) })
	r.Inputs = slices.Compact(r.Inputs)
	slices.SortStableFunc(r.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(levelOrder(a.Level), levelOrder(b.Level)), cmp.Compare(a.Where.File, b.Where.File), cmp.Compare(a.Where.Line, b.Where.Line), cmp.Compare(a.Code, b.Code))
	})
	r.count()
	r.judge()
}
