package check_test

import (
	"encoding/json"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/internal/policytest"
	"github.com/retally/retally/policygen/check"
	"github.com/retally/retally/policygen/internal/vectors"
	"github.com/retally/retally/policygen/rules"
)

const bundle = policytest.Bundle

// object is JSON that tests change by path.
type object = map[string]any

func committedData(t testing.TB, name string) []byte {
	t.Helper()
	data, err := fs.ReadFile(vectors.Committed(t), "cases/"+name+"/policy_data.0.json")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func requestFor(t testing.TB, data []byte, container int) object {
	t.Helper()
	request, err := policytest.Request(data, container)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// set changes the value at a path such as OCI.Process.Args.0; a nil value
// deletes it, and an index of - appends.
func set(t *testing.T, root any, path string, val any) {
	t.Helper()
	parts := strings.Split(path, "/")
	for i, p := range parts {
		last := i == len(parts)-1
		switch at := root.(type) {
		case object:
			if last {
				at[p] = val
			}
			root = at[p]
		case []any:
			n := slices.Index([]string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}, p)
			if n < 0 || n >= len(at) {
				t.Fatalf("no element %s of %s", p, path)
			}
			if last {
				at[n] = val
			}
			root = at[n]
		default:
			t.Fatalf("nothing at %s of %s", p, path)
		}
	}
}

func evaluate(t *testing.T, p *check.Policy, kind string, request object) *check.Decision {
	t.Helper()
	text, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	r, err := check.ParseRequest(text, kind)
	if err != nil {
		t.Fatal(err)
	}
	d, err := p.Evaluate(t.Context(), r.Kind, r.Input)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDenialNamesThePredicate changes one thing of an allowed request at a
// time and wants the check, the expected and the actual value named first.
func TestDenialNamesThePredicate(t *testing.T) {
	data := committedData(t, "kind-deployment")
	p, err := check.Parse("policy.rego", policyText(t, rules.Off, data))
	if err != nil {
		t.Fatal(err)
	}
	if d := evaluate(t, p, "CreateContainerRequest", requestFor(t, data, 1)); !d.Allowed {
		t.Fatalf("the unchanged request is denied: %+v", d)
	}
	tests := []struct {
		path   string
		val    any
		check  string
		actual string // part of the actual value
	}{
		{"OCI/Process/Args", []any{"sh", "-c", "id"}, "arguments", `"id"`},
		{"OCI/Process/Terminal", true, "terminal", "true"},
		{"OCI/Process/User/UID", 7, "user id", "7"},
		{"OCI/Process/User/GID", 7, "group id", "7"},
		{"OCI/Process/User/AdditionalGids", []any{0, 10, 99}, "additional groups", "99"},
		{"OCI/Process/Env/0", "PATH=/evil", "environment", "PATH=/evil"},
		{"OCI/Process/Env", []any{"LD_PRELOAD=/x"}, "environment", "LD_PRELOAD=/x"},
		{"OCI/Process/Cwd", "/tmp", "working directory", "/tmp"},
		{"OCI/Process/Capabilities/Effective", []any{"CAP_SYS_ADMIN"}, "capabilities", "CAP_SYS_ADMIN"},
		{"OCI/Process/NoNewPrivileges", true, "no new privileges", "true"},
		{"OCI/Root/Path", "/run/guest/" + bundle + "/other", "root path", "/other"},
		{"OCI/Root/Readonly", true, "read-only root", "true"},
		{"OCI/Version", "9.9.9", "oci version", "9.9.9"},
		{"OCI/Mounts/0/source", "/etc", "mounts", "/etc"},
		{"OCI/Mounts/0/options", []any{"rw"}, "mounts", "rw"},
		{"OCI/Mounts/1/destination", "/host", "mounts", "/host"},
		{"OCI/Linux/MaskedPaths", []any{}, "masked paths", "[]"},
		{"OCI/Linux/ReadonlyPaths", []any{}, "read-only paths", "[]"},
		{"OCI/Linux/Namespaces", []any{object{"Type": "ipc", "Path": ""}}, "namespaces", "ipc"},
		{"OCI/Linux/Sysctl", object{"kernel.core_pattern": "|/x"}, "sysctls", "|/x"},
		{"OCI/Linux/Devices", []any{object{"Type": "b", "Path": "/dev/sda"}}, "device files", "/dev/sda"},
		{"OCI/Annotations/io.kubernetes.cri.sandbox-name", "Other_1", "annotations", "Other_1"},
		{"OCI/Annotations/cdi.k8s.io~1vfio0", "nvidia.com/gpu=0", "annotations", "nvidia.com/gpu=0"},
		{"OCI/Annotations/io.kubernetes.cri.container-name", "c9", "container name", "c9"},
		{"OCI/Hooks", object{"Prestart": []any{}}, "hooks", "Prestart"},
		{"string_user", object{"uid": "root"}, "user by name", "root"},
		{"devices", []any{object{"id": "x", "type_": "blk", "vm_path": "", "container_path": "/dev/x", "options": []any{}}}, "devices", "/dev/x"},
		{"storages", []any{object{"driver": "virtio-fs", "driver_options": []any{}, "source": "evil", "fstype": "virtiofs", "options": []any{}, "mount_point": "/", "fs_group": nil, "shared": false}}, "storages", "evil"},
		{"sandbox_pidns", true, "sandbox pid namespace", "true"},
		{"OCI/Linux/RootfsPropagation", "rshared", "root propagation", "rshared"},
	}
	for _, tt := range tests {
		t.Run(tt.check+" "+tt.path, func(t *testing.T) {
			request := requestFor(t, data, 1)
			if oci, key, ok := strings.Cut(tt.path, "Annotations/"); ok {
				set(t, request, oci+"Annotations", merged(request["OCI"].(object)["Annotations"].(object), strings.ReplaceAll(key, "~1", "/"), tt.val))
			} else {
				set(t, request, tt.path, tt.val)
			}
			d := evaluate(t, p, "CreateContainerRequest", request)
			if d.Allowed || len(d.Reasons) == 0 {
				t.Fatalf("allowed %v with reasons %v, want a denial with a reason", d.Allowed, d.Reasons)
			}
			got := d.Reasons[0]
			if got.Container == 0 {
				t.Errorf("nearest candidate is the pause container, want the one that was meant")
			}
			if f := got.Failed[0]; f.Check != tt.check || !strings.Contains(string(f.Actual), tt.actual) {
				t.Errorf("first failing check %s with actual %s, want %s with %s", f.Check, f.Actual, tt.check, tt.actual)
			}
		})
	}
}

func merged(m object, key string, val any) object {
	out := object{key: val}
	for k, v := range m {
		if k != key {
			out[k] = v
		}
	}
	return out
}

// TestImageBinding holds what the data alone does not bind: the digest of the
// image and the source of a guest pull.
func TestImageBinding(t *testing.T) {
	data := committedData(t, "img-digest")
	good := requestFor(t, data, 1)["OCI"].(object)["Annotations"].(object)["io.kubernetes.cri.image-name"].(string)
	name, digest, ok := strings.Cut(good, "@")
	if !ok {
		t.Fatalf("image %s of the case has no digest", good)
	}
	other := "sha256:" + strings.Repeat("0", 64)
	pull := func(source string) []any {
		return []any{object{
			"driver": "image_guest_pull", "driver_options": []any{}, "source": source, "fstype": "overlay", "options": []any{},
			"mount_point": "/run/guest/" + bundle + "/rootfs", "fs_group": nil, "shared": false,
		}}
	}
	tests := []struct {
		name       string
		binding    rules.Binding
		annotation string
		storages   []any
		allowed    bool
	}{
		{"annotation, right digest", rules.Annotation, good, nil, true},
		{"annotation, other name, right digest", rules.Annotation, "mirror.test/x@" + digest, nil, true},
		{"annotation, other digest", rules.Annotation, name + "@" + other, nil, false},
		{"annotation, no digest", rules.Annotation, name, nil, false},
		{"annotation, right digest, pull of another", rules.Annotation, good, pull(name + "@" + other), false},
		{"guest pull, right digest", rules.GuestPull, good, pull("mirror.test/x@" + digest), true},
		{"guest pull, other digest", rules.GuestPull, good, pull(name + "@" + other), false},
		{"guest pull, by tag", rules.GuestPull, good, pull(name + ":latest"), false},
		{"guest pull, no pull", rules.GuestPull, good, nil, false},
		{"guest pull, two pulls", rules.GuestPull, good, append(pull(good), pull(name+"@"+other)...), false},
		{"off, other digest", rules.Off, name + "@" + other, pull(name + "@" + other), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := check.Parse("policy.rego", policyText(t, tt.binding, data))
			if err != nil {
				t.Fatal(err)
			}
			request := requestFor(t, data, 1)
			request["OCI"].(object)["Annotations"].(object)["io.kubernetes.cri.image-name"] = tt.annotation
			if tt.storages != nil {
				request["storages"] = tt.storages
			}
			d := evaluate(t, p, "CreateContainerRequest", request)
			if d.Allowed != tt.allowed {
				t.Fatalf("allowed %v, want %v: %+v", d.Allowed, tt.allowed, d)
			}
			if !tt.allowed && d.Reasons[0].Failed[0].Check != "image" {
				t.Errorf("denied by %s, want image", d.Reasons[0].Failed[0].Check)
			}
		})
	}
}

// TestForeignRules asks a policy whose rules are not ours: the decision is
// theirs, the explanation comes from the data.
func TestForeignRules(t *testing.T) {
	data := committedData(t, "kind-deployment")
	text := "package agent_policy\nimport rego.v1\ndefault CreateContainerRequest := false\ndefault StatsContainerRequest := true\npolicy_data := " + string(data)
	p, err := check.Parse("foreign.rego", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	request := requestFor(t, data, 1)
	if d := evaluate(t, p, "CreateContainerRequest", request); d.Allowed || d.Note == "" {
		t.Errorf("decision %+v, want a denial that is laid to the rules", d)
	}
	request["OCI"].(object)["Process"].(object)["Terminal"] = true
	if d := evaluate(t, p, "CreateContainerRequest", request); d.Allowed || len(d.Reasons) == 0 || d.Reasons[0].Failed[0].Check != "terminal" {
		t.Errorf("decision %+v, want a denial by terminal", d)
	}
	if d := evaluate(t, p, "StatsContainerRequest", object{}); !d.Allowed {
		t.Errorf("StatsContainerRequest denied: %+v", d)
	}
	if d := evaluate(t, p, "SetPolicyRequest", object{}); d.Allowed || !d.Undefined {
		t.Errorf("decision %+v, want undefined", d)
	}
}

func TestPolicyCannotReachOut(t *testing.T) {
	for _, call := range []string{
		`http.send({"method": "GET", "url": "http://localhost/"})`, `opa.runtime()`, `net.lookup_ip_addr("localhost")`, `time.now_ns()`,
	} {
		text := "package agent_policy\nimport rego.v1\nStatsContainerRequest if " + call + "\npolicy_data := {\"containers\": []}"
		if _, err := check.Parse("evil.rego", []byte(text)); err == nil || !strings.Contains(err.Error(), "compile policy") {
			t.Errorf("%s: error %v, want one of the compiler", call, err)
		}
	}
}

func TestParseRequest(t *testing.T) {
	inner := `{"container_id":"a\"b","OCI":{"Process":{"Args":["x \\ y"]}}}`
	once, _ := json.Marshal(inner)
	twice, _ := json.Marshal(string(once))
	tests := []struct {
		name, text, kind string
		wantKind         string
		wantErr          string
	}{
		{"plain", inner, "", "CreateContainerRequest", ""},
		{"envelope", `{"kind":"ExecProcessRequest","request":{"container_id":"a\"b"}}`, "", "ExecProcessRequest", ""},
		{"event", `Error: failed to create containerd task: "CreateContainerRequest is blocked by policy: ` + string(once) + `"`, "", "CreateContainerRequest", ""},
		{"event escaped twice", "rpc status: CreateContainerRequest: " + string(twice), "", "CreateContainerRequest", ""},
		{"kind given", `{"container_id":"a\"b"}`, "RemoveContainerRequest", "RemoveContainerRequest", ""},
		{"event with other objects", `Failed {x} {"a":1} {"details":{"code":7}}: CreateContainerRequest is blocked: ` + string(once), "", "CreateContainerRequest", ""},
		{"no object", "nothing here", "", "", "no JSON object"},
		{"no kind", `{"x":1}`, "", "", "no kind"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := check.ParseRequest([]byte(tt.text), tt.kind)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("error %v, want %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				ContainerID string `json:"container_id"`
			}
			if err := json.Unmarshal(r.Input, &got); err != nil {
				t.Fatal(err)
			}
			if r.Kind != tt.wantKind || got.ContainerID != `a"b` {
				t.Errorf("kind %s, container %q; want %s, %q", r.Kind, got.ContainerID, tt.wantKind, `a"b`)
			}
		})
	}
}
