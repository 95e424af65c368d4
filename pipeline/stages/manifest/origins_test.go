package manifest

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/retally/retally/fixtures"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline/config"
)

// Whatever a plan edits, a value is known only where its own bytes are: set by
// the plan as a vendor's choice, or derived from the deployment. A plan never
// makes a measurement or a name known.
func TestPlansMakeNothingElseKnown(t *testing.T) {
	files, err := fixtures.Demo()
	if err != nil {
		t.Fatal(err)
	}
	var text []byte
	for _, f := range files {
		if f.Name == "manifest.generated.json" {
			text = f.Data
		}
	}
	base, err := manifest.Parse("base.json", text)
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{
		"/ReferenceValues/snp/*/ProductName", "/ReferenceValues/snp/*/TrustedMeasurement", "/ReferenceValues/snp/*/MinimumTCB/SNPVersion",
		"/ReferenceValues/snp/*/MinimumTCB", "/ReferenceValues/snp/*/GuestPolicy/Debug", "/ReferenceValues/tdx/*/Platform", "/ReferenceValues/tdx/*/MrTd",
		"/ReferenceValues/tdx/*/Rtmrs", "/ReferenceValues/tdx/*/Xfam", "/ReferenceValues/snp/*/CPUs", "/Policies/*/SANs", "/Policies/*/WorkloadSecretID",
		"/SeedshareOwnerPubKeys", "/WorkloadOwnerKeyDigests",
	}
	values := []string{`"genoa"`, `"Genoa"`, `7`, `true`, `"` + strings.Repeat("ee", 48) + `"`, `["` + strings.Repeat("ee", 48) + `"]`, `{SNPVersion: 3}`, `[]`}
	// By place and name: the path has the names in it that plans change.
	known := func(o *origins, m *manifest.Manifest) map[string]string {
		out := map[string]string{}
		for _, f := range m.Fields() {
			if b, _ := o.basis(f); b.Known() {
				out[f.Pointer+" "+f.Path[strings.LastIndexByte(f.Path, '/')+1:]] = f.Path
			}
		}
		return out
	}
	cfg := &config.Config{Deployment: "deployment.yaml", Manifest: &config.Manifest{Base: "base.json", Adjust: "plan.yaml"}}
	before := known(newOrigins(cfg, base, base.Tree(), base, map[int]replaced{}, nil), base)
	if len(before) == 0 {
		t.Fatal("nothing of the base follows from the deployment: the property would be empty")
	}
	applied := 0
	rapid.Check(t, func(t *rapid.T) {
		var plan strings.Builder
		plan.WriteString("version: 1\nsteps:\n")
		set := map[string]bool{}
		for range rapid.IntRange(1, 5).Draw(t, "steps") {
			op := rapid.SampledFrom([]string{"set", "append", "prepend", "delete"}).Draw(t, "op")
			path := rapid.SampledFrom(paths).Draw(t, "path")
			fmt.Fprintf(&plan, "  - op: %s\n    path: %s\n", op, path)
			if op != "delete" {
				fmt.Fprintf(&plan, "    value: %s\n", rapid.SampledFrom(values).Draw(t, "value"))
			}
			set[path] = true
		}
		p, err := manifest.ParsePlan("plan.yaml", []byte(plan.String()))
		if err != nil {
			return
		}
		res, err := p.Apply(base.Raw(), nil)
		if err != nil {
			return
		}
		m, err := manifest.Parse("manifest.json", res.Bytes)
		if err != nil {
			return
		}
		applied++
		for at, path := range known(newOrigins(cfg, base, res.Tree, m, map[int]replaced{}, nil), m) {
			pointer, _, _ := strings.Cut(at, " ")
			if isMeasured(path) || isName(path) {
				t.Fatalf("a plan made %s known\n%s", at, plan.String())
			}
			touched := false
			for p := range set {
				touched = touched || fits(p, pointer)
			}
			if _, was := before[at]; !was && !touched {
				t.Fatalf("%s became known, and no step set it\n%s", at, plan.String())
			}
		}
	})
	if applied < 20 {
		t.Errorf("%d plans could be applied: too few to say anything", applied)
	}
}

// fits reports whether a pointer lies at or below a plan's path, or above it.
func fits(path, pointer string) bool {
	a, b := strings.Split(path, "/"), strings.Split(pointer, "/")
	for i := range min(len(a), len(b)) {
		if a[i] != "*" && a[i] != b[i] {
			return false
		}
	}
	return true
}
