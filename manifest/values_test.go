package manifest_test

import (
	"strings"
	"testing"

	"github.com/retally/retally/manifest"
)

const valuesText = `version: 1
source: somebody
snp:
- {platform: Metal-QEMU-SNP, product: Genoa, cpus: 1, launch: LAUNCH, apeip: 0080b004}
tdx:
- {platform: Metal-QEMU-TDX, mrtd: LAUNCH, rtmr0: LAUNCH, rtmr1: LAUNCH, rtmr2: LAUNCH}
policies:
- {kind: Pod, namespace: ns, name: p, hash: HASH, source: another}
seedshare_owner_keys: [abcd]
`

func valuesOf(text string) string {
	return strings.NewReplacer("LAUNCH", strings.Repeat("ab", 48), "HASH", strings.Repeat("cd", 32)).Replace(text)
}

func TestParseValues(t *testing.T) {
	v, err := manifest.ParseValues("v", []byte(valuesOf(valuesText)))
	if err != nil {
		t.Fatal(err)
	}
	if g, ok := v.FindSNP("metal-qemu-snp", "Genoa", 1); !ok || *g.APEIP != 0x80b004 || g.Source != "somebody" || g.Line != 4 {
		t.Errorf("got %+v, %v", g, ok)
	}
	if g, ok := v.FindTDX("metal-qemu-tdx"); !ok || g.Rtmrs[3].Hex() != strings.Repeat("0", 96) {
		t.Errorf("got %+v, %v", g, ok)
	}
	if g, ok := v.FindPolicy("Pod", "ns", "p"); !ok || g.Source != "another" {
		t.Errorf("got %+v, %v", g, ok)
	}
	for _, ask := range []bool{
		func() bool { _, ok := v.FindSNP("metal-qemu-snp", "Milan", 1); return ok }(), func() bool { _, ok := v.FindSNP("metal-qemu-snp", "Genoa", 2); return ok }(),
		func() bool { _, ok := v.FindPolicy("Pod", "", "p"); return ok }(), func() bool { var none *manifest.Values; _, ok := none.FindTDX(""); return ok }(),
	} {
		if ask {
			t.Error("found what is not there")
		}
	}
	for _, tt := range [][3]string{
		{"version: 1", "version: 2", "not known"},
		{"source: somebody\n", "", "has no source"},
		{"product: Genoa", "product: Turin", "Milan or Genoa"},
		{"0080b004", "80b004", "8 hex digits"},
		{"cpus: 1", "cpus: -1", "number of cpus"},
		{"mrtd: ab", "mrtd: zz", "want 96 hex digits"},
		{"hash: cd", "hash: c", "want 64 hex digits"},
		{"kind: Pod, ", "", "a kind and a name"},
		{"[abcd]", "[abc]", "no key in hex"},
		{"snp:", "spn:", "spn"},
		{"policies:\n", "policies:\n- {kind: Pod, namespace: ns, name: p, hash: HASH}\n", "same value as on line"},
		{"snp:\n", "snp:\n- {platform: METAL-qemu-snp, product: Genoa, cpus: 1, launch: LAUNCH}\n", "same value as on line"},
	} {
		text := strings.Replace(valuesOf(valuesText), tt[0], valuesOf(tt[1]), 1)
		if _, err := manifest.ParseValues("v", []byte(text)); err == nil || !strings.Contains(err.Error(), tt[2]) {
			t.Errorf("%s: got %v, want %q", tt[1], err, tt[2])
		}
	}
}

// A value that is not there is a placeholder, which is listed and is valid as
// nothing.
func TestPlaceholders(t *testing.T) {
	for _, v := range []manifest.Version{manifest.V16, manifest.V18, manifest.V116, manifest.V120, manifest.Newer} {
		g := manifest.Generation{
			Version: v, Incomplete: true,
			Policies: []manifest.GeneratedPolicy{{Workload: manifest.Workload{Group: "apps", Version: "v1", Kind: "Deployment", Name: "web"}}, {Hash: sum256("a"), Workload: manifest.Workload{Version: "v1", Kind: "Pod", Name: "p"}}},
			SNP:      []manifest.SNPValues{{Platform: "P", ProductName: "Genoa", NoAPEIP: true}},
		}
		want := 3
		if v >= manifest.V116 {
			g.TDX, want = []manifest.TDXValues{{Platform: "T"}}, 8
		}
		if v == manifest.Newer {
			want++
		}
		made, err := manifest.Generate(g)
		if err != nil {
			t.Fatal(err)
		}
		m, err := manifest.Parse("m", made.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Placeholders(); len(got) != want {
			t.Errorf("%s: got %q, want %d", v, got, want)
		}
		valid := true
		for _, p := range m.Validate() {
			valid = valid && p.Severity != manifest.SeverityError
		}
		if valid {
			t.Errorf("%s: a manifest with placeholders is valid", v)
		}
		g.Incomplete = false
		if _, err := manifest.Generate(g); err == nil {
			t.Errorf("%s: want an error where placeholders are not asked for", v)
		}
	}
}

func FuzzValues(f *testing.F) {
	f.Add([]byte(valuesOf(valuesText)))
	f.Add([]byte("version: 1\nsnp: [{}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := manifest.ParseValues("v", data)
		if err != nil {
			return
		}
		for _, e := range v.SNP {
			if got, ok := v.FindSNP(e.Platform, e.Product, e.CPUs); !ok || got.Launch != e.Launch {
				t.Fatalf("%+v is not found by its own name", e)
			}
		}
	})
}
