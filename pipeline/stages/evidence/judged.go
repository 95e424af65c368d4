package evidence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/trace"
)

// judged is an entry with its result.
type judged struct {
	run  *stageRun
	name string
	conf config.Evidence
	req  *evidence.Request
	res  *evidence.Result
	from *judgedFrom
}

func (j *judged) key(parts ...string) pipeline.Key {
	return pipeline.NewKey(append([]string{"evidence", j.name}, parts...)...)
}

// basis is how what a quote says is known: endorsed where the quote is
// authentic, otherwise anybody could have written it.
func (j *judged) basis() pipeline.Basis {
	if j.res.Authentic.Verdict == verdict.Pass {
		return pipeline.Endorsed
	}
	return pipeline.Copied
}

// fieldsForFlags turns the flags that the room's reasons name into the fields
// of the configuration.
var fieldsForFlags = strings.NewReplacer(
	"--tls-cert FILE", "tls_cert: FILE", "--nonce HEX", "nonce: HEX", "--collateral FILE", "collateral: FILE", "--docker-compose FILE", "compose: FILE",
	"--docker-files FILE", "docker_files: FILE", "--registry FILE", "registry: FILE", "--rootfs FILE", "rootfs: FILE", "--manifest FILE", "against: FILE",
	"--vm-config FILE", "vm_config: FILE", "--os-image-hash HEX", "os_image_hash: HEX", "--measured FILE", "platform: NAME",
)

func reasonOf(c verdict.Check) string { return fieldsForFlags.Replace(c.Reason) }

// checks adds every check that was made as a value of its own, and says which
// optional ones were not.
func (j *judged) checks(what string, judgement verdict.Judgement) {
	out := j.run.out
	seen := map[string]int{}
	for _, c := range judgement.Checks {
		if c.Verdict == verdict.Unchecked {
			// A test root has a problem of its own, which names the file.
			if c.Optional && c.Name != "authentic" && c.Name != "test-root" {
				out.Problems = append(out.Problems, pipeline.Problem{Level: pipeline.LevelNote, Code: "evidence-" + c.Name, Where: pipeline.Where{File: j.conf.File}, Msg: fmt.Sprintf("evidence %s: %s: %s", j.name, c.Name, reasonOf(c))})
			}
			continue
		}
		name := c.Name
		if seen[c.Name]++; seen[c.Name] > 1 {
			name = fmt.Sprintf("%s:%d", c.Name, seen[c.Name])
		}
		out.Measurements = append(out.Measurements, pipeline.Measurement{
			Key: j.key(what, name), Value: pipeline.OfText(string(c.Verdict)), Basis: j.basis(), Inputs: []pipeline.InputRef{pipeline.FromFile(j.conf.File)}, Note: reasonOf(c),
		})
	}
}

// registers adds the quote's registers.
func (j *judged) registers() []pipeline.InputRef {
	q := j.res.Claims.Quote
	if q == nil {
		return nil
	}
	var refs []pipeline.InputRef
	for i, text := range []string{q.MRTD, q.RTMR0, q.RTMR1, q.RTMR2, q.RTMR3} {
		d, err := digest.ParseHex(digest.SHA384, text)
		if err != nil {
			continue
		}
		key := j.key(tdx.Registers[i])
		j.run.out.Measurements = append(j.run.out.Measurements, pipeline.Measurement{Key: key, Value: pipeline.OfDigest(d), Basis: j.basis(), Inputs: []pipeline.InputRef{pipeline.FromFile(j.conf.File)}, Note: "as the quote says"})
		refs = append(refs, pipeline.FromKey(key))
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
func (j *judged) judgement(what string, v verdict.Judgement, inputs []pipeline.InputRef) {
	out, key := j.run.out, j.key(what)
	out.References = append(out.References, pipeline.Reference{
		Key: key, Relation: pipeline.Equal, Want: pipeline.OfText(string(verdict.Pass)), Where: pipeline.Where{File: j.conf.File}, Words: j.name + ": " + judgementWords[what],
	})
	if v.Verdict == verdict.Unchecked {
		var open []string
		for _, c := range v.Checks {
			// The optional ones are problems of their own.
			if c.Verdict == verdict.Unchecked && !c.Optional {
				open = append(open, c.Name+": "+reasonOf(c))
			}
		}
		out.Notes[key] = strings.Join(open, "; ")
		return
	}
	m := pipeline.Measurement{Key: key, Value: pipeline.OfText(string(v.Verdict)), Basis: j.basis(), Inputs: slices.Clone(inputs)}
	if what == "expected" && v.Verdict == verdict.Pass && j.basis() == pipeline.Endorsed && j.res.Claims.Release != "" {
		m.Note = "release " + j.res.Claims.Release
		out.Facts = append(out.Facts, fmt.Sprintf("%s: a quote of release %s", j.conf.File, j.res.Claims.Release))
	}
	if what != "authentic" {
		m.Inputs = append(m.Inputs, pipeline.FromKey(j.key("authentic")))
	}
	out.Measurements = append(out.Measurements, m)
	if v.Verdict == verdict.Fail {
		j.causes(what, key, v)
	}
}

// causes gives each failed check. They are all of the reasons, and therefore
// proved, unless a required check could not be made.
func (j *judged) causes(what string, key pipeline.Key, v verdict.Judgement) {
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
		cause := pipeline.Cause{Path: []string{string(key), c.Name}, Note: c.Name + ": " + reasonOf(c), Standing: standing, Where: pipeline.Where{File: j.conf.File}}
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
		j.run.out.Causes[key] = append(j.run.out.Causes[key], cause)
	}
}

// whyRegisters looks for the deviation of the platform that turns what was
// computed into what the quote says, and, where an event log lies beside the
// quote, for the first event that differs.
func (j *judged) whyRegisters(ctx context.Context) error {
	if j.conf.Platform == "" || j.res.Claims.Quote == nil || j.res.Authentic.Verdict != verdict.Pass {
		return nil
	}
	key := j.key("expected")
	got := map[string]digest.Digest{}
	for _, m := range j.run.out.Measurements {
		for _, name := range tdx.Registers {
			if m.Key == j.key(name) {
				got[name] = m.Value.Digest()
			}
		}
	}
	var differing []pipeline.Measurement
	for _, name := range tdx.Registers {
		m, ok := j.run.in.Get(pipeline.NewKey("tdx", j.conf.Platform, name))
		if ok && m.Value.Digest() != got[name] {
			differing = append(differing, m)
		}
	}
	if len(differing) == 0 {
		return nil
	}
	machine, err := tdx.Open(ctx, j.run.in, j.conf.Platform)
	if err != nil {
		return err
	}
	machine.TakeRows(j.req.Registry)
	logged := j.logged()
	for _, m := range differing {
		name := tdx.RegisterOf(m.Key)
		i := slices.Index(tdx.Registers[:], name)
		c, err := machine.Cause(ctx, j.run.in, i, m.Key, m.Value.Digest(), got[name], pipeline.Where{File: j.conf.File})
		if err != nil {
			return errors.Join(err, machine.Close())
		}
		j.run.out.Causes[key] = append(j.run.out.Causes[key], c)
		if i > 0 && logged != nil && m.Trace != nil {
			if c, ok := firstDifference(m, &logged.Trace[i-1], j.conf.File); ok {
				j.run.out.Causes[key] = append(j.run.out.Causes[key], c)
			}
		}
	}
	return machine.Close()
}

// logged is the event log beside the quote, where it folds to the quote's
// registers: another log says nothing.
func (j *judged) logged() *tdxmeasure.Replayed {
	if j.req.Evidence.EventLog == nil {
		return nil
	}
	folded, _, err := tdxmeasure.ReplayLog("event log", j.req.Evidence.EventLog)
	if err != nil {
		return nil
	}
	q := j.res.Claims.Quote
	for i, text := range []string{q.RTMR0, q.RTMR1, q.RTMR2, q.RTMR3} {
		if folded.RTMR[i].Hex() != text {
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
