package pipeline_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/trace"
)

func TestKey(t *testing.T) {
	if got, want := pipeline.NewKey("policy", "Deployment", "a/b", "ü x"), pipeline.Key("policy/Deployment/a%2Fb/%C3%BC%20x"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, tt := range []struct {
		glob string
		key  pipeline.Key
		want bool
	}{
		{"policy/Deployment/ns/x", "policy/Deployment/ns/x", true},
		{"policy", "policy/Deployment/ns/x", true},
		{"policy/*", "policy/Deployment/ns/x", false},
		{"policy/**", "policy/Deployment/ns/x", true},
		{"**/x", "policy/Deployment/ns/x", true},
		{"policy/*/*/x", "policy/Deployment/ns/x", true},
		{"policy/**/x", "policy/Deployment/ns/x", true},
		{"p*y/**", "policy/Deployment/ns/x", true},
		{"policy/*/ns/?", "policy/Deployment/ns/x", true},
		{"policy/?/ns/x", "policy//ns/x", false},
		{"image/**", "policy/Deployment/ns/x", false},
		{"*", "policy/a", false},
		{"**", "policy/a", true},
		{"a*b*c", "aXbYbZc", true},
		{"a**b*/d", "a/b/b/c/d", false},
		{"a**b/*/d", "a/b/b/c/d", true},
		{"", "policy/a", false},
	} {
		if got := tt.key.Match(tt.glob); got != tt.want {
			t.Errorf("%q matches %q: got %v, want %v", tt.glob, tt.key, got, tt.want)
		}
	}
}

func dig(s string) digest.Digest { return digest.SHA256.Sum([]byte(s)) }

func val(s string) pipeline.Value { return pipeline.OfDigest(dig(s)) }

func TestValueJSON(t *testing.T) {
	for _, v := range []pipeline.Value{
		{},
		val("x"), pipeline.OfText("a b"), pipeline.OfText("sha256:AB"), pipeline.OfNumber(1<<64 - 1),
		pipeline.OfBool(false), pipeline.OfList([]string{"b", "a"}), pipeline.OfList(nil),
	} {
		js, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var back pipeline.Value
		if err := json.Unmarshal(js, &back); err != nil || !back.Equal(v) || back.Kind() != v.Kind() {
			t.Errorf("%s: got %v (%v), want %v", js, back, err, v)
		}
	}
	var v pipeline.Value
	for _, bad := range []string{`-1`, `1.5`, `{}`, `[1]`} {
		if err := json.Unmarshal([]byte(bad), &v); err == nil {
			t.Errorf("%s was accepted as %v", bad, v)
		}
	}
}

func TestStandings(t *testing.T) {
	m := func(k pipeline.Key, b pipeline.Basis, in ...pipeline.Key) pipeline.Measurement {
		ms := pipeline.Measurement{Key: k, Value: val(string(k)), Basis: b, Inputs: []pipeline.InputRef{pipeline.FromFile("f")}}
		for _, i := range in {
			ms.Inputs = append(ms.Inputs, pipeline.FromKey(i))
		}
		return ms
	}
	got := pipeline.Standings([]pipeline.Measurement{
		m("manifest", pipeline.Recomputed, "p1", "p2", "t1"),
		m("p1", pipeline.Copied), m("p2", pipeline.Recomputed, "l1", "p1"), m("l1", pipeline.Copied, "manifest"),
		m("t1", pipeline.Assumed), m("alone", pipeline.Rebuilt), m("hole", pipeline.Recomputed, "nowhere"),
	})
	for k, want := range map[pipeline.Key]string{
		"manifest": "recomputed, resting on copied: 2",
		"p1":       "copied", "p2": "recomputed, resting on copied: 2",
		"t1": "assumed", "alone": "rebuilt", "hole": "recomputed, resting on copied: 1",
	} {
		if got[k].String() != want {
			t.Errorf("%s: got %q, want %q", k, got[k], want)
		}
	}
}

// The effective basis can only get weaker along a chain of inputs.
func TestStandingIsWeakest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "n")
		var ms []pipeline.Measurement
		weakest := pipeline.Basis(0)
		for i := range n {
			b := pipeline.Basis(rapid.IntRange(1, 6).Draw(t, "basis"))
			weakest = max(weakest, b)
			m := pipeline.Measurement{Key: pipeline.Key(fmt.Sprint(i)), Value: val("v"), Basis: b}
			if i+1 < n {
				m.Inputs = []pipeline.InputRef{pipeline.FromKey(pipeline.Key(fmt.Sprint(i + 1)))}
			}
			ms = append(ms, m)
		}
		if got := pipeline.Standings(ms)["0"].Effective; got != weakest {
			t.Fatalf("got %s, want %s", got, weakest)
		}
	})
}

func TestTraceFolds(t *testing.T) {
	// PCR-style: H(H(0 || a) || b), written out by hand.
	zero := make([]byte, 32)
	a, b := dig("a"), dig("b")
	step := digest.SHA256.Sum(slices.Concat(zero, a.Bytes()))
	want := digest.SHA256.Sum(slices.Concat(step.Bytes(), b.Bytes()))
	tr := trace.Trace{Fold: trace.Extend, Algorithm: digest.SHA256}
	tr.Add("a", a, trace.Origin{Size: -1})
	tr.Add("b", b, trace.Origin{Size: -1})
	if got, err := tr.Compute(); err != nil || got != want {
		t.Errorf("extend: got %v, %v; want %s", got, err, want)
	}
	tr.Fold = trace.Concat
	if got, err := tr.Compute(); err != nil || got != digest.SHA256.Sum(slices.Concat(a.Bytes(), b.Bytes())) {
		t.Errorf("concat: got %v, %v", got, err)
	}
	tr.Fold = "other"
	if got, err := tr.Compute(); err == nil {
		t.Errorf("an unknown fold gave %s", got)
	}
}

func TestMixedSetsNeverMatch(t *testing.T) {
	ref := func(set, key, v string) pipeline.Reference {
		return pipeline.Reference{Set: set, Key: pipeline.Key(key), Relation: pipeline.Equal, Want: val(v)}
	}
	refs := []pipeline.Reference{
		ref("row1", "tdx/p/mrtd", "m1"), ref("row1", "tdx/p/rtmr0", "r1"), ref("row1", "tdx/p/rtmr1", "x"),
		ref("row2", "tdx/p/mrtd", "m2"), ref("row2", "tdx/p/rtmr0", "r2"), ref("row2", "tdx/p/rtmr1", "x"),
	}
	run := func(mrtd, rtmr0 string) ([]pipeline.Finding, []pipeline.SetResult) {
		return pipeline.Compare([]pipeline.Measurement{
			{Key: "tdx/p/mrtd", Value: val(mrtd), Basis: pipeline.Recomputed},
			{Key: "tdx/p/rtmr0", Value: val(rtmr0), Basis: pipeline.Recomputed},
			{Key: "tdx/p/rtmr1", Value: val("x"), Basis: pipeline.Recomputed},
		}, refs, pipeline.CompareOptions{})
	}
	for _, row := range []string{"1", "2"} {
		fs, sets := run("m"+row, "r"+row)
		for _, f := range fs {
			if f.Verdict != pipeline.Match || f.Set != "row"+row {
				t.Errorf("row %s: got %+v, want a match of the row", row, f)
			}
		}
		if len(sets) != 2 {
			t.Errorf("got %d set results, want 2", len(sets))
		}
	}
	fs, sets := run("m1", "r2")
	var differing []pipeline.Key
	for _, f := range fs {
		if f.Bad() {
			differing = append(differing, f.Key)
		}
	}
	if len(differing) != 1 {
		t.Errorf("mixed rows: got differing %v, want exactly one key of the nearest row", differing)
	}
	if diff := cmp.Diff([]pipeline.Key{"tdx/p/rtmr0"}, sets[0].Differing); diff != "" || !sets[0].Chosen {
		t.Errorf("nearest set (-want +got):\n%s", diff)
	}
}

func TestRelationsAndClasses(t *testing.T) {
	n, b, l := pipeline.OfNumber, pipeline.OfBool, func(s ...string) pipeline.Value { return pipeline.OfList(s) }
	for _, tt := range []struct {
		name     string
		got      pipeline.Value
		ref      pipeline.Reference
		verdict  pipeline.Verdict
		class    pipeline.Class
		causes   int
		complete bool
	}{
		{"equal", n(1), pipeline.Reference{Relation: pipeline.Equal, Want: n(1)}, pipeline.Match, pipeline.ClassEqual, 0, false},
		{"differs", val("a"), pipeline.Reference{Relation: pipeline.Equal, Want: val("b")}, pipeline.Differs, pipeline.ClassUnexplained, 0, false},
		{"kinds differ", n(1), pipeline.Reference{Relation: pipeline.Equal, Want: pipeline.OfText("1")}, pipeline.Differs, pipeline.ClassUnexplained, 0, false},
		{"volatile", val("a"), pipeline.Reference{Relation: pipeline.Volatile, Want: val("b")}, pipeline.Differs, pipeline.ClassVolatile, 0, false},
		{"minimum raised", n(1), pipeline.Reference{Relation: pipeline.Equal, Want: n(2), Stricter: pipeline.StricterUp}, pipeline.Differs, pipeline.ClassTightened, 0, false},
		{"minimum lowered", n(2), pipeline.Reference{Relation: pipeline.Equal, Want: n(1), Stricter: pipeline.StricterUp}, pipeline.Differs, pipeline.ClassLoosened, 0, false},
		{"debug on", b(false), pipeline.Reference{Relation: pipeline.Equal, Want: b(true), Stricter: pipeline.StricterOff}, pipeline.Differs, pipeline.ClassLoosened, 0, false},
		{"debug off", b(true), pipeline.Reference{Relation: pipeline.Equal, Want: b(false), Stricter: pipeline.StricterOff}, pipeline.Differs, pipeline.ClassTightened, 0, false},
		{"demand off", b(true), pipeline.Reference{Relation: pipeline.Equal, Want: b(false), Stricter: pipeline.StricterOn}, pipeline.Differs, pipeline.ClassLoosened, 0, false},
		{"list order", l("a", "b"), pipeline.Reference{Relation: pipeline.Equal, Want: l("b", "a"), Stricter: pipeline.StricterLess}, pipeline.Match, pipeline.ClassEqual, 0, false},
		{"one more name", l("a"), pipeline.Reference{Relation: pipeline.Equal, Want: l("a", "b"), Stricter: pipeline.StricterLess}, pipeline.Differs, pipeline.ClassLoosened, 1, false},
		{"one name fewer", l("a", "b"), pipeline.Reference{Relation: pipeline.Equal, Want: l("a"), Stricter: pipeline.StricterLess}, pipeline.Differs, pipeline.ClassTightened, 1, false},
		{"one name changed", l("a", "b"), pipeline.Reference{Relation: pipeline.Equal, Want: l("a", "c"), Stricter: pipeline.StricterLess}, pipeline.Differs, pipeline.ClassLoosened, 2, false},
		{"allow-list dropped", l("a"), pipeline.Reference{Relation: pipeline.Equal, Want: l(), Stricter: pipeline.StricterListed}, pipeline.Differs, pipeline.ClassLoosened, 1, false},
		{"allow-list introduced", l(), pipeline.Reference{Relation: pipeline.Equal, Want: l("a"), Stricter: pipeline.StricterListed}, pipeline.Differs, pipeline.ClassTightened, 1, false},
		{"not recomputed", pipeline.Value{}, pipeline.Reference{Relation: pipeline.Equal, Want: n(1)}, pipeline.Unchecked, pipeline.ClassUnexplained, 0, false},
		{"extra", pipeline.Value{}, pipeline.Reference{Relation: pipeline.Equal, Want: l("a"), Stricter: pipeline.StricterLess}, pipeline.Extra, pipeline.ClassLoosened, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.ref.Key = "x/y"
			var ms []pipeline.Measurement
			if !tt.got.IsNone() {
				ms = append(ms, pipeline.Measurement{Key: "x/y", Value: tt.got, Basis: pipeline.Recomputed})
			}
			var o pipeline.CompareOptions
			if tt.complete {
				o.Complete = []string{"x/**"}
			}
			fs, _ := pipeline.Compare(ms, []pipeline.Reference{tt.ref}, o)
			if len(fs) != 1 {
				t.Fatalf("got %d findings, want 1", len(fs))
			}
			if f := fs[0]; f.Verdict != tt.verdict || f.Class != tt.class || len(f.Why) != tt.causes {
				t.Errorf("got %s %s with %d causes, want %s %s with %d", f.Verdict, f.Class, len(f.Why), tt.verdict, tt.class, tt.causes)
			}
		})
	}
}

func TestMissingNeedsACompletePublishedSide(t *testing.T) {
	ms := []pipeline.Measurement{{Key: "x/y", Value: val("a"), Basis: pipeline.Recomputed}}
	if fs, _ := pipeline.Compare(ms, nil, pipeline.CompareOptions{}); len(fs) != 0 {
		t.Errorf("got %v, want nothing", fs)
	}
	fs, _ := pipeline.Compare(ms, nil, pipeline.CompareOptions{Published: []string{"x/**"}})
	if len(fs) != 1 || fs[0].Verdict != pipeline.Missing || !fs[0].Bad() {
		t.Errorf("got %v, want one missing", fs)
	}
}

// Two published files that speak of the same key are no alternatives.
func TestReferencesWithoutSetMustAllHold(t *testing.T) {
	refs := []pipeline.Reference{
		{Key: "disk/m/root", Relation: pipeline.Equal, Want: val("a"), Where: pipeline.Where{File: "deployment.yaml"}},
		{Key: "disk/m/root", Relation: pipeline.Equal, Want: val("b"), Where: pipeline.Where{File: "models.yaml"}},
	}
	fs, _ := pipeline.Compare([]pipeline.Measurement{{Key: "disk/m/root", Value: val("a"), Basis: pipeline.Recomputed}}, refs, pipeline.CompareOptions{})
	if len(fs) != 2 || fs[0].Bad() == fs[1].Bad() {
		t.Errorf("got %+v, want one match and one difference", fs)
	}
}

// TestTieBreaks: of sets of which one must hold, the one with the fewest
// differences is chosen, then the one with the most members that hold, then the
// newest version, whatever their order.
func TestTieBreaks(t *testing.T) {
	ms := []pipeline.Measurement{{Key: "k/a", Value: pipeline.OfText("1"), Basis: pipeline.Recomputed}, {Key: "k/b", Value: pipeline.OfText("2"), Basis: pipeline.Recomputed}}
	set := func(name, version, a, b string) []pipeline.Reference {
		refs := []pipeline.Reference{{Set: name, Version: version, Key: "k/a", Relation: pipeline.Equal, Want: pipeline.OfText(a)}}
		if b != "" {
			refs = append(refs, pipeline.Reference{Set: name, Version: version, Key: "k/b", Relation: pipeline.Equal, Want: pipeline.OfText(b)})
		}
		return refs
	}
	for _, tt := range []struct {
		want string
		sets [][]pipeline.Reference
	}{
		{"fewest", [][]pipeline.Reference{set("fewest", "v1", "1", ""), set("more", "v2", "1", "x"), set("most", "v3", "x", "x")}},
		{"members", [][]pipeline.Reference{set("members", "v1", "1", "2"), set("one", "v2", "1", "")}},
		{"newest", [][]pipeline.Reference{set("old", "v0.0.9", "1", "2"), set("newest", "v0.0.25", "1", "2"), set("before", "v0.0.25-rc", "1", "2")}},
	} {
		for i := range 2 * len(tt.sets) {
			var refs []pipeline.Reference
			order := slices.Concat(tt.sets[i%len(tt.sets):], tt.sets[:i%len(tt.sets)])
			if i >= len(tt.sets) {
				slices.Reverse(order)
			}
			for _, s := range order {
				refs = append(refs, s...)
			}
			_, results := pipeline.Compare(ms, refs, pipeline.CompareOptions{})
			for _, r := range results {
				if r.Chosen != (r.Set == tt.want) {
					t.Errorf("%s: %s is chosen: %v", tt.want, r.Set, r.Chosen)
				}
			}
		}
	}
}
