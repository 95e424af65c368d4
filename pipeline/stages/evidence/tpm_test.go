package evidence_test

import (
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/blindllama"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	evidencestage "github.com/retally/retally/pipeline/stages/evidence"
)

// tpmMachine is a machine with a virtual TPM that measured something into
// registers.
func tpmMachine(t testing.TB, pcrs ...int) *fake.TPM {
	t.Helper()
	m, err := fake.NewTPM("stage", from, until, fake.TPMOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range pcrs {
		if err := m.Measure(i, []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// tpmFiles are tpm2-tools' files as one piece of evidence, with the key's
// certificates as they are given beside them.
func tpmFiles(t testing.TB, m *fake.TPM, nonce []byte, change func(*tpmquote.Files), s ...tpmquote.Selection) (*evidence.Bundle, *tpmquote.AK) {
	t.Helper()
	f, err := m.Files(nonce, s...)
	if err != nil {
		t.Fatal(err)
	}
	ak, err := tpmquote.ParseAK("ak.pem", f.AK)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&f)
	}
	b, err := evidence.Merge(read(t, "quote.pcrs", f.PCRs), read(t, "quote.msg", f.Message), read(t, "quote.sig", f.Signature))
	if err != nil {
		t.Fatal(err)
	}
	return b, ak
}

func goldenOf(t testing.TB, m *fake.TPM, pcrs ...int) blindllama.Golden {
	t.Helper()
	raw, err := m.Golden(pcrs...)
	if err != nil {
		t.Fatal(err)
	}
	g, err := blindllama.ParseGolden("golden.json", raw)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func testRoots(m *fake.TPM) []tpmquote.Root {
	return []tpmquote.Root{{Provider: tpmquote.Other, Certificate: m.Root}}
}

// TestTPM: a TPM's quote gives three verdicts, and none of them for what nobody
// looked at.
func TestTPM(t *testing.T) {
	boot := []int{0, 1, 2, 3, 4, 5, 6, 7, 9, 11}
	m := tpmMachine(t, boot...)
	if err := m.Measure(16, []byte("debug")); err != nil {
		t.Fatal(err)
	}
	all := goldenOf(t, m, boot...)
	nonce := []byte("challenge")
	cert, _ := certificate(t, "machine")
	with := func(g blindllama.Golden, pcr int, text string) blindllama.Golden {
		out := blindllama.Golden{}
		for i, d := range g {
			out[i] = d
		}
		out[pcr] = digest.SHA256.Sum([]byte(text))
		return out
	}
	other, err := fake.NewTPM("other", from, until, fake.TPMOptions{Curve: elliptic.P256()})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*tpmquote.Files)
		edit   func(*evidence.Request)
		want   string
		text   string
	}{
		{"all", nil, func(*evidence.Request) {}, "ppp", "is for the nonce asked for"},
		{"no golden values", nil, func(r *evidence.Request) { r.Golden = nil }, "pup", "no expected values were given"},
		{"an empty list", nil, func(r *evidence.Request) { r.Golden = blindllama.Golden{} }, "pup", "no expected values were given"},
		{"only settings", nil, func(r *evidence.Request) { r.Golden = goldenOf(t, m, 1, 3, 7) }, "pup", "no golden value for PCR 0, 2, 4, 9, 11 (SHA-256), which decide what runs"},
		{"without the kernel", nil, func(r *evidence.Request) { r.Golden = goldenOf(t, m, 0, 1, 2, 3, 4, 7) }, "pup", "no golden value for PCR 9, 11 (SHA-256)"},
		{"without settings", nil, func(r *evidence.Request) { r.Golden = goldenOf(t, m, 0, 2, 4, 9, 11) }, "ppp", "no golden value for PCR 1, 3, 5, 6, 7, which have settings"},
		{"only what can be reset", nil, func(r *evidence.Request) { r.Golden = goldenOf(t, m, 16) }, "pup", "can be reset without a reboot"},
		{"another kernel", nil, func(r *evidence.Request) { r.Golden = with(all, 9, "x") }, "pfp", "PCR 9 (sha256) is"},
		{"another nonce", nil, func(r *evidence.Request) { r.Nonce = []byte("x") }, "ppf", "asked for is 78"},
		{"no nonce asked with", nil, func(r *evidence.Request) { r.Nonce = nil }, "ppu", "no nonce was given"},
		{"a certificate of a connection", nil, func(r *evidence.Request) { r.TLSCert = cert }, "ppu", "the quote names no TLS key"},
		{"Azure's root", nil, func(r *evidence.Request) { r.TPMRoots = nil }, "uuu", "which is not among those trusted"},
		{"no key", nil, func(r *evidence.Request) { r.AK = nil }, "uuu", "no attestation key"},
		{"the bare key", nil, func(r *evidence.Request) { r.AK, r.TPMRoots = &tpmquote.AK{Key: m.AK()}, nil }, "ppp", "is the caller's word"},
		{"another key", nil, func(r *evidence.Request) { r.AK = &tpmquote.AK{Key: other.AK()} }, "fuf", ""},
		{"later", nil, func(r *evidence.Request) { r.At = until.AddDate(1, 0, 0) }, "fuu", "expired: was valid until"},
		{"another PCR value", func(f *tpmquote.Files) { f.PCRs[len(f.PCRs)-700] ^= 1 }, func(*evidence.Request) {}, "fuu", "one of them was changed"},
		{"cut short", func(f *tpmquote.Files) { f.Message = f.Message[:len(f.Message)-1] }, func(*evidence.Request) {}, "fuu", "cannot be read"},
		{"signature of nothing", func(f *tpmquote.Files) { f.Signature[len(f.Signature)-1] ^= 1 }, func(*evidence.Request) {}, "fuu", "quote-signature"},
	} {
		b, ak := tpmFiles(t, m, nonce, tt.change, fake.Select(digest.SHA256))
		r := evidence.Request{Evidence: b, AK: ak, TPMRoots: testRoots(m), Golden: all, Nonce: nonce, PCRReplay: evidencestage.ReplayPCRs}
		tt.edit(&r)
		got := verify(t, r)
		text := reasons(got.Authentic) + "\n" + reasons(got.Expected) + "\n" + reasons(got.Bound)
		want := tt.want
		if tt.name == "another key" {
			want = "fuu"
		}
		if short(got) != want || !strings.Contains(text, tt.text) {
			t.Errorf("%s: %s, want %s with %q:\n%s", tt.name, short(got), want, tt.text, text)
		}
		if got.Authentic.Verdict != verdict.Pass && !strings.Contains(reasons(got.Expected), "anybody could have written") && !strings.Contains(tt.text, "cannot be read") {
			t.Errorf("%s: expected does not say that it rests on nothing:\n%s", tt.name, reasons(got.Expected))
		}
		if got.Verdict() == verdict.Pass != (tt.want == "ppp") {
			t.Errorf("%s: the whole is %s", tt.name, got.Verdict())
		}
		if got.Authentic.Verdict == verdict.Pass && r.TPMRoots != nil && r.AK.Chain != nil {
			if !slices.Equal(got.TestRoots(), []string{"tpm"}) || verifyOnly(t, r, false).Verdict() == verdict.Pass {
				t.Errorf("%s: passes under a root of anybody's, test roots %v", tt.name, got.TestRoots())
			}
		}
	}
}

// TestTPMReport: registers are values of the report, golden values its
// references, and what can be reset says so.
func TestTPMReport(t *testing.T) {
	m := tpmMachine(t, 0, 2, 4, 16)
	b, ak := tpmFiles(t, m, nil, nil, fake.Select(digest.SHA256))
	g := goldenOf(t, m, 0, 2, 4, 16)
	g[4] = digest.SHA256.Sum([]byte("another kernel"))
	got := verify(t, evidence.Request{Evidence: b, AK: ak, TPMRoots: testRoots(m), Golden: g})
	verdicts := map[pipeline.Key]pipeline.Verdict{}
	for _, f := range got.report.Findings {
		verdicts[f.Key] = f.Verdict
	}
	if verdicts["evidence/m/pcr0"] != pipeline.Match || verdicts["evidence/m/pcr4"] != pipeline.Differs || verdicts["evidence/m/pcr16"] == pipeline.Match || verdicts["evidence/m/expected"] != pipeline.Differs {
		t.Errorf("findings %v", verdicts)
	}
	for _, x := range got.report.Measurements {
		if x.Key == "evidence/m/pcr16" && !strings.Contains(x.Note, "reset without a reboot") {
			t.Errorf("%+v", x)
		}
		if strings.HasPrefix(string(x.Key), "evidence/m/pcr") && x.Basis != pipeline.Endorsed {
			t.Errorf("%s has the basis %s", x.Key, x.Basis)
		}
	}
}

// TestTPMTogether: parts that do not belong together, or that are not all there,
// are no evidence.
func TestTPMTogether(t *testing.T) {
	m := tpmMachine(t, 4)
	f, err := m.Files(nil, fake.Select(digest.SHA256, 4))
	if err != nil {
		t.Fatal(err)
	}
	g, err := m.Files([]byte("again"), fake.Select(digest.SHA256, 4))
	if err != nil {
		t.Fatal(err)
	}
	proof, err := m.Proof(fake.ProofOptions{RootHash: digest.SHA256.Sum([]byte("disk")), CA: "ca"})
	if err != nil {
		t.Fatal(err)
	}
	p := ownPlatform(t)
	msg, sig, pcrs, quote, file := read(t, "m", f.Message), read(t, "s", f.Signature), read(t, "p", f.PCRs), read(t, "q", ownQuote(t, p, ownBody(t))), read(t, "proof.json", proof)
	for _, tt := range []struct {
		name    string
		bundles []*evidence.Bundle
		want    string
	}{
		{"message alone", []*evidence.Bundle{msg}, "the signature (-s) is missing"},
		{"no values", []*evidence.Bundle{msg, sig}, "the PCR values (-o) is missing"},
		{"two messages", []*evidence.Bundle{msg, sig, pcrs, read(t, "m2", g.Message)}, "two files are the message"},
		{"a TDX quote beside", []*evidence.Bundle{msg, sig, pcrs, quote}, "a TDX quote and a TPM quote, which do not belong together"},
		{"a proof file beside", []*evidence.Bundle{msg, sig, pcrs, file}, "a TPM quote and a BlindLlama proof file"},
		{"a quote beside a proof file", []*evidence.Bundle{file, quote}, "do not belong together"},
	} {
		if _, err := evidence.Merge(tt.bundles...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	if b, err := evidence.Merge(pcrs, msg, sig, msg); err != nil || b.TPM == nil {
		t.Errorf("three files and one of them twice: %v", err)
	}
}

// proofSample is the published proof file with what it was published with.
func proofSample(t testing.TB) (proof []byte, golden blindllama.Golden, root digest.Digest) {
	t.Helper()
	var s struct {
		Doc, Measurements json.RawMessage
		RootHash          string
	}
	raw, err := os.ReadFile(filepath.Join(testenv.Vectors(t, "published/blindllama"), "base.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	if golden, err = blindllama.ParseGolden("golden.json", s.Measurements); err != nil {
		t.Fatal(err)
	}
	if root, err = digest.ParseHex(digest.SHA256, s.RootHash); err != nil {
		t.Fatal(err)
	}
	return s.Doc, golden, root
}

// TestPublishedProof: authentic and expected while its certificates were valid,
// never bound; today nothing of it passes, and the expired certificate is named.
func TestPublishedProof(t *testing.T) {
	proof, golden, root := proofSample(t)
	r := evidence.Request{Evidence: read(t, "proof.json", proof), Golden: golden, AppRoot: root, At: time.Date(2023, 12, 1, 0, 0, 0, 0, time.UTC)}
	got := verify(t, r)
	if short(got) != "ppu" || len(got.TestRoots()) != 0 || got.Verdict() != verdict.Unchecked || got.Profile != evidence.BlindLlama {
		t.Errorf("2023-12-01: %s (%s), roots %v\n%s\n%s\n%s", short(got), got.Verdict(), got.Roots, reasons(got.Authentic), reasons(got.Expected), reasons(got.Bound))
	}
	if c := got.Claims.TPM; c == nil || c.Provider != tpmquote.Azure || len(c.Path) != 3 || c.Proof.RootHash != root.Hex() || c.Proof.PCR15 != c.PCRs["sha256"]["15"] {
		t.Errorf("claims %+v", c)
	}
	r.At = time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
	if got := verify(t, r); short(got) != "fuu" || !strings.Contains(reasons(got.Authentic), "5efaacb0f4d9.TrustedVM.Azure.Microsoft") {
		t.Errorf("today: %s\n%s", short(got), reasons(got.Authentic))
	}
}

// TestProof: a proof file of a machine under a test root.
func TestProof(t *testing.T) {
	caKey, err := fake.Key(elliptic.P256(), "ca")
	if err != nil {
		t.Fatal(err)
	}
	ca, err := fake.Issue(fake.Certificate{Name: "web server CA", CA: true, From: from, Until: until, Serial: 1}, caKey, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	stranger, _ := certificate(t, "stranger")
	root := digest.SHA256.Sum([]byte("disk"))
	m := tpmMachine(t, 0, 1, 2, 3, 4, 5, 7)
	golden := goldenOf(t, m, 0, 1, 2, 3, 4, 12, 13)
	raw, err := m.Proof(fake.ProofOptions{RootHash: root, CA: string(fake.PEM(ca))})
	if err != nil {
		t.Fatal(err)
	}
	base := evidence.Request{Evidence: read(t, "proof.json", raw), TPMRoots: testRoots(m), Golden: golden, AppRoot: root}
	for _, tt := range []struct {
		name string
		edit func(*evidence.Request)
		want string
		text string
	}{
		{"nothing to bind", func(*evidence.Request) {}, "ppu", "nothing is bound"},
		{"another disk", func(r *evidence.Request) { r.AppRoot = digest.SHA256.Sum(nil) }, "pfu", "the root hash of the application disk is"},
		{"no disk", func(r *evidence.Request) { r.AppRoot = digest.Digest{} }, "puu", "no expected root hash was given"},
		{"no golden values", func(r *evidence.Request) { r.Golden = nil }, "puu", "no expected values were given"},
		{"golden without PCR 4", func(r *evidence.Request) { r.Golden = goldenOf(t, m, 0, 1, 2, 3, 12, 13) }, "puu", "no value for PCR 4"},
		{"a stranger's certificate", func(r *evidence.Request) { r.TLSCert, r.TLSChain = stranger, []*x509.Certificate{stranger} }, "ppf", "not one of the measured CA"},
		{"the CA's own certificate", func(r *evidence.Request) { r.TLSCert = ca }, "ppf", "ended at a CA's certificate"},
		{"a nonce that it does not hold", func(r *evidence.Request) { r.Nonce = []byte("n") }, "ppf", "holds no nonce"},
		{"Azure's root", func(r *evidence.Request) { r.TPMRoots = nil }, "", ""},
	} {
		r := base
		tt.edit(&r)
		got := verify(t, r)
		text := reasons(got.Authentic) + "\n" + reasons(got.Expected) + "\n" + reasons(got.Bound)
		if tt.want == "" {
			if got.Authentic.Verdict == verdict.Pass || got.Expected.Verdict == verdict.Pass || got.Bound.Verdict == verdict.Pass {
				t.Errorf("%s: %s\n%s", tt.name, short(got), text)
			}
		} else if short(got) != tt.want || !strings.Contains(text, tt.text) {
			t.Errorf("%s: %s, want %s with %q:\n%s", tt.name, short(got), tt.want, tt.text, text)
		}
		if got.Verdict() == verdict.Pass {
			t.Errorf("%s: the whole passes", tt.name)
		}
	}
	// Version 1: PCR 16 can be reset.
	v1, err := tpmMachine(t, 0, 1, 2, 3, 4).ProofV1([]string{`{"event":1}`}, string(fake.PEM(stranger)))
	if err != nil {
		t.Fatal(err)
	}
	r := base
	r.Evidence, r.AppRoot, r.TLSCert, r.TLSChain, r.TLSText = read(t, "v1.json", v1), digest.Digest{}, stranger, []*x509.Certificate{stranger}, string(fake.PEM(stranger))
	if got := verify(t, r); short(got) != "pup" || !strings.Contains(reasons(got.Expected), "can be reset without a reboot") {
		t.Errorf("version 1: %s\n%s\n%s\n%s", short(got), reasons(got.Authentic), reasons(got.Expected), reasons(got.Bound))
	}
}

// TestFieldTPM: real machines' quotes. What vouches for the key is verified by the
// rooms for it.
func TestFieldTPM(t *testing.T) {
	dir := testenv.Vectors(t, "published/field")
	load := func(names ...string) *evidence.Bundle {
		t.Helper()
		var all []*evidence.Bundle
		for _, n := range names {
			data, err := os.ReadFile(filepath.Join(dir, n))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, read(t, n, data))
		}
		b, err := evidence.Merge(all...)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	at := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name  string
		files []string
		at    time.Time
		nonce []byte
		want  []string // reasons of any verdict
	}{
		{"Google", []string{"tpm/go-tpm-tools/attestations/gce-cos-85-nonce9009.pb"}, time.Date(2021, 9, 1, 0, 0, 0, 0, time.UTC), []byte{0x90, 0x09}, []string{"Google's roots are not built in", "log-replay: the log leads to the signed", "is for the nonce asked for"}},
		{"Azure SEV-SNP", []string{"attestation-rs/az_snp/evidence-v1.json"}, at, nil, []string{"runtime-data: the report data are", "report-signature"}},
		{"Azure TDX", []string{"attestation-rs/az_tdx/evidence-v1.json"}, at, nil, []string{"runtime-data: the report data are", "quote-signature"}},
		{"Azure, two files", []string{"trustee/az-snp-vtpm/quote.bin", "trustee/az-snp-vtpm/hcl-report.bin"}, at, nil, []string{"runtime-data: the report data are", "VCEK"}},
		{"Azure TDX, two files", []string{"trustee/az-tdx-vtpm/quote.bin", "trustee/az-tdx-vtpm/hcl-report.bin"}, at, nil, []string{"no TDX quote came along"}},
		{"a key that nobody vouches for", []string{"trustee/tpm_evidence.json"}, at, nil, []string{"nobody vouches for it"}},
	} {
		got := verify(t, evidence.Request{Evidence: load(tt.files...), At: tt.at, Nonce: tt.nonce, PCRReplay: evidencestage.ReplayPCRs})
		text := reasons(got.Authentic) + "\n" + reasons(got.Expected) + "\n" + reasons(got.Bound)
		for _, want := range tt.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", tt.name, want, text)
			}
		}
		if got.Profile != evidence.TPM || got.Verdict() == verdict.Pass || strings.Contains(text, "quote-signature: the signature") || len(got.Registers) == 0 {
			t.Errorf("%s: %s %s with %d registers\n%s", tt.name, got.Profile, short(got), len(got.Registers), text)
		}
		t.Logf("%s: %s", tt.name, short(got))
	}
	// The TPM is software that the hardware measured: PCRs of another one are worth
	// nothing.
	b0 := load("attestation-rs/az_snp/evidence-v1.json")
	r := evidence.Request{Evidence: b0, At: at, Nonce: []byte("challenge"), Golden: blindllama.Golden{}}
	for i, d := range b0.TPM.Quotes[0].Values[digest.SHA256] {
		if i < 16 {
			r.Golden[i] = d
		}
	}
	launch := b0.Hardware.Report.Measurement
	for _, tt := range []struct {
		name  string
		given []digest.Digest
		want  string
	}{{"not compared", nil, "pup"}, {"another", []digest.Digest{sum("x")}, "pfp"}, {"one of those given", []digest.Digest{sum("x"), launch}, "ppp"}} {
		r.Paravisors = tt.given
		if got := verify(t, r); short(got) != tt.want || !strings.Contains(reasons(got.Expected), "paravisor: the virtual TPM is software") {
			t.Errorf("paravisor %s: %s, want %s\n%s", tt.name, short(got), tt.want, reasons(got.Expected))
		}
	}
	// Azure's hardware report by itself is still an SEV-SNP report.
	b := load("attestation-rs/az_snp/evidence-v1.json")
	if got := verify(t, evidence.Request{Evidence: b, At: at, Profile: evidence.SNP}); got.SNP == nil || got.Registers[evidence.Measurement].IsZero() {
		t.Errorf("profile snp: %s\n%s", short(got), reasons(got.Authentic))
	}
	// A log of another machine contradicts the quote, one that is cut is no log.
	b = load("tpm/go-tpm-tools/attestations/gce-cos-85-nonce9009.pb")
	log := func() []byte {
		data, err := os.ReadFile(filepath.Join(dir, "tpm/go-tpm-tools/ubuntu-2104-no-secure-boot.bin"))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}()
	if got := verify(t, evidence.Request{Evidence: b, At: at, EventLog: log, PCRReplay: evidencestage.ReplayPCRs}); got.Expected.Verdict != verdict.Fail {
		t.Errorf("another machine's log: %s\n%s", got.Expected.Verdict, reasons(got.Expected))
	}
	_, err := evidencestage.Judge("m", config.Evidence{File: "q"}, &evidencestage.Question{Request: evidence.Request{Evidence: b, At: at, EventLog: log[:len(log)/2+3], PCRReplay: evidencestage.ReplayPCRs}})
	if err == nil || !strings.Contains(err.Error(), "0x") {
		t.Errorf("a log that is cut: got %v, want an error with the place", err)
	}
}
