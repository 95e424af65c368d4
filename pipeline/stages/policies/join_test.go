package policies_test

import (
	"strings"
	"testing"

	"github.com/retally/retally/internal/testrun"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
)

// TestPoliciesJoinObjects: a policy is that of the object that both readers of
// the deployment see at one place, whatever stands around it.
func TestPoliciesJoinObjects(t *testing.T) {
	w := demoWorkspace(t)
	want := map[pipeline.Key]pipeline.Value{}
	for _, k := range []pipeline.Key{chatKey, secretKey, apiKey} {
		want[k] = testrun.Measured(w.run().Report, k).Value
	}
	docs := strings.Split(string(w.read("deployment.yaml")), "\n---\n")
	for i := range docs[:len(docs)/2] {
		j := len(docs) - 1 - i
		docs[i], docs[j] = docs[j], docs[i]
	}
	w.write("deployment.yaml", []byte(strings.Join(docs, "\n---\n")+"\n"))
	r := w.run().Report
	for k, v := range want {
		if m := testrun.Measured(r, k); m == nil || !m.Value.Equal(v) {
			t.Errorf("%s in another order: got %+v, want %s", k, m, v)
		}
	}
}

// TestPoliciesOfOtherObjects: where the generator sees another object than the
// one that the deployment's reader saw there, no policy is computed for either.
func TestPoliciesOfOtherObjects(t *testing.T) {
	for name, edit := range map[string][2]string{
		"another name":      {"  name: workload-tinychat\n", "  name: workload-tinychat\n  !x name: other\n"},
		"another kind":      {"kind: Deployment\nmetadata:\n  name: workload-tinychat\n", "kind: Deployment\n!x kind: DaemonSet\nmetadata:\n  name: workload-tinychat\n"},
		"another namespace": {"  name: workload-tinychat\n", "  name: workload-tinychat\n  !x namespace: other\n"},
	} {
		w := demoWorkspace(t)
		w.replace("deployment.yaml", edit[0], edit[1])
		res, err := w.tryRun(run.Options{})
		if err != nil {
			if !strings.Contains(err.Error(), "deployment.yaml") {
				t.Errorf("%s: %v does not name the file", name, err)
			}
			t.Logf("%s: %v", name, err)
			continue
		}
		if m := testrun.Measured(res.Report, chatKey); m != nil && m.Basis == pipeline.Recomputed {
			t.Errorf("%s: recomputed %s, of an object that only one reader sees", name, m.Value)
		}
		if res.Report.Outcome == pipeline.OutcomeMatch {
			t.Errorf("%s: the outcome is %s", name, res.Report.Outcome)
		}
	}
}
