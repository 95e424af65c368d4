package manifest_test

import (
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/manifest"
)

// byPath fails on a path that occurs twice, since it joins.
func byPath(t testing.TB, m *manifest.Manifest) map[string]manifest.Field {
	t.Helper()
	out := map[string]manifest.Field{}
	for _, f := range m.Fields() {
		if _, dup := out[f.Path]; dup {
			t.Fatalf("path %s occurs twice", f.Path)
		}
		out[f.Path] = f
	}
	return out
}

func TestFields(t *testing.T) {
	m := parse(t, generated(t, manifest.Newer))
	got := byPath(t, m)
	const snp = "snp/Metal-QEMU-SNP/Genoa/"
	for _, tc := range []struct {
		path, normalized, neutral, pointer string
		order                              manifest.Order
		origin                             manifest.Origin
	}{
		{"policy/Deployment/web/hash", sum256("web").Hex(), sum256("web").Hex(), "/Policies/" + sum256("web").Hex(), manifest.OrderNone, manifest.PerDeployment},
		{"policy/Deployment/web/WorkloadSecretID", "apps/v1/Deployment/ns-abc123/web", "apps/v1/Deployment/{namespace}/web", "/Policies/" + sum256("web").Hex() + "/WorkloadSecretID", manifest.OrderNone, manifest.PerDeployment},
		{"policy/Deployment/web/SANs", `["*","abc123.example.org","web","web.ns-abc123.svc.cluster.local"]`, `["*","web","web.{namespace}.svc.cluster.local","{instance}.example.org"]`, "/Policies/" + sum256("web").Hex() + "/SANs", manifest.FewerTighter, manifest.PerDeployment},
		{"policy/Deployment/web/CommonName", "web", "web", "/Policies/" + sum256("web").Hex() + "/SANs/0", manifest.OrderNone, manifest.PerDeployment},
		{"policy/StatefulSet/coordinator/Role", "coordinator", "coordinator", "/Policies/" + sum256("coordinator").Hex() + "/Role", manifest.OrderNone, manifest.FromRelease},
		{snp + "MinimumTCB/SNPVersion", "28", "28", "/ReferenceValues/snp/0/MinimumTCB/SNPVersion", manifest.HigherTighter, manifest.OperatorsChoice},
		{snp + "GuestPolicy/Debug", "false", "false", "/ReferenceValues/snp/0/GuestPolicy/Debug", manifest.OnLoosens, manifest.OperatorsChoice},
		{snp + "GuestPolicy/PageSwapDisable", "true", "true", "/ReferenceValues/snp/0/GuestPolicy/PageSwapDisable", manifest.OnTightens, manifest.OperatorsChoice},
		{snp + "AllowedChipIDs", `["` + strings.Repeat("a1", 64) + `","` + strings.Repeat("b2", 64) + `"]`, `["` + strings.Repeat("a1", 64) + `","` + strings.Repeat("b2", 64) + `"]`, "/ReferenceValues/snp/0/AllowedChipIDs", manifest.FewerTighter, manifest.OperatorsChoice},
		{"tdx/Metal-QEMU-TDX/Rtmrs/1", sum384("1").Hex(), sum384("1").Hex(), "/ReferenceValues/tdx/0/Rtmrs/1", manifest.OrderNone, manifest.FromRelease},
		{"SeedshareOwnerPubKeys", `["` + ownerKey(t, "seedshare-owner.pub.pem").Hex + `"]`, `["` + ownerKey(t, "seedshare-owner.pub.pem").Hex + `"]`, "/SeedshareOwnerPubKeys", manifest.FewerTighter, manifest.PerRun},
	} {
		f, ok := got[tc.path]
		if !ok {
			t.Errorf("no field %s", tc.path)
			continue
		}
		if f.Normalized() != tc.normalized || f.Neutral() != tc.neutral || f.Pointer != tc.pointer {
			t.Errorf("%s:\n got %s, %s, %s\nwant %s, %s, %s", tc.path, f.Normalized(), f.Neutral(), f.Pointer, tc.normalized, tc.neutral, tc.pointer)
		}
		if f.Meaning.Order != tc.order || f.Meaning.Origin != tc.origin || f.Meaning.Words == "" || f.Line == 0 {
			t.Errorf("%s: got %+v", tc.path, f.Meaning)
		}
	}
	if f := got[snp+"AllowedChipIDs"]; !f.Meaning.EmptyIsAny {
		t.Error("an empty AllowedChipIDs allows any chip, but is not marked so")
	}
	if f := got["policy/Deployment/web/SANs"]; f.Meaning.EmptyIsAny || f.Namespace() != "ns-abc123" {
		t.Errorf("SANs: got %+v of %q", f.Meaning, f.Namespace())
	}
}

// Every known field has a direction or an origin; none that a generated
// manifest holds is unknown.
func TestFieldsAllKnown(t *testing.T) {
	for v := manifest.V16; v <= manifest.Newer; v++ {
		for _, f := range parse(t, generated(t, v)).Fields() {
			if f.Meaning.Origin == manifest.OriginUnknown || f.Meaning.Words == "" {
				t.Errorf("%s: %s has no meaning", v, f.Path)
			}
		}
	}
}

func TestFieldsUnknown(t *testing.T) {
	m := parse(t, []byte(`{"Policies":{},"ReferenceValues":{"snp":[{"New":{"a":[1],"b":{}}}],"cca":[{}]},"Extra":{"x":1}}`))
	got := byPath(t, m)
	for path, want := range map[string]string{
		"snp/-/-/New/a": "[1]", "snp/-/-/New/b": "{}", "ReferenceValues/cca": "[{}]", "Extra/x": "1",
	} {
		if f, ok := got[path]; !ok || f.Normalized() != want || f.Meaning.Origin != manifest.OriginUnknown {
			t.Errorf("%s: got %+v, want %s", path, f, want)
		}
	}
}

func TestNormalized(t *testing.T) {
	const head, tail = `{"Policies":{},"ReferenceValues":{"snp":[{"ProductName":"Milan",`, `}]}}`
	field := func(body, path string) string {
		f, ok := byPath(t, parse(t, []byte(head+body+tail)))["snp/-/Milan/"+path]
		if !ok {
			return "absent"
		}
		n := f.Normalized()
		if n == f.Meaning.Default && n != "" {
			return "default"
		}
		return n
	}
	for _, tc := range []struct{ body, path, want string }{
		{`"TrustedMeasurement":"AbCd"`, "TrustedMeasurement", "abcd"},
		{`"AllowedChipIDs":null`, "AllowedChipIDs", "default"},
		{`"AllowedChipIDs":[]`, "AllowedChipIDs", "default"},
		{`"AllowedChipIDs":["BB","aa","bb"]`, "AllowedChipIDs", `["aa","bb"]`},
		{`"GuestPolicy":{"SMT":null}`, "GuestPolicy/SMT", "default"},
		{`"GuestPolicy":{"SMT":false}`, "GuestPolicy/SMT", "default"},
		{`"GuestPolicy":{"SMT":true}`, "GuestPolicy/SMT", "true"},
		{`"MinimumMitigationVector":0`, "MinimumMitigationVector", "default"},
		{`"MinimumMitigationVector":1.5e1`, "MinimumMitigationVector", "15"},
		{`"MinimumTCB":{"SNPVersion":null}`, "MinimumTCB/SNPVersion", ""},
		{`"MinimumTCB":{"SNPVersion":0}`, "MinimumTCB/SNPVersion", "0"},
		{`"MinimumTCB":{"SNPVersion":"0"}`, "MinimumTCB/SNPVersion", `"0"`},
		{`"MinimumTCB":null`, "MinimumTCB", ""},
	} {
		if got := field(tc.body, tc.path); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.body, got, tc.want)
		}
	}
}

// Old spellings have the path of the new ones where they mean the same.
func TestFieldsOldSpellings(t *testing.T) {
	oldForm := byPath(t, parse(t, []byte(`{"Policies":{},"ReferenceValues":{"tdx":[{"Rtrms":["AA"]}]},"WorkloadOwnerKeyDigests":[]}`)))
	newForm := byPath(t, parse(t, []byte(`{"Policies":{},"ReferenceValues":{"tdx":[{"Rtmrs":["aa"]}]},"WorkloadOwnerPubKeys":[]}`)))
	const path = "tdx/-/Rtmrs/0"
	if oldForm[path].Normalized() != "aa" || newForm[path].Normalized() != "aa" {
		t.Errorf("got %v and %v", oldForm[path], newForm[path])
	}
	if _, ok := newForm["WorkloadOwnerKeyDigests"]; ok {
		t.Error("a digest and a key share a path")
	}
}

// Two entries of one name keep their names whatever their order.
func TestFieldsOrder(t *testing.T) {
	paths := func(m *manifest.Manifest) map[string]string {
		out := map[string]string{}
		for p, f := range byPath(t, m) {
			out[p] = f.Normalized()
		}
		return out
	}
	base := generated(t, manifest.V120)
	base = mutate(t, base, "- {op: append, path: /ReferenceValues/snp, value: [{Platform: p, ProductName: Milan, CPUs: 1, TrustedMeasurement: bb}, {Platform: p, ProductName: Milan, CPUs: 1, TrustedMeasurement: aa}, {Platform: p, ProductName: Milan, CPUs: 2}]}\n")
	want := paths(parse(t, base))
	if want["snp/p/Milan/cpus=1/TrustedMeasurement"] != "aa" || want["snp/p/Milan/cpus=1#2/TrustedMeasurement"] != "bb" {
		t.Errorf("repeated entries: %v", want)
	}
	rapid.Check(t, func(r *rapid.T) {
		tree, err := jsondoc.Parse(base, jsondoc.Limits{})
		if err != nil {
			r.Fatal(err)
		}
		refs := tree.Get("ReferenceValues").Get("snp")
		refs.Elems = rapid.Permutation(refs.Elems).Draw(r, "snp")
		policies := tree.Get("Policies")
		policies.Members = rapid.Permutation(policies.Members).Draw(r, "policies")
		for _, p := range policies.Members {
			// SANs[0] is the common name and stays first.
			sans := p.Value.Get("SANs").Elems
			copy(sans[1:], rapid.Permutation(append([]*jsondoc.Value(nil), sans[1:]...)).Draw(r, "SANs"))
		}
		tree.Members = rapid.Permutation(tree.Members).Draw(r, "top")
		got := paths(parse(t, jsondoc.Go.Format(tree)))
		if diff := cmp.Diff(want, got); diff != "" {
			r.Errorf("-want +got:\n%s", diff)
		}
	})
}

// The real manifests of two deployments join on what they have in common.
func TestFieldsJoinPublished(t *testing.T) {
	old := byPath(t, parse(t, read(t, testenv.Vectors(t, "published/privatemode/published/83c1af.manifest.json"))))
	cur := byPath(t, parse(t, read(t, testenv.Vectors(t, "published/privatemode/published/216de2.manifest.json"))))
	var common []string
	for p := range old {
		if _, ok := cur[p]; ok {
			common = append(common, p)
		}
	}
	sort.Strings(common)
	want := []string{
		"SeedshareOwnerPubKeys",
		"policy/Deployment/unstructured-api/CommonName", "policy/Deployment/unstructured-api/SANs",
		"policy/Deployment/unstructured-api/WorkloadSecretID", "policy/Deployment/unstructured-api/hash",
	}
	if diff := cmp.Diff(want, common); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	const id = "policy/Deployment/unstructured-api/WorkloadSecretID"
	if old[id].Neutral() != cur[id].Neutral() || old[id].Normalized() == cur[id].Normalized() {
		t.Errorf("got %q and %q", old[id].Neutral(), cur[id].Neutral())
	}
	var neutral []string
	for _, f := range parse(t, read(t, testenv.Vectors(t, "published/privatemode/published/83c1af.manifest.json"))).Fields() {
		if strings.HasSuffix(f.Path, "secret-service/SANs") {
			neutral = append(neutral, f.Neutral())
		}
	}
	if diff := cmp.Diff([]string{`["*","secret-service","secret-service-internal.{namespace}.svc.cluster.local","secret.privatemode.ai","{instance}.secret.privatemode.ai"]`}, neutral); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// An entry may be called like the number that a second entry of a name gets,
// or like the dash of an absent one: all of them stay apart.
func TestNamesThatLookLikeNumbers(t *testing.T) {
	entry := func(platform string) string {
		return `{` + platform + `"MrTd": "` + strings.Repeat("ab", 48) + `"}`
	}
	text := `{"Policies": {}, "ReferenceValues": {"tdx": [` + strings.Join([]string{
		entry(`"Platform": "X#2", `), entry(`"Platform": "X", `), entry(`"Platform": "X", `), entry(`"Platform": "-", `), entry(``), entry(`"Platform": "X%232", `),
	}, ",") + `]}}`
	m, err := manifest.Parse("m.json", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, f := range m.Fields() {
		if before, dup := seen[f.Path]; dup {
			t.Errorf("%s and %s are joined by %s", before, f.Pointer, f.Path)
		}
		seen[f.Path] = f.Pointer
	}
}
