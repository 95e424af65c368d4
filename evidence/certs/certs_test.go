package certs_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/internal/digest"
)

var (
	from  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	until = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	now   = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
)

func key(t testing.TB, name string) *ecdsa.PrivateKey {
	t.Helper()
	k, err := fake.Key(elliptic.P256(), "certs "+name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func issue(t testing.TB, c fake.Certificate, k *ecdsa.PrivateKey, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	if c.From.IsZero() {
		c.From = from
	}
	if c.Until.IsZero() {
		c.Until = until
	}
	cert, err := fake.Issue(c, k, parent, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

type chain struct{ leaf, ca, root *x509.Certificate }

func newChain(t testing.TB) chain {
	root := issue(t, fake.Certificate{Name: "root", CA: true, Serial: 1}, key(t, "root"), nil, nil)
	ca := issue(t, fake.Certificate{Name: "ca", CA: true, Serial: 2}, key(t, "ca"), root, key(t, "root"))
	return chain{issue(t, fake.Certificate{Name: "leaf", Serial: 3}, key(t, "leaf"), ca, key(t, "ca")), ca, root}
}

func TestVerify(t *testing.T) {
	c := newChain(t)
	other := issue(t, fake.Certificate{Name: "root", CA: true, Serial: 1}, key(t, "other"), nil, nil)
	noCA := issue(t, fake.Certificate{Name: "no ca", Serial: 5}, key(t, "ca"), c.root, key(t, "root"))
	below := issue(t, fake.Certificate{Name: "below", Serial: 6}, key(t, "leaf"), noCA, key(t, "ca"))
	old := issue(t, fake.Certificate{Name: "ca", CA: true, Serial: 7, Until: from.Add(time.Hour)}, key(t, "ca"), c.root, key(t, "root"))
	loop := issue(t, fake.Certificate{Name: "root", CA: true, Serial: 8}, key(t, "ca"), c.root, key(t, "root"))
	rootName := issue(t, fake.Certificate{Name: "root", Serial: 9}, key(t, "leaf"), c.root, key(t, "root"))
	critical := issue(t, fake.Certificate{Name: "leaf", Serial: 10, Extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}}, key(t, "leaf"), c.ca, key(t, "ca"))
	constrained := issue(t, fake.Certificate{Name: "ca", CA: true, Serial: 11, Extensions: []pkix.Extension{{
		Id: asn1.ObjectIdentifier{2, 5, 29, 30}, Critical: true, Value: []byte{0x30, 0x0b, 0xa0, 0x09, 0x30, 0x07, 0x82, 0x05, 'a', '.', 'b', 'c', 'd'},
	}}}, key(t, "ca"), c.root, key(t, "root"))
	full := certs.Anchors{Certificates: []*x509.Certificate{c.root}}
	pinned := certs.Anchors{SHA256: []digest.Digest{digest.SHA256.Sum(c.root.Raw)}}
	type list = []*x509.Certificate
	for _, tt := range []struct {
		name    string
		chain   list
		anchors certs.Anchors
		at      time.Time
		curve   elliptic.Curve
		want    string // "" passes
	}{
		{"with root", list{c.leaf, c.ca, c.root}, full, now, elliptic.P256(), ""},
		{"without root", list{c.leaf, c.ca}, full, now, elliptic.P256(), ""},
		{"pinned root", list{c.leaf, c.ca, c.root}, pinned, now, elliptic.P256(), ""},
		{"pinned root is not in the chain", list{c.leaf, c.ca}, pinned, now, elliptic.P256(), "is no trusted root"},
		{"root alone", list{c.root}, full, now, elliptic.P256(), "is the root itself"},
		{"root twice alone", list{c.root, c.root}, full, now, elliptic.P256(), "is certificate 1 again"},
		{"root twice", list{c.leaf, c.ca, c.root, c.root}, full, now, elliptic.P256(), "is certificate 3 again"},
		{"root first", list{c.root, c.leaf, c.ca}, full, now, elliptic.P256(), "is certificate 1 again"},
		{"CA twice", list{c.leaf, c.ca, c.ca, c.root}, full, now, elliptic.P256(), "is certificate 2 again"},
		{"leaf twice", list{c.leaf, c.leaf, c.ca, c.root}, full, now, elliptic.P256(), "is certificate 1 again"},
		{"self-issued CA between", list{c.leaf, loop, c.root}, full, now, elliptic.P256(), "names itself as its issuer"},
		{"self-signed leaf of the root's name", list{rootName, c.root}, full, now, elliptic.P256(), "names itself as its issuer"},
		{"leaf is a CA", list{c.ca, c.root}, full, now, elliptic.P256(), "is a CA, which signs certificates and nothing else"},
		{"critical extension", list{critical, c.ca, c.root}, full, now, elliptic.P256(), "critical extension 1.2.3.4"},
		{"name constraints", list{c.leaf, constrained, c.root}, full, now, elliptic.P256(), "critical extension 2.5.29.30"},
		{"empty", nil, full, now, elliptic.P256(), "empty"},
		{"other root of the same name", list{c.leaf, c.ca, other}, full, now, elliptic.P256(), "root that is not trusted"},
		{"signed by the other root of the same name", list{issue(t, fake.Certificate{Name: "x", Serial: 9}, key(t, "leaf"), other, key(t, "other"))}, full, now, elliptic.P256(), "does not verify"},
		{"order", list{c.ca, c.leaf, c.root}, full, now, elliptic.P256(), "is a CA, which signs"},
		{"gap", list{c.leaf, c.root}, full, now, elliptic.P256(), "its issuer is CN=ca"},
		{"no CA signs", list{below, noCA, c.root}, full, now, elliptic.P256(), "is no CA, but signs"},
		{"early", list{c.leaf, c.ca, c.root}, full, from.Add(-time.Second), elliptic.P256(), "is valid from 2026-01-01"},
		{"late", list{c.leaf, c.ca, c.root}, full, until.Add(time.Second), elliptic.P256(), "was valid until 2030-01-01"},
		{"old CA", list{c.leaf, old, c.root}, full, now, elliptic.P256(), "certificate 2 (CN=ca"},
		{"other curve", list{c.leaf, c.ca, c.root}, full, now, elliptic.P384(), "no ECDSA key on P-384"},
		{"no anchors", list{c.leaf, c.ca, c.root}, certs.Anchors{}, now, elliptic.P256(), "not trusted"},
	} {
		_, err := certs.Verify(tt.chain, tt.anchors, certs.Rules{At: tt.at, Curve: tt.curve, Signature: x509.ECDSAWithSHA256})
		var typed *certs.Error
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (!errors.As(err, &typed) || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestShape: how long a way is and what stands at its beginning depends on what
// the certificate is used for.
func TestShape(t *testing.T) {
	c := newChain(t)
	anchors := certs.Anchors{Certificates: []*x509.Certificate{c.root}}
	short := issue(t, fake.Certificate{Name: "leaf", Serial: 12}, key(t, "leaf"), c.root, key(t, "root"))
	type list = []*x509.Certificate
	for _, tt := range []struct {
		name  string
		chain list
		depth int
		ca    bool
		want  string
	}{
		{"three", list{c.leaf, c.ca, c.root}, 3, false, ""},
		{"three, the root left out", list{c.leaf, c.ca}, 3, false, ""},
		{"three, but two wanted", list{c.leaf, c.ca, c.root}, 2, false, "is 2 certificates away from the root, want 1"},
		{"two, but three wanted", list{short, c.root}, 3, false, "is 1 certificates away from the root, want 2"},
		{"two", list{short}, 2, false, ""},
		{"a CA", list{c.ca, c.root}, 2, true, ""},
		{"a leaf for a CA", list{short, c.root}, 2, true, "is no CA, but signs"},
	} {
		path, err := certs.Verify(tt.chain, anchors, certs.Rules{At: now, Curve: elliptic.P256(), Signature: x509.ECDSAWithSHA256, Depth: tt.depth, CA: tt.ca})
		switch {
		case tt.want == "" && (err != nil || len(path) != tt.depth || !path[len(path)-1].Equal(c.root)):
			t.Errorf("%s: %d certificates, %v", tt.name, len(path), err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestReadPEM(t *testing.T) {
	c := newChain(t)
	text := fake.PEM(c.leaf, c.ca, c.root)
	for name, good := range map[string][]byte{
		"plain": text, "NUL at the end": append(bytes.Clone(text), 0), "CRLF": bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")),
		"empty line": bytes.Replace(text, []byte("-----\n-----"), []byte("-----\n\n-----"), 1), "no last line break": bytes.TrimRight(text, "\n"),
	} {
		got, err := certs.ReadPEM(name, good)
		if err != nil || len(got) != 3 || !got[0].Equal(c.leaf) || !got[2].Equal(c.root) {
			t.Errorf("%s: %d certificates, %v", name, len(got), err)
		}
	}
	spare := bytes.Index(text, []byte("=\n"))
	for name, bad := range map[string][]byte{
		"empty": nil, "only NUL": {0}, "text before": append([]byte("hello\n"), text...), "text between": bytes.Replace(text, []byte("-----\n-----"), []byte("-----\nx\n-----"), 1),
		"text after": append(bytes.Clone(text), 'x'), "NUL between": bytes.Replace(text, []byte("-----\n-----"), []byte("-----\n\x00-----"), 1),
		"key": []byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"), "no end": bytes.Replace(text, []byte("-----END"), []byte("-----XND"), 3),
		"blank in base64": bytes.Replace(text, []byte("MII"), []byte("MI I"), 1), "too many": bytes.Repeat(text, 6), "too long": bytes.Repeat([]byte{'\n'}, certs.MaxChainBytes+1),
		"not DER": []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
	} {
		var typed *malformed.Error
		if got, err := certs.ReadPEM(name, bad); !errors.As(err, &typed) {
			t.Errorf("%s: %d certificates, %v; want a malformed.Error", name, len(got), err)
		}
	}
	if spare < 0 {
		t.Fatal("no certificate ends in spare bits")
	}
	bits := bytes.Clone(text)
	bits[spare-1]++ // only bits that base64 does not use
	if _, err := certs.ReadPEM("spare bits", bits); err == nil {
		t.Error("base64 with spare bits is read")
	}
}

// FuzzCertificates: no panic; what is read and leads to the root is, certificate
// by certificate, what the root's holder signed.
func FuzzCertificates(f *testing.F) {
	c := newChain(f)
	f.Add(fake.PEM(c.leaf, c.ca, c.root))
	f.Add(append(fake.PEM(c.leaf, c.ca), 0))
	f.Add(fake.PEM(c.root))
	f.Fuzz(func(t *testing.T, text []byte) {
		chain, err := certs.ReadPEM("fuzz", text)
		if err != nil {
			return
		}
		again, err := certs.ReadPEM("again", fake.PEM(chain...))
		if err != nil || len(again) != len(chain) {
			t.Fatalf("written back: %d of %d certificates, %v", len(again), len(chain), err)
		}
		if _, err := certs.Verify(chain, certs.Anchors{Certificates: []*x509.Certificate{c.root}}, certs.Rules{At: now, Curve: elliptic.P256(), Signature: x509.ECDSAWithSHA256}); err != nil {
			return
		}
		for _, got := range chain {
			if !got.Equal(c.leaf) && !got.Equal(c.ca) && !got.Equal(c.root) {
				t.Fatal("a chain with a foreign certificate is accepted")
			}
		}
	})
}
