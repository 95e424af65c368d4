package manifest_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	stage "github.com/retally/retally/pipeline/stages/manifest"
)

const variablePlan = `version: 1
variables: {x: {from: deployment, kind: any, name: workload, field: metadata.namespace}}
steps: [{op: set, path: /a, value: "%s"}]
`

// A variable that selects no object is empty with a problem that names it, as in
// the public scripts; one that selects an object without the field, or two
// objects that differ, stays an error, and so does a whole value that would
// become empty.
func TestVariables(t *testing.T) {
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: ns}\nspec: {containers: [{name: a, image: b}]}\n"
	for _, tt := range []struct {
		name, deployment, value string
		want, problem, err      string
	}{
		{"there", "kind: Pod\nmetadata: {name: workload, namespace: ns}\n", "a.${x}.b", "ns", "", ""},
		{"no object", pod, "a.${x}.b", "", "${x} of the plan is empty", ""},
		{"no object, a similar one", strings.Replace(pod, "name: web", "name: workloads", 1), "a.${x}.b", "", `there is "workloads"`, ""},
		{"no deployment", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\n", "a.${x}.b", "", "", "no such object"},
		{"no such field", "kind: Pod\nmetadata: {name: workload}\n", "a.${x}.b", "", "", "has no such field"},
		{"two values", "kind: Pod\nmetadata: {name: workload, namespace: a}\n---\nkind: Job\nmetadata: {name: workload, namespace: b}\n", "a.${x}.b", "", "", `but "b"`},
		{"no single value", "kind: Pod\nmetadata: {name: workload, namespace: [a]}\n", "a.${x}.b", "", "", "no single value"},
		{"a whole value", pod, "${x}", "", "${x} of the plan is empty", "empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "d.yaml"), []byte(tt.deployment), 0o600); err != nil {
				t.Fatal(err)
			}
			plan, err := manifest.ParsePlan("plan", []byte(strings.Replace(variablePlan, "%s", tt.value, 1)))
			if err != nil {
				t.Fatal(err)
			}
			in := run.NewIn(&config.Config{Deployment: "d.yaml", Manifest: &config.Manifest{Adjust: "plan"}}, run.NewReader(dir, nil))
			vars, problems, err := stage.Variables(context.Background(), in, plan)
			if err == nil {
				_, err = plan.Apply([]byte(`{"a": 1}`), vars)
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got error %v, want %q", err, tt.err)
			}
			if vars["x"] != tt.want {
				t.Errorf("got %q, want %q", vars["x"], tt.want)
			}
			if tt.problem == "" != (len(problems) == 0) || len(problems) > 0 && (!strings.Contains(problems[0].Msg, tt.problem) || problems[0].Level != pipeline.LevelWarning) {
				t.Errorf("problems: got %v, want a warning with %q", problems, tt.problem)
			}
		})
	}
}
