package tdxquote_test

import (
	"crypto/x509"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/testenv"
)

// benchmark reports the median beside the mean: on a shared machine the mean
// counts the others' work too.
func benchmark(b *testing.B, raw []byte, o tdxquote.Options) {
	b.Helper()
	b.ReportAllocs()
	var each []time.Duration
	for b.Loop() {
		start := time.Now()
		if got, reason := judge(raw, o); got != "accept" {
			b.Fatalf("%s %s", got, reason)
		}
		each = append(each, time.Since(start))
	}
	slices.Sort(each)
	b.ReportMetric(float64(each[len(each)/2]), "median-ns/op")
}

func BenchmarkVerifyOwn(b *testing.B) {
	p := platform(b)
	benchmark(b, quote(b, p, body(), fake.Options{}), tdxquote.Options{At: now, Roots: []*x509.Certificate{p.Root}})
}

func BenchmarkVerifySecretVM(b *testing.B) {
	raw, err := os.ReadFile(testenv.Vectors(b, "published/quotes/tdx/tdx-small.bin"))
	if err != nil {
		b.Fatal(err)
	}
	benchmark(b, raw, tdxquote.Options{At: now})
}

func BenchmarkVerifyWithCollateral(b *testing.B) {
	raw, err := os.ReadFile(testenv.Vectors(b, "published/quotes/tdx/dcap-v4.bin"))
	if err != nil {
		b.Fatal(err)
	}
	file, err := os.ReadFile(testenv.Vectors(b, "published/quotes/tdx/dcap-v4.collateral.json"))
	if err != nil {
		b.Fatal(err)
	}
	c, err := tdxquote.ParseCollateral("collateral", file)
	if err != nil {
		b.Fatal(err)
	}
	benchmark(b, raw, tdxquote.Options{At: time.Unix(1750332747, 0), Collateral: c})
}
