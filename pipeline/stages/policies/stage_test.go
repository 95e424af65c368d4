package policies_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testrun"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/fixtures"
	"github.com/retally/retally/internal/cache"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
	"github.com/retally/retally/policygen"
	"github.com/retally/retally/policygen/rules"
)

const (
	chatKey   = pipeline.Key("policy/Deployment/harbor-4f2a1c/workload-tinychat")
	secretKey = pipeline.Key("policy/StatefulSet/harbor-4f2a1c/secret-service")
	apiKey    = pipeline.Key("policy/Deployment/harbor-4f2a1c/unstructured-api")
)

// workspace is the demo in a folder that a test may change.
type workspace struct {
	t   testing.TB
	dir string
}

func demoWorkspace(t testing.TB) workspace {
	t.Helper()
	files, err := fixtures.Demo()
	if err != nil {
		t.Fatal(err)
	}
	w := workspace{t, t.TempDir()}
	for _, f := range files {
		w.write(f.Name, f.Data)
	}
	return w
}

func (w workspace) write(name string, data []byte) {
	w.t.Helper()
	file := filepath.Join(w.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w workspace) read(name string) []byte {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.dir, filepath.FromSlash(name)))
	if err != nil {
		w.t.Fatal(err)
	}
	return data
}

// replace changes a text that the file must hold.
func (w workspace) replace(name, old, text string) {
	w.t.Helper()
	data := w.read(name)
	if !bytes.Contains(data, []byte(old)) {
		w.t.Fatalf("%s does not hold %q", name, old)
	}
	w.write(name, bytes.ReplaceAll(data, []byte(old), []byte(text)))
}

// ungenerated has the deployment as Contrast changes it in place of a manifest that
// is generated: its policies are those that the vendor publishes.
func (w workspace) ungenerated() {
	w.t.Helper()
	for _, a := range demoWorkspace(w.t).run().Artifacts {
		if strings.HasPrefix(a.Name, "deployment.") {
			w.write("deployment.yaml", a.Data)
		}
	}
	data := w.read("retally.yaml")
	from, to := bytes.Index(data, []byte("# The manifest, generated here")), bytes.Index(data, []byte("# What the vendor published"))
	w.write("retally.yaml", slices.Concat(data[:from], data[to:]))
}

func (w workspace) tryRun(o run.Options) (*run.Result, error) {
	w.t.Helper()
	cfg, err := run.ParseConfig(stages.Table(), config.FileName, w.read(config.FileName))
	if err != nil {
		w.t.Fatal(err)
	}
	o.Root, o.TestRootOK = w.dir, true
	return run.Run(context.Background(), stages.Table(), cfg, o)
}

func (w workspace) run() *run.Result {
	w.t.Helper()
	res, err := w.tryRun(run.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	return res
}

func finding(t testing.TB, r *pipeline.Report, k pipeline.Key) pipeline.Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.Key == k {
			return f
		}
	}
	t.Fatalf("the report has no finding for %s", k)
	return pipeline.Finding{}
}

func problem(r *pipeline.Report, code string) *pipeline.Problem {
	for i := range r.Problems {
		if r.Problems[i].Code == code {
			return &r.Problems[i]
		}
	}
	return nil
}

func TestPoliciesOfTheDemo(t *testing.T) {
	w := demoWorkspace(t)
	w.replace("retally.yaml", "  unstructured-api: {oci: images/unstructured-api}\n", "")
	w.write("retally.yaml", append(w.read("retally.yaml"), "\nallow_unchecked: ['image/unstructured-api/*', 'policy/*/*/unstructured-api']\n"...))
	res := w.run()
	if res.Report.Outcome != pipeline.OutcomeMatch {
		t.Fatalf("got %s: %+v", res.Report.Outcome, res.Report.Problems)
	}
	m := testrun.Measured(res.Report, chatKey)
	if m == nil || m.Basis != pipeline.Recomputed {
		t.Fatalf("got %+v, want a recomputed policy", m)
	}
	want := []pipeline.InputRef{pipeline.FromFile("deployment.yaml"), pipeline.FromFile("profile:retally-rules@annotation"), pipeline.FromFile("genpolicy-settings.json"), pipeline.FromFile("contrast-release.yaml")}
	for _, name := range []string{"initializer", "attestation-agent", "disk-mounter", "tinychat-server", "inference-proxy", "pause"} {
		want = append(want, pipeline.FromKey(pipeline.NewKey("image", name, "manifest")))
	}
	if diff := cmp.Diff(want, m.Inputs); diff != "" {
		t.Errorf("inputs (-want +got):\n%s", diff)
	}
	if s := finding(t, res.Report, chatKey).Standing; s.Effective != pipeline.Recomputed {
		t.Errorf("got standing %s, want recomputed down to the bytes", s)
	}
	if m := testrun.Measured(res.Report, apiKey); m != nil {
		t.Errorf("got %+v, want no policy of a workload whose image is not at hand", m)
	}
	hashes := map[string]bool{}
	for _, a := range res.Artifacts {
		if path.Dir(a.Name) == "policies" {
			hashes[digest.SHA256.Sum(a.Data).String()] = true
		}
	}
	if len(hashes) != 3 || !hashes[m.Value.String()] || !hashes[testrun.Measured(res.Report, secretKey).Value.String()] {
		t.Errorf("got documents with digests %v, want those of the three measured policies", hashes)
	}
	if f := finding(t, res.Report, "image/pause/manifest"); f.Verdict != pipeline.Match || f.Where.File != "genpolicy-settings.json" || f.Where.Line == 0 {
		t.Errorf("got %+v, want the pause image held against the settings", f)
	}
	if !slices.ContainsFunc(res.Report.Lacks, func(l pipeline.Lack) bool {
		return strings.Contains(l.What, "unstructured-api") && l.For == string(apiKey)
	}) {
		t.Errorf("got lacks %+v, want the third party's image named with its workload", res.Report.Lacks)
	}
}

// Without texts the reason is found by computing the policy under other
// circumstances.
func TestPolicyVariants(t *testing.T) {
	for _, tt := range []struct {
		name string
		// change makes our side another one; the published hash stays that of
		// the demo.
		change func(w workspace)
		note   string
		hint   string
	}{
		{"image binding", func(w workspace) { w.replace("retally.yaml", "image_binding: annotation", "image_binding: off") }, "with retally's own rules and image binding annotation", "policy-variant"},
		{"rules of our own in a file", func(w workspace) {
			own, err := rules.Default(rules.Annotation)
			if err != nil {
				t.Fatal(err)
			}
			w.write("rules.rego", append(own.Text, "# one more line\n"...))
			w.replace("retally.yaml", "image_binding: annotation", "rules: rules.rego")
		}, "with retally's own rules and image binding annotation", "policy-variant"},
		{"profile", func(w workspace) { w.replace("retally.yaml", "profile: kata-4.1", "profile: kata-3.28") }, "under profile kata-4.1", "policy-variant"},
		{"profile and binding", func(w workspace) {
			w.replace("retally.yaml", "profile: kata-4.1", "profile: kata-3.28")
			w.replace("retally.yaml", "image_binding: annotation", "image_binding: off")
		}, "under profile kata-4.1, with retally's own rules and image binding annotation", "policy-variant"},
		{"drop-in", func(w workspace) {
			w.write("settings/genpolicy-settings.json", w.read("genpolicy-settings.json"))
			w.write("settings/genpolicy-settings.d/10.json", []byte(`[{"op":"replace","path":"/request_defaults/ReadStreamRequest","value":true}]`))
			w.replace("retally.yaml", "settings: genpolicy-settings.json", "settings: settings")
		}, "without the drop-ins of the settings", "policy-variant"},
		{"namespace", func(w workspace) { w.replace("deployment.yaml", "harbor-4f2a1c", "harbor-ffffff") }, "in namespace harbor-4f2a1c, with that name wherever the deployment has its own", "namespace"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := demoWorkspace(t)
			w.replace("retally.yaml", "  published: policies\n", "")
			if tt.name != "namespace" { // the base would be another deployment's
				tt.change(w)
			} else {
				tt.change(w)
				w.replace("manifest.generated.json", "harbor-4f2a1c", "harbor-ffffff")
			}
			res := w.run()
			key := chatKey
			if tt.name == "namespace" {
				key = "policy/Deployment/harbor-ffffff/workload-tinychat"
			}
			f := finding(t, res.Report, key)
			if f.Verdict != pipeline.Differs || len(f.Why) == 0 {
				t.Fatalf("got %s with %d causes, want a difference that is explained", f.Verdict, len(f.Why))
			}
			want := "the published hash is that of the same deployment " + tt.note
			if c := f.Why[0]; c.Note != want || c.Standing != pipeline.Proved || c.Hint != tt.hint {
				t.Errorf("got %+v\nwant proved: %s", c, want)
			}
		})
	}
}

// With the published texts every difference is named with its place.
func TestPolicyTexts(t *testing.T) {
	for _, tt := range []struct {
		name, file, old, text string
		cause, where, hint    string
	}{
		{"argument", "deployment.yaml", "            - --host=0.0.0.0\n", "            - --host=127.0.0.1\n", "container server: argument not as in the published policy (OCI.Process.Args[2])", "deployment.yaml:68", "policy-content"},
		{"variable", "deployment.yaml", "          args:\n            - /mnt", "          env:\n            - name: DEBUG\n              value: \"1\"\n          args:\n            - /mnt", "container server: environment variable that the published policy does not have (OCI.Process.Env.DEBUG)", "deployment.yaml:67", "policy-content"},
		{"annotation", "deployment.yaml", "      labels:\n        app: workload-tinychat\n    spec:", "      labels:\n        app: workload-tinychat\n      annotations:\n        a.example/b: c\n    spec:", "annotations that the published policy does not have, in every container (OCI.Annotations.a.example/b)", "policies/workload-tinychat.initdata.toml:0", "annotations-in-policy"},
		{"setting", "genpolicy-settings.json", `"ReadStreamRequest": false`, `"ReadStreamRequest": true`, "settings not as in the published policy (request_defaults.ReadStreamRequest)", "policies/workload-tinychat.initdata.toml:0", "generator-version"},
		{"rules", "retally.yaml", "image_binding: annotation", "image_binding: guest_pull", "rules not as in the published policy", "policies/workload-tinychat.initdata.toml:0", "generator-version"},
		{"process", "deployment.yaml", "        - name: server\n", "        - name: server\n          securityContext: {allowPrivilegeEscalation: false}\n", "container server: process setting not as in the published policy (OCI.Process.NoNewPrivileges)", "deployment.yaml:64", "policy-content"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := demoWorkspace(t)
			w.replace(tt.file, tt.old, tt.text)
			f := finding(t, w.run().Report, chatKey)
			if f.Verdict != pipeline.Differs {
				t.Fatalf("got %s, want a difference", f.Verdict)
			}
			found := slices.IndexFunc(f.Why, func(c pipeline.Cause) bool { return strings.HasPrefix(c.Note, tt.cause) })
			if found < 0 {
				t.Fatalf("got causes %+v\nwant one that starts with %q", f.Why, tt.cause)
			}
			c := f.Why[found]
			if got := fmt.Sprintf("%s:%d", c.Where.File, c.Where.Line); got != tt.where || c.Hint != tt.hint || c.Standing != pipeline.Proved {
				t.Errorf("got %s %s %s, want proved, %s, %s", c.Standing, got, c.Hint, tt.where, tt.hint)
			}
		})
	}
}

// The published text counts only if its digest is the published hash.
func TestPolicyTextsMustFit(t *testing.T) {
	w := demoWorkspace(t)
	w.replace("policies/workload-tinychat.initdata.toml", "--host=0.0.0.0", "--host=0.0.0.1")
	w.replace("policies/secret-service.initdata.toml", "harbor-4f2a1c", "harbor-4f2a1d")
	w.replace("deployment.yaml", "--host=0.0.0.0", "--host=127.0.0.1")
	res := w.run()
	f := finding(t, res.Report, chatKey)
	if len(f.Why) < 1 || f.Why[0].Standing != pipeline.Suspected || f.Why[0].Hint != "policy-hash" {
		t.Errorf("got %+v, want the cause to be unknown", f.Why)
	}
	if problem(res.Report, "policy-texts") == nil {
		t.Errorf("got %+v, want a word on texts that nobody lists", res.Report.Problems)
	}
}

// Annotated YAML is a published text too, in a file or in the deployment.
func TestPolicyTextsInAnnotations(t *testing.T) {
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	if _, err := zw.Write(demoWorkspace(t).read("policies/workload-tinychat.initdata.toml")); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	annotation := base64.StdEncoding.EncodeToString(packed.Bytes())
	for _, tt := range []struct {
		name string
		make func(w workspace)
	}{
		{"annotation", func(w workspace) { w.write("published.txt", []byte(annotation+"\n")) }},
		{"annotated YAML", func(w workspace) {
			w.write("published.txt", bytes.ReplaceAll(w.read("deployment.yaml"), []byte("      labels:\n        app: workload-tinychat\n    spec:"),
				[]byte("      labels:\n        app: workload-tinychat\n      annotations:\n        io.katacontainers.config.hypervisor.cc_init_data: "+annotation+"\n    spec:")))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := demoWorkspace(t)
			tt.make(w)
			w.replace("retally.yaml", "published: policies", "published: published.txt")
			w.replace("deployment.yaml", "            - --host=0.0.0.0\n", "")
			f := finding(t, w.run().Report, chatKey)
			if len(f.Why) == 0 || !strings.HasPrefix(f.Why[0].Note, "container server: argument that only the published policy has") {
				t.Errorf("got %+v, want the argument that is missing here", f.Why)
			}
		})
	}
}

// The oldest manifests list the hash of the policy, not of a document.
func TestPolicyForm(t *testing.T) {
	w := demoWorkspace(t)
	w.replace("retally.yaml", "  published: policies\n", "")
	text := w.read("policies/workload-tinychat.initdata.toml")
	docs, err := policygen.ParseInitdata("x", text, policygen.KataTOML)
	if err != nil {
		t.Fatal(err)
	}
	w.replace("manifest.published.json", digest.SHA256.Sum(text).Hex(), digest.SHA256.Sum([]byte(docs.Data["policy.rego"])).Hex())
	f := finding(t, w.run().Report, chatKey)
	if len(f.Why) == 0 || f.Why[0].Hint != "policy-form" || f.Why[0].Standing != pipeline.Proved {
		t.Errorf("got %+v, want the form proved", f.Why)
	}
}

func TestPolicyFaults(t *testing.T) {
	w := demoWorkspace(t)
	w.replace("deployment.yaml", "      runtimeClassName: contrast-cc-metal-qemu-tdx-gpu\n", "      runtimeClassName: contrast-cc-metal-qemu-tdx-gpu\n      hostPID: true\n      hostIPC: true\n")
	w.write("deployment.yaml", append([]byte("# moved down by a line\n"), w.read("deployment.yaml")...))
	w.replace("deployment.yaml", "          ports:\n            - containerPort: 9000\n", "          workingDir: /tmp\n")
	res := w.run()
	var got []string
	for _, p := range res.Report.Problems {
		if p.Code == "policy-unknown-field" {
			got = append(got, fmt.Sprintf("%s %s:%d %s", p.Level, p.Where.File, p.Where.Line, p.Msg))
		}
	}
	want := []string{
		`error deployment.v1.20.0.yaml:34 spec.template.spec.containers[0].workingDir: field "workingDir" is not covered by policies (column 11)`,
		`error deployment.v1.20.0.yaml:94 spec.template.spec.hostIPC: field "hostIPC" is not covered by policies (column 7)`,
		`error deployment.v1.20.0.yaml:95 spec.template.spec.hostPID: field "hostPID" is not covered by policies (column 7)`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if res.Report.Outcome != pipeline.OutcomeDiffers {
		t.Errorf("got %s, want differs", res.Report.Outcome)
	}
	for _, k := range []pipeline.Key{chatKey, secretKey} {
		if m := testrun.Measured(res.Report, k); m != nil {
			t.Errorf("got %+v, want no %s", m, k)
		}
	}
}

// What no container can notice is a warning, and accepted on demand; a fault
// in one workload leaves the others.
func TestPolicyHarmlessFields(t *testing.T) {
	w := demoWorkspace(t)
	w.replace("deployment.yaml", "---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: workload-tinychat", "status:\n  replicas: 3\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: workload-tinychat")
	before := testrun.Measured(demoWorkspace(t).run().Report, secretKey).Value
	res := w.run()
	if p := problem(res.Report, "policy-unknown-field"); p == nil || p.Level != pipeline.LevelWarning {
		t.Errorf("got %+v, want a warning", p)
	}
	if m := testrun.Measured(res.Report, secretKey); m != nil {
		t.Errorf("got %+v, want no computed policy", m)
	}
	if m := testrun.Measured(res.Report, chatKey); m.Basis != pipeline.Recomputed {
		t.Errorf("got %s, want the other workload computed", m.Basis)
	}
	w.replace("retally.yaml", "  profile: kata-4.1\n", "  profile: kata-4.1\n  lenient: true\n")
	res = w.run()
	if p := problem(res.Report, "policy-unknown-field"); p == nil || p.Level != pipeline.LevelNote {
		t.Errorf("got %+v, want a note", p)
	}
	if m := testrun.Measured(res.Report, secretKey); m.Basis != pipeline.Recomputed || !m.Value.Equal(before) {
		t.Errorf("got %s %s, want %s recomputed", m.Basis, m.Value, before)
	}
}

// Objects that no generator is given do not matter, whatever they are.
func TestPoliciesLookAtWorkloadsOnly(t *testing.T) {
	w := demoWorkspace(t)
	before := testrun.Measured(w.run().Report, chatKey).Value
	w.write("deployment.yaml", slices.Concat([]byte("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: x}\nspec: {}\n---\n"), w.read("deployment.yaml"),
		[]byte("---\napiVersion: v1\nkind: Pod\nmetadata: {name: tool}\nspec:\n  hostPID: true\n  containers: [{name: c, image: busybox}]\n")))
	res := w.run()
	if m := testrun.Measured(res.Report, chatKey); m == nil || !m.Value.Equal(before) {
		t.Errorf("got %+v, want %s", m, before)
	}
	if p := problem(res.Report, "policy-unknown-field"); p != nil {
		t.Errorf("got %+v for a pod without a policy", p)
	}
}

func TestPolicyImagesMustBeThere(t *testing.T) {
	for _, tt := range []struct {
		name    string
		change  func(w workspace)
		lack    string
		lacking []pipeline.Key
	}{
		{"pause image", func(w workspace) { w.replace("retally.yaml", "  pause: {oci: images/pause}\n", "") }, "the bytes of the pause image", []pipeline.Key{chatKey, secretKey}},
		{"another image", func(w workspace) { w.replace("retally.yaml", "{oci: images/disk-mounter}", "{oci: images/pause}") }, "the bytes of image disk-mounter (what is given for it is another image", []pipeline.Key{chatKey}},
		{"digest only", func(w workspace) { w.replace("retally.yaml", "  disk-mounter: {oci: images/disk-mounter}\n", "") }, "the bytes of image disk-mounter (no source of it is given)", []pipeline.Key{chatKey}},
		{"broken bytes", func(w workspace) {
			blobs, err := filepath.Glob(filepath.Join(w.dir, "images", "secret-service", "blobs", "sha256", "*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range blobs {
				data, err := os.ReadFile(b)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(b, bytes.Replace(data, []byte("exec sleep"), []byte("exec creep"), 1), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}, "the bytes of image secret-service (what is given for it has no digest that holds)", []pipeline.Key{secretKey}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := demoWorkspace(t)
			tt.change(w)
			res := w.run()
			if !slices.ContainsFunc(res.Report.Lacks, func(l pipeline.Lack) bool { return strings.HasPrefix(l.What, tt.lack) }) {
				t.Errorf("got %+v, want a lack of %q", res.Report.Lacks, tt.lack)
			}
			for _, k := range []pipeline.Key{chatKey, secretKey} {
				m := testrun.Measured(res.Report, k)
				if lacking := slices.Contains(tt.lacking, k); (m == nil) != lacking || m != nil && m.Basis != pipeline.Recomputed {
					t.Errorf("%s: got %+v, want none: %v", k, m, lacking)
				}
			}
		})
	}
}

// One source may stand under two names, and a file that is something else is
// no image.
func TestImageSourcesTwice(t *testing.T) {
	w := demoWorkspace(t)
	w.replace("retally.yaml", "  pause: {oci: images/pause}\n", "  pause: {oci: images/pause}\n  stop: {oci: images/pause}\n")
	res := w.run()
	a, b := testrun.Measured(res.Report, "image/pause/manifest"), testrun.Measured(res.Report, "image/stop/manifest")
	if a == nil || b == nil || !a.Value.Equal(b.Value) {
		t.Errorf("got %+v and %+v, want the same digest", a, b)
	}
	w.replace("retally.yaml", "  stop: {oci: images/pause}\n", "  stop: {archive: deployment.yaml}\n")
	if _, err := w.tryRun(run.Options{}); err == nil || !strings.Contains(err.Error(), "deployment.yaml: is an input of another kind") {
		t.Errorf("got %v, want an error that names the file", err)
	}
}

// Only a published manifest: the computed policies are held against it, the
// others stay unchecked, with the reason.
func TestPoliciesWithoutBase(t *testing.T) {
	w := demoWorkspace(t)
	w.replace("retally.yaml", "  unstructured-api: {oci: images/unstructured-api}\n", "")
	w.ungenerated()
	res := w.run()
	if f := finding(t, res.Report, chatKey); f.Verdict != pipeline.Match {
		t.Errorf("got %s, want a match", f.Verdict)
	}
	if f := finding(t, res.Report, apiKey); f.Verdict != pipeline.Unchecked || !strings.HasPrefix(f.Note, "not computed, because the bytes of image unstructured-api") {
		t.Errorf("got %s %q, want unchecked with the reason", f.Verdict, f.Note)
	}
}

// A vendor publishes the manifest of one namespace; the policies are computed
// for that one, too.
func TestPoliciesOfAnotherNamespace(t *testing.T) {
	w := demoWorkspace(t)
	w.ungenerated()
	w.replace("deployment.yaml", "harbor-4f2a1c", "your-own")
	res := w.run()
	if f := finding(t, res.Report, chatKey); f.Verdict != pipeline.Match {
		t.Errorf("got %s, want a match with the policy for the vendor's namespace", f.Verdict)
	}
	if m := testrun.Measured(res.Report, chatKey); !strings.Contains(m.Note, "namespace in place of your-own") {
		t.Errorf("got note %q, want it to say which namespace was exchanged", m.Note)
	}
	if m := testrun.Measured(res.Report, "policy/Deployment/your-own/workload-tinychat"); m == nil || m.Value.Equal(testrun.Measured(res.Report, chatKey).Value) {
		t.Errorf("got %+v, want the own namespace's policy as well", m)
	}
	w.replace("deployment.yaml", "--host=0.0.0.0", "--host=127.0.0.1")
	f := finding(t, w.run().Report, chatKey)
	if f.Verdict != pipeline.Differs || len(f.Why) == 0 || !strings.HasPrefix(f.Why[0].Note, "container server: argument not as in the published policy") {
		t.Errorf("got %s %+v, want the argument and nothing of the namespace", f.Verdict, f.Why)
	}
	if len(f.Why) > 1 {
		t.Errorf("got %d causes, want one: %+v", len(f.Why), f.Why)
	}
}

// A profile that nobody compared with its generator gives assumed values.
func TestUnmatchedProfilesAreAssumed(t *testing.T) {
	w := demoWorkspace(t)
	w.replace("retally.yaml", "profile: kata-4.1", "profile: retally")
	m := testrun.Measured(w.run().Report, chatKey)
	if m.Basis != pipeline.Assumed || !strings.Contains(m.Note, "computed, unmatched") {
		t.Errorf("got %s %q, want assumed and unmatched", m.Basis, m.Note)
	}
	w.replace("retally.yaml", "profile: retally", "profile: contrast-1.20")
	if m := testrun.Measured(w.run().Report, chatKey); m.Basis != pipeline.Assumed {
		t.Errorf("got %s, want assumed", m.Basis)
	}
	// The deployment as it was given, beside a manifest that is only read.
	w.replace("retally.yaml", "  release: contrast-release.yaml\n  default_platform: metal-qemu-snp\n  values: values.yaml\n", "  base: manifest.generated.json\n")
	res := w.run()
	if m := testrun.Measured(res.Report, chatKey); m.Basis != pipeline.Copied {
		t.Errorf("got %s, want no value: contrast generate would add an initializer first", m.Basis)
	}
	if !slices.ContainsFunc(res.Report.Lacks, func(l pipeline.Lack) bool { return l.For == string(chatKey) && strings.Contains(l.How, "initializer") }) {
		t.Errorf("got %+v, want a lack of the deployment as generated", res.Report.Lacks)
	}
}

func TestPoliciesAreCached(t *testing.T) {
	w := demoWorkspace(t)
	w.write("settings/genpolicy-settings.json", w.read("genpolicy-settings.json"))
	w.replace("retally.yaml", "settings: genpolicy-settings.json", "settings: settings")
	store, err := cache.Open(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	once := func() (*run.Result, int64) {
		t.Helper()
		c := new(run.Counter)
		res, err := w.tryRun(run.Options{Cache: store, Counter: c})
		if err != nil {
			t.Fatal(err)
		}
		return res, c.BytesRead.Load()
	}
	first, _ := once()
	again, n := once()
	if n != 0 || !slices.Contains(again.Reused, "policies") {
		t.Errorf("the second run read %d bytes and reused %v, want nothing read", n, again.Reused)
	}
	if diff := cmp.Diff(reportJSON(t, first), reportJSON(t, again)); diff != "" {
		t.Errorf("reports differ (-first +again):\n%s", diff)
	}
	if len(first.Artifacts) != len(again.Artifacts) {
		t.Errorf("got %d artifacts from the cache, want %d", len(again.Artifacts), len(first.Artifacts))
	}
	for _, change := range []func(){
		func() {
			w.write("settings/genpolicy-settings.d/1.json", []byte(`[{"op":"replace","path":"/request_defaults/WriteStreamRequest","value":true}]`))
		},
		func() { w.write("policies/more.toml", []byte("x")) },
		func() { w.write("policies/more.toml", []byte("y")) },
		func() { w.replace("deployment.yaml", "--host=0.0.0.0", "--host=127.0.0.1") },
	} {
		change()
		if res, _ := once(); slices.Contains(res.Reused, "policies") {
			t.Error("a changed input was not noticed")
		}
	}
}

func reportJSON(t *testing.T, res *run.Result) string {
	t.Helper()
	data, err := json.MarshalIndent(res.Report, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestPrivatemodePolicies recounts Privatemode's deployment with images of the
// vectors: the data must be the reference's, byte by byte.
func TestPrivatemodePolicies(t *testing.T) {
	kata, own := testenv.Vectors(t, "published/kata"), testenv.Vectors(t, "own/policy")
	w := workspace{t, t.TempDir()}
	read := func(parts ...string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(parts...))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	dir := filepath.Join(kata, "cases", "privatemode-contrast-classes")
	w.write("deployment.yaml", read(dir, "input.yaml"))
	w.write("rules.rego", read(own, "rules", "mini.rego"))
	if err := os.CopyFS(filepath.Join(w.dir, "settings"), os.DirFS(filepath.Join(kata, "settings", "noguestpull"))); err != nil {
		t.Fatal(err)
	}
	var refs map[string]struct{ Digest, MediaType string }
	if err := json.Unmarshal(read(own, "images", "refs.json"), &refs); err != nil {
		t.Fatal(err)
	}
	config := "version: 1\ndeployment: deployment.yaml\npolicies: {settings: settings, rules: rules.rego, profile: kata-4.1}\nimages:\n"
	for _, ref := range []string{
		"contrast/coordinator:v1.20.0", "pause:3.6", "privatemode/attestation-agent:v1.40.0", "privatemode/disk-mounter:v1.40.0",
		"privatemode/inference-proxy:v1.40.0", "privatemode/secret-service:v1.40.0", "unstructured-io/unstructured-api:0.1.3", "vllm/vllm-openai:v0.20.0",
	} {
		name, _, _ := strings.Cut(path.Base(ref), ":")
		r := refs["localhost:5000/"+ref]
		d, err := digest.Parse(r.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config += fmt.Sprintf("  %s: {oci: images/%s}\n", name, name)
		layout := path.Join("images", name)
		blob := func(hex string) []byte {
			data := read(own, "images", "blobs", "sha256", hex)
			w.write(path.Join(layout, "blobs", "sha256", hex), data)
			return data
		}
		manifest := blob(d.Hex())
		var m struct {
			Config struct{ Digest string }
			Layers []struct{ Digest string }
		}
		if err := json.Unmarshal(manifest, &m); err != nil {
			t.Fatal(err)
		}
		blob(strings.TrimPrefix(m.Config.Digest, "sha256:"))
		for _, l := range m.Layers {
			blob(strings.TrimPrefix(l.Digest, "sha256:"))
		}
		w.write(path.Join(layout, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
		w.write(path.Join(layout, "index.json"), fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, r.MediaType, r.Digest, len(manifest)))
	}
	w.write("retally.yaml", []byte(config))
	res := w.run()
	var c struct {
		Policies []struct {
			Data     string            `json:"policy_data"`
			Initdata map[string]string `json:"initdata_toml_sha256"`
		}
	}
	if err := json.Unmarshal(read(dir, "case.json"), &c); err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{}
	for _, p := range c.Policies {
		want[p.Initdata["mini"]] = read(dir, p.Data)
	}
	got := 0
	for _, a := range res.Artifacts {
		data, ok := want[digest.SHA256.Sum(a.Data).Hex()]
		if !ok {
			t.Errorf("%s: sha256 %s is not the reference's", a.Name, digest.SHA256.Sum(a.Data))
			continue
		}
		doc, err := policygen.ParseInitdata(a.Name, a.Data, policygen.KataTOML)
		if err != nil {
			t.Fatal(err)
		}
		p, err := policygen.SplitPolicy([]byte(doc.Data["policy.rego"]))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p.JSON, bytes.TrimSuffix(data, []byte("\n"))) {
			t.Errorf("%s: policy_data is not the reference's", a.Name)
		}
		got++
	}
	confidential := 0
	for _, m := range res.Report.Measurements {
		if m.Key.Kind() == "policy" {
			confidential++
		}
	}
	if got != confidential || got != len(c.Policies) || got == 0 {
		t.Errorf("got %d policies equal to the reference's of %d measured, want all %d", got, confidential, len(c.Policies))
	}
	t.Logf("%d of Privatemode's workloads, byte by byte", got)
}

func TestPoliciesConfig(t *testing.T) {
	for _, tt := range []struct{ yaml, want string }{
		{"version: 1\nhashes: h.json\npolicies: {settings: s.json}\n", `r.yaml:3:11: policies: policies are those of a deployment, and none is given`},
		{"version: 1\ndeployment: d.yaml\npolicies:\n  profile: kata-4.1\n", `r.yaml:4:3: policies: settings is missing`},
		{"version: 1\ndeployment: d.yaml\npolicies:\n  settings: s.json\n  profile: kata4.1\n", `r.yaml:5:12: policies.profile: unknown policy profile "kata4.1" (did you mean "kata-4.1"? known: retally, kata-4.1,`},
		{"version: 1\ndeployment: d.yaml\npolicies:\n  settings: s.json\n  image_binding: guestpull\n", `r.yaml:5:18: policies.image_binding: unknown image binding "guestpull" (did you mean "guest_pull"?`},
		{"version: 1\ndeployment: d.yaml\npolicies:\n  settings: s.json\n  rules: r.rego\n  image_binding: off\n", `r.yaml:6:18: policies.image_binding: image_binding is a parameter of retally's own rules`},
		{"version: 1\ndeployment: d.yaml\npolicies:\n  settings: s.json\n  config_files: [a.yaml, \"\"]\n", `policies.config_files: entry 2 is empty`},
		{"version: 1\ndeployment: d.yaml\npolicies:\n  setings: s.json\n", `r.yaml:4:3: policies: unknown key "setings" (did you mean "settings"?)`},
		{"version: 1\ndeployment: d.yaml\npolicies:\n  settings: s.json\n  lenient: yes please\n", `r.yaml:5:12`},
	} {
		_, err := run.ParseConfig(stages.Table(), "r.yaml", []byte(tt.yaml))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q:\ngot  %v\nwant %s", tt.yaml, err, tt.want)
		}
	}
	c, err := run.ParseConfig(stages.Table(), "r.yaml", []byte("version: 1\ndeployment: d.yaml\npolicies: {settings: s.json}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if want := (config.Policies{Settings: "s.json", Profile: "retally", ImageBinding: "annotation"}); !cmp.Equal(*c.Policies, want) {
		t.Errorf("got %+v, want every default written out: %+v", *c.Policies, want)
	}
}

// copiesOf appends n workloads like the demo's secret-service.
func copiesOf(w workspace, n int, change func(i int, doc string) string) {
	w.t.Helper()
	doc, _, _ := strings.Cut(string(w.read("deployment.yaml")), "\n---\n")
	_, doc, ok := strings.Cut(doc, "apiVersion: ")
	if !ok {
		w.t.Fatal("the demo's deployment starts in another way")
	}
	text := w.read("deployment.yaml")
	for i := range n {
		text = append(text, "\n---\napiVersion: "+change(i, strings.ReplaceAll(doc, "name: secret-service\n", fmt.Sprintf("name: service-%d\n", i)))...)
	}
	w.write("deployment.yaml", text)
}

// Of faults of syntax the generator names one at a time; a file full of them
// must not keep a run busy for long.
func TestPolicyFaultsAreBounded(t *testing.T) {
	w := demoWorkspace(t)
	copiesOf(w, 40, func(_ int, doc string) string {
		return strings.Replace(doc, "replicas: 3", "replicas: 170141183460469231731687303715884105727", 1)
	})
	res := w.run()
	syntax := 0
	for _, p := range res.Report.Problems {
		if strings.HasPrefix(p.Code, "policy-") && p.Level == pipeline.LevelError && p.Where.Line > 0 {
			syntax++
		}
	}
	if syntax == 0 || problem(res.Report, "policy-faults") == nil && syntax != 40 {
		t.Errorf("got %d faults, want all 40, or some and a word that these are not all", syntax)
	}
}

// The documents that a run keeps have a bound, their hashes do not.
func TestPolicyDocumentsAreBounded(t *testing.T) {
	testenv.Long(t)
	w := demoWorkspace(t)
	copiesOf(w, 1100, func(_ int, doc string) string { return doc })
	res := w.run()
	total, hashes := 0, 0
	for _, a := range res.Artifacts {
		if path.Dir(a.Name) == "policies" {
			total += len(a.Data)
		}
	}
	for _, m := range res.Report.Measurements {
		if m.Key.Kind() == "policy" && m.Basis == pipeline.Recomputed && m.Value.Kind() == pipeline.DigestKind {
			hashes++
		}
	}
	if total > 40<<20 || hashes != 1102 || problem(res.Report, "policy-documents") == nil {
		t.Errorf("got %d bytes of documents and %d hashes, want at most 40 MiB, 1102 hashes and a note", total, hashes)
	}
}
