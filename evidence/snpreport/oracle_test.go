package snpreport_test

import (
	"crypto/x509"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/proto/sevsnp"
	sevverify "github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
	"google.golang.org/protobuf/proto"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/testenv"
)

// peerProduct is the product as go-sev-guest writes it, of the chain that a
// certificate belongs to.
func peerProduct(c snpreport.Certificates) *sevsnp.SevProduct {
	leaf := c.VCEK
	if leaf == nil {
		leaf = c.VLEK
	}
	name := sevsnp.SevProduct_SEV_PRODUCT_MILAN
	if leaf != nil && strings.HasSuffix(leaf.Issuer.CommonName, "Genoa") {
		name = sevsnp.SevProduct_SEV_PRODUCT_GENOA
	}
	return &sevsnp.SevProduct{Name: name}
}

func der(c *x509.Certificate) []byte {
	if c == nil {
		return nil
	}
	return c.Raw
}

// attestation is evidence in go-sev-guest's own form.
func attestation(raw []byte, c snpreport.Certificates) (*sevsnp.Attestation, error) {
	r, err := abi.ReportToProto(raw)
	if err != nil {
		return nil, err
	}
	chain := &sevsnp.CertificateChain{VcekCert: der(c.VCEK), VlekCert: der(c.VLEK), ArkCert: der(c.ARK)}
	for _, s := range c.Signers {
		chain.AskCert = s.Raw
	}
	return &sevsnp.Attestation{Report: r, CertificateChain: chain, Product: peerProduct(c)}, nil
}

// peer asks the go-sev-guest library, offline.
func peer(raw []byte, c snpreport.Certificates, at time.Time, roots map[string][]*trust.AMDRootCerts) (verdict string) {
	defer func() {
		if p := recover(); p != nil {
			verdict = fmt.Sprintf("panic: %v", p)
		}
	}()
	a, err := attestation(raw, c)
	if err == nil {
		err = sevverify.SnpAttestation(a, &sevverify.Options{Now: at, DisableCertFetching: true, TrustedRoots: roots, Product: a.Product})
	}
	if err != nil {
		return "reject: " + err.Error()
	}
	return "accept"
}

// TestOracle: go-sev-guest agrees on every mutant and on every report of the
// field whose certificate is at hand.
func TestOracle(t *testing.T) {
	agreed, bergamo := 0, 0
	roots := map[string][]*trust.AMDRootCerts{}
	for _, p := range []snpreport.Product{snpreport.Milan, snpreport.Genoa} {
		r, err := snpreport.AMDRoot(p)
		if err != nil {
			t.Fatal(err)
		}
		roots[string(p)] = peerRoots(r)
	}
	compare := func(id string, raw []byte, c snpreport.Certificates, at time.Time) {
		t.Helper()
		got, reason := judge(raw, c, snpreport.Options{At: at})
		want := peer(raw, c, at, roots)
		if got == "accept" && strings.HasSuffix(id, "live-report-v5-genoa.bin") && strings.HasSuffix(want, "Last error: <nil>") {
			bergamo++ // family 19h, model a0h: go-sev-guest does not know it, its VCEK is below Genoa's root
			return
		}
		if want[:6] != got {
			t.Errorf("%s: got %s %s, go-sev-guest: %s", id, got, reason, want)
			return
		}
		agreed++
	}
	dir := testenv.Vectors(t, "published/quotes")
	for _, m := range mutants(t, dir) {
		compare(m.ID, m.apply(t, dir), scan(t, filepath.Join(dir, "snp", m.Base+".vcek.der")), day(t, m.Now))
	}
	dir = testenv.Vectors(t, "published/field")
	for _, row := range fieldRows(t, dir) {
		if date := fieldTimes()[row.File]; date != "none" {
			compare(row.File, open(t, filepath.Join(dir, row.File)).Report.Marshal(), certificatesOf(t, dir, row), day(t, date))
		}
	}
	t.Logf("%d verdicts agree, %d reports are of a processor that go-sev-guest does not know", agreed, bergamo)
	if agreed < 100 || bergamo > 1 {
		t.Error("too little compared")
	}
}

// peerRoots gives go-sev-guest the ASVK too: it embeds none.
func peerRoots(r snpreport.Root) []*trust.AMDRootCerts {
	return []*trust.AMDRootCerts{{ProductLine: string(r.Product), ProductCerts: &trust.ProductCerts{Ark: r.ARK, Ask: r.ASK, Asvk: r.ASVK}}}
}

// TestOracleSynthetic: go-sev-guest takes the fake evidence too, apart from
// Turin's, whose TCB it reads by the older layout.
func TestOracleSynthetic(t *testing.T) {
	for _, product := range []snpreport.Product{snpreport.Milan, snpreport.Genoa} {
		p := platform(t, fake.SNPOptions{Product: product, ProductName: string(product) + "-B0", AMDNames: true})
		roots := map[string][]*trust.AMDRootCerts{string(product): peerRoots(p.Root())}
		c := snpreport.Certificates{VCEK: p.VCEK, ARK: p.ARK, Signers: []*x509.Certificate{p.ASK}}
		raw := report(t, p, nil).Marshal()
		if got := peer(raw, c, now, roots); got != "accept" {
			t.Errorf("%s: go-sev-guest: %s", product, got)
		}
		raw[0x50] ^= 1
		if got := peer(raw, c, now, roots); !strings.HasPrefix(got, "reject") {
			t.Errorf("%s, changed: go-sev-guest: %s", product, got)
		}
	}
}

// TestOracleTurin records why go-sev-guest is the oracle of Milan and Genoa only:
// it reads Turin's TCB by the older layout, so that a good report is refused.
func TestOracleTurin(t *testing.T) {
	p := platform(t, fake.SNPOptions{Product: snpreport.Turin, ProductName: "Turin-B0", AMDNames: true})
	c := snpreport.Certificates{VCEK: p.VCEK, ARK: p.ARK, Signers: []*x509.Certificate{p.ASK}}
	raw := report(t, p, nil).Marshal()
	if got, reason := judge(raw, c, options(p)); got != "accept" {
		t.Errorf("ours: %s", reason)
	}
	got := peer(raw, c, now, map[string][]*trust.AMDRootCerts{"Turin": peerRoots(p.Root())})
	if !strings.HasPrefix(got, "reject") {
		t.Errorf("go-sev-guest reads Turin now: %s; compare it too", got)
	}
	t.Log(got)
}

// TestProtobuf: an attestation that go-sev-guest writes is read back to the same
// report, whatever its version.
func TestProtobuf(t *testing.T) {
	for version := uint32(2); version <= 5; version++ {
		p := platform(t, fake.SNPOptions{Product: snpreport.Milan})
		raw := report(t, p, func(r *snpreport.Report) {
			r.Version = version
			if version == 2 {
				r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping = 0, 0, 0
			}
			if version == 5 {
				r.LaunchMitVector, r.CurrentMitVector = 5, 7
			}
		}).Marshal()
		a, err := attestation(raw, snpreport.Certificates{VCEK: p.VCEK, VLEK: p.VLEK, ARK: p.ARK, Signers: []*x509.Certificate{p.ASK}})
		if err != nil {
			t.Errorf("version %d: go-sev-guest: %v", version, err)
			continue
		}
		a.CertificateChain.Extras = map[string][]byte{"a": {1}, "b": {2}}
		data, err := proto.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		e, err := snpreport.Open("attestation.pb", data)
		if err != nil {
			t.Errorf("version %d: %v", version, err)
			continue
		}
		if string(e.Report.Marshal()) != string(raw) || e.Form != snpreport.FormProtobuf {
			t.Errorf("version %d: another report", version)
		}
		if r, err := e.Verify(options(p)); err != nil || verdict.Fold(r.Checks).Verdict != verdict.Pass {
			t.Errorf("version %d: %v %v", version, err, r.Checks)
		}
	}
}

// TestOracleTable: go-sev-guest lays out the same table, and ours reads it.
func TestOracleTable(t *testing.T) {
	p := platform(t, fake.SNPOptions{})
	table, err := p.Table()
	if err != nil {
		t.Fatal(err)
	}
	var theirs abi.CertTable
	if err := theirs.Unmarshal(table); err != nil {
		t.Fatal(err)
	}
	if got, err := theirs.GetByGUIDString(abi.VcekGUID); err != nil || string(got) != string(p.VCEK.Raw) {
		t.Errorf("go-sev-guest reads another VCEK: %v", err)
	}
	c, err := snpreport.ParseTable("table", theirs.Marshal())
	if err != nil || c.VCEK == nil || !c.VCEK.Equal(p.VCEK) || !c.ARK.Equal(p.ARK) || !c.Signers[0].Equal(p.ASK) {
		t.Errorf("a table of go-sev-guest's: %v", err)
	}
}
