package profiles_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/profiles"
)

func TestPrivatemodePlan(t *testing.T) {
	for _, tc := range []struct{ version, want string }{
		{"v1.9.0", ""},
		{"v1.10.0", "v1.10.0"},
		{"1.11.0", "v1.10.0"},
		{"v1.12.0", "v1.12.0"},
		{"v1.16.0", "v1.15.0"},
		{"v1.24.0", "v1.21.0"},
		{"v1.35.1", "v1.35.0"},
		{"v1.39.1", "v1.38.0"},
		{"v1.40.0", "v1.40.0"},
		{"v2.0.0", "v1.40.0"},
		{"v1.40", ""},
		{"", ""},
		{"v1.-1.0", ""},
	} {
		name, data, ok := profiles.PrivatemodePlan(tc.version)
		if name != tc.want || ok != (tc.want != "") || ok != (len(data) > 0) {
			t.Errorf("%q: got %q, %d bytes, %v; want %q", tc.version, name, len(data), ok, tc.want)
		}
	}
}

func TestPrivatemodePlansParse(t *testing.T) {
	names := profiles.PrivatemodePlans()
	if len(names) != 14 || names[0] != "v1.10.0" || names[13] != "v1.40.0" {
		t.Errorf("got %q", names)
	}
	for _, name := range names {
		_, data, _ := profiles.PrivatemodePlan(name)
		plan, err := manifest.ParsePlan(name, data)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if w := plan.Warnings(); len(w) > 0 {
			t.Errorf("%s: %q", name, w)
		}
		if !strings.Contains(string(data), "tag "+name+" ") {
			t.Errorf("%s: does not name its source", name)
		}
	}
}

// Each profile does on every generated manifest what the plan of the vectors
// for the same release does.
func TestPrivatemodePlansAgree(t *testing.T) {
	dir := testenv.Vectors(t, "published/privatemode/adjust")
	befores, _ := filepath.Glob(filepath.Join(dir, "*.before.json"))
	edge, _ := filepath.Glob(filepath.Join(testenv.Vectors(t, "own/contrast/adjust-edge"), "*.before.json"))
	befores = append(befores, edge...)
	plans, _ := filepath.Glob(filepath.Join(dir, "v*.adjustments.yaml"))
	if len(befores) < 20 || len(plans) < 15 {
		t.Fatalf("found %d manifests and %d plans", len(befores), len(plans))
	}
	for _, p := range plans {
		tag := strings.TrimSuffix(filepath.Base(p), ".adjustments.yaml")
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		want, err := manifest.ParsePlan(p, data)
		if err != nil {
			t.Fatal(err)
		}
		name, data, _ := profiles.PrivatemodePlan(tag)
		got, err := manifest.ParsePlan(name, data)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range befores {
			in, err := os.ReadFile(b)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(apply(t, want, in), apply(t, got, in)); diff != "" {
				t.Errorf("%s (profile %s) on %s, -plan +profile:\n%s", tag, name, filepath.Base(b), diff)
			}
		}
	}
}

func apply(t *testing.T, p *manifest.Plan, in []byte) string {
	t.Helper()
	all := map[string]string{"namespace": "continuum-abc123", "instance": "abc123"}
	vars := map[string]string{}
	for name := range p.Variables() {
		vars[name] = all[name]
	}
	res, err := p.Apply(in, vars)
	if err != nil {
		t.Fatal(err)
	}
	return string(res.Bytes)
}
