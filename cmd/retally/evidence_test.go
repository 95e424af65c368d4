package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
)

const evidenceAt = "2026-06-01T00:00:00Z"

// judged is what tests read of a result.
type judged struct {
	Profile  string
	Verdict  string
	AtNow    bool     `json:"at_now"`
	TestRoot []string `json:"test_roots"`
	Asked    []string
	Next     string
	Claims   struct{ Release string }

	Authentic, Expected, Bound struct {
		Verdict string
		Reasons []string
	}
	Error struct {
		Code    int
		Message string
		Hint    string
	}
}

func (j *judged) short() string {
	var b strings.Builder
	for _, v := range []string{j.Authentic.Verdict, j.Expected.Verdict, j.Bound.Verdict} {
		b.WriteString((v + "-")[:1])
	}
	return b.String()
}

func (j *judged) all() string {
	return strings.Join(j.Authentic.Reasons, "\n") + "\n--\n" + strings.Join(j.Expected.Reasons, "\n") + "\n--\n" + strings.Join(j.Bound.Reasons, "\n") + "\n--\n" + j.Error.Message
}

// verifyEvidence runs evidence verify in process with JSON and checks that the
// exit code follows from the verdicts.
func verifyEvidence(t *testing.T, stdin []byte, args ...string) (int, *judged) {
	t.Helper()
	var out, errOut bytes.Buffer
	args = append([]string{"evidence", "verify", "-o", "json"}, args...)
	code := execute(context.Background(), args, func(string) string { return "" }, bytes.NewReader(stdin), &out, &errOut)
	var j judged
	if err := json.Unmarshal(out.Bytes(), &j); err != nil {
		t.Fatalf("%q: exit code %d: %v\n%s%s", args, code, err, out.String(), errOut.String())
	}
	want := map[string]int{"pass": 0, "fail": 1, "unchecked": 3, "": 2}[j.Verdict]
	if code != want {
		t.Errorf("%q: exit code %d with the verdict %q", args, code, j.Verdict)
	}
	return code, &j
}

func writeFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func readVector(t *testing.T, rel string) []byte {
	t.Helper()
	data, err := os.ReadFile(testenv.Vectors(t, rel))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestEvidenceRealMachine follows SecretVM's guide on a real machine's quote.
func TestEvidenceRealMachine(t *testing.T) {
	quote := testenv.Vectors(t, "published/tdx/quotes/secretvm-small-v0.0.25.quote.hex")
	registry := testenv.Vectors(t, "published/quotes/registry/tdx.csv")
	compose := testenv.Vectors(t, "published/tdx/quotes/secretvm-small-v0.0.25.compose.yaml")
	text := readVector(t, "published/tdx/quotes/secretvm-small-v0.0.25.compose.yaml")
	text[0] ^= 1
	changed := writeFile(t, "docker-compose.yaml", text)

	other, _ := ownCertificate(t, "other")
	cert := writeFile(t, "cert.pem", fake.PEM(other))

	// MRTD of one row, RTMR0 of another one: each value is published.
	rows := strings.Split(string(readVector(t, "published/quotes/registry/tdx.csv")), "\n")
	mixed := mixRows(t, rows)
	given := func(mrtd, rtmr0 string) []string { return []string{"--mrtd", mrtd, "--rtmr0", rtmr0} }
	fields := strings.Split(rows[7], ",") // line 8: small prod v0.0.25
	foreign := ""
	for _, row := range rows[1:] {
		if f := strings.Split(row, ","); len(f) > 4 && f[3] != fields[3] {
			foreign = f[4]
		}
	}

	for _, tt := range []struct {
		name string
		args []string
		want string
		code int
		text string
	}{
		{"the guide without the connection", []string{"--registry", registry, "--docker-compose", compose}, "ppu", 3, "tls: no TLS certificate given"},
		{"the guide", []string{"--registry", registry, "--docker-compose", compose, "--only", "authentic,expected"}, "ppu", 0, "small prod v0.0.25 (line 8) fits as a whole: mrtd, rtmr0, rtmr1, rtmr2, rtmr3"},
		{"the compose file's digest", []string{"--registry", registry, "--docker-compose", digest.SHA256.Sum(readVector(t, "published/tdx/quotes/secretvm-small-v0.0.25.compose.yaml")).String(), "--only", "authentic,expected"}, "ppu", 0, "fits as a whole: mrtd, rtmr0, rtmr1, rtmr2, rtmr3"},
		{"a changed compose byte", []string{"--registry", registry, "--docker-compose", changed}, "pfu", 1, "compose: rtmr3 is 542733230d9c7556"},
		{"another certificate", []string{"--registry", registry, "--docker-compose", compose, "--tls-cert", cert}, "ppf", 1, "somebody else's key ends this connection"},
		{"mixed rows", []string{"--registry", mixed, "--docker-compose", compose}, "pfu", 1, "no set of values fits as a whole"},
		{"mixed registers", append([]string{"--profile", "secretvm"}, given(fields[3], foreign)...), "pfu", 1, "rtmr0 is 671800f0"},
		{"two registers given", append([]string{"--profile", "secretvm"}, given(fields[3], fields[4])...), "puu", 3, "the registers given fits as a whole: mrtd, rtmr0"},
		{"no compose file", []string{"--registry", registry}, "puu", 3, "no compose file given"},
		{"rootfs and compose alone", []string{"--rootfs", "sha256:" + strings.TrimSpace(fields[7]), "--docker-compose", compose}, "puu", 3, "the files given fits as a whole: rtmr3"},
		{"another rootfs", []string{"--rootfs", cert, "--docker-compose", compose}, "pfu", 1, "compose: rtmr3 is 542733230d9c7556"},
		{"module not allowed", []string{"--mrseam", strings.Repeat("00", 48)}, "fuu", 1, "mr-seam"},
		{"nothing but the quote", nil, "puu", 3, "quote-signature"},
		{"nothing but the quote, and no more asked for", []string{"--only", "authentic"}, "puu", 0, "quote-signature"},
		{"expected only, of which nothing is known", []string{"--only", "expected"}, "puu", 3, "nothing to compare with"},
	} {
		code, got := verifyEvidence(t, nil, append([]string{quote, "--at", evidenceAt}, tt.args...)...)
		if got.short() != tt.want || code != tt.code || !strings.Contains(got.all(), tt.text) {
			t.Errorf("%s: %s, exit code %d, want %s, %d with %q:\n%s", tt.name, got.short(), code, tt.want, tt.code, tt.text, got.all())
		}
	}
	if _, got := verifyEvidence(t, nil, quote, "--at", evidenceAt, "--registry", registry, "--docker-compose", changed); !strings.Contains(strings.Join(got.Expected.Reasons, ""), changed) {
		t.Errorf("the compose file is not named: %q", got.Expected.Reasons)
	}
	if _, got := verifyEvidence(t, readVector(t, "published/tdx/quotes/secretvm-small-v0.0.25.quote.hex"), "-", "--only", "authentic,expected", "--registry", registry, "--docker-compose", compose); got.Verdict != "pass" || !got.AtNow || got.Claims.Release != "small prod v0.0.25" {
		t.Errorf("from stdin, now: %+v", got)
	}
}

// mixRows writes a registry in which the row that fits has the RTMR0 of a row
// with another MRTD.
func mixRows(t *testing.T, rows []string) string {
	t.Helper()
	var out []string
	for i, row := range rows {
		f := strings.Split(row, ",")
		if i > 0 && len(f) > 4 {
			for _, other := range rows[1:] {
				if o := strings.Split(other, ","); len(o) > 4 && o[3] != f[3] && o[4] != f[4] {
					f[4] = o[4]
					break
				}
			}
		}
		out = append(out, strings.Join(f, ","))
	}
	return writeFile(t, "mixed.csv", []byte(strings.Join(out, "\n")))
}

// TestEvidenceMeasured: registers computed elsewhere come in as sets.
func TestEvidenceMeasured(t *testing.T) {
	quote := testenv.Vectors(t, "published/tdx/quotes/secretvm-small-v0.0.25.quote.hex")
	raw, err := hex.DecodeString(strings.TrimSpace(string(readVector(t, "published/tdx/quotes/secretvm-small-v0.0.25.quote.hex"))))
	if err != nil {
		t.Fatal(err)
	}
	q, err := tdxquote.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	registers := map[string]any{"mrtd": q.Body.MRTD.Hex(), "mr_image": "00", "notes": []string{}}
	for i, r := range q.Body.RTMR {
		registers[fmt.Sprintf("rtmr%d", i)] = r.Hex()
	}
	encode := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	one := encode(registers)
	other := map[string]any{"mrtd": digest.SHA384.Sum(nil).Hex(), "rtmr0": registers["rtmr0"], "rtmr3": nil}
	list := encode([]any{other, registers})
	contrast := func(rtmr0 string) []byte {
		return encode(map[string]any{"Policies": map[string]any{}, "ReferenceValues": map[string]any{"tdx": []any{map[string]any{
			"Platform": "Metal-QEMU-TDX", "MrTd": registers["mrtd"], "MrSeam": q.Body.MRSEAM.Hex(),
			"Rtmrs": []any{rtmr0, registers["rtmr1"], registers["rtmr2"], registers["rtmr3"]},
		}}}})
	}
	for _, tt := range []struct {
		name, flag string
		data       []byte
		want, text string
	}{
		{"one machine", "--measured", one, "pass", "fits as a whole: mrtd, rtmr0, rtmr1, rtmr2, rtmr3"},
		{"a list", "--measured", list, "pass", "list.json/1 fits as a whole"},
		{"another machine", "--measured", encode(other), "fail", "mrtd is ba87a347"},
		{"not registers", "--measured", []byte(`{"a":1}`), "", "no register"},
		{"a number", "--measured", []byte(`[{"mrtd":1}]`), "", "/0/mrtd: a value of type number"},
		{"short hex", "--measured", []byte(`{"mrtd":"00"}`), "", "/mrtd: "},
		// Its registers fit; what the host bound, it says nothing of.
		{"manifest without policies", "--manifest", contrast(registers["rtmr0"].(string)), "unchecked", "lists no policy"},
		{"manifest", "--manifest", contrast(registers["rtmr0"].(string)), "unchecked", "Metal-QEMU-TDX (line 1) fits as a whole: mrtd, rtmr0, rtmr1, rtmr2, rtmr3, mrseam"},
		{"manifest of another machine", "--manifest", contrast(digest.SHA384.Sum(nil).Hex()), "fail", "rtmr0 is 671800f0"},
		{"manifest without TDX", "--manifest", []byte(`{"Policies":{},"ReferenceValues":{"snp":[]}}`), "", "has no TDX reference value"},
	} {
		name := "list.json"
		path := writeFile(t, name, tt.data)
		_, got := verifyEvidence(t, nil, quote, "--at", evidenceAt, "--profile", "tdx", tt.flag, path)
		if got.Expected.Verdict != tt.want || !strings.Contains(got.all(), tt.text) {
			t.Errorf("%s: %q, want %q with %q\n%s", tt.name, got.Expected.Verdict, tt.want, tt.text, got.all())
		}
	}
}

// TestEvidenceDstack: all registers of a real dstack machine as the specification
// says, from its vm_config, its event log, and what the caller expects.
func TestEvidenceDstack(t *testing.T) {
	quote := testenv.Vectors(t, "published/tdx/quotes/dstack-0.6.0-lite.json")
	const image, compose = "e6f5cfec20c02e7b97baa213d0f718020b55e040172d90ccbcb946d56c8b09db", "86b0e55f2fa8e4fb69d890f14f54d5612707646e2573d54e0d2ddaaade77caa9"
	var doc map[string]string
	if err := json.Unmarshal(readVector(t, "published/tdx/quotes/dstack-0.6.0-lite.json"), &doc); err != nil {
		t.Fatal(err)
	}
	config := doc["vm_config"]
	own := writeFile(t, "vm_config.json", []byte(config))
	changed := func(old, new string) string {
		if !strings.Contains(config, old) {
			t.Fatalf("vm_config has no %s", old)
		}
		return writeFile(t, "vm_config.json", []byte(strings.Replace(config, old, new, 1)))
	}
	for _, tt := range []struct {
		name string
		args []string
		want string
		text string
	}{
		{"nothing given", nil, "puu", "gives the quote's mrtd, rtmr0, rtmr1, rtmr2, but the document comes from the sender"},
		{"image and compose", []string{"--os-image-hash", image, "--docker-compose", "sha256:" + compose}, "ppu", "fits as a whole: mrtd, rtmr0, rtmr1, rtmr2"},
		{"vm_config in a file", []string{"--vm-config", own, "--os-image-hash", image, "--docker-compose", "sha256:" + compose}, "ppu", "fits as a whole: mrtd, rtmr0, rtmr1, rtmr2"},
		{"vm_config in the reply", []string{"--vm-config", quote, "--os-image-hash", image, "--docker-compose", "sha256:" + compose}, "ppu", "fits as a whole: mrtd, rtmr0, rtmr1, rtmr2"},
		{"vm_config without the image", []string{"--vm-config", own, "--docker-compose", "sha256:" + compose}, "puu", "the document comes from the sender"},
		{"another image", []string{"--os-image-hash", compose, "--docker-compose", "sha256:" + compose}, "pfu", "expected is 86b0e55f"},
		{"another compose document", []string{"--os-image-hash", image, "--docker-compose", "sha256:" + image}, "pfu", "the machine runs 86b0e55f"},
		{"another number of CPUs", []string{"--vm-config", changed(`"cpu_count":2`, `"cpu_count":3`), "--os-image-hash", image, "--docker-compose", "sha256:" + compose}, "pfu", "rtmr0 is f8438db3"},
		{"another image's hash in the document", []string{"--vm-config", changed(image, compose), "--os-image-hash", compose, "--docker-compose", "sha256:" + compose}, "pfu", "os_image_hash is 86b0e55f"},
	} {
		_, got := verifyEvidence(t, nil, append([]string{quote, "--at", evidenceAt}, tt.args...)...)
		if got.Profile != "dstack" || got.short() != tt.want || !strings.Contains(got.all(), tt.text) {
			t.Errorf("%s: %s, want %s with %q\n%s", tt.name, got.short(), tt.want, tt.text, got.all())
		}
	}
	// A machine whose sender gives no measurement document.
	_, got := verifyEvidence(t, nil, testenv.Vectors(t, "published/quotes/tdx/quote-report.json"), "--at", evidenceAt)
	if got.short() != "puu" || !strings.Contains(got.all(), "has no measurement document") {
		t.Errorf("without a measurement document: %s\n%s", got.short(), got.all())
	}
}

// lines reads a file of JSON lines.
func jsonLines[T any](t *testing.T, rel string) []T {
	t.Helper()
	var out []T
	s := bufio.NewScanner(bytes.NewReader(readVector(t, rel)))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var v T
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

// expectMutant holds an exit code against a recorded verdict: accept is 0,
// reject 1, or 2 where what is left is no evidence any more.
func expectMutant(t *testing.T, id, want string, code int, got *judged) {
	t.Helper()
	accepted := code == 0
	switch {
	case want == "any":
	case want == "accept" && !accepted, want == "reject" && code != 1 && code != 2:
		t.Errorf("%s: exit code %d, want %s\n%s", id, code, want, got.all())
	case code == 1 && got.Authentic.Verdict != "fail" && got.Bound.Verdict != "fail":
		t.Errorf("%s: rejected, but authentic is %s and bound %s", id, got.Authentic.Verdict, got.Bound.Verdict)
	}
}

// TestEvidenceMutants gives every published mutant to the command line.
func TestEvidenceMutants(t *testing.T) {
	count := map[string]int{}
	for _, m := range jsonLines[struct {
		ID, Base, Now, Want string
		Op                  struct {
			Flip, Set, Range []int
			Truncate         *int
			CopyFrom         string `json:"copy_from"`
		}
		SHA256 string `json:"mutant_sha256"`
	}](t, "published/quotes/mutants.jsonl") {
		if !strings.HasPrefix(m.Base, "tdx") {
			continue // the reports are of a guest under debug, which fails here whatever is changed: package snpreport has them
		}
		raw := readVector(t, "published/quotes/tdx/"+m.Base+".bin")
		switch op := m.Op; {
		case op.Flip != nil:
			raw[op.Flip[0]] ^= 1 << op.Flip[1]
		case op.Set != nil:
			raw[op.Set[0]] = byte(op.Set[1])
		case op.Truncate != nil:
			raw = raw[:*op.Truncate]
		case op.CopyFrom != "":
			copy(raw[op.Range[0]:op.Range[1]], readVector(t, "published/quotes/tdx/"+op.CopyFrom+".bin")[op.Range[0]:op.Range[1]])
		}
		if got := digest.SHA256.Sum(raw).Hex(); got != m.SHA256 {
			t.Fatalf("%s: mutant is %s, want %s", m.ID, got, m.SHA256)
		}
		code, got := verifyEvidence(t, raw, "-", "--only", "authentic", "--at", m.Now+"T00:00:00Z")
		expectMutant(t, m.ID, m.Want, code, got)
		count["tdx "+m.Want]++
	}
	for _, m := range jsonLines[struct {
		ID, Base, Want string
		Now            int64
		Op             struct {
			Flip  []int
			Clear string            `json:"collateral_clear"`
			Set   []json.RawMessage `json:"collateral_set"`
			Of    string            `json:"collateral_of"`
		}
	}](t, "published/quotes/dcap_mutants.jsonl") {
		raw := readVector(t, "published/quotes/tdx/"+m.Base+".bin")
		base := m.Base
		if m.Op.Of != "" {
			base = m.Op.Of
		}
		var doc map[string]string
		if err := json.Unmarshal(readVector(t, "published/quotes/tdx/"+base+".collateral.json"), &doc); err != nil {
			t.Fatal(err)
		}
		switch op := m.Op; {
		case op.Flip != nil:
			raw[op.Flip[0]] ^= 1 << op.Flip[1]
		case op.Clear != "":
			doc[op.Clear] = ""
		case op.Set != nil:
			var member, char string
			var at int
			for i, dst := range []any{&member, &at, &char} {
				if err := json.Unmarshal(op.Set[i], dst); err != nil {
					t.Fatal(err)
				}
			}
			text := []byte(doc[member])
			text[at] = char[0]
			doc[member] = string(text)
		}
		collateral, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		code, got := verifyEvidence(t, raw, "-", "--only", "authentic", "--collateral", writeFile(t, "collateral.json", collateral), "--at", time.Unix(m.Now, 0).UTC().Format(time.RFC3339))
		expectMutant(t, m.ID, m.Want, code, got)
		count["dcap "+m.Want]++
	}
	var gpu struct {
		Nonce    string `json:"nonce"`
		Arch     string `json:"arch"`
		Evidence []struct {
			Certificate []byte `json:"certificate"`
			Evidence    []byte `json:"evidence"`
		} `json:"evidence_list"`
	}
	for _, m := range jsonLines[struct {
		ID, Want string
		Op       struct {
			Flip  []int  `json:"evidence_flip"`
			Set   []int  `json:"cert_pem_set"`
			Nonce string `json:"nonce"`
		}
	}](t, "published/quotes/gpu/mutants.jsonl") {
		if err := json.Unmarshal(readVector(t, "published/quotes/gpu/gpu_attest.json"), &gpu); err != nil {
			t.Fatal(err)
		}
		args := []string{"-", "--at", evidenceAt, "--only", "authentic"}
		switch op := m.Op; {
		case op.Flip != nil:
			gpu.Evidence[0].Evidence[op.Flip[0]] ^= 1 << op.Flip[1]
		case op.Set != nil:
			gpu.Evidence[0].Certificate[op.Set[0]] = byte(op.Set[1])
		case op.Nonce != "":
			args = append(args, "--only", "bound", "--nonce", op.Nonce)
		}
		data, err := json.Marshal(gpu)
		if err != nil {
			t.Fatal(err)
		}
		code, got := verifyEvidence(t, data, args...)
		expectMutant(t, m.ID, m.Want, code, got)
		count["gpu "+m.Want]++
	}
	t.Logf("mutants: %v", count)
	for _, kind := range []string{"tdx", "dcap", "gpu"} {
		if count[kind+" accept"] == 0 || count[kind+" reject"] == 0 {
			t.Errorf("no %s mutants of both kinds", kind)
		}
	}
}

// ownMachine is a machine of nobody's: a quote under a test root, and what it is
// held against.
type ownMachine struct {
	files map[string][]byte
	dir   string
	cert  tls.Certificate
}

func (m *ownMachine) path(name string) string { return filepath.Join(m.dir, name) }

// pages serves the machine's attestation pages.
func (m *ownMachine) pages() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/cpu.html" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(m.files["cpu.html"])
	})
}

var ownFrom, ownUntil = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2056, 1, 1, 0, 0, 0, 0, time.UTC)

// makeMachine writes the files of a machine into a folder.
func makeMachine(dir string) (*ownMachine, error) {
	p, err := fake.NewPlatform("command line", ownFrom, ownUntil)
	if err != nil {
		return nil, err
	}
	cert, pair, err := makeCertificate("machine")
	if err != nil {
		return nil, err
	}
	other, _, err := makeCertificate("middle")
	if err != nil {
		return nil, err
	}
	g, err := fake.NewGPU("command line", ownFrom, ownUntil)
	if err != nil {
		return nil, err
	}
	nonce := sha256.Sum256([]byte("GPU nonce"))
	gpu, err := fake.Evidence(nonce, nil, g)
	if err != nil {
		return nil, err
	}
	compose, rootfs := []byte("services: {web: {image: example}}\n"), []byte("root file system")
	body := tdxquote.Body{MRTD: digest.SHA384.Sum([]byte("mrtd"))}
	for i := range 3 {
		body.RTMR[i] = digest.SHA384.Sum([]byte{byte(i)})
	}
	var rtmr3 [48]byte
	for _, event := range []digest.Digest{digest.SHA256.Sum(compose), digest.SHA256.Sum(rootfs)} {
		rtmr3 = [48]byte(digest.SHA384.Sum(append(append(rtmr3[:], event.Bytes()...), make([]byte, 16)...)).Bytes())
	}
	if body.RTMR[3], err = digest.FromBytes(digest.SHA384, rtmr3[:]); err != nil {
		return nil, err
	}
	spki := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	copy(body.ReportData[:], spki[:])
	raw, err := p.Quote(body, fake.Options{})
	if err != nil {
		return nil, err
	}
	served := body
	if served.MRSERVICETD, err = digest.ParseHex(digest.SHA384, strings.Repeat("ab", 48)); err != nil {
		return nil, err
	}
	service, err := p.Quote(served, fake.Options{Version: 5, BodyType: tdxquote.TD15})
	if err != nil {
		return nil, err
	}
	copy(body.ReportData[32:], nonce[:])
	withGPU, err := p.Quote(body, fake.Options{})
	if err != nil {
		return nil, err
	}
	collateral, err := p.Collateral(fake.Levels{})
	if err != nil {
		return nil, err
	}
	outdated, err := p.Collateral(fake.Levels{Status: tdxquote.OutOfDate})
	if err != nil {
		return nil, err
	}
	amd, err := fake.NewSNPPlatform("command line", ownFrom, ownUntil, fake.SNPOptions{AMDNames: true})
	if err != nil {
		return nil, err
	}
	report, err := amd.Report(snpreport.Report{Measurement: digest.SHA384.Sum([]byte("launch"))}, func(r *snpreport.Report) { copy(r.ReportData[:], spki[:]) })
	if err != nil {
		return nil, err
	}
	crl, err := amd.CRL(ownFrom, ownUntil)
	if err != nil {
		return nil, err
	}
	amdRoot := amd.Root()
	header := "template_name,vm_type,artifacts_ver,mrtd,rtmr0,rtmr1,rtmr2,rootfs_data\n"
	row := func(version string, rtmr0 digest.Digest) string {
		return fmt.Sprintf("small,prod,%s,%s,%s,%s,%s,%s\n", version, body.MRTD.Hex(), rtmr0.Hex(), body.RTMR[1].Hex(), body.RTMR[2].Hex(), digest.SHA256.Sum(rootfs).Hex())
	}
	text := hex.EncodeToString(raw)
	m := &ownMachine{dir: dir, cert: pair, files: map[string][]byte{
		"quote.bin": raw, "quote.hex": []byte(text + "\n"), "cpu.html": []byte("<html><body><pre>" + text + "</pre></body></html>\n"),
		"report.bin": report, "vcek.der": amd.Certificates().VCEK.Raw, "amd.pem": slices.Concat(fake.PEM(amdRoot.ARK), fake.PEM(amdRoot.ASK), fake.PEM(amdRoot.ASVK)), "crl.der": crl,
		"with-gpu.bin": withGPU, "service.bin": service, "gpu.json": gpu, "gpu-root.pem": fake.PEM(g.Root),
		"root.pem": fake.PEM(p.Root), "cert.pem": fake.PEM(cert), "other.pem": fake.PEM(other),
		"docker-compose.yaml": compose, "rootfs.iso": rootfs,
		"tdx.csv":         []byte(header + row("v0.9.0", digest.SHA384.Sum(nil)) + row("v1.0.0", body.RTMR[0])),
		"other.csv":       []byte(header + row("v0.9.0", digest.SHA384.Sum(nil))),
		"collateral.json": collateral, "outdated.json": outdated,
		"measured.json": []byte(fmt.Sprintf(`{"mrtd":%q,"rtmr0":%q,"rtmr1":%q,"rtmr2":%q,"rtmr3":%q}`, body.MRTD.Hex(), body.RTMR[0].Hex(), body.RTMR[1].Hex(), body.RTMR[2].Hex(), body.RTMR[3].Hex())),
	}}
	for name, data := range m.files {
		if err := os.WriteFile(m.path(name), data, 0o644); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func makeCertificate(name string) (*x509.Certificate, tls.Certificate, error) {
	key, err := fake.Key(elliptic.P256(), "tls "+name)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	cert, err := fake.Issue(fake.Certificate{Name: name, From: ownFrom, Until: ownUntil, Serial: 1}, key, nil, nil)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	return cert, tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}, nil
}

func newOwnMachine(t *testing.T) *ownMachine {
	t.Helper()
	m, err := makeMachine(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func ownCertificate(t *testing.T, name string) (*x509.Certificate, tls.Certificate) {
	t.Helper()
	cert, pair, err := makeCertificate(name)
	if err != nil {
		t.Fatal(err)
	}
	return cert, pair
}

// machineCommand is the scripts' machine DIR [VARIABLE]: it writes a machine's
// evidence, and what it is held against, into a folder; its attestation pages
// are served at the address that the variable then holds.
func machineCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 3 || len(args) == 3 && args[2] != "middle" {
		ts.Fatalf("usage: machine DIR [VARIABLE [middle]]")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	m, err := makeMachine(dir)
	ts.Check(err)
	if len(args) == 1 {
		return
	}
	cert := m.cert
	if len(args) == 3 { // somebody else, who passes the pages on
		_, cert, err = makeCertificate("middle")
		ts.Check(err)
	}
	s := httptest.NewUnstartedServer(m.pages())
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.StartTLS()
	ts.Defer(s.Close)
	ts.Setenv(args[1], s.Listener.Addr().String())
}

func serveTLS(t *testing.T, cert tls.Certificate, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// TestEvidenceCapture captures a machine over loopback, and again through
// somebody with another key who passes every byte on.
func TestEvidenceCapture(t *testing.T) {
	m := newOwnMachine(t)
	address := serveTLS(t, m.cert, m.pages())
	_, middle := ownCertificate(t, "middle")
	between := serveTLS(t, middle, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		resp, err := c.Get("https://" + address + r.URL.Path)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	for _, tt := range []struct{ name, address, want string }{{"the machine", address, "ppp"}, {"man in the middle", between, "ppf"}} {
		dir := filepath.Join(t.TempDir(), "capture")
		code, out, errOut := inProcess(t, nil, "evidence", "capture", tt.address, "--out", dir, "-o", "json")
		var view captureView
		if err := json.Unmarshal([]byte(out), &view); err != nil || code != 0 {
			t.Fatalf("%s: exit code %d, %v\n%s%s", tt.name, code, err, out, errOut)
		}
		if len(view.Connections) != 1 || view.Connections[0].TLS != "TLS 1.3" || view.Pages[0].Path != "/cpu.html" || !view.Pages[0].Offered || view.Pages[1].Offered {
			t.Errorf("%s: captured %s", tt.name, out)
		}
		if !strings.HasPrefix(view.Next, "retally evidence verify "+dir) {
			t.Errorf("%s: next is %q", tt.name, view.Next)
		}
		_, got := verifyEvidence(t, nil, dir, "--intel-root", m.path("root.pem"), "--registry", m.path("tdx.csv"), "--docker-compose", m.path("docker-compose.yaml"))
		if got.Profile != "secretvm" || got.short() != tt.want || len(got.TestRoot) != 1 || !strings.Contains(got.all(), "NOT INTEL'S ROOT") {
			t.Errorf("%s: %s %s, want %s, test roots %v\n%s", tt.name, got.Profile, got.short(), tt.want, got.TestRoot, got.all())
		}
		// Without the test root nothing of it is authentic.
		if _, got := verifyEvidence(t, nil, dir); got.Authentic.Verdict != "fail" || len(got.TestRoot) != 0 {
			t.Errorf("%s without the test root: %s", tt.name, got.short())
		}
		if code, _, errOut := inProcess(t, nil, "evidence", "capture", tt.address, "--out", dir); code != 2 || !strings.Contains(errOut, "the folder is not empty") {
			t.Errorf("%s into a folder that is not empty: exit code %d\n%s", tt.name, code, errOut)
		}
	}
	// In text, into an empty folder.
	empty := t.TempDir()
	code, out, errOut := inProcess(t, nil, "evidence", "capture", address, "--out", empty)
	for _, want := range []string{"CAPTURED  " + address, "over connection 1", "connection 1: TLS 1.3, 1 certificate", "not offered (status 404)", "Next: retally evidence verify " + empty} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("exit code %d, no %q in\n%s%s", code, want, out, errOut)
		}
	}
}

// TestEvidenceCaptureFails: nothing is written when the quote does not come.
func TestEvidenceCaptureFails(t *testing.T) {
	_, pair := ownCertificate(t, "broken")
	none := serveTLS(t, pair, http.NotFoundHandler())
	held := make(chan struct{})
	slow := serveTLS(t, pair, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-held:
		case <-r.Context().Done():
		}
	}))
	defer close(held)
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	file := writeFile(t, "file", nil)
	for _, tt := range []struct {
		name string
		args []string
		text string
	}{
		{"no quote", []string{none}, "status 404, want 200 with the attestation quote"},
		{"no answer", []string{slow, "--timeout", "100ms"}, "no answer within 100ms"},
		{"no TLS", []string{plain.Listener.Addr().String()}, "does not look like a TLS handshake"},
		{"nobody there", []string{closed.Addr().String()}, "connection refused"},
		{"not a host", []string{"https://user@host/"}, "it has more than host and port"},
		{"no host", []string{""}, "has no host"},
		{"no time", []string{none, "--timeout", "0s"}, "want a time above 0"},
	} {
		dir := filepath.Join(t.TempDir(), "out")
		args := append([]string{"evidence", "capture", "--out", dir, "-o", "json"}, tt.args...)
		code, out, _ := inProcess(t, nil, args...)
		if _, err := os.Stat(dir); code != 2 || !strings.Contains(out, tt.text) || !os.IsNotExist(err) {
			t.Errorf("%s: exit code %d, folder %v, want %q in\n%s", tt.name, code, err, tt.text, out)
		}
	}
	if code, _, errOut := inProcess(t, nil, "evidence", "capture", none, "--out", file); code != 2 || !strings.Contains(errOut, "not a directory") {
		t.Errorf("into a file: exit code %d\n%s", code, errOut)
	}
	if code, _, errOut := inProcess(t, nil, "evidence", "capture", none); code != 2 || !strings.Contains(errOut, "--out") {
		t.Errorf("without --out: exit code %d\n%s", code, errOut)
	}
}

// TestEvidenceCaptureInterrupted: whoever ends the program while a page that may
// be missing is fetched gets no capture.
func TestEvidenceCaptureInterrupted(t *testing.T) {
	m := newOwnMachine(t)
	ctx, interrupt := context.WithCancel(t.Context())
	address := serveTLS(t, m.cert, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/cpu.html" {
			interrupt()
			<-r.Context().Done()
			return
		}
		m.pages().ServeHTTP(w, r)
	}))
	dir := filepath.Join(t.TempDir(), "out")
	var out, errOut bytes.Buffer
	code := execute(ctx, []string{"evidence", "capture", address, "--out", dir}, func(string) string { return "" }, strings.NewReader(""), &out, &errOut)
	if _, err := os.Stat(dir); code != exitInterrupted || !os.IsNotExist(err) {
		t.Errorf("exit code %d, folder %v\n%s%s", code, err, out.String(), errOut.String())
	}
}

// TestEvidenceText: the text form escapes, colors and names everything.
func TestEvidenceText(t *testing.T) {
	m := newOwnMachine(t)
	address := serveTLS(t, m.cert, m.pages())
	dir := filepath.Join(t.TempDir(), "cap\x1b[31mture")
	if code, out, errOut := inProcess(t, nil, "evidence", "capture", address, "--out", dir); code != 0 || strings.Contains(out, "\x1b") {
		t.Fatalf("exit code %d\n%q%s", code, out, errOut)
	}
	code, out, errOut := inProcess(t, nil, "evidence", "verify", dir, "--intel-root", m.path("root.pem"), "--test-root-ok", "--registry", m.path("tdx.csv"), "--docker-compose", m.path("docker-compose.yaml"))
	for _, want := range []string{"TEST ROOT  PASS  secretvm evidence", `\x1b[31mture`, "TEST ROOT in place of INTEL's", "authentic  pass", "expected   pass", "bound      pass", "captured at ", "(now; --at makes the result repeatable)"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("exit code %d, no %q in\n%s%s", code, want, out, errOut)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Errorf("escapes in the text: %q", out)
	}
	_, colored, _ := inProcess(t, nil, "evidence", "verify", "--color=always", dir)
	if !strings.Contains(colored, "\x1b[1;31mFAIL\x1b[0m") {
		t.Errorf("no color in %q", colored)
	}
}
