package evidence

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/trace"
)

// Question is a request with what reading its inputs showed already.
type Question struct {
	evidence.Request
	// Checks of what is expected that were made while its inputs were read.
	Checks verdict.List
	// AskClaimed says that what the sender says of itself was asked for: it is
	// looked at in passing otherwise.
	AskClaimed bool
}

// Judged is a piece of evidence with its three judgements.
type Judged struct {
	Name     string // of the entry
	Conf     config.Evidence
	Request  *evidence.Request
	Result   *evidence.Result
	Expected verdict.Judgement

	askClaimed bool
	references []pipeline.Reference
	run        *stageRun
	from       *judgedFrom
}

// Judge judges evidence. An error means that the question makes no sense.
func Judge(name string, conf config.Evidence, q *Question) (*Judged, error) {
	if q.Field == nil {
		q.Field = func(name, value string) string { return strings.TrimSuffix(name+": "+value, ": ") }
	}
	res, err := evidence.Verify(q.Request)
	if err != nil {
		return nil, err
	}
	j := &Judged{Name: name, Conf: conf, Request: &q.Request, Result: res, askClaimed: q.AskClaimed, from: new(judgedFrom)}
	j.Expected = j.expect(q.Checks)
	return j, nil
}

// Asked are the judgements that are asked for.
func (j *Judged) Asked() []string { return asked(j.Conf.Only) }

func asked(only []string) []string {
	return slices.DeleteFunc(evidence.Judgements(), func(name string) bool { return len(only) > 0 && !slices.Contains(only, name) })
}

func (j *Judged) key(parts ...string) pipeline.Key {
	return pipeline.NewKey(append([]string{"evidence", j.Name}, parts...)...)
}

// basis is how what a quote says is known: endorsed where the quote is
// authentic, otherwise anybody could have written it.
func (j *Judged) basis() pipeline.Basis {
	if j.Result.Authentic.Verdict == verdict.Pass {
		return pipeline.Endorsed
	}
	return pipeline.Copied
}

// Add adds everything to what a run found.
func (j *Judged) Add(out *run.Out) {
	j.testRoots(out)
	j.checks(out, evidence.Authentic, j.Result.Authentic)
	j.checks(out, evidence.Expected, j.Expected)
	j.checks(out, evidence.Bound, j.Result.Bound)
	registers := j.registers(out)
	j.judgement(out, evidence.Authentic, j.Result.Authentic, j.from.authentic)
	j.judgement(out, evidence.Expected, j.Expected, slices.Concat(registers, j.from.expected))
	j.judgement(out, evidence.Bound, j.Result.Bound, j.from.bound)
	if slices.Contains(j.Asked(), evidence.Expected) {
		out.References = append(out.References, j.references...)
		out.References = append(out.References, j.goldenReferences()...)
		out.References = append(out.References, j.predictedReferences()...)
	}
}

// testRoots says in whose place another root was trusted.
func (j *Judged) testRoots(out *run.Out) {
	files := map[string]string{"intel": j.Conf.IntelRoot, "nvidia": j.Conf.NVIDIARoot, "amd": j.Conf.Roots, "tpm": j.Conf.Roots}
	names := map[string]string{"intel": "Intel", "nvidia": "NVIDIA", "amd": "AMD", "tpm": "a TPM provider"}
	fields := map[string]string{"intel": "intel_root", "nvidia": "nvidia_root", "amd": "roots", "tpm": "roots"}
	for _, vendor := range j.Result.TestRoots() {
		file := cmp.Or(files[vendor], vendor)
		out.TestRoots = append(out.TestRoots, file)
		out.Problems = append(out.Problems, pipeline.Problem{
			Level: pipeline.LevelWarning, Code: "evidence-test-root", Where: pipeline.Where{File: j.Conf.File},
			Msg:  fmt.Sprintf("evidence %s was judged under the test root %s in place of %s's: that it is authentic means nothing outside of this test", j.Name, file, names[vendor]),
			Hint: "take " + j.Request.Field(fields[vendor], "") + " away for the evidence of a real machine",
		})
	}
}

// checks adds every check that was made as a value of its own, and says which
// optional ones were not.
func (j *Judged) checks(out *run.Out, what string, judgement verdict.Judgement) {
	seen := map[string]int{}
	for _, c := range judgement.Checks {
		if c.Verdict == verdict.Unchecked {
			// A test root has a problem of its own, which names the file.
			if c.Optional && c.Name != "authentic" && c.Name != "test-root" {
				out.Problems = append(out.Problems, pipeline.Problem{Level: pipeline.LevelNote, Code: "evidence-" + c.Name, Where: pipeline.Where{File: j.Conf.File}, Msg: fmt.Sprintf("evidence %s: %s: %s", j.Name, c.Name, c.Reason)})
			}
			continue
		}
		name := c.Name
		if seen[c.Name]++; seen[c.Name] > 1 {
			name = fmt.Sprintf("%s:%d", c.Name, seen[c.Name])
		}
		out.Measurements = append(out.Measurements, pipeline.Measurement{
			Key: j.key(what, name), Value: pipeline.OfText(string(c.Verdict)), Basis: j.basis(), Inputs: []pipeline.InputRef{pipeline.FromFile(j.Conf.File)}, Note: c.Reason,
		})
	}
}

// registers adds the quote's registers, and returns those that say what runs.
func (j *Judged) registers(out *run.Out) []pipeline.InputRef {
	var refs []pipeline.InputRef
	note := "as the quote says"
	if j.Result.SNP != nil {
		note = "as the report says"
	}
	inputs := []pipeline.InputRef{pipeline.FromFile(j.Conf.File)}
	for _, reg := range slices.Sorted(maps.Keys(j.Result.Registers)) {
		d := j.Result.Registers[reg]
		key := j.key(string(reg))
		out.Measurements = append(out.Measurements, pipeline.Measurement{Key: key, Value: pipeline.OfDigest(d), Basis: j.basis(), Inputs: inputs, Note: note})
		if j.Result.Resettable[reg] {
			m := &out.Measurements[len(out.Measurements)-1]
			m.Note = "as the quote says; it can be reset without a reboot, so it shows nothing about the boot"
		}
		if slices.Contains(j.Result.Runs, reg) {
			refs = append(refs, pipeline.FromKey(key))
		}
	}
	return refs
}

// judgementWords say what each judgement asks.
var judgementWords = map[string]string{
	"authentic": "who signed the evidence, and whether the protection is on",
	"expected":  "whether the machine runs what it should",
	"bound":     "whether the evidence is of this connection",
}

// judgement publishes "pass" and adds what came out. What could not be checked
// has no value: it stays unchecked.
func (j *Judged) judgement(out *run.Out, what string, v verdict.Judgement, inputs []pipeline.InputRef) {
	key := j.key(what)
	if slices.Contains(j.Asked(), what) {
		out.References = append(out.References, pipeline.Reference{
			Key: key, Relation: pipeline.Equal, Want: pipeline.OfText(string(verdict.Pass)), Where: pipeline.Where{File: j.Conf.File}, Words: j.Name + ": " + judgementWords[what],
		})
	}
	if v.Verdict == verdict.Unchecked {
		var open []string
		for _, c := range v.Checks {
			// The optional ones are problems of their own.
			if c.Verdict == verdict.Unchecked && !c.Optional {
				open = append(open, c.Name+": "+c.Reason)
			}
		}
		out.Notes[key] = strings.Join(folded(open), "; ")
		return
	}
	m := pipeline.Measurement{Key: key, Value: pipeline.OfText(string(v.Verdict)), Basis: j.basis(), Inputs: slices.Clone(inputs)}
	if what == "expected" && v.Verdict == verdict.Pass && j.basis() == pipeline.Endorsed && j.Result.Claims.Release != "" {
		m.Note = "release " + j.Result.Claims.Release
		out.Facts = append(out.Facts, fmt.Sprintf("%s: a quote of release %s", j.Conf.File, j.Result.Claims.Release))
	}
	if what != "authentic" {
		m.Inputs = append(m.Inputs, pipeline.FromKey(j.key("authentic")))
	}
	out.Measurements = append(out.Measurements, m)
	if v.Verdict == verdict.Fail {
		j.causes(out, what, key, v)
	}
}

// causes gives each failed check. They are all of the reasons, and therefore
// proved, unless a required check could not be made.
func (j *Judged) causes(out *run.Out, what string, key pipeline.Key, v verdict.Judgement) {
	standing := pipeline.Proved
	for _, c := range v.Checks {
		if c.Verdict == verdict.Unchecked && !c.Optional {
			standing = pipeline.Suspected
		}
	}
	// What names the compose file says more than what only lists registers.
	checks := slices.Clone(v.Checks)
	slices.SortStableFunc(checks, func(a, b verdict.Check) int {
		switch {
		case a.Name == b.Name:
			return 0
		case a.Name == "compose":
			return -1
		case b.Name == "compose":
			return 1
		}
		return 0
	})
	for _, c := range checks {
		if c.Verdict != verdict.Fail {
			continue
		}
		cause := pipeline.Cause{Path: []string{string(key), c.Name}, Note: c.Name + ": " + c.Reason, Standing: standing, Where: pipeline.Where{File: j.Conf.File}}
		switch {
		case what == "authentic":
			cause.Hint = "evidence-authentic"
		case what == "bound":
			cause.Hint = "evidence-bound"
		case c.Name == "compose":
			cause.Hint = "evidence-compose"
		default:
			cause.Hint = "evidence-expected"
		}
		out.Causes[key] = append(out.Causes[key], cause)
	}
}

// whyRegisters looks for the deviation of the platform that turns what was
// computed into what the quote says, and, where an event log lies beside the
// quote, for the first event that differs.
func (j *Judged) whyRegisters(ctx context.Context) error {
	if j.Conf.Platform == "" || j.Result.Registers == nil || j.Result.Authentic.Verdict != verdict.Pass {
		return nil
	}
	got := j.Result.Registers
	var differing []pipeline.Measurement
	for _, name := range tdx.Registers {
		m, ok := j.run.in.Get(pipeline.NewKey("tdx", j.Conf.Platform, name))
		if reg := evidence.Register(name); ok && slices.Contains(evidence.Registers(), reg) && m.Value.Digest() != got[reg] {
			differing = append(differing, m)
		}
	}
	if len(differing) == 0 {
		return nil
	}
	machine, err := tdx.Open(ctx, j.run.in, j.Conf.Platform)
	if err != nil {
		return err
	}
	machine.TakeRows(j.Request.Registry)
	logged := j.logged()
	for _, m := range differing {
		name := tdx.RegisterOf(m.Key)
		i := slices.Index(tdx.Registers[:], name)
		c, err := machine.Cause(ctx, j.run.in, i, m.Key, m.Value.Digest(), got[evidence.Register(name)], pipeline.Where{File: j.Conf.File})
		if err != nil {
			return errors.Join(err, machine.Close())
		}
		key := j.key(name)
		j.run.out.Causes[key] = append(j.run.out.Causes[key], c)
		if i > 0 && logged != nil && m.Trace != nil {
			if c, ok := firstDifference(m, &logged.Trace[i-1], j.Conf.File); ok {
				j.run.out.Causes[key] = append(j.run.out.Causes[key], c)
			}
		}
	}
	return machine.Close()
}

// logged is the event log beside the quote, where it folds to the quote's
// registers: another log says nothing.
func (j *Judged) logged() *tdxmeasure.Replayed {
	if j.Request.Evidence.EventLog == nil {
		return nil
	}
	folded, _, err := tdxmeasure.ReplayLog("event log", j.Request.Evidence.EventLog)
	if err != nil {
		return nil
	}
	for i, reg := range evidence.Registers()[1:] {
		if folded.RTMR[i] != j.Result.Registers[reg] {
			return nil
		}
	}
	return folded
}

// firstDifference names the first event in which a computed register and the
// machine's own log differ.
func firstDifference(m pipeline.Measurement, log *trace.Trace, file string) (pipeline.Cause, bool) {
	var ours trace.Trace
	for _, e := range m.Trace.Events {
		ours.Events = append(ours.Events, trace.Event{Label: e.Label, Digest: e.Digest})
	}
	i, a, b := tdxmeasure.FirstDifference(ours, *log)
	if i < 0 {
		return pipeline.Cause{}, false
	}
	event := func(events []trace.Event) string {
		if i < len(events) {
			return events[i].Digest.String()
		}
		return ""
	}
	label := a
	if label == "" {
		label = b
	}
	return pipeline.Cause{
		Path: []string{string(m.Key), fmt.Sprintf("event %d", i), label}, Expected: event(ours.Events), Actual: event(log.Events), Standing: pipeline.Suspected, Hint: "tdx-firmware-events", Where: pipeline.Where{File: file},
		Note: fmt.Sprintf("the first event that differs is %d: computed %s, in the machine's log %s", i, eventLabel(a), eventLabel(b)),
	}, true
}

func eventLabel(label string) string {
	if label == "" {
		return "(none)"
	}
	return label
}

// folded joins the reasons that end in the same words: five registers that lack
// the same reference are one sentence.
func folded(reasons []string) []string {
	var out []string
	index := map[string]int{}
	for _, r := range reasons {
		head, tail, ok := strings.Cut(r, "; ")
		if !ok {
			out = append(out, r)
			continue
		}
		if i, known := index[tail]; known {
			out[i] = strings.TrimSuffix(out[i], "; "+tail) + ", " + head + "; " + tail
			continue
		}
		index[tail] = len(out)
		out = append(out, r)
	}
	return out
}
