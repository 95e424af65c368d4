package gate_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/gate"
)

var today = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func sum(text string) pipeline.Value { return pipeline.OfDigest(digest.SHA256.Sum([]byte(text))) }

type value struct {
	key       pipeline.Key
	got, want pipeline.Value
	basis     pipeline.Basis
	stricter  pipeline.Stricter
}

// judged is a report as a run makes it.
func judged(values []value, problems ...pipeline.Problem) (*pipeline.Report, pipeline.Case) {
	r := &pipeline.Report{Schema: pipeline.Schema, Problems: problems}
	var refs []pipeline.Reference
	for i, v := range values {
		if !v.got.IsNone() {
			r.Measurements = append(r.Measurements, pipeline.Measurement{Key: v.key, Value: v.got, Basis: v.basis, Inputs: []pipeline.InputRef{pipeline.FromFile("in/" + string(v.key))}})
			r.Inputs = append(r.Inputs, pipeline.Input{File: "in/" + string(v.key), Digest: digest.SHA256.Sum([]byte(v.got.String()))})
		}
		if !v.want.IsNone() {
			refs = append(refs, pipeline.Reference{Key: v.key, Relation: pipeline.Equal, Want: v.want, Stricter: v.stricter, Where: pipeline.Where{File: "published.json", Line: 10 + i}})
		}
	}
	c := pipeline.Case{References: refs}
	r.Judge(c)
	return r, c
}

func policy(t *testing.T, text string) *gate.Policy {
	t.Helper()
	p, err := gate.Parse("gate.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var (
	good  = value{key: "image/a/manifest", got: sum("a"), want: sum("a"), basis: pipeline.Recomputed}
	other = value{key: "image/b/manifest", got: sum("b"), want: sum("B"), basis: pipeline.Recomputed}
	loose = value{key: "snp/P/launch/MinimumTCB/SNPVersion", got: pipeline.OfNumber(28), want: pipeline.OfNumber(20), basis: pipeline.Recomputed, stricter: pipeline.StricterUp}
)

const who = "reason: r, owner: o, expires: "

func known(v value, day string) string {
	return "{key: " + string(v.key) + ", got: '" + v.got.String() + "', want: '" + v.want.String() + "', " + who + day + "}"
}

func TestJudge(t *testing.T) {
	debug := value{key: "snp/P/GuestPolicy/Debug", got: pipeline.OfBool(true), want: pipeline.OfBool(true), basis: pipeline.Recomputed}
	copied := value{key: "disk/m/root", got: sum("m"), want: sum("m"), basis: pipeline.Copied}
	warning := pipeline.Problem{Level: pipeline.LevelWarning, Code: "adjust-step", Where: pipeline.Where{File: "plan.yaml", Line: 4}, Msg: "matched nothing"}
	unpinned := pipeline.Problem{Level: pipeline.LevelError, Code: "image-unpinned", Where: pipeline.Where{File: "deployment.yaml", Line: 7}, Msg: "no digest"}
	for _, tt := range []struct {
		name     string
		policy   string // behind version: 1
		values   []value
		problems []pipeline.Problem
		want     pipeline.Outcome
		codes    []string // of what is denied
		line     int      // of the first of them
	}{
		{name: "all well", values: []value{good}, want: pipeline.OutcomeMatch},
		{name: "nothing compared", want: pipeline.OutcomeUnchecked},
		{name: "differs", values: []value{good, other}, want: pipeline.OutcomeDenied, codes: []string{"gate-differs"}, line: 11},
		{name: "acknowledged", policy: "known: [" + known(other, "2026-12-31") + "]", values: []value{good, other}, want: pipeline.OutcomeMatch},
		{name: "acknowledged on its last day", policy: "known: [" + known(other, "2026-11-30") + "]", values: []value{good, other}, want: pipeline.OutcomeMatch},
		{name: "only what is acknowledged was compared", policy: "known: [" + known(other, "2026-12-31") + "]", values: []value{other}, want: pipeline.OutcomeUnchecked},
		{name: "expired", policy: "known: [" + known(other, "2026-11-29") + "]", values: []value{good, other}, want: pipeline.OutcomeDenied, codes: []string{"gate-differs", "gate-expired"}},
		{name: "no longer needed", policy: "known: [" + known(other, "2026-12-31") + "]", values: []value{good}, want: pipeline.OutcomeDenied, codes: []string{"gate-unused"}, line: 2},
		{name: "another value than acknowledged", policy: "known: [" + known(value{key: other.key, got: other.got, want: sum("else")}, "2026-12-31") + "]", values: []value{good, other}, want: pipeline.OutcomeDenied, codes: []string{"gate-differs", "gate-unused"}},
		{name: "one side's value missing in the entry", policy: "known: [{key: image/b/manifest, got: '" + other.got.String() + "', " + who + "2026-12-31}]", values: []value{good, other}, want: pipeline.OutcomeDenied, codes: []string{"gate-differs", "gate-unused"}},
		{name: "loosened against what is published", values: []value{good, loose}, want: pipeline.OutcomeDenied, codes: []string{"gate-loosened"}},
		{name: "leave to loosen is about the release before", policy: "permit: [{rule: loosened, keys: 'snp/**', " + who + "2026-12-31}]", values: []value{good, loose}, want: pipeline.OutcomeDenied, codes: []string{"gate-loosened"}},
		{name: "copied", values: []value{good, copied}, want: pipeline.OutcomeUnchecked},
		{name: "copied, with leave", policy: "permit: [{rule: unchecked, keys: 'disk/**', " + who + "2026-12-31}]", values: []value{good, copied}, want: pipeline.OutcomeMatch},
		{name: "copied, with a leave of yesterday", policy: "permit: [{rule: unchecked, keys: 'disk/**', " + who + "2026-11-29}]", values: []value{good, copied}, want: pipeline.OutcomeDenied, codes: []string{"gate-expired"}},
		{name: "published and not recounted", values: []value{good, {key: "policy/x", want: sum("x")}}, want: pipeline.OutcomeUnchecked},
		{name: "basis holds", policy: "basis: [{keys: 'image/**', at_least: recomputed}]", values: []value{good}, want: pipeline.OutcomeMatch},
		{name: "basis too weak", policy: "basis: [{keys: 'image/**', at_least: rebuilt}]", values: []value{good}, want: pipeline.OutcomeDenied, codes: []string{"gate-basis"}, line: 10},
		{name: "basis of what was not recounted", policy: "basis: [{keys: 'policy/**', at_least: recomputed}]", values: []value{good, {key: "policy/x", want: sum("x")}}, want: pipeline.OutcomeUnchecked},
		{name: "basis of what was not recounted, with leave", policy: "basis: [{keys: 'policy/**', at_least: recomputed}]\npermit: [{rule: unchecked, keys: 'policy/**', " + who + "2026-12-31}]", values: []value{good, {key: "policy/x", want: sum("x")}}, want: pipeline.OutcomeDenied, codes: []string{"gate-basis"}},
		{name: "basis of nothing", policy: "basis: [{keys: 'polcy/**', at_least: recomputed}]", values: []value{good}, want: pipeline.OutcomeDenied, codes: []string{"gate-unused"}},
		{name: "debug, although both sides agree", values: []value{good, debug}, want: pipeline.OutcomeDenied, codes: []string{"gate-debug"}, line: 11},
		{name: "a warning", values: []value{good}, problems: []pipeline.Problem{warning}, want: pipeline.OutcomeDenied, codes: []string{"gate-warning"}, line: 4},
		{name: "a warning, permitted", policy: "permit: [{rule: warning, code: adjust-step, file: plan.yaml, " + who + "2026-12-31}]", values: []value{good}, problems: []pipeline.Problem{warning}, want: pipeline.OutcomeMatch},
		{name: "a warning, permitted in another file", policy: "permit: [{rule: warning, code: adjust-step, file: other.yaml, " + who + "2026-12-31}]", values: []value{good}, problems: []pipeline.Problem{warning}, want: pipeline.OutcomeDenied, codes: []string{"gate-warning", "gate-unused"}},
		{name: "a defect", values: []value{good}, problems: []pipeline.Problem{unpinned}, want: pipeline.OutcomeDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, c := judged(tt.values, tt.problems...)
			gate.Judge(r, policy(t, "version: 1\n"+tt.policy), gate.Case{Judged: c, At: today, Against: "published.json"})
			var codes []string
			for _, d := range r.Gate.Denied {
				codes = append(codes, d.Code)
				if !slices.Contains(r.Problems, d) {
					t.Errorf("%s is not among the report's problems", d.Code)
				}
			}
			if r.Outcome != tt.want || !slices.Equal(codes, tt.codes) {
				t.Errorf("%s %v, want %s %v\n%s", r.Outcome, codes, tt.want, tt.codes, r.Summary)
			}
			if tt.line > 0 && len(codes) > 0 && r.Gate.Denied[0].Where.Line != tt.line {
				t.Errorf("line %d, want %d", r.Gate.Denied[0].Where.Line, tt.line)
			}
		})
	}
}

// TestPrevious: what is new or looser than in the release before.
func TestPrevious(t *testing.T) {
	policyKey := value{key: "policy/Deployment/ns/new", got: sum("p"), want: sum("p"), basis: pipeline.Recomputed}
	before := &pipeline.Report{Findings: []pipeline.Finding{
		{Key: loose.key, Verdict: pipeline.Differs, Class: pipeline.ClassLoosened, Got: pipeline.OfNumber(28), Want: pipeline.OfNumber(20)},
		{Key: policyKey.key, Verdict: pipeline.Extra, Class: pipeline.ClassUnexplained, Want: policyKey.got},
		{Key: good.key, Verdict: pipeline.Differs, Class: pipeline.ClassUnexplained, Got: sum("old"), Want: good.got},
		{Key: "policy/Deployment/ns/gone", Verdict: pipeline.Missing, Class: pipeline.ClassTightened, Got: sum("g")},
		{Key: "tdx/P/mrtd", Verdict: pipeline.Match, Class: pipeline.ClassEqual, Got: sum("m"), Want: sum("m")},
	}}
	judge := func(text string) *pipeline.Report {
		r, c := judged([]value{good, policyKey})
		was := map[string]pipeline.Input{"in/" + string(policyKey.key): r.Inputs[slices.IndexFunc(r.Inputs, func(in pipeline.Input) bool { return in.File == "in/"+string(policyKey.key) })]}
		gate.Judge(r, policy(t, "version: 1\n"+text), gate.Case{Judged: c, At: today, Previous: before, PreviousName: "v1", Before: was})
		return r
	}
	r := judge("")
	if r.Outcome != pipeline.OutcomeDenied || len(r.Gate.Denied) != 2 || r.Gate.Denied[0].Code != "gate-loosened" || r.Gate.Denied[1].Code != "gate-new-policy" {
		t.Errorf("%s %v", r.Outcome, r.Gate.Denied)
	}
	if len(r.Gate.Moved) != 4 {
		t.Errorf("moved: %v", r.Gate.Moved)
	}
	for _, m := range r.Gate.Moved {
		// Only the image's input is another than before.
		if want := m.Key == good.key; want != (m.Note == "in/"+string(good.key)) {
			t.Errorf("%s comes from %v", m.Key, m.Note)
		}
	}
	r = judge("permit:\n- {rule: loosened, keys: '" + string(loose.key) + "', " + who + "2026-12-31}\n- {rule: new-policy, keys: 'policy/**', " + who + "2026-12-31}\n")
	if r.Outcome != pipeline.OutcomeMatch || len(r.Gate.Accepted) != 2 {
		t.Errorf("with leave: %s %v %v", r.Outcome, r.Gate.Denied, r.Gate.Accepted)
	}
	if r = judge("permit:\n- {rule: loosened, keys: '**', " + who + "2026-12-31}\n"); r.Outcome != pipeline.OutcomeDenied || len(r.Gate.Denied) != 1 {
		t.Errorf("a leave from one rule reaches another: %v", r.Gate.Denied)
	}
}

func TestTestRootAndAge(t *testing.T) {
	judge := func(text string, taken time.Time) *pipeline.Report {
		r, c := judged([]value{good})
		r.TestRoots = []string{"root.pem"}
		gate.Judge(r, policy(t, "version: 1\n"+text), gate.Case{Judged: c, At: today, Evidence: []gate.Shown{{Name: "vm", Taken: taken, File: "quote.bin"}}})
		return r
	}
	if r := judge("", today); r.Outcome != pipeline.OutcomeUnchecked {
		t.Errorf("a test root without leave: %s", r.Outcome)
	}
	leave := "permit: [{rule: test-root, " + who + "2026-12-31}]\nevidence: {max_age: 30d}\n"
	for days, want := range map[int]pipeline.Outcome{0: pipeline.OutcomeMatch, 30: pipeline.OutcomeMatch, 31: pipeline.OutcomeDenied, -1: pipeline.OutcomeDenied} {
		if r := judge(leave, today.AddDate(0, 0, -days)); r.Outcome != want {
			t.Errorf("%d days: %s, want %s: %v", days, r.Outcome, want, r.Gate.Denied)
		}
	}
	if r := judge(leave, time.Time{}); r.Outcome != pipeline.OutcomeDenied {
		t.Errorf("no time: %s", r.Outcome)
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                      "is empty",
		"version: 2":                            "version 2",
		"version: 1\nknwon: []":                 "knwon",
		"version: 1\nevidence: {max_age: 30}":   "no age",
		"version: 1\nevidence: {max_age: 0d}":   "no age",
		"version: 1\nevidence: {max_age: 1d2h}": "no age",
		"version: 1\nbasis: [{keys: '**', at_least: copied}]":                                       "no demand",
		"version: 1\nbasis: [{keys: '**'}]":                                                         "at_least is missing",
		"version: 1\nbasis: [{at_least: rebuilt}]":                                                  "glob is empty",
		"version: 1\npermit: [{rule: debug, keys: '**', " + who + "2026-12-31}]":                    `no leave can be given from "debug"`,
		"version: 1\npermit: [{rule: differs, keys: '**', " + who + "2026-12-31}]":                  "no leave can be given",
		"version: 1\npermit: [{rule: loosened, " + who + "2026-12-31}]":                             "glob is empty",
		"version: 1\npermit: [{rule: warning, keys: '**', " + who + "2026-12-31}]":                  "wants a code",
		"version: 1\npermit: [{rule: test-root, keys: '**', " + who + "2026-12-31}]":                "has no keys",
		"version: 1\npermit: [{rule: loosened, keys: '**', owner: o, expires: 2026-12-31}]":         "reason is missing",
		"version: 1\npermit: [{rule: loosened, keys: '**', reason: ' ', owner: o, expires: x}]":     "reason is missing",
		"version: 1\npermit: [{rule: loosened, keys: '**', " + who + "never}]":                      "no day",
		"version: 1\nknown: [{key: 'image/*', got: a, want: b, " + who + "2026-12-31}]":             "is no key",
		"version: 1\nknown: [{key: image/a, " + who + "2026-12-31}]":                                "both values are missing",
		"version: 1\nknown:\n- " + known(other, "2026-12-31") + "\n- " + known(other, "2027-12-31"): "stands on line 3",
	} {
		_, err := gate.Parse("gate.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "gate.yaml:") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("version: 1\nbasis: [{keys: '**', at_least: rebuilt}]\nevidence: {max_age: 30d}\npermit: [{rule: warning, code: c, " + who + "2026-12-31}]\nknown: [" + known(other, "2026-12-31") + "]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := gate.Parse("gate.yaml", data)
		if err != nil {
			return
		}
		// Whatever a policy says: without an entry that is not expired, what
		// differs does not pass.
		r, c := judged([]value{good, other})
		gate.Judge(r, p, gate.Case{Judged: c, At: today})
		if r.Outcome == pipeline.OutcomeMatch && !strings.Contains(string(data), "image/b/manifest") {
			t.Errorf("passed: %q", data)
		}
	})
}
