package tdxquote_test

import (
	"bytes"
	"crypto/x509"
	"testing"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
)

// FuzzQuote: no panic; what parses is written back byte by byte; and what is
// accepted is the seed, with other bytes only after its signature data and
// other line breaks only in the PEM of its chain.
func FuzzQuote(f *testing.F) {
	p := platform(f)
	var seeds [][]byte
	for _, o := range []fake.Options{{Trailing: 4}, {Version: 5, BodyType: tdxquote.TD10}, {Version: 5, BodyType: tdxquote.TD15}, {Version: 5, BodyType: tdxquote.TD15Ex}} {
		raw := quote(f, p, body(), o)
		seeds = append(seeds, raw)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		q, err := tdxquote.Parse(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(q.Marshal(), raw) {
			t.Fatal("Marshal does not give the bytes back")
		}
		r, err := tdxquote.Verify(q, tdxquote.Options{At: now, Roots: []*x509.Certificate{p.Root}})
		if err != nil {
			t.Fatal(err)
		}
		if verdict.Fold(r.Checks).Verdict != verdict.Pass {
			return
		}
		for _, s := range seeds {
			if bytes.Equal(certified(t, s), certified(t, raw)) {
				return
			}
		}
		t.Fatal("a quote that nobody signed is accepted")
	})
}

// certified is a quote without what may differ under one verdict: the bytes
// after the signature data, and line breaks and closing NULs around base64.
func certified(t *testing.T, raw []byte) []byte {
	t.Helper()
	q, err := tdxquote.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	q.Trailing = nil
	q.PCKChain = bytes.Map(func(r rune) rune {
		if r == '\r' || r == '\n' {
			return -1
		}
		return r
	}, bytes.TrimRight(q.PCKChain, "\x00\r\n"))
	return q.Marshal()
}

// FuzzCollateral: no panic, and whatever changes a signed part is not accepted
// as UpToDate.
func FuzzCollateral(f *testing.F) {
	p := platform(f)
	for _, l := range []fake.Levels{{}, {Revoked: true}, {Status: tdxquote.OutOfDate}} {
		file, err := p.Collateral(l)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(file)
	}
	raw := quote(f, p, body(), fake.Options{})
	good, err := p.Collateral(fake.Levels{})
	if err != nil {
		f.Fatal(err)
	}
	want, err := tdxquote.ParseCollateral("good", good)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := tdxquote.ParseCollateral("fuzz", data)
		if err != nil {
			return
		}
		q, err := tdxquote.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		r, err := tdxquote.Verify(q, tdxquote.Options{At: now, Roots: []*x509.Certificate{p.Root}, Collateral: c})
		if err != nil {
			t.Fatal(err)
		}
		if r.TCB != nil && r.TCB.Status == tdxquote.UpToDate && (c.TCBInfo.Document != want.TCBInfo.Document || c.QEIdentity.Document != want.QEIdentity.Document) {
			t.Fatal("documents that nobody signed give a TCB status")
		}
	})
}
