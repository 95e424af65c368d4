package snpreport_test

import (
	"bytes"
	"crypto/x509"
	"hash/crc32"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/verdict"
)

// machines are those whose evidence seeds the fuzz tests.
func machines(t testing.TB) []*fake.SNPPlatform {
	t.Helper()
	return []*fake.SNPPlatform{platform(t, fake.SNPOptions{}), platform(t, fake.SNPOptions{Product: snpreport.Turin})}
}

func roots(machines []*fake.SNPPlatform) []snpreport.Root {
	var out []snpreport.Root
	for _, p := range machines {
		out = append(out, p.Root())
	}
	return out
}

// dear thins out what costs milliseconds, and under the fuzzer's instrumentation
// a hundred times that: verification is tried on one input in 64. That the seeds
// are accepted is TestContainers' and TestReasons' to show.
func dear(data []byte) bool { return crc32.ChecksumIEEE(data)%64 == 0 }

// FuzzReport: no panic; what parses is written back byte by byte; and what is
// accepted was signed.
func FuzzReport(f *testing.F) {
	m := machines(f)
	signed := map[string]bool{}
	for _, p := range m {
		for _, change := range []func(*snpreport.Report){nil, func(r *snpreport.Report) { r.Version = 5 }, func(r *snpreport.Report) { r.SigningKey = snpreport.KeyVLEK }, func(r *snpreport.Report) { r.Policy |= snpreport.PolicyDebug }} {
			r := report(f, p, change)
			signed[string(r.SignedBytes())] = true
			f.Add(r.Marshal())
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := snpreport.Parse(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(r.Marshal(), raw) {
			t.Fatal("Marshal does not give the bytes back")
		}
		for _, p := range m {
			e := snpreport.Expectations{ChipIDs: [][]byte{p.ChipID}, MinimumTCB: &p.TCB}
			if verdict.Fold(e.Check(r, p.Product)).Verdict == verdict.Pass {
				t.Fatal("nothing expected, and it passes")
			}
			if !dear(raw) {
				continue
			}
			result, err := snpreport.Verify(r, p.Certificates(), snpreport.Options{At: now, Roots: roots(m)})
			if err != nil {
				t.Fatal(err)
			}
			if verdict.Fold(result.Checks).Verdict == verdict.Pass && !signed[string(r.SignedBytes())] {
				t.Fatal("a report that nobody signed is accepted")
			}
		}
	})
}

// FuzzTable: no panic, no certificate that the bytes do not hold, and each at
// the place of its kind.
func FuzzTable(f *testing.F) {
	for _, p := range machines(f) {
		table, err := p.Table()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(table)
		f.Add(append(table[:24:24], make([]byte, 200)...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := snpreport.ParseTable("fuzz", data)
		if err != nil {
			return
		}
		for _, cert := range c.Signers {
			if !cert.IsCA {
				t.Fatal("a signer is no CA")
			}
		}
		for key, leaf := range map[snpreport.SigningKey]*x509.Certificate{snpreport.KeyVCEK: c.VCEK, snpreport.KeyVLEK: c.VLEK} {
			if leaf == nil {
				continue
			}
			if e, err := snpreport.ReadEndorsement(leaf); err != nil || e.Key != key {
				t.Fatalf("the %s is none: %v", key, err)
			}
		}
	})
}

// FuzzOpen: no panic in any container, and what is accepted was signed.
func FuzzOpen(f *testing.F) {
	m := machines(f)
	signed := map[string]bool{}
	for _, p := range m {
		for _, files := range containers(f, p) {
			for _, data := range files {
				e, err := snpreport.Open("seed", data)
				if err != nil {
					f.Fatal(err)
				}
				signed[string(e.Report.SignedBytes())] = true
				f.Add(data)
			}
		}
	}
	raw := report(f, m[0], nil).Marshal()
	a, err := attestation(raw, m[0].Certificates())
	if err != nil {
		f.Fatal(err)
	}
	data, err := proto.Marshal(a)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := snpreport.Open("fuzz", data)
		if err != nil {
			return
		}
		if e.Report == nil {
			t.Fatal("no report and no error")
		}
		if !dear(data) {
			return
		}
		for _, p := range m {
			if e.Certificates.VCEK == nil {
				e.Certificates = p.Certificates()
			}
			r, err := e.Verify(snpreport.Options{At: now, Roots: roots(m)})
			if err != nil {
				t.Fatal(err)
			}
			if verdict.Fold(r.Checks).Verdict == verdict.Pass && !signed[string(e.Report.SignedBytes())] {
				t.Fatal("a report that nobody signed is accepted")
			}
		}
	})
}
