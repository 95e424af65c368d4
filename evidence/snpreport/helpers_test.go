package snpreport_test

import (
	"crypto/rsa"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/verdict"
)

func day(t testing.TB, date string) time.Time {
	t.Helper()
	at, err := time.Parse(time.DateOnly, date)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

var (
	from  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	until = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	now   = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
)

func platform(t testing.TB, o fake.SNPOptions) *fake.SNPPlatform {
	t.Helper()
	p, err := fake.NewSNPPlatform("test", from, until, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func report(t testing.TB, p *fake.SNPPlatform, change func(*snpreport.Report)) *snpreport.Report {
	t.Helper()
	raw, err := p.Report(snpreport.Report{}, change)
	if err != nil {
		t.Fatal(err)
	}
	r, err := snpreport.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func options(p *fake.SNPPlatform) snpreport.Options {
	return snpreport.Options{At: now, Roots: []snpreport.Root{p.Root()}}
}

func verify(t testing.TB, r *snpreport.Report, c snpreport.Certificates, o snpreport.Options) *snpreport.Result {
	t.Helper()
	result, err := snpreport.Verify(r, c, o)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// find gives the check of a name; one that is not there is no verdict at all.
func find(checks []verdict.Check, name string) verdict.Check {
	for _, c := range checks {
		if c.Name == name {
			return c
		}
	}
	return verdict.Check{Name: "no check " + name}
}

// failed names the checks that failed.
func failed(checks []verdict.Check) string {
	var out []string
	for _, c := range checks {
		if c.Verdict == verdict.Fail {
			out = append(out, c.Name)
		}
	}
	return strings.Join(out, " ")
}

// judge gives "accept" or "reject" with the first reason, as the vectors do.
func judge(raw []byte, c snpreport.Certificates, o snpreport.Options) (string, string) {
	r, err := snpreport.Parse(raw)
	if err != nil {
		return "reject", err.Error()
	}
	result, err := snpreport.Verify(r, c, o)
	if err != nil {
		return "reject", err.Error()
	}
	if j := verdict.Fold(result.Checks); j.Verdict != verdict.Pass {
		return "reject", j.Reasons[0]
	}
	return "accept", ""
}

// akOf is a virtual TPM's attestation key.
func akOf(t testing.TB) *rsa.PublicKey {
	t.Helper()
	p := platform(t, fake.SNPOptions{})
	return p.ASVK.PublicKey.(*rsa.PublicKey)
}
