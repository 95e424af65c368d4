package tdxquote_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/testenv"
)

// hierarchy is a fake platform with the keys that its certificates have, to make
// what its holders could make: everything but what only the root signs.
type hierarchy struct {
	*fake.Platform
	t *testing.T
}

func newHierarchy(t *testing.T) hierarchy { return hierarchy{platform(t), t} }

func (h hierarchy) key(name string) *ecdsa.PrivateKey {
	h.t.Helper()
	k, err := fake.Key(elliptic.P256(), "tdxquote "+name)
	if err != nil {
		h.t.Fatal(err)
	}
	return k
}

// issue makes a certificate for a key, signed by an issuer's.
func (h hierarchy) issue(template x509.Certificate, key string, parent *x509.Certificate, parentKey string) *x509.Certificate {
	h.t.Helper()
	template.NotBefore, template.NotAfter, template.SignatureAlgorithm, template.BasicConstraintsValid = from, until, x509.ECDSAWithSHA256, true
	if template.SerialNumber == nil {
		template.SerialNumber = big.NewInt(77)
	}
	if template.KeyUsage == 0 {
		template.KeyUsage = x509.KeyUsageDigitalSignature
		if template.IsCA {
			template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		}
	}
	der, err := x509.CreateCertificate(nil, &template, parent, &h.key(key).PublicKey, h.key(parentKey))
	if err != nil {
		h.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

func (h hierarchy) sgx() []pkix.Extension {
	for _, e := range h.PCK.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}) {
			return []pkix.Extension{e}
		}
	}
	h.t.Fatal("the PCK has no SGX extension")
	return nil
}

func (h hierarchy) sign(key string, data []byte) []byte {
	h.t.Helper()
	sum := sha256.Sum256(data)
	der, err := h.key(key).Sign(nil, sum[:], crypto.SHA256)
	if err != nil {
		h.t.Fatal(err)
	}
	var v struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &v); err != nil {
		h.t.Fatal(err)
	}
	out := make([]byte, 64)
	v.R.FillBytes(out[:32])
	v.S.FillBytes(out[32:])
	return out
}

// reason verifies a quote with collateral and gives the first failed or required
// open check, "" if it is accepted.
func (h hierarchy) reason(raw, collateral []byte) string {
	h.t.Helper()
	o := tdxquote.Options{At: now, Roots: []*x509.Certificate{h.Root}}
	if collateral != nil {
		c, err := tdxquote.ParseCollateral("c.json", collateral)
		if err != nil {
			return err.Error()
		}
		o.Collateral = c
	}
	_, why := judge(raw, o)
	return why
}

// TestCollateralSigner: TCB info and QE identity count only from the one
// certificate that the root issued for them. Every other certificate below the
// root has a holder, and the PCK of a broken platform has many.
func TestCollateralSigner(t *testing.T) {
	h := newHierarchy(t)
	raw := quote(t, h.Platform, body(), fake.Options{})
	file, err := h.Collateral(fake.Levels{})
	if err != nil {
		t.Fatal(err)
	}
	name := func(s string) x509.Certificate { return x509.Certificate{Subject: pkix.Name{CommonName: s}} }
	withSGX := name("signer")
	withSGX.ExtraExtensions = h.sgx()
	otherSGX := name("signer")
	otherSGX.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 2}, Value: []byte{5, 0}}}
	ca := name("signer")
	ca.IsCA = true
	crlOnly := name("signer")
	crlOnly.KeyUsage = x509.KeyUsageKeyEncipherment
	eku := name("signer")
	eku.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	rootName := x509.Certificate{Subject: h.Root.Subject}
	foreign := platformOf(t, "foreign")
	for _, tt := range []struct {
		name, key string
		chain     []*x509.Certificate
		want      string
	}{
		{"the root's signer", "tcb", []*x509.Certificate{h.TCBSigner, h.Root}, ""},
		{"the root's signer, the root left out", "tcb", []*x509.Certificate{h.TCBSigner}, ""},
		{"the PCK of a platform", "pck", []*x509.Certificate{h.PCK, h.CA, h.Root}, "is 2 certificates away from the root, want 1"},
		{"the PCK CA", "ca", []*x509.Certificate{h.CA, h.Root}, "is a CA"},
		{"below the PCK CA", "tcb", []*x509.Certificate{h.issue(name("signer"), "tcb", h.CA, "ca"), h.CA, h.Root}, "is 2 certificates away"},
		{"the root", "root", []*x509.Certificate{h.Root}, "is the root itself"},
		{"the root twice", "root", []*x509.Certificate{h.Root, h.Root}, "is certificate 1 again"},
		{"the root's name and key, no CA", "root", []*x509.Certificate{h.issue(rootName, "root", h.Root, "root"), h.Root}, "names itself as its issuer"},
		{"a platform certified by the root", "pck", []*x509.Certificate{h.issue(withSGX, "pck", h.Root, "root"), h.Root}, "has an SGX extension"},
		{"another SGX extension", "pck", []*x509.Certificate{h.issue(otherSGX, "pck", h.Root, "root"), h.Root}, "has an SGX extension"},
		{"another CA below the root", "tcb", []*x509.Certificate{h.issue(ca, "tcb", h.Root, "root"), h.Root}, "is a CA"},
		{"a key for something else", "tcb", []*x509.Certificate{h.issue(crlOnly, "tcb", h.Root, "root"), h.Root}, "may not sign"},
		{"a TLS server", "tcb", []*x509.Certificate{h.issue(eku, "tcb", h.Root, "root"), h.Root}, "is limited to other uses"},
		{"another root's signer", "tcb", []*x509.Certificate{foreign.TCBSigner, foreign.Root}, "root that is not trusted"},
		{"the root's signer, the root twice", "tcb", []*x509.Certificate{h.TCBSigner, h.Root, h.Root}, "is certificate 2 again"},
		{"the root's signer twice", "tcb", []*x509.Certificate{h.TCBSigner, h.TCBSigner, h.Root}, "is certificate 1 again"},
		{"root first", "tcb", []*x509.Certificate{h.Root, h.TCBSigner}, ""},
	} {
		for _, member := range []string{"tcb_info", "qe_identity"} {
			var doc map[string]string
			if err := json.Unmarshal(file, &doc); err != nil {
				t.Fatal(err)
			}
			doc[member+"_signature"] = hex.EncodeToString(h.sign(tt.key, []byte(doc[member])))
			doc[member+"_issuer_chain"] = string(fake.PEM(tt.chain...))
			edited, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			got := h.reason(raw, edited)
			accept := tt.want == "" && tt.name != "root first"
			if accept != (got == "") || !strings.Contains(got, tt.want) {
				t.Errorf("%s of %s: got %q, want %q", member, tt.name, got, tt.want)
			}
		}
	}
}

func platformOf(t *testing.T, seed string) *fake.Platform {
	t.Helper()
	p, err := fake.NewPlatform(seed, from, until)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPCKChain: a platform's certificate stands exactly two below the root.
func TestPCKChain(t *testing.T) {
	h := newHierarchy(t)
	foreign := platformOf(t, "foreign")
	type list = []*x509.Certificate
	leaf := x509.Certificate{Subject: h.PCK.Subject, ExtraExtensions: h.sgx()}
	minted := x509.Certificate{Subject: pkix.Name{CommonName: "minted"}, ExtraExtensions: h.sgx()}
	caLeaf := leaf
	caLeaf.IsCA = true
	eku := x509.Certificate{Subject: h.CA.Subject, IsCA: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	sgxCA := x509.Certificate{Subject: h.CA.Subject, IsCA: true, ExtraExtensions: h.sgx()}
	top := h.issue(x509.Certificate{Subject: pkix.Name{CommonName: "top"}, IsCA: true, MaxPathLenZero: true}, "tcb", h.Root, "root")
	under := h.issue(x509.Certificate{Subject: h.CA.Subject, IsCA: true}, "ca", top, "tcb")
	for _, tt := range []struct {
		name, key string
		chain     list
		want      string
	}{
		{"as Intel's", "pck", list{h.PCK, h.CA, h.Root}, ""},
		{"the root left out", "pck", list{h.PCK, h.CA}, ""},
		{"the root twice", "pck", list{h.PCK, h.CA, h.Root, h.Root}, "is certificate 3 again"},
		{"the CA twice", "pck", list{h.PCK, h.CA, h.CA, h.Root}, "is certificate 2 again"},
		{"the PCK twice", "pck", list{h.PCK, h.PCK, h.CA, h.Root}, "is certificate 1 again"},
		{"by the root itself", "pck", list{h.issue(leaf, "pck", h.Root, "root"), h.Root}, "is 1 certificates away"},
		{"by a CA below a CA", "pck", list{h.issue(leaf, "pck", under, "ca"), under, top, h.Root}, "is 3 certificates away"},
		{"minted below a PCK", "tcb", list{h.issue(minted, "tcb", h.PCK, "pck"), h.PCK, h.CA, h.Root}, "is 3 certificates away"},
		{"minted below a PCK that stands for the CA", "tcb", list{h.issue(minted, "tcb", h.PCK, "pck"), h.PCK, h.Root}, "is no CA, but signs"},
		{"the signer of collateral", "tcb", list{h.TCBSigner, h.Root}, "is 1 certificates away"},
		{"a leaf that is a CA", "pck", list{h.issue(caLeaf, "pck", h.CA, "ca"), h.CA, h.Root}, "is a CA"},
		{"no SGX extension", "pck", list{h.issue(x509.Certificate{Subject: h.PCK.Subject}, "pck", h.CA, "ca"), h.CA, h.Root}, "has no SGX extension"},
		{"a CA with an SGX extension", "pck", list{h.PCK, h.issue(sgxCA, "ca", h.Root, "root"), h.Root}, "has an SGX extension"},
		{"a CA for TLS servers", "pck", list{h.PCK, h.issue(eku, "ca", h.Root, "root"), h.Root}, "is limited to other uses"},
		{"a foreign one between", "pck", list{h.PCK, foreign.CA, h.CA, h.Root}, "is 3 certificates away"},
		{"another platform's", "pck", list{foreign.PCK, foreign.CA, foreign.Root}, "root that is not trusted"},
		{"the root as leaf", "root", list{h.Root}, "is the root itself"},
	} {
		q, err := tdxquote.Parse(quote(t, h.Platform, body(), fake.Options{}))
		if err != nil {
			t.Fatal(err)
		}
		q.PCKChain = fake.PEM(tt.chain...)
		copy(q.QESignature[:], h.sign(tt.key, q.QEReport.Bytes()))
		got := h.reason(q.Marshal(), nil)
		if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestRevocationSigner: the list that clears a PCK is of the CA that issued it.
func TestRevocationSigner(t *testing.T) {
	h := newHierarchy(t)
	raw := quote(t, h.Platform, body(), fake.Options{})
	file, err := h.Collateral(fake.Levels{})
	if err != nil {
		t.Fatal(err)
	}
	crl := func(issuer *x509.Certificate, key string, extra ...pkix.Extension) string {
		der, err := x509.CreateRevocationList(nil, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: from, NextUpdate: until, ExtraExtensions: extra}, issuer, h.key(key))
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(der)
	}
	second := h.issue(x509.Certificate{Subject: h.CA.Subject, IsCA: true}, "second", h.Root, "root")
	again := h.issue(x509.Certificate{Subject: h.CA.Subject, IsCA: true}, "ca", h.Root, "root")
	for _, tt := range []struct {
		name, list string
		chain      []*x509.Certificate
		want       string
	}{
		{"the CA", crl(h.CA, "ca"), []*x509.Certificate{h.CA, h.Root}, ""},
		{"the CA, certified anew for the same key", crl(h.CA, "ca"), []*x509.Certificate{again, h.Root}, ""},
		{"a second CA of the same name", crl(second, "second"), []*x509.Certificate{second, h.Root}, "has another key than"},
		{"the root for the CA", crl(h.Root, "root"), []*x509.Certificate{h.Root}, "is the root itself"},
		{"the CA below itself", crl(h.CA, "ca"), []*x509.Certificate{h.CA, h.CA, h.Root}, "is certificate 1 again"},
		{"a list of a part", crl(h.CA, "ca", pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}}), []*x509.Certificate{h.CA, h.Root}, "critical extension 2.5.29.28"},
	} {
		var doc map[string]string
		if err := json.Unmarshal(file, &doc); err != nil {
			t.Fatal(err)
		}
		doc["pck_crl"], doc["pck_crl_issuer_chain"] = tt.list, string(fake.PEM(tt.chain...))
		edited, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if got := h.reason(raw, edited); (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestIntelNames: the names of Intel's certificates are demanded under Intel's
// root, which real chains show; the test CAs of this package have others.
func TestIntelNames(t *testing.T) {
	dir := testenv.Vectors(t, "published/quotes/tdx")
	root, err := tdxquote.IntelRoot()
	if err != nil {
		t.Fatal(err)
	}
	raw, file := read(t, filepath.Join(dir, "dcap-v4.bin")), read(t, filepath.Join(dir, "dcap-v4.collateral.json"))
	at := time.Unix(1750332747, 0)
	var doc map[string]string
	if err := json.Unmarshal(file, &doc); err != nil {
		t.Fatal(err)
	}
	q, err := tdxquote.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := certs.ReadPEM("chain", q.PCKChain)
	if err != nil {
		t.Fatal(err)
	}
	// Real certificates of Intel's in places that are not theirs. Their holders
	// do not sign here, so that it fails is no surprise: the reason must be the
	// chain's, which is judged before the signature.
	for name, list := range map[string][]*x509.Certificate{"PCK": chain, "PCK CA": chain[1:], "root twice": {root, root}} {
		doc["tcb_info_issuer_chain"] = string(fake.PEM(list...))
		edited, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		c, err := tdxquote.ParseCollateral("c.json", edited)
		if err != nil {
			t.Fatal(err)
		}
		if _, why := judge(raw, tdxquote.Options{At: at, Collateral: c}); !strings.HasPrefix(why, "tcb-info: its signer: certificate ") {
			t.Errorf("%s: %s", name, why)
		}
	}
	if got, why := judge(raw, tdxquote.Options{At: at, Roots: []*x509.Certificate{root}}); got != "accept" {
		t.Errorf("Intel's root given by hand: %s", why)
	}
}

// resigned changes the QE identity of collateral and signs it again.
func resigned(t *testing.T, h hierarchy, file []byte, old, new string) []byte {
	t.Helper()
	var doc map[string]string
	if err := json.Unmarshal(file, &doc); err != nil {
		t.Fatal(err)
	}
	edited := strings.Replace(doc["qe_identity"], old, new, 1)
	if edited == doc["qe_identity"] {
		t.Fatalf("%s is not in the QE identity", old)
	}
	doc["qe_identity"], doc["qe_identity_signature"] = edited, hex.EncodeToString(h.sign("tcb", []byte(edited)))
	out, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
