package tpmquote_test

import (
	"testing"
	"time"

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

func day(t testing.TB, date string) time.Time {
	t.Helper()
	at, err := time.Parse(time.DateOnly, date)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func machine(t testing.TB, o fake.TPMOptions) *fake.TPM {
	t.Helper()
	m, err := fake.NewTPM("test", from, until, o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if err := m.Measure(i, []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// evidence is a machine's quote in tpm2-tools' files.
func evidence(t testing.TB, m *fake.TPM, nonce []byte, selections ...tpmquote.Selection) *tpmquote.Evidence {
	t.Helper()
	f, err := m.Files(nonce, selections...)
	if err != nil {
		t.Fatal(err)
	}
	e, err := tpmquote.OpenFiles("test", f)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func roots(m *fake.TPM) []tpmquote.Root {
	return []tpmquote.Root{{Provider: tpmquote.Other, Certificate: m.Root}}
}

func verify(t testing.TB, e *tpmquote.Evidence, o tpmquote.Options) *tpmquote.Result {
	t.Helper()
	r, err := e.Verify(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// find gives the first check of a name; one that is not there is no verdict at
// all.
func find(checks []verdict.Check, name string) verdict.Check {
	for _, c := range checks {
		if c.Name == name {
			return c
		}
	}
	return verdict.Check{Name: name, Verdict: "absent"}
}

func fold(checks []verdict.Check) verdict.Verdict { return verdict.Fold(checks).Verdict }

// one is an expectation of single values.
func one(values tpmquote.Values) map[digest.Algorithm]map[int][]digest.Digest {
	out := map[digest.Algorithm]map[int][]digest.Digest{}
	for bank, pcrs := range values {
		out[bank] = map[int][]digest.Digest{}
		for pcr, d := range pcrs {
			out[bank][pcr] = []digest.Digest{d}
		}
	}
	return out
}

func hexDigest(t testing.TB, a digest.Algorithm, s string) digest.Digest {
	t.Helper()
	d, err := digest.ParseHex(a, s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
