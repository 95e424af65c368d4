package tdxquote_test

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
)

// lines decodes a file of JSON lines.
func lines[T any](t testing.TB, path string) []T {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []T
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var v T
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out = append(out, v)
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// judge gives "accept" or "reject" with the first reason, as the vectors do.
func judge(raw []byte, o tdxquote.Options) (string, string) {
	q, err := tdxquote.Parse(raw)
	if err != nil {
		return "reject", err.Error()
	}
	r, err := tdxquote.Verify(q, o)
	if err != nil {
		return "reject", err.Error()
	}
	if j := verdict.Fold(r.Checks); j.Verdict != verdict.Pass {
		return "reject", j.Reasons[0]
	}
	return "accept", ""
}

type mutant struct {
	ID, Base, Now, Section, Want string
	Op                           struct {
		Flip, Set, Range []int
		Truncate         *int
		CopyFrom         string `json:"copy_from"`
		None             bool
	}
	SHA256 string `json:"mutant_sha256"`
}

func (m mutant) apply(t *testing.T, dir string) []byte {
	raw := read(t, filepath.Join(dir, "tdx", m.Base+".bin"))
	switch op := m.Op; {
	case op.Flip != nil:
		raw[op.Flip[0]] ^= 1 << op.Flip[1]
	case op.Set != nil:
		raw[op.Set[0]] = byte(op.Set[1])
	case op.Truncate != nil:
		raw = raw[:*op.Truncate]
	case op.CopyFrom != "":
		other := read(t, filepath.Join(dir, "tdx", op.CopyFrom+".bin"))
		copy(raw[op.Range[0]:op.Range[1]], other[op.Range[0]:op.Range[1]])
	case !op.None:
		t.Fatalf("%s: unknown operation", m.ID)
	}
	if got := digest.SHA256.Sum(raw).Hex(); got != m.SHA256 {
		t.Fatalf("%s: mutant is %s, want %s", m.ID, got, m.SHA256)
	}
	return raw
}

func TestMutants(t *testing.T) {
	dir := testenv.Vectors(t, "published/quotes")
	count := map[string]int{}
	for _, m := range lines[mutant](t, filepath.Join(dir, "mutants.jsonl")) {
		if m.Base[:3] != "tdx" {
			continue // SNP reports
		}
		at, err := time.Parse(time.DateOnly, m.Now)
		if err != nil {
			t.Fatal(err)
		}
		got, reason := judge(m.apply(t, dir), tdxquote.Options{At: at})
		if got != m.Want {
			t.Errorf("%s (%s of %s): got %s %s, want %s", m.ID, m.Section, m.Base, got, reason, m.Want)
		}
		count[m.Want]++
	}
	t.Logf("TDX mutants: %d accept, %d reject", count["accept"], count["reject"])
	if count["accept"] == 0 || count["reject"] == 0 {
		t.Error("the vectors hold no TDX mutants of both kinds")
	}
}

type dcapMutant struct {
	ID, Base, Part, Want string
	Now                  int64
	Op                   struct {
		Flip  []int
		Clear string            `json:"collateral_clear"`
		Set   []json.RawMessage `json:"collateral_set"`
		Of    string            `json:"collateral_of"`
	}
}

func (m dcapMutant) apply(t *testing.T, dir string) (raw, collateral []byte) {
	raw = read(t, filepath.Join(dir, m.Base+".bin"))
	base := m.Base
	if m.Op.Of != "" {
		base = m.Op.Of
	}
	collateral = read(t, filepath.Join(dir, base+".collateral.json"))
	if m.Op.Flip != nil {
		raw[m.Op.Flip[0]] ^= 1 << m.Op.Flip[1]
	}
	if m.Op.Clear == "" && m.Op.Set == nil {
		return raw, collateral
	}
	var doc map[string]string
	if err := json.Unmarshal(collateral, &doc); err != nil {
		t.Fatal(err)
	}
	if m.Op.Clear != "" {
		doc[m.Op.Clear] = ""
	} else {
		var member, char string
		var at int
		for i, dst := range []any{&member, &at, &char} {
			if err := json.Unmarshal(m.Op.Set[i], dst); err != nil {
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
	return raw, collateral
}

func TestCollateralMutants(t *testing.T) {
	dir := testenv.Vectors(t, "published/quotes")
	count := map[string]int{}
	for _, m := range lines[dcapMutant](t, filepath.Join(dir, "dcap_mutants.jsonl")) {
		raw, file := m.apply(t, filepath.Join(dir, "tdx"))
		got, reason := "reject", ""
		if c, err := tdxquote.ParseCollateral("collateral.json", file); err != nil {
			reason = err.Error()
		} else {
			got, reason = judge(raw, tdxquote.Options{At: time.Unix(m.Now, 0), Collateral: c})
		}
		if m.Want != "any" && got != m.Want {
			t.Errorf("%s (%s of %s): got %s %s, want %s", m.ID, m.Part, m.Base, got, reason, m.Want)
		}
		if m.Want == "any" {
			t.Logf("%s (%s): %s %s", m.ID, m.Part, got, reason)
		}
		count[m.Want]++
	}
	t.Logf("collateral mutants: %v", count)
	if count["accept"] == 0 || count["reject"] == 0 {
		t.Error("the vectors hold no mutants of both kinds")
	}
}

// fields gives a quote's values under the names that the vectors use.
func fields(t *testing.T, q *tdxquote.Quote) map[string]any {
	t.Helper()
	b, x := &q.Body, &q.Body.Extended
	out := map[string]any{
		"version": float64(q.Header.Version), "att_key_type": float64(q.Header.AttestationKeyType), "tee_type": float64(q.Header.TEEType),
		"qe_vendor_id": hex.EncodeToString(q.Header.QEVendorID[:]), "user_data": hex.EncodeToString(q.Header.UserData[:]),
		"tee_tcb_svn": hex.EncodeToString(b.TEETCBSVN[:]), "mr_seam": b.MRSEAM.Hex(), "mr_signer_seam": b.MRSIGNERSEAM.Hex(),
		"seam_attributes": hex.EncodeToString(b.SEAMAttributes[:]), "td_attributes": hex.EncodeToString(b.TDAttributes[:]), "xfam": hex.EncodeToString(b.XFAM[:]),
		"mr_td": b.MRTD.Hex(), "mr_config_id": hex.EncodeToString(b.MRCONFIGID[:]), "mr_owner": hex.EncodeToString(b.MROWNER[:]), "mr_owner_config": hex.EncodeToString(b.MROWNERCONFIG[:]),
		"report_data":  hex.EncodeToString(b.ReportData[:]),
		"qe_isvprodid": float64(q.QEReport.ProductID), "qe_isvsvn": float64(q.QEReport.SVN), "qe_mrenclave": q.QEReport.MRENCLAVE.Hex(), "qe_mrsigner": q.QEReport.MRSIGNER.Hex(),
		"qe_auth_size": float64(len(q.QEAuthData)), "pck_chain_size": float64(len(q.PCKChain)), "extra_bytes": float64(len(q.Trailing)),
		"tee_tcb_svn2": hex.EncodeToString(b.TEETCBSVN2[:]), "mr_service_td": b.MRSERVICETD.Hex(),
		"td_id": hex.EncodeToString(x.TDID[:]), "dev_info": hex.EncodeToString(x.DeviceInfo[:]),
		"init_service_td_hash": hex.EncodeToString(x.InitServiceTDHash[:]), "init_service_td_attributes": hex.EncodeToString(x.InitServiceTDAttr[:]),
		"init_cpu_svn": hex.EncodeToString(x.InitCPUSVN[:]), "init_tee_tcb_svn": hex.EncodeToString(x.InitTEETCBSVN[:]), "init_tee_fmspc": hex.EncodeToString(x.InitTEEFMSPC[:]),
		"cur_service_td_hash": hex.EncodeToString(x.CurrentServiceTDHash[:]), "cur_service_td_attributes": hex.EncodeToString(x.CurrentServiceTDAttrs[:]),
	}
	for i, r := range b.RTMR {
		out[fmt.Sprintf("rtmr%d", i)] = r.Hex()
		out[fmt.Sprintf("rt_mr%d", i)] = r.Hex()
	}
	r, err := tdxquote.Verify(q, tdxquote.Options{At: time.Unix(0, 0)})
	if err != nil || r.PCK == nil {
		t.Fatalf("no PCK: %v", err)
	}
	out["fmspc"] = hex.EncodeToString(r.PCK.FMSPC[:])
	out["pceid"] = hex.EncodeToString(r.PCK.PCEID[:])
	out["ppid"] = hex.EncodeToString(r.PCK.PPID)
	return out
}

// TestFields holds every field against other readers of the same quotes.
func TestFields(t *testing.T) {
	dir := testenv.Vectors(t, "published/quotes")
	var all map[string]struct {
		Parsed map[string]any
		Verify map[string]string
	}
	if err := json.Unmarshal(read(t, filepath.Join(dir, "parsed_and_verdicts.json")), &all); err != nil {
		t.Fatal(err)
	}
	var dcap map[string]map[string]any
	if err := json.Unmarshal(read(t, filepath.Join(dir, "tdx/dcap_parsed.json")), &dcap); err != nil {
		t.Fatal(err)
	}
	for name, v := range all {
		if v.Parsed["tee_type"] != nil {
			dcap[name] = v.Parsed
		}
	}
	compared := 0
	for name, want := range dcap {
		raw := read(t, filepath.Join(dir, "tdx", name+".bin"))
		q, err := tdxquote.Parse(raw)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(q.Marshal(), raw) {
			t.Errorf("%s: Marshal does not give the bytes back", name)
		}
		got := fields(t, q)
		for key, w := range want {
			g, ok := got[key]
			if !ok {
				continue
			}
			if key == "fmspc" {
				w = string(bytes.ToLower([]byte(w.(string))))
			}
			if d := cmp.Diff(w, g); d != "" {
				t.Errorf("%s: %s (-want +got):\n%s", name, key, d)
			}
			compared++
		}
	}
	for name, v := range all {
		for date, want := range v.Verify {
			at, err := time.Parse(time.DateOnly, date)
			if v.Parsed["tee_type"] == nil || err != nil {
				continue // SNP, or with the network
			}
			got, reason := judge(read(t, filepath.Join(dir, "tdx", name+".bin")), tdxquote.Options{At: at})
			if got != want[:6] {
				t.Errorf("%s at %s: got %s %s, want %s", name, date, got, reason, want)
			}
			compared++
		}
	}
	if compared < 150 {
		t.Errorf("only %d values compared", compared)
	}
	t.Logf("%d values of %d quotes compared", compared, len(dcap))
}

// TestReports judges inputs of the kind that people report trouble with:
// collateral in other layouts, versions that are short, roots that are not
// Intel's production one.
func TestReports(t *testing.T) {
	dir := testenv.Vectors(t, "published/reports")
	at := time.Date(2026, 8, 14, 10, 45, 38, 0, time.UTC)
	judgeWith := func(folder, collateral string, o tdxquote.Options) (string, string, *tdxquote.Result) {
		t.Helper()
		if collateral != "" {
			c, err := tdxquote.ParseCollateral(collateral, read(t, filepath.Join(dir, folder, collateral)))
			if err != nil {
				return "unreadable", err.Error(), nil
			}
			o.Collateral = c
		}
		q, err := tdxquote.Parse(read(t, filepath.Join(dir, folder, "quote.bin")))
		if err != nil {
			t.Fatal(err)
		}
		r, err := tdxquote.Verify(q, o)
		if err != nil {
			t.Fatal(err)
		}
		j := verdict.Fold(r.Checks)
		return string(j.Verdict), strings.Join(j.Reasons, "\n"), r
	}
	root := func(folder string) []*x509.Certificate {
		chain, err := certs.ReadPEM("root", read(t, filepath.Join(dir, folder, "root.pem")))
		if err != nil {
			t.Fatal(err)
		}
		return chain[:1]
	}
	for _, tt := range []struct {
		folder, collateral string
		o                  tdxquote.Options
		want, text         string
	}{
		{"b38-tcb-out-of-date-what-is-short", "coll.json", tdxquote.Options{At: at}, "fail", "short of the newest level, that of 2025-08-13T00:00:00Z (UpToDate): "},
		{"b40a-collateral-crl-base64", "coll.json", tdxquote.Options{At: at}, "pass", "revocation: neither"},
		{"b40c-collateral-objects", "coll.json", tdxquote.Options{At: at}, "pass", "tcb-info: signed"},
		{"b41-collateral-pcs-files", "tcb.json", tdxquote.Options{At: at}, "unreadable", "found only tcb_info; missing are tcb_info_issuer_chain, qe_identity"},
		{"b43-td-migratable", "coll.json", tdxquote.Options{At: now, Roots: root("b43-td-migratable")}, "unchecked", "td-migratable: the TD can be moved"},
		{"b45-td-sept-ve", "", tdxquote.Options{At: time.Date(2026, 2, 19, 10, 58, 51, 0, time.UTC)}, "pass", "td-sept-ve: SEPT_VE_DISABLE is not set"},
		{"b46-pre-production-root", "", tdxquote.Options{At: now}, "fail", "pre-production (sandbox) root"},
		{"b47-test-root-other-qe", "coll.json", tdxquote.Options{At: time.Date(2023, 6, 30, 0, 0, 0, 0, time.UTC), Roots: root("b47-test-root-other-qe")}, "pass", "that the collateral names under the test root"},
		{"b47-test-root-other-qe", "", tdxquote.Options{At: time.Date(2023, 6, 30, 0, 0, 0, 0, time.UTC), Roots: root("b47-test-root-other-qe")}, "fail", "qe-identity: the report is of signer"},
	} {
		got, reasons, r := judgeWith(tt.folder, tt.collateral, tt.o)
		if got != tt.want || !strings.Contains(reasons, tt.text) {
			t.Errorf("%s: %s, want %s with %q:\n%s", tt.folder, got, tt.want, tt.text, reasons)
		}
		if r != nil && r.TCB != nil {
			t.Logf("%s: %s, short %q", tt.folder, r.TCB.Status, r.TCB.Short)
		}
	}
}
