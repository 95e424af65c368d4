package evidence_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/manifest"
	evidencestage "github.com/retally/retally/pipeline/stages/evidence"
)

func snpMachine(t testing.TB) *fake.SNPPlatform {
	t.Helper()
	p, err := fake.NewSNPPlatform("stage", from, until, fake.SNPOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// snpBundle is a report of a machine, with its certificates unless bare.
func snpBundle(t testing.TB, p *fake.SNPPlatform, bare bool, change func(*snpreport.Report)) *evidence.Bundle {
	t.Helper()
	raw, err := p.Report(snpreport.Report{Measurement: sum("launch")}, change)
	if err != nil {
		t.Fatal(err)
	}
	if !bare {
		table, err := p.Table()
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, table...)
	}
	return read(t, "report.bin", raw)
}

// TestSNP: a report gives the same three verdicts as a quote, by the same judge.
func TestSNP(t *testing.T) {
	p := snpMachine(t)
	cert, _ := certificate(t, "machine")
	other, _ := certificate(t, "other")
	spki := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	bound := func(r *snpreport.Report) { copy(r.ReportData[:], spki[:]) }
	launch := func(names ...string) (sets []evidence.ReferenceSet) {
		for _, n := range names {
			sets = append(sets, evidence.ReferenceSet{Group: "given", Name: n, Registers: map[evidence.Register]digest.Digest{evidence.Measurement: sum(n)}})
		}
		return sets
	}
	for _, tt := range []struct {
		name   string
		bare   bool
		change func(*snpreport.Report)
		edit   func(*evidence.Request)
		want   string
		text   string
	}{
		{"nothing given", false, bound, func(*evidence.Request) {}, "puu", "measurement: " + sum("launch").Hex() + " in the report; nothing to compare with: neither a launch digest"},
		{"all", false, bound, func(r *evidence.Request) { r.Sets, r.TLSCert = launch("launch"), cert }, "ppp", "the public key (SubjectPublicKeyInfo) of the certificate given"},
		{"one of several", false, bound, func(r *evidence.Request) { r.Sets, r.TLSCert = launch("x", "launch"), cert }, "ppp", "given: launch fits as a whole: measurement"},
		{"another launch", false, bound, func(r *evidence.Request) { r.Sets = launch("x") }, "pfu", "the nearest is x: measurement is"},
		{"another certificate", false, bound, func(r *evidence.Request) { r.TLSCert = other }, "puf", "somebody else's key"},
		{"SecretVM", false, bound, func(r *evidence.Request) { r.Profile, r.TLSCert = evidence.SecretVM, cert }, "pup", "the report data binds no GPU"},
		{"SecretVM, an unknown GPU", false, func(r *snpreport.Report) { bound(r); r.ReportData[63] = 1 }, func(r *evidence.Request) { r.Profile, r.TLSCert = evidence.SecretVM, cert }, "puu", "binds a GPU by the nonce"},
		{"no certificate of AMD", true, bound, func(*evidence.Request) {}, "uuu", "VCEK"},
		{"certificates given", true, bound, func(r *evidence.Request) { r.Certificates = p.Certificates() }, "puu", ""},
		{"contradicting certificates", false, bound, func(r *evidence.Request) {
			o, err := fake.NewSNPPlatform("stage", from, until, fake.SNPOptions{Chip: "another"})
			if err != nil {
				t.Fatal(err)
			}
			r.Certificates = o.Certificates()
		}, "fuu", "certificates: "},
		{"under debug", false, func(r *snpreport.Report) { r.Policy |= snpreport.PolicyDebug }, func(r *evidence.Request) { r.Sets = launch("launch") }, "fpu", "policy-debug"},
		{"AMD's roots", false, bound, func(r *evidence.Request) { r.AMDRoots = nil }, "fuu", ""},
		{"a quote's registers", false, bound, func(r *evidence.Request) {
			r.Sets = []evidence.ReferenceSet{{Group: "given", Name: "q", Registers: map[evidence.Register]digest.Digest{evidence.MRTD: sum("launch")}}}
		}, "pfu", "mrtd is no register of this evidence"},
		{"the sender's", false, bound, func(r *evidence.Request) { r.Sets = launch("launch"); r.Sets[0].Source = evidence.Sender }, "puu", "sender's word"},
		{"later", false, bound, func(r *evidence.Request) { r.At = until.AddDate(1, 0, 0) }, "fuu", ""},
	} {
		r := evidence.Request{Evidence: snpBundle(t, p, tt.bare, tt.change), AMDRoots: []snpreport.Root{p.Root()}}
		tt.edit(&r)
		got := verify(t, r)
		all := reasons(got.Authentic) + "\n" + reasons(got.Expected) + "\n" + reasons(got.Bound)
		if short(got) != tt.want || !strings.Contains(all, tt.text) {
			t.Errorf("%s: %s, want %s with %q:\n%s", tt.name, short(got), tt.want, tt.text, all)
		}
		if want := r.AMDRoots != nil; len(got.TestRoots()) > 0 != want {
			t.Errorf("%s: test roots %v", tt.name, got.TestRoots())
		}
		if got.Verdict() == verdict.Pass != (tt.want == "ppp") {
			t.Errorf("%s: the whole is %s", tt.name, got.Verdict())
		}
	}
}

// TestSNPManifest: an entry of a manifest holds as a whole, with everything that
// it demands beside the launch digest.
func TestSNPManifest(t *testing.T) {
	p := snpMachine(t)
	policy := digest.SHA256.Sum([]byte("policy"))
	bundle := snpBundle(t, p, false, func(r *snpreport.Report) {
		r.HostData = [32]byte(policy.Bytes())
		r.Policy = snpreport.PolicySMT | 1<<17
	})
	entry := func(platform, product, launch string, snp int, more string) string {
		return fmt.Sprintf(`{"Platform":%q,"ProductName":%q,"TrustedMeasurement":%q,"MinimumTCB":{"BootloaderVersion":7,"TEEVersion":1,"SNPVersion":%d,"MicrocodeVersion":70},"GuestPolicy":{"SMT":true,"Debug":false},"PlatformInfo":{"SMTEnabled":true}%s}`,
			platform, product, launch, snp, more)
	}
	good := sum("launch").Hex()
	for _, tt := range []struct {
		name, policies, entries string
		want                    verdict.Verdict
		text                    string
	}{
		{"good", policy.Hex(), entry("metal", "Genoa", good, 20, ""), "pass", "metal Genoa (line 1) fits as a whole: measurement, demands"},
		{"one of two products", policy.Hex(), entry("metal", "Milan", good, 20, "") + "," + entry("metal", "Genoa", good, 20, ""), "pass", "metal Genoa (line 1) fits"},
		{"another launch", policy.Hex(), entry("metal", "Genoa", sum("x").Hex(), 20, ""), "fail", "measurement is"},
		{"another product", policy.Hex(), entry("metal", "Milan", good, 20, ""), "fail", "product"},
		{"newer firmware wanted", policy.Hex(), entry("metal", "Genoa", good, 21, ""), "fail", "tcb"},
		{"launch of one, firmware of another", policy.Hex(), entry("metal", "Genoa", good, 21, "") + "," + entry("metal", "Genoa", sum("x").Hex(), 20, ""), "fail", "no set of values fits as a whole"},
		{"another policy", digest.SHA256.Sum([]byte("x")).Hex(), entry("metal", "Genoa", good, 20, ""), "fail", "host-data"},
		{"another chip", policy.Hex(), entry("metal", "Genoa", good, 20, `,"AllowedChipIDs":["`+strings.Repeat("ab", 64)+`"]`), "fail", "chip"},
		{"a word that is not known", policy.Hex(), strings.Replace(entry("metal", "Genoa", good, 20, ""), `"SMT":true`, `"SMT":true,"Novel":true`, 1), "unchecked", "Novel, which is not known"},
		{"a list that is none", policy.Hex(), entry("metal", "Genoa", good, 20, `,"AllowedChipIDs":"`+strings.Repeat("ab", 64)+`"`), "unchecked", "AllowedChipIDs"},
		{"a switch in quotation marks", policy.Hex(), strings.Replace(entry("metal", "Genoa", good, 20, ""), `"Debug":false`, `"Debug":"false"`, 1), "unchecked", "GuestPolicy/Debug"},
		{"a number out of range", policy.Hex(), strings.Replace(entry("metal", "Genoa", good, 20, ""), `"Debug":false`, `"Debug":false,"ABIMajor":256`, 1), "unchecked", "GuestPolicy/ABIMajor"},
		{"a field that nobody knows", policy.Hex(), entry("metal", "Genoa", good, 20, `,"MinimumFirmware":9`), "unchecked", "MinimumFirmware"},
		{"no guest policy", policy.Hex(), strings.Replace(entry("metal", "Genoa", good, 20, ""), `"GuestPolicy":{"SMT":true,"Debug":false},`, "", 1), "unchecked", "no GuestPolicy"},
		{"firmware not filled in", policy.Hex(), strings.Replace(entry("metal", "Genoa", good, 20, ""), `"TEEVersion":1`, `"TEEVersion":null`, 1), "unchecked", "fills in no TEEVersion"},
	} {
		m, err := manifest.Parse("m.json", []byte(`{"Policies":{"`+tt.policies+`":{"SANs":[]}},"ReferenceValues":{"snp":[`+tt.entries+`]}}`))
		if err != nil {
			t.Fatal(err)
		}
		sets, err := evidencestage.SNPSets("m.json", m)
		if err != nil {
			t.Fatal(err)
		}
		got := verify(t, evidence.Request{Evidence: bundle, AMDRoots: []snpreport.Root{p.Root()}, Sets: sets})
		if got.Expected.Verdict != tt.want || !strings.Contains(reasons(got.Expected), tt.text) {
			t.Errorf("%s: %s, want %s with %q:\n%s", tt.name, got.Expected.Verdict, tt.want, tt.text, reasons(got.Expected))
		}
	}
	// A quote is no SEV-SNP machine.
	m, err := manifest.Parse("m.json", []byte(`{"Policies":{},"ReferenceValues":{"snp":[`+entry("metal", "Genoa", good, 20, "")+`]}}`))
	if err != nil {
		t.Fatal(err)
	}
	sets, err := evidencestage.SNPSets("m.json", m)
	if err != nil {
		t.Fatal(err)
	}
	q := ownPlatform(t)
	if got := verify(t, evidence.Request{Evidence: read(t, "q", ownQuote(t, q, ownBody(t))), IntelRoots: roots(q), Sets: sets}); got.Expected.Verdict != verdict.Fail {
		t.Errorf("a quote against SEV-SNP values: %s\n%s", got.Expected.Verdict, reasons(got.Expected))
	}
}

// TestSNPAzure: the report data vouch for the paravisor's runtime data; a
// connection is bound by no report of this kind alone.
func TestSNPAzure(t *testing.T) {
	p := snpMachine(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := p.HCL(&key.PublicKey, snpreport.Report{Measurement: sum("launch")})
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := certificate(t, "machine")
	r := evidence.Request{Evidence: read(t, "hcl.bin", raw), AMDRoots: []snpreport.Root{p.Root()}, Certificates: p.Certificates()}
	if got := verify(t, r); short(got) != "puu" || !strings.Contains(reasons(got.Authentic), "runtime-data: the report data are the") {
		t.Errorf("%s\n%s\n%s", short(got), reasons(got.Authentic), reasons(got.Bound))
	}
	r.TLSCert = cert
	if got := verify(t, r); got.Bound.Verdict != verdict.Unchecked || !strings.Contains(reasons(got.Bound), "the key of the virtual TPM") {
		t.Errorf("with a certificate: %s\n%s", got.Bound.Verdict, reasons(got.Bound))
	}
	r.Nonce = []byte("another nonce")
	if got := verify(t, r); got.Bound.Verdict != verdict.Fail {
		t.Errorf("another nonce: %s\n%s", got.Bound.Verdict, reasons(got.Bound))
	}
}

// TestRealSNP: published reports of real machines.
func TestRealSNP(t *testing.T) {
	at := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name, vcek, want string
	}{{"snp-milan-v2", "snp-milan-v2", ""}, {"snp-milan-dstack-v3", "snp-milan-dstack-v3", "puu"}, {"secretvm-genoa-1", "", "uuu"}, {"snp-milan-v2", "snp-milan-dstack-v3", "fuu"}} {
		b := read(t, tt.name, vector(t, "published/quotes/snp/"+tt.name+".bin"))
		r := evidence.Request{At: at, Evidence: b}
		if tt.vcek != "" {
			c, err := snpreport.ParseCertificates(tt.vcek, vector(t, "published/quotes/snp/"+tt.vcek+".vcek.der"))
			if err != nil {
				t.Fatal(err)
			}
			r.Certificates = c
		}
		got := verify(t, r)
		if tt.want != "" && short(got) != tt.want || len(got.TestRoots()) != 0 || got.Claims.Report.Measurement != b.SNP.Report.Measurement.Hex() {
			t.Errorf("%s under %s: %s, want %s, roots %v\n%s", tt.name, tt.vcek, short(got), tt.want, got.Roots, reasons(got.Authentic))
		}
	}
}
