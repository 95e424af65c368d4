package snpreport_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/internal/testenv"
)

// benchmark reports median and minimum beside the mean: on a shared machine the
// mean counts the others' work too.
func benchmark(b *testing.B, run func()) {
	b.Helper()
	b.ReportAllocs()
	var each []time.Duration
	for b.Loop() {
		start := time.Now()
		run()
		each = append(each, time.Since(start))
	}
	slices.Sort(each)
	b.ReportMetric(float64(each[len(each)/2]), "median-ns/op")
	b.ReportMetric(float64(each[0]), "min-ns/op")
}

// sample is a real report (Genoa) with its VCEK.
func sample(b *testing.B) (raw, vcek []byte, at time.Time) {
	b.Helper()
	dir := "published/field/attestation-rs/snp/"
	return read(b, testenv.Vectors(b, dir+"live-report-v5-genoa.bin")), read(b, testenv.Vectors(b, dir+"live-vcek-genoa.der")), day(b, "2026-03-01")
}

// BenchmarkReport is everything: bytes in, verdict out, AMD's embedded
// certificates read anew.
func BenchmarkReport(b *testing.B) {
	raw, vcek, at := sample(b)
	benchmark(b, func() {
		c, err := snpreport.ParseCertificates("vcek", vcek)
		if err != nil {
			b.Fatal(err)
		}
		if got, reason := judge(raw, c, snpreport.Options{At: at}); got != "accept" {
			b.Fatal(reason)
		}
	})
}

// BenchmarkSignatures is what no verifier can do without: two RSA-4096 and one
// P-384 verification.
func BenchmarkSignatures(b *testing.B) {
	raw, vcek, _ := sample(b)
	leaf, err := x509.ParseCertificate(vcek)
	if err != nil {
		b.Fatal(err)
	}
	root, err := snpreport.AMDRoot(snpreport.Genoa)
	if err != nil {
		b.Fatal(err)
	}
	r, err := snpreport.Parse(raw)
	if err != nil {
		b.Fatal(err)
	}
	pss := func(c, parent *x509.Certificate) {
		sum := sha512.Sum384(c.RawTBSCertificate)
		if err := rsa.VerifyPSS(parent.PublicKey.(*rsa.PublicKey), crypto.SHA384, sum[:], c.Signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}); err != nil {
			b.Fatal(err)
		}
	}
	benchmark(b, func() {
		pss(leaf, root.ASK)
		pss(root.ASK, root.ARK)
		sum := sha512.Sum384(raw[:0x2a0])
		if !ecdsa.Verify(leaf.PublicKey.(*ecdsa.PublicKey), sum[:], new(big.Int).SetBytes(r.R[:]), new(big.Int).SetBytes(r.S[:])) {
			b.Fatal("signature")
		}
	})
}
