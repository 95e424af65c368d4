package deployment_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/yamldoc"
)

func template(kind, apiVersion, ns, meta string) string {
	inner := "metadata: {" + meta + "}\nspec:\n  runtimeClassName: contrast-cc\n  containers:\n  - {name: c, image: '" + pinA + "'}\n"
	head := "apiVersion: " + apiVersion + "\nkind: " + kind + "\nmetadata: {name: w" + ns + ", annotations: {contrast.edgeless.systems/workload-secret-id: own}}\n"
	switch kind {
	case "Pod":
		return strings.Replace(head, "annotations: {contrast.edgeless.systems/workload-secret-id: own}", meta, 1) + strings.TrimPrefix(inner, "metadata: {"+meta+"}\n")
	case "CronJob":
		return head + "spec:\n  jobTemplate:\n    spec:\n      template:\n" + indent(inner, 8)
	}
	return head + "spec:\n  template:\n" + indent(inner, 4)
}

func TestWorkloadKinds(t *testing.T) {
	for _, tt := range []struct{ kind, apiVersion, ns, meta, secretID string }{
		{"CronJob", "batch/v1", ", namespace: ns", "", "batch/v1/CronJob/ns/w"},
		{"DaemonSet", "apps/v1", "", "", "apps/v1/DaemonSet/default/w"},
		{"Deployment", "apps/v1", "", "", "apps/v1/Deployment/default/w"},
		{"Job", "batch/v1", "", "", "batch/v1/Job/default/w"},
		{"Pod", "v1", "", "", "core/v1/Pod/default/w"},
		{"ReplicaSet", "apps/v1", "", "", "apps/v1/ReplicaSet/default/w"},
		{"ReplicationController", "v1", "", "", "core/v1/ReplicationController/default/w"},
		{"StatefulSet", "apps/v1", "", "", "apps/v1/StatefulSet/default/w"},
		{"StatefulSet", "apps/v1", "", "annotations: {contrast.edgeless.systems/workload-secret-id: mine}", "mine"},
		{"Pod", "v1", "", "annotations: {contrast.edgeless.systems/workload-secret-id: mine}", "mine"},
	} {
		y := template(tt.kind, tt.apiVersion, tt.ns, tt.meta)
		for _, y := range []string{y, "---\n---\n" + y, "apiVersion: v1\nkind: List\nitems:\n- " + strings.TrimPrefix(indent(y, 2), "  ")} {
			d := parse(t, y)
			if len(d.Workloads) != 1 || len(d.Problems()) != 0 {
				t.Fatalf("%s: got %d workloads, problems %v\n%s", tt.kind, len(d.Workloads), d.Problems(), y)
			}
			w := d.Workloads[0]
			if w.SecretID != tt.secretID || !w.Confidential || w.Platform != "" || w.Coordinator {
				t.Errorf("%s: got %+v, want secret ID %s", tt.kind, w, tt.secretID)
			}
			if diff := cmp.Diff([]string{"w", "*"}, w.SANs); diff != "" {
				t.Errorf("SANs (-want +got):\n%s", diff)
			}
		}
	}
}

func TestTypedList(t *testing.T) {
	d := parse(t, "apiVersion: apps/v1\nkind: DeploymentList\nitems:\n- metadata: {name: w}\n  spec:\n    template:\n      spec:\n        runtimeClassName: contrast-cc\n        containers: [{name: c, image: '"+pinA+"'}]\n")
	if len(d.Workloads) != 1 || d.Workloads[0].SecretID != "apps/v1/Deployment/default/w" || len(d.Problems()) != 0 {
		t.Errorf("got %+v, problems %v", d.Workloads, d.Problems())
	}
}

func TestCoordinator(t *testing.T) {
	role := "{contrast.edgeless.systems/pod-role: coordinator}"
	for _, tt := range []struct {
		kind, meta string
		want       bool
		problems   []string
	}{
		{"StatefulSet", "annotations: " + role, true, nil},
		{"StatefulSet", "labels: " + role, true, nil},
		{"Deployment", "labels: " + role, false, []string{"1 coordinator"}},
		{"StatefulSet", "labels: {contrast.edgeless.systems/pod-role: other}", false, []string{"1 coordinator"}},
	} {
		d := parse(t, template(tt.kind, "apps/v1", "", tt.meta))
		if got := d.Workloads[0].Coordinator; got != tt.want {
			t.Errorf("%s %s: got %v, want %v", tt.kind, tt.meta, got, tt.want)
		}
		if diff := cmp.Diff(tt.problems, codes(d)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.meta, diff)
		}
	}
}

func TestRuntimeClass(t *testing.T) {
	for _, tt := range []struct {
		class, platform, hash string
		confidential          bool
		problems              []string
	}{
		{"contrast-cc", "", "", true, nil},
		{"contrast-cc-metal-qemu-tdx", "metal-qemu-tdx", "", true, nil},
		{"contrast-cc-metal-qemu-snp-gpu-0a1b2c3d", "metal-qemu-snp-gpu", "0a1b2c3d", true, nil},
		{"contrast-ccx", "", "", true, []string{"6 runtime-class"}},
		{"contrast-cc-", "", "", true, []string{"6 runtime-class"}},
		{"contrast-cc-Metal", "", "", true, []string{"6 runtime-class"}},
		{"contrast-cc-metal-", "", "", true, []string{"6 runtime-class"}},
		{"kata-cc-isolation", "", "", false, []string{"6 not-confidential"}},
		{"contrast-insecure-metal-qemu-tdx", "", "", false, []string{"6 not-confidential"}},
		{"''", "", "", false, []string{"6 not-confidential"}},
	} {
		d := parse(t, strings.Replace(pod("image: "+pinA+"\n"), "contrast-cc", tt.class, 1))
		w := d.Workloads[0]
		if w.Platform != tt.platform || w.HandlerHash != tt.hash || w.Confidential != tt.confidential {
			t.Errorf("%s: got %q %q %v, want %q %q %v", tt.class, w.Platform, w.HandlerHash, w.Confidential, tt.platform, tt.hash, tt.confidential)
		}
		if diff := cmp.Diff(tt.problems, codes(d)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.class, diff)
		}
	}
}

func TestContainerOrder(t *testing.T) {
	d := parse(t, pod("image: "+pinA+"\n")+"  ephemeralContainers:\n  - {name: e, image: '"+pinA+"'}\n  initContainers:\n  - {name: i, image: '"+pinA+"', command: [x, y], args: [\"a\\nb\"]}\n")
	var got []string
	for _, c := range d.Workloads[0].Containers {
		got = append(got, fmt.Sprint(c.Name, c.Init, c.Ephemeral, c.Line))
	}
	want := []string{"itrue false 13", "cfalse false 8", "efalse true 11"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("containers (-want +got):\n%s", diff)
	}
	if c := d.Workloads[0].Containers[0]; len(c.Command) != 2 || c.Args[0].Text != "a\nb" || c.Args[0].Line != 13 {
		t.Errorf("got command %v, args %v", c.Command, c.Args)
	}
}

func TestProblems(t *testing.T) {
	rollout := "apiVersion: example.com/v1\nkind: Rollout\nmetadata: {name: r}\nspec:\n  template:\n    spec:\n      containers:\n      - {name: c, image: x}\n"
	for _, tt := range []struct {
		name, yaml string
		want       []string
	}{
		{"unpinned", pod("image: example.com/a:v1\n"), []string{"9 image-unpinned"}},
		{"no image", pod("args: []\n"), []string{"8 image-missing"}},
		{"malformed", pod("image: Example/a\n"), []string{"9 image-unpinned"}},
		{"malformed digest", pod("image: a@sha256:abc\n"), []string{"9 image-malformed"}},
		{"unknown kind", rollout, []string{"1 unknown-kind", "8 image-unpinned"}},
		{"foreign group", strings.Replace(template("Deployment", "apps/v1", "", ""), "apps/v1", "example.com/v1", 1), []string{"1 unknown-kind"}},
		{"duplicate", pod("image: "+pinA+"\n") + "---\n" + pod("image: "+pinA+"\n"), []string{"11 duplicate-object"}},
		{"two digests", pod("image: a:v1@sha256:"+hexA+"\n") + "  - {name: d, image: 'docker.io/library/a:v1@sha256:" + hexB + "'}\n", []string{"10 image-two-digests"}},
		{"two tags", pod("image: a:v1@sha256:"+hexA+"\n") + "  - {name: d, image: 'a:v2@sha256:" + hexB + "'}\n", nil},
		{"not an object", "- a\n", []string{"1 shape"}},
		{"no kind", "metadata: {name: a}\n", []string{"1 shape", "1 unknown-kind"}},
		{"no name", "kind: Service\napiVersion: v1\n", []string{"1 shape"}},
		{"no version", "kind: Service\nmetadata: {name: a}\n", []string{"1 shape", "1 unknown-kind"}},
		{"no template", "kind: Deployment\napiVersion: apps/v1\nmetadata: {name: a}\n", []string{"1 shape"}},
		{"containers no list", "kind: Pod\napiVersion: v1\nmetadata: {name: a}\nspec:\n  runtimeClassName: contrast-cc\n  containers: {}\n", []string{"5 shape", "6 shape"}},
		{"number as arg", pod("image: " + pinA + "\nargs:\n- 8080\n"), []string{"11 shape"}},
		{"args no list", pod("image: " + pinA + "\nargs: x\n"), []string{"10 shape"}},
		{"same container name", pod("image: "+pinA+"\n") + "  - {name: c, image: '" + pinA + "'}\n", []string{"10 shape"}},
		{"label no string", strings.Replace(pod("image: "+pinA+"\n"), "name: p", "name: p\n  labels: {a: 1}", 1), []string{"5 shape"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.yaml == rollout {
				if n := len(parse(t, tt.yaml).Workloads); n != 0 {
					t.Errorf("got %d workloads, want none", n)
				}
			}
			if diff := cmp.Diff(tt.want, codes(parse(t, tt.yaml))); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseNotYAML(t *testing.T) {
	_, err := deployment.Parse("f.yaml", []byte("a: [\n"))
	var e *yamldoc.Error
	if !errors.As(err, &e) || e.File != "f.yaml" {
		t.Errorf("got %v, want a yamldoc.Error of f.yaml", err)
	}
}

func TestParseImageRef(t *testing.T) {
	dig := "@sha256:" + hexA
	for _, tt := range []struct{ in, registry, repository, name, tag string }{
		{"a", "docker.io", "library/a", "a", ""},
		{"a/b", "docker.io", "a/b", "b", ""},
		{"localhost/a", "localhost", "a", "a", ""},
		{"localhost:5000/a/b:v1" + dig, "localhost:5000", "a/b", "b", "v1"},
		{"Host/a", "Host", "a", "a", ""},
		{"ghcr.io/x/y-z__w.v:1.0_a-B" + dig, "ghcr.io", "x/y-z__w.v", "y-z__w.v", "1.0_a-B"},
		{"index.docker.io/a", "docker.io", "library/a", "a", ""},
		{"[::1]:5000/a", "[::1]:5000", "a", "a", ""},
		{"a---b@sha512:" + strings.Repeat("c", 128), "docker.io", "library/a---b", "a---b", ""},
		{"a.b:80/c", "a.b:80", "c", "c", ""},
	} {
		r, err := deployment.ParseImageRef(tt.in)
		if err != nil || r.Registry != tt.registry || r.Repository != tt.repository || r.Name != tt.name || r.Tag != tt.tag || strings.Contains(tt.in, "@") == r.Digest.IsZero() {
			t.Errorf("%s: got %+v, %v", tt.in, r, err)
		}
	}
	for _, tt := range []struct {
		in, part string
		offset   int
	}{
		{"", "name", 0},
		{"A", "name", 0},
		{"a//b", "name", 2},
		{"a/", "name", 2},
		{"/a", "name", 0},
		{"-a", "name", 0},
		{"a-", "name", 0},
		{"a..b", "name", 0},
		{"a_-b", "name", 0},
		{"a___b", "name", 0},
		{"a:", "tag", 2},
		{"a:-x", "tag", 2},
		{"a:" + strings.Repeat("x", 129), "tag", 2},
		{"a:b:c", "name", 0},
		{"h.x:y/a", "registry", 0},
		{"h..x/a", "registry", 0},
		{"-h.x/a", "registry", 0},
		{"h.x:/a", "registry", 0},
		{"a@", "digest", 2},
		{"a@sha256:" + hexA[1:], "digest", 2},
		{"a@sha256:" + strings.ToUpper(hexA), "digest", 2},
		{"a@sha1:" + hexA[:40], "digest", 2},
		{"a@sha256:" + hexA + "@sha256:" + hexA, "digest", 2},
		{"a b", "name", 0},
		{"a:b c", "tag", 2},
		{hexA, "name", 0},
		{"x/" + strings.Repeat("a", 255), "name", 0},
		{"[::1/a", "registry", 0},
		{"[zz.]/a", "registry", 0},
	} {
		_, err := deployment.ParseImageRef(tt.in)
		var e *deployment.RefError
		if !errors.As(err, &e) || e.Part != tt.part || e.Offset != tt.offset {
			t.Errorf("%q: got %v, want an error in %s at %d", tt.in, err, tt.part, tt.offset)
		}
	}
}

func TestImagePlace(t *testing.T) {
	for image, want := range map[string]string{
		"image: a@sha256:abc\n":        "9:14",
		"image: 'a@sha256:abc'\n":      "9:15",
		"image: &x \"a@sha256:abc\"\n": "9:18",
		"image:\n  a@sha256:abc # é\n": "10:9",
	} {
		p := parse(t, pod(image)).Problems()
		if len(p) != 1 || fmt.Sprintf("%d:%d", p[0].Line, p[0].Column) != want {
			t.Errorf("%q: got %v, want one problem at %s", image, p, want)
		}
	}
}

// Line numbers hold with every line break that YAML knows and kubectl agrees on.
func TestLineBreaks(t *testing.T) {
	for _, br := range []string{"\n", "\r\n", "\u0085", "\u2028"} {
		y := strings.ReplaceAll(pod("image: 'a@sha256:abc'\n"), "\n", br)
		if p := parse(t, y).Problems(); len(p) != 1 || p[0].Line != 9 || p[0].Column != 15 {
			t.Errorf("%q: got %v, want one problem at 9:15", br, p)
		}
	}
}

func TestLookup(t *testing.T) {
	d := parse(t, "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: n, labels: {a.b/c: x}}\nspec: {ports: [{port: 1}, {port: 2}]}\n---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n  namespace: m\n")
	for _, tt := range []struct {
		kind, name, field, want string
		line                    int
		err                     string
	}{
		{"Service", "s", "metadata.namespace", "n", 3, ""},
		{"Secret", "s", ".metadata.namespace", "m", 10, ""},
		{"any", "s", `metadata.labels["a.b/c"]`, "x", 3, ""},
		{"", "s", `metadata.labels['a.b/c']`, "x", 3, ""},
		{"", "s", `.metadata.labels."a.b/c"`, "x", 3, ""},
		{"any", "s", "spec.ports[1].port", "2", 4, ""},
		{"any", "s", "metadata.name", "s", 3, ""},
		{"any", "s", "metadata.namespace", "", 0, `"n" on line 3, but "m" on line 10`},
		{"any", "t", "metadata.name", "", 0, `no such object (there is "s")`},
		{"Pod", "s", "metadata.name", "", 0, "no such object"},
		{"any", "s", "metadata.nix", "", 0, "has no such field"},
		{"any", "s", "spec.ports[2].port", "", 0, "has no such field"},
		{"any", "s", "spec.ports", "", 0, "no single value"},
		{"any", "s", "", "", 0, "bad field path"},
		{"any", "s", "a..b", "", 0, "empty key"},
		{"any", "s", "a[x]", "", 0, "want [\"key\"]"},
		{"any", "s", `a["x`, "", 0, "without its end"},
		{"any", "s", "a[0]b", "", 0, "want a dot"},
		{"any", "s", "a.", "", 0, "empty key"},
	} {
		got, line, err := d.Lookup(tt.kind, tt.name, tt.field)
		if got != tt.want || line != tt.line || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("Lookup(%s %s %s): got %q, %d, %v, want %q, %d, %q", tt.kind, tt.name, tt.field, got, line, err, tt.want, tt.line, tt.err)
		}
		var e *deployment.LookupError
		if err != nil && !errors.As(err, &e) {
			t.Errorf("got %T, want *LookupError", err)
		}
	}
}
