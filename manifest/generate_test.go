package manifest_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/manifest"
)

var update = flag.Bool("update", false, "rewrite golden files")

func sum256(s string) digest.Digest { return digest.SHA256.Sum([]byte(s)) }
func sum384(s string) digest.Digest { return digest.SHA384.Sum([]byte(s)) }

func ptr[T any](v T) *T { return &v }

func ownerKey(t testing.TB, name string) manifest.OwnerKey {
	t.Helper()
	k, err := manifest.ParseOwnerKey(name, read(t, filepath.Join("testdata", name)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// generation is a small deployment with synthetic values.
func generation(t testing.TB, version manifest.Version) manifest.Generation {
	workload := func(kind, name string) manifest.Workload {
		return manifest.Workload{Group: "apps", Version: "v1", Kind: kind, Namespace: "ns-abc123", Name: name}
	}
	owner := ownerKey(t, "workload-owner.pub.pem")
	g := manifest.Generation{
		Version: version,
		Policies: []manifest.GeneratedPolicy{
			{Hash: sum256("coordinator"), Workload: workload("StatefulSet", "coordinator"), Role: "coordinator"},
			{Hash: sum256("web"), Workload: workload("Deployment", "web"), SANs: []string{"web", "*", "web.ns-abc123.svc.cluster.local", "abc123.example.org"}},
			{Hash: sum256("db"), Workload: manifest.Workload{Version: "v1", Kind: "Pod", Name: "db"}},
		},
		SNP: []manifest.SNPValues{{
			Platform: "Metal-QEMU-SNP", ProductName: "Genoa", TrustedMeasurement: sum384("genoa"), APEIP: 0x80b004,
			MinimumTCB:   manifest.SNPTCB{BootloaderVersion: ptr[uint64](10), TEEVersion: ptr[uint64](0), SNPVersion: ptr[uint64](28), MicrocodeVersion: ptr[uint64](88)},
			GuestPolicy:  manifest.GuestPolicy{SMT: true, PageSwapDisable: true},
			PlatformInfo: manifest.PlatformInfo{SMTEnabled: true},
			AllowedChipIDs: []string{
				strings.ToUpper(strings.Repeat("a1", 64)), strings.ToUpper(strings.Repeat("b2", 64)),
			},
			MinimumMitigationVector: 15,
		}},
		WorkloadOwnerKeys:  []string{owner.Hex},
		SeedshareOwnerKeys: []string{ownerKey(t, "seedshare-owner.pub.pem").Hex},
	}
	if version >= manifest.V120 {
		g.SNP[0].CPUs = 1
	} else {
		g.WorkloadOwnerKeys = []string{owner.Digest.Hex()}
	}
	if version >= manifest.V116 {
		g.TDX = []manifest.TDXValues{{
			Platform: "Metal-QEMU-TDX", MinTCBEvaluationDataNumber: 21, MrTd: sum384("mrtd"), MrSeam: sum384("mrseam").Hex(),
			Rtmrs: [4]digest.Digest{sum384("0"), sum384("1"), sum384("2"), sum384("3")},
			Xfam:  [8]byte{0xe7, 2, 6}, AllowedPIIDs: []string{strings.Repeat("0c", 16)},
		}}
	}
	return g
}

func generated(t testing.TB, version manifest.Version) []byte {
	t.Helper()
	g, err := manifest.Generate(generation(t, version))
	if err != nil {
		t.Fatal(err)
	}
	return g.Bytes()
}

func TestGenerate(t *testing.T) {
	for _, v := range []manifest.Version{manifest.V16, manifest.V18, manifest.V116, manifest.V120, manifest.Newer} {
		name := strings.ToLower(strings.ReplaceAll(v.String(), " ", "-")) + ".json"
		t.Run(name, func(t *testing.T) {
			got := generated(t, v)
			path := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(read(t, path)), string(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			m, err := manifest.Parse(name, got)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range m.Validate() {
				t.Errorf("%s", p)
			}
			if s := m.Shape(); s.Oldest > v || s.Newest < v {
				t.Errorf("shape: got %s, want one that has %s", s, v)
			}
		})
	}
	if _, err := manifest.Generate(manifest.Generation{Version: manifest.V07}); err == nil {
		t.Error("version 0.7: want an error")
	}
}

// Taking a manifest apart and generating it anew gives its bytes: the real one
// of the newest shape, and the inputs of the releases.
func TestGenerateAgain(t *testing.T) {
	dir := testenv.Vectors(t, "published/privatemode")
	for _, tc := range []struct {
		file    string
		version manifest.Version
	}{
		{"published/216de2.manifest.json", manifest.Newer},
		{"adjust/real-83c1af.before.json", manifest.V16},
		{"adjust/v1.10.0.before.json", manifest.V16},
		{"adjust/v1.16.0.before.json", manifest.V16},
		{"adjust/v1.18.0.before.json", manifest.V18},
		{"adjust/v1.26.0.before.json", manifest.V18},
		{"adjust/v1.38.0.before.json", manifest.V120},
		{"adjust/v1.40.0.before.json", manifest.V120},
	} {
		t.Run(tc.file, func(t *testing.T) {
			want := read(t, filepath.Join(dir, tc.file))
			m, err := manifest.Parse(tc.file, want)
			if err != nil {
				t.Fatal(err)
			}
			got, err := manifest.Generate(takeApart(t, m, tc.version))
			if err != nil {
				t.Fatal(err)
			}
			if tc.file == "published/216de2.manifest.json" {
				// Published after its own edits: the owner keys are deleted
				// and PlatformInfo is replaced by three fields.
				got.Tree.Delete("WorkloadOwnerPubKeys")
				info := got.Tree.Get("ReferenceValues").Get("snp").Elems[0].Get("PlatformInfo")
				for _, key := range []string{"TSMEEnabled", "RAPLDisabled", "CiphertextHidingDRAMEnabled", "TIOEnabled"} {
					info.Delete(key)
				}
			}
			if diff := cmp.Diff(string(want), string(got.Bytes())); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func takeApart(t *testing.T, m *manifest.Manifest, version manifest.Version) manifest.Generation {
	t.Helper()
	g := manifest.Generation{Version: version}
	hex384 := func(s string) digest.Digest {
		d, err := digest.ParseHex(digest.SHA384, s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	value := func(n *uint64) uint64 {
		if n == nil {
			return 0
		}
		return *n
	}
	for _, p := range m.Policies() {
		w, ok := manifest.ParseWorkloadID(p.WorkloadSecretID)
		if !ok || w.ID() != p.WorkloadSecretID {
			t.Fatalf("%s: %q", p.Pointer, p.WorkloadSecretID)
		}
		gp := manifest.GeneratedPolicy{Hash: p.Hash, Workload: w, Role: p.Role}
		if len(p.SANs) != 2 { // else the default must give them
			gp.SANs = p.SANs
		}
		g.Policies = append([]manifest.GeneratedPolicy{gp}, g.Policies...)
	}
	for _, s := range m.SNP() {
		v := manifest.SNPValues{
			Platform: s.Platform, ProductName: s.ProductName, TrustedMeasurement: hex384(s.TrustedMeasurement),
			MinimumTCB: s.MinimumTCB, MinimumMitigationVector: value(s.MinimumMitigationVector),
			AllowedChipIDs: s.AllowedChipIDs, CPUs: value(s.CPUs),
			GuestPolicy: manifest.GuestPolicy{
				ABIMinor: uint8(value(s.ABIMinor)), ABIMajor: uint8(value(s.ABIMajor)),
				SMT: s.GuestPolicy["SMT"], SingleSocket: s.GuestPolicy["SingleSocket"],
				MemAES256XTS: s.GuestPolicy["MemAES256XTS"], PageSwapDisable: s.GuestPolicy["PageSwapDisable"],
			},
			PlatformInfo: manifest.PlatformInfo{
				SMTEnabled: s.PlatformInfo["SMTEnabled"], ECCEnabled: s.PlatformInfo["ECCEnabled"],
				AliasCheckComplete: s.PlatformInfo["AliasCheckComplete"],
			},
		}
		if s.APEIP != nil {
			v.APEIP = 0x80b004
		}
		g.SNP = append(g.SNP, v)
	}
	for _, x := range m.TDX() {
		v := manifest.TDXValues{
			Platform: x.Platform, MinTCBEvaluationDataNumber: value(x.MinTCBEvaluationDataNumber),
			MrTd: hex384(x.MrTd), MrSeam: x.MrSeam, Xfam: [8]byte{0xe7, 2, 6}, AllowedPIIDs: x.AllowedPIIDs,
		}
		for i, r := range x.Rtmrs {
			v.Rtmrs[i] = hex384(r)
		}
		g.TDX = append(g.TDX, v)
	}
	for _, f := range m.Fields() {
		if f.Path == "SeedshareOwnerPubKeys" {
			g.SeedshareOwnerKeys, _ = f.Set()
		}
	}
	return g
}

func TestGenerateRules(t *testing.T) {
	web := manifest.Workload{Version: "v1", Kind: "Pod", Name: "web"}
	one := manifest.GeneratedPolicy{Hash: sum256("x"), Workload: web}
	other := manifest.GeneratedPolicy{Hash: sum256("x"), Workload: manifest.Workload{Version: "v1", Kind: "Pod", Name: "db"}}
	g, err := manifest.Generate(manifest.Generation{Version: manifest.V120, Policies: []manifest.GeneratedPolicy{one, other}})
	if err != nil || len(g.Warnings) != 1 || !strings.Contains(g.Warnings[0], "core/v1/Pod/default/db is dropped") {
		t.Errorf("equal hash, other SANs: got %q, %v", g.Warnings, err)
	}
	want := `{
  "Policies": {
    "` + sum256("x").Hex() + `": {
      "SANs": [
        "web",
        "*"
      ],
      "WorkloadSecretID": "core/v1/Pod/default/web"
    }
  },
  "ReferenceValues": {},
  "WorkloadOwnerPubKeys": null,
  "SeedshareOwnerPubKeys": null
}
`
	if diff := cmp.Diff(want, string(g.Bytes())); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for name, gen := range map[string]manifest.Generation{
		"same SANs":      {Version: manifest.V120, Policies: []manifest.GeneratedPolicy{one, one}},
		"other digest":   {Version: manifest.V120, Policies: []manifest.GeneratedPolicy{{Hash: sum384("x"), Workload: web}}},
		"no name":        {Version: manifest.V120, Policies: []manifest.GeneratedPolicy{{Hash: sum256("x")}}},
		"role":           {Version: manifest.V120, Policies: []manifest.GeneratedPolicy{{Hash: sum256("x"), Workload: web, Role: "x"}}},
		"measurement":    {Version: manifest.V120, SNP: []manifest.SNPValues{{TrustedMeasurement: sum256("x")}}},
		"chip id":        {Version: manifest.V120, SNP: []manifest.SNPValues{{TrustedMeasurement: sum384("x"), AllowedChipIDs: []string{"00"}}}},
		"early tdx":      {Version: manifest.V18, TDX: []manifest.TDXValues{{}}},
		"no mrtd":        {Version: manifest.V120, TDX: []manifest.TDXValues{{}}},
		"owner key":      {Version: manifest.V120, WorkloadOwnerKeys: []string{"xx"}},
		"digest too old": {Version: manifest.V16, WorkloadOwnerKeys: []string{"00"}},
	} {
		if g, err := manifest.Generate(gen); err == nil {
			t.Errorf("%s: got no error, and\n%s", name, g.Bytes())
		}
	}
	// Keys are sorted, in lower case, once each.
	g, err = manifest.Generate(manifest.Generation{Version: manifest.V120, WorkloadOwnerKeys: []string{"BB", "aa", "bb"}})
	if err != nil || !bytes.Contains(g.Bytes(), []byte("[\n    \"aa\",\n    \"bb\"\n  ]")) {
		t.Errorf("keys: got %s, %v", g.Bytes(), err)
	}
}

func TestOwnerKey(t *testing.T) {
	owner := ownerKey(t, "workload-owner.pub.pem")
	if owner.Field != "WorkloadOwnerPubKeys" || owner.Digest.Algorithm() != digest.SHA256 {
		t.Errorf("got %+v", owner)
	}
	for v, want := range map[manifest.Version]string{manifest.V16: "/WorkloadOwnerKeyDigests/0", manifest.V120: "/WorkloadOwnerPubKeys/0"} {
		m, err := manifest.Parse("m", generated(t, v))
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := m.FindOwnerKey(owner); got != want || !ok {
			t.Errorf("%s: got %q, %v, want %q", v, got, ok, want)
		}
		if got, ok := m.FindOwnerKey(ownerKey(t, "seedshare-owner.pub.pem")); got != "/SeedshareOwnerPubKeys/0" || !ok {
			t.Errorf("%s: got %q, %v", v, got, ok)
		}
		if got, ok := m.FindOwnerKey(manifest.OwnerKey{Hex: "00"}); ok {
			t.Errorf("%s: found a key that is not there at %q", v, got)
		}
	}
	for _, bad := range []string{"", "x", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "-----BEGIN X-----\nAAAA\n-----END X-----\n"} {
		if k, err := manifest.ParseOwnerKey("f", []byte(bad)); err == nil {
			t.Errorf("%q: got %+v", bad, k)
		}
	}
}
