package snpreport_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
)

type mutant struct {
	ID, Base, Now, Section, Want string
	Op                           struct {
		Flip, Set []int
		Truncate  *int
		None      bool
	}
	SHA256 string `json:"mutant_sha256"`
}

func (m mutant) apply(t testing.TB, dir string) []byte {
	t.Helper()
	raw := read(t, filepath.Join(dir, "snp", m.Base+".bin"))
	switch op := m.Op; {
	case op.Flip != nil:
		raw[op.Flip[0]] ^= 1 << op.Flip[1]
	case op.Set != nil:
		raw[op.Set[0]] = byte(op.Set[1])
	case op.Truncate != nil:
		raw = raw[:*op.Truncate]
	case !op.None:
		t.Fatalf("%s: unknown operation", m.ID)
	}
	if got := digest.SHA256.Sum(raw).Hex(); got != m.SHA256 {
		t.Fatalf("%s: mutant is %s, want %s", m.ID, got, m.SHA256)
	}
	return raw
}

// mutants are those of SNP reports.
func mutants(t testing.TB, dir string) []mutant {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "mutants.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []mutant
	for s := bufio.NewScanner(f); s.Scan(); {
		var m mutant
		if err := json.Unmarshal(s.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(m.Base, "snp") {
			out = append(out, m)
		}
	}
	return out
}

func TestMutants(t *testing.T) {
	dir := testenv.Vectors(t, "published/quotes")
	count := map[string]int{}
	for _, m := range mutants(t, dir) {
		got, reason := judge(m.apply(t, dir), scan(t, filepath.Join(dir, "snp", m.Base+".vcek.der")), snpreport.Options{At: day(t, m.Now)})
		if got != m.Want {
			t.Errorf("%s (%s of %s): got %s %s, want %s", m.ID, m.Section, m.Base, got, reason, m.Want)
		}
		count[m.Want]++
	}
	t.Logf("SNP mutants: %v", count)
	if count["accept"] == 0 || count["reject"] < 80 {
		t.Error("the vectors hold too few SNP mutants")
	}
}

// fields gives a report's values under the names that the vectors use.
func fields(r *snpreport.Report) map[string]any {
	number := func(t snpreport.TCB) float64 {
		var n float64
		for i := 7; i >= 0; i-- {
			n = n*256 + float64(t[i])
		}
		return n
	}
	fms := float64(0)
	if r.Version >= 3 {
		fms = float64(uint32(r.CPUIDFamily-15)<<20 | uint32(r.CPUIDModel>>4)<<16 | 0xf00 | uint32(r.CPUIDModel&15)<<4 | uint32(r.CPUIDStepping))
	}
	h := hex.EncodeToString
	return map[string]any{
		"author_key_digest": r.AuthorKeyDigest.Hex(), "chip_id": h(r.ChipID[:]), "committed_tcb": number(r.CommittedTCB), "cpuid1eax_fms": fms,
		"current_build": float64(r.Current.Build), "current_major": float64(r.Current.Major), "current_minor": float64(r.Current.Minor), "current_tcb": number(r.CurrentTCB),
		"family_id": h(r.FamilyID[:]), "guest_svn": float64(r.GuestSVN), "host_data": h(r.HostData[:]), "id_key_digest": r.IDKeyDigest.Hex(), "image_id": h(r.ImageID[:]),
		"launch_tcb": number(r.LaunchTCB), "measurement": r.Measurement.Hex(), "platform_info": float64(r.PlatformInfo), "policy": float64(r.Policy),
		"report_data": h(r.ReportData[:]), "report_id": h(r.ReportID[:]), "report_id_ma": h(r.ReportIDMA[:]), "reported_tcb": number(r.ReportedTCB),
		"signature_algo": float64(1), "signer_info": float64(uint32(r.SigningKey) << 2), "version": float64(r.Version), "vmpl": float64(r.VMPL),
	}
}

// TestRecorded holds every field against another reader of the same reports, and
// every verdict at its recorded time.
func TestRecorded(t *testing.T) {
	dir := testenv.Vectors(t, "published/quotes")
	var all map[string]struct {
		Parsed map[string]any
		Verify map[string]string
	}
	if err := json.Unmarshal(read(t, filepath.Join(dir, "parsed_and_verdicts.json")), &all); err != nil {
		t.Fatal(err)
	}
	reports, verdicts := 0, 0
	for name, v := range all {
		if v.Parsed["tee_type"] != nil {
			continue // TDX
		}
		raw := read(t, filepath.Join(dir, "snp", name+".bin"))
		r, err := snpreport.Parse(raw)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(r.Marshal(), raw) {
			t.Errorf("%s: Marshal does not give the bytes back", name)
		}
		if d := cmp.Diff(v.Parsed, fields(r)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		reports++
		for key, want := range v.Verify {
			date, dated := strings.CutPrefix(key, "vcek@")
			at, err := time.Parse(time.DateOnly, date)
			switch {
			case key == "no-vcek,no-fetch":
				result := verify(t, r, snpreport.Certificates{}, snpreport.Options{At: day(t, "2026-03-01")})
				if j := verdict.Fold(result.Checks); j.Verdict != verdict.Unchecked || result.Missing == "" {
					t.Errorf("%s without VCEK: %s %v", name, j.Verdict, j.Reasons)
				}
			case dated && err == nil:
				got, reason := judge(raw, scan(t, filepath.Join(dir, "snp", name+".vcek.der")), snpreport.Options{At: at})
				if got != want[:6] {
					t.Errorf("%s at %s: got %s %s, want %s", name, date, got, reason, want)
				}
			default:
				continue // "vcek@now" is of another day, "sig-only" is in the mutants
			}
			verdicts++
		}
	}
	if reports < 3 || verdicts < 6 {
		t.Errorf("only %d reports and %d verdicts compared", reports, verdicts)
	}
	t.Logf("%d reports, %d verdicts", reports, verdicts)
}

// TestEndToEnd: the reports whose digests are recomputed elsewhere are authentic
// where their VCEK is at hand, else the one that is missing is named.
func TestEndToEnd(t *testing.T) {
	var cases []struct {
		ID, Report, Measurement string
	}
	if err := json.Unmarshal(read(t, testenv.Vectors(t, "published/snp/end_to_end.json")), &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) == 0 {
		t.Fatal("no cases")
	}
	for _, c := range cases {
		path := testenv.Vectors(t, c.Report)
		r, err := snpreport.Parse(read(t, path))
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Measurement.Hex(); got != c.Measurement {
			t.Errorf("%s: measurement %s, want %s", c.ID, got, c.Measurement)
		}
		var certs snpreport.Certificates
		want := verdict.Unchecked
		if vcek := strings.TrimSuffix(path, ".bin") + ".vcek.der"; exists(vcek) {
			certs, want = scan(t, vcek), verdict.Pass
		}
		result := verify(t, r, certs, snpreport.Options{At: day(t, "2026-08-01")})
		if j := verdict.Fold(result.Checks); j.Verdict != want {
			t.Errorf("%s: %s, want %s: %v", c.ID, j.Verdict, want, j.Reasons)
		}
		if strings.HasPrefix(c.ID, "e2e-secretvm") {
			for _, part := range []string{"product Genoa", "hwID af7074eaa4ee854f", "blSPL 9, teeSPL 0, snpSPL 23, ucodeSPL 72"} {
				if !strings.Contains(result.Missing, part) {
					t.Errorf("%s: missing certificate %q lacks %q", c.ID, result.Missing, part)
				}
			}
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestFlips: no single bit of the signed bytes of three real reports may be
// changed, nor of the signature's.
func TestFlips(t *testing.T) {
	dir := testenv.Vectors(t, "published")
	flips := 300
	if testenv.IsLong() {
		flips = 10000
	}
	sets := []struct{ report, certs, at string }{
		{"quotes/snp/snp-milan-v2.bin", "quotes/snp/snp-milan-v2.vcek.der", "2023-06-01"},
		{"field/attestation-rs/snp/live-report-v5-genoa.bin", "field/attestation-rs/snp/live-vcek-genoa.der", "2026-03-01"},
		{"field/attestation-rs/snp/test-vlek-report.bin", "field/attestation-rs/snp/test-vlek.der", "2025-03-01"},
	}
	rng := rand.New(rand.NewPCG(14, 2026))
	for i := range flips + flips/10 {
		set := sets[i%len(sets)]
		raw, c, o := read(t, filepath.Join(dir, set.report)), scan(t, filepath.Join(dir, set.certs)), snpreport.Options{At: day(t, set.at)}
		if got, reason := judge(raw, c, o); i < len(sets) && got != "accept" {
			t.Fatalf("%s: %s", set.report, reason)
		}
		at := rng.IntN(8 * 0x2a0)
		if i >= flips {
			at = 8*0x2a0 + rng.IntN(8*(snpreport.Size-0x2a0))
		}
		raw[at/8] ^= 1 << (at % 8)
		if got, _ := judge(raw, c, o); got != "reject" {
			t.Errorf("%s: bit %d of byte %#x was changed: %s", set.report, at%8, at/8, got)
		}
	}
	t.Logf("%d flips over the signed bytes, %d over the signature", flips, flips/10)
}
