package contrast_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/deployment/contrast"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/profiles"
)

const digestText = "@sha256:0000000000000000000000000000000000000000000000000000000000000001"

// release is a built-in release whose images are all known.
func release(t testing.TB, version string, changes ...string) *contrast.Release {
	t.Helper()
	name, data, ok := profiles.Contrast(version)
	if !ok || name != version {
		t.Fatalf("no release %s, got %q", version, name)
	}
	text := string(data)
	for _, image := range []string{"initializer", "service-mesh-proxy"} {
		text = strings.Replace(text, "{from: ghcr.io/edgelesssys/contrast/"+image+":latest,", "{from: ghcr.io/edgelesssys/contrast/"+image+":latest, to: \"ghcr.io/edgelesssys/contrast/"+image+":v1"+digestText+"\",", 1)
	}
	for i := 0; i+1 < len(changes); i += 2 {
		if !strings.Contains(text, changes[i]) {
			t.Fatalf("release has no %q", changes[i])
		}
		text = strings.Replace(text, changes[i], changes[i+1], 1)
	}
	r, err := contrast.ParseRelease(name, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func parse(t testing.TB, text string) *deployment.Deployment {
	t.Helper()
	d, err := deployment.Parse("d.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// blocks stands for the ID blocks of every SNP machine.
func blocks(p contrast.Platform, n int) (map[string]string, []contrast.Missing) {
	return map[string]string{"io.katacontainers.config.hypervisor.snp_id_block_Genoa": fmt.Sprintf("%s/%d", p.Name, n)}, nil
}

func change(t testing.TB, text string, r *contrast.Release, o contrast.Options) *contrast.Result {
	t.Helper()
	if o.Blocks == nil {
		o.Blocks = blocks
	}
	got, err := contrast.Change(parse(t, text), r, o)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// deploymentOf is a Deployment with one container; more goes below its pod spec,
// meta below the template.
func deploymentOf(name, class, meta, more string) string {
	return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: " + name + ", namespace: ns}\nspec:\n  template:\n" + meta +
		"    spec:\n      runtimeClassName: " + class + "\n      containers:\n      - {name: app, image: app" + digestText + "}\n" + more
}

func annotated(pairs string) string { return "    metadata:\n      annotations: {" + pairs + "}\n" }

// podSpec reads the changed pod of the first workload.
func podSpec(t testing.TB, r *contrast.Result) (spec, annotations map[string]any) {
	t.Helper()
	var o struct {
		Spec struct {
			Template struct {
				Metadata struct{ Annotations map[string]any }
				Spec     map[string]any
			}
		}
	}
	if err := yaml.Unmarshal(r.YAML, &o); err != nil {
		t.Fatal(err)
	}
	return o.Spec.Template.Spec, o.Spec.Template.Metadata.Annotations
}

func names(list any) string {
	var out []string
	l, _ := list.([]any)
	for _, e := range l {
		out = append(out, fmt.Sprint(e.(map[string]any)["name"]))
	}
	return strings.Join(out, " ")
}

func missing(w contrast.Workload) string {
	var out []string
	for _, m := range w.Missing {
		out = append(out, m.What)
	}
	return strings.Join(out, "; ")
}

const snp = "contrast-cc-metal-qemu-snp-gpu"

// What a deployment brings along must neither stand for what Contrast adds nor
// keep it away, but for the one annotation that Contrast itself obeys.
func TestHostileTemplates(t *testing.T) {
	r := release(t, "v1.20.0")
	for _, tt := range []struct{ name, meta, more, inits, image string }{
		{"plain", "", "", "contrast-initializer", "initializer:v1"},
		{"skipped", annotated(`contrast.edgeless.systems/skip-initializer: "true"`), "", "", ""},
		{"skipped, but not exactly", annotated(`contrast.edgeless.systems/skip-initializer: "True"`), "", "contrast-initializer", "initializer:v1"},
		{"skipped on the object", "", "", "contrast-initializer", "initializer:v1"},
		{"own initializer", "", "      initContainers:\n      - {name: contrast-initializer, image: evil" + digestText + "}\n      - {name: x, image: x" + digestText + "}\n", "contrast-initializer x", "initializer:v1"},
		{"own initializer last, twice", "", "      initContainers:\n      - {name: x, image: x" + digestText + "}\n      - {name: contrast-initializer, image: evil" + digestText + "}\n", "contrast-initializer x", "initializer:v1"},
		{"mesh", annotated(`contrast.edgeless.systems/servicemesh-ingress: ""`), "", "contrast-initializer contrast-service-mesh", "initializer:v1"},
		{"mesh by null", annotated(`contrast.edgeless.systems/servicemesh-egress: null`), "", "contrast-initializer contrast-service-mesh", "initializer:v1"},
		{"own mesh", annotated(`contrast.edgeless.systems/servicemesh-ingress: a`), "      initContainers:\n      - {name: contrast-service-mesh, image: evil" + digestText + "}\n      - {name: x, image: x" + digestText + "}\n", "contrast-initializer x contrast-service-mesh", "initializer:v1"},
		{"role of a Deployment", annotated(`contrast.edgeless.systems/pod-role: coordinator`), "", "contrast-initializer", "initializer:v1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := deploymentOf("web", snp, tt.meta, tt.more)
			if tt.name == "skipped on the object" {
				text = strings.Replace(text, "namespace: ns}", "namespace: ns, annotations: {contrast.edgeless.systems/skip-initializer: \"true\"}}", 1)
			}
			got := change(t, text, r, contrast.Options{})
			spec, _ := podSpec(t, got)
			if n := names(spec["initContainers"]); n != tt.inits {
				t.Errorf("init containers: got %q, want %q", n, tt.inits)
			}
			if tt.image != "" && !strings.Contains(fmt.Sprint(spec["initContainers"].([]any)[0].(map[string]any)["image"]), tt.image) {
				t.Errorf("first init container: got %v, want %s", spec["initContainers"].([]any)[0], tt.image)
			}
			if m := missing(got.Workloads[0]); m != "" {
				t.Errorf("missing: got %q, want nothing", m)
			}
		})
	}
}

// An annotation with an ID block that the deployment brings along is replaced;
// where the blocks are not known it stays out of every policy, because the
// workload has none.
func TestOwnIDBlocks(t *testing.T) {
	const own = "io.katacontainers.config.hypervisor.snp_id_block_Genoa"
	text := deploymentOf("web", snp, annotated(own+": evil, a: b"), "")
	r := release(t, "v1.20.0")
	got := change(t, text, r, contrast.Options{})
	if _, a := podSpec(t, got); a[own] != "Metal-QEMU-SNP-GPU/1" || a["a"] != "b" {
		t.Errorf("annotations: got %v", a)
	}
	got = change(t, text, r, contrast.Options{Blocks: func(contrast.Platform, int) (map[string]string, []contrast.Missing) {
		return map[string]string{own: "half"}, []contrast.Missing{{What: "the digest"}}
	}})
	if m := missing(got.Workloads[0]); m != "the digest" {
		t.Errorf("missing: got %q, want the digest", m)
	}
	got, err := contrast.Change(parse(t, text), r, contrast.Options{})
	if err != nil || missing(got.Workloads[0]) != "the launch digests of Metal-QEMU-SNP-GPU for 1 vCPUs" {
		t.Errorf("without blocks: got %v, %v", got, err)
	}
}

func TestRuntimeClasses(t *testing.T) {
	r := release(t, "v1.20.0")
	for _, tt := range []struct{ class, def, platform, missing string }{
		{snp, "", "Metal-QEMU-SNP-GPU", ""},
		{snp + "-0123abcd", "", "Metal-QEMU-SNP-GPU", ""},
		{"contrast-cc-metal-qemu-tdx", "", "Metal-QEMU-TDX", ""},
		{"contrast-cc", "metal-qemu-snp", "Metal-QEMU-SNP", ""},
		{"contrast-cc", "", "", "the platform of runtime class contrast-cc"},
		{"contrast-cc", "nix", "", `what platform "nix" is`},
		{"contrast-cc-aks-clh-snp", "metal-qemu-snp", "", `what platform "aks-clh-snp" is`},
		{"contrast-ccfoo", "metal-qemu-snp", "", `the platform of runtime class "contrast-ccfoo"`},
		{"contrast-cc-", "metal-qemu-snp", "", `the platform of runtime class "contrast-cc-"`},
	} {
		got := change(t, deploymentOf("web", tt.class, "", ""), r, contrast.Options{DefaultPlatform: tt.def})
		if w := got.Workloads[0]; w.Platform.Name != tt.platform || missing(w) != tt.missing {
			t.Errorf("%s by default %q: got %q, missing %q, want %q, %q", tt.class, tt.def, w.Platform.Name, missing(w), tt.platform, tt.missing)
		}
	}
	for _, class := range []string{"kata-cc-isolation", "contrast-insecure-metal-qemu-snp", "Contrast-cc", "kata"} {
		if _, err := contrast.Change(parse(t, deploymentOf("web", class, "", "")), r, contrast.Options{}); err == nil {
			t.Errorf("%s: want an error, nothing is in scope", class)
		}
	}
}

// Values that could be of either of two workloads are of neither.
func TestAlike(t *testing.T) {
	r := release(t, "v1.20.0")
	a, b := deploymentOf("a", snp, "", ""), deploymentOf("b", snp, annotated("contrast.edgeless.systems/workload-secret-id: apps/v1/Deployment/ns/a"), "")
	for name, text := range map[string]string{"same object": a + "---\n" + a, "borrowed identity": a + "---\n" + b, "borrowed under another group": a + "---\n" + strings.Replace(b, "id: apps/v1", "id: x/v9", 1), "same identity": b + "---\n" + strings.Replace(b, "name: b", "name: c", 1)} {
		got := change(t, text, r, contrast.Options{})
		for _, w := range got.Workloads {
			if !strings.Contains(missing(w), "which of 2 workloads") {
				t.Errorf("%s: %s: missing %q, want which of 2 workloads", name, w.ID(), missing(w))
			}
		}
	}
	got := change(t, "apiVersion: v1\nkind: List\nitems:\n- "+strings.ReplaceAll(strings.TrimSpace(a), "\n", "\n  ")+"\n", r, contrast.Options{})
	if m := missing(got.Workloads[0]); !strings.Contains(m, "List") {
		t.Errorf("in a List: missing %q, want how it is read", m)
	}
}

func TestMountsAndVolumes(t *testing.T) {
	more := "      initContainers:\n      - {name: x, image: x" + digestText + ", volumeMounts: [{name: contrast-secrets, mountPath: /evil}, {name: v, mountPath: /v}]}\n      volumes: [{name: v, emptyDir: {}}]\n"
	spec, _ := podSpec(t, change(t, deploymentOf("web", snp, "", more), release(t, "v1.20.0"), contrast.Options{}))
	x := spec["initContainers"].([]any)[1].(map[string]any)
	if got := fmt.Sprint(x["volumeMounts"]); got != "[map[mountPath:/v name:v] map[mountPath:/contrast name:contrast-secrets]]" {
		t.Errorf("mounts of an init container: %s", got)
	}
	if got := fmt.Sprint(spec["volumes"]); got != "[map[emptyDir:map[] name:v] map[emptyDir:map[medium:Memory] name:contrast-secrets]]" {
		t.Errorf("volumes: %s", got)
	}
	init := fmt.Sprint(spec["initContainers"].([]any)[0])
	if want := "env:[map[name:COORDINATOR_HOST value:coordinator-ready.default] map[name:CONTRAST_SERVICE_MESH_DISABLED value:true]]"; !strings.Contains(init, want) {
		t.Errorf("initializer: got %s, want %s", init, want)
	}
	spec, _ = podSpec(t, change(t, deploymentOf("web", snp, "", more), release(t, "v1.20.0", `mutations: {value: "current"`, `mutations: {value: "early"`), contrast.Options{}))
	if got := fmt.Sprint(spec["initContainers"].([]any)[1].(map[string]any)["volumeMounts"]); !strings.Contains(got, "/evil") {
		t.Errorf("early: mounts of an init container: %s", got)
	}
	_, err := contrast.Change(parse(t, deploymentOf("web", snp, "", "      volumes: [{name: contrast-secrets, hostPath: {path: /}}]\n")), release(t, "v1.20.0"), contrast.Options{})
	if err == nil || !strings.Contains(err.Error(), "must be an emptyDir") {
		t.Errorf("host path for secrets: got %v", err)
	}
}

func TestSecurePV(t *testing.T) {
	pv := func(text string) string { return annotated(`contrast.edgeless.systems/secure-pv: "` + text + `"`) }
	claim := "      volumes: [{name: d, persistentVolumeClaim: {claimName: c}}, {name: e, emptyDir: {}}, {name: h, hostPath: {path: /}}]\n"
	for text, want := range map[string]string{"d:s": "", "d:e": "", "d": "want DEVICE:MOUNT", "d:s:t": "want DEVICE:MOUNT", "e:s": "must be of a claim", "nix:s": "is not there", "d:h": "must be an emptyDir"} {
		got, err := contrast.Change(parse(t, deploymentOf("web", snp, pv(text), claim)), release(t, "v1.20.0"), contrast.Options{Blocks: blocks})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
		if err == nil {
			spec, _ := podSpec(t, got)
			init := fmt.Sprint(spec["initContainers"].([]any)[0])
			for _, part := range []string{"CRYPTSETUP_DEVICE value:/dev/csi0", "securityContext:map[privileged:true]", "memory:100Mi", "mountPropagation:Bidirectional", "restartPolicy:Always"} {
				if !strings.Contains(init, part) {
					t.Errorf("%s: initializer lacks %q: %s", text, part, init)
				}
			}
		}
	}
}

func TestImages(t *testing.T) {
	r := release(t, "v1.20.0")
	latest := strings.Replace(deploymentOf("web", snp, "", ""), "image: app"+digestText, "image: \"ghcr.io/edgelesssys/contrast/coordinator:latest\"", 1)
	spec, _ := podSpec(t, change(t, latest, r, contrast.Options{}))
	if got := fmt.Sprint(spec["containers"]); !strings.Contains(got, "coordinator:v1.20.0@sha256:2a51486182d76fee") {
		t.Errorf("containers: %s", got)
	}
	// What the release would replace by something unknown is not computed.
	name, data, _ := profiles.Contrast("v1.20.0")
	own, err := contrast.ParseRelease(name, data)
	if err != nil {
		t.Fatal(err)
	}
	got := change(t, deploymentOf("web", snp, "", ""), own, contrast.Options{})
	if m := missing(got.Workloads[0]); !strings.Contains(m, "contrast/initializer:latest in Contrast v1.20.0") {
		t.Errorf("missing: %q", m)
	}
	got = change(t, strings.Replace(latest, "coordinator:latest", "debugshell:latest", 1), r, contrast.Options{})
	if m := missing(got.Workloads[0]); !strings.Contains(m, "debugshell:latest") {
		t.Errorf("missing: %q", m)
	}
}

func TestCPUs(t *testing.T) {
	r, limits := release(t, "v1.20.0"), release(t, "v1.20.0", `vcpus: {value: "max"`, `vcpus: {value: "limits"`)
	of := func(app, more string) string {
		return strings.Replace(deploymentOf("web", snp, "", more), digestText+"}", digestText+", resources: "+app+"}", 1)
	}
	for _, tt := range []struct {
		name, text string
		max, limit int
	}{
		{"none", of("{}", ""), 1, 1},
		{"a request", of("{requests: {cpu: 500m}}", ""), 2, 1},
		{"a limit", of("{limits: {cpu: 2}}", ""), 3, 3},
		{"both", of("{requests: {cpu: 4}, limits: {cpu: 1001m}}", ""), 5, 3},
		{"fraction, rounded up", of(`{limits: {cpu: "0.0001"}}`, ""), 2, 2},
		{"sidecar", of("{limits: {cpu: 1}}", "      initContainers: [{name: s, image: x, restartPolicy: Always, resources: {limits: {cpu: 1}}}]\n"), 3, 3},
		{"init", of("{limits: {cpu: 1}}", "      initContainers: [{name: s, image: x, resources: {limits: {cpu: 3}}}]\n"), 4, 4},
		{"pod", of("{limits: {cpu: 1}}", "      resources: {limits: {cpu: 7}}\n"), 8, 8},
		{"1e1", of(`{limits: {cpu: "1e1"}}`, ""), 11, 11},
	} {
		for i, rel := range []*contrast.Release{r, limits} {
			if got := change(t, tt.text, rel, contrast.Options{}).Workloads[0]; got.VCPUs != []int{tt.max, tt.limit}[i] {
				t.Errorf("%s: got %d, want %d (%s)", tt.name, got.VCPUs, []int{tt.max, tt.limit}[i], missing(got))
			}
		}
	}
	for _, bad := range []string{`"-1"`, "x", `"1 "`, "1e99", `"9999999999999999999999"`, "[1]", `""`} {
		if m := missing(change(t, of("{limits: {cpu: "+bad+"}}", ""), r, contrast.Options{}).Workloads[0]); !strings.Contains(m, "number of vCPUs") {
			t.Errorf("cpu %s: missing %q, want the number of vCPUs", bad, m)
		}
	}
}

// The real deployments are changed whole, and what they hold but for the changes
// stays: the reader finds the same workloads, images but one, and annotations.
func TestReleases(t *testing.T) {
	dir := testenv.Vectors(t, "published/privatemode/deployments")
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d := parse(t, string(data))
		got := change(t, string(data), release(t, "v1.20.0"), contrast.Options{DefaultPlatform: "metal-qemu-snp-gpu"})
		after := parse(t, string(got.YAML))
		if len(after.Workloads) != len(d.Workloads) || len(after.Objects) != len(d.Objects) {
			t.Fatalf("%s: got %d workloads of %d objects, want %d of %d", file, len(after.Workloads), len(after.Objects), len(d.Workloads), len(d.Objects))
		}
		for i, w := range after.Workloads {
			was := d.Workloads[i]
			if w.SecretID != was.SecretID || !slices.Equal(w.SANs, was.SANs) || w.Coordinator != was.Coordinator {
				t.Errorf("%s: %s is not %s", file, w.ID(), was.ID())
			}
			var more int
			for _, c := range w.Containers {
				if strings.Contains(c.Image.Text, "contrast/initializer") {
					more++
				}
			}
			if want := map[bool]int{true: 0, false: 1}[w.Coordinator]; more != want || len(w.Containers) != len(was.Containers)+want {
				t.Errorf("%s: %s has %d initializers in %d containers, want %d in %d", file, w.ID(), more, len(w.Containers), want, len(was.Containers)+want)
			}
		}
		for _, w := range got.Workloads {
			if len(w.Missing) > 0 || w.Line == 0 {
				t.Errorf("%s: %s: line %d, missing %s", file, w.ID(), w.Line, missing(w))
			}
		}
	}
}

func TestParseRelease(t *testing.T) {
	if names := profiles.ContrastReleases(); len(names) != 13 || names[0] != "v1.6.0" || names[12] != "v1.20.0" {
		t.Errorf("releases: %v", names)
	}
	for _, name := range profiles.ContrastReleases() {
		_, data, _ := profiles.Contrast(name)
		r, err := contrast.ParseRelease(name, data)
		if err != nil || r.Release != name || len(r.Assumed()) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if name, _, ok := profiles.Contrast("v1.99.0"); !ok || name != "v1.20.0" {
		t.Errorf("v1.99.0: got %q", name)
	}
	if _, _, ok := profiles.Contrast("v1.5.9"); ok {
		t.Error("v1.5.9: want none")
	}
	_, data, _ := profiles.Contrast("v1.20.0")
	for _, tt := range [][3]string{
		{`manifest: {value: "1.20"`, `manifest: {value: "1.21"`, "is not known"},
		{`id_block: {value: "current"`, `id_block: {value: ""`, "is not known"},
		{"version: 1", "version: 2", "not known"},
		{"release: v1.20.0", "release: newest", "is no release"},
		{`counts: {value: "1..8"`, `counts: {value: "1..999"`, "is not known"},
		{`guest_policy: {value: "0x30000"`, `guest_policy: {value: "x"`, "is not known"},
		{`rules: {value: "4f`, `rules: {value: "zz`, "is not known"},
		{"tee: snp", "tee: sev", "tee: snp or tdx"},
		{"name: Metal-QEMU-SNP-GPU", "name: metal-qemu-snp", "listed twice"},
		{"title:", "titel:", "titel"},
		{"@sha256:2a", "@sha256:2", "no image with its digest"},
		{`source: "Contrast and Privatemode specification, 5"`, `source: " "`, "has no source"},
	} {
		text := strings.Replace(string(data), tt[0], tt[1], 1)
		if text == string(data) {
			t.Errorf("%q is not there", tt[0])
		}
		if _, err := contrast.ParseRelease("f", []byte(text)); err == nil || !strings.Contains(err.Error(), tt[2]) {
			t.Errorf("%s: got %v, want %q", tt[1], err, tt[2])
		}
	}
}

func FuzzChange(f *testing.F) {
	f.Add(deploymentOf("web", snp, annotated("a: b"), ""))
	f.Add("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {runtimeClassName: contrast-cc, containers: [{name: a, image: b}], volumes: null}\n")
	f.Add("apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: p}\nspec: {jobTemplate: {spec: {template: {spec: {runtimeClassName: contrast-cc-metal-qemu-tdx, containers: null}}}}}\n")
	r := release(f, "v1.20.0")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := deployment.Parse("d", []byte(text))
		if err != nil {
			return
		}
		got, err := contrast.Change(d, r, contrast.Options{DefaultPlatform: "metal-qemu-snp", Blocks: blocks, ImageStore: "on"})
		if err != nil {
			return
		}
		after, err := deployment.Parse("a", got.YAML)
		if err != nil || len(after.Workloads) != len(d.Workloads) {
			t.Fatalf("reads back as %v, %v", after, err)
		}
		for i := range after.Workloads {
			if after.Workloads[i].ID() != d.Workloads[i].ID() {
				t.Fatalf("workload %d: got %s, want %s", i, after.Workloads[i].ID(), d.Workloads[i].ID())
			}
		}
	})
}
