package policygen_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/retally/retally/policygen"
)

// TestReadPoliciesByTheirStart: words inside a file do not decide what it is.
func TestReadPoliciesByTheirStart(t *testing.T) {
	yaml := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata:\n  c.toml: |\n    version = \"0.1.0\"\n    algorithm = \"x\"\n    [data]\n---\n" +
		podOfOne + "    args: [\"[data]\", \"\\npolicy_data := \", \"\\x7f\"]\n"
	in := input(t, yaml, fakeImages{"i": fakeImage(t, `{}`)})
	in.Rules.Text = []byte("package agent_policy\n# \n[data]\nversion = \"1\"\n")
	out := generate(t, in)
	p := out.Policies[0]
	var compact bytes.Buffer
	if err := json.Compact(&compact, p.Data); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"policy": p.Text(), "data": p.Data, "compact data": compact.Bytes(), "initdata": p.Initdata(),
		"annotation": []byte(p.Annotation + "\n"), "annotated YAML": out.YAML,
	} {
		t.Run(name, func(t *testing.T) {
			list, err := policygen.ReadPolicies(policygen.NamedFile{Name: "f", Data: text})
			if err != nil || len(list) != 1 {
				t.Fatalf("%d policies, want 1: %v", len(list), err)
			}
			if want := strings.HasSuffix(name, "data") && name != "initdata"; (list[0].Rules == nil) != want {
				t.Errorf("rules %q; none is wanted: %v", list[0].Rules, want)
			}
			if name != "compact data" && !bytes.Equal(list[0].Data, p.Data) {
				t.Errorf("data of %d bytes, want %d", len(list[0].Data), len(p.Data))
			}
		})
	}
}

// TestReadOtherForms: policies that no generator wrote, and annotations beside
// the first.
func TestReadOtherForms(t *testing.T) {
	const rego = "# of ours\n\npackage agent_policy\ndefault ExecProcessRequest := true\n"
	const doc = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"aa.toml\" = \"x = 1\"\n\"policy.rego\" = '''\n" + rego + "'''\n"
	const bare = "version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\"aa.toml\" = \"x = 1\"\n"
	plain := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	packed := func(s string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, err := z.Write([]byte(s))
		if err == nil {
			err = z.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		return plain(b.String())
	}
	pod := func(key, value string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    " + key + ": \"" + value + "\"\nspec:\n  containers: [{name: a, image: b}]\n"
	}
	const config = "io.katacontainers.config."
	for _, tt := range []struct {
		name, text     string
		rules, doc     bool
		annotation     string
		refused, shown string
	}{
		{name: "rules", text: rego, rules: true},
		{name: "rules with data of their own", text: rego + "\npolicy_data := {\"commands\": []}\n", rules: true, shown: "policy_data is not understood"},
		{name: "rules behind their data", text: "package agent_policy\n\npolicy_data := {\"containers\": []}\ndefault X := true\n", rules: true, shown: "policy_data is not understood"},
		{name: "document", text: doc, rules: true, doc: true, shown: "aa.toml"},
		{name: "document without a policy", text: bare, doc: true, shown: "the guest's own one"},
		{name: "document of another version", text: strings.Replace(doc, "0.1.0", "0.2.0", 1), rules: true, doc: true, shown: "version 0.2.0, which is not known"},
		{name: "base64 of rules", text: plain(rego), rules: true},
		{name: "base64 of a document", text: plain(doc) + "\n", rules: true, doc: true},
		{name: "packed document", text: packed(doc), rules: true, doc: true},
		{name: "hypervisor annotation", text: pod(config+"hypervisor.cc_init_data", packed(doc)), rules: true, doc: true, annotation: config + "hypervisor.cc_init_data"},
		{name: "runtime annotation", text: pod(config+"runtime.cc_init_data", packed(doc)), rules: true, doc: true, annotation: config + "runtime.cc_init_data"},
		{name: "runtime annotation, not packed", text: pod(config+"runtime.cc_init_data", plain(doc)), rules: true, doc: true, annotation: config + "runtime.cc_init_data"},
		{name: "document without a policy in an annotation", text: pod(config+"runtime.cc_init_data", packed(bare)), doc: true, annotation: config + "runtime.cc_init_data"},
		{name: "policy annotation", text: pod(config+"agent.policy", plain(rego)), rules: true, annotation: config + "agent.policy"},
		{name: "list of pods", text: "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(pod(config+"agent.policy", plain(rego))), "\n", "\n  ") + "\n", rules: true, annotation: config + "agent.policy"},
		{name: "a kind of others", text: "apiVersion: serving.example/v1\nkind: InferenceService\nmetadata: {name: s}\nspec:\n  predictor:\n    annotations:\n      " + config + "agent.policy: " + plain(rego) + "\n", rules: true, annotation: config + "agent.policy"},
		{name: "annotation that is not known", text: pod(config+"hypervisor.initdata_v2", packed(doc)), refused: "is not known here"},
		{name: "annotation of garbage", text: pod(config+"runtime.cc_init_data", "!!"), refused: config + "runtime.cc_init_data"},
		{name: "not on the pod", text: "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: d\n  annotations: {" + config + "agent.policy: " + plain(rego) + "}\nspec:\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    spec:\n      containers: [{name: a, image: b}]\n", refused: "but not on a pod"},
		{name: "YAML with a comment", text: "# package agent_policy\napiVersion: v1\nkind: Service\nmetadata: {name: x}\n", refused: "no policies in it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list, err := policygen.ReadPolicies(policygen.NamedFile{Name: "f", Data: []byte(tt.text)})
			if tt.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tt.refused) {
					t.Fatalf("%v, want %q", err, tt.refused)
				}
				return
			}
			if err != nil || len(list) != 1 {
				t.Fatalf("%d policies, want 1: %v", len(list), err)
			}
			p := list[0]
			if (p.Rules != nil) != tt.rules || (p.Document != nil) != tt.doc || p.Annotation != tt.annotation {
				t.Errorf("rules %q, document %v, annotation %q", p.Rules, p.Document, p.Annotation)
			}
			if shown := strings.Join(policygen.Show(list)[0].Pod, "\n"); !strings.Contains(shown, tt.shown) {
				t.Errorf("shown %q, want %q in it", shown, tt.shown)
			}
		})
	}
}

// TestDiffOtherForms: what is attested is the document, and what guards a pod is
// whatever an annotation carries.
func TestDiffOtherForms(t *testing.T) {
	doc := func(version, algorithm, data string) string {
		return "version = \"" + version + "\"\nalgorithm = \"" + algorithm + "\"\n[data]\n" + data
	}
	const rego = "package agent_policy\ndefault ExecProcessRequest := "
	one := doc("0.1.0", "sha256", "\"aa.toml\" = \"\"\"\na = 1\nb = 2\n\"\"\"\n")
	for _, tt := range []struct{ name, a, b, state, cause string }{
		{"the same", one, one, "equal", ""},
		{"a line of a member", one, strings.Replace(one, "b = 2", "b = 3", 1), "differs", "data.aa.toml line 2: b = 2 in A, b = 3 in B"},
		{"one more member", one, one + "\"cdh.toml\" = \"x\"\n", "differs", "data.cdh.toml"},
		{"version", one, strings.Replace(one, "0.1.0", "0.2.0", 1), "differs", "version: 0.1.0 in A, 0.2.0 in B"},
		{"algorithm", one, strings.Replace(one, "sha256", "sha384", 1), "differs", "algorithm"},
		{"a member that is not known", one, "x = 1\n" + one, "differs", "text"},
		{"a policy more", one, one + "\"policy.rego\" = '''\n" + rego + "true\n'''\n", "differs", "data.policy.rego"},
		{"rules", rego + "true\n", rego + "false\n", "differs", "rules: line 2"},
		{"the same rules", rego + "true\n", rego + "true\n", "equal", ""},
		{"a comment", rego + "true\n", "#\n" + rego + "true\n", "differs", "rules: line 1"},
		{"rules with and without data", rego + "true\n", rego + "true\n\npolicy_data := {\"containers\": []}", "differs", "policy_data: nothing in A, there in B"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var sides [2][]policygen.NamedPolicy
			for i, text := range []string{tt.a, tt.b} {
				list, err := policygen.ReadPolicies(policygen.NamedFile{Name: "f", Data: []byte(text)})
				if err != nil {
					t.Fatal(err)
				}
				sides[i] = list
			}
			d := policygen.Diff(sides[0], sides[1])[0]
			causes := ""
			for _, c := range d.Causes {
				causes += c.String() + "\n"
			}
			if d.State != tt.state || !strings.Contains(causes, tt.cause) {
				t.Errorf("%s: %s, want %s and %q", d.State, causes, tt.state, tt.cause)
			}
			if sides[0][0].Document != nil && ((d.InitdataA == d.InitdataB) != (tt.state == "equal") || d.InitdataA == "") {
				t.Errorf("digests %s and %s", d.InitdataA, d.InitdataB)
			}
		})
	}
}

// TestMountsWithoutLastPart: the settings' mounts need no name, volumes do.
func TestMountsWithoutLastPart(t *testing.T) {
	for path, want := range map[string]string{"/": "", "": "", ".": "", "/a/..": "", "/a/b/": "$(sfprefix)b$"} {
		in := input(t, podOfOne+"    terminationMessagePath: \""+path+"\"\n", fakeImages{"i": fakeImage(t, `{}`)})
		var data struct {
			Containers []struct {
				OCI struct {
					Mounts []struct{ Destination, Source, Type_ string }
				}
			}
		}
		if err := json.Unmarshal(generate(t, in).Policies[0].Data, &data); err != nil {
			t.Fatal(err)
		}
		found := false
		for _, m := range data.Containers[1].OCI.Mounts {
			if m.Destination == path && m.Type_ == "bind" {
				found = true
				if m.Source != want {
					t.Errorf("%q has the source %q, want %q", path, m.Source, want)
				}
			}
		}
		if !found {
			t.Errorf("no mount at %q", path)
		}
	}
	for path, refusal := range map[string]string{"/": "no last part", "/a/..": "no last part"} {
		list := refused(t, input(t, podOfOne+"    volumeMounts: [{name: v, mountPath: \""+path+"\"}]\n  volumes: [{name: v, persistentVolumeClaim: {claimName: c}}]\n", fakeImages{"i": fakeImage(t, `{}`)}))
		if !strings.Contains(list.Error(), refusal) {
			t.Errorf("a volume at %q: %v", path, list)
		}
	}
	for volume, want := range map[string]string{
		"{name: v}":                             `volume "v" has no type`,
		"{name: v, emptyDir: }":                 `volume "v" has no type`,
		"{name: v, emptyDir: , hostPath: null}": `volume "v" has no type`,
	} {
		list := refused(t, input(t, podOfOne+"    volumeMounts: [{name: v, mountPath: /v}]\n  volumes: ["+volume+"]\n", fakeImages{"i": fakeImage(t, `{}`)}))
		if !strings.Contains(list.Error(), want) || !strings.Contains(list.Error()+list[0].Hint, "emptyDir: {}") {
			t.Errorf("%s: %v (%s), want %q", volume, list, list[0].Hint, want)
		}
	}
	in := input(t, podOfOne+"    volumeMounts: [{name: v, mountPath: /v}]\n  volumes: [{name: v, nfs: {server: s, path: /}}]\n", fakeImages{"i": fakeImage(t, `{}`)})
	in.Unknown = policygen.IgnoreUnknown
	if list := refused(t, in); !strings.Contains(list.Error(), "the type nfs") {
		t.Errorf("a type that is not known: %v", list)
	}
}
