package policygen_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/policygen"
)

const diffYAML = `apiVersion: v1
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
          image: app@sha256:0101010101010101010101010101010101010101010101010101010101010101
          command: [serve]
          args: [--port, "80"]
          env: [{name: A, value: "1"}, {name: B, valueFrom: {configMapKeyRef: {name: cm, key: key}}}]
          volumeMounts: [{name: data, mountPath: /data}]
          securityContext: {runAsUser: 10, runAsGroup: 10}
        - name: side
          image: app
          livenessProbe: {exec: {command: [check]}}
---
apiVersion: v1
kind: Pod
metadata: {name: other}
spec:
  containers: [{name: o, image: app}]
`

const pinnedApp = "app@sha256:0101010101010101010101010101010101010101010101010101010101010101"

func diffImages(t testing.TB, config, passwd string) fakeImages {
	img := fakeImage(t, config, fakeLayer{files: map[string]string{"etc/passwd": passwd, "etc/group": "root:x:0:\n"}})
	return fakeImages{"app": img, pinnedApp: img, strings.Replace(pinnedApp, "sha256:01", "sha256:02", 1): img}
}

const (
	diffConfig = `{"Env":["PATH=/bin"],"Entrypoint":["/entry"],"Cmd":["run"]}`
	diffPasswd = "root:x:0:0:::\nweb:x:10:10:::\nimg:x:33:33:::\n"
)

// TestDiffNamesTheCause changes one thing at a time and wants its category,
// its container and its path.
func TestDiffNamesTheCause(t *testing.T) {
	edit := func(old, repl string) func(*testing.T, *policygen.Input) {
		return func(t *testing.T, in *policygen.Input) {
			text := strings.Replace(string(in.YAML.Data), old, repl, 1)
			if text == string(in.YAML.Data) {
				t.Fatalf("nothing to replace: %s", old)
			}
			in.YAML.Data = []byte(text)
		}
	}
	patch := func(ops string) func(*testing.T, *policygen.Input) {
		return func(t *testing.T, in *policygen.Input) { in.Settings = settings(t, in.Profile, ops) }
	}
	image := func(config, passwd string) func(*testing.T, *policygen.Input) {
		return func(t *testing.T, in *policygen.Input) {
			images := diffImages(t, config, passwd)
			images[pauseImage] = fakeImage(t, `{"User":"65535:65535","Entrypoint":["/pause"]}`)
			in.Images = images
		}
	}
	rules := func(text string) func(*testing.T, *policygen.Input) {
		return func(_ *testing.T, in *policygen.Input) { in.Rules.Text = append(slices.Clone(in.Rules.Text), text...) }
	}
	tests := []struct {
		name                      string
		change                    func(*testing.T, *policygen.Input)
		category, container, path string
	}{
		{"image digest", edit("sha256:01", "sha256:02"), "image", "web", "image-name"},
		{"argument", edit(`"80"`, `"81"`), "args", "web", "Args[2]"},
		{"added argument", edit(`"80"]`, `"80", -v]`), "args", "web", "Args[3]"},
		{"command", edit("[serve]", "[serve2]"), "args", "web", "Args[0]"},
		{"image entry point", image(`{"Env":["PATH=/bin"],"Entrypoint":["/entry2"],"Cmd":["run"]}`, diffPasswd), "args", "side", "Args[0]"},
		{"image cmd", image(`{"Env":["PATH=/bin"],"Entrypoint":["/entry"],"Cmd":["walk"]}`, diffPasswd), "args", "side", "Args[1]"},
		{"variable", edit(`{name: A, value: "1"}`, `{name: A, value: "2"}`), "env", "web", "Env.A"},
		{"new variable", edit(`{name: A, value: "1"}`, `{name: A, value: "1"}, {name: C, value: x}`), "env", "web", "Env.C"},
		{"variable gone", edit(`{name: A, value: "1"}, `, ``), "env", "web", "Env.A"},
		{"config map", edit("from-config", "changed"), "env", "web", "Env.B"},
		{"image variable", image(`{"Env":["PATH=/sbin"],"Entrypoint":["/entry"],"Cmd":["run"]}`, diffPasswd), "env", "", "Env.PATH"},
		{"annotation", edit("team: red", "team: blue"), "annotations", "", "team"},
		{"new annotation", edit("team: red", "team: red, more: x"), "annotations", "", "more"},
		{"mount path", edit("mountPath: /data", "mountPath: /data2"), "mounts", "web", "/data"},
		{"read-only mount", edit("mountPath: /data", "mountPath: /data, readOnly: true"), "mounts", "web", "/data"},
		{"second mount", edit("mountPath: /data}", "mountPath: /data}, {name: tmp, mountPath: /tmp}"), "mounts", "web", "/tmp"},
		{"user", edit("runAsUser: 10", "runAsUser: 33"), "user", "web", "UID"},
		{"group", edit("runAsGroup: 10", "runAsGroup: 11"), "user", "web", "GID"},
		{"image user", image(`{"User":"img","Env":["PATH=/bin"],"Entrypoint":["/entry"],"Cmd":["run"]}`, diffPasswd), "user", "side", "UID"},
		{"group of the user in passwd", image(`{"User":"img","Env":["PATH=/bin"],"Entrypoint":["/entry"],"Cmd":["run"]}`, strings.Replace(diffPasswd, "33:33", "33:34", 1)), "user", "side", "GID"},
		{"settings: guest path", patch(`[{"op":"replace","path":"/common/cpath","value":"/elsewhere"}]`), "settings", "", "common.cpath"},
		{"settings: environment pattern", patch(`[{"op":"add","path":"/request_defaults/CreateContainerRequest/allow_env_regex/-","value":"^X="}]`), "settings", "", "allow_env_regex"},
		{"settings: copy", patch(`[{"op":"add","path":"/request_defaults/CopyFileRequest/-","value":"^/x"}]`), "settings", "", "CopyFileRequest"},
		{"settings: streams", patch(`[{"op":"replace","path":"/request_defaults/ReadStreamRequest","value":true}]`), "settings", "", "ReadStreamRequest"},
		{"settings: oci version", patch(`[{"op":"replace","path":"/kata_config/oci_version","value":"1.3.0"}]`), "settings", "", "OCI.Version"},
		{"settings: mount", patch(`[{"op":"replace","path":"/other_container/Mounts/0/options/2","value":"ro"}]`), "mounts", "", "/etc/hosts"},
		{"rules: appended", rules("\n# more\n"), "rules", "", "line"},
		{"rules: permission", rules("\ndefault SetPolicyRequest := true\n"), "rules", "", "line"},
		{"probe", edit("command: [check]", "command: [check, now]"), "exec", "side", "exec_commands"},
		{"capability", edit("runAsUser: 10,", "runAsUser: 10, capabilities: {add: [SYS_PTRACE]},"), "capabilities", "web", "SYS_PTRACE"},
		{"privileged", edit("runAsUser: 10,", "runAsUser: 10, privileged: true,"), "capabilities", "web", "Capabilities"},
	}
	base := func(t *testing.T) policygen.Input { return input(t, diffYAML, diffImages(t, diffConfig, diffPasswd)) }
	a := readPolicies(t, generate(t, base(t)).YAML)
	differing := 0
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := base(t)
			// What the group of a named user is shows only where a user is named.
			before := a
			if tt.name == "group of the user in passwd" {
				image(`{"User":"img","Env":["PATH=/bin"],"Entrypoint":["/entry"],"Cmd":["run"]}`, diffPasswd)(t, &in)
				before = readPolicies(t, generate(t, in).YAML)
			}
			tt.change(t, &in)
			diffs := policygen.Diff(before, readPolicies(t, generate(t, in).YAML))
			if len(diffs) != 2 {
				t.Fatalf("%d workloads, want 2: %+v", len(diffs), diffs)
			}
			causes := diffs[0].Causes
			differing++
			if !slices.ContainsFunc(causes, func(c policygen.DiffCause) bool {
				return c.Category == tt.category && c.Container == tt.container && strings.Contains(c.Path, tt.path) && c.A != c.B
			}) {
				t.Errorf("no cause %s %s %s in %v", tt.category, tt.container, tt.path, causes)
			}
			// Nothing else is blamed than what hangs together with the change.
			for _, c := range causes {
				if !related(tt.category, c.Category) {
					t.Errorf("unrelated cause %v", c)
				}
			}
		})
	}
	if differing < 30 {
		t.Errorf("%d differences, want at least 30", differing)
	}
}

func related(want, got string) bool {
	switch want {
	case got:
		return true
	case "mounts":
		return got == "storages"
	case "capabilities":
		return got == "mounts" || got == "linux"
	case "image":
		return false
	}
	return false
}

func readPolicies(t *testing.T, yaml []byte) []policygen.NamedPolicy {
	t.Helper()
	list, err := policygen.ReadPolicies(policygen.NamedFile{Name: "out.yaml", Data: yaml})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestDiffWorkloads(t *testing.T) {
	out := generate(t, input(t, diffYAML, diffImages(t, diffConfig, diffPasswd)))
	list := readPolicies(t, out.YAML)
	states := func(a, b []policygen.NamedPolicy) string {
		var s []string
		for _, d := range policygen.Diff(a, b) {
			s = append(s, fmt.Sprintf("%s/%s/%s %s", d.Kind, d.Namespace, d.Name, d.State))
		}
		return strings.Join(s, "; ")
	}
	if got, want := states(list, list), "Deployment/prod/web equal; Pod//other equal"; got != want {
		t.Errorf("same policies: %s, want %s", got, want)
	}
	if got, want := states(list, list[1:]), "Deployment/prod/web only in A; Pod//other equal"; got != want {
		t.Errorf("one fewer: %s, want %s", got, want)
	}
	// Every form of a policy reads the same.
	p := out.Policies[0]
	for _, c := range []struct {
		name, want string
		data       []byte
	}{
		// What a policy alone does not say is unchecked.
		{"policy", "unchecked", p.Text()},
		{"data", "unchecked", p.Data},
		{"initdata", "equal", p.Initdata()},
		{"annotation", "equal", []byte(p.Annotation + "\n")},
		{"one more line", "differs", append(p.Initdata(), '\n')},
		{"one more member", "differs", append(p.Initdata(), "'cdh.toml' = 'url = \"http://evil.example\"'\n"...)},
		{"another algorithm", "differs", bytes.Replace(p.Initdata(), []byte("sha256"), []byte("sha384"), 1)},
		{"data with other rules", "unchecked", append([]byte("package agent_policy\ndefault ExecProcessRequest := true\n\npolicy_data := "), p.Data...)},
	} {
		got, err := policygen.ReadPolicies(policygen.NamedFile{Name: c.name, Data: c.data})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		against := list[:1]
		if c.name == "data with other rules" {
			if against, err = policygen.ReadPolicies(policygen.NamedFile{Name: "data", Data: p.Data}); err != nil {
				t.Fatal(err)
			}
		}
		if s := states(against, got); !strings.HasSuffix(s, " "+c.want) {
			t.Errorf("%s: %s, want %s", c.name, s, c.want)
		}
	}
}

func TestShow(t *testing.T) {
	out := generate(t, input(t, diffYAML, diffImages(t, diffConfig, diffPasswd)))
	shown := policygen.Show(readPolicies(t, out.YAML))
	if len(shown) != 2 || len(shown[0].Containers) != 3 {
		t.Fatalf("shown %+v, want two workloads, the first with three containers", shown)
	}
	web, side := strings.Join(shown[0].Containers[1].May, "\n"), strings.Join(shown[0].Containers[2].May, "\n")
	for _, tt := range []struct {
		text, part string
		want       bool
	}{
		{web, "the command comes from the image", false}, // its YAML has a command
		{side, `run "/entry run": the command comes from the image`, true},
		{web, "come from the image or a ConfigMap: PATH, HOSTNAME", true},
		{web, "run as user", false}, // its YAML states the user
		{side, "run as user 0, group 0", true},
		{web, "/data", false}, // its YAML has the mount
		{web, "read and write /etc/hosts, which the host fills", true},
		{side, "not pinned by digest", true},
		{web, "not pinned by digest", false},
		{side, `be made to run "check" by the host`, true},
		{side, "gain privileges", true},
	} {
		if got := strings.Contains(tt.text, tt.part); got != tt.want {
			t.Errorf("%q in the text: %v, want %v:\n%s", tt.part, got, tt.want, tt.text)
		}
	}
}
