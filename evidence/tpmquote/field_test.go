package tpmquote_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/evidence/hcl"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/internal/testenv"
)

// replay is the hook that the program plugs pcrmeasure into; here the reader of
// logs alone.
func replay(log []byte, banks []digest.Algorithm) (*tpmquote.Replay, error) {
	parsed, err := eventlog.Parse(log)
	if err != nil {
		return nil, err
	}
	out := &tpmquote.Replay{Values: tpmquote.Values{}}
	for _, bank := range banks {
		out.Values[bank] = map[int]digest.Digest{}
		for pcr, d := range parsed.Replay(bank) {
			out.Values[bank][int(pcr)] = d
		}
	}
	return out, nil
}

// TestGoogleAttestation: go-tpm-tools' attestation of a machine of Google's,
// asked for with the nonce 9009: three quotes, three banks, one key whose
// certificate's issuer is not in the file.
func TestGoogleAttestation(t *testing.T) {
	dir := testenv.Vectors(t, "published/field/tpm")
	raw := read(t, dir, "go-tpm-tools/attestations/gce-cos-85-nonce9009.pb")
	e, err := tpmquote.Open("nonce9009", raw)
	if err != nil {
		t.Fatal(err)
	}
	if got := tpmquote.Recognize(raw); got != tpmquote.PartContainer {
		t.Errorf("recognized as %q", got)
	}
	if e.Form != tpmquote.FormGoTPMTools || len(e.Quotes) != 3 || e.AK == nil || len(e.AK.Chain) != 1 || e.AK.Public == nil || e.EventLog == nil {
		t.Fatalf("got %s with %d quotes, key %v, log of %d bytes", e.Form, len(e.Quotes), e.AK, len(e.EventLog))
	}
	r := verify(t, e, tpmquote.Options{At: day(t, "2021-09-01"), Nonce: []byte{0x90, 0x09}, Replay: replay})
	signatures := 0
	for _, c := range r.Authentic {
		if c.Name == "quote-signature" && c.Verdict == verdict.Pass {
			signatures++
		}
	}
	if signatures != 3 {
		t.Errorf("got %d signatures that hold, want 3: %+v", signatures, r.Authentic)
	}
	if got := r.Values.Banks(); !slices.Equal(got, []digest.Algorithm{digest.SHA1, digest.SHA256, digest.SHA384}) {
		t.Errorf("banks %v", got)
	}
	for _, bank := range r.Values.Banks() {
		if len(r.Values[bank]) != 24 {
			t.Errorf("%s: %d values, want 24", bank, len(r.Values[bank]))
		}
	}
	chain := find(r.Authentic, "ak-chain")
	if chain.Verdict != verdict.Unchecked || chain.Optional || !strings.Contains(chain.Reason, e.AK.Chain[0].Issuer.String()) || !strings.Contains(chain.Reason, "Google's roots are not built in") || fold(r.Authentic) != verdict.Unchecked {
		t.Errorf("the issuer is not in the file: got %+v, authentic %s", chain, fold(r.Authentic))
	}
	if c := find(r.Authentic, "ak-attributes"); c.Verdict != verdict.Pass {
		t.Errorf("got %+v", c)
	}
	if fold(r.Bound) != verdict.Pass {
		t.Errorf("nonce: %+v", r.Bound)
	}
	if c := find(r.Expected, "log-replay"); c.Verdict != verdict.Pass {
		t.Errorf("log: %+v", r.Expected)
	}
	// PCR 0 by its formula, in the three banks.
	utf16 := func(s string) (out []byte) {
		for _, c := range s + "\x00" {
			out = append(out, byte(c), 0)
		}
		return out
	}
	found := ""
	for version := range 10 {
		for technology := range byte(4) {
			events := [][]byte{utf16(fmt.Sprintf("GCE Virtual Firmware v%d", version)), append([]byte("GCE NonHostInfo\x00"), append([]byte{technology}, make([]byte, 15)...)...), make([]byte, 4)}
			all := true
			for _, bank := range r.Values.Banks() {
				state := make([]byte, bank.Size())
				for _, data := range events {
					state = bank.Sum(append(state, bank.Sum(data).Bytes()...)).Bytes()
				}
				all = all && bytes.Equal(state, r.Values[bank][0].Bytes())
			}
			if all {
				found = fmt.Sprintf("v%d technology %d", version, technology)
			}
		}
	}
	if found == "" {
		t.Error("PCR 0 is of no firmware version and technology of Google's formula")
	}
	t.Log("PCR 0:", found, "- signer in hierarchy:", find(r.Authentic, "ak-name").Reason)

	// A log with a byte changed, one cut short, and the wrong nonce.
	cut := *e
	cut.EventLog = e.EventLog[:len(e.EventLog)/2+7]
	if _, err := cut.Verify(tpmquote.Options{At: now, Replay: replay}); err == nil || !strings.Contains(err.Error(), "offset") {
		t.Errorf("a log that ends early: got %v, want an error with the offset", err)
	}
	if r := verify(t, e, tpmquote.Options{At: now, Nonce: []byte{0x90, 0x0a}}); fold(r.Bound) != verdict.Fail {
		t.Errorf("another nonce: %+v", r.Bound)
	}
	other := *e
	other.EventLog = read(t, dir, "go-tpm-tools/ubuntu-2104-no-secure-boot.bin")
	if r := verify(t, &other, tpmquote.Options{At: now, Replay: replay}); find(r.Expected, "log-replay").Verdict != verdict.Fail {
		t.Errorf("another machine's log: %+v", r.Expected)
	}
}

// TestGoogleCertificates: leaves of Google's by the rules of the provider, under
// a root that nobody has: the issuer is named.
func TestGoogleCertificates(t *testing.T) {
	dir := testenv.Vectors(t, "published/field/tpm/go-tpm-tools/gce-ak-certs")
	files, err := filepath.Glob(filepath.Join(dir, "*.pem"))
	if err != nil || len(files) != 8 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		block, _ := pem.Decode(read(t, file))
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = tpmquote.FollowChain(leaf, nil, nil, now)
		if strings.HasSuffix(file, "_enc_cert.pem") { // an endorsement key, which decrypts
			if err == nil || !strings.Contains(err.Error(), "may not sign") {
				t.Errorf("%s: got %v, want that the key may not sign", filepath.Base(file), err)
			}
			continue
		}
		var missing *tpmquote.IssuerError
		if !errors.As(err, &missing) || !strings.Contains(missing.Error(), leaf.Issuer.String()) {
			t.Errorf("%s: got %v, want the issuer named", filepath.Base(file), err)
		}
	}
}

// hardware verifies what stands behind an HCL report with the rooms for it, as
// the program does.
func hardware(t testing.TB, e *tpmquote.Evidence, o tpmquote.Options) func(*hcl.Report, []byte) (*tpmquote.Hardware, error) {
	return func(h *hcl.Report, quote []byte) (*tpmquote.Hardware, error) {
		if h.Type == hcl.TDX {
			q, err := tdxquote.Parse(quote)
			if err != nil {
				return nil, err
			}
			v, err := tdxquote.Verify(q, tdxquote.Options{At: o.At})
			if err != nil {
				return nil, err
			}
			return &tpmquote.Hardware{ReportData: q.Body.ReportData, Checks: v.Checks}, nil
		}
		report, err := snpreport.Parse(h.Hardware[:])
		if err != nil {
			return nil, err
		}
		certificates := snpreport.Certificates{}
		if vcek := e.VCEK; vcek != nil {
			if block, _ := pem.Decode(vcek); block != nil {
				vcek = block.Bytes
			}
			if certificates.VCEK, err = x509.ParseCertificate(vcek); err != nil {
				return nil, err
			}
		}
		v, err := snpreport.Verify(report, certificates, snpreport.Options{At: o.At})
		if err != nil {
			return nil, err
		}
		return &tpmquote.Hardware{ReportData: report.ReportData, Checks: v.Checks}, nil
	}
}

// TestAzureSets: quote, key and hardware report of Azure's machines hang
// together, and the values are those recorded.
func TestAzureSets(t *testing.T) {
	dir := testenv.Vectors(t, "published/field")
	var sets struct {
		Sets []struct {
			File string
			PCRs map[int]string `json:"pcrs_sha256"`
		}
	}
	unmarshal(t, read(t, dir, "azure/pcr_sets.json"), &sets)
	if len(sets.Sets) < 6 {
		t.Fatalf("got %d sets", len(sets.Sets))
	}
	for _, set := range sets.Sets {
		t.Run(strings.ReplaceAll(set.File, "/", "_"), func(t *testing.T) {
			e, err := tpmquote.Open(set.File, read(t, dir, set.File))
			if err != nil {
				t.Fatal(err)
			}
			if e.Form != tpmquote.FormAzure || e.HCL == nil {
				t.Fatalf("got %s", e.Form)
			}
			o := tpmquote.Options{At: now, Nonce: e.Quotes[0].Attest.ExtraData, Expect: tpmquote.Expectations{Values: map[digest.Algorithm]map[int][]digest.Digest{digest.SHA256: {}}}}
			for pcr, text := range set.PCRs {
				if !tpmquote.Resettable(pcr) {
					o.Expect.Values[digest.SHA256][pcr] = []digest.Digest{hexDigest(t, digest.SHA256, text)}
				}
			}
			r := verify(t, e, o)
			for _, name := range []string{"runtime-data", "quote-signature", "pcr-selection", "pcr-digest"} {
				if c := find(r.Authentic, name); c.Verdict != verdict.Pass {
					t.Errorf("%+v", c)
				}
			}
			if e.HCL.Type == hcl.SNP && find(r.Authentic, "hcl-vmpl").Verdict != verdict.Pass {
				t.Errorf("%+v", find(r.Authentic, "hcl-vmpl"))
			}
			if c := find(r.Authentic, "hardware-report"); c.Verdict != verdict.Unchecked || fold(r.Authentic) != verdict.Unchecked {
				t.Errorf("nobody verified the hardware report, and authentic is %s: %+v", fold(r.Authentic), c)
			}
			if fold(r.Expected) != verdict.Pass || fold(r.Bound) != verdict.Pass {
				t.Errorf("expected %+v\nbound %+v", r.Expected, r.Bound)
			}
			if len(r.Values[digest.SHA256]) != len(set.PCRs) {
				t.Errorf("%d values, want %d", len(r.Values[digest.SHA256]), len(set.PCRs))
			}
			for pcr, text := range set.PCRs {
				if got := r.Values[digest.SHA256][pcr].Hex(); got != text {
					t.Errorf("PCR %d: got %s, want %s", pcr, got, text)
				}
			}
			// With the hardware report verified the key is vouched for; what the
			// rooms say about the rest (collateral, TCB) is theirs.
			o.Hardware = hardware(t, e, o)
			if r = verify(t, e, o); find(r.Authentic, "runtime-data").Verdict != verdict.Pass {
				t.Errorf("%+v", r.Authentic)
			}
			if e.HCL.Type == hcl.SNP && find(r.Authentic, "report-signature").Verdict != verdict.Pass {
				t.Errorf("%+v", r.Authentic)
			}
			// Another machine's quote beside this report.
			for _, other := range sets.Sets {
				o2, err := tpmquote.Open(other.File, read(t, dir, other.File))
				if err != nil {
					t.Fatal(err)
				}
				if o2.HCL.Runtime.AK.Equal(e.HCL.Runtime.AK) {
					continue
				}
				mixed := *e
				mixed.Quotes = o2.Quotes
				if r := verify(t, &mixed, tpmquote.Options{At: now}); fold(r.Authentic) != verdict.Fail || len(r.Values) != 0 {
					t.Errorf("the quote of %s is accepted", other.File)
				}
			}
			// The key of the runtime data changed.
			changed := *e
			report := *e.HCL
			report.RuntimeData = bytes.Replace(report.RuntimeData, []byte(`"vmUniqueId"`), []byte(`"vmUniqueiD"`), 1)
			changed.HCL = &report
			if r := verify(t, &changed, tpmquote.Options{At: now}); find(r.Authentic, "runtime-data").Verdict != verdict.Fail {
				t.Errorf("%+v", r.Authentic)
			}
		})
	}
}

// TestTrusteeTPM: trustee's evidence of a TPM without a certificate: nobody
// vouches for the key.
func TestTrusteeTPM(t *testing.T) {
	e, err := tpmquote.Open("tpm_evidence.json", read(t, testenv.Vectors(t, "published/field"), "trustee/tpm_evidence.json"))
	if err != nil {
		t.Fatal(err)
	}
	r := verify(t, e, tpmquote.Options{At: now})
	if find(r.Authentic, "quote-signature").Verdict != verdict.Pass || fold(r.Authentic) != verdict.Unchecked || find(r.Authentic, "ak").Verdict != verdict.Unchecked {
		t.Errorf("authentic %+v", r.Authentic)
	}
	r = verify(t, e, tpmquote.Options{At: now, AK: e.AK})
	if fold(r.Authentic) != verdict.Pass {
		t.Errorf("with the key given: %+v", r.Authentic)
	}
	if fold(r.Expected) != verdict.Unchecked || fold(r.Bound) != verdict.Unchecked {
		t.Errorf("nothing is expected or asked for: %s, %s", fold(r.Expected), fold(r.Bound))
	}
	// All registers are as after a reset: pinning them must not look like a boot
	// that was measured where they can be reset.
	o := tpmquote.Options{At: now, AK: e.AK, Expect: tpmquote.Expectations{Values: one(tpmquote.Values{digest.SHA256: {16: r.Values[digest.SHA256][16], 23: r.Values[digest.SHA256][23]}})}}
	if r := verify(t, e, o); fold(r.Expected) != verdict.Unchecked {
		t.Errorf("registers that can be reset count: %+v", r.Expected)
	}
}

// TestAzureOtherForms: the quotes that stand alone, and those whose HCL report is
// another file; each key is the report's.
func TestAzureOtherForms(t *testing.T) {
	dir := testenv.Vectors(t, "published/field")
	for _, c := range []struct {
		file, report string
		form         tpmquote.Form
	}{
		{"attestation-rs/az_snp/evidence-v1.json", "", tpmquote.FormAzure},
		{"attestation-rs/az_tdx/evidence-v1.json", "", tpmquote.FormAzure},
		{"attestation-rs/az_snp/quote.bin", "attestation-rs/az_snp/hcl-report.bin", tpmquote.FormBincode},
		{"attestation-rs/az_tdx/quote.bin", "attestation-rs/az_tdx/hcl-report.bin", tpmquote.FormBincode},
		{"attestation-rs/az_tdx/tpm-quote-v1.json", "attestation-rs/az_tdx/hcl-report.bin", tpmquote.FormJSON},
		{"trustee/az-snp-vtpm/quote.bin", "trustee/az-snp-vtpm/hcl-report.bin", tpmquote.FormBincode},
		{"trustee/az-snp-vtpm/tpm-quote-v1.json", "trustee/az-snp-vtpm/hcl-report.bin", tpmquote.FormJSON},
		{"trustee/az-tdx-vtpm/quote.bin", "trustee/az-tdx-vtpm/hcl-report.bin", tpmquote.FormBincode},
		{"trustee/az-tdx-vtpm/tpm-quote-v1.json", "trustee/az-tdx-vtpm/hcl-report.bin", tpmquote.FormJSON},
	} {
		e, err := tpmquote.Open(c.file, read(t, dir, c.file))
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if c.report != "" {
			if e.HCL, err = hcl.Parse(read(t, dir, c.report)); err != nil {
				t.Fatal(err)
			}
		}
		if got := tpmquote.Recognize(read(t, dir, c.file)); got != tpmquote.PartContainer {
			t.Errorf("%s is recognized as %q", c.file, got)
		}
		r := verify(t, e, tpmquote.Options{At: now})
		if e.Form != c.form || len(r.Values[digest.SHA256]) != 24 || find(r.Authentic, "runtime-data").Verdict != verdict.Pass {
			t.Errorf("%s (%s): %+v", c.file, e.Form, r.Authentic)
		}
	}
	// The same tool's key file beside its quote.
	e, err := tpmquote.Open("quote.bin", read(t, dir, "azure/cvm-tooling/quote.bin"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpmquote.ParseAK("akpub.pem", read(t, dir, "azure/cvm-tooling/akpub.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if r := verify(t, e, tpmquote.Options{At: now, AK: key}); fold(r.Authentic) != verdict.Pass || len(r.Values[digest.SHA256]) != 24 {
		t.Errorf("azure/cvm-tooling: %+v", r.Authentic)
	}
}
