package evidence

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/stages/tdx"
)

// group is what sets are alternatives in. Whatever the sender calls its sets,
// they are no alternatives of anybody else's.
type group struct {
	name   string
	sender bool
}

// expectation holds what a machine should be against its registers. Package
// pipeline compares; what is here says in words what came out.
type expectation struct {
	*Judged
	checks verdict.List
	// ms are the registers, byKey the reference of each member of each set.
	ms     []pipeline.Measurement
	groups []group
	all    []evidence.Register        // those that say what runs, then the others
	unmade map[string][]verdict.Check // demands that could not be judged, by set
	refs   map[group][]pipeline.Reference
	sets   map[string]evidence.Reference // by the name of a pipeline's set
	// covered are registers that a reference fits, shown those that only the
	// sender's word does, spoken those that a reference was compared with.
	covered, shown, spoken map[evidence.Register]bool
	missing                error // why RTMR3 was not computed
}

// expect judges what is expected. What the user gives becomes references of the
// report, too.
func (j *Judged) expect(checks verdict.List) verdict.Judgement {
	x := &expectation{
		Judged: j, checks: slices.Concat(checks, j.Result.Expected), refs: map[group][]pipeline.Reference{}, sets: map[string]evidence.Reference{}, unmade: map[string][]verdict.Check{},
		covered: map[evidence.Register]bool{}, shown: map[evidence.Register]bool{}, spoken: map[evidence.Register]bool{},
	}
	if j.Result.Registers == nil {
		return verdict.Fold(x.checks)
	}
	if r := j.Request.Registry; r != nil && len(r.Rows) == 0 {
		x.checks.Fail(r.Name, "the registry has no rows")
	}
	x.all = slices.Clone(j.Result.Runs)
	for _, reg := range slices.Sorted(maps.Keys(j.Result.Registers)) {
		if !slices.Contains(x.all, reg) {
			x.all = append(x.all, reg)
		}
	}
	x.prepare()
	for _, g := range x.groups {
		x.judge(g)
	}
	x.open()
	return verdict.Fold(x.checks)
}

// prepare makes references of the request's sets.
func (x *expectation) prepare() {
	for _, reg := range x.all {
		x.ms = append(x.ms, pipeline.Measurement{Key: x.key(string(reg)), Value: pipeline.OfDigest(x.Result.Registers[reg]), Basis: x.basis()})
	}
	x.ms = append(x.ms, pipeline.Measurement{Key: x.key(demands), Value: pipeline.OfText(met), Basis: x.basis()})
	keys := map[evidence.Register]pipeline.Key{} // one string each, whatever the number of sets
	for _, m := range x.ms {
		keys[register(m.Key)] = m.Key
	}
	names, twins := map[string]string{}, map[string]int{}
	for _, f := range x.Request.References() {
		if names[f.Group] == "" {
			names[f.Group] = f.Group + " for " + x.Name
		}
		g := group{f.Group, f.ReferenceSet.Source == evidence.Sender || f.Claimed != ""}
		if !slices.Contains(x.groups, g) {
			x.groups = append(x.groups, g)
		}
		if f.Missing != nil {
			x.missing = f.Missing
		}
		// A set of another entry, or another set of the same name, is another set.
		set := f.Group + ": " + f.String() + " for " + x.Name
		for base := set; ; {
			if _, dup := x.sets[set]; !dup {
				break
			}
			twins[base]++
			set = fmt.Sprintf("%s: %s (%d) for %s", f.Group, f, 1+twins[base], x.Name)
		}
		x.sets[set] = f
		if f.Demands != nil {
			x.refs[g] = append(x.refs[g], pipeline.Reference{Set: set, Group: names[f.Group], Version: f.Version, Key: keys[demands], Relation: pipeline.Equal, Want: x.demand(set, f)})
		}
		for _, reg := range append(evidence.Registers(), evidence.MRSEAM, evidence.Measurement, evidence.HostData) {
			if _, has := f.Registers[reg]; has && !slices.Contains(x.all, reg) {
				// A register of another kind of processor is none of this one's.
				x.refs[g] = append(x.refs[g], pipeline.Reference{Set: set, Group: names[f.Group], Key: keys[demands], Relation: pipeline.Equal, Want: pipeline.OfText(string(reg) + " is no register of this evidence")})
				break
			}
		}
		for _, reg := range x.all {
			want, ok := f.Registers[reg]
			if !ok {
				continue
			}
			ref := pipeline.Reference{
				Set: set, Group: names[f.Group], Version: f.Version, Key: keys[reg], Relation: pipeline.Equal, Want: pipeline.OfDigest(want),
				Where: place(f), Words: fmt.Sprintf("%s of %s", reg, f),
			}
			x.refs[g] = append(x.refs[g], ref)
			if x.Request.Source(f, reg) != evidence.Sender {
				x.references = append(x.references, ref)
			}
		}
	}
}

// demands is the member of a set that stands for everything that it asks for
// beside registers, and met what it must be.
const (
	demands = "demands"
	met     = "met"
)

// demand judges what a set asks for beside registers.
func (x *expectation) demand(set string, f evidence.Reference) pipeline.Value {
	var failed []string
	for _, c := range f.Demands(x.Result) {
		switch {
		case c.Verdict == verdict.Fail:
			failed = append(failed, c.Name+": "+c.Reason)
		case c.Verdict != verdict.Pass:
			x.unmade[set] = append(x.unmade[set], c)
		}
	}
	if len(failed) == 0 {
		return pipeline.OfText(met)
	}
	return pipeline.OfText(strings.Join(failed, ", "))
}

// place is where a set stands in its file. What was computed stands in none.
func place(f evidence.Reference) pipeline.Where {
	var line int
	if n, err := fmt.Sscanf(f.Where, "line %d", &line); n != 1 || err != nil {
		return pipeline.Where{}
	}
	return pipeline.Where{File: f.Group, Line: line}
}

func register(k pipeline.Key) evidence.Register { return evidence.Register(tdx.RegisterOf(k)) }

// judge says how the sets of a group fared: one must hold as a whole.
func (x *expectation) judge(g group) {
	findings, results := pipeline.Compare(x.ms, x.refs[g], pipeline.CompareOptions{})
	for _, r := range results {
		if !r.Chosen {
			continue
		}
		var own []pipeline.Finding
		for _, f := range findings {
			if f.Set == r.Set {
				own = append(own, f)
			}
		}
		slices.SortStableFunc(own, func(a, b pipeline.Finding) int {
			return x.order(a.Key) - x.order(b.Key)
		})
		best := x.sets[r.Set]
		switch {
		case best.Claimed != "":
			x.claimed(g, best, own)
		case r.Differs > 0:
			for _, f := range own {
				x.spoken[register(f.Key)] = true
			}
			x.explain(g, r, own, results)
		default:
			x.fits(g, r, own, results)
		}
	}
}

// order is where a register stands among the others; demands stand last.
func (x *expectation) order(k pipeline.Key) int {
	if i := slices.Index(x.all, register(k)); i >= 0 {
		return i
	}
	return len(x.all)
}

// fits: a set holds as a whole. What the sender says of itself covers nothing.
func (x *expectation) fits(g group, r pipeline.SetResult, own []pipeline.Finding, results []pipeline.SetResult) {
	best := x.sets[r.Set]
	var user, senders []string
	for _, f := range own {
		reg := register(f.Key)
		if x.Request.Source(best, reg) == evidence.Sender {
			x.shown[reg] = true
			senders = append(senders, string(reg))
			continue
		}
		x.covered[reg] = true
		user = append(user, string(reg))
	}
	also := ""
	if n := x.alike(r, results) - 1; n > 0 {
		also = fmt.Sprintf("; %d others fit as well", n)
	}
	if len(user) > 0 {
		x.checks.Pass(g.name, fmt.Sprintf("%s fits as a whole: %s%s", best, strings.Join(user, ", "), also))
	}
	if len(senders) > 0 {
		what := best.String()
		if best.ReferenceSet.Source != evidence.Sender {
			what += " with the compose file " + x.Request.ComposeName()
		}
		x.checks.Open(g.name, fmt.Sprintf("%s gives the quote's %s%s, but it came with the evidence and is its sender's word; name a reference of your own", what, strings.Join(senders, ", "), also))
	}
	x.checks = append(x.checks, x.unmade[r.Set]...)
	if best.Version != "" && best.ReferenceSet.Source != evidence.Sender {
		x.Result.Claims.Release = best.Name
	}
}

// alike counts the alternatives that fare as one does, itself included.
func (x *expectation) alike(r pipeline.SetResult, results []pipeline.SetResult) int {
	n := 0
	for _, o := range results {
		if o.Alternatives == r.Alternatives && slices.Equal(o.Differing, r.Differing) && o.Match == r.Match {
			n++
		}
	}
	return n
}

func mismatch(f pipeline.Finding) string {
	if f.Want.Kind() == pipeline.TextKind {
		return f.Want.String()
	}
	return fmt.Sprintf("%s is %s, there %s", register(f.Key), f.Got.Digest().Hex(), f.Want.Digest().Hex())
}

// claimed: what the sender says of itself contradicts the quote, or it does
// not, which shows that it is consistent and no more.
func (x *expectation) claimed(g group, best evidence.Reference, own []pipeline.Finding) {
	var names, differing []string
	for _, f := range own {
		names = append(names, string(register(f.Key)))
		if f.Verdict == pipeline.Differs {
			differing = append(differing, mismatch(f))
		}
	}
	c := verdict.Check{Name: g.name, Verdict: verdict.Unchecked, Optional: !x.askClaimed}
	if len(differing) == 0 {
		c.Reason = fmt.Sprintf("%s gives the quote's %s, but %s", best, strings.Join(names, ", "), best.Claimed)
	} else {
		c.Reason = fmt.Sprintf("%s does not give the quote's registers: %s", best, strings.Join(differing, "; "))
		if x.askClaimed {
			c.Verdict = verdict.Fail
		}
	}
	x.checks = append(x.checks, c)
}

// explain says why no set of a group fits: the nearest one with its differing
// members, and, where only the computed RTMR3 differs, the compose file.
func (x *expectation) explain(g group, r pipeline.SetResult, own []pipeline.Finding, results []pipeline.SetResult) {
	best := x.sets[r.Set]
	if x.composeAlone(r) {
		x.explainCompose(r, own, results)
		return
	}
	var parts []string
	for _, f := range own {
		if f.Verdict != pipeline.Differs {
			continue
		}
		part := mismatch(f)
		for _, ref := range x.refs[g] {
			if ref.Key == f.Key && ref.Want.Equal(f.Got) {
				part += ", but is that of " + x.sets[ref.Set].String()
				break
			}
		}
		parts = append(parts, part)
	}
	x.checks.Fail(g.name, fmt.Sprintf("no set of values fits as a whole; the nearest is %s: %s", best, strings.Join(parts, "; ")))
}

// composeAlone: firmware, machine and system are what they should be, and only
// what the compose file leads to is not.
func (x *expectation) composeAlone(r pipeline.SetResult) bool {
	return x.sets[r.Set].Computed && len(r.Differing) == 1 && register(r.Differing[0]) == evidence.RTMR3
}

// explainCompose: the system is a published release; what it was told to run is
// not what the caller expects.
func (x *expectation) explainCompose(r pipeline.SetResult, own []pipeline.Finding, results []pipeline.SetResult) {
	q, best := x.Request, x.sets[r.Set]
	i := slices.IndexFunc(own, func(f pipeline.Finding) bool { return f.Verdict == pipeline.Differs })
	got, want := own[i].Got.Digest(), own[i].Want.Digest()
	text := fmt.Sprintf("rtmr3 is %s; the compose file %s (SHA-256 %s) with the rootfs of %s gives %s", got.Hex(), q.ComposeName(), q.ComposeDigest().Hex(), best, want.Hex())
	alike := slices.DeleteFunc(slices.Clone(results), func(o pipeline.SetResult) bool { return !x.composeAlone(o) })
	if len(alike) > 1 {
		text += fmt.Sprintf(", and no better with %d others of the same registers", len(alike)-1)
	}
	for _, v := range composeVariants(q.Compose) {
		compose := digest.SHA256.Sum(v.data)
		for _, o := range alike {
			if d, err := q.ComputeRTMR3(x.sets[o.Set].ReferenceSet, compose); err == nil && d == got {
				x.checks.Fail("compose", text+". It matches "+x.sets[o.Set].String()+" "+v.name+": the machine runs that form of the file")
				return
			}
		}
	}
	var also []string
	if q.DockerFiles.IsZero() {
		also = append(also, "docker files were not given ("+x.Request.Field("docker_files", "FILE")+")")
	}
	if q.AppID == nil {
		also = append(also, "no app id of a key management service was given")
	}
	text += ". The machine was started with another compose file"
	if len(also) > 0 {
		text += ", unless what goes in beside it is missing: " + strings.Join(also, "; ")
	}
	x.checks.Fail("compose", text)
}

type composeVariant struct {
	name string
	data []byte
}

// composeVariants are the forms that editors and forms on web pages make of the
// same text.
func composeVariants(f *evidence.File) []composeVariant {
	if f == nil {
		return nil
	}
	data := f.Data
	unix := bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	all := []composeVariant{
		{"without the line breaks at its end", bytes.TrimRight(data, "\r\n")},
		{"with one line break more at its end", append(bytes.Clone(data), '\n')},
		{"with exactly one line break at its end", append(bytes.TrimRight(bytes.Clone(data), "\r\n"), '\n')},
		{"with LF instead of CR LF", unix},
		{"with CR LF instead of LF", bytes.ReplaceAll(unix, []byte("\n"), []byte("\r\n"))},
		{"without the byte order mark", bytes.TrimPrefix(data, []byte("\ufeff"))},
		{"without white space around it", bytes.TrimSpace(data)},
	}
	return slices.DeleteFunc(all, func(v composeVariant) bool { return bytes.Equal(v.data, data) })
}

// open names every register that nothing was held against.
func (x *expectation) open() {
	what := "quote"
	if x.Result.SNP != nil {
		what = "report"
	}
	for _, reg := range x.Result.Runs {
		if x.covered[reg] || x.spoken[reg] || x.shown[reg] || x.Result.Vouched[reg] {
			continue // what only the sender's word covers was said with its group
		}
		why := fmt.Sprintf("nothing to compare with: no registry (%s), artifacts or manifest (%s) gives this register", x.Request.Field("registry", "FILE"), x.Request.Field("manifest", "FILE"))
		if x.Result.SNP != nil {
			why = fmt.Sprintf("nothing to compare with: neither a launch digest (%s) nor a manifest (%s) is given", x.Request.Field("measurement", "HEX"), x.Request.Field("manifest", "FILE"))
		}
		if reg == evidence.RTMR3 && x.missing != nil {
			why = x.missing.Error()
			if x.Request.ComposeDigest().IsZero() && x.Request.Evidence.ShownCompose {
				why += " (the capture holds what the machine shows; give the compose file that you expect)"
			}
		}
		x.checks.Open(string(reg), fmt.Sprintf("%s in the %s; %s", x.Result.Registers[reg].Hex(), what, why))
	}
}
