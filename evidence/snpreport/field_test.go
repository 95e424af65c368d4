package snpreport_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/testenv"
)

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// open reads evidence as the program does, and cuts it out of the files whose
// form is the vectors' own: a report at a known place, certificates somewhere.
func open(t testing.TB, path string) *snpreport.Evidence {
	t.Helper()
	raw := read(t, path)
	places := map[string]int{"attestation.bin": 0, "report-ark-ask-vcek.bin": 0, "report-vlek.bin": 0, "report-vlek-aws.bin": 0, "evidence.binarypb": 8}
	for suffix, at := range places {
		if !strings.HasSuffix(path, suffix) {
			continue
		}
		r, err := snpreport.Parse(raw[at : at+snpreport.Size])
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		return &snpreport.Evidence{Report: r, Certificates: scan(t, path)}
	}
	e, err := snpreport.Open(path, raw)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// scan finds the DER certificates in a file of whatever form.
func scan(t testing.TB, path string) snpreport.Certificates {
	t.Helper()
	raw := read(t, path)
	if c, err := snpreport.ParseCertificates(path, raw); err == nil {
		return c
	}
	var out snpreport.Certificates
	for at := 0; at+4 < len(raw); at++ {
		if raw[at] != 0x30 || raw[at+1] != 0x82 {
			continue
		}
		end := at + 4 + int(raw[at+2])<<8 + int(raw[at+3])
		if end > len(raw) {
			continue
		}
		cert, err := x509.ParseCertificate(raw[at:end])
		if err != nil {
			continue
		}
		if err := out.Add(path, cert); err != nil && !strings.Contains(err.Error(), "a second one") {
			continue // another chain's, of an application
		}
	}
	return out
}

// fieldTimes are inside the validity of each row's certificates, none: the set
// has no certificate, so the report stays unchecked.
func fieldTimes() map[string]string {
	return map[string]string{
		"attestation-rs/az_snp/hcl-report.bin":           "2024-06-01",
		"attestation-rs/az_snp/live-evidence.json":       "2026-03-01",
		"attestation-rs/snp/live-report-v5-genoa.bin":    "2026-03-01",
		"attestation-rs/snp/test-report.bin":             "2024-06-01",
		"attestation-rs/snp/test-vlek-report.bin":        "2025-03-01", // VLEK, one year
		"azure/cvm-tooling/hcl-report-snp.bin":           "none",
		"constellation/aws/snp/testdata/report.txt":      "2025-03-01",
		"constellation/snp/testdata/attestation.bin":     "2024-06-01",
		"corim-veraison/sevsnp-tsm-report.json":          "2025-06-01",
		"cosmian/azure_cvm/data/hcl_report_sev.bin":      "2024-06-01",
		"cosmian/sev_quote/data/report-ark-ask-vcek.bin": "2026-03-01",
		"cosmian/sev_quote/data/report-no-cert.bin":      "none",
		"cosmian/sev_quote/data/report-vlek-aws.bin":     "2025-03-01",
		"cosmian/sev_quote/data/report-vlek.bin":         "2024-03-01",
		"oak/cb_evidence.binarypb":                       "2025-06-01",
		"oak/genoa_oc_evidence.binarypb":                 "2025-12-01",
		"oak/milan_oc_release_evidence.binarypb":         "2025-06-01",
		"oak/milan_rk_release_evidence.binarypb":         "2025-06-01",
		"secretvm/amd_cpu_docker_check_quote.txt":        "none",
		"secretvm/amd_cpu_quote.txt":                     "none",
		"snp/virtee/report_milan.hex":                    "2024-06-01",
		"tinfoil/snp_report_09ef32ac.bin":                "2026-03-01",
		"tinfoil/snp_report_2dedaee1.bin":                "2026-03-01",
		"trustee/az-snp-vtpm/evidence-v0.json":           "2025-06-01",
		"trustee/az-snp-vtpm/evidence-v1.json":           "2025-06-01",
	}
}

type fieldRow struct {
	File        string
	Version     uint32
	Measurement string
	Policy      string
	VMPL        uint32
	GuestSVN    uint32  `json:"guest_svn"`
	HostData    string  `json:"host_data"`
	IDKey       string  `json:"id_key_digest"`
	AuthorKey   string  `json:"author_key_digest"`
	KeyInfo     string  `json:"key_info"`
	SignedBy    *string `json:"signed_by"`
	CertIn      *string `json:"cert_in"`
	CPUID       *string `json:"cpuid_fms"`
	TCB         string  `json:"reported_tcb"`
	FamilyID    string  `json:"family_id"`
	ImageID     string  `json:"image_id"`
}

func fieldRows(t testing.TB, dir string) []fieldRow {
	t.Helper()
	var rows []fieldRow
	if err := json.Unmarshal(read(t, filepath.Join(dir, "snp/reports.json")), &rows); err != nil {
		t.Fatal(err)
	}
	return rows
}

// check holds a report against its row.
func (row fieldRow) check(t *testing.T, r *snpreport.Report) {
	t.Helper()
	fms := ""
	if row.Version >= 3 {
		fms = fmt.Sprintf("%02x%02x%02x", r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping)
	}
	info := uint32(r.SigningKey) << 2
	got := fieldRow{
		File: row.File, Version: r.Version, Measurement: r.Measurement.Hex(), Policy: fmt.Sprintf("%#x", uint64(r.Policy)), VMPL: r.VMPL, GuestSVN: r.GuestSVN,
		HostData: hex.EncodeToString(r.HostData[:]), IDKey: r.IDKeyDigest.Hex(), AuthorKey: r.AuthorKeyDigest.Hex(), KeyInfo: fmt.Sprintf("%#x", info),
		FamilyID: hex.EncodeToString(r.FamilyID[:]), ImageID: hex.EncodeToString(r.ImageID[:]), SignedBy: row.SignedBy, CertIn: row.CertIn,
	}
	if row.CPUID != nil {
		got.CPUID = &fms
	}
	got.TCB = hex.EncodeToString(r.ReportedTCB[:])
	if d := cmp.Diff(row, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", row.File, d)
	}
}

// TestField: every report of the field as its row says, and without its
// certificates unchecked, with the one that is missing named.
func TestField(t *testing.T) {
	dir := testenv.Vectors(t, "published/field")
	rows := fieldRows(t, dir)
	times, count := fieldTimes(), map[verdict.Verdict]int{}
	for _, row := range rows {
		e := open(t, filepath.Join(dir, row.File))
		row.check(t, e.Report)
		date, ok := times[row.File]
		if !ok {
			t.Errorf("%s: the table has no time for it", row.File)
			continue
		}
		delete(times, row.File)
		o := snpreport.Options{At: day(t, "2026-03-01")}
		want := verdict.Unchecked
		if (date != "none") != (row.SignedBy != nil) {
			t.Errorf("%s: the table says %s, the row that it is signed by %v", row.File, date, row.SignedBy)
		}
		if date != "none" {
			want, o.At = verdict.Pass, day(t, date)
			e.Certificates = certificatesOf(t, dir, row)
		}
		r, err := e.Verify(o)
		if err != nil {
			t.Fatal(err)
		}
		j := verdict.Fold(r.Checks)
		count[j.Verdict]++
		if j.Verdict != want {
			t.Errorf("%s at %s: got %s, want %s\n%s", row.File, date, j.Verdict, want, strings.Join(j.Reasons, "\n"))
			continue
		}
		if row.SignedBy != nil {
			if got := r.Endorsement.Certificate.Issuer.CommonName; got != *row.SignedBy {
				t.Errorf("%s: signed below %s, want %s", row.File, got, *row.SignedBy)
			}
			e.Certificates.VCEK, e.Certificates.VLEK = nil, nil
			if r, err = e.Verify(o); err != nil {
				t.Fatal(err)
			}
			j = verdict.Fold(r.Checks)
		}
		if j.Verdict != verdict.Unchecked || !strings.Contains(r.Missing, "blSPL") && !strings.Contains(r.Missing, "VLEK") {
			t.Errorf("%s without certificate: got %s, missing %q", row.File, j.Verdict, r.Missing)
		}
	}
	if len(times) > 0 || count[verdict.Pass] < 20 || count[verdict.Unchecked] < 4 {
		t.Errorf("verdicts %v, rows not met: %v", count, times)
	}
	t.Logf("%d reports: %v", len(rows), count)
}

// certificatesOf reads the file that the row names. One is held back; the
// certificate is in the release's endorsements too.
func certificatesOf(t testing.TB, dir string, row fieldRow) snpreport.Certificates {
	t.Helper()
	path := filepath.Join(dir, strings.Replace(*row.CertIn, "milan_rk_staging", "milan_rk_release", 1))
	if *row.CertIn == row.File || strings.HasSuffix(path, ".json") {
		return open(t, path).Certificates
	}
	return scan(t, path)
}

// TestAzure: in every set the hardware report vouches for the runtime data with
// the virtual TPM's key, and a changed byte of them is found.
func TestAzure(t *testing.T) {
	dir := testenv.Vectors(t, "published/field")
	for file, date := range map[string]string{
		"attestation-rs/az_snp/hcl-report.bin":      "2024-06-01",
		"attestation-rs/az_snp/evidence-v1.json":    "2024-06-01",
		"attestation-rs/az_snp/live-evidence.json":  "2026-03-01",
		"azure/cvm-tooling/hcl-report-snp.bin":      "",
		"cosmian/azure_cvm/data/hcl_report_sev.bin": "2024-06-01",
		"trustee/az-snp-vtpm/hcl-report.bin":        "2024-06-01",
		"trustee/az-snp-vtpm/evidence-v0.json":      "2025-06-01",
		"trustee/az-snp-vtpm/evidence-v1.json":      "2025-06-01",
	} {
		e := open(t, filepath.Join(dir, file))
		switch beside := map[string]string{
			"attestation-rs/az_snp/hcl-report.bin":      "attestation-rs/az_snp/vcek.pem",
			"cosmian/azure_cvm/data/hcl_report_sev.bin": "cosmian/maa_client/data/vcek.pem",
			"trustee/az-snp-vtpm/hcl-report.bin":        "trustee/az-snp-vtpm/vcek.pem",
		}[file]; {
		case beside != "":
			e.Certificates = scan(t, filepath.Join(dir, beside))
		case date == "":
			date = "2026-03-01"
			e.Certificates = snpreport.Certificates{}
		}
		if e.HCL == nil || e.HCL.Runtime.AK == nil {
			t.Fatalf("%s: no runtime data", file)
		}
		r, err := e.Verify(snpreport.Options{At: day(t, date)})
		if err != nil {
			t.Fatal(err)
		}
		if got := find(r.Checks, "runtime-data").Verdict; got != verdict.Pass {
			t.Errorf("%s: runtime data %s", file, got)
		}
		if j := verdict.Fold(r.Checks); j.Verdict != verdict.Pass && e.Certificates.VCEK != nil {
			t.Errorf("%s: %s %s", file, j.Verdict, j.Reasons[0])
		}
		e.HCL.RuntimeData[len(e.HCL.RuntimeData)/2] ^= 1
		if r, err = e.Verify(snpreport.Options{At: day(t, date)}); err != nil || find(r.Checks, "runtime-data").Verdict != verdict.Fail {
			t.Errorf("%s: changed runtime data are not found (%v)", file, err)
		}
	}
	e := open(t, filepath.Join(dir, "cosmian/maa_client/data/az_sev_report_with_chain.bin"))
	if r, err := e.Verify(snpreport.Options{At: day(t, "2024-06-01")}); err != nil || verdict.Fold(r.Checks).Verdict != verdict.Pass || e.Form != snpreport.FormPEM {
		t.Errorf("report with PEM: %v %+v", err, r)
	}
}

// TestTinfoil: the bundle's report is authentic, and its report data begin with
// the SHA-256 of the key of the TLS certificate beside it.
func TestTinfoil(t *testing.T) {
	e := open(t, testenv.Vectors(t, "published/field/tinfoil/router-v0.5.16-a.bundle.json"))
	r, err := e.Verify(snpreport.Options{At: day(t, "2026-03-01")})
	if err != nil {
		t.Fatal(err)
	}
	if j := verdict.Fold(r.Checks); j.Verdict != verdict.Pass {
		t.Errorf("authentic: %s %v", j.Verdict, j.Reasons)
	}
	if len(e.TLSChain) == 0 {
		t.Fatal("no TLS certificate")
	}
	if sum := sha256.Sum256(e.TLSChain[0].RawSubjectPublicKeyInfo); !bytes.Equal(e.Report.ReportData[:32], sum[:]) {
		t.Errorf("report data %x, key %x", e.Report.ReportData[:32], sum)
	}
	if got := e.Report.Measurement.Hex(); !strings.HasPrefix(got, "09ef32ac") {
		t.Errorf("measurement %s", got)
	}
}

// TestForeignVCEK: trustee's certificates of other chips, which AMD did not sign
// (one has the chip's id in an octet string), do not make its report authentic.
func TestForeignVCEK(t *testing.T) {
	dir := testenv.Vectors(t, "published/field/trustee/snp")
	r := open(t, filepath.Join(dir, "test-report.bin")).Report
	for file, want := range map[string]string{
		"test-vcek.der":                "",
		"test-vcek-invalid-legacy.der": "vcek-chain vcek-tcb vcek-chip report-signature",
		"test-vcek-invalid-new.der":    "vcek-chain vcek-tcb vcek-chip report-signature",
	} {
		checks := verify(t, r, scan(t, filepath.Join(dir, file)), snpreport.Options{At: day(t, "2024-06-01")}).Checks
		if got := failed(checks); got != want {
			t.Errorf("%s: failed %q, want %q", file, got, want)
		}
	}
}
