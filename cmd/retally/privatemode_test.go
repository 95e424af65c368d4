package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
)

// checkout is a checkout of Privatemode v1.40.0 with what its scripts leave
// behind, and a proxy's workspace beside it.
func privatemodeCheckout(t *testing.T) (dir, workspace string) {
	t.Helper()
	v := testenv.Vectors(t, "published/privatemode")
	root := t.TempDir()
	dir, workspace = filepath.Join(root, "checkout"), filepath.Join(root, "workspace")
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(v, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	// The vectors' keys are made up; a real one stands in their place.
	key := regexp.MustCompile(`"3082[0-9a-f]{60,}"`)
	served := key.ReplaceAll(read("adjust/v1.40.0.after.json"), key.Find(read("published/216de2.manifest.json")))
	for name, data := range map[string][]byte{
		"checkout/version.nix": []byte("{ version = \"v1.40.0\"; }\n"), "checkout/contrast-version": []byte("v1.20.0\n"),
		"checkout/scripts/calculate-image-digests.sh": nil, "checkout/scripts/generate-manifest.sh": nil, "checkout/scripts/adjust-manifest.sh": nil,
		"checkout/verity/verity.sh": nil, "checkout/deployment.yaml": read("deployments/v1.40.0.deployment.yaml"), "checkout/models.yaml": read("models/v1.40.0.models.yaml"),
		"checkout/hashes-host.json":  []byte(`{"attestation-agent": "sha256:e016700f2dfd04496f5230329858c2f038120689d9890bb786b94f359258f875", "privatemode-proxy": "sha256:1111111111111111111111111111111111111111111111111111111111111111"}`),
		"workspace/manifests/1.json": read("adjust/v1.38.0.after.json"), "workspace/manifests/2.json": served,
		"workspace/manifests/log.txt": []byte("2026-05-01T00:00:00Z manifests/1.json\n2026-05-08T00:00:00Z manifests/2.json\n"),
	} {
		at := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, workspace
}

type runReport struct {
	Outcome  string
	Bytes    struct{ Verdict, Note string }
	Findings []struct{ Key, Verdict, Class string }
	Lacks    []struct{ What, For string }
	Problems []struct {
		Code string
		Msg  string `json:"message"`
	}
}

// The four steps of the guide are one run: init, then run against the proxy's
// workspace.
func TestPrivatemodeRun(t *testing.T) {
	dir, workspace := privatemodeCheckout(t)
	c := commandLine{map[string]string{"RETALLY_CACHE": t.TempDir()}, ""}
	if code, out, errOut := c.run(t, "init", "--profile", "privatemode", dir); code != 0 {
		t.Fatalf("init: exit %d\n%s%s", code, out, errOut)
	}
	config := filepath.Join(dir, "retally.yaml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"contrast-version pins Contrast v1.20.0", "release: \"profile:contrast@v1.20.0\"", "default_platform: metal-qemu-snp-gpu", "adjust: \"profile:privatemode@v1.40.0\"", "hashes: hashes-host.json", "models: models.yaml"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("retally.yaml lacks %q:\n%s", want, text)
		}
	}
	inspect := `[{"Id":"sha256:2222222222222222222222222222222222222222222222222222222222222222","RepoTags":[],"RepoDigests":["ghcr.io/edgelesssys/privatemode/privatemode-proxy@sha256:%s"],"Architecture":"amd64","Os":"linux"}]`
	run := func(against string, more ...string) runReport {
		t.Helper()
		code, out, errOut := c.run(t, append([]string{"run", "-f", config, "--out", filepath.Join(t.TempDir(), "out"), "--against", against, "-o", "json"}, more...)...)
		var r runReport
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("exit %d: %v\n%s%s", code, err, out, errOut)
		}
		return r
	}
	verdict := func(r runReport, key string) string {
		for _, f := range r.Findings {
			if f.Key == key {
				return f.Verdict
			}
		}
		return ""
	}
	r := run(workspace)
	if r.Outcome != "unchecked" || r.Bytes.Verdict != "unchecked" {
		t.Errorf("outcome %s, bytes %+v; want unchecked: inputs are missing", r.Outcome, r.Bytes)
	}
	for key, want := range map[string]string{
		"policy/Deployment/continuum-347e1b/workload-kimi": "unchecked", "policy/Deployment/continuum-347e1b/workload-kimi/SANs": "match",
		"snp/Metal-QEMU-SNP-GPU/Genoa/cpus=1/launch": "unchecked", "tdx/Metal-QEMU-TDX-GPU/mrtd": "unchecked", "tdx/Metal-QEMU-TDX-GPU/mrseam": "match",
		"image/attestation-agent/manifest": "match", "image/disk-mounter/manifest": "unchecked",
	} {
		if got := verdict(r, key); got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
	said := false
	for _, p := range r.Problems {
		said = said || p.Code == "proxy-log" && strings.Contains(p.Msg, "manifests/2.json") && strings.Contains(p.Msg, "not that it verified")
	}
	if !said {
		t.Error("nothing says which entry of the log was taken")
	}
	for _, f := range r.Findings {
		if f.Verdict == "differs" && f.Class != "volatile" || f.Verdict == "extra" || f.Verdict == "missing" {
			t.Errorf("%s: %s", f.Key, f.Verdict)
		}
	}

	// The proxy's own image, beside the rest.
	for digest, want := range map[string]string{strings.Repeat("1", 64): "match", strings.Repeat("3", 64): "differs"} {
		if err := os.WriteFile(filepath.Join(dir, "proxy.json"), []byte(strings.Replace(inspect, "%s", digest, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(config, append([]byte("proxy: proxy.json\n"), text...), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := verdict(run(workspace), "image/privatemode-proxy/manifest"); got != want {
			t.Errorf("proxy with digest %.4s: got %q, want %q", digest, got, want)
		}
	}
}

// A workspace whose latest entry cannot be told, or leads elsewhere, gives no
// manifest.
func TestHostileWorkspace(t *testing.T) {
	for name, tt := range map[string]struct{ log, want string }{
		"no entry":          {"", "has no entry"},
		"a line of nothing": {"2026-05-08T00:00:00Z manifests/2.json\nnonsense\n", "cannot be told"},
		"a missing file":    {"2026-05-08T00:00:00Z manifests/9.json\n", "is not there"},
		"a link":            {"2026-05-08T00:00:00Z manifests/link.json\n", "link.json"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, workspace := privatemodeCheckout(t)
			if err := os.Symlink(filepath.Join(dir, "deployment.yaml"), filepath.Join(workspace, "manifests", "link.json")); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(workspace, "manifests", "log.txt"), []byte(tt.log), 0o600); err != nil {
				t.Fatal(err)
			}
			config := filepath.Join(dir, "retally.yaml")
			if err := os.WriteFile(config, []byte("version: 1\ndeployment: deployment.yaml\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			c := commandLine{map[string]string{"RETALLY_CACHE": t.TempDir()}, ""}
			code, out, errOut := c.run(t, "run", "-f", config, "--out", filepath.Join(t.TempDir(), "out"), "--against", workspace)
			if code != 2 || !strings.Contains(errOut, tt.want) {
				t.Errorf("exit %d, %s%s; want 2 and %q", code, out, errOut, tt.want)
			}
		})
	}
}

// init chooses the release that the checkout pins, says where another stands for
// it, and what the script of that version passes.
func TestPrivatemodeInit(t *testing.T) {
	for _, tt := range []struct {
		version, contrast string
		want, not         []string
	}{
		{"v1.27.0", "v1.13.0", []string{"contrast-version pins Contrast v1.13.0.", "skip: [image-store]", "profile:privatemode@v1.27.0", "as they are since v1.26.0"}, []string{"nothing is known"}},
		{"v1.40.1", "v1.20.1", []string{"nothing is known of Contrast v1.20.1 by itself", "v1.20.0, stands for it"}, []string{"image-store"}},
		{"v1.12.0", "v1.6.0", []string{"profile:contrast@v1.6.0"}, nil},
		{"v1.9.9", "v1.5.0", []string{"# manifest:"}, []string{"\nmanifest:", "profile:contrast"}},
	} {
		dir, _ := privatemodeCheckout(t)
		for name, text := range map[string]string{"version.nix": "{ version = \"" + tt.version + "\"; }\n", "contrast-version": tt.contrast + "\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c := commandLine{map[string]string{"RETALLY_CACHE": t.TempDir()}, ""}
		if code, out, errOut := c.run(t, "init", "--profile", "privatemode", dir); code != 0 {
			t.Fatalf("%s: exit %d\n%s%s", tt.version, code, out, errOut)
		}
		text, err := os.ReadFile(filepath.Join(dir, "retally.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range tt.want {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s: retally.yaml lacks %q:\n%s", tt.version, want, text)
			}
		}
		for _, not := range tt.not {
			if strings.Contains(string(text), not) {
				t.Errorf("%s: retally.yaml has %q:\n%s", tt.version, not, text)
			}
		}
	}
}

// check of a checkout and a workspace is the last step by itself: the manifest is
// generated and held against the latest one that the proxy fetched, in one report.
// A deployment that Contrast generates nothing for does not end the rest.
func TestCheckGenerates(t *testing.T) {
	dir, workspace := privatemodeCheckout(t)
	check := func(want int) runReport {
		t.Helper()
		code, out, errOut := inProcess(t, map[string]string{"RETALLY_CACHE": t.TempDir()}, "check", dir, workspace, "-o", "json")
		var r runReport
		if err := json.Unmarshal([]byte(out), &r); err != nil || code != want {
			t.Fatalf("exit %d, want %d: %v\n%s%s", code, want, err, out, errOut)
		}
		return r
	}
	verdicts := func(r runReport) map[string]string {
		m := map[string]string{}
		for _, f := range r.Findings {
			m[f.Key] = f.Verdict
		}
		return m
	}
	got := verdicts(check(exitUnchecked))
	for key, want := range map[string]string{
		"policy/Deployment/continuum-347e1b/workload-kimi": "unchecked", "policy/Deployment/continuum-347e1b/workload-kimi/SANs": "match",
		"snp/Metal-QEMU-SNP-GPU/Genoa/cpus=1/launch": "unchecked", "tdx/Metal-QEMU-TDX-GPU/mrseam": "match", "image/attestation-agent/manifest": "match",
	} {
		if got[key] != want {
			t.Errorf("%s: got %q, want %q", key, got[key], want)
		}
	}
	served := filepath.Join(workspace, "manifests", "2.json")
	text := readFileOf(t, served)
	putFile(t, served, []byte(strings.Replace(string(text), `"SNPVersion": 28`, `"SNPVersion": 3`, 1)))
	if r := check(exitDiffers); r.Outcome != "differs" {
		t.Errorf("a lower minimum: outcome %s", r.Outcome)
	}
	putFile(t, served, text)

	deployment := filepath.Join(dir, "deployment.yaml")
	putFile(t, deployment, []byte(strings.ReplaceAll(string(readFileOf(t, deployment)), "runtimeClassName: contrast-cc", "runtimeClassName: kata")))
	r := check(exitDiffers)
	said := false
	for _, p := range r.Problems {
		said = said || p.Code == "not-generated" && strings.Contains(p.Msg, "Contrast generates nothing for it")
	}
	if !said || verdicts(r)["image/attestation-agent/manifest"] != "match" {
		t.Errorf("a deployment that nothing is generated for: said %v, %+v", said, r.Problems)
	}
}
