package snpreport_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// TestAMDRoots pins what AMD's Key Distribution Service publishes, and checks
// that the roots sign themselves and the keys below.
func TestAMDRoots(t *testing.T) {
	pins := map[snpreport.Product][3]string{
		snpreport.Milan: {"69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd", "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b", "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5"},
		snpreport.Genoa: {"4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1", "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521", "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372"},
		snpreport.Turin: {"1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a", "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185", "104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c"},
	}
	for product, pin := range pins {
		r, err := snpreport.AMDRoot(product)
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range []*x509.Certificate{r.ARK, r.ASK, r.ASVK} {
			if got := digest.SHA256.Sum(c.Raw).Hex(); got != pin[i] {
				t.Errorf("%s: certificate %d is %s, want %s", product, i, got, pin[i])
			}
			if err := c.CheckSignatureFrom(r.ARK); err != nil {
				t.Errorf("%s: certificate %d: %v", product, i, err)
			}
		}
		if got := r.ARK.Subject.CommonName + r.ASK.Subject.CommonName + r.ASVK.Subject.CommonName; got != "ARK-"+string(product)+"SEV-"+string(product)+"SEV-VLEK-"+string(product) {
			t.Errorf("%s: names %s", product, got)
		}
	}
	if _, err := snpreport.AMDRoot("Venice"); err == nil {
		t.Error("there is a root for a product that is not known")
	}
}

// reason is one way in which evidence is wrong, and the check that must say so.
type reason struct {
	name    string
	machine fake.SNPOptions
	change  func(*snpreport.Report)
	certs   func(*testing.T, *fake.SNPPlatform, *snpreport.Certificates)
	options func(*testing.T, *fake.SNPPlatform, *snpreport.Options)
	want    verdict.Verdict
	failed  string // the checks that fail, in order
	text    string // in the reasons
}

func TestReasons(t *testing.T) {
	other := func(o fake.SNPOptions) func(*testing.T, *fake.SNPPlatform, *snpreport.Certificates) {
		return func(t *testing.T, _ *fake.SNPPlatform, c *snpreport.Certificates) { *c = platform(t, o).Certificates() }
	}
	at := func(when time.Time) func(*testing.T, *fake.SNPPlatform, *snpreport.Options) {
		return func(_ *testing.T, _ *fake.SNPPlatform, o *snpreport.Options) { o.At = when }
	}
	vlek := func(r *snpreport.Report) { r.SigningKey = snpreport.KeyVLEK }
	turin := fake.SNPOptions{Product: snpreport.Turin}
	milan := fake.SNPOptions{Product: snpreport.Milan}
	low := snpreport.Components{BootLoader: 7, TEE: 1, SNP: 19, Microcode: 70}
	foreign, err := fake.NewSNPPlatform("foreign", from, until, fake.SNPOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pass, fail, unchecked := verdict.Pass, verdict.Fail, verdict.Unchecked
	for _, tt := range []reason{
		{name: "Genoa", want: pass},
		{name: "Milan, version 3", machine: milan, want: pass},
		{name: "Milan, version 2", machine: milan, change: func(r *snpreport.Report) { r.Version, r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping = 2, 0, 0, 0 }, want: pass, text: "does not name the processor"},
		{name: "Milan-B0", machine: fake.SNPOptions{Product: snpreport.Milan, ProductName: "Milan-B0"}, want: pass},
		{name: "Bergamo", change: func(r *snpreport.Report) { r.CPUIDModel = 0xa0 }, want: pass},
		{name: "Turin, version 5", machine: turin, want: pass, text: "FMC 1, boot loader 7, TEE 1, SNP 20, microcode 70"},
		{name: "Turin, id in an octet string", machine: fake.SNPOptions{Product: snpreport.Turin, WrappedHWID: true}, want: pass},
		{name: "Genoa, id in an octet string", machine: fake.SNPOptions{WrappedHWID: true}, want: pass},
		{name: "VLEK", change: vlek, want: pass, text: "CN=retally.example"},
		{name: "VLEK, no chip, masked key", change: func(r *snpreport.Report) { r.SigningKey, r.MaskChipKey, r.ChipID = snpreport.KeyVLEK, true, [64]byte{} }, want: pass},

		{name: "without certificates", certs: func(_ *testing.T, _ *fake.SNPPlatform, c *snpreport.Certificates) { *c = snpreport.Certificates{} }, want: unchecked, text: "product Genoa, hwID "},
		{name: "Turin without certificates", machine: turin, certs: func(_ *testing.T, _ *fake.SNPPlatform, c *snpreport.Certificates) { *c = snpreport.Certificates{} }, want: unchecked, text: "fmcSPL 1, blSPL 7, teeSPL 1, snpSPL 20, ucodeSPL 70"},
		{name: "VLEK report, VCEK given", change: vlek, certs: func(_ *testing.T, _ *fake.SNPPlatform, c *snpreport.Certificates) { c.VLEK = nil }, want: unchecked, text: "no VLEK certificate was given"},
		{name: "VCEK report, VLEK given", certs: func(_ *testing.T, _ *fake.SNPPlatform, c *snpreport.Certificates) { c.VCEK = nil }, want: unchecked, text: "what came beside the report is no such certificate"},
		{name: "only the leaf", certs: func(_ *testing.T, _ *fake.SNPPlatform, c *snpreport.Certificates) { c.Signers, c.ARK = nil, nil }, want: pass},

		{name: "unsigned", change: func(r *snpreport.Report) { r.SigningKey = snpreport.KeyNone }, want: fail, failed: "signing-key", text: "no key signed it"},
		{name: "masked chip key", change: func(r *snpreport.Report) { r.MaskChipKey = true }, want: fail, failed: "signing-key", text: "MASK_CHIP_KEY"},
		{name: "masked chip id", change: func(r *snpreport.Report) { r.ChipID = [64]byte{} }, want: unchecked, text: "the host masks the chip's id"},
		{name: "the host's request", change: func(r *snpreport.Report) { r.VMPL = 0xffffffff }, want: fail, failed: "requester", text: "the host asked"},

		{name: "VCEK of another chip", certs: other(fake.SNPOptions{Chip: "2"}), want: fail, failed: "vcek-chip report-signature", text: "the certificate is of another chip"},
		{name: "chip id changed", change: func(r *snpreport.Report) { r.ChipID[63] ^= 1 }, want: fail, failed: "vcek-chip"},
		{name: "Turin's chip id with more bytes", machine: turin, change: func(r *snpreport.Report) { r.ChipID[8] = 1 }, want: fail, failed: "vcek-chip"},
		{name: "VCEK of another TCB", certs: other(fake.SNPOptions{LeafTCB: &low}), want: fail, failed: "vcek-tcb", text: "SNP 19 and 20"},
		{name: "VLEK of another TCB", change: vlek, certs: other(fake.SNPOptions{LeafTCB: &low}), want: fail, failed: "vlek-tcb", text: "SNP 19 and 20"},
		{name: "reported TCB changed", change: func(r *snpreport.Report) { r.ReportedTCB[0]++ }, want: fail, failed: "vcek-tcb", text: "boot loader 7 and 8"},
		{name: "Turin, FMC", machine: turin, change: func(r *snpreport.Report) { r.ReportedTCB[0]++ }, want: fail, failed: "vcek-tcb", text: "FMC 1 and 2"},
		{name: "Turin, microcode", machine: turin, change: func(r *snpreport.Report) { r.ReportedTCB[7]++ }, want: fail, failed: "vcek-tcb", text: "microcode 70 and 71"},

		{name: "product name", machine: fake.SNPOptions{ProductName: "Milan-B0"}, want: fail, failed: "product", text: `"Milan-B0"`},
		{name: "processor of another product", change: func(r *snpreport.Report) { r.CPUIDModel = 1 }, want: fail, failed: "product", text: "Milan (family 19h, model 01h"},
		{name: "version 2 below Turin's root", machine: turin, change: func(r *snpreport.Report) {
			r.Version, r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping, r.LaunchMitVector, r.CurrentMitVector = 2, 0, 0, 0, 0, 0
			for _, tcb := range []*snpreport.TCB{&r.CurrentTCB, &r.ReportedTCB, &r.CommittedTCB, &r.LaunchTCB} {
				*tcb = snpreport.Components{BootLoader: 7, TEE: 1, SNP: 20, Microcode: 70}.TCB(snpreport.Genoa)
			}
		}, want: fail, failed: "product vcek-tcb vcek-chip", text: "a report of version 2 cannot state"},

		{name: "a TCB part of the future", machine: fake.SNPOptions{Extra: []int{3, 10}}, want: unchecked, text: "1.3.6.1.4.1.3704.1.3.10"},
		{name: "Genoa with an FMC", machine: fake.SNPOptions{Extra: []int{3, 9}}, want: fail, failed: "vcek-tcb", text: "FMC"},

		{name: "signature", change: nil, certs: func(t *testing.T, p *fake.SNPPlatform, c *snpreport.Certificates) {
			c.VCEK = platform(t, fake.SNPOptions{Chip: "3"}).VCEK
		}, want: fail, failed: "vcek-chip report-signature", text: "signature over the report does not verify"},
		{name: "expired", options: at(until.Add(time.Second)), want: fail, failed: "vcek-chain", text: "(expired)"},
		{name: "not yet valid", options: at(from.Add(-time.Second)), want: fail, failed: "vcek-chain", text: "is valid from 2026-01-01"},
		{name: "swapped ARK", certs: func(_ *testing.T, _ *fake.SNPPlatform, c *snpreport.Certificates) { c.ARK = foreign.ARK }, want: fail, failed: "ark", text: "the ARK was swapped"},
		{name: "AMD's ARK of another product", certs: func(t *testing.T, _ *fake.SNPPlatform, c *snpreport.Certificates) {
			r, err := snpreport.AMDRoot(snpreport.Milan)
			if err != nil {
				t.Fatal(err)
			}
			c.ARK = r.ARK
		}, want: fail, failed: "ark", text: "is of Milan"},
		{name: "other roots", certs: func(_ *testing.T, _ *fake.SNPPlatform, c *snpreport.Certificates) { *c = foreign.Certificates() }, want: fail, failed: "vcek-chain vcek-chip report-signature", text: "which is no signing key of AMD's"},
		{name: "AMD's roots", options: func(_ *testing.T, _ *fake.SNPPlatform, o *snpreport.Options) { o.Roots = nil }, want: fail, failed: "vcek-chain", text: "which is no signing key of AMD's"},
		{name: "ASK signed by another", certs: other(fake.SNPOptions{OtherARK: true}), want: fail, failed: "vcek-chain", text: "its signature does not verify"},
		{name: "ASK is no CA", machine: fake.SNPOptions{ASKNoCA: true}, want: fail, failed: "vcek-chain", text: "is no CA, but signs"},
		{name: "leaf is a CA", certs: other(fake.SNPOptions{LeafIsCA: true}), want: fail, failed: "vcek-chain", text: "is a CA, and signs a report"},
		{name: "older padding", certs: other(fake.SNPOptions{LeafPKCS1v15: true}), want: fail, failed: "vcek-chain", text: "want SHA384-RSAPSS"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := platform(t, tt.machine)
			r, c, o := report(t, p, tt.change), p.Certificates(), options(p)
			if tt.certs != nil {
				tt.certs(t, p, &c)
			}
			if tt.options != nil {
				tt.options(t, p, &o)
			}
			checks := verify(t, r, c, o).Checks
			j := verdict.Fold(checks)
			if j.Verdict != tt.want || failed(checks) != tt.failed {
				t.Errorf("got %s, failed %q; want %s, %q\n%s", j.Verdict, failed(checks), tt.want, tt.failed, strings.Join(j.Reasons, "\n"))
			}
			if !strings.Contains(strings.Join(j.Reasons, "\n"), tt.text) {
				t.Errorf("no reason has %q:\n%s", tt.text, strings.Join(j.Reasons, "\n"))
			}
		})
	}
}

func TestOptions(t *testing.T) {
	p := platform(t, fake.SNPOptions{})
	r := report(t, p, nil)
	twice := []snpreport.Root{p.Root(), p.Root()}
	sameARK := []snpreport.Root{p.Root(), {Product: snpreport.Milan, ARK: p.ARK, ASK: p.ASK, ASVK: p.ASVK}}
	for name, o := range map[string]snpreport.Options{
		"no time": {Roots: []snpreport.Root{p.Root()}}, "root twice": {At: now, Roots: twice}, "ARK twice": {At: now, Roots: sameARK},
		"no roots": {At: now, Roots: []snpreport.Root{}}, "half a root": {At: now, Roots: []snpreport.Root{{Product: snpreport.Genoa, ARK: p.ARK}}},
	} {
		if _, err := snpreport.Verify(r, p.Certificates(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestRevocation(t *testing.T) {
	p := platform(t, fake.SNPOptions{})
	milan := platform(t, fake.SNPOptions{Product: snpreport.Milan})
	list := func(p *fake.SNPPlatform, issued, next time.Time, revoked ...*x509.Certificate) *x509.RevocationList {
		der, err := p.CRL(issued, next, revoked...)
		if err != nil {
			t.Fatal(err)
		}
		l, err := snpreport.ParseCRL("crl", der)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	day := 24 * time.Hour
	good := list(p, now.Add(-day), now.Add(day))
	tampered := *good
	tampered.Signature = bytes.Clone(good.Signature)
	tampered.Signature[9] ^= 1
	partial := *good
	partial.Extensions = append(partial.Extensions[:len(partial.Extensions):len(partial.Extensions)], p.ARK.Extensions[0])
	partial.Extensions[len(partial.Extensions)-1].Critical = true
	if l, err := snpreport.ParseCRL("crl.pem", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: good.Raw})); err != nil || !bytes.Equal(l.Raw, good.Raw) {
		t.Errorf("PEM: %v", err)
	}
	for name, data := range map[string][]byte{"nothing": nil, "a certificate": fake.PEM(p.ARK), "large": make([]byte, 2<<20)} {
		if _, err := snpreport.ParseCRL("crl", data); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	type lists []*x509.RevocationList
	for _, tt := range []struct {
		name   string
		given  lists
		beside *x509.RevocationList
		want   verdict.Verdict
		whole  verdict.Verdict
		text   string
	}{
		{"none", nil, nil, verdict.Unchecked, verdict.Pass, "revocation is not known"},
		{"clean", lists{good}, nil, verdict.Pass, verdict.Pass, "no certificate of the chain"},
		{"clean, with another product's", lists{list(milan, now.Add(-day), now.Add(day)), good}, nil, verdict.Pass, verdict.Pass, ""},
		{"another product's alone", lists{list(milan, now.Add(-day), now.Add(day))}, nil, verdict.Unchecked, verdict.Unchecked, "none is of ARK-Genoa"},
		{"ASK revoked", lists{list(p, now.Add(-day), now.Add(day), p.ASK)}, nil, verdict.Fail, verdict.Fail, "revokes SEV-Genoa"},
		{"VCEK revoked", lists{list(p, now.Add(-day), now.Add(day), p.VCEK)}, nil, verdict.Fail, verdict.Fail, "revokes SEV-VCEK"},
		{"root revoked", lists{list(p, now.Add(-day), now.Add(day), p.ARK)}, nil, verdict.Fail, verdict.Fail, "revokes ARK-Genoa"},
		{"ASVK revoked", lists{list(p, now.Add(-day), now.Add(day), p.ASVK)}, nil, verdict.Pass, verdict.Pass, ""},
		{"clean beside a revoking one", lists{good, list(p, now.Add(-day), now.Add(day), p.ASK)}, nil, verdict.Fail, verdict.Fail, "revokes SEV-Genoa"},
		{"old", lists{list(p, now.Add(-2*day), now.Add(-day))}, nil, verdict.Fail, verdict.Fail, "was to be renewed by"},
		{"of tomorrow", lists{list(p, now.Add(day), now.Add(2*day))}, nil, verdict.Fail, verdict.Fail, "after the time asked for"},
		{"tampered", lists{&tampered}, nil, verdict.Fail, verdict.Fail, "its signature does not verify"},
		{"partial", lists{&partial}, nil, verdict.Fail, verdict.Fail, "may not be the whole list"},
		{"beside the report, clean", nil, good, verdict.Pass, verdict.Pass, "that came with the report"},
		{"beside the report, revoking", lists{good}, list(p, now.Add(-day), now.Add(day), p.ASK), verdict.Fail, verdict.Fail, "revokes SEV-Genoa"},
		{"beside the report, old", nil, list(p, now.Add(-2*day), now.Add(-day)), verdict.Unchecked, verdict.Pass, "revocation is not known"},
		{"beside the report, of another product", nil, list(milan, now.Add(-day), now.Add(day)), verdict.Unchecked, verdict.Pass, ""},
	} {
		o, c := options(p), p.Certificates()
		o.CRLs, c.CRL = tt.given, tt.beside
		checks := verify(t, report(t, p, nil), c, o).Checks
		got := find(checks, "revocation")
		if j := verdict.Fold(checks); got.Verdict != tt.want || j.Verdict != tt.whole || !strings.Contains(got.Reason, tt.text) {
			t.Errorf("%s: got %s (%s), whole %s; want %s, %s", tt.name, got.Verdict, got.Reason, j.Verdict, tt.want, tt.whole)
		}
	}
}

// TestCertificates: a place of the chain is filled once, by what a certificate
// is and not by what somebody calls it.
func TestCertificates(t *testing.T) {
	p, q := platform(t, fake.SNPOptions{}), platform(t, fake.SNPOptions{Chip: "2"})
	c, err := snpreport.ParseCertificates("chain.pem", fake.PEM(p.ARK, p.VCEK, p.ASK, p.ASVK, p.VLEK))
	if err != nil {
		t.Fatal(err)
	}
	if got := verify(t, report(t, p, nil), c, options(p)); verdict.Fold(got.Checks).Verdict != verdict.Pass {
		t.Error(got.Checks)
	}
	for _, tt := range []struct {
		name, want string
		data       []byte
	}{
		{"root twice", "root (ARK): found a second one", fake.PEM(p.ARK, p.ARK)},
		{"two roots", "root (ARK): found a second one", fake.PEM(p.ARK, platform(t, fake.SNPOptions{Product: snpreport.Turin}).ARK)},
		{"signer twice", "signer (ASK, ASVK): found a second one", fake.PEM(p.ASK, p.ASK)},
		{"two VCEKs", "(VCEK): found a second one", fake.PEM(p.VCEK, q.VCEK)},
		{"neither VCEK nor VLEK", "names no chip and no provider", fake.PEM(stranger(t))},
		{"no certificate", "a certificate in DER or PEM", []byte("hello")},
		{"nothing", "a certificate in DER or PEM", nil},
	} {
		if _, err := snpreport.ParseCertificates("file", tt.data); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	if err := c.Merge("again", p.Certificates()); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if err := c.Merge("other", snpreport.Certificates{VCEK: q.VCEK}); err == nil {
		t.Error("two VCEKs are merged")
	}
}

// stranger is a certificate that has nothing to do with AMD.
func stranger(t *testing.T) *x509.Certificate {
	t.Helper()
	p, err := fake.NewPlatform("stranger", from, until)
	if err != nil {
		t.Fatal(err)
	}
	return p.PCK
}

// TestTwin: the other signature that belongs to every one verifies, as the
// package says; it is over the same bytes.
func TestTwin(t *testing.T) {
	p := platform(t, fake.SNPOptions{})
	r := report(t, p, nil)
	s := new(big.Int).SetBytes(r.S[:])
	s.Sub(elliptic.P384().Params().N, s).FillBytes(r.S[:])
	if got, reason := judge(r.Marshal(), p.Certificates(), options(p)); got != "accept" {
		t.Errorf("got %s", reason)
	}
	for name, change := range map[string]func(*snpreport.Report){
		"r = 0": func(r *snpreport.Report) { r.R = [48]byte{} }, "s = 0": func(r *snpreport.Report) { r.S = [48]byte{} },
		"s = n": func(r *snpreport.Report) { elliptic.P384().Params().N.FillBytes(r.S[:]) },
		"all ones": func(r *snpreport.Report) {
			r.R, r.S = [48]byte(bytes.Repeat([]byte{255}, 48)), [48]byte(bytes.Repeat([]byte{255}, 48))
		},
	} {
		r := report(t, p, nil)
		change(r)
		if got, _ := judge(r.Marshal(), p.Certificates(), options(p)); got != "reject" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestParseRoots(t *testing.T) {
	p, q := platform(t, fake.SNPOptions{}), platform(t, fake.SNPOptions{Product: snpreport.Turin})
	roots, err := snpreport.ParseRoots("roots.pem", fake.PEM(q.ASVK, p.ARK, p.ASK, p.ASVK, q.ASK, q.ARK))
	if err != nil || len(roots) != 2 {
		t.Fatal(err)
	}
	if got, reason := judge(report(t, q, nil).Marshal(), q.Certificates(), snpreport.Options{At: now, Roots: roots}); got != "accept" {
		t.Error(reason)
	}
	for name, text := range map[string][]byte{
		"twice": fake.PEM(p.ARK, p.ASK, p.ASVK, p.ARK), "half": fake.PEM(p.ARK, p.ASK), "a leaf": fake.PEM(p.ARK, p.ASK, p.ASVK, p.VCEK), "nothing": nil,
	} {
		if _, err := snpreport.ParseRoots("roots.pem", text); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestSerial: AMD gives every VCEK and VLEK the serial number 0; what of the
// revocation list is read on that footing.
func TestSerial(t *testing.T) {
	p := platform(t, fake.SNPOptions{})
	if p.VCEK.SerialNumber.Cmp(new(big.Int)) != 0 || p.ASK.SerialNumber.Sign() == 0 {
		t.Error("the fake certificates have other serial numbers than AMD's")
	}
}
