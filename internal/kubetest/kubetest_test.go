// Package kubetest holds the Jobs that retally prints against Kubernetes' own
// types, and runs their indexes as the Job controller would. It is a module of
// its own, so that nothing of Kubernetes is ever part of the program.
package kubetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const image = "registry.example/retally@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

type lab struct{ dir, program string }

func (l *lab) run(t *testing.T, env []string, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(l.program, args...)
	cmd.Dir, cmd.Env = l.dir, append(os.Environ(), env...)
	out, err := cmd.Output()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{dir: t.TempDir()}
	l.program = filepath.Join(l.dir, "retally")
	build := exec.Command("go", "build", "-o", l.program, "./cmd/retally")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if err := os.MkdirAll(filepath.Join(l.dir, "volume", "model"), 0o755); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 5<<20)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	if err := os.WriteFile(filepath.Join(l.dir, "volume", "model", "weights"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	plan := exec.Command(l.program, "shard", "plan", "model", "--parts", "4", "--redundancy", "2", "--out", "../plan.json")
	plan.Dir = filepath.Join(l.dir, "volume")
	if out, err := plan.CombinedOutput(); err != nil {
		t.Fatalf("plan: %v\n%s", err, out)
	}
	return l
}

// decode takes a document apart, strictly: an unknown field is an error.
func decode[T any](t *testing.T, doc string) T {
	t.Helper()
	var out T
	if err := yaml.UnmarshalStrict([]byte(doc), &out); err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
	return out
}

func TestJobs(t *testing.T) {
	l := newLab(t)
	out, code := l.run(t, nil, "shard", "job", "plan.json", "--image", image, "--model-claim", "models", "--results-claim", "results", "--namespace", "audit", "--audit", "50")
	if code != 0 {
		t.Fatalf("job: exit %d", code)
	}
	docs := strings.Split(out, "\n---\n")
	if len(docs) != 3 {
		t.Fatalf("got %d documents", len(docs))
	}
	plan := decode[corev1.ConfigMap](t, docs[0]+"\n") // the line break is the separator's, and the plan's
	want, err := os.ReadFile(filepath.Join(l.dir, "plan.json"))
	if err != nil {
		t.Fatal(err)
	}
	// What the ConfigMap holds is the plan, byte for byte: results name its digest.
	if plan.Data["plan.json"] != string(want) || plan.Immutable == nil || !*plan.Immutable {
		t.Errorf("the ConfigMap does not hold the plan: %d bytes, want %d", len(plan.Data["plan.json"]), len(want))
	}
	job, merge := decode[batchv1.Job](t, docs[1]), decode[batchv1.Job](t, docs[2])
	for _, j := range []batchv1.Job{job, merge} {
		held(t, &j, plan.Name)
	}
	// What decoding does not see.
	if job.Spec.CompletionMode == nil || *job.Spec.CompletionMode != batchv1.IndexedCompletion || *job.Spec.Completions != 8 || job.Spec.BackoffLimitPerIndex == nil || *job.Spec.BackoffLimitPerIndex != 3 {
		t.Errorf("got %+v", job.Spec)
	}
	if merge.Spec.CompletionMode != nil || merge.Spec.BackoffLimitPerIndex != nil {
		t.Errorf("the merge is indexed: %+v", merge.Spec)
	}
	action := func(j *batchv1.Job, code int32) batchv1.PodFailurePolicyAction {
		for _, r := range j.Spec.PodFailurePolicy.Rules {
			if r.OnExitCodes != nil && slices.Contains(r.OnExitCodes.Values, code) {
				if r.OnExitCodes.Operator != batchv1.PodFailurePolicyOnExitCodesOpIn || *r.OnExitCodes.ContainerName != j.Spec.Template.Spec.Containers[0].Name {
					t.Errorf("rule %+v", r)
				}
				return r.Action
			}
		}
		return ""
	}
	for code, want := range map[int32]batchv1.PodFailurePolicyAction{1: batchv1.PodFailurePolicyActionFailIndex, 2: batchv1.PodFailurePolicyActionCount, 130: batchv1.PodFailurePolicyActionCount} {
		if got := action(&job, code); got != want {
			t.Errorf("exit code %d: got %q, want %q", code, got, want)
		}
	}
	if got := action(&merge, 1); got != batchv1.PodFailurePolicyActionFailJob {
		t.Errorf("merge, exit code 1: got %q", got)
	}
	// Each index is started as the Job controller starts it; then the merge.
	for index := range *job.Spec.Completions {
		l.pod(t, &job, index, 0)
	}
	if out := l.pod(t, &merge, -1, 0); !strings.Contains(out, "read by") || !strings.Contains(out, "audited") {
		t.Errorf("merge:\n%s", out)
	}
	one, code := l.run(t, nil, "disk", "volume/model", "--root-only")
	merged, err := os.ReadFile(filepath.Join(l.dir, "results", "merged.json"))
	if err != nil || code != 0 || len(merged) == 0 {
		t.Fatal(err)
	}
	root := strings.Fields(one)[1]
	if out := l.pod(t, &merge, -1, 0); !strings.Contains(out, root) {
		t.Errorf("the root of one machine, %s, is not that of the Jobs:\n%s", root, out)
	}
	// Another directory: the code that fails the index for good.
	if err := os.WriteFile(filepath.Join(l.dir, "volume", "model", "more"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	l.pod(t, &job, 2, 1)
	// A volume that is away: the code that is tried again.
	if err := os.Rename(filepath.Join(l.dir, "volume"), filepath.Join(l.dir, "away")); err != nil {
		t.Fatal(err)
	}
	l.pod(t, &job, 2, 2)
}

// held is what every Pod must be.
func held(t *testing.T, j *batchv1.Job, plan string) {
	t.Helper()
	pod := j.Spec.Template.Spec
	c := pod.Containers[0]
	s := c.SecurityContext
	if pod.RestartPolicy != corev1.RestartPolicyNever || pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken || pod.HostNetwork || pod.HostPID || pod.ServiceAccountName != "" {
		t.Errorf("%s: pod %+v", j.Name, pod)
	}
	if s == nil || s.Privileged != nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem || len(s.Capabilities.Add) > 0 || !slices.Contains(s.Capabilities.Drop, "ALL") ||
		pod.SecurityContext.RunAsNonRoot == nil || !*pod.SecurityContext.RunAsNonRoot || pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s: privileges %+v %+v", j.Name, s, pod.SecurityContext)
	}
	if c.Image != image || j.Namespace != "audit" || !strings.HasPrefix(j.Name, "retally") {
		t.Errorf("%s: %+v", j.Name, c)
	}
	for _, m := range c.VolumeMounts {
		if m.ReadOnly == (m.Name == "results") {
			t.Errorf("%s: mount %+v", j.Name, m)
		}
		k := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if k < 0 || m.Name == "plan" && pod.Volumes[k].ConfigMap.Name != plan || m.Name == "model" && !pod.Volumes[k].PersistentVolumeClaim.ReadOnly {
			t.Errorf("%s: volume of %s", j.Name, m.Name)
		}
	}
	first := j.Spec.PodFailurePolicy.Rules[0]
	if first.Action != batchv1.PodFailurePolicyActionIgnore || first.OnPodConditions[0].Type != corev1.DisruptionTarget {
		t.Errorf("%s: a lost node counts: %+v", j.Name, first)
	}
}

// pod runs a Pod of a Job as a process, its mounts as folders of the lab.
func (l *lab) pod(t *testing.T, j *batchv1.Job, index int32, want int) string {
	t.Helper()
	c := j.Spec.Template.Spec.Containers[0]
	if len(c.Command) != 1 || c.Command[0] != "retally" {
		t.Fatalf("command %q", c.Command)
	}
	at := strings.NewReplacer("/plan/plan.json", filepath.Join(l.dir, "plan.json"), "/model", filepath.Join(l.dir, "volume"), "/results", filepath.Join(l.dir, "results"))
	var args []string
	for _, a := range c.Args {
		if strings.HasPrefix(a, "/") {
			a = at.Replace(a)
		}
		args = append(args, a)
	}
	if index < 0 {
		args = append(args, "--wait", "5s")
	}
	var env []string
	if index >= 0 {
		env = []string{fmt.Sprintf("JOB_COMPLETION_INDEX=%d", index), fmt.Sprintf("NODE_NAME=node-%d", index)}
	}
	out, code := l.run(t, env, args...)
	if code != want {
		t.Fatalf("%s, index %d: exit %d, want %d\n%s", j.Name, index, code, want, out)
	}
	return out
}

// TestKustomize: the base names the files that are beside it, and their
// ConfigMap as the Jobs do.
func TestKustomize(t *testing.T) {
	l := newLab(t)
	if _, code := l.run(t, nil, "shard", "job", "plan.json", "--image", image, "--model-claim", "models", "--results-claim", "results", "--namespace", "audit", "--kustomize", "base"); code != 0 {
		t.Fatalf("exit %d", code)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(l.dir, "base", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	base := decode[struct {
		APIVersion         string   `json:"apiVersion"`
		Kind               string   `json:"kind"`
		Namespace          string   `json:"namespace"`
		Resources          []string `json:"resources"`
		ConfigMapGenerator []struct {
			Name  string   `json:"name"`
			Files []string `json:"files"`
		} `json:"configMapGenerator"`
	}](t, read("kustomization.yaml"))
	if len(base.Resources) != 1 || len(base.ConfigMapGenerator) != 1 || base.ConfigMapGenerator[0].Files[0] != "plan.json" {
		t.Fatalf("got %+v", base)
	}
	want, err := os.ReadFile(filepath.Join(l.dir, "plan.json"))
	if err != nil || read("plan.json") != string(want) {
		t.Errorf("the base has another plan: %v", err)
	}
	for _, doc := range strings.Split(read(base.Resources[0]), "\n---\n") {
		j := decode[batchv1.Job](t, doc)
		held(t, &j, base.ConfigMapGenerator[0].Name)
	}
}
