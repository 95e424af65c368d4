package manifest_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/manifest"
)

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustPlan(t testing.TB, file string, data []byte) *manifest.Plan {
	t.Helper()
	p, err := manifest.ParsePlan(file, data)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// releases names the instance of each release's deployment (namespace
// continuum-<instance>). In v1.10.0 the namespace is looked up on an object
// that does not exist, so the script inserts nothing.
var releases = []struct{ tag, namespace, instance string }{
	{"v1.10.0", "", "590943"},
	{"v1.12.0", "continuum-83c1af", "83c1af"},
	{"v1.13.0", "continuum-8c7240", "8c7240"},
	{"v1.15.0", "continuum-e14845", "e14845"},
	{"v1.16.0", "continuum-bafcc5", "bafcc5"},
	{"v1.18.0", "continuum-27aa6c", "27aa6c"},
	{"v1.19.0", "continuum-42401a", "42401a"},
	{"v1.24.0", "continuum-30d829", "30d829"},
	{"v1.25.0", "continuum-d71e23", "d71e23"},
	{"v1.26.0", "continuum-bd29ae", "bd29ae"},
	{"v1.33.0", "continuum-12f63c", "12f63c"},
	{"v1.35.1", "continuum-68e571", "68e571"},
	{"v1.37.0", "continuum-9c88b6", "9c88b6"},
	{"v1.38.0", "continuum-c79d18", "c79d18"},
	{"v1.40.0", "continuum-347e1b", "347e1b"},
}

func vars(namespace, instance string) map[string]string {
	return map[string]string{"namespace": namespace, "instance": instance}
}

func TestApplyReleases(t *testing.T) {
	dir := testenv.Vectors(t, "published/privatemode/adjust")
	files, err := filepath.Glob(filepath.Join(dir, "v*.before.json"))
	if err != nil || len(files) != len(releases) {
		t.Fatalf("the table has %d releases, the vectors %d (%v)", len(releases), len(files), err)
	}
	for _, r := range releases {
		t.Run(r.tag, func(t *testing.T) {
			plan := mustPlan(t, r.tag, read(t, filepath.Join(dir, r.tag+".adjustments.yaml")))
			res, err := plan.Apply(read(t, filepath.Join(dir, r.tag+".before.json")), vars(r.namespace, r.instance))
			if err != nil {
				t.Fatal(err)
			}
			want := string(read(t, filepath.Join(dir, r.tag+".after.json")))
			if diff := cmp.Diff(want, string(res.Bytes)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			// What does not match is warned about, and nothing else: v1.10.0
			// has the empty namespace, and v1.38.0 deletes a field by a name
			// that this (assumed) shape no longer has.
			wantWarnings := map[string][]string{
				"v1.10.0": {`variable "namespace" is empty`},
				"v1.38.0": {"nothing was there to delete"},
			}[r.tag]
			if got := res.Warnings(); len(got) != len(wantWarnings) || len(got) == 1 && !strings.Contains(got[0], wantWarnings[0]) {
				t.Errorf("warnings: got %q, want %q", got, wantWarnings)
			}
		})
	}
}

// The manifest that Privatemode v1.12.0 served follows from its four hashes,
// its measurement and its key; the public script of that release makes one
// line differ.
func TestApplyPublished(t *testing.T) {
	dir := testenv.Vectors(t, "published/privatemode")
	before := read(t, filepath.Join(dir, "adjust/real-83c1af.before.json"))
	want := read(t, filepath.Join(dir, "published/83c1af.manifest.json"))
	v := vars("continuum-83c1af", "83c1af")

	own := mustPlan(t, "real", read(t, filepath.Join(dir, "adjust/real-83c1af.adjustments.yaml")))
	res, err := own.Apply(before, v)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(res.Bytes)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}

	released := mustPlan(t, "v1.12.0", read(t, filepath.Join(dir, "adjust/v1.12.0.adjustments.yaml")))
	if res, err = released.Apply(before, v); err != nil {
		t.Fatal(err)
	}
	got, wantLines := strings.Split(string(res.Bytes), "\n"), strings.Split(string(want), "\n")
	if len(got) != len(wantLines) {
		t.Fatalf("got %d lines, want %d", len(got), len(wantLines))
	}
	var differ []string
	for i := range got {
		if got[i] != wantLines[i] {
			differ = append(differ, strings.TrimSpace(got[i])+" "+strings.TrimSpace(wantLines[i]))
		}
	}
	if diff := cmp.Diff([]string{`"staging.secret.privatemode.ai", "83c1af.secret.privatemode.ai",`}, differ); diff != "" {
		t.Errorf("differing lines, -want +got:\n%s", diff)
	}
}

func TestApplyEdge(t *testing.T) {
	edge := testenv.Vectors(t, "own/contrast/adjust-edge")
	plan := mustPlan(t, "v1.40.0", read(t, testenv.Vectors(t, "published/privatemode/adjust/v1.40.0.adjustments.yaml")))
	files, err := filepath.Glob(filepath.Join(edge, "*.before.json"))
	if err != nil || len(files) < 4 {
		t.Fatalf("found %d edge cases (%v)", len(files), err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			res, err := plan.Apply(read(t, f), vars("continuum-347e1b", "347e1b"))
			if err != nil {
				t.Fatal(err)
			}
			want := read(t, strings.Replace(f, ".before.", ".after.", 1))
			if diff := cmp.Diff(string(want), string(res.Bytes)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// Expected outputs were taken from yq v4.45.1 with the expression beside each
// case, on a file named *.json with -i.
func TestApplyAsYQ(t *testing.T) {
	set := "{op: set, path: /R/snp/*/M/B, value: 10}"                           // .R.snp[].M.B=10
	keep := "{op: keep, path: /R/snp, where: {C: 1}}"                           // .R.snp |= map(select(.C == 1))
	remove := "{op: remove, path: /R/snp, where: {P: Milan}}"                   // del(.R.snp[] | select(.P == "Milan"))
	del := "{op: delete, path: /R/snp/*/M}"                                     // del(.R.snp[].M)
	add := "{op: append, path: /P/*/S, where: {W: {contains: x}}, value: new}"  // (.P[] | select(.W | contains("x")).S) += ["new"]
	pre := "{op: prepend, path: /P/*/S, where: {W: {contains: x}}, value: new}" // (...) |= ["new"] + .
	for _, tc := range []struct{ step, in, want string }{
		{set, `{}`, `{"R":{"snp":[]}}`},
		{set, `{"R":null}`, `{"R":{"snp":[]}}`},
		{set, `{"R":{"snp":null}}`, `{"R":{"snp":[]}}`},
		{set, `{"R":{"snp":{}}}`, `{"R":{"snp":{}}}`},
		{set, `{"R":{"snp":"s"}}`, `{"R":{"snp":"s"}}`},
		{set, `{"R":{"snp":[null]}}`, `{"R":{"snp":[{"M":{"B":10}}]}}`},
		{set, `{"R":{"snp":[1,"s"]}}`, `{"R":{"snp":[1,"s"]}}`},
		{set, `{"R":{"snp":[{"M":5}]}}`, `{"R":{"snp":[{"M":5}]}}`},
		{set, `{"R":{"snp":[{"M":{"a":1,"B":2,"c":3}}]}}`, `{"R":{"snp":[{"M":{"a":1,"B":10,"c":3}}]}}`},
		{set, `{"R":{"snp":{"k":{},"l":{"M":{"B":1}}}}}`, `{"R":{"snp":{"k":{"M":{"B":10}},"l":{"M":{"B":10}}}}}`},
		{set, `{"a":1,"R":"s"}`, `{"a":1,"R":"s"}`},
		{keep, `{}`, `{"R":{"snp":[]}}`},
		{keep, `{"R":{"snp":null}}`, `{"R":{"snp":[]}}`},
		{keep, `{"R":{"snp":[null,1,{},{"C":2}]}}`, `{"R":{"snp":[]}}`},
		{keep, `{"R":{"snp":[{"C":1},{"C":1.0},{"C":"1"},{"C":"1.0"},{"C":10e-1},{"C":true},{"C":1.5}]}}`, `{"R":{"snp":[{"C":1},{"C":1},{"C":"1"},{"C":1}]}}`},
		{keep, `{"R":"s"}`, `{"R":"s"}`},
		{remove, `{}`, `{}`},
		{remove, `{"R":{}}`, `{"R":{}}`},
		{remove, `{"R":{"snp":null}}`, `{"R":{"snp":[]}}`},
		{remove, `{"R":{"snp":[{"P":"Milan"},{"P":"MILAN"},{"P":"Mi"},{},null,1]}}`, `{"R":{"snp":[{"P":"MILAN"},{"P":"Mi"},{},null,1]}}`},
		{remove, `{"R":{"snp":{"a":{"P":"Milan"},"b":{}}}}`, `{"R":{"snp":{"b":{}}}}`},
		{"{op: remove, path: /R, where: {P: null}}", `{"R":[{"P":null},{},{"P":"null"},{"P":0}]}`, `{"R":[{"P":"null"},{"P":0}]}`},
		{del, `{"R":{"snp":[{"M":1,"N":2},{"N":3},5]}}`, `{"R":{"snp":[{"N":2},{"N":3},5]}}`},
		{del, `{"R":{"snp":null}}`, `{"R":{"snp":[]}}`},
		{del, `{"R":null}`, `{"R":null}`},
		{del, `{}`, `{}`},
		{"{op: delete, path: /R}", `{"a":1,"R":{"x":[]},"b":2}`, `{"a":1,"b":2}`},
		{"{op: delete, path: /R/*}", `{"R":[1,2,3]}`, `{"R":[]}`},
		{"{op: delete, path: /R/1}", `{"R":[1,2,3]}`, `{"R":[1,3]}`},
		{"{op: set, path: /a/0, value: x}", `{"a":{"b":1}}`, `{"a":{"b":1,"0":"x"}}`},
		{"{op: set, path: /s/*/a/*, value: 5}", `{"s":[{"a":[1]},{"a":{"b":2}}]}`, `{"s":[{"a":[5]},{"a":{"b":5}}]}`},
		{add, `{"P":{"a":{"W":"x"},"b":{"W":"x","S":null},"c":{"W":"x","S":[]},"d":{"W":"x","S":["q"]},"e":{"S":["q"]}}}`, `{"P":{"a":{"W":"x","S":["new"]},"b":{"W":"x","S":["new"]},"c":{"W":"x","S":["new"]},"d":{"W":"x","S":["q","new"]},"e":{"S":["q"]}}}`},
		{pre, `{"P":{"a":{"W":"x"},"b":{"W":"x","S":null},"d":{"W":"ax","S":["q"]}}}`, `{"P":{"a":{"W":"x","S":["new"]},"b":{"W":"x","S":["new"]},"d":{"W":"ax","S":["new","q"]}}}`},
		{add, `{}`, `{"P":[]}`},
		{add, `{"P":null}`, `{"P":[]}`},
		{add, `{"P":[{"W":"x"}]}`, `{"P":[{"W":"x","S":["new"]}]}`},
		{add, `{"P":{"c":{"W":5},"d":{"W":null},"e":"x","f":null}}`, `{"P":{"c":{"W":5},"d":{"W":null},"e":"x","f":null}}`},
		{add, `{"P":"x"}`, `{"P":"x"}`},
		{"{op: set, path: /a, value: {SMT: true, n: [], o: {}}}", `{"a":{"x":1}}`, `{"a":{"SMT":true,"n":[],"o":{}}}`},
	} {
		plan := mustPlan(t, "plan", []byte("version: 1\nsteps:\n- "+tc.step+"\n"))
		res, err := plan.Apply([]byte(tc.in), nil)
		if err != nil {
			t.Errorf("%s on %s: %v", tc.step, tc.in, err)
			continue
		}
		if got := compact(t, res.Bytes); got != tc.want {
			t.Errorf("%s on %s:\n got %s\nwant %s", tc.step, tc.in, got, tc.want)
		}
	}
}

// Number notation of yq v4.45.1 for JSON read and written (run).
func TestApplyNumbers(t *testing.T) {
	plan := mustPlan(t, "plan", []byte("version: 1\nsteps: []\n"))
	for _, tc := range [][2]string{
		{"1.0", "1"},
		{"1e3", "1000"},
		{"0.1", "0.1"},
		{"12345678901234567890", "12345678901234567000"},
		{"-0", "0"},
		{"-0.0", "0"},
		{"1e-7", "1e-07"},
		{"1e-07", "1e-07"},
		{"1e21", "1e+21"},
		{"1e20", "100000000000000000000"},
		{"123456789012345678", "123456789012345680"},
		{"9007199254740993", "9007199254740992"},
		{"0.000001", "0.000001"},
		{"0.00001", "0.00001"},
		{"1.10", "1.1"},
		{"18446744073709551615", "18446744073709552000"},
		{"9223372036854775807", "9223372036854776000"},
		{"0.30000000000000004", "0.30000000000000004"},
		{"3.141592653589793238", "3.141592653589793"},
		{"5e-324", "5e-324"},
		{"1e22", "1e+22"},
		{"1.7976931348623157e308", "1.7976931348623157e+308"},
		{"1e-400", "0"},
		{"-1e-400", "0"},
		{"0e0", "0"},
		{"-5.0", "-5"},
	} {
		res, err := plan.Apply([]byte(`{"a":`+tc[0]+`}`), nil)
		if err != nil {
			t.Errorf("%s: %v", tc[0], err)
			continue
		}
		if got, want := compact(t, res.Bytes), `{"a":`+tc[1]+`}`; got != want {
			t.Errorf("%s: got %s, want %s", tc[0], got, want)
		}
	}
	if _, err := plan.Apply([]byte(`{"a":[0,1e999]}`), nil); err == nil || !strings.Contains(err.Error(), "/a/1") {
		t.Errorf("got %v, want an error at /a/1", err)
	}
}

func TestApplyStrings(t *testing.T) {
	plan := mustPlan(t, "plan", []byte("version: 1\nsteps: []\n"))
	in := `{"a":"\u0000\b\f\n\r\t\u001f\u007f\u0085\u00a0\u2028\u2029\ufeff\ud83d\ude00\/\"\\<>&"}`
	want := "{\"a\":\"\\u0000\\u0008\\u000c\\n\\r\\t\\u001f\u007f\u0085\u00a0\\u2028\\u2029\ufeff😀/\\\"\\\\<>&\"}"
	res, err := plan.Apply([]byte(in), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := compact(t, res.Bytes); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestApplyErrors(t *testing.T) {
	const vars = "variables: {x: {from: deployment, name: n, field: metadata.namespace}}\n"
	for _, tc := range []struct {
		name, step, in string
		vars           map[string]string
		want           string
	}{
		{"name in a list", "{op: set, path: /a/b, value: 1}", `{"a":[1]}`, nil, `/a: has elements, not names: "b"`},
		{"index beyond", "{op: set, path: /a/3/b, value: 1}", `{"a":[1]}`, nil, "/a: has 1 elements, no element 3"},
		{"append to text", "{op: append, path: /a, value: 1}", `{"a":"x"}`, nil, `/a: want a list to append to, found the string "x"`},
		{"prepend to a number", "{op: prepend, path: /a, value: 1}", `{"a":5}`, nil, "/a: want a list to prepend to"},
		{"keep in text", "{op: keep, path: /a, where: {b: 1}}", `{"a":"x"}`, nil, "/a: want a list"},
		{"where on a list", "{op: remove, path: /a, where: {b: 1}}", `{"a":[[]]}`, nil, "/a/0: is a list"},
		{"contains of an object", "{op: remove, path: /a, where: {b: {contains: x}}}", `{"a":[{"b":{}}]}`, nil, "/a/0/b: is an object"},
		{"merge key", "{op: set, path: /b, value: 1}", `{"a":{"<<":1}}`, nil, "/a/<<: member"},
		{"twice", "{op: set, path: /b, value: 1}", `{"a":1,"a":2}`, nil, `member "a" appears twice`},
		{"no object", "{op: set, path: /b, value: 1}", `[1]`, nil, "want an object, found an array"},
		{"no value", `{op: set, path: /b, value: "${x}y"}`, `{}`, nil, "plan:1: variables.x: no value is given (from a deployment (metadata.namespace of n), or --var x=VALUE)"},
		{"empty", `{op: set, path: /b, value: ["${x}"]}`, `{}`, map[string]string{"x": ""}, `value "${x}" is empty`},
		{"not UTF-8", `{op: set, path: /b, value: "${x}y"}`, `{}`, map[string]string{"x": "\xff"}, `the value of variable "x" is not UTF-8`},
		{"unknown", `{op: set, path: /b, value: "${x}y"}`, `{}`, map[string]string{"x": "1", "xx": "2"}, `variable "xx" is not declared (did you mean "x"?)`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plan := mustPlan(t, "plan", []byte(vars+"version: 1\nsteps:\n- "+tc.step+"\n"))
			res, err := plan.Apply([]byte(tc.in), tc.vars)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
			if res != nil {
				t.Error("an error came with a result")
			}
		})
	}
}

func TestApplyWarnings(t *testing.T) {
	const head = "version: 1\nvariables: {x: {from: deployment, name: n, field: f}}\nsteps:\n- "
	for _, tc := range []struct{ step, x, want string }{
		{`{op: set, path: /b, value: "${x}"}`, "347123", `"347123" stays text here`},
		{`{op: set, path: /b, value: "${x}"}`, "1e3", "stays text"},
		{`{op: set, path: /b, value: "${x}"}`, "true", "stays text"},
		{`{op: set, path: /b, value: "${x}"}`, "a: b", "stays text"},
		{`{op: set, path: /b, value: "${x}.d"}`, "347123", ""},
		{`{op: set, path: /b, value: "*.${x}"}`, "n", ""},
		{`{op: set, path: /b, value: "a${x}"}`, "", `variable "x" is empty`},
		{`{op: delete, path: "/nope"}`, "", "nothing was there to delete"},
		{`{op: keep, path: /l, where: {CPU: 1}}`, "", "no element has CPU = 1: the list is empty now"},
		{`{op: keep, path: /l, where: {CPUs: 1}}`, "", ""},
		{`{op: remove, path: /l, where: {CPUs: 2, P: q}}`, "", `no element has CPUs = 2 and P = "q"`},
		{`{op: set, path: /s/b, value: 1}`, "", "the path names nothing"},
		{`{op: append, path: "/l/*/x", where: {P: {contains: z}}, value: 1}`, "", `no element has P contains "z"`},
	} {
		plan := mustPlan(t, "plan", []byte(head+tc.step+"\n"))
		res, err := plan.Apply([]byte(`{"l":[{"CPUs":1}],"s":"t"}`), map[string]string{"x": tc.x})
		if err != nil {
			t.Errorf("%s: %v", tc.step, err)
			continue
		}
		if got := res.Steps[0].Warning; tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%s with %q: got warning %q, want %q", tc.step, tc.x, got, tc.want)
		}
		if res.Steps[0].Line != 4 {
			t.Errorf("%s: got line %d, want 4", tc.step, res.Steps[0].Line)
		}
	}
}

func TestApplyLeavesInput(t *testing.T) {
	m, err := manifest.Parse("m", []byte(`{"Policies":{"a":{"SANs":["x"]}},"ReferenceValues":{"snp":[{"CPUs":1.0}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	plan := mustPlan(t, "p", []byte("version: 1\nsteps:\n- {op: append, path: /Policies/*/SANs, value: [y, z]}\n- {op: delete, path: /ReferenceValues}\n"))
	res, err := plan.ApplyTree(m.Tree(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := compact(t, res.Bytes), `{"Policies":{"a":{"SANs":["x","y","z"]}}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if style, ok := m.Style(); !ok || string(style.Format(m.Tree())) != string(m.Raw()) {
		// the compact input has no final line feed: compare through Compact
		if got := compact(t, m.Raw()); !strings.Contains(got, `"CPUs":1.0`) || !strings.Contains(string(style.Compact(m.Tree())), `"CPUs":1.0`) {
			t.Errorf("the input tree was changed: %s", style.Compact(m.Tree()))
		}
	}
}

func TestParsePlan(t *testing.T) {
	plan := mustPlan(t, "plan.yaml", []byte(`version: 1
variables:
  b: {from: deployment, name: n, field: 'metadata.labels["a.b/c"].d'}
  a: {from: deployment, kind: Service, name: n, field: x}
steps:
- op: append
  path: /Policies/*/SANs
  where: &w {WorkloadSecretID: {contains: "${b}"}, Role: null}
  value: [a, 1e3, 0x1f, ~, true, 2020-01-01]
- {op: set, path: /a~1b/*/~0, where: *w, value: {k: -0.0, l: yes}}
`))
	if diff := cmp.Diff([]string{"b", "a"}, plan.VariableNames()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"b"}, plan.UsedVariables()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{`line 4: variable "a" is not used`}, plan.Warnings()); diff != "" {
		t.Error(diff)
	}
	parts, err := plan.Variables()["b"].FieldPath()
	if diff := cmp.Diff([]string{"metadata", "labels", "a.b/c", "d"}, parts); diff != "" || err != nil {
		t.Error(diff, err)
	}
	res, err := plan.Apply([]byte(`{"Policies":{"p":{"WorkloadSecretID":"ns/x"}},"a/b":[{"WorkloadSecretID":"ns"}]}`), map[string]string{"b": "ns"})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"Policies":{"p":{"WorkloadSecretID":"ns/x","SANs":["a",1000,31,null,true,"2020-01-01"]}},"a/b":[{"WorkloadSecretID":"ns","~":{"k":0,"l":"yes"}}]}`
	if got := compact(t, res.Bytes); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := res.Steps[0].Where, `WorkloadSecretID contains "ns" and Role = null`; got != want {
		t.Errorf("where: got %s, want %s", got, want)
	}
}

func TestParsePlanErrors(t *testing.T) {
	const ok = "version: 1\nsteps:\n- "
	for _, tc := range []struct {
		in           string
		line, column int
		want         string
	}{
		{"", 0, 0, "the plan is empty"},
		{"[1]", 1, 1, "want a mapping"},
		{"version: 2\nsteps: []", 1, 10, "want 1"},
		{"steps: []", 1, 1, `"version" is missing`},
		{"version: 1", 1, 1, `"steps" is missing`},
		{"version: 1\nstep: []\nsteps: []", 2, 1, `unknown key "step" (did you mean "steps"?)`},
		{"version: 1\nsteps: 5", 2, 8, "want a list"},
		{"version: 1\nversion: 1\nsteps: []", 2, 1, "appears twice"},
		{"version: 1\nsteps: []\n---\nversion: 1", 0, 0, "more than 1 documents"},
		{ok + "{op: sett, path: /a, value: 1}", 3, 8, `unknown operation "sett" (did you mean "set"?)`},
		{ok + "{path: /a, value: 1}", 3, 3, `key "op" is missing`},
		{ok + "{op: set, value: 1}", 3, 3, `key "path" is missing`},
		{ok + "{op: set, path: a, value: 1}", 3, 19, "does not start with /"},
		{ok + "{op: set, path: /a//b, value: 1}", 3, 19, "empty part"},
		{ok + "{op: set, path: /a~2, value: 1}", 3, 19, "must be written ~0"},
		{ok + `{op: set, path: "/${x}", value: 1}`, 3, 19, "replaced in values only"},
		{ok + "{op: set, path: /a}", 3, 3, `needs a "value"`},
		{ok + "{op: delete, path: /a, value: 1}", 3, 33, "takes no value"},
		{ok + "{op: keep, path: /a}", 3, 3, `needs a "where"`},
		{ok + "{op: set, path: /a, where: {b: 1}, value: 1}", 3, 30, `has no "*"`},
		{ok + "{op: remove, path: /a, where: {}}", 3, 33, "at least one field"},
		{ok + "{op: remove, path: /a, where: {b: [1]}}", 3, 37, "want a plain value"},
		{ok + "{op: remove, path: /a, where: {b: {contain: x}}}", 3, 38, `unknown key "contain" (did you mean "contains"?)`},
		{ok + "{op: remove, path: /a, where: {b: {contains: ''}}}", 3, 48, "is empty"},
		{ok + `{op: set, path: /a, value: "${x}"}`, 3, 30, `variable "x" is not declared (no variables are declared)`},
		{ok + `{op: set, path: /a, value: {"${x}": 1}}`, 3, 31, "not replaced in keys"},
		{ok + `{op: set, path: /a, value: "${x"}`, 3, 30, "is not closed"},
		{ok + `{op: set, path: /a, value: "${1x}"}`, 3, 30, "no variable name"},
		{ok + `{op: set, path: /a, value: .inf}`, 3, 30, "no form in JSON"},
		{ok + `{op: set, path: /a, value: 0123}`, 3, 30, "leading zero (if it is text, put it in quotes)"},
		{ok + `{op: set, path: /a, value: 9007199254740993}`, 3, 30, "does not fit"},
		{ok + `{op: set, path: /a, value: !x y}`, 3, 30, "YAML type"},
		{ok + `{op: set, path: /a, value: {1: x, "1": y}}`, 3, 37, "appears twice"},
		{ok + `{op: set, path: /a/<<, value: 1}`, 3, 19, "would lose"},
		{ok + `{op: set, path: /a, value: {"<<": 1}}`, 3, 31, "would lose"},
		{ok + `{op: set, path: /a, vale: 1}`, 3, 23, `unknown key "vale" (did you mean "value"?)`},
		{"version: 1\nvariables: {1x: {from: deployment, name: n, field: f}}\nsteps: []", 2, 13, "variable name"},
		{"version: 1\nvariables: {x: {from: deploymnt, name: n, field: f}}\nsteps: []", 2, 23, `unknown source "deploymnt" (did you mean "deployment"?)`},
		{"version: 1\nvariables: {x: {from: deployment, field: f}}\nsteps: []", 2, 16, `"name" is missing`},
		{"version: 1\nvariables: {x: {from: deployment, name: n, field: 'a..b'}}\nsteps: []", 2, 51, "empty part"},
		{"version: 1\nvariables: {x: {from: deployment, name: n, field: 'a[b]'}}\nsteps: []", 2, 51, "quoted key"},
		{"version: 1\nvariables: {names: {from: deployment, name: n, field: f}}\nsteps:\n- {op: set, path: /a, value: '${nams}'}", 4, 30, `did you mean "names"?`},
	} {
		_, err := manifest.ParsePlan("p", []byte(tc.in))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q:\n got %v\nwant an error with %q", tc.in, err, tc.want)
			continue
		}
		var ye *yamldoc.Error
		if !errors.As(err, &ye) {
			t.Errorf("%q: %T is no *yamldoc.Error", tc.in, err)
		} else if tc.line > 0 && (ye.Line != tc.line || ye.Column != tc.column) {
			t.Errorf("%q: got %d:%d, want %d:%d (%v)", tc.in, ye.Line, ye.Column, tc.line, tc.column, err)
		}
	}
	// All faults come at once.
	_, err := manifest.ParsePlan("p", []byte("version: 2\nsteps:\n- {op: st, path: b}\n- {op: set, path: /a}\n"))
	if got := strings.Count(err.Error(), "\n") + 1; got != 4 {
		t.Errorf("got %d errors, want 4:\n%v", got, err)
	}
}
