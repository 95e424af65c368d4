package policygen_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/policygen"
)

// TestReadYAML reads and writes back what yaml-rust 0.4 and serde_yaml 0.8 see
// in other ways than YAML 1.1 libraries do.
func TestReadYAML(t *testing.T) {
	const head = "apiVersion: v1\nkind: Service\n"
	tests := []struct{ name, in, want string }{
		{"version directive", "%YAML 1.2\n---\n" + head, ""},
		{"unknown directive", "# c\n%FOO x\n--- # c\n" + head + "...\n%YAML 1.3\n---\n~\n", ""},
		{"lone tag", head + "x: ! 12\ny: [! 1, 2]\nz: & !\n", "error"},
		{"lone tag and anchor", head + "x: ! 12\ny: [! 1, 2]\nz: &a ! 3\n", "x: \"12\"\ny:\n  - \"1\"\n  - 2\nz: \"3\"\n"},
		{"verbatim tag", head + "x: !<tag:yaml.org,2002:int> 5\n", "x: \"5\"\n"},
		{"tag handle", "%TAG !e! tag:yaml.org,2002:\n---\n" + head + "x: !e!int 5\ny: é !\nz: {é: !!int \"7\"}\n", "x: \"5\"\n\"y\": é !\nz:\n  é: 7\n"},
		{"tag far out", head + "x: [" + strings.Repeat("é, ", 600) + "!!int \"7\", !foo 8]\n", "x:\n" + strings.Repeat("  - é\n", 600) + "  - 7\n  - \"8\"\n"},
		{"empty behind anchor", head + "x: &a\nz: *a\n", "x: \"\"\nz: \"\"\n"},
		{"empty behind tag", head + "x: !!str\nz: !foo\n", "x: \"\"\nz: \"\"\n"},
		{"tagged null is ~ or null", head + "x: !!null\n", "error"},
		{"tagged float is no .inf", head + "x: !!float .inf\n", "error"},
		{"tagged float", head + "x: !!float +inf\nz: !!float 1\n", "x: .inf\nz: 1.0\n"},
		{"signed nan", head + "x: '+nan'\n", "x: \"+nan\"\n"},
		{"control characters", head + "x: a\x1bb\nz: \"\x7f\x07\"\n", "x: a\x1bb\nz: \x7f\x07\n"},
		{"line breaks of YAML 1.1", head + "x: a\u0085b\nz: \"p\u2028q\u2029\"\n", "x: a\u0085b\nz: p\u2028q\u2029\n"},
		{"private characters stay", head + "x: \x01\U0010f001\nz: \"\\U0010F101\"\n", "x: \"\\u0001\U0010f001\"\nz: \U0010f101\n"},
		{"anchor of another document", "apiVersion: &v v1\nkind: Service\n---\napiVersion: *v\nkind: Service\n", "error"},
		{"nested as deep as serde_yaml goes", head + "x: " + strings.Repeat("[", 127) + strings.Repeat("]", 127) + "\n", "x:\n  " + strings.Repeat("- ", 126) + "[]\n"},
		{"nested deeper", head + "x: " + strings.Repeat("[", 128) + strings.Repeat("]", 128) + "\n", "error"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := input(t, tt.in, nil)
			if tt.want == "error" {
				refused(t, in)
				return
			}
			want := strings.ReplaceAll("---\n"+head+tt.want, "\"y\":", "y:")
			if diff := cmp.Diff(want, string(generate(t, in).YAML)); diff != "" {
				t.Errorf("written back (-want +got):\n%s", diff)
			}
		})
	}
}

// TestManyTagsOnOneLine must not take the square of the line's length: the test
// would not end.
func TestManyTagsOnOneLine(t *testing.T) {
	for _, item := range []string{"!a é, ", "&" + strings.Repeat("a", 40) + " !a b, "} {
		in := input(t, "apiVersion: v1\nkind: Service\nx: ["+strings.Repeat(item, 200_000)+"]\n", nil)
		if n := strings.Count(string(generate(t, in).YAML), "\n  - "); n != 200_000 {
			t.Errorf("%d items, want 200000", n)
		}
	}
}

const podOfOne = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n    image: i\n"

// argsAndEnv are those of the first regular container.
func argsAndEnv(t *testing.T, in policygen.Input) (args, env []string) {
	t.Helper()
	p := generate(t, in).Policies[0].Containers[1].OCI.Process
	return p.Args, p.Env
}

func TestEnvironmentCorners(t *testing.T) {
	const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	tests := []struct {
		name, yaml, patch string
		args, env         []string
	}{
		{
			"settings are not substituted", "    args: [$(E), $(G)]\n    env: [{name: G, value: v}]\n",
			`[{"op":"add","path":"/other_container/Process","value":{"Args":["$(G)"],"Env":["E=$(G)","G=v"]}}]`,
			[]string{"$(E)", "v", "$(G)"},
			[]string{path, "HOSTNAME=$(host-name)", "G=v", "E=$(G)"},
		},
		{
			"a name is not substituted", "    env: [{name: A, value: x}, {name: N$(A), value: $(A)}]\n", "",
			nil,
			[]string{path, "HOSTNAME=$(host-name)", "A=x", "N$(A)=x"},
		},
		{
			"an empty namespace is none", "    env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}]\n", "",
			nil,
			[]string{path, "HOSTNAME=$(host-name)", "A=$(sandbox-namespace)"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := input(t, strings.Replace(podOfOne, "name: p", "name: p, namespace: ''", 1)+tt.yaml, fakeImages{"i": fakeImage(t, `{}`)})
			in.Settings = settings(t, in.Profile, tt.patch)
			args, env := argsAndEnv(t, in)
			if diff := cmp.Diff(tt.args, args); diff != "" {
				t.Errorf("args (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.env, env); diff != "" {
				t.Errorf("env (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFirstObjectDecidesEnvFrom(t *testing.T) {
	yaml := podOfOne + "    envFrom: [{configMapRef: {name: m}}]\n" +
		"---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: m}}\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {a: b}}\n"
	if list := refused(t, input(t, yaml, fakeImages{"i": fakeImage(t, `{}`)})); !list.Only(policygen.Reference) {
		t.Errorf("problems %v, want one of a reference", list)
	}
}

func TestLists(t *testing.T) {
	object := "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {runtimeClassName: other, containers: [{name: c, image: i}]}}"
	list := func(items ...string) string {
		return "{apiVersion: v1, kind: List, items: [" + strings.Join(items, ", ") + "]}"
	}
	tests := []struct {
		name, yaml, profile string
		want                int // policies, -1 if refused
	}{
		{"items are not filtered", list(object, object), "kata-4.1", 2},
		{"objects are filtered", object, "kata-4.1", 0},
		{"list of a list of one", list(list(list(object)), object), "kata-4.1", 2},
		{"list of a list of two", list(list(object, object)), "kata-4.1", -1},
		{"list of a list of two, our own profile", list(list(object, object)), "retally", 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := withProfile(t, profile(t, tt.profile), tt.yaml, fakeImages{"i": fakeImage(t, `{}`)})
			in.RuntimeClasses = []string{"kata"}
			if tt.want < 0 {
				refused(t, in)
				return
			}
			if got := len(generate(t, in).Policies); got != tt.want {
				t.Errorf("%d policies, want %d", got, tt.want)
			}
		})
	}
}

func TestNullTemplateMetadata(t *testing.T) {
	yaml := "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {template: {metadata: ~, spec: {containers: [{name: c, image: i}]}}}}"
	images := fakeImages{"i": fakeImage(t, `{}`)}
	refused(t, withProfile(t, profile(t, "kata-4.1"), yaml, images))
	if out := generate(t, withProfile(t, profile(t, "retally"), yaml, images)); !strings.Contains(string(out.YAML), "    metadata:\n      annotations:\n") {
		t.Errorf("no annotation in\n%s", out.YAML)
	}
}

func TestConfigMapVolumeHasAName(t *testing.T) {
	yaml := strings.Replace(podOfOne, "spec:\n", "spec:\n  volumes: [{name: v, configMap: {items: []}}]\n", 1)
	if list := refused(t, input(t, yaml, fakeImages{"i": fakeImage(t, `{}`)})); !list.Only(policygen.MissingField) {
		t.Errorf("problems %v, want a missing field", list)
	}
}

// TestUserDatabaseCorners: a CR that ends the file is text, and a user without
// a name is a member of nothing.
func TestUserDatabaseCorners(t *testing.T) {
	tests := []struct {
		name, passwd, group string
		want                []uint32
	}{
		{"member", "u:x:5:6:::\r\n", "g:x:7:u\r\n", []uint32{0, 6, 7}},
		{"member with CR", "u:x:5:6:::\n", "g:x:7:u\r", []uint32{0, 6}},
		{"user without name", ":x:5:6:::\n", "g:x:7:\n", []uint32{0, 6}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img := fakeImage(t, `{}`, fakeLayer{files: map[string]string{"etc/passwd": tt.passwd, "etc/group": tt.group}})
			in := input(t, podOfOne+"    securityContext: {runAsUser: 5}\n", fakeImages{"i": img})
			if diff := cmp.Diff(tt.want, generate(t, in).Policies[0].Containers[1].OCI.Process.User.AdditionalGids); diff != "" {
				t.Errorf("groups (-want +got):\n%s", diff)
			}
		})
	}
}
