package evidence_test

import (
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/internal/testrun"
	"github.com/retally/retally/manifest"

	"github.com/retally/retally/evidence/capture"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
)

// shown is the demo's VM with what it showed; fields are those of its entry.
func shown(platform, fields string) string {
	return platform + `registry: vm/tdx.csv
evidence:
  harbor-vm:
    file: vm/cpu.html
    profile: secretvm
    platform: harbor-vm
    at: 2026-06-01T00:00:00Z
    tls_cert: vm/tls.pem
    collateral: vm/collateral.json
    intel_root: vm/test-root.pem
` + fields
}

// verdicts are the three judgements: p, f, u, and the outcome.
func verdicts(t *testing.T, r *pipeline.Report, name string) string {
	t.Helper()
	out := ""
	for _, what := range []string{"authentic", "expected", "bound"} {
		f := testrun.Finding(t, r, pipeline.NewKey("evidence", name, what))
		switch f.Verdict {
		case pipeline.Match:
			out += "p"
		case pipeline.Differs:
			out += "f"
		case pipeline.Unchecked:
			out += "u"
		default:
			out += string(f.Verdict)
		}
	}
	return out + " " + string(r.Outcome)
}

// TestEvidenceVerdicts judges the demo's VM, right and wrong in one way.
func TestEvidenceVerdicts(t *testing.T) {
	dir := testrun.Demo(t, nil)
	page, compose, row := testrun.Read(t, dir, "vm/cpu.html"), testrun.Read(t, dir, "vm/docker-compose.yaml"), testrun.Read(t, dir, "vm/tdx.csv")
	collateral := testrun.Read(t, dir, "vm/collateral.json")
	all := testrun.VM("")
	for _, tc := range []struct {
		name    string
		config  string
		changes map[string]string
		want    string
		cause   string // in the first finding that fails, or its note
	}{
		{name: "as it is", config: shown(all, ""), want: "ppp match"},
		{name: "by artifacts alone", config: strings.Replace(shown(all, ""), "registry: vm/tdx.csv\n", "", 1), want: "ppp match"},
		{name: "by the registry alone", config: strings.Replace(shown("version: 1\ncompose: vm/docker-compose.yaml\n", ""), "    platform: harbor-vm\n", "", 1), want: "ppp match"},
		{
			name: "without a compose file", config: strings.Replace(shown("version: 1\n", ""), "    platform: harbor-vm\n", "", 1), want: "pup unchecked",
			cause: "no compose file given (compose: FILE)",
		},
		{
			name: "nothing to compare with", config: strings.NewReplacer("    platform: harbor-vm\n", "", "registry: vm/tdx.csv\n", "").Replace(shown("version: 1\n", "")),
			want: "pup unchecked", cause: "no registry (registry: FILE)",
		},
		{name: "no certificate", config: strings.Replace(shown(all, ""), "    tls_cert: vm/tls.pem\n", "", 1), want: "ppu unchecked", cause: "no TLS certificate given (tls_cert: FILE)"},
		{name: "broken collateral", config: shown(all, ""), changes: map[string]string{"vm/collateral.json": strings.Replace(collateral, `\"id\":\"TDX\"`, `\"id\":\"SGX\"`, 1)}, want: "fpp differs", cause: "collateral: "},
		{name: "collateral in another form", config: shown(all, ""), changes: map[string]string{"vm/collateral.json": `{"tcb_info": 1}`}, want: "error"},
		{name: "no collateral", config: shown(all, ""), changes: map[string]string{"vm/collateral.json": "[]"}, want: "error"},
		{name: "a nonce", config: shown(all, "    nonce: '00'\n"), want: "ppf differs", cause: "nonce"},
		{name: "Intel's root", config: strings.Replace(shown(all, ""), "    intel_root: vm/test-root.pem\n", "", 1), want: "fpp differs", cause: "pck-chain"},
		{name: "too late", config: strings.Replace(shown(all, ""), "at: 2026", "at: 2046", 1), want: "fpp differs", cause: "valid until"},
		{name: "another TDX module", config: shown(all, "    mrseam: ['"+strings.Repeat("ab", 48)+"']\n"), want: "fpp differs", cause: "mr-seam"},
		{name: "a changed compose file", config: shown(all, ""), changes: map[string]string{"vm/docker-compose.yaml": compose + "# more\n"}, want: "pfp differs", cause: "compose: rtmr3"},
		{name: "another compose form", config: shown(all, ""), changes: map[string]string{"vm/docker-compose.yaml": compose + "\n"}, want: "pfp differs", cause: "with exactly one line break at its end"},
		{name: "another machine", config: shown(testrun.VM("", "vcpus")+"    vcpus: 4\n", ""), want: "pfp differs", cause: "rtmr0"},
		{name: "a machine size", config: shown(testrun.VM("", "vcpus")+"    vcpus: 4\n", ""), want: "pfp differs", cause: "proved tdx/harbor-vm/rtmr0 > vcpus-2"},
		{name: "another registry", config: shown(all, ""), changes: map[string]string{"vm/tdx.csv": strings.Replace(row, "prod,v0.3.0,", "prod,v0.3.0,00", 1)}, want: "error"},
		{name: "no quote", config: shown(all, ""), changes: map[string]string{"vm/cpu.html": "<html>nothing</html>"}, want: "error"},
		{name: "a short quote", config: shown(all, ""), changes: map[string]string{"vm/cpu.html": "<pre>" + page[strings.Index(page, "<pre>")+5:][:2000] + "</pre>"}, want: "fuu differs", cause: "quote"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res, err := run.Run(context.Background(), stages.Table(), testrun.Config(t, tc.config), run.Options{TestRootOK: true, Root: testrun.Demo(t, tc.changes)})
			if tc.want == "error" {
				if err == nil {
					t.Error("no error")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := verdicts(t, res.Report, "harbor-vm"); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
			text := ""
			for _, f := range res.Report.Findings {
				if f.Key.Kind() == "evidence" && f.Verdict != pipeline.Match {
					text += f.Note + "\n" + testrun.Causes(f) + "\n"
				}
			}
			if !strings.Contains(text, tc.cause) || tc.cause == "" && strings.TrimSpace(text) != "" {
				t.Errorf("no %q in:\n%s", tc.cause, text)
			}
		})
	}
}

// TestEvidenceBasis: registers are endorsed by an authentic quote, and only by
// one; a test root is told; what rests on an unconfirmed profile says so.
func TestEvidenceBasis(t *testing.T) {
	dir := testrun.Demo(t, nil)
	r := testrun.Run(t, dir, shown(testrun.VM(""), ""))
	if m := testrun.Measured(r, "evidence/harbor-vm/rtmr0"); m == nil || m.Basis != pipeline.Endorsed || !m.Value.Equal(testrun.Measured(r, "tdx/harbor-vm/rtmr0").Value) {
		t.Errorf("RTMR0 of an authentic quote: %+v", m)
	}
	if m := testrun.Measured(r, "evidence/harbor-vm/authentic/quote-signature"); m == nil || m.Value.String() != "pass" || m.Note == "" {
		t.Errorf("a check of its own: %+v", m)
	}
	warned := false
	for _, p := range r.Problems {
		warned = warned || p.Code == "evidence-test-root" && p.Level == pipeline.LevelWarning && strings.Contains(p.Msg, "vm/test-root.pem")
	}
	if !warned {
		t.Errorf("nothing says that a test root was used: %+v", r.Problems)
	}
	r = testrun.Run(t, dir, strings.Replace(shown(testrun.VM(""), ""), "    intel_root: vm/test-root.pem\n", "", 1))
	for _, k := range []pipeline.Key{"evidence/harbor-vm/rtmr0", "evidence/harbor-vm/expected", "evidence/harbor-vm/bound"} {
		if m := testrun.Measured(r, k); m == nil || m.Basis != pipeline.Copied {
			t.Errorf("%s of a quote that is not authentic: %+v", k, m)
		}
	}
	if f := testrun.Finding(t, r, "evidence/harbor-vm/expected"); !(f.Verdict == pipeline.Match && f.Open()) {
		t.Errorf("an unsigned quote's registers: %s, open %v", f.Verdict, f.Open())
	}
	r = testrun.Run(t, dir, shown(testrun.VM("    qemu: 10.9.0\n    patch_kernel: true\n"), ""))
	if f := testrun.Finding(t, r, "evidence/harbor-vm/expected"); f.Standing.Effective != pipeline.Assumed || r.Outcome != pipeline.OutcomeUnchecked {
		t.Errorf("resting on tables that nobody compared: %s, %s", f.Standing, r.Outcome)
	}
}

// TestEvidenceManifest: a published manifest is a group of its own.
func TestEvidenceManifest(t *testing.T) {
	dir := testrun.Demo(t, nil)
	config := "version: 1\nagainst: manifest.published.json\nallow_unchecked: ['**']\nevidence:\n  pod: {file: pod.hex, at: 2026-06-01T00:00:00Z, intel_root: vm/test-root.pem%s}\n"
	platform, err := fake.NewPlatform("demo", time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2035, 1, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	r := testrun.Run(t, dir, testrun.Read(t, dir, "retally.yaml"))
	var body tdxquote.Body
	body.MRSEAM = testrun.Finding(t, r, "tdx/Metal-QEMU-TDX-GPU/mrseam").Got.Digest()
	body.MRTD = testrun.Measured(r, "tdx/metal-qemu-tdx-gpu/mrtd").Value.Digest()
	for i := range body.RTMR {
		body.RTMR[i] = testrun.Measured(r, pipeline.NewKey("tdx", "metal-qemu-tdx-gpu", fmt.Sprintf("rtmr%d", i))).Value.Digest()
	}
	published, err := manifest.Parse("manifest.published.json", []byte(testrun.Read(t, dir, "manifest.published.json")))
	if err != nil {
		t.Fatal(err)
	}
	copy(body.MRCONFIGID[:], published.Policies()[0].Hash.Bytes())
	xfam, err := hex.DecodeString(published.TDX()[0].Xfam)
	if err != nil {
		t.Fatal(err)
	}
	copy(body.XFAM[:], xfam)
	quote := func(b tdxquote.Body) string {
		raw, err := platform.Quote(b, fake.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	dir = testrun.Demo(t, map[string]string{"pod.hex": quote(body)})
	if got := verdicts(t, testrun.Run(t, dir, fmt.Sprintf(config, "")), "pod"); !strings.HasPrefix(got, "puu") {
		t.Errorf("the manifest's machine, whose entry demands more than a quote's registers show: %s", got)
	}
	for name, change := range map[string]func(*tdxquote.Body){
		"a policy of nobody's": func(b *tdxquote.Body) { b.MRCONFIGID[0] ^= 1 },
		"more than the hash":   func(b *tdxquote.Body) { b.MRCONFIGID[47] = 1 },
		"another xfam":         func(b *tdxquote.Body) { b.XFAM[1] ^= 2 },
	} {
		b := body
		change(&b)
		dir := testrun.Demo(t, map[string]string{"pod.hex": quote(b)})
		if got := verdicts(t, testrun.Run(t, dir, fmt.Sprintf(config, "")), "pod"); got != "pfu differs" {
			t.Errorf("%s: %s", name, got)
		}
	}
	body.RTMR[1] = body.MRTD
	dir = testrun.Demo(t, map[string]string{"pod.hex": quote(body)})
	if got := verdicts(t, testrun.Run(t, dir, fmt.Sprintf(config, "")), "pod"); got != "pfu differs" {
		t.Errorf("another kernel: %s", got)
	}
	// SecretVM's machines are in no Contrast manifest.
	if got := verdicts(t, testrun.Run(t, dir, fmt.Sprintf(config, ", profile: secretvm")), "pod"); !strings.HasPrefix(got, "puu") {
		t.Errorf("a SecretVM: %s", got)
	}
}

// TestEvidenceCapture judges a capture folder by the certificate of its own
// session, and lists the folder as one input.
func TestEvidenceCapture(t *testing.T) {
	dir := testrun.Demo(t, nil)
	block, _ := pem.Decode([]byte(testrun.Read(t, dir, "vm/tls.pem")))
	c := &capture.Capture{
		Target: "harbor-vm.example:29343", At: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC),
		Pages:       []capture.Page{{Kind: capture.CPU, Path: "/cpu.html", Status: 200, Body: []byte(testrun.Read(t, dir, "vm/cpu.html")), Connection: 1}},
		Connections: []capture.Connection{{Number: 1, Version: "TLS 1.3", ServerName: "harbor-vm.example", Chain: [][]byte{block.Bytes}}},
	}
	if err := c.Write(filepath.Join(dir, "taken")); err != nil {
		t.Fatal(err)
	}
	config := strings.NewReplacer("file: vm/cpu.html", "file: taken", "    tls_cert: vm/tls.pem\n", "").Replace(shown(testrun.VM(""), ""))
	count := new(run.Counter)
	res, err := run.Run(context.Background(), stages.Table(), testrun.Config(t, config), run.Options{TestRootOK: true, Root: dir, Counter: count})
	if err != nil {
		t.Fatal(err)
	}
	if got := verdicts(t, res.Report, "harbor-vm"); got != "ppp match" {
		t.Errorf("got %s", got)
	}
	listed := false
	for _, in := range res.Report.Inputs {
		listed = listed || in.File == "taken" && in.Size > 0 && !in.Digest.IsZero()
	}
	if !listed {
		t.Errorf("the capture is not among the inputs: %+v", res.Report.Inputs)
	}
	// A capture that was changed after it was taken is no capture.
	page := filepath.Join(dir, "taken", "cpu.html")
	if err := os.WriteFile(page, append([]byte(testrun.Read(t, dir, "taken/cpu.html")), ' '), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := run.Run(context.Background(), stages.Table(), testrun.Config(t, config), run.Options{Root: dir}); err == nil || !strings.Contains(err.Error(), "cpu.html") {
		t.Errorf("a changed capture: %v", err)
	}
}

// TestRealSecretVM follows SecretVM's procedure on a real machine's quote with
// its compose file and the published registry, in a run.
func TestRealSecretVM(t *testing.T) {
	quote, registry := testenv.Vectors(t, "published/tdx/quotes/secretvm-small-v0.0.25.quote.hex"), testenv.Vectors(t, "published/quotes/registry/tdx.csv")
	compose := testenv.Vectors(t, "published/tdx/quotes/secretvm-small-v0.0.25.compose.yaml")
	config := fmt.Sprintf("version: 1\nregistry: %s\ncompose: %s\nevidence:\n  small: {file: %s, profile: secretvm, at: 2026-06-01T00:00:00Z}\n", registry, compose, quote)
	r := testrun.Run(t, t.TempDir(), config)
	if got := verdicts(t, r, "small"); got != "ppu unchecked" {
		t.Errorf("got %s", got)
	}
	if m := testrun.Measured(r, "evidence/small/expected"); m == nil || m.Note != "release small prod v0.0.25" {
		t.Errorf("release: %+v", m)
	}
	changed := filepath.Join(t.TempDir(), "compose.yaml")
	data := []byte(testrun.Read(t, "/", compose))
	data[0] ^= 1
	if err := os.WriteFile(changed, data, 0o644); err != nil {
		t.Fatal(err)
	}
	r = testrun.Run(t, t.TempDir(), strings.Replace(config, compose, changed, 1))
	f := testrun.Finding(t, r, "evidence/small/expected")
	if f.Verdict != pipeline.Differs || len(f.Why) == 0 || f.Why[0].Hint != "evidence-compose" || !strings.Contains(f.Why[0].Note, "542733230d9c7556") {
		t.Errorf("a changed compose byte: %s\n%s", f.Verdict, testrun.Causes(f))
	}
	key, err := fake.Key(elliptic.P256(), "somebody")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := fake.Issue(fake.Certificate{Name: "somebody", From: time.Unix(0, 0), Until: time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC), Serial: 1}, key, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	tls := filepath.Join(t.TempDir(), "tls.pem")
	if err := os.WriteFile(tls, fake.PEM(cert), 0o644); err != nil {
		t.Fatal(err)
	}
	r = testrun.Run(t, t.TempDir(), strings.Replace(config, ", at:", ", tls_cert: "+tls+", at:", 1))
	if f := testrun.Finding(t, r, "evidence/small/bound"); f.Verdict != pipeline.Differs || !strings.Contains(testrun.Causes(f), fmt.Sprintf("%x", sha256.Sum256(cert.RawSubjectPublicKeyInfo))) {
		t.Errorf("another certificate: %s\n%s", f.Verdict, testrun.Causes(f))
	}
}

// TestRealDstack: an event log beside the quote folds to its registers.
func TestRealDstack(t *testing.T) {
	config := "version: 1\nevidence:\n  d: {file: " + testenv.Vectors(t, "published/quotes/tdx/tdx-lite-getquote.json") + ", at: 2026-06-01T00:00:00Z}\n"
	r := testrun.Run(t, t.TempDir(), config)
	if got := verdicts(t, r, "d"); got != "puu unchecked" {
		t.Errorf("got %s", got)
	}
	for _, k := range []pipeline.Key{"evidence/d/expected/event-log", "evidence/d/expected/event-log:4"} {
		if m := testrun.Measured(r, k); m == nil || m.Value.String() != "pass" {
			t.Errorf("%s: %+v", k, m)
		}
	}
	if !strings.Contains(testrun.Finding(t, r, "evidence/d/expected").Note, "none was given to compare") {
		t.Errorf("note %q", testrun.Finding(t, r, "evidence/d/expected").Note)
	}
}

// TestEvidenceVMConfig recomputes a real dstack machine's registers from its
// vm_config: beside the quote it is the sender's word, and with the image that
// is expected it counts.
func TestEvidenceVMConfig(t *testing.T) {
	const image, other = "e6f5cfec20c02e7b97baa213d0f718020b55e040172d90ccbcb946d56c8b09db", "86b0e55f2fa8e4fb69d890f14f54d5612707646e2573d54e0d2ddaaade77caa9"
	quote := testenv.Vectors(t, "published/tdx/quotes/dstack-0.6.0-lite.json")
	var doc map[string]string
	if err := json.Unmarshal([]byte(testrun.Read(t, "/", quote)), &doc); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("own.json", doc["vm_config"])
	write("three.json", strings.Replace(doc["vm_config"], `"cpu_count":2`, `"cpu_count":3`, 1))
	write("bare.hex", doc["quote"])
	write("broken.json", "{")
	const fits = "fits as a whole: mrtd, rtmr0, rtmr1, rtmr2"
	for _, tc := range []struct{ name, file, fields, want, text string }{
		{"the sender's word", quote, "", "puu unchecked", "the document comes from the sender; say which image you expect (os_image_hash: HEX; the sender's is " + image},
		{"the image", quote, "os_image_hash: " + image, "puu unchecked", fits},
		{"the image, with its algorithm", quote, "os_image_hash: 'sha256:" + strings.ToUpper(image) + "'", "puu unchecked", fits},
		{"a document of its own", "bare.hex", "profile: dstack, vm_config: own.json, os_image_hash: " + image, "puu unchecked", fits},
		{"in the reply", "bare.hex", "profile: dstack, vm_config: " + quote + ", os_image_hash: " + image, "puu unchecked", fits},
		{"a document without the image", quote, "vm_config: own.json", "puu unchecked", "the document comes from the sender"},
		{"another image", quote, "os_image_hash: " + other, "pfu differs", "expected is " + other},
		{"another machine", quote, "vm_config: three.json, os_image_hash: " + image, "pfu differs", "rtmr0 is f8438db3"},
		{"none", "bare.hex", "os_image_hash: " + image, "error", "no vm_config beside the quote"},
		{"broken", quote, "vm_config: broken.json", "error", "broken.json"},
	} {
		config := fmt.Sprintf("version: 1\nevidence:\n  d: {file: %s, at: 2026-06-01T00:00:00Z, %s}\n", tc.file, tc.fields)
		res, err := run.Run(context.Background(), stages.Table(), testrun.Config(t, config), run.Options{Root: dir})
		if tc.want == "error" {
			if err == nil || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%s: error %v, want %q", tc.name, err, tc.text)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		f := testrun.Finding(t, res.Report, "evidence/d/expected")
		text := f.Note + "\n" + testrun.Causes(f)
		for _, m := range res.Report.Measurements {
			text += "\n" + m.Note
		}
		for _, p := range res.Report.Problems {
			text += "\n" + p.Msg
			if strings.Contains(f.Note, p.Msg[strings.LastIndex(p.Msg, ": ")+2:]) {
				t.Errorf("%s: said twice: %s", tc.name, p.Msg)
			}
		}
		if got := verdicts(t, res.Report, "d"); got != tc.want || !strings.Contains(text, tc.text) {
			t.Errorf("%s: got %s, want %s with %q in\n%s", tc.name, got, tc.want, tc.text, text)
		}
	}
	lines := run.Plan(stages.Table(), testrun.Config(t, "version: 1\nevidence:\n  d: {file: q, at: 2026-06-01T00:00:00Z, vm_config: v.json, os_image_hash: "+image+"}\n"))
	planned := false
	for _, l := range lines {
		planned = planned || l.Key == "evidence/d/expected" && l.From == "v.json, os_image_hash "+image
	}
	if !planned {
		t.Errorf("plan: %+v", lines)
	}
}
