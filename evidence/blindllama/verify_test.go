package blindllama_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"maps"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence/blindllama"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

var (
	from  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	until = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	now   = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
)

// server is a web server's CA with a leaf of its.
type server struct {
	ca, leaf *x509.Certificate
	key      *ecdsa.PrivateKey
}

func newServer(t testing.TB, seed string) server {
	t.Helper()
	key, err := fake.Key(elliptic.P256(), seed)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := fake.Issue(fake.Certificate{Name: "Local Authority " + seed, CA: true, From: from, Until: until, Serial: 1}, key, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "api"}, DNSNames: []string{"api.example"}, NotBefore: from, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return server{ca, leaf, key}
}

// scene is a machine with its proof file and what is expected of it.
type scene struct {
	machine *fake.TPM
	proof   map[string]json.RawMessage
	server  server
	options blindllama.Options
}

func newScene(t testing.TB, o fake.TPMOptions, nonce []byte) *scene {
	t.Helper()
	m, err := fake.NewTPM("blindllama", from, until, o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if err := m.Measure(i, []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := m.Golden(0, 1, 2, 3, 4, 12, 13)
	if err != nil {
		t.Fatal(err)
	}
	golden, err := blindllama.ParseGolden("golden.json", raw)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, "server")
	root := digest.SHA256.Sum([]byte("application disk"))
	proof, err := m.Proof(fake.ProofOptions{RootHash: root, CA: string(fake.PEM(s.ca)), Nonce: nonce})
	if err != nil {
		t.Fatal(err)
	}
	sc := &scene{m, nil, s, blindllama.Options{
		At: now, Roots: []tpmquote.Root{{Provider: tpmquote.Azure, Certificate: m.Root}}, Golden: golden, RootHash: &root, TLSChain: []*x509.Certificate{s.leaf},
	}}
	if err := json.Unmarshal(proof, &sc.proof); err != nil {
		t.Fatal(err)
	}
	return sc
}

// TestScenes: one thing changed at a time. The three verdicts, and which check
// says why.
func TestScenes(t *testing.T) {
	const pass, fail, open = verdict.Pass, verdict.Fail, verdict.Unchecked
	for _, c := range []struct {
		name                       string
		nonce                      []byte
		change                     func(*scene)
		authentic, expected, bound verdict.Verdict
		word                       string
	}{
		{"as it is", nil, nil, pass, pass, pass, "NOT AZURE'S ROOT"},
		{"nothing to bind", nil, func(s *scene) { s.options.TLSChain = nil }, pass, pass, open, "nothing is bound"},
		{"nonce asked for", []byte("n"), func(s *scene) { s.options.TLSChain, s.options.Nonce = nil, []byte("n") }, pass, pass, pass, "nonce asked for"},
		{"another nonce", []byte("n"), func(s *scene) { s.options.Nonce = []byte("m") }, pass, pass, fail, "asked for is 6d"},
		{"nonce asked for, none there", nil, func(s *scene) { s.options.Nonce = []byte("m") }, pass, pass, fail, "no nonce"},
		{"another CA's leaf", nil, func(s *scene) { s.options.TLSChain = []*x509.Certificate{newServer(t, "other").leaf} }, pass, pass, fail, "not one of the measured CA"},
		{"the CA itself at the end of the connection", nil, func(s *scene) { s.options.TLSChain = []*x509.Certificate{s.server.ca} }, pass, pass, fail, "a CA's certificate"},
		{"another CA, and its leaf", nil, func(s *scene) {
			other := newServer(t, "other")
			s.proof["webserver_rootca"] = marshal(t, string(fake.PEM(other.ca)))
			s.options.TLSChain = []*x509.Certificate{other.leaf}
		}, pass, fail, fail, "does not show that the CA"},
		{"two CAs in one text", nil, func(s *scene) {
			s.proof["webserver_rootca"] = marshal(t, string(fake.PEM(s.server.ca, newServer(t, "other").ca)))
		}, pass, fail, fail, "found 2 certificates"},
		{"a leaf in place of the CA", nil, func(s *scene) { s.proof["webserver_rootca"] = marshal(t, string(fake.PEM(s.server.leaf))) }, pass, fail, fail, "of a CA"},
		{"server's name", nil, func(s *scene) { s.options.ServerName = "api.example" }, pass, pass, pass, ""},
		{"another server's name", nil, func(s *scene) { s.options.ServerName = "api.other" }, pass, pass, fail, "api.other"},
		{"leaf expired", nil, func(s *scene) { s.options.At = until.Add(time.Hour) }, fail, pass, fail, "expired"},
		{"no golden measurements", nil, func(s *scene) { s.options.Golden = nil }, pass, open, pass, "no expected values"},
		{"empty golden measurements", nil, func(s *scene) { s.options.Golden = blindllama.Golden{} }, pass, open, pass, "golden measurements are empty"},
		{"golden without the operating system", nil, func(s *scene) { delete(s.options.Golden, 4) }, pass, open, pass, "no value for PCR 4:"},
		{"golden without command line and extensions", nil, func(s *scene) { delete(s.options.Golden, 12); delete(s.options.Golden, 13) }, pass, open, pass, "no value for PCR 12, 13:"},
		{"another operating system", nil, func(s *scene) { s.options.Golden[4] = digest.SHA256.Sum(nil) }, pass, fail, pass, "PCR 4 (sha256) is"},
		{"no root hash known", nil, func(s *scene) { s.options.RootHash = nil }, pass, open, pass, "no expected root hash"},
		{"another root hash claimed", nil, func(s *scene) {
			s.proof["application_disk_roothash"] = marshal(t, digest.SHA256.Sum([]byte("evil")).Hex())
		}, pass, fail, fail, "expected is"},
		{"another root hash claimed and none known", nil, func(s *scene) {
			s.options.RootHash = nil
			s.proof["application_disk_roothash"] = marshal(t, digest.SHA256.Sum([]byte("evil")).Hex())
		}, pass, fail, fail, "PCR 15 is"},
		{"a root hash that is none", nil, func(s *scene) { s.proof["application_disk_roothash"] = marshal(t, "ab") }, pass, fail, fail, "that the proof file states"},
		{"roots of nobody here", nil, func(s *scene) { s.options.Roots = nil }, open, pass, pass, "give it as a root"},
		{"another root given", nil, func(s *scene) {
			s.options.Roots = []tpmquote.Root{{Provider: tpmquote.Azure, Certificate: newServer(t, "other").ca}}
		}, fail, pass, pass, "nor among the roots trusted"},
		{"no intermediate", nil, func(s *scene) {
			s.proof["cert_chain"] = marshal(t, []string{string(fake.PEM(s.machine.AKCert)), string(fake.PEM(s.machine.Root))})
		}, fail, pass, pass, "retally test TPM CA blindllama"},
		{"a root of somebody else at the end", nil, func(s *scene) {
			s.proof["cert_chain"] = marshal(t, []string{string(fake.PEM(s.machine.AKCert)), string(fake.PEM(s.machine.Intermediate)), string(fake.PEM(newServer(t, "other").ca))})
		}, pass, pass, pass, "it is not used"},
		{"two certificates in one entry", nil, func(s *scene) {
			s.proof["cert_chain"] = marshal(t, []string{string(fake.PEM(s.machine.AKCert, s.machine.Intermediate)), string(fake.PEM(s.machine.Root))})
		}, fail, open, fail, "found 2 certificates"},
		{"an unknown member", nil, func(s *scene) { s.proof["note"] = marshal(t, "hello") }, pass, pass, pass, "/note is not known"},
		{"another policy", nil, func(s *scene) { s.options.Selection = []tpmquote.Selection{fake.Select(digest.SHA256)} }, pass, fail, pass, "the policy asks for sha256:0-23"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t, fake.TPMOptions{}, c.nonce)
			if c.change != nil {
				c.change(s)
			}
			r := verify(t, marshal(t, s.proof), s.options)
			a, e, b := fold(r.Authentic), fold(r.Expected), fold(r.Bound)
			if a != c.authentic || e != c.expected || b != c.bound {
				t.Errorf("got %s, %s, %s; want %s, %s, %s\nauthentic %+v\nexpected %+v\nbound %+v", a, e, b, c.authentic, c.expected, c.bound, r.Authentic, r.Expected, r.Bound)
			}
			var all []string
			for _, check := range append(append(r.Authentic, r.Expected...), r.Bound...) {
				all = append(all, check.Reason)
			}
			if text := strings.Join(all, "\n"); !strings.Contains(text, c.word) {
				t.Errorf("nothing says %q:\n%s", c.word, text)
			}
		})
	}
}

// TestVersion1: a log in a register that can be reset shows nothing, even where
// it leads to the signed value.
func TestVersion1(t *testing.T) {
	log := []string{`{"event_type": "input_docker_image", "hash": "aa"}`, `{"event_type": "weights", "hash": "bb"}`}
	s := newServer(t, "server")
	text := string(fake.PEM(s.leaf))
	for _, c := range []struct {
		name            string
		before          func(*fake.TPM) error
		change          func(*blindllama.Options)
		expected, bound verdict.Verdict
		word            string
	}{
		{"as it is", nil, nil, verdict.Unchecked, verdict.Pass, "can be reset"},
		{"measured, reset, and measured as expected", func(m *fake.TPM) error {
			if err := m.Measure(16, []byte("evil")); err != nil {
				return err
			}
			m.Reset(16)
			return nil
		}, nil, verdict.Unchecked, verdict.Pass, "does not show which code runs"},
		{"an event more in the register", func(m *fake.TPM) error { return m.Measure(16, []byte("evil")) }, nil, verdict.Fail, verdict.Pass, "PCR 16 is"},
		{"another certificate", nil, func(o *blindllama.Options) { o.ServerCertificate += "\n" }, verdict.Fail, verdict.Fail, "PCR 15 is"},
		{"no certificate", nil, func(o *blindllama.Options) { o.ServerCertificate = "" }, verdict.Unchecked, verdict.Unchecked, "nothing is bound"},
		{"another end of the connection", nil, func(o *blindllama.Options) {
			o.TLSChain = []*x509.Certificate{newServer(t, "other").leaf}
		}, verdict.Unchecked, verdict.Fail, "another certificate"},
	} {
		m, err := fake.NewTPM("v1", from, until, fake.TPMOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if c.before != nil {
			if err := c.before(m); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := m.ProofV1(log, text)
		if err != nil {
			t.Fatal(err)
		}
		values := map[int]digest.Digest{}
		maps.Copy(values, m.PCRs[digest.SHA256])
		delete(values, 15)
		for pcr := range values {
			if pcr > 15 {
				delete(values, pcr)
			}
		}
		o := blindllama.Options{
			At: now, Roots: []tpmquote.Root{{Provider: tpmquote.Azure, Certificate: m.Root}}, Golden: values,
			ServerCertificate: text, TLSChain: []*x509.Certificate{s.leaf},
		}
		if c.change != nil {
			c.change(&o)
		}
		r := verify(t, raw, o)
		if fold(r.Authentic) != verdict.Pass || fold(r.Expected) != c.expected || fold(r.Bound) != c.bound {
			t.Errorf("%s: got %s, %s, %s, want %s and %s\nexpected %+v\nbound %+v", c.name, fold(r.Authentic), fold(r.Expected), fold(r.Bound), c.expected, c.bound, r.Expected, r.Bound)
		}
		var all []string
		for _, check := range append(r.Expected, r.Bound...) {
			all = append(all, check.Reason)
		}
		if !strings.Contains(strings.Join(all, "\n"), c.word) {
			t.Errorf("%s: nothing says %q:\n%s", c.name, c.word, strings.Join(all, "\n"))
		}
	}
}

// TestGolden: golden measurements that are none.
func TestGolden(t *testing.T) {
	zero := strings.Repeat("0", 64)
	for name, text := range map[string]string{
		"a PCR too much": `{"measurements":{"24":"` + zero + `"}}`, "a number with a zero": `{"measurements":{"04":"` + zero + `"}}`, "a PCR twice": `{"measurements":{"4":"` + zero + `","4":"` + zero + `"}}`,
		"a short value": `{"measurements":{"4":"00"}}`, "no text": `{"measurements":{"4":0}}`, "a list": `{"measurements":[]}`, "a second member": `{"measurements":{},"policy":{}}`, "nothing": `{}`,
		"a sign": `{"measurements":{"+4":"` + zero + `"}}`, "after the end": `{"measurements":{}}{}`,
	} {
		if g, err := blindllama.ParseGolden("golden.json", []byte(text)); err == nil {
			t.Errorf("%s is read as %v", name, g)
		} else if !strings.Contains(err.Error(), "golden.json") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzProof: no panic, and nothing passes as authentic but what the machine
// signed.
func FuzzProof(f *testing.F) {
	s := newScene(f, fake.TPMOptions{Curve: elliptic.P256()}, nil)
	proof := marshal(f, s.proof)
	p, err := blindllama.Parse("seed", proof)
	if err != nil {
		f.Fatal(err)
	}
	v1, err := s.machine.ProofV1([]string{`{}`}, "certificate")
	if err != nil {
		f.Fatal(err)
	}
	p1, err := blindllama.Parse("seed", v1)
	if err != nil {
		f.Fatal(err)
	}
	if !blindllama.Recognize(proof) || !blindllama.Recognize(v1) || blindllama.Recognize([]byte(`{"quote":"00"}`)) {
		f.Fatal("proof files are not recognized, or others are")
	}
	f.Add(proof)
	f.Add(v1)
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := blindllama.Parse("fuzz", data)
		if err != nil {
			return
		}
		r, err := got.Verify(s.options)
		if err != nil {
			t.Fatal(err)
		}
		if fold(r.Authentic) == verdict.Pass && !bytes.Equal(got.Message, p.Message) && !bytes.Equal(got.Message, p1.Message) {
			t.Fatal("a message that the machine did not sign")
		}
		if fold(r.Bound) == verdict.Pass && got.CA != p.CA {
			t.Fatal("another CA is bound")
		}
	})
}

func FuzzGolden(f *testing.F) {
	f.Add([]byte(`{"measurements":{"4":"` + strings.Repeat("0", 64) + `"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := blindllama.ParseGolden("fuzz", data)
		if err != nil {
			return
		}
		for pcr, d := range g {
			if pcr < 0 || pcr >= tpmquote.PCRCount || d.Algorithm() != digest.SHA256 {
				t.Fatalf("PCR %d: %s", pcr, d)
			}
		}
	})
}
