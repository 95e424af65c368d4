package tpmquote_test

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/hcl"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

var nonce = []byte("a nonce of the one who asks")

// TestReasons: one thing wrong at a time, and which check says so.
func TestReasons(t *testing.T) {
	sha256 := fake.Select(digest.SHA256, 0, 1, 2, 3, 4, 5, 6, 7)
	ek := asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	for _, c := range []struct {
		name    string
		machine fake.TPMOptions
		change  func(*tpmquote.Evidence, *tpmquote.Options, *fake.TPM)
		check   string
		want    verdict.Verdict // of the whole authentic
		word    string
	}{
		{"rsassa", fake.TPMOptions{}, nil, "quote-signature", verdict.Pass, "RSASSA"},
		{"rsapss", fake.TPMOptions{PSS: true}, nil, "quote-signature", verdict.Pass, "RSAPSS"},
		{"p-256", fake.TPMOptions{Curve: elliptic.P256()}, nil, "quote-signature", verdict.Pass, "ECDSA"},
		{"p-384", fake.TPMOptions{Curve: elliptic.P384()}, nil, "quote-signature", verdict.Pass, "ECDSA"},
		{"another root", fake.TPMOptions{OtherRoot: true}, nil, "ak-chain", verdict.Fail, "does not verify"},
		{"no root", fake.TPMOptions{}, func(_ *tpmquote.Evidence, o *tpmquote.Options, _ *fake.TPM) { o.Roots = nil }, "ak-chain", verdict.Unchecked, "not among those trusted"},
		{"expired", fake.TPMOptions{}, func(_ *tpmquote.Evidence, o *tpmquote.Options, _ *fake.TPM) { o.At = until.Add(time.Hour) }, "ak-chain", verdict.Fail, "no vendor): expired: was valid until 2030-01-01"},
		{"before", fake.TPMOptions{}, func(_ *tpmquote.Evidence, o *tpmquote.Options, _ *fake.TPM) { o.At = from.Add(-time.Hour) }, "ak-chain", verdict.Fail, "is valid from"},
		{"no usage", fake.TPMOptions{NoUsage: true}, nil, "ak-chain", verdict.Fail, "2.23.133.8.3 is missing"},
		{"endorsement key's usage", fake.TPMOptions{Usage: ek}, nil, "ak-chain", verdict.Fail, "2.23.133.8.3 is missing"},
		{"Google's usage", fake.TPMOptions{Usage: ek}, func(_ *tpmquote.Evidence, o *tpmquote.Options, _ *fake.TPM) { o.Roots[0].Provider = tpmquote.GCP }, "ak-chain", verdict.Pass, "provider gcp"},
		{"Google's older leaves", fake.TPMOptions{NoUsage: true}, func(_ *tpmquote.Evidence, o *tpmquote.Options, _ *fake.TPM) { o.Roots[0].Provider = tpmquote.GCP }, "ak-chain", verdict.Pass, "provider gcp"},
		{"Google's root, another usage", fake.TPMOptions{Usage: asn1.ObjectIdentifier{1, 2, 3}}, func(_ *tpmquote.Evidence, o *tpmquote.Options, _ *fake.TPM) { o.Roots[0].Provider = tpmquote.GCP }, "ak-chain", verdict.Fail, "no attestation key"},
		{"no key usage at all", fake.TPMOptions{NoUsage: true, NoKeyUsage: true}, func(_ *tpmquote.Evidence, o *tpmquote.Options, _ *fake.TPM) { o.Roots[0].Provider = tpmquote.GCP }, "ak-chain", verdict.Fail, "no attestation key"},
		{"leaf is a CA", fake.TPMOptions{LeafIsCA: true}, nil, "ak-chain", verdict.Fail, "is a CA"},
		{"Azure's name, a root of ours", fake.TPMOptions{}, func(_ *tpmquote.Evidence, o *tpmquote.Options, _ *fake.TPM) { o.Roots[0].Provider = tpmquote.Azure }, "test-root", verdict.Pass, "NOT AZURE'S ROOT"},
		{"leaf alone", fake.TPMOptions{}, func(e *tpmquote.Evidence, _ *tpmquote.Options, _ *fake.TPM) { e.AK.Chain = e.AK.Chain[:1] }, "ak-chain", verdict.Unchecked, "retally test TPM CA test"},
		{"certificates in another order", fake.TPMOptions{}, func(e *tpmquote.Evidence, _ *tpmquote.Options, _ *fake.TPM) {
			c := e.AK.Chain
			e.AK.Chain = []*x509.Certificate{c[0], c[2], c[1], c[2]}
		}, "ak-chain", verdict.Pass, "retally test TPM CA test"},
		{"the root as leaf", fake.TPMOptions{}, func(e *tpmquote.Evidence, _ *tpmquote.Options, m *fake.TPM) {
			e.AK = &tpmquote.AK{Key: m.Root.PublicKey, Chain: []*x509.Certificate{m.Root}}
		}, "ak-chain", verdict.Fail, "is the root itself"},
		{"another machine's certificate", fake.TPMOptions{}, func(e *tpmquote.Evidence, _ *tpmquote.Options, _ *fake.TPM) {
			other := machine(t, fake.TPMOptions{Curve: elliptic.P256()})
			e.AK = &tpmquote.AK{Key: other.AK(), Chain: []*x509.Certificate{other.AKCert, other.Intermediate}}
		}, "quote-signature", verdict.Fail, "the key is on a curve"},
		{"no key", fake.TPMOptions{}, func(e *tpmquote.Evidence, _ *tpmquote.Options, _ *fake.TPM) { e.AK = nil }, "quote-signature", verdict.Unchecked, "without a key"},
		{"the sender's bare key", fake.TPMOptions{}, func(e *tpmquote.Evidence, _ *tpmquote.Options, _ *fake.TPM) { e.AK.Chain = nil }, "ak", verdict.Unchecked, "nobody vouches"},
		{"a key given", fake.TPMOptions{}, func(e *tpmquote.Evidence, o *tpmquote.Options, m *fake.TPM) {
			e.AK, o.AK = nil, &tpmquote.AK{Key: m.AK()}
		}, "ak-attributes", verdict.Pass, "no public area"},
		{"a key given, another one sent", fake.TPMOptions{}, func(e *tpmquote.Evidence, o *tpmquote.Options, m *fake.TPM) {
			o.AK = &tpmquote.AK{Key: machine(t, fake.TPMOptions{Curve: elliptic.P256()}).AK()}
		}, "ak-sender", verdict.Fail, "another key"},
		{"public area", fake.TPMOptions{}, func(e *tpmquote.Evidence, _ *tpmquote.Options, m *fake.TPM) { e.AK.Public = public(t, m) }, "ak-name", verdict.Pass, "owner"},
		{"public area on a curve", fake.TPMOptions{Curve: elliptic.P384()}, func(e *tpmquote.Evidence, _ *tpmquote.Options, m *fake.TPM) { e.AK.Public = public(t, m) }, "ak-name", verdict.Pass, "owner"},
		{"unrestricted", fake.TPMOptions{Attributes: tpmquote.Sign | tpmquote.FixedTPM | tpmquote.FixedParent | tpmquote.Origin}, func(e *tpmquote.Evidence, _ *tpmquote.Options, m *fake.TPM) { e.AK.Public = public(t, m) }, "ak-attributes", verdict.Fail, "not restricted"},
		{"exportable", fake.TPMOptions{Attributes: tpmquote.Sign | tpmquote.Restricted}, func(e *tpmquote.Evidence, _ *tpmquote.Options, m *fake.TPM) { e.AK.Public = public(t, m) }, "ak-attributes", verdict.Fail, "not fixedTPM"},
		{"public area of another key", fake.TPMOptions{}, func(e *tpmquote.Evidence, _ *tpmquote.Options, _ *fake.TPM) {
			e.AK.Public = public(t, machine(t, fake.TPMOptions{Curve: elliptic.P256()}))
		}, "ak-attributes", verdict.Fail, "of another key"},
		{"a value changed", fake.TPMOptions{}, func(e *tpmquote.Evidence, _ *tpmquote.Options, _ *fake.TPM) {
			e.Quotes[0].Values[digest.SHA256][4] = digest.SHA256.Sum(nil)
		}, "pcr-digest", verdict.Fail, "was changed"},
		{"a value missing", fake.TPMOptions{}, func(e *tpmquote.Evidence, _ *tpmquote.Options, _ *fake.TPM) {
			delete(e.Quotes[0].Values[digest.SHA256], 4)
		}, "pcr-selection", verdict.Fail, "another PCR's number"},
		{"a value more", fake.TPMOptions{}, func(e *tpmquote.Evidence, _ *tpmquote.Options, _ *fake.TPM) {
			e.Quotes[0].Values[digest.SHA256][9] = digest.SHA256.Sum(nil)
		}, "pcr-selection", verdict.Fail, "another PCR's number"},
		{"labels shifted", fake.TPMOptions{}, func(e *tpmquote.Evidence, _ *tpmquote.Options, _ *fake.TPM) {
			shifted := map[int]digest.Digest{}
			for pcr, d := range e.Quotes[0].Values[digest.SHA256] {
				shifted[pcr+1] = d
			}
			e.Quotes[0].Values[digest.SHA256] = shifted
		}, "pcr-selection", verdict.Fail, "labelled sha256:1-8, signed is sha256:0-7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := machine(t, c.machine)
			e := evidence(t, m, nonce, sha256)
			o := tpmquote.Options{At: now, Roots: roots(m), Nonce: nonce}
			if c.change != nil {
				c.change(e, &o, m)
			}
			r := verify(t, e, o)
			if got := fold(r.Authentic); got != c.want {
				t.Errorf("authentic is %s, want %s: %+v", got, c.want, r.Authentic)
			}
			check := find(r.Authentic, c.check)
			if !strings.Contains(check.Reason, c.word) {
				t.Errorf("got %+v, want %q", check, c.word)
			}
			if c.want == verdict.Fail && check.Verdict != verdict.Fail {
				t.Errorf("got %+v, want this check to fail", check)
			}
		})
	}
}

func public(t testing.TB, m *fake.TPM) *tpmquote.Public {
	t.Helper()
	p, err := tpmquote.ParsePublic("public", m.Public)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestExpected: nothing compared is no match, what can be reset never counts,
// and what is not quoted is not there.
func TestExpected(t *testing.T) {
	m := machine(t, fake.TPMOptions{Banks: []digest.Algorithm{digest.SHA1, digest.SHA256}})
	all := fake.Select(digest.SHA256)
	some := fake.Select(digest.SHA256, 0, 4, 7)
	pcr := func(bank digest.Algorithm, pcrs ...int) tpmquote.Expectations {
		v := tpmquote.Values{bank: {}}
		for _, p := range pcrs {
			v[bank][p] = m.PCRs[bank][p]
		}
		return tpmquote.Expectations{Values: one(v)}
	}
	wrong := tpmquote.Expectations{Values: one(tpmquote.Values{digest.SHA256: {4: digest.SHA256.Sum(nil)}})}
	either := pcr(digest.SHA256, 4)
	either.Values[digest.SHA256][4] = append(either.Values[digest.SHA256][4], digest.SHA256.Sum(nil))
	both := pcr(digest.SHA1, 0)
	both.Values[digest.SHA256] = pcr(digest.SHA256, 0).Values[digest.SHA256]
	apart := pcr(digest.SHA1, 0)
	apart.Values[digest.SHA256] = pcr(digest.SHA256, 4).Values[digest.SHA256]
	policy := func(e tpmquote.Expectations, s ...tpmquote.Selection) tpmquote.Expectations {
		e.Selection = s
		return e
	}
	for _, c := range []struct {
		name   string
		quoted []tpmquote.Selection
		expect tpmquote.Expectations
		want   verdict.Verdict
	}{
		{"nothing", []tpmquote.Selection{all}, tpmquote.Expectations{}, verdict.Unchecked},
		{"an empty bank", []tpmquote.Selection{all}, tpmquote.Expectations{Values: map[digest.Algorithm]map[int][]digest.Digest{digest.SHA256: {}}}, verdict.Unchecked},
		{"equal", []tpmquote.Selection{all}, pcr(digest.SHA256, 0, 4, 7), verdict.Pass},
		{"one of two", []tpmquote.Selection{all}, either, verdict.Pass},
		{"wrong", []tpmquote.Selection{all}, wrong, verdict.Fail},
		{"not quoted", []tpmquote.Selection{some}, pcr(digest.SHA256, 0, 5), verdict.Fail},
		{"another bank", []tpmquote.Selection{some}, pcr(digest.SHA1, 0), verdict.Fail},
		{"SHA-1 alone", []tpmquote.Selection{some, fake.Select(digest.SHA1, 0)}, pcr(digest.SHA1, 0), verdict.Unchecked},
		{"SHA-1 beside SHA-256", []tpmquote.Selection{some, fake.Select(digest.SHA1, 0)}, both, verdict.Pass},
		{"SHA-1 beside SHA-256 of another PCR", []tpmquote.Selection{some, fake.Select(digest.SHA1, 0)}, apart, verdict.Unchecked},
		{"wrong by SHA-1", []tpmquote.Selection{some, fake.Select(digest.SHA1, 0)}, tpmquote.Expectations{Values: one(tpmquote.Values{digest.SHA1: {0: digest.SHA1.Sum(nil)}})}, verdict.Fail},
		{"PCR 16", []tpmquote.Selection{all}, pcr(digest.SHA256, 16), verdict.Unchecked},
		{"PCR 17 to 23 beside 4", []tpmquote.Selection{all}, pcr(digest.SHA256, 4, 17, 18, 19, 20, 21, 22, 23), verdict.Unchecked},
		{"policy", []tpmquote.Selection{some}, policy(pcr(digest.SHA256, 4), some), verdict.Pass},
		{"policy with less", []tpmquote.Selection{some}, policy(pcr(digest.SHA256, 4), fake.Select(digest.SHA256, 0, 4)), verdict.Fail},
		{"policy with more", []tpmquote.Selection{some}, policy(pcr(digest.SHA256, 4), all), verdict.Fail},
		{"policy of another bank", []tpmquote.Selection{some}, policy(pcr(digest.SHA256, 4), fake.Select(digest.SHA1, 0, 4, 7)), verdict.Fail},
	} {
		r := verify(t, evidence(t, m, nonce, c.quoted...), tpmquote.Options{At: now, Roots: roots(m), Expect: c.expect})
		if got := fold(r.Expected); got != c.want {
			t.Errorf("%s: %s, want %s: %+v", c.name, got, c.want, r.Expected)
		}
	}
	// A quote that does not hold has no values, whatever stands beside it.
	e := evidence(t, m, nonce, all)
	e.Quotes[0].Message[len(e.Quotes[0].Message)-1] ^= 1
	r := verify(t, e, tpmquote.Options{At: now, Roots: roots(m), Expect: pcr(digest.SHA256, 4)})
	if fold(r.Authentic) != verdict.Fail || fold(r.Expected) == verdict.Pass || len(r.Values) != 0 {
		t.Errorf("a broken quote: %s, %s, %v", fold(r.Authentic), fold(r.Expected), r.Values)
	}
	for _, bad := range []tpmquote.Expectations{
		{Values: map[digest.Algorithm]map[int][]digest.Digest{digest.SHA256: {24: {digest.SHA256.Sum(nil)}}}},
		{Values: map[digest.Algorithm]map[int][]digest.Digest{digest.SHA256: {4: {digest.SHA1.Sum(nil)}}}},
		{Values: map[digest.Algorithm]map[int][]digest.Digest{digest.SHA256: {4: {}}}},
	} {
		if _, err := e.Verify(tpmquote.Options{At: now, Expect: bad}); err == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
	for name, o := range map[string]tpmquote.Options{
		"no time": {}, "an empty list of roots": {At: now, Roots: []tpmquote.Root{}}, "a root that is none": {At: now, Roots: []tpmquote.Root{{}}}, "a key that is none": {At: now, AK: &tpmquote.AK{}},
	} {
		if _, err := e.Verify(o); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if c := e.Quotes[0].Claims(); c.Selection != "sha256:0-23" || c.Nonce != hex.EncodeToString(nonce) || c.Clock.ResetCount != 2 || c.Firmware != "2020031200120003" || c.Scheme != "RSASSA" || c.Hash != "sha256" {
		t.Errorf("got %+v", c)
	}
}

func TestNonce(t *testing.T) {
	m := machine(t, fake.TPMOptions{})
	for _, c := range []struct {
		signed, asked []byte
		want          verdict.Verdict
		word          string
	}{
		{nonce, nonce, verdict.Pass, "asked for"},
		{nonce, nil, verdict.Unchecked, "no nonce was given"},
		{nonce, []byte("other"), verdict.Fail, "asked for is"},
		{nonce, []byte{}, verdict.Fail, "asked for is"},
		{nonce, nonce[:len(nonce)-1], verdict.Fail, "asked for is"},
		{nil, nil, verdict.Unchecked, "holds no nonce"},
		{nil, []byte{}, verdict.Unchecked, "holds no nonce"},
		{nil, nonce, verdict.Fail, "holds no nonce"},
	} {
		r := verify(t, evidence(t, m, c.signed, fake.Select(digest.SHA256, 0)), tpmquote.Options{At: now, Roots: roots(m), Nonce: c.asked})
		if got := find(r.Bound, "nonce"); fold(r.Bound) != c.want || !strings.Contains(got.Reason, c.word) {
			t.Errorf("signed %q, asked %q: %s %+v", c.signed, c.asked, fold(r.Bound), got)
		}
	}
}

// TestLog: what a log explains and what it does not.
func TestLog(t *testing.T) {
	m := machine(t, fake.TPMOptions{})
	if err := m.Measure(16, []byte("reset me")); err != nil {
		t.Fatal(err)
	}
	e := evidence(t, m, nonce, fake.Select(digest.SHA256))
	e.EventLog = []byte("log")
	with := func(change func(*tpmquote.Replay)) *tpmquote.Result {
		return verify(t, e, tpmquote.Options{At: now, Roots: roots(m), Replay: func(log []byte, banks []digest.Algorithm) (*tpmquote.Replay, error) {
			r := &tpmquote.Replay{Values: tpmquote.Values{digest.SHA256: {16: m.PCRs[digest.SHA256][16]}}}
			for i := range 10 {
				r.Values[digest.SHA256][i] = m.PCRs[digest.SHA256][i]
			}
			if change != nil {
				change(r)
			}
			return r, nil
		}})
	}
	for _, c := range []struct {
		name   string
		change func(*tpmquote.Replay)
		check  string
		want   verdict.Verdict
		word   string
	}{
		{"all", nil, "log-replay", verdict.Pass, "sha256:0-9"},
		{"what can be reset", nil, "log-resettable", verdict.Unchecked, "PCR 16"},
		{"a register differs", func(r *tpmquote.Replay) { r.Values[digest.SHA256][4] = digest.SHA256.Sum(nil) }, "log-replay", verdict.Fail, "PCR 4 (sha256) is"},
		{"all events of a firmware's register left out", func(r *tpmquote.Replay) { delete(r.Values[digest.SHA256], 4) }, "log-replay", verdict.Fail, "PCR 4 (sha256)"},
		{"an operating system's register", func(r *tpmquote.Replay) { delete(r.Values[digest.SHA256], 9) }, "log-unexplained", verdict.Unchecked, "PCR 9"},
		{"no event", func(r *tpmquote.Replay) { r.Values = nil }, "log-replay", verdict.Unchecked, "nothing was replayed"},
		{"no event of the bank", func(r *tpmquote.Replay) { r.Values = tpmquote.Values{digest.SHA1: {0: digest.SHA1.Sum(nil)}} }, "log-replay", verdict.Unchecked, "no digests for the bank sha256"},
		{"contradiction", func(r *tpmquote.Replay) { r.Contradictions = []string{"event 7 at offset 812"} }, "log-digests", verdict.Fail, "event 7 at offset 812"},
	} {
		r := with(c.change)
		if got := find(r.Expected, c.check); got.Verdict != c.want || !strings.Contains(got.Reason, c.word) {
			t.Errorf("%s: %+v", c.name, got)
		}
		if fold(r.Expected) == verdict.Pass {
			t.Errorf("%s: a log alone makes nothing expected", c.name)
		}
	}
	broken := errors.New("read log: offset 12: found nothing")
	if _, err := e.Verify(tpmquote.Options{At: now, Replay: func([]byte, []digest.Algorithm) (*tpmquote.Replay, error) { return nil, broken }}); !errors.Is(err, broken) {
		t.Errorf("a log that cannot be read: got %v", err)
	}
}

// TestContainers: the same quotes in every container give the same values.
func TestContainers(t *testing.T) {
	m := machine(t, fake.TPMOptions{Banks: []digest.Algorithm{digest.SHA1, digest.SHA256}})
	type pcr struct {
		Index     int
		Digest    []byte
		DigestAlg crypto.Hash
	}
	type quote struct {
		Version          int
		Quote, Signature []byte
	}
	parameters := struct {
		TPMVersion int
		Public     []byte
		Quotes     []quote
		PCRs       []pcr
		EventLog   []byte
	}{TPMVersion: 2, Public: m.Public}
	proto := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), m.Public)
	for _, bank := range []digest.Algorithm{digest.SHA1, digest.SHA256} {
		message, signature, values, err := m.Quote(nonce, nil, fake.Select(bank))
		if err != nil {
			t.Fatal(err)
		}
		parameters.Quotes = append(parameters.Quotes, quote{2, message, signature})
		q := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), message)
		q = protowire.AppendBytes(protowire.AppendTag(q, 2, protowire.BytesType), signature)
		id := map[digest.Algorithm]uint64{digest.SHA1: 4, digest.SHA256: 11}[bank]
		p := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), id)
		for i := range tpmquote.PCRCount {
			d := values[bank][i].Bytes()
			parameters.PCRs = append(parameters.PCRs, pcr{i, d, map[digest.Algorithm]crypto.Hash{digest.SHA1: crypto.SHA1, digest.SHA256: crypto.SHA256}[bank]})
			var entry []byte
			if i > 0 {
				entry = protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(i))
			}
			entry = protowire.AppendBytes(protowire.AppendTag(entry, 2, protowire.BytesType), d)
			p = protowire.AppendBytes(protowire.AppendTag(p, 2, protowire.BytesType), entry)
		}
		q = protowire.AppendBytes(protowire.AppendTag(q, 3, protowire.BytesType), p)
		proto = protowire.AppendBytes(protowire.AppendTag(proto, 2, protowire.BytesType), q)
	}
	withoutCert := proto
	proto = protowire.AppendBytes(protowire.AppendTag(proto, 6, protowire.BytesType), m.AKCert.Raw)
	proto = protowire.AppendBytes(protowire.AppendTag(proto, 7, protowire.BytesType), m.Root.Raw)
	proto = protowire.AppendBytes(protowire.AppendTag(proto, 7, protowire.BytesType), m.Intermediate.Raw)
	text, err := json.Marshal(parameters)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		form tpmquote.Form
		data []byte
		want verdict.Verdict
	}{{tpmquote.FormGoTPMTools, proto, verdict.Pass}, {tpmquote.FormGoTPMTools, withoutCert, verdict.Unchecked}, {tpmquote.FormGoAttestation, text, verdict.Unchecked}} {
		e, err := tpmquote.Open("container", c.data)
		if err != nil {
			t.Fatal(err)
		}
		r := verify(t, e, tpmquote.Options{At: now, Roots: roots(m), Nonce: nonce})
		if e.Form != c.form || fold(r.Authentic) != c.want || fold(r.Bound) != verdict.Pass {
			t.Errorf("%s: authentic %s %+v", e.Form, fold(r.Authentic), r.Authentic)
		}
		for bank, pcrs := range m.PCRs {
			for i, d := range pcrs {
				if r.Values[bank][i] != d {
					t.Errorf("%s: PCR %d of %s is %s, want %s", e.Form, i, bank, r.Values[bank][i], d)
				}
			}
		}
	}
	// Two quotes that contradict each other.
	e, err := tpmquote.Open("container", proto)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Measure(4, []byte("between two quotes")); err != nil {
		t.Fatal(err)
	}
	message, signature, values, err := m.Quote(nonce, nil, fake.Select(digest.SHA256))
	if err != nil {
		t.Fatal(err)
	}
	q, err := tpmquote.NewQuote("later", message, signature, values, true)
	if err != nil {
		t.Fatal(err)
	}
	e.Quotes = append(e.Quotes, *q)
	if r := verify(t, e, tpmquote.Options{At: now, Roots: roots(m)}); find(r.Authentic, "pcr-twice").Verdict != verdict.Fail {
		t.Errorf("authentic %+v", r.Authentic)
	}
	// A quote of another start of the same machine.
	if message, signature, values, err = m.Quote(nonce, func(a *tpmquote.Attest) { a.Clock.ResetCount++ }, fake.Select(digest.SHA256)); err != nil {
		t.Fatal(err)
	}
	if q, err = tpmquote.NewQuote("later", message, signature, values, true); err != nil {
		t.Fatal(err)
	}
	e.Quotes = append(e.Quotes[:1:1], *q)
	if r := verify(t, e, tpmquote.Options{At: now, Roots: roots(m)}); find(r.Authentic, "quote-start").Verdict != verdict.Fail {
		t.Errorf("authentic %+v", r.Authentic)
	}
	for name, data := range map[string][]byte{
		"a certificate twice": protowire.AppendBytes(protowire.AppendTag(proto, 6, protowire.BytesType), m.AKCert.Raw),
		"an unknown field":    protowire.AppendBytes(protowire.AppendTag(proto, 10, protowire.BytesType), m.AKCert.Raw),
		"a varint":            protowire.AppendVarint(protowire.AppendTag(proto, 3, protowire.VarintType), 1),
		"no quote":            protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), m.Public),
	} {
		if _, err := tpmquote.Open(name, data); err == nil {
			t.Errorf("%s is read", name)
		}
	}
}

// TestAzureMachine: an HCL report of a machine of ours, with its hardware report
// verified; and a report that the guest asked for itself.
func TestAzureMachine(t *testing.T) {
	p, err := fake.NewSNPPlatform("test", from, until, fake.SNPOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := machine(t, fake.TPMOptions{})
	message, signature, values, err := m.Quote(nonce, nil, fake.Select(digest.SHA256))
	if err != nil {
		t.Fatal(err)
	}
	sig, err := tpmquote.ParseSignature("signature", signature)
	if err != nil {
		t.Fatal(err)
	}
	open := func(vmpl uint32) *tpmquote.Evidence {
		report, err := p.HCL(m.AK().(*rsa.PublicKey), snpreport.Report{VMPL: vmpl})
		if err != nil {
			t.Fatal(err)
		}
		var pcrs []string
		for i := range tpmquote.PCRCount {
			pcrs = append(pcrs, values[digest.SHA256][i].Hex())
		}
		data, err := json.Marshal(map[string]any{
			"version": 1, "hcl_report": report, "vcek": string(fake.PEM(p.VCEK)),
			"tpm_quote": map[string]any{"message": hex.EncodeToString(message), "signature": hex.EncodeToString(sig.RSA), "pcrs": pcrs},
		})
		if err != nil {
			t.Fatal(err)
		}
		e, err := tpmquote.Open("azure", data)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	for _, c := range []struct {
		vmpl uint32
		want verdict.Verdict
	}{{0, verdict.Pass}, {2, verdict.Fail}} {
		e := open(c.vmpl)
		o := tpmquote.Options{At: now, Nonce: nonce, Hardware: func(h *hcl.Report, _ []byte) (*tpmquote.Hardware, error) {
			r, err := snpreport.Parse(h.Hardware[:])
			if err != nil {
				return nil, err
			}
			block, _ := pem.Decode(e.VCEK)
			vcek, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, err
			}
			v, err := snpreport.Verify(r, snpreport.Certificates{VCEK: vcek, CRL: nil}, snpreport.Options{At: now, Roots: []snpreport.Root{p.Root()}})
			if err != nil {
				return nil, err
			}
			for i := range v.Checks {
				v.Checks[i].Optional = true // of revocation lists there are none
			}
			return &tpmquote.Hardware{ReportData: r.ReportData, Checks: v.Checks}, nil
		}}
		r := verify(t, e, o)
		if fold(r.Authentic) != c.want || r.Provider != tpmquote.Azure {
			t.Errorf("VMPL %d: %s: %+v", c.vmpl, fold(r.Authentic), r.Authentic)
		}
	}
}

// TestRefused: messages, signatures, public areas and PCR files that mean two
// things, or nothing.
func TestRefused(t *testing.T) {
	m := machine(t, fake.TPMOptions{})
	some := fake.Select(digest.SHA256, 0, 1)
	for name, change := range map[string]func(*tpmquote.Attest){
		"a bank twice":       func(a *tpmquote.Attest) { a.Selections = append(a.Selections, some) },
		"a nonce too long":   func(a *tpmquote.Attest) { a.ExtraData = make([]byte, 67) },
		"a name too long":    func(a *tpmquote.Attest) { a.Signer = make([]byte, 67) },
		"a digest too long":  func(a *tpmquote.Attest) { a.PCRDigest = make([]byte, 65) },
		"no hash for a bank": func(a *tpmquote.Attest) { a.Selections[0].Bank = digest.SHA224 },
	} {
		message, signature, values, err := m.Quote(nonce, change, fake.Select(digest.SHA256, 0, 1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tpmquote.NewQuote(name, message, signature, values, true); !errors.As(err, new(*tpmquote.BrokenError)) || !strings.Contains(err.Error(), "offset") {
			t.Errorf("%s: got %v, want a broken quote with the offset", name, err)
		}
	}
	// A quote that covers nothing has the digest of nothing.
	message, signature, values, err := m.Quote(nonce, nil)
	if err != nil {
		t.Fatal(err)
	}
	q, err := tpmquote.NewQuote("none", message, signature, values, true)
	if err != nil {
		t.Fatal(err)
	}
	e := &tpmquote.Evidence{Quotes: []tpmquote.Quote{*q}, AK: &tpmquote.AK{Key: m.AK(), Chain: []*x509.Certificate{m.AKCert, m.Intermediate}}}
	if r := verify(t, e, tpmquote.Options{At: now, Roots: roots(m), Nonce: nonce}); fold(r.Authentic) != verdict.Fail {
		t.Errorf("a quote that covers nothing: %+v", r.Authentic)
	}
	// SHA-1 signs nothing.
	f, err := m.Files(nonce, some)
	if err != nil {
		t.Fatal(err)
	}
	old, err := tpmquote.ParseSignature("signature", f.Signature)
	if err != nil {
		t.Fatal(err)
	}
	old.Hash = digest.SHA1
	if err := old.Verify(m.AK(), f.Message); err == nil || !strings.Contains(err.Error(), "sha1") {
		t.Errorf("SHA-1: got %v", err)
	}
	for name, data := range map[string][]byte{"empty": {}, "cut": f.PCRs[:len(f.PCRs)-1], "longer": append(f.PCRs[:len(f.PCRs):len(f.PCRs)], 0), "selections alone": f.PCRs[:136]} {
		if _, err := tpmquote.ParsePCRFile(name, data); err == nil {
			t.Errorf("a PCR file that is %s is read", name)
		}
	}
	if _, err := tpmquote.ParsePublic("short", m.Public[:20]); err == nil {
		t.Error("a public area that ends early is read")
	}
	if k, err := tpmquote.ParseAK("TPM2B_PUBLIC", append([]byte{byte(len(m.Public) >> 8), byte(len(m.Public))}, m.Public...)); err != nil || k.Public == nil {
		t.Errorf("TPM2B_PUBLIC: %v", err)
	}
	der, err := x509.MarshalPKIXPublicKey(m.AK())
	if err != nil {
		t.Fatal(err)
	}
	if k, err := tpmquote.ParseAK("PEM", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); err != nil || !m.AK().(*rsa.PublicKey).Equal(k.Key) {
		t.Errorf("PEM: %v", err)
	}
}
