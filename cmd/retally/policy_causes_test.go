package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/retally/retally/internal/policytest"
	"github.com/retally/retally/pipeline/stages/policies"
	"github.com/retally/retally/pipeline/stages/policies/decide"
	"github.com/retally/retally/policygen"
)

// policyLab is a folder with settings, rules and OCI layouts, for runs without
// a registry.
type policyLab struct {
	dir    string
	images *policytest.Registry
}

func newPolicyLab(t testing.TB) *policyLab {
	t.Helper()
	dir := policytest.Unpack(t)
	l := &policyLab{dir, policytest.NewRegistry(t, filepath.Join(dir, "images"))}
	l.layout(t, "pause", "localhost:5000/pause:3.6", "3.6")
	l.layout(t, "web", "localhost:5000/nginx:1.27", "")
	l.layout(t, "side", "localhost:5000/t/user-svc:latest", "v1")
	return l
}

func (l *policyLab) path(name string) string { return filepath.Join(l.dir, name) }

// layout puts an image of the vectors in place of layouts/NAME.
func (l *policyLab) layout(t testing.TB, name, ref, annotation string) {
	t.Helper()
	e, ok := l.images.Refs[ref]
	if !ok {
		t.Fatalf("no image %s", ref)
	}
	if err := policytest.Layout(l.images.Dir, l.path("layouts/"+name), e.Digest, e.MediaType, annotation); err != nil {
		t.Fatal(err)
	}
}

// digest is the pin of an image of the vectors.
func (l *policyLab) digest(ref string) string { return l.images.Refs[ref].Digest }

func (l *policyLab) write(t testing.TB, name, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(l.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.path(name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return l.path(name)
}

// yaml is a deployment with an image of either kind.
func (l *policyLab) yaml() string {
	return strings.ReplaceAll(`apiVersion: v1
kind: ConfigMap
metadata: {name: cm}
data: {key: from-config}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: prod}
spec:
  template:
    metadata: {annotations: {team: red}, labels: {app: web}}
    spec:
      volumes: [{name: data, emptyDir: {}}, {name: tmp, emptyDir: {medium: Memory}}]
      containers:
        - name: web
          image: registry.test/web@PIN
          command: [serve]
          args: [--port, "80"]
          env: [{name: A, value: "1"}, {name: B, valueFrom: {configMapKeyRef: {name: cm, key: key}}}]
          volumeMounts: [{name: data, mountPath: /data}]
          securityContext: {runAsUser: 10, runAsGroup: 10}
        - name: side
          image: registry.test/side:v1
          livenessProbe: {exec: {command: [check]}}
---
apiVersion: v1
kind: Pod
metadata: {name: other}
spec:
  containers: [{name: o, image: "registry.test/web@PIN"}]
`, "PIN", l.digest("localhost:5000/nginx:1.27"))
}

// generate runs policy generate and returns the annotated YAML's path.
func (l *policyLab) generate(t testing.TB, out string, args ...string) string {
	t.Helper()
	args = append([]string{"policy", "generate", "-f", l.path("in.yaml"), "--settings", l.path("settings/own"), "--images", l.path("layouts"), "--out", l.path(out), "--no-cache", "-q"}, args...)
	if code, stdout, stderr := (commandLine{}).run(t, args...); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	return l.path(out + "/in.annotated.yaml")
}

// TestPolicyDiffs changes one thing at a time and wants it named, by policy
// diff, with its category, container and path.
func TestPolicyDiffs(t *testing.T) {
	l := newPolicyLab(t)
	base := l.yaml()
	edit := func(old, repl string) func(t *testing.T) []string {
		return func(t *testing.T) []string {
			text := strings.Replace(base, old, repl, 1)
			if text == base {
				t.Fatalf("nothing to replace: %s", old)
			}
			l.write(t, "in.yaml", text)
			return nil
		}
	}
	settings := func(patch string) func(t *testing.T) []string {
		return func(t *testing.T) []string {
			l.write(t, "settings/own/genpolicy-settings.d/one.json", patch)
			return nil
		}
	}
	image := func(ref string) func(t *testing.T) []string {
		return func(t *testing.T) []string {
			l.layout(t, "side", ref, "v1")
			return nil
		}
	}
	flags := func(args ...string) func(t *testing.T) []string {
		return func(*testing.T) []string { return args }
	}
	other := l.digest("localhost:5000/opstree/redis:latest")
	tests := []struct {
		name                      string
		change                    func(t *testing.T) []string
		category, container, path string
	}{
		{"image digest", func(t *testing.T) []string {
			l.layout(t, "web2", "localhost:5000/opstree/redis:latest", "")
			return edit(l.digest("localhost:5000/nginx:1.27"), other)(t)
		}, "image", "web", "image-name"},
		{"argument", edit(`"80"`, `"81"`), "args", "web", "Args[2]"},
		{"added argument", edit(`"80"]`, `"80", -v]`), "args", "web", "Args[3]"},
		{"removed argument", edit(`[--port, "80"]`, `[--port]`), "args", "web", "Args[2]"},
		{"command", edit("[serve]", "[serve2]"), "args", "web", "Args[0]"},
		{"entry point of the image", image("localhost:5000/t/entry-only:latest"), "args", "side", "Args"},
		{"command of the image", image("localhost:5000/t/cmd-only:latest"), "args", "side", "Args"},
		{"user of the image", image("localhost:5000/t/user-uid-gid:latest"), "user", "side", "UID"},
		{"variables of the image", image("localhost:5000/t/full:latest"), "env", "side", "Env."},
		{"variable", edit(`{name: A, value: "1"}`, `{name: A, value: "2"}`), "env", "web", "Env.A"},
		{"new variable", edit(`{name: A, value: "1"}`, `{name: A, value: "1"}, {name: C, value: x}`), "env", "web", "Env.C"},
		{"variable gone", edit(`{name: A, value: "1"}, `, ``), "env", "web", "Env.A"},
		{"config map", edit("from-config", "changed"), "env", "web", "Env.B"},
		{"annotation", edit("team: red", "team: blue"), "annotations", "", "team"},
		{"new annotation", edit("team: red", "team: red, more: x"), "annotations", "", "more"},
		{"annotation gone", edit("team: red", ""), "annotations", "", "team"},
		{"mount path", edit("mountPath: /data", "mountPath: /data2"), "mounts", "web", "/data"},
		{"read-only mount", edit("mountPath: /data", "mountPath: /data, readOnly: true"), "mounts", "web", "/data"},
		{"second mount", edit("mountPath: /data}", "mountPath: /data}, {name: tmp, mountPath: /tmp}"), "mounts", "web", "/tmp"},
		{"user", edit("runAsUser: 10", "runAsUser: 33"), "user", "web", "UID"},
		{"group", edit("runAsGroup: 10", "runAsGroup: 11"), "user", "web", "GID"},
		{"settings: guest path", settings(`[{"op":"replace","path":"/common/cpath","value":"/elsewhere"}]`), "settings", "", "common.cpath"},
		{"settings: environment pattern", settings(`[{"op":"add","path":"/request_defaults/CreateContainerRequest/allow_env_regex/-","value":"^X="}]`), "settings", "", "allow_env_regex"},
		{"settings: copy", settings(`[{"op":"add","path":"/request_defaults/CopyFileRequest/-","value":"^/x"}]`), "settings", "", "CopyFileRequest"},
		{"settings: streams", settings(`[{"op":"replace","path":"/request_defaults/ReadStreamRequest","value":true}]`), "settings", "", "ReadStreamRequest"},
		{"settings: mount", settings(`[{"op":"replace","path":"/other_container/Mounts/0/options/2","value":"ro"}]`), "mounts", "", "/etc/hosts"},
		{"rules: binding", flags("--image-binding", "guest_pull"), "rules", "", "line"},
		{"rules: another file", func(t *testing.T) []string {
			return []string{"--image-binding", "", "--rules", l.path("rules/mini.rego")}
		}, "rules", "", "line"},
		{"probe", edit("command: [check]", "command: [check, now]"), "exec", "side", "exec_commands"},
		{"capability", edit("runAsUser: 10,", "runAsUser: 10, capabilities: {add: [SYS_PTRACE]},"), "capabilities", "web", "SYS_PTRACE"},
		{"privileged", edit("runAsUser: 10,", "runAsUser: 10, privileged: true,"), "capabilities", "web", "Capabilities"},
	}
	l.write(t, "in.yaml", base)
	a := l.generate(t, "a", "--image-binding", "off")
	named := 0
	for _, tt := range tests {
		ok := t.Run(tt.name, func(t *testing.T) {
			l.write(t, "in.yaml", base)
			l.layout(t, "side", "localhost:5000/t/user-svc:latest", "v1")
			if err := os.RemoveAll(l.path("settings/own/genpolicy-settings.d")); err != nil {
				t.Fatal(err)
			}
			args := tt.change(t)
			// With a binding the unpinned image would be refused.
			if slices.Contains(args, "guest_pull") {
				l.write(t, "in.yaml", strings.Replace(base, "registry.test/side:v1", "registry.test/side@"+l.digest("localhost:5000/t/user-svc:latest"), 1))
			}
			b := l.generate(t, "b", append([]string{"--image-binding", "off"}, args...)...)
			code, stdout, stderr := commandLine{}.run(t, "policy", "diff", a, b, "-o", "json")
			var d policies.Differences
			if err := json.Unmarshal([]byte(stdout), &d); err != nil {
				t.Fatalf("%v\n%s%s", err, stdout, stderr)
			}
			if code != 1 || d.Equal || len(d.Workloads) != 2 {
				t.Fatalf("exit code %d, equal %v, %d workloads", code, d.Equal, len(d.Workloads))
			}
			if !slices.ContainsFunc(d.Workloads[0].Causes, func(c policygen.DiffCause) bool {
				return c.Category == tt.category && c.Container == tt.container && strings.Contains(c.Path, tt.path) && c.A != c.B
			}) {
				t.Errorf("no cause %s %s %s in %v", tt.category, tt.container, tt.path, d.Workloads[0].Causes)
			}
		})
		if ok {
			named++
		}
	}
	t.Logf("%d of %d differences named", named, len(tests))
	if len(tests) < 30 {
		t.Errorf("%d differences, want at least 30", len(tests))
	}
	if code, stdout, _ := (commandLine{}).run(t, "policy", "diff", a, a); code != 0 || !strings.HasPrefix(stdout, "MATCH") {
		t.Errorf("a policy and itself: exit code %d, %s", code, stdout)
	}
}

// TestPolicyDenials changes one thing of an allowed request at a time and wants
// the predicate named first.
func TestPolicyDenials(t *testing.T) {
	l := newPolicyLab(t)
	policy := l.path("cases/kind-deployment/policy_data.0.json")
	data, err := os.ReadFile(policy)
	if err != nil {
		t.Fatal(err)
	}
	request := func(change func(oci, request map[string]any)) string {
		r, err := policytest.Request(data, 1)
		if err != nil {
			t.Fatal(err)
		}
		change(r["OCI"].(map[string]any), r)
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	ask := func(text string) (int, *decide.Decisions) {
		code, stdout, stderr := commandLine{stdin: text}.run(t, "policy", "check", "--policy", policy, "--request", "-", "-o", "json")
		var r decide.Decisions
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			t.Fatalf("%v\n%s%s", err, stdout, stderr)
		}
		return code, &r
	}
	// As a pod event shows it: inside a message, escaped.
	event := func(text string) string {
		quoted, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		return "Error: failed to create containerd task: \"CreateContainerRequest is blocked by policy: " + string(quoted) + "\""
	}
	if code, r := ask(event(request(func(map[string]any, map[string]any) {}))); code != 0 || !r.Allowed {
		t.Fatalf("the unchanged request: exit code %d, %+v", code, r.Decisions[0])
	}
	type object = map[string]any
	in := func(oci object, name string) object { return oci[name].(object) }
	process := func(key string, v any) func(object, object) {
		return func(oci, _ object) { in(oci, "Process")[key] = v }
	}
	linux := func(key string, v any) func(object, object) {
		return func(oci, _ object) { in(oci, "Linux")[key] = v }
	}
	whole := func(key string, v any) func(object, object) {
		return func(_, request object) { request[key] = v }
	}
	tests := []struct {
		check, actual string
		change        func(oci, request object)
	}{
		{"arguments", `"id"`, process("Args", []any{"sh", "-c", "id"})},
		{"terminal", "true", process("Terminal", true)},
		{"user id", "7", func(oci, _ object) { in(in(oci, "Process"), "User")["UID"] = 7 }},
		{"group id", "7", func(oci, _ object) { in(in(oci, "Process"), "User")["GID"] = 7 }},
		{"additional groups", "99", func(oci, _ object) { in(in(oci, "Process"), "User")["AdditionalGids"] = []any{0, 10, 99} }},
		{"environment", "LD_PRELOAD=/x", process("Env", []any{"LD_PRELOAD=/x"})},
		{"working directory", "/tmp", process("Cwd", "/tmp")},
		{"capabilities", "CAP_SYS_ADMIN", func(oci, _ object) { in(in(oci, "Process"), "Capabilities")["Effective"] = []any{"CAP_SYS_ADMIN"} }},
		{"no new privileges", "true", process("NoNewPrivileges", true)},
		{"root path", "/other", func(oci, _ object) { in(oci, "Root")["Path"] = "/run/guest/" + policytest.Bundle + "/other" }},
		{"read-only root", "true", func(oci, _ object) { in(oci, "Root")["Readonly"] = true }},
		{"oci version", "9.9.9", func(oci, _ object) { oci["Version"] = "9.9.9" }},
		{"mounts", "/host", func(oci, _ object) { oci["Mounts"].([]any)[1].(object)["destination"] = "/host" }},
		{"masked paths", "[]", linux("MaskedPaths", []any{})},
		{"read-only paths", "[]", linux("ReadonlyPaths", []any{})},
		{"sysctls", "|/x", linux("Sysctl", object{"kernel.core_pattern": "|/x"})},
		{"device files", "/dev/sda", linux("Devices", []any{object{"Type": "b", "Path": "/dev/sda"}})},
		{"annotations", "Other_1", func(oci, _ object) { in(oci, "Annotations")["io.kubernetes.cri.sandbox-name"] = "Other_1" }},
		{"container name", "c9", func(oci, _ object) { in(oci, "Annotations")["io.kubernetes.cri.container-name"] = "c9" }},
		{"hooks", "Prestart", func(oci, _ object) { oci["Hooks"] = object{"Prestart": []any{}} }},
		{"user by name", "root", whole("string_user", object{"uid": "root"})},
		{"devices", "/dev/x", whole("devices", []any{object{"id": "x", "type_": "blk", "vm_path": "", "container_path": "/dev/x", "options": []any{}}})},
		{"sandbox pid namespace", "true", whole("sandbox_pidns", true)},
	}
	var lines strings.Builder
	for _, tt := range tests {
		lines.WriteString(request(tt.change) + "\n")
	}
	code, all := ask(lines.String())
	if code != 1 || all.Allowed || len(all.Decisions) != len(tests) {
		t.Fatalf("exit code %d, %d decisions, want 1 and %d", code, len(all.Decisions), len(tests))
	}
	named := 0
	for i, tt := range tests {
		if t.Run(tt.check, func(t *testing.T) {
			d := all.Decisions[i]
			if d.Allowed || d.Kind != "CreateContainerRequest" || d.Line != i+1 || len(d.Reasons) == 0 {
				t.Fatalf("decision %+v", d)
			}
			first := d.Reasons[0].Failed[0]
			if first.Check != tt.check || !strings.Contains(string(first.Actual), tt.actual) || len(first.Expected) == 0 {
				t.Errorf("first failing check %s, actual %s; want %s, %s", first.Check, first.Actual, tt.check, tt.actual)
			}
		}) {
			named++
		}
	}
	if _, r := ask(event(request(tests[0].change))); r.Decisions[0].Reasons[0].Failed[0].Check != tests[0].check {
		t.Errorf("pasted from an event: %+v", r.Decisions[0])
	}
	t.Logf("%d of %d denials named", named, len(tests))
	if len(tests) < 20 {
		t.Errorf("%d denials, want at least 20", len(tests))
	}
}

// policyLabCommand is "policylab" of the scripts: settings, rules and OCI
// layouts of the vectors that the repository carries.
func policyLabCommand(t testing.TB) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 0 {
			ts.Fatalf("usage: policylab")
		}
		l := newPolicyLab(t)
		for _, name := range []string{"settings", "rules", "layouts"} {
			ts.Check(os.CopyFS(ts.MkAbs(name), os.DirFS(l.path(name))))
		}
		ts.Setenv("WEB", l.digest("localhost:5000/nginx:1.27"))
		ts.Setenv("SIDE", l.digest("localhost:5000/t/user-svc:latest"))
	}
}
