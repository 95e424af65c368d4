package stages_test

import (
	"context"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/internal/testrun"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
)

// generation is what a Contrast manifest of the demo is generated from.
const generation = `version: 1
deployment: deployment.yaml
images:
  attestation-agent: {oci: images/attestation-agent}
  coordinator: {oci: images/coordinator}
  disk-mounter: {oci: images/disk-mounter}
  inference-proxy: {oci: images/inference-proxy}
  initializer: {oci: images/initializer}
  secret-service: {oci: images/secret-service}
  tinychat-server: {oci: images/tinychat-server}
  unstructured-api: {oci: images/unstructured-api}
  pause: {oci: images/pause}
policies: {settings: genpolicy-settings.json, image_binding: annotation}
platforms:
  metal-qemu-snp: {tee: snp, profile: contrast, firmware: guest/OVMF-SNP.fd, kernel: guest/bzImage, initrd: guest/initrd.cpio, cmdline: console=hvc0 panic=1, vcpus: [1..2]}
  metal-qemu-tdx-gpu: {tee: tdx, profile: tdx-measure, firmware: guest/OVMF.fd, kernel: guest/bzImage, initrd: guest/initrd.cpio, cmdline: console=hvc0 panic=1, memory: 4G, vcpus: 2, devices: '5'}
manifest: {release: contrast-release.yaml, default_platform: metal-qemu-snp, adjust: adjustments.yaml}
`

const (
	chat    = "policy/Deployment/harbor-4f2a1c/workload-tinychat"
	secrets = "policy/StatefulSet/harbor-4f2a1c/secret-service"
	reader  = "policy/Deployment/harbor-4f2a1c/unstructured-api"
	keeper  = "policy/StatefulSet/harbor-4f2a1c/coordinator"
)

// seeds are differences between the inputs of two releases: the older one has
// the change. key is a value that differs by it, want what its cause says.
// hashOnly: of the older release nothing is at hand but its manifest.
var seeds = []struct {
	name, file, old, new string
	key, want            string
	hashOnly             bool
}{
	{"an argument less", "deployment.yaml", "            - --host=0.0.0.0\n", "", chat, `"--host=0.0.0.0"`, false},
	{"an argument more", "deployment.yaml", "- --host=0.0.0.0\n", "- --host=0.0.0.0\n            - --trace\n", chat, `"--trace"`, false},
	{"another argument", "deployment.yaml", "--host=0.0.0.0", "--host=127.0.0.1", chat, `"--host=127.0.0.1"`, false},
	{"another root hash of a disk", "deployment.yaml", "            - '0'\n", "            - '1'\n", chat, "disk-mounter-tinychat-0: argument", false},
	{"a command", "deployment.yaml", "          args:\n            - --namespace=harbor-4f2a1c\n", "          command: [/bin/sh]\n          args:\n            - --namespace=harbor-4f2a1c\n", secrets, `"/bin/sh"`, false},
	{"a variable more", "deployment.yaml", "          ports:\n            - containerPort: 9000\n", "          env:\n            - {name: LOG, value: debug}\n          ports:\n            - containerPort: 9000\n", secrets, `"LOG=debug"`, false},
	{"an older tag of an image", "deployment.yaml", "registry.example/harbor/tinychat-server:v0.3.0", "registry.example/harbor/tinychat-server:v0.2.9", chat, "image name", false},
	{"another image", "deployment.yaml", "registry.example/thirdparty/unstructured-api:0.1.3", "registry.example/other/unstructured-api:0.1.3", reader, "image name", false},
	{"an image of another container", "deployment.yaml", "registry.example/harbor/disk-mounter:v0.3.0", "registry.example/other/disk-mounter:v0.3.0", chat, "container disk-mounter-tinychat-0: image name", false},
	{"an initializer of another name", "contrast-release.yaml", "registry.example/thirdparty/initializer:v1.20.0", "registry.example/other/initializer:v1.20.0", secrets, "container contrast-initializer: image name", false},
	{"the same in another workload", "contrast-release.yaml", "registry.example/thirdparty/initializer:v1.20.0", "registry.example/other/initializer:v1.20.0", reader, "container contrast-initializer: image name", false},
	{"an annotation", "deployment.yaml", "      annotations:\n        contrast.edgeless.systems/pod-role: coordinator\n", "      annotations:\n        note: other\n        contrast.edgeless.systems/pod-role: coordinator\n", keeper, `"other"`, false},
	{"where the Coordinator is looked for", "contrast-release.yaml", "coordinator-ready.${namespace}", "coordinator.${namespace}", secrets, "COORDINATOR_HOST=coordinator", false},
	{"a kernel command line", "retally.yaml", "initrd: guest/initrd.cpio, cmdline: console=hvc0 panic=1, vcpus", "initrd: guest/initrd.cpio, cmdline: console=hvc0 panic=2, vcpus", secrets, "the ID block for Genoa is of another machine: launch digest", false},
	{"the same in the Coordinator", "retally.yaml", "initrd: guest/initrd.cpio, cmdline: console=hvc0 panic=1, vcpus", "initrd: guest/initrd.cpio, cmdline: console=hvc0 panic=2, vcpus", keeper, "the ID block for Milan is of another machine: launch digest", false},
	{"another initrd", "guest/initrd.cpio", "exec sleep infinity", "exec sleep infinitE", reader, "is of another machine: launch digest", false},
	{"a guest policy", "contrast-release.yaml", `value: "0x30000"`, `value: "0x20000"`, reader, "guest policy 0x30000, published 0x20000", false},
	{"the guest policy's own annotation", "contrast-release.yaml", `value: "0x30000"`, `value: "0x20000"`, secrets, "the guest policy that the machine must be started with", false},
	{"a setting of paths", "genpolicy-settings.json", `"cpath": "/run/guest/shared"`, `"cpath": "/run/guest/other"`, secrets, "/run/guest/other", false},
	{"a setting of requests", "genpolicy-settings.json", `"WriteStreamRequest": false`, `"WriteStreamRequest": true`, chat, "WriteStreamRequest", false},
	{"a setting of requests, another workload", "genpolicy-settings.json", `"WriteStreamRequest": false`, `"WriteStreamRequest": true`, keeper, "WriteStreamRequest", false},
	{"rules without image binding", "retally.yaml", "image_binding: annotation", "image_binding: 'off'", chat, "rules", false},
	{"rules without image binding, by the hash alone", "retally.yaml", "image_binding: annotation", "image_binding: 'off'", chat, "image binding off", true},
	{"rules for pulling in the guest, by the hash alone", "retally.yaml", "image_binding: annotation", "image_binding: guest_pull", keeper, "image binding guest_pull", true},
	{"another namespace, by the hash alone", "deployment.yaml", "harbor-4f2a1c", "harbor-00beef", "", "namespace", true},
	{"another generator, by the hash alone", "contrast-release.yaml", "value: kata-4.1", "value: kata-3.28", reader, "kata-3.28", true},
	{"a security context", "deployment.yaml", "        - name: unstructured-api\n", "        - name: unstructured-api\n          securityContext: {readOnlyRootFilesystem: true}\n", reader, "Readonly", false},
	{"a user", "deployment.yaml", "        - name: unstructured-api\n", "        - name: unstructured-api\n          securityContext: {runAsUser: 1000}\n", reader, "UID", false},
	{"a container more", "deployment.yaml", "        - name: unstructured-api\n", "        - {name: extra, image: 'registry.example/harbor/inference-proxy:v0.3.0@@PROXY@'}\n        - name: unstructured-api\n", reader, "container extra", false},
	{"two vCPUs", "deployment.yaml", "        - name: unstructured-api\n", "        - name: unstructured-api\n          resources: {limits: {cpu: '1'}}\n", reader, "is of another machine: launch digest", false},
	{"a mount of memory", "deployment.yaml", "      containers:\n        - name: unstructured-api\n", "      volumes: [{name: scratch, emptyDir: {}}]\n      containers:\n        - name: unstructured-api\n          volumeMounts: [{name: scratch, mountPath: /scratch}]\n", reader, "/scratch", false},
	{"no initializer", "retally.yaml", "default_platform: metal-qemu-snp,", "default_platform: metal-qemu-snp, skip: [initializer],", secrets, "contrast-initializer", false},
}

// seeded runs the generation with a change and returns its folder.
func seeded(t *testing.T, file, old, text string, more string) (string, *run.Result) {
	t.Helper()
	dir := testrun.Demo(t, map[string]string{"retally.yaml": generation + more})
	if file != "" {
		path := filepath.Join(dir, file)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(data), old) {
			t.Fatalf("%s does not hold %q", file, old)
		}
		if strings.Contains(text, "@PROXY@") {
			_, pin, _ := strings.Cut(string(data), "inference-proxy:v0.3.0@")
			text = strings.Replace(text, "@PROXY@", pin[:len("sha256:")+64], 1)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(data), old, text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	conf, err := os.ReadFile(filepath.Join(dir, "retally.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := run.Run(context.Background(), stages.Table(), testrun.Config(t, string(conf)), run.Options{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	return dir, res
}

// TestSeededDifferences: of thirty and more differences between the inputs of
// two releases, each is named as the cause of another policy hash, and proved.
func TestSeededDifferences(t *testing.T) {
	testenv.OwnSpeed(t)
	if len(seeds) < 30 {
		t.Fatalf("%d differences", len(seeds))
	}
	for _, s := range seeds {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			_, older := seeded(t, s.file, s.old, s.new, "")
			dir := testrun.Demo(t, nil)
			for _, a := range older.Artifacts {
				if s.hashOnly && a.Name != "manifest.json" {
					continue
				}
				path := filepath.Join(dir, "older", filepath.FromSlash(a.Name))
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, a.Data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			conf := generation + "against: older/manifest.json\n"
			if !s.hashOnly {
				conf = strings.Replace(conf, "image_binding: annotation", "image_binding: annotation, published: older/policies", 1)
			}
			res, err := run.Run(context.Background(), stages.Table(), testrun.Config(t, conf), run.Options{Root: dir})
			if err != nil {
				t.Fatal(err)
			}
			proved, all := false, ""
			for _, f := range res.Report.Findings {
				if f.Verdict == pipeline.Match || s.key != "" && string(f.Key) != s.key || !strings.HasPrefix(string(f.Key), "policy/") {
					continue
				}
				all += string(f.Key) + " " + string(f.Verdict) + "\n" + testrun.Causes(f) + "\n"
				for _, c := range f.Why {
					text := strings.Join(c.Path, " ") + " " + c.Note + " " + c.Expected + " " + c.Actual
					proved = proved || c.Standing == pipeline.Proved && strings.Contains(text, s.want)
				}
			}
			if !proved {
				t.Errorf("want a proved cause with %q, got\n%s", s.want, all)
			}
		})
	}
}

// TestGenerationIsTheSame: fifty runs with the deployment's objects in another
// order, another number of processors and another locale give the same manifest
// and the same policies.
func TestGenerationIsTheSame(t *testing.T) {
	dir := testrun.Demo(t, map[string]string{"retally.yaml": generation})
	given, err := os.ReadFile(filepath.Join(dir, "deployment.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	docs := strings.Split(string(given), "\n---\n")
	random := rand.New(rand.NewPCG(7, 7))
	processors := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(processors)
	var first map[string]string
	for i := range 50 {
		random.Shuffle(len(docs), func(a, b int) { docs[a], docs[b] = docs[b], docs[a] })
		if err := os.WriteFile(filepath.Join(dir, "deployment.yaml"), []byte(strings.Join(docs, "\n---\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		runtime.GOMAXPROCS(1 + i%8)
		for _, name := range []string{"LANG", "LC_ALL", "TZ"} {
			t.Setenv(name, []string{"C", "tr_TR.UTF-8", "de_DE.UTF-8", "Asia/Tokyo"}[i%4])
		}
		res, err := run.Run(context.Background(), stages.Table(), testrun.Config(t, generation), run.Options{Root: dir})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, a := range res.Artifacts {
			if !strings.HasPrefix(a.Name, "deployment.") {
				got[a.Name] = string(a.Data)
			}
		}
		if first == nil {
			first = got
		}
		if len(got) != 5 || !maps.Equal(first, got) {
			t.Fatalf("run %d: %d files, not those of the first run", i, len(got))
		}
	}
}
