package evidence_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/manifest"
	evidencestage "github.com/retally/retally/pipeline/stages/evidence"
)

// TestTDXDemands: what an entry of a manifest demands beside registers passes where
// certificate and collateral show it, fails where they show something else, and is
// open where they do not say.
func TestTDXDemands(t *testing.T) {
	policy := digest.SHA256.Sum([]byte("policy"))
	platform := func(in *fake.Instance) *fake.Platform {
		p := ownPlatform(t)
		if in != nil {
			if err := p.Certify(*in); err != nil {
				t.Fatal(err)
			}
		}
		return p
	}
	piid := [16]byte{1, 2, 3}
	good := platform(&fake.Instance{PIID: piid, SGXType: 2})
	lax := platform(&fake.Instance{PIID: [16]byte{9}, SGXType: 1, Dynamic: true, SMT: true})
	bare := platform(nil)
	body := ownBody(t)
	copy(body.MRCONFIGID[:], policy.Bytes())
	body.TEETCBSVN = [16]byte{6, 1, 3}
	id := fmt.Sprintf("%x", piid)
	for _, tt := range []struct {
		name, more string
		platform   *fake.Platform
		collateral bool
		want       verdict.Verdict
		text       string
	}{
		{"nothing more", ``, bare, false, "pass", ""},
		{"demands nothing", `,"MinTCBEvaluationDataNumber":0,"AllowedPIIDs":[],"MemoryIntegrity":false,"SMTDisabled":false,"StaticPlatform":false`, bare, false, "pass", ""},
		{"all", `,"MinTCBEvaluationDataNumber":17,"AllowedPIIDs":["` + id + `"],"MemoryIntegrity":true,"SMTDisabled":true,"StaticPlatform":true`, good, true, "pass", "fits as a whole"},
		{"evaluation", `,"MinTCBEvaluationDataNumber":18`, good, true, "fail", "of TCB evaluation 17, expected is at least 18"},
		{"evaluation, no collateral", `,"MinTCBEvaluationDataNumber":17`, good, false, "unchecked", "is known of collateral only"},
		{"another instance", `,"AllowedPIIDs":["` + id + `"]`, lax, true, "fail", "is none of those allowed"},
		{"one of several", `,"AllowedPIIDs":["` + strings.Repeat("00", 16) + `","` + strings.ToUpper(id) + `"]`, good, false, "pass", ""},
		{"no instance", `,"AllowedPIIDs":["` + id + `"]`, bare, true, "unchecked", "names no platform instance"},
		{"a broken instance", `,"AllowedPIIDs":["` + id + `","xx"]`, good, false, "unchecked", "AllowedPIIDs"},
		{"integrity", `,"MemoryIntegrity":true`, lax, false, "fail", "no cryptographic memory integrity"},
		{"SMT", `,"SMTDisabled":true`, lax, false, "fail", "hyper-threading is on"},
		{"SMT not said", `,"SMTDisabled":true`, bare, false, "unchecked", "does not say whether hyper-threading"},
		{"static", `,"StaticPlatform":true`, lax, false, "fail", "can be added or replaced"},
		{"static not said", `,"StaticPlatform":true`, bare, false, "unchecked", "does not say whether packages"},
		{"XFAM", `,"Xfam":"e702060000000000"`, bare, false, "pass", ""},
		{"another XFAM", `,"Xfam":"e700060000000000"`, bare, false, "fail", "xfam: is e702060000000000"},
		{"a short XFAM", `,"Xfam":"e702"`, bare, false, "unchecked", "Xfam"},

		// A member of a wrong type demands something that nobody understood.
		{"PIIDs that are no list", `,"AllowedPIIDs":"` + id + `"`, good, false, "unchecked", "AllowedPIIDs"},
		{"a PIID that is a number", `,"AllowedPIIDs":[1]`, good, false, "unchecked", "AllowedPIIDs"},
		{"SMT in quotation marks", `,"SMTDisabled":"true"`, good, false, "unchecked", "SMTDisabled"},
		{"integrity as a number", `,"MemoryIntegrity":1`, good, false, "unchecked", "MemoryIntegrity"},
		{"static as a list", `,"StaticPlatform":[true]`, good, false, "unchecked", "StaticPlatform"},
		{"evaluation in quotation marks", `,"MinTCBEvaluationDataNumber":"17"`, good, true, "unchecked", "MinTCBEvaluationDataNumber"},
		{"a negative evaluation", `,"MinTCBEvaluationDataNumber":-1`, good, true, "unchecked", "MinTCBEvaluationDataNumber"},
		{"XFAM as a number", `,"Xfam":1`, bare, false, "unchecked", "Xfam"},
		{"a member that nobody knows", `,"MinimumModule":5`, good, true, "unchecked", "MinimumModule"},
	} {
		regs := body.RTMR
		entry := fmt.Sprintf(`{"Platform":"metal","MrTd":%q,"MrSeam":%q,"Rtmrs":[%q,%q,%q,%q]%s}`, body.MRTD.Hex(), strings.Repeat("00", 48), regs[0].Hex(), regs[1].Hex(), regs[2].Hex(), regs[3].Hex(), tt.more)
		if !strings.Contains(tt.more, `"Xfam"`) {
			entry = strings.Replace(entry, `,"Rtmrs"`, `,"Xfam":"e702060000000000","Rtmrs"`, 1)
		}
		m, err := manifest.Parse("m.json", []byte(`{"Policies":{"`+policy.Hex()+`":{"SANs":[]}},"ReferenceValues":{"tdx":[`+entry+`]}}`))
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		sets, err := evidencestage.ManifestSets("m.json", m)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		r := evidence.Request{Evidence: read(t, "q", ownQuote(t, tt.platform, body)), IntelRoots: roots(tt.platform), Sets: sets}
		if tt.collateral {
			file, err := tt.platform.Collateral(fake.Levels{})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.TakeCollateral("c", file); err != nil {
				t.Fatal(err)
			}
		}
		got := verify(t, r)
		if got.Authentic.Verdict != verdict.Pass {
			t.Errorf("%s: %s", tt.name, reasons(got.Authentic))
		}
		if got.Expected.Verdict != tt.want || !strings.Contains(reasons(got.Expected), tt.text) {
			t.Errorf("%s: %s, want %s with %q:\n%s", tt.name, got.Expected.Verdict, tt.want, tt.text, reasons(got.Expected))
		}
	}
}

// TestSNPPlatformInfo: an entry that does not say what the platform must be like
// leaves it open, and so does one that says it in another form.
func TestSNPPlatformInfo(t *testing.T) {
	p := snpMachine(t)
	policy := digest.SHA256.Sum([]byte("policy"))
	bundle := snpBundle(t, p, false, func(r *snpreport.Report) {
		r.HostData = [32]byte(policy.Bytes())
		r.Policy = snpreport.PolicySMT | 1<<17
	})
	for name, tt := range map[string]struct {
		info string
		want verdict.Verdict
		text string
	}{
		"as it is":       {`,"PlatformInfo":{"SMTEnabled":true}`, "pass", ""},
		"absent":         {``, "unchecked", "the manifest has no PlatformInfo"},
		"null":           {`,"PlatformInfo":null`, "unchecked", "the manifest has no PlatformInfo"},
		"a list":         {`,"PlatformInfo":["SMTEnabled"]`, "unchecked", "PlatformInfo"},
		"a word":         {`,"PlatformInfo":{"SMTEnabled":"true"}`, "unchecked", "PlatformInfo/SMTEnabled"},
		"an unknown one": {`,"PlatformInfo":{"SMTEnabled":true,"Novel":true}`, "unchecked", "Novel, which is not known"},
	} {
		entry := `{"Platform":"metal","ProductName":"Genoa","TrustedMeasurement":"` + sum("launch").Hex() + `","MinimumTCB":{"BootloaderVersion":7,"TEEVersion":1,"SNPVersion":20,"MicrocodeVersion":70},"GuestPolicy":{"SMT":true,"Debug":false}` + tt.info + `}`
		m, err := manifest.Parse("m.json", []byte(`{"Policies":{"`+policy.Hex()+`":{"SANs":[]}},"ReferenceValues":{"snp":[`+entry+`]}}`))
		if err != nil {
			t.Fatal(err)
		}
		sets, err := evidencestage.SNPSets("m.json", m)
		if err != nil {
			t.Fatal(err)
		}
		got := verify(t, evidence.Request{Evidence: bundle, AMDRoots: []snpreport.Root{p.Root()}, Sets: sets})
		if got.Expected.Verdict != tt.want || !strings.Contains(reasons(got.Expected), tt.text) {
			t.Errorf("%s: %s, want %s with %q:\n%s", name, got.Expected.Verdict, tt.want, tt.text, reasons(got.Expected))
		}
	}
}

// TestRequire: the same demands as the user writes them.
func TestRequire(t *testing.T) {
	p := ownPlatform(t)
	r := evidence.Request{Evidence: read(t, "q", ownQuote(t, p, ownBody(t))), IntelRoots: roots(p), Require: &tdxquote.Expectations{XFAM: make([]byte, 8), SMTDisabled: true}}
	got := verify(t, r)
	if got.Expected.Verdict != verdict.Fail || !strings.Contains(reasons(got.Expected), "xfam: is e702060000000000, expected is 0000000000000000") || !strings.Contains(reasons(got.Expected), "smt: the PCK certificate does not say") {
		t.Errorf("%s\n%s", got.Expected.Verdict, reasons(got.Expected))
	}
}
