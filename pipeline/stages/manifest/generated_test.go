package manifest_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/fixtures"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/internal/testrun"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
	stage "github.com/retally/retally/pipeline/stages/manifest"
	"github.com/retally/retally/profiles"
	"github.com/retally/retally/snpmeasure"
)

// space is a folder with a deployment and what a manifest is generated from.
type space struct {
	testing.TB
	dir string
}

func (s space) write(name string, data []byte) {
	s.Helper()
	at := filepath.Join(s.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		s.Fatal(err)
	}
	if err := os.WriteFile(at, data, 0o600); err != nil {
		s.Fatal(err)
	}
}

func (s space) read(parts ...string) []byte {
	s.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		s.Fatal(err)
	}
	return data
}

func (s space) run(config string) *run.Result {
	s.Helper()
	res, err := run.Run(context.Background(), stages.Table(), testrun.Config(s, config), run.Options{Root: s.dir})
	if err != nil {
		s.Fatal(err)
	}
	return res
}

func made(t testing.TB, res *run.Result) []byte {
	t.Helper()
	for _, a := range res.Artifacts {
		if a.Name == "manifest.json" {
			return a.Data
		}
	}
	t.Fatal("the run made no manifest")
	return nil
}

// privatemode is Privatemode v1.40.0's real deployment, with the digests of
// synthetic images in place of the real ones, whose bytes are not public.
func privatemode(t testing.TB) space {
	t.Helper()
	published, own := testenv.Vectors(t, "published/privatemode"), testenv.Vectors(t, "own/policy")
	s := space{t, t.TempDir()}
	text := string(s.read(published, "deployments/v1.40.0.deployment.yaml"))
	s.write("real.yaml", []byte(text))
	s.write("rules.rego", s.read(own, "rules", "mini.rego"))
	s.write("settings.json", s.read(published, "settings/genpolicy-settings.contrast-kata-3.28.0-prod.json"))
	var refs map[string]struct{ Digest, MediaType string }
	if err := json.Unmarshal(s.read(own, "images", "refs.json"), &refs); err != nil {
		t.Fatal(err)
	}
	for name, ref := range map[string]string{
		"coordinator": "contrast/coordinator:v1.20.0", "pause": "pause:3.6", "attestation-agent": "privatemode/attestation-agent:v1.40.0", "disk-mounter": "privatemode/disk-mounter:v1.40.0",
		"inference-proxy": "privatemode/inference-proxy:v1.40.0", "secret-service": "privatemode/secret-service:v1.40.0", "unstructured-api": "unstructured-io/unstructured-api:0.1.3",
		"vllm-openai": "vllm/vllm-openai:v0.20.0", "initializer": "privatemode/attestation-agent:v1.40.0",
	} {
		r := refs["localhost:5000/"+ref]
		d, err := digest.Parse(r.Digest)
		if err != nil {
			t.Fatal(err)
		}
		text = regexp.MustCompile(`(/`+name+`:[^@\s]+)@sha256:[0-9a-f]{64}`).ReplaceAllString(text, "${1}@"+r.Digest)
		blob := func(hex string) []byte {
			data := s.read(own, "images", "blobs", "sha256", hex)
			s.write(path.Join("images", name, "blobs", "sha256", hex), data)
			return data
		}
		data := blob(d.Hex())
		var m struct {
			Config struct{ Digest string }
			Layers []struct{ Digest string }
		}
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		blob(strings.TrimPrefix(m.Config.Digest, "sha256:"))
		for _, l := range m.Layers {
			blob(strings.TrimPrefix(l.Digest, "sha256:"))
		}
		s.write(path.Join("images", name, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
		s.write(path.Join("images", name, "index.json"), fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, r.MediaType, r.Digest, len(data)))
		if name == "initializer" {
			_, release, _ := profiles.Contrast("v1.20.0")
			to := fmt.Sprintf("latest, to: \"ghcr.io/edgelesssys/contrast/initializer:v1.20.0@%s\", source", r.Digest)
			s.write("release.yaml", bytes.Replace(release, []byte("initializer:latest, source"), []byte("initializer:"+to), 1))
		}
	}
	s.write("deployment.yaml", []byte(text))
	files, err := fixtures.Demo()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name, "guest/") {
			s.write(f.Name, f.Data)
		}
	}
	return s
}

const (
	releasePart  = "manifest: {release: release.yaml, default_platform: metal-qemu-snp-gpu, adjust: \"profile:privatemode@v1.40.0\"}\n"
	policiesPart = "policies: {settings: settings.json, rules: rules.rego}\n"
	snpPart      = "  metal-qemu-snp-gpu: {tee: snp, profile: contrast, firmware: guest/OVMF-SNP.fd, kernel: guest/bzImage, initrd: guest/initrd.cpio, cmdline: a}\n"
	tdxPart      = "  metal-qemu-tdx-gpu: {tee: tdx, profile: contrast-1.20, firmware: guest/OVMF.fd, kernel: guest/bzImage, initrd: guest/initrd.cpio, cmdline: a}\n"
)

func imagesPart(names ...string) string {
	all := []string{"coordinator", "pause", "attestation-agent", "disk-mounter", "inference-proxy", "secret-service", "unstructured-api", "vllm-openai", "initializer"}
	out := "images:\n"
	for _, n := range all {
		if !slices.Contains(names, n) {
			out += "  " + n + ": {oci: images/" + n + "}\n"
		}
	}
	return out
}

func whole(deployment string, parts ...string) string {
	return "version: 1\ndeployment: " + deployment + "\n" + strings.Join(parts, "")
}

// missingOf lists the values that are not there, with their inputs.
func missingOf(res *run.Result) map[string]string {
	out := map[string]string{}
	for _, v := range stage.NewGenerated(res).Values {
		if v.Basis == "missing" {
			out[string(v.Key)] = strings.Join(v.Missing, "; ")
		}
	}
	return out
}

// Since releases after 1.20 a digest for one vCPU and the AP reset address stand
// for all counts: the ID block of a pod with three is of the extended digest.
func TestGenerateExtends(t *testing.T) {
	s := space{t, t.TempDir()}
	var v struct {
		Digests map[string]string
		APEIP   string `json:"ap_eip"`
	}
	if err := json.Unmarshal(s.read(testenv.Vectors(t, "own/contrast/snp-extend.json")), &v); err != nil {
		t.Fatal(err)
	}
	_, release, _ := profiles.Contrast("v1.20.0")
	text := strings.NewReplacer(`manifest: {value: "1.20"`, `manifest: {value: "newer"`, `counts: {value: "1..8"`, `counts: {value: "1..220"`).Replace(string(release))
	s.write("release.yaml", []byte(text))
	s.write("values.yaml", fmt.Appendf(nil, "version: 1\nsource: v\nsnp:\n- {platform: metal-qemu-snp, product: Genoa, cpus: 1, launch: %[1]q, apeip: %[2]q}\n- {platform: metal-qemu-snp, product: Milan, cpus: 1, launch: %[1]q, apeip: %[2]q}\n", v.Digests["1"], v.APEIP))
	s.write("deployment.yaml", []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {runtimeClassName: contrast-cc-metal-qemu-snp, containers: [{name: a, image: a, resources: {limits: {cpu: 1500m}}}]}\n"))
	res := s.run(whole("deployment.yaml", "manifest: {release: release.yaml, values: values.yaml}\n"))
	m, err := manifest.Parse("m", made(t, res))
	if err != nil || len(m.SNP()) != 2 || *m.SNP()[1].APEIP != v.APEIP || m.SNP()[1].TrustedMeasurement != v.Digests["1"] {
		t.Fatalf("entries: got %+v, %v", m.SNP(), err)
	}
	want, err := digest.ParseHex(digest.SHA384, v.Digests["3"])
	if err != nil {
		t.Fatal(err)
	}
	block, _, err := snpmeasure.ContrastID(snpmeasure.ContrastCurrent, want, 0x30000)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := block.Bytes()
	for _, a := range res.Artifacts {
		if a.Name == "deployment.v1.20.0.yaml" && bytes.Contains(a.Data, []byte("snp_id_block_Genoa: "+base64.StdEncoding.EncodeToString(raw))) {
			return
		}
	}
	t.Error("no ID block of the digest for three vCPUs")
}

// What the published manifest lets in besides is extra, also where other values
// are missing here; and a workload's published hash that is another than the
// computed one differs.
func TestGenerateAgainstForged(t *testing.T) {
	s := privatemode(t)
	config := whole("deployment.yaml", releasePart, policiesPart, imagesPart("disk-mounter"), "platforms:\n", snpPart, tdxPart) + "against: forged.json\n"
	full := string(made(t, s.run(whole("deployment.yaml", releasePart, policiesPart, imagesPart(), "platforms:\n", snpPart, tdxPart))))
	const first = "{\n  \"Policies\": {\n"
	coordinator := regexp.MustCompile(`"([0-9a-f]{64})": \{\s+"SANs": \[\s+"coordinator"`).FindStringSubmatch(full)
	if coordinator == nil || !strings.HasPrefix(full, first) {
		t.Fatalf("the manifest has another form:\n%.300s", full)
	}
	for _, tt := range []struct {
		name, forged, key string
		want              pipeline.Verdict
	}{
		{"nothing", full, "policy/StatefulSet/continuum-347e1b/coordinator", pipeline.Match},
		{"one more workload", strings.Replace(full, first, first+"    \""+strings.Repeat("0", 64)+"\": {\"SANs\": [\"x\"], \"WorkloadSecretID\": \"apps/v1/Deployment/continuum-347e1b/x\"},\n", 1), "policy/Deployment/continuum-347e1b/x", pipeline.Extra},
		{"a second policy of a workload", strings.Replace(full, first, first+"    \""+strings.Repeat("0", 64)+"\": {\"SANs\": [\"x\"], \"WorkloadSecretID\": \"apps/v1/Deployment/continuum-347e1b/workload-kimi\"},\n", 1), "policy/Deployment/continuum-347e1b/workload-kimi%232", pipeline.Extra},
		{"another hash", strings.Replace(full, coordinator[1], strings.Repeat("0", 64), 1), "policy/StatefulSet/continuum-347e1b/coordinator", pipeline.Differs},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := space{t, s.dir}
			s.write("forged.json", []byte(tt.forged))
			r := s.run(config).Report
			verdicts := map[string]pipeline.Verdict{}
			for _, f := range r.Findings {
				verdicts[string(f.Key)] = f.Verdict
			}
			if got := verdicts[tt.key]; got != tt.want {
				t.Errorf("%s: got %q, want %q; %v", tt.key, got, tt.want, verdicts)
			}
			if want := map[bool]pipeline.Outcome{true: pipeline.OutcomeUnchecked, false: pipeline.OutcomeDiffers}[tt.want == pipeline.Match]; r.Outcome != want && tt.want != pipeline.Match || r.Outcome == pipeline.OutcomeMatch {
				t.Errorf("outcome %s, want %s", r.Outcome, want)
			}
		})
	}
}

// Privatemode v1.40.0 whole, with every input at hand: nine policies, of which
// those of SNP pods hold the ID blocks of the computed launch digests, and
// reference values from artifacts. The names and order are those that the
// vendor's own script gives.
func TestGeneratePrivatemode(t *testing.T) {
	s := privatemode(t)
	res := s.run(whole("deployment.yaml", releasePart, policiesPart, imagesPart(), "platforms:\n", snpPart, tdxPart))
	data := made(t, res)
	m, err := manifest.Parse("m", data)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Placeholders(); len(got) != 1 || got[0] != "/SeedshareOwnerPubKeys/0" {
		t.Errorf("placeholders: got %q, missing %v", got, missingOf(res))
	}
	g := stage.NewGenerated(res)
	counts := g.Counts()
	t.Logf("%d policies, values %v", len(m.Policies()), counts)
	if !g.Complete() || counts["missing"] != 1 { // the exempt key
		t.Errorf("missing: %v", missingOf(res))
	}
	after, err := manifest.Parse("after", s.read(testenv.Vectors(t, "published/privatemode/adjust"), "v1.40.0.after.json"))
	if err != nil {
		t.Fatal(err)
	}
	sans := map[string]string{}
	for _, p := range after.Policies() {
		sans[p.WorkloadSecretID] = strings.Join(p.SANs, " ") + p.Role
	}
	for _, p := range m.Policies() {
		if sans[p.WorkloadSecretID] != strings.Join(p.SANs, " ")+p.Role {
			t.Errorf("%s: got %q, want %q", p.WorkloadSecretID, p.SANs, sans[p.WorkloadSecretID])
		}
	}
	if len(m.Policies()) != 9 || len(m.Policies()) != len(after.Policies()) {
		t.Errorf("got %d policies, want 9", len(m.Policies()))
	}
	launch := testrun.Measured(res.Report, "snp/metal-qemu-snp-gpu/Genoa/cpus=1/launch")
	if launch == nil || len(m.SNP()) != 1 || m.SNP()[0].TrustedMeasurement != launch.Value.Digest().Hex() {
		t.Fatalf("SNP entries: got %v, want one with the computed launch digest", m.SNP())
	}
	block, _, err := snpmeasure.ContrastID(snpmeasure.ContrastCurrent, launch.Value.Digest(), 0x30000)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := block.Bytes()
	snp, tdx := 0, 0
	for _, a := range res.Artifacts {
		if strings.HasPrefix(a.Name, "policies/") {
			if bytes.Contains(a.Data, []byte(base64.StdEncoding.EncodeToString(raw))) {
				snp++
			} else {
				tdx++
			}
		}
	}
	if snp != 7 || tdx != 2 {
		t.Errorf("policies with the ID block: got %d and %d without, want 7 and 2", snp, tdx)
	}
	// Nothing of it may call itself checked: the release is assumed.
	for _, v := range g.Values {
		if strings.HasPrefix(string(v.Key), "policy/") && strings.Count(string(v.Key), "/") == 3 && v.Basis != "assumed" {
			t.Errorf("%s: basis %s, want assumed", v.Key, v.Basis)
		}
	}
}

// One missing input stops nothing else, and each value names what it lacks.
func TestGenerateMissing(t *testing.T) {
	testenv.OwnSpeed(t)
	s := privatemode(t)
	const initializer, launch = "the digest of image ghcr.io/edgelesssys/contrast/initializer:latest in Contrast v1.20.0", "the launch digest of Metal-QEMU-SNP-GPU for Genoa with 1 vCPUs"
	builtin := strings.Replace(releasePart, "release.yaml", `"profile:contrast@v1.20.0"`, 1)
	for _, tt := range []struct {
		name, config string
		policies     int // that are computed
		want         map[string]string
	}{
		{"the release's initializer", whole("deployment.yaml", builtin, policiesPart, imagesPart(), "platforms:\n", snpPart, tdxPart), 1, map[string]string{"policy/Deployment/continuum-347e1b/workload-kimi": initializer}},
		{"SNP artifacts", whole("deployment.yaml", releasePart, policiesPart, imagesPart(), "platforms:\n", tdxPart), 2, map[string]string{"snp/Metal-QEMU-SNP-GPU/Genoa/cpus=1/launch": launch, "policy/StatefulSet/continuum-347e1b/coordinator": launch}},
		{"TDX artifacts", whole("deployment.yaml", releasePart, policiesPart, imagesPart(), "platforms:\n", snpPart), 9, map[string]string{"tdx/Metal-QEMU-TDX-GPU/mrtd": "mrtd of", "tdx/Metal-QEMU-TDX-GPU/rtmr2": "rtmr2 of"}},
		{"an image", whole("deployment.yaml", releasePart, policiesPart, imagesPart("disk-mounter"), "platforms:\n", snpPart, tdxPart), 3, map[string]string{"policy/Deployment/continuum-347e1b/workload-kimi": "the bytes of image ghcr.io/edgelesssys/privatemode/disk-mounter"}},
		{"the pause image", whole("deployment.yaml", releasePart, policiesPart, imagesPart("pause"), "platforms:\n", snpPart, tdxPart), 0, map[string]string{"policy/Deployment/continuum-347e1b/workload-kimi": "the bytes of the pause image"}},
		{"the real images", whole("real.yaml", releasePart, policiesPart, imagesPart(), "platforms:\n", snpPart, tdxPart), 0, map[string]string{"policy/Deployment/continuum-347e1b/workload-kimi": "is given for it"}},
		{"settings and rules", whole("deployment.yaml", releasePart, imagesPart(), "platforms:\n", snpPart, tdxPart), 0, map[string]string{"policy/StatefulSet/continuum-347e1b/coordinator": "settings and rules"}},
		{"the default platform", whole("deployment.yaml", strings.Replace(releasePart, "default_platform: metal-qemu-snp-gpu, ", "", 1), policiesPart, imagesPart(), "platforms:\n", snpPart, tdxPart), 7, map[string]string{"policy/Deployment/continuum-347e1b/unstructured-api": "the platform of runtime class contrast-cc"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := space{t, s.dir}
			res := s.run(tt.config)
			missing := missingOf(res)
			for key, want := range tt.want {
				if !strings.Contains(missing[key], want) {
					t.Errorf("%s: got %q, want %q", key, missing[key], want)
				}
			}
			n := 0
			for _, m := range res.Report.Measurements {
				if m.Key.Kind() == "policy" && len(m.Key.Parts()) == 4 {
					n++
					if missing[string(m.Key)] != "" {
						t.Errorf("%s is measured and missing: %s", m.Key, missing[string(m.Key)])
					}
				}
			}
			if n != tt.policies {
				t.Errorf("got %d policies, want %d; missing %v", n, tt.policies, missing)
			}
			m, err := manifest.Parse("m", made(t, res))
			if err != nil || len(m.Policies()) != 9 || m.SNP() == nil || m.TDX() == nil {
				t.Errorf("the manifest is not whole: %v, %d policies", err, len(m.Policies()))
			}
			values := 0
			for key := range missing {
				if strings.Contains(key, "/") { // else machines that nobody named, which have no place
					values++
				}
			}
			if len(m.Placeholders()) != values {
				t.Errorf("%d placeholders, %d missing values: %q, %v", len(m.Placeholders()), values, m.Placeholders(), missing)
			}
			// Held against anything, what is missing never matches: not against
			// the same placeholders, and not against a manifest with all values.
			s.write("same.json", made(t, res))
			for _, against := range []string{"same.json", "full.json"} {
				if against == "full.json" {
					s.write(against, s.read(testenv.Vectors(t, "published/privatemode/adjust"), "v1.40.0.after.json"))
				}
				r := s.run(tt.config + "against: " + against + "\n").Report
				if r.Outcome == pipeline.OutcomeMatch || r.Bytes.Verdict == pipeline.Match {
					t.Errorf("against %s: outcome %s, bytes %s", against, r.Outcome, r.Bytes.Verdict)
				}
				for _, f := range r.Findings {
					if missing[string(f.Key)] != "" && f.Key != "keys/SeedshareOwnerPubKeys" && f.Verdict != pipeline.Unchecked {
						t.Errorf("against %s: %s is %s, want unchecked", against, f.Key, f.Verdict)
					}
				}
			}
		})
	}
}

// The manifest that Privatemode v1.12.0 served, from its deployment: with the
// hashes, the measurement and the key said by somebody it is the same byte for
// byte, and what was said is copied.
func TestGeneratePublished(t *testing.T) {
	published := testenv.Vectors(t, "published/privatemode")
	s := space{t, t.TempDir()}
	want := s.read(published, "published/83c1af.manifest.json")
	m, err := manifest.Parse("published", want)
	if err != nil {
		t.Fatal(err)
	}
	values := "version: 1\nsource: the published manifest 83c1af\nsnp:\n- {product: Genoa, launch: " + m.SNP()[0].TrustedMeasurement + "}\npolicies:\n"
	for _, p := range m.Policies() {
		w, _ := manifest.ParseWorkloadID(p.WorkloadSecretID)
		values += fmt.Sprintf("- {kind: %s, namespace: %s, name: %s, hash: %s}\n", w.Kind, w.Namespace, w.Name, p.HashText)
	}
	values += "seedshare_owner_keys: [" + m.Tree().Get("SeedshareOwnerPubKeys").Elems[0].Text + "]\n"
	s.write("published.json", want)
	s.write("values.yaml", []byte(values))
	s.write("deployment.yaml", s.read(published, "deployments/v1.12.0.deployment.yaml"))
	s.write("plan.yaml", s.read(published, "adjust/real-83c1af.adjustments.yaml"))
	config := whole("deployment.yaml", "manifest: {release: \"profile:contrast@v1.6.0\", default_platform: metal-qemu-snp-gpu, values: values.yaml, adjust: plan.yaml}\nagainst: published.json\n")
	res := s.run(config)
	if got := made(t, res); !bytes.Equal(got, want) {
		t.Errorf("the manifest is another:\n%s", got)
	}
	if res.Report.Bytes.Verdict != pipeline.Match || len(res.Report.Bytes.Exempt) != 0 {
		t.Errorf("bytes: got %+v, want a match with nothing exempt", res.Report.Bytes)
	}
	copied := 0
	for _, v := range stage.NewGenerated(res).Values {
		if v.Basis == "copied" {
			copied++
		}
	}
	if copied != 6 || res.Report.Outcome != pipeline.OutcomeUnchecked {
		t.Errorf("%d values are copied, outcome %s; want the four hashes, the measurement and the key, and unchecked", copied, res.Report.Outcome)
	}
	for _, f := range res.Report.Findings {
		if f.Bad() {
			t.Errorf("%s: %s", f.Key, f.Verdict)
		}
	}
	// Without one of the hashes the others stay, and the bytes are not compared.
	s.write("values.yaml", []byte(regexp.MustCompile(`(?m)^- .*name: unstructured-api.*\n`).ReplaceAllString(values, "")))
	res = s.run(config)
	if res.Report.Bytes.Verdict != pipeline.Unchecked || missingOf(res)["policy/Deployment/continuum-83c1af/unstructured-api"] == "" {
		t.Errorf("without a hash: bytes %+v, missing %v", res.Report.Bytes, missingOf(res))
	}
	// A hash for a workload of another name is nobody's.
	s.write("values.yaml", []byte(strings.Replace(values, "name: unstructured-api", "name: unstructured", 1)))
	res = s.run(config)
	if !slices.ContainsFunc(res.Report.Problems, func(p pipeline.Problem) bool { return p.Code == "given-policy" }) {
		t.Errorf("no problem names the hash of nobody: %v", res.Report.Problems)
	}
}

// valuesOf writes all hashes and measurements of a manifest down as said.
func valuesOf(m *manifest.Manifest) string {
	out := "version: 1\nsource: the vector\nsnp:\n"
	for _, e := range m.SNP() {
		cpus := uint64(1)
		if e.CPUs != nil {
			cpus = *e.CPUs
		}
		out += fmt.Sprintf("- {platform: %q, product: %s, cpus: %d, launch: %q}\n", e.Platform, e.ProductName, cpus, e.TrustedMeasurement)
	}
	out += "tdx:\n"
	for _, e := range m.TDX() {
		out += fmt.Sprintf("- {platform: %s, mrtd: %q, rtmr0: %q, rtmr1: %q, rtmr2: %q, rtmr3: %q}\n", e.Platform, e.MrTd, e.Rtmrs[0], e.Rtmrs[1], e.Rtmrs[2], e.Rtmrs[3])
	}
	out += "policies:\n"
	for _, p := range m.Policies() {
		w, _ := manifest.ParseWorkloadID(p.WorkloadSecretID)
		out += fmt.Sprintf("- {kind: %s, namespace: %s, name: %s, hash: %q}\n", w.Kind, w.Namespace, w.Name, p.HashText)
	}
	return out + "seedshare_owner_keys: [" + m.Tree().Get("SeedshareOwnerPubKeys").Elems[0].Text + "]\n"
}

// Every release of Privatemode whose manifest's form is known: the manifest
// before the edits follows from its deployment and the said hashes, and the one
// after them with its plan. Of Contrast 1.16 to 1.19 the vectors' form is made up,
// and another one than the specification's.
func TestGenerateReleases(t *testing.T) {
	dir := testenv.Vectors(t, "published/privatemode")
	releases := map[string]string{
		"v1.10.0": "1.6.0", "v1.12.0": "1.6.0", "v1.13.0": "1.7.0", "v1.15.0": "1.7.0", "v1.16.0": "1.7.0", "v1.18.0": "1.9.0", "v1.19.0": "1.9.0",
		"v1.24.0": "1.12.0", "v1.25.0": "1.12.0", "v1.26.0": "1.13.0", "v1.40.0": "1.20.0",
	}
	for tag, contrast := range releases {
		t.Run(tag, func(t *testing.T) {
			s := space{t, t.TempDir()}
			before := s.read(dir, "adjust", tag+".before.json")
			m, err := manifest.Parse(tag, before)
			if err != nil {
				t.Fatal(err)
			}
			s.write("values.yaml", []byte(valuesOf(m)))
			s.write("deployment.yaml", s.read(dir, "deployments", tag+".deployment.yaml"))
			s.write("plan.yaml", s.read(dir, "adjust", tag+".adjustments.yaml"))
			config := "manifest: {release: \"profile:contrast@v" + contrast + "\", default_platform: metal-qemu-snp-gpu, values: values.yaml"
			if got := made(t, s.run(whole("deployment.yaml", config+"}\n"))); !bytes.Equal(got, before) {
				t.Errorf("before the edits it is another:\n%s", got)
			}
			res := s.run(whole("deployment.yaml", config+", adjust: plan.yaml}\n"))
			if got := made(t, res); !bytes.Equal(got, s.read(dir, "adjust", tag+".after.json")) {
				t.Errorf("after the edits it is another:\n%s", got)
			}
			warned := slices.ContainsFunc(res.Report.Problems, func(p pipeline.Problem) bool {
				return p.Code == "adjust-variable" && strings.Contains(p.Msg, "${namespace}")
			})
			if warned != (tag == "v1.10.0") {
				t.Errorf("a warning that names the empty variable: got %v", warned)
			}
			for _, v := range stage.NewGenerated(res).Values {
				if parts := v.Key.Parts(); (parts[0] == "policy" && len(parts) == 4 || parts[len(parts)-1] == "launch" || parts[len(parts)-1] == "mrtd") && v.Basis != "copied" {
					t.Errorf("%s: basis %s, want copied", v.Key, v.Basis)
				}
			}
		})
	}
}

// The same bytes whatever the order of what is described and of who computes.
func TestGenerateSameBytes(t *testing.T) {
	s := privatemode(t)
	parts := []string{releasePart, policiesPart, imagesPart(), "platforms:\n" + snpPart + tdxPart}
	runs := 8
	if testing.Short() {
		runs = 3
	} else if testenv.IsLong() {
		runs = 50
	}
	var first []byte
	r := rand.New(rand.NewPCG(1, 2))
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for i := range runs {
		r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		runtime.GOMAXPROCS(1 + i%4)
		got := made(t, s.run(whole("deployment.yaml", parts...)))
		if first == nil {
			first = got
		}
		if !bytes.Equal(first, got) {
			t.Fatalf("run %d gives other bytes", i)
		}
	}
	t.Logf("%d runs, sha256 %s", runs, digest.SHA256.Sum(first))
}

// A published hash that another choice of the generation gives is explained by
// that choice, proved; one that none gives stays unknown.
func TestGenerationChoices(t *testing.T) {
	testenv.OwnSpeed(t)
	s := privatemode(t)
	config := whole("deployment.yaml", releasePart, policiesPart, imagesPart(), "platforms:\n", snpPart, tdxPart)
	release := string(s.read(s.dir, "release.yaml"))
	const coordinator, service = "policy/StatefulSet/continuum-347e1b/coordinator", "policy/StatefulSet/continuum-347e1b/secret-service"
	for _, tt := range []struct{ name, from, to, more, key, want string }{
		{"guest policy", `guest_policy: {value: "0x30000"`, `guest_policy: {value: "0x2030000"`, "", coordinator, "guest policy 0x2030000"},
		{"form of ID blocks", `id_block: {value: "current"`, `id_block: {value: "early"`, "", coordinator, "id_block = early"},
		{"no ID blocks", `id_block: {value: "current"`, `id_block: {value: "none"`, "", service, "id_block = none"},
		{"changes", `mutations: {value: "current"`, `mutations: {value: "early"`, "", service, "mutations = early"},
		{"host", `value: "coordinator-ready.${namespace}"`, `value: "coordinator-ready"`, "", service, "coordinator_host = coordinator-ready"},
		{"role", `pod_role: {value: "annotation"`, `pod_role: {value: "label"`, "", coordinator, "pod_role = label"},
		{"image store", `image_store: {value: "off"`, `image_store: {value: "on"`, "", service, "with the image store"},
		{"initializer", "", "", ", skip: [initializer]", service, "without the initializer"},
		{"unknown", `value: "coordinator-ready.${namespace}"`, `value: "another"`, "", service, "unknown"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := space{t, s.dir}
			if !strings.Contains(release, tt.from) {
				t.Fatalf("the release has no %q", tt.from)
			}
			s.write("other.yaml", []byte(strings.Replace(release, tt.from, tt.to, 1)))
			other := strings.Replace(strings.Replace(config, "release.yaml", "other.yaml", 1), `v1.40.0"}`, `v1.40.0"`+tt.more+"}", 1)
			s.write("published.json", made(t, s.run(other)))
			r := s.run(config + "against: published.json\n").Report
			causes := testrun.Causes(testrun.Finding(t, r, pipeline.Key(tt.key)))
			if !strings.Contains(causes, tt.want) {
				t.Errorf("causes: got %s, want %q", causes, tt.want)
			}
			if f := testrun.Finding(t, r, pipeline.Key(tt.key)); (f.Why[0].Standing == pipeline.Proved) != (tt.name != "unknown") {
				t.Errorf("standing: got %v", f.Why[0])
			}
		})
	}
}
