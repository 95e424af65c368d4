package gate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
)

// Shown is a piece of evidence and how old it is.
type Shown struct {
	Name string
	// Taken is when it was captured, or the time that it is judged at; zero
	// where neither is known.
	Taken time.Time
	File  string
}

// Case is what a report is held against beside the policy.
type Case struct {
	// Judged is the case of the report's first judgement.
	Judged pipeline.Case
	// At is the moment that terms and ages are counted from.
	At time.Time
	// Previous is the release before (Got) compared with this one (Want), nil
	// where none was given; PreviousName is what it is called.
	Previous     *pipeline.Report
	PreviousName string
	// Against is the name of the file that is to be published.
	Against string
	// Before are the inputs that the earlier report names, by name.
	Before   map[string]pipeline.Input
	Evidence []Shown
}

// Judge holds a report against the policy: it marks what is acknowledged or
// permitted, adds what is denied to the report's problems, and sets the outcome
// to match, denied or unchecked.
func Judge(r *pipeline.Report, p *Policy, c Case) {
	j := &judge{r: r, p: p, c: c, gate: &pipeline.Gate{Policy: p.file, At: c.At.UTC().Format(time.RFC3339), Previous: c.PreviousName}, used: map[*Term]bool{}}
	j.published()
	j.bytes()
	j.basis()
	j.debug()
	j.testRoots()
	j.warnings()
	j.lacks()
	j.ages()
	j.previous()
	j.entries()
	slices.SortStableFunc(j.gate.Accepted, func(a, b pipeline.Accepted) int { return cmp.Compare(a.Where.Line, b.Where.Line) })
	r.Gated(j.c.Judged, j.gate)
	r.Summary = summary(r)
}

type judge struct {
	r    *pipeline.Report
	p    *Policy
	c    Case
	gate *pipeline.Gate
	used map[*Term]bool // entries that something needed
}

func (j *judge) deny(rule string, w pipeline.Where, hint, format string, args ...any) {
	d := pipeline.Problem{Level: pipeline.LevelError, Code: "gate-" + rule, Where: w, Msg: fmt.Sprintf(format, args...), Hint: hint}
	if !slices.Contains(j.gate.Denied, d) {
		j.gate.Denied = append(j.gate.Denied, d)
	}
}

func (j *judge) expired(t *Term) bool { return !j.c.At.Before(t.last) }

func (j *judge) place(t *Term) pipeline.Where {
	return pipeline.Where{File: j.p.file, Line: t.line}
}

// leave looks for a permit that is not past its term. Each that fits is needed,
// also where another gave the leave.
func (j *judge) leave(fits func(*Permit) bool) *Permit {
	var found *Permit
	for i := range j.p.Permit {
		p := &j.p.Permit[i]
		if !fits(p) {
			continue
		}
		j.used[&p.Term] = true
		if found == nil && !j.expired(&p.Term) {
			found = p
		}
	}
	return found
}

func (j *judge) permits(rule string, k pipeline.Key) bool {
	p := j.leave(func(p *Permit) bool { return p.Rule == rule && k.Match(p.Keys) })
	if p != nil {
		j.accept(rule, k, pipeline.Value{}, pipeline.Value{}, &p.Term)
	}
	return p != nil
}

func (j *judge) accept(rule string, k pipeline.Key, got, want pipeline.Value, t *Term) {
	a := pipeline.Accepted{Rule: rule, Key: k, Got: got, Want: want, Reason: t.Reason, Owner: t.Owner, Expires: t.Expires, Where: j.place(t)}
	if !slices.ContainsFunc(j.gate.Accepted, func(b pipeline.Accepted) bool {
		return a.Rule == b.Rule && a.Key == b.Key && a.Where == b.Where && a.Got.Equal(b.Got) && a.Want.Equal(b.Want)
	}) {
		j.gate.Accepted = append(j.gate.Accepted, a)
	}
}

// known looks for the entry that acknowledges exactly this difference.
func (j *judge) known(k pipeline.Key, got, want pipeline.Value) bool {
	for i := range j.p.Known {
		e := &j.p.Known[i]
		if pipeline.Key(e.Key) != k || !is(e.Got, got) || !is(e.Want, want) {
			continue
		}
		j.used[&e.Term] = true
		if !j.expired(&e.Term) {
			j.accept("known", k, got, want, &e.Term)
			return true
		}
	}
	return false
}

func is(text *string, v pipeline.Value) bool {
	if text == nil || v.IsNone() {
		return text == nil && v.IsNone()
	}
	return *text == v.String()
}

// published holds the findings against the policy.
func (j *judge) published() {
	for i := range j.r.Findings {
		f := &j.r.Findings[i]
		switch {
		case f.Bad():
			if f.Accepted = j.known(f.Key, f.Got, f.Want); f.Accepted {
				continue
			}
			rule := RuleDiffers
			if f.Class == pipeline.ClassLoosened {
				rule = RuleLoosened
			}
			j.deny(rule, f.Where, entry(f.Key, f.Got, f.Want), "%s: %s, published %s%s", f.Key, value(f.Got), value(f.Want), because(f))
		case f.Open():
			f.Allowed = j.permits(RuleUnchecked, f.Key)
		}
	}
}

// because is the first cause of a finding.
func because(f *pipeline.Finding) string {
	if len(f.Why) == 0 {
		return ""
	}
	c := &f.Why[0]
	s := " (" + strings.Join(c.Path, ", ")
	if c.Note != "" {
		s += ": " + c.Note
	}
	if c.Where.File != "" {
		s += fmt.Sprintf(", %s:%d", c.Where.File, c.Where.Line)
	}
	return s + ", " + string(c.Standing) + ")"
}

// entry is what a policy would say of a difference.
func entry(k pipeline.Key, got, want pipeline.Value) string {
	s := "if it is meant, acknowledge it in the policy under known: {key: " + quote(string(k))
	for _, v := range []struct {
		name string
		v    pipeline.Value
	}{{"got", got}, {"want", want}} {
		if !v.v.IsNone() {
			s += ", " + v.name + ": " + quote(v.v.String())
		}
	}
	return s + ", reason: …, owner: …, expires: …}"
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func value(v pipeline.Value) string {
	if v.IsNone() {
		return "(none)"
	}
	return v.String()
}

func (j *judge) bytes() {
	b := &j.r.Bytes
	if b.Verdict != pipeline.Differs {
		return
	}
	if j.known(KeyBytes, b.Got, b.Want) {
		b.Accepted = true
		return
	}
	j.deny(RuleDiffers, pipeline.Where{File: j.c.Against, Line: b.FirstLine}, entry(KeyBytes, b.Got, b.Want),
		"the published file is not byte for byte the expected one: %s, first line %d", show.Plural(b.Lines, "line differs", "lines differ"), b.FirstLine)
}

// basis holds each value against the demand on how it is known. What is not
// known at all is unchecked already, unless a leave was given: a demand counts
// more.
func (j *judge) basis() {
	for i := range j.p.Basis {
		d := &j.p.Basis[i]
		hit := false
		for k := range j.r.Findings {
			f := &j.r.Findings[k]
			if !f.Key.Match(d.Keys) || f.Class == pipeline.ClassVolatile {
				continue
			}
			hit = true
			if f.Open() {
				continue // that is unchecked already
			}
			if e := f.Standing.Effective; f.Verdict != pipeline.Extra && (e == 0 || e > d.AtLeast) {
				how := e.String()
				if f.Verdict == pipeline.Unchecked || e == 0 {
					how = "not recounted"
				}
				j.deny(RuleBasis, f.Where, "give what it takes to know it better, or lower the demand", "%s is %s, the policy (%s:%d) wants %s", f.Key, how, j.p.file, d.line, d.AtLeast)
			}
		}
		if !hit {
			j.deny(RuleUnused, pipeline.Where{File: j.p.file, Line: d.line}, "take it away, or mend the glob", "a demand on %q, which fits no value that was compared", d.Keys)
		}
	}
}

// debug looks at both sides: what is published must not allow it, whatever was
// recounted.
func (j *judge) debug() {
	for i := range j.r.Findings {
		f := &j.r.Findings[i]
		if !strings.HasSuffix(string(f.Key), "/GuestPolicy/Debug") {
			continue
		}
		got, _ := f.Got.Bool()
		want, _ := f.Want.Bool()
		if got || want {
			j.deny(RuleDebug, f.Where, "set Debug to false", "%s: a guest that the host may debug is accepted", f.Key)
		}
	}
}

// codeTestRoot is the code of the warning about each test root.
const codeTestRoot = "evidence-test-root"

func (j *judge) warnings() {
	for i := range j.r.Problems {
		p := &j.r.Problems[i]
		// That a test root was used is told by a rule of its own.
		if p.Level != pipeline.LevelWarning || p.Code == codeTestRoot && len(j.r.TestRoots) > 0 {
			continue
		}
		if l := j.leave(func(l *Permit) bool {
			return l.Rule == RuleWarning && l.Code == p.Code && (l.File == "" || l.File == p.Where.File)
		}); l != nil {
			j.accept(RuleWarning, "", pipeline.OfText(p.Code), pipeline.Value{}, &l.Term)
			continue
		}
		j.deny(RuleWarning, p.Where, cmp.Or(p.Hint, "if it is meant, permit it: {rule: warning, code: "+p.Code+", …}"), "%s: %s", p.Code, p.Msg)
	}
}

// lacks asks for leave from inputs that are missing.
func (j *judge) lacks() {
	for i := range j.r.Lacks {
		if k := j.r.Lacks[i].For; j.permits(RuleUnchecked, pipeline.Key(k)) {
			j.c.Judged.Allow = append(slices.Clone(j.c.Judged.Allow), k)
		}
	}
}

func (j *judge) testRoots() {
	if len(j.r.TestRoots) == 0 || j.c.Judged.TestRootOK {
		return
	}
	if p := j.leave(func(p *Permit) bool { return p.Rule == RuleTestRoot }); p != nil {
		j.accept(RuleTestRoot, "", pipeline.OfList(j.r.TestRoots), pipeline.Value{}, &p.Term)
		j.c.Judged.TestRootOK = true
	}
}

func (j *judge) ages() {
	if j.p.maxAge == 0 {
		return
	}
	for _, e := range j.c.Evidence {
		w := pipeline.Where{File: e.File}
		switch age := j.c.At.Sub(e.Taken); {
		case e.Taken.IsZero():
			j.deny(RuleAge, w, "capture it with retally evidence capture, or say at:", "evidence %s: its age is not known, the policy takes %s", e.Name, j.p.Evidence.MaxAge)
		case age < 0:
			j.deny(RuleAge, w, "mend its time", "evidence %s is of %s, which is still to come", e.Name, e.Taken.UTC().Format(time.RFC3339))
		case age > j.p.maxAge:
			j.deny(RuleAge, w, "capture it anew", "evidence %s is of %s, older than the %s that the policy takes", e.Name, e.Taken.UTC().Format(time.RFC3339), j.p.Evidence.MaxAge)
		}
	}
}

// added are the rules about things that the release before did not have.
var added = map[string]string{"policy": RuleNewPolicy, "snp": RuleNewMachine, "tdx": RuleNewMachine, "tpm": RuleNewMachine, "keys": RuleNewKey}

// previous holds this release against the one before.
func (j *judge) previous() {
	if j.c.Previous == nil {
		return
	}
	from := j.moved()
	for i := range j.c.Previous.Findings {
		f := &j.c.Previous.Findings[i]
		if f.Verdict == pipeline.Match {
			continue
		}
		m := *f
		m.Note, m.Standing, m.Allowed = strings.Join(from[f.Key], ", "), pipeline.Standing{}, false
		j.gate.Moved = append(j.gate.Moved, m)
		if f.Class == pipeline.ClassVolatile || f.Verdict == pipeline.Unchecked {
			continue
		}
		rule, what := "", ""
		switch {
		case f.Verdict == pipeline.Extra && added[f.Key.Kind()] != "":
			rule, what = added[f.Key.Kind()], "is new"
		case f.Class == pipeline.ClassLoosened:
			rule, what = RuleLoosened, fmt.Sprintf("%s -> %s accepts more", value(f.Got), value(f.Want))
		default:
			continue
		}
		if j.permits(rule, f.Key) {
			continue
		}
		blame := ""
		if files := from[f.Key]; len(files) > 0 {
			blame = ", from " + strings.Join(files, ", ")
		}
		j.deny(rule, f.Where, fmt.Sprintf("if it is meant, permit it: {rule: %s, keys: %s, reason: …, owner: …, expires: …}", rule, quote(string(f.Key))), "%s: %s than in %s%s", f.Key, what, j.c.PreviousName, blame)
	}
}

// moved lists, for each key, the input files that are others than before.
func (j *judge) moved() map[pipeline.Key][]string {
	out := map[pipeline.Key][]string{}
	if len(j.c.Before) == 0 {
		return out
	}
	other := map[string]bool{}
	for _, in := range j.r.Inputs {
		if old, ok := j.c.Before[in.File]; !ok || old.Digest != in.Digest {
			other[in.File] = true
		}
	}
	byKey := map[pipeline.Key]*pipeline.Measurement{}
	for i := range j.r.Measurements {
		byKey[j.r.Measurements[i].Key] = &j.r.Measurements[i]
	}
	for k := range byKey {
		seen, queue, files := map[pipeline.Key]bool{k: true}, []pipeline.Key{k}, map[string]bool{}
		for len(queue) > 0 {
			m := byKey[queue[0]]
			queue = queue[1:]
			if m == nil {
				continue
			}
			for _, in := range m.Inputs {
				if in.File != "" && other[in.File] {
					files[in.File] = true
				}
				if in.Key != "" && !seen[in.Key] {
					seen[in.Key] = true
					queue = append(queue, in.Key)
				}
			}
		}
		for f := range files {
			out[k] = append(out[k], f)
		}
		slices.Sort(out[k])
	}
	return out
}

// entries denies what in the policy is past its term or needed by nothing.
func (j *judge) entries() {
	check := func(t *Term, idle bool, what string) {
		switch {
		case j.expired(t):
			j.deny(RuleExpired, j.place(t), "settle it, or renew the term with a reason", "%s expired on %s (%s, %s)", what, t.Expires, t.Owner, t.Reason)
		case !j.used[t] && !idle:
			j.deny(RuleUnused, j.place(t), "take it away", "%s is no longer needed", what)
		}
	}
	for i := range j.p.Known {
		check(&j.p.Known[i].Term, false, "the acknowledged difference of "+j.p.Known[i].Key)
	}
	for i := range j.p.Permit {
		p := &j.p.Permit[i]
		// Without a release before, what is about it is not asked.
		idle := j.c.Previous == nil && slices.Contains([]string{RuleLoosened, RuleNewPolicy, RuleNewMachine, RuleNewKey}, p.Rule)
		check(&p.Term, idle, "the leave from "+strings.TrimSpace(p.Rule+" "+p.Keys+p.Code))
	}
}

// summary is the gate's one sentence.
func summary(r *pipeline.Report) string {
	n := len(r.Gate.Denied)
	for i := range r.Problems {
		if p := r.Problems[i]; p.Level == pipeline.LevelError && !r.Gate.Denies(p) {
			n++
		}
	}
	accepted := ""
	if a := len(r.Gate.Accepted); a > 0 {
		accepted = fmt.Sprintf(" %s by the policy.", show.Plural(a, "thing is accepted", "things are accepted"))
	}
	switch r.Outcome {
	case pipeline.OutcomeDenied:
		return "The gate is shut: " + show.Plural(n, "reason", "reasons") + " against this release." + accepted
	case pipeline.OutcomeUnchecked:
		return "The gate is shut. " + r.Summary + accepted
	default:
		return "The gate is open. " + r.Summary + accepted
	}
}
