// Package verdict holds how evidence is judged: single checks, each with its
// reason, folded into a judgement. There is never one boolean for everything:
// authentic (who signed), expected (what runs) and bound (whose connection) are
// three judgements.
package verdict

// Verdict is the outcome of a check or of a judgement.
type Verdict string

// The outcomes. What could not be checked is never a pass.
const (
	Pass      Verdict = "pass"
	Fail      Verdict = "fail"
	Unchecked Verdict = "unchecked"
)

// Check is one thing that was looked at. An optional check that stayed
// unchecked does not keep the whole from passing: it needs an input that the
// caller chose not to give, and the reason says so.
type Check struct {
	Name     string  `json:"name"`
	Verdict  Verdict `json:"verdict"`
	Optional bool    `json:"optional,omitempty"`
	Reason   string  `json:"reason"`
}

// Judgement is the fold of checks. Reasons are the checks' reasons in the order
// of weight: what failed, what stayed unchecked, what passed.
type Judgement struct {
	Verdict Verdict  `json:"verdict"`
	Reasons []string `json:"reasons"`
	Checks  []Check  `json:"checks"`
}

// Fold judges: one failure fails, one required check that was not made leaves
// the whole unchecked, and no check at all is unchecked too.
func Fold(checks []Check) Judgement {
	j := Judgement{Verdict: Unchecked, Reasons: []string{}, Checks: append([]Check{}, checks...)}
	var failed, open, passed bool
	for _, c := range checks {
		switch {
		case c.Verdict == Pass:
			passed = true
		case c.Verdict == Fail:
			failed = true
		case !c.Optional:
			open = true
		}
	}
	switch {
	case failed:
		j.Verdict = Fail
	case passed && !open:
		j.Verdict = Pass
	}
	for _, v := range []Verdict{Fail, Unchecked, Pass} {
		for _, c := range checks {
			if c.Verdict == v || v == Unchecked && c.Verdict != Pass && c.Verdict != Fail {
				j.Reasons = append(j.Reasons, c.Name+": "+c.Reason)
			}
		}
	}
	return j
}

// List collects checks in order.
type List []Check

// Pass adds a check that held.
func (l *List) Pass(name, reason string) { *l = append(*l, Check{name, Pass, false, reason}) }

// Fail adds a check that did not hold.
func (l *List) Fail(name, reason string) { *l = append(*l, Check{name, Fail, false, reason}) }

// Open adds a required check that could not be made.
func (l *List) Open(name, reason string) { *l = append(*l, Check{name, Unchecked, false, reason}) }

// Note adds an optional check that was not made.
func (l *List) Note(name, reason string) { *l = append(*l, Check{name, Unchecked, true, reason}) }

// Judge adds a check that holds or fails.
func (l *List) Judge(name string, holds bool, pass, fail string) {
	if holds {
		l.Pass(name, pass)
		return
	}
	l.Fail(name, fail)
}
