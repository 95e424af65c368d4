package manifest_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/manifest"
)

func parse(t testing.TB, data []byte) *manifest.Manifest {
	t.Helper()
	m, err := manifest.Parse("manifest.json", data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestPublished(t *testing.T) {
	dir := testenv.Vectors(t, "published/privatemode/published")
	for _, tc := range []struct {
		file     string
		policies int
		shape    string
		warnings int
	}{
		{"83c1af.manifest.json", 4, "Contrast 1.6: no GuestPolicy, policies are objects, lists of reference values", 0},
		{"216de2.manifest.json", 8, "Contrast after 1.20: APEIP", 0},
	} {
		t.Run(tc.file, func(t *testing.T) {
			data := read(t, filepath.Join(dir, tc.file))
			m := parse(t, data)
			style, ok := m.Style()
			if !ok || string(style.Format(m.Tree())) != string(data) {
				t.Error("is not printed anew byte for byte")
			}
			if string(m.Raw()) != string(data) {
				t.Error("Raw differs from the input")
			}
			for _, p := range m.Validate() {
				t.Errorf("unexpected: %s", p)
			}
			if got := len(m.Policies()); got != tc.policies {
				t.Errorf("got %d policies, want %d", got, tc.policies)
			}
			s := m.Shape()
			for _, sign := range strings.Split(strings.SplitN(tc.shape, ": ", 2)[1], ", ") {
				if !strings.Contains(s.String(), sign) {
					t.Errorf("shape %q does not name %q", s, sign)
				}
			}
			if head := strings.SplitN(tc.shape, ":", 2)[0]; !strings.HasPrefix(s.String(), head+":") {
				t.Errorf("shape: got %q, want %q", s, head)
			}
		})
	}
}

func TestShape(t *testing.T) {
	const policy = `"Policies":{"aa":{"SANs":[]}},`
	for _, tc := range []struct{ in, want string }{
		{`{"Policies":{"aa":["x"]},"ReferenceValues":{"SNP":{},"TrustedMeasurement":""}}`, "Contrast 0.7: policies are lists of SANs, one SNP object"},
		{`{` + policy + `"ReferenceValues":{"tdx":[{"Rtrms":[]}]}}`, "Contrast 1.6 to 1.13: policies are objects, lists of reference values, Rtrms"},
		{`{` + policy + `"ReferenceValues":{"tdx":[{"MrTd":"","Rtrms":[],"MinimumQeSvn":1}]}}`, "Contrast 1.6 to 1.11: policies are objects, lists of reference values, Rtrms, MinimumQeSvn"},
		{`{` + policy + `"ReferenceValues":{"tdx":[{"MrTd":"","Rtrms":[],"TdAttributes":""}]}}`, "Contrast 1.12 to 1.13: Rtrms, no SVNs of TDX"},
		{`{` + policy + `"ReferenceValues":{"tdx":[{"MrTd":"","Rtmrs":[],"TdAttributes":""}]}}`, "Contrast 1.14 to 1.19: Rtmrs, TdAttributes"},
		{`{` + policy + `"ReferenceValues":{"tdx":[{"MrTd":"","Rtmrs":[],"MinimumPceSvn":1}]}}`, "no known version: contradicting signs"},
		{`{` + policy + `"ReferenceValues":{"snp":[{"GuestPolicy":{}}]}}`, "Contrast 1.8 or later: GuestPolicy"},
		{`{` + policy + `"ReferenceValues":{"snp":[{"GuestPolicy":{}}]},"WorkloadOwnerKeyDigests":null}`, "Contrast 1.8 to 1.19: GuestPolicy, WorkloadOwnerKeyDigests"},
		{`{` + policy + `"ReferenceValues":{"snp":[{"Platform":"x"}]}}`, "Contrast 1.16 or later: Platform"},
		{`{` + policy + `"ReferenceValues":{"snp":[{"Platform":"x","CPUs":1}]}}`, "Contrast 1.16 to 1.20: Platform, CPUs"},
		{`{` + policy + `"ReferenceValues":{"tdx":[{}]},"WorkloadOwnerPubKeys":[]}`, "Contrast 1.20 or later: WorkloadOwnerPubKeys"},
		{`{` + policy + `"ReferenceValues":{"snp":[{"Platform":"x","APEIP":""}]},"WorkloadOwnerKeyDigests":[]}`, "no known version: contradicting signs"},
	} {
		got := parse(t, []byte(tc.in)).Shape().String()
		if !strings.HasPrefix(got, tc.want) {
			t.Errorf("%s:\n got %s\nwant %s", tc.in, got, tc.want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, tc := range []struct {
		in           string
		line, column int
		pointer      string
		want         string
	}{
		{"", 1, 1, "", "end of input"},
		{"[]", 1, 1, "", "want an object, found an array"},
		{"{}", 1, 1, "/Policies", "member Policies is missing (a Contrast manifest has"},
		{`{"Polices":{},"ReferenceValues":{}}`, 1, 1, "/Policies", `did you mean "Policies" where the file has "Polices"?`},
		{`{"Policies":{}}`, 1, 1, "/ReferenceValues", "is missing"},
		{"{\"Policies\":{},\n \"ReferenceValues\":[]}", 2, 20, "/ReferenceValues", "want an object, found an array"},
		{"{\"Policies\":5,\"ReferenceValues\":{}}", 1, 13, "/Policies", "found the number 5"},
		{"{\"Policies\":{\"a\":{},\n\"a\":{}},\"ReferenceValues\":{}}", 2, 1, "/Policies", `member "a" appears twice`},
		{`{"Policies":{},"ReferenceValues":{}} x`, 1, 38, "", "after the end"},
		{`{"Policies":{},"ReferenceValues":{"snp":[{"CPUs":01}]}}`, 1, 50, "/ReferenceValues/snp/0/CPUs", "leading zero"},
		{strings.Repeat("[", 40), 1, 34, "", "nested deeper"},
	} {
		_, err := manifest.Parse("m.json", []byte(tc.in))
		var e *manifest.Error
		if !errors.As(err, &e) {
			t.Errorf("%q: got %v, want an *Error", tc.in, err)
			continue
		}
		if e.Line != tc.line || e.Column != tc.column || tc.pointer != "" && e.Pointer != tc.pointer || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: got %v at %d:%d %q, want %q at %d:%d %q", tc.in, err, e.Line, e.Column, e.Pointer, tc.want, tc.line, tc.column, tc.pointer)
		}
	}
}

func TestStyle(t *testing.T) {
	tree, err := jsondoc.Parse([]byte(`{"Policies":{"a":{"SANs":["<&>\u2028\b\u007f"]}},"ReferenceValues":{"snp":[],"x":{}}}`), jsondoc.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []jsondoc.Style{
		jsondoc.Go, jsondoc.YQ, jsondoc.JQ,
		{Indent: "\t", EscapeHTML: true, EscapeLineSep: true},
		{Indent: "    "},
		{},
	} {
		data := want.Format(tree)
		if got, ok := parse(t, data).Style(); !ok || got != want {
			t.Errorf("got %+v, %v, want %+v", got, ok, want)
		}
	}
	// Contrast of 2024 wrote no line end; what came later did.
	for doc, want := range map[string]bool{
		"{\n  \"Policies\": {\n    \"aa\": [\n      \"x\"\n    ]\n  },\n  \"ReferenceValues\": {\n    \"SNP\": {}\n  }\n}": true,
		"{\n  \"Policies\": {},\n  \"ReferenceValues\": {},\n  \"WorkloadOwnerPubKeys\": null\n}":                          false,
	} {
		got, ok := parse(t, []byte(doc)).Style()
		if ok != want || ok && string(got.Format(parse(t, []byte(doc)).Tree())) != doc {
			t.Errorf("%s: got %+v, %v, want %v", doc, got, ok, want)
		}
	}
	for _, odd := range []string{`{"Policies":{}, "ReferenceValues":{}}`, `{"Policies":{},"ReferenceValues":{}}`} {
		if got, ok := parse(t, []byte(odd)).Style(); ok {
			t.Errorf("%s: got %+v, want none", odd, got)
		}
	}
}

func TestPolicies(t *testing.T) {
	m := parse(t, generated(t, manifest.Newer))
	got := m.Policies()
	want := manifest.Policy{
		Hash: sum256("coordinator"), HashText: sum256("coordinator").Hex(), SANs: []string{"coordinator", "*"},
		WorkloadSecretID: "apps/v1/StatefulSet/ns-abc123/coordinator", Role: "coordinator",
		Pointer: "/Policies/" + sum256("coordinator").Hex(), Line: 19,
	}
	if len(got) != 3 {
		t.Fatalf("got %d policies", len(got))
	}
	if diff := cmp.Diff(want, got[2], cmp.Comparer(func(a, b digest.Digest) bool { return a == b })); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"default", "ns-abc123"}, m.Namespaces()); diff != "" {
		t.Error(diff)
	}
}

func TestWorkloadID(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want manifest.Workload
		ok   bool
	}{
		{"apps/v1/Deployment/ns/web", manifest.Workload{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: "ns", Name: "web"}, true},
		{"core/v1/Pod/default/a.b", manifest.Workload{Group: "core", Version: "v1", Kind: "Pod", Namespace: "default", Name: "a.b"}, true},
		{"apps/v1/Deployment/ns", manifest.Workload{}, false},
		{"apps/v1/Deployment//web", manifest.Workload{}, false},
		{"a/b/c/d/e/f", manifest.Workload{}, false},
		{"my-secret", manifest.Workload{}, false},
		{"", manifest.Workload{}, false},
	} {
		got, ok := manifest.ParseWorkloadID(tc.in)
		if got != tc.want || ok != tc.ok {
			t.Errorf("%q: got %+v, %v", tc.in, got, ok)
		}
		if ok && got.ID() != tc.in {
			t.Errorf("%q: ID gives %q", tc.in, got.ID())
		}
	}
}

func TestEntries07(t *testing.T) {
	hash := sum256("emoji").Hex()
	m := parse(t, []byte(`{"Policies":{"`+hash+`":["emoji","*"]},"ReferenceValues":{"SNP":{"MinimumTCB":{"BootloaderVersion":3,"TEEVersion":0,"SNPVersion":8,"MicrocodeVersion":115}},"TrustedMeasurement":"`+strings.Repeat("7b", 48)+`"},"WorkloadOwnerKeyDigests":["`+hash+`"]}`))
	for _, p := range m.Validate() {
		t.Errorf("unexpected: %s", p)
	}
	snp := m.SNP()
	if len(snp) != 1 || snp[0].TrustedMeasurement != strings.Repeat("7b", 48) || *snp[0].MinimumTCB.MicrocodeVersion != 115 || snp[0].CPUs != nil {
		t.Errorf("got %+v", snp)
	}
	var paths []string
	for _, f := range m.Fields() {
		paths = append(paths, f.Path)
	}
	want := []string{
		"policy/sans/emoji/hash", "policy/sans/emoji/SANs", "policy/sans/emoji/CommonName",
		"snp/-/-/MinimumTCB/BootloaderVersion", "snp/-/-/MinimumTCB/TEEVersion", "snp/-/-/MinimumTCB/SNPVersion", "snp/-/-/MinimumTCB/MicrocodeVersion",
		"snp/-/-/TrustedMeasurement", "WorkloadOwnerKeyDigests",
	}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
