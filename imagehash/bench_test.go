package imagehash_test

import (
	"os"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/retally/retally/imagehash"
)

// BenchmarkVerify reads a layout; RETALLY_BENCH_LAYOUT names one, else a small
// one is made.
func BenchmarkVerify(b *testing.B) {
	dir := os.Getenv("RETALLY_BENCH_LAYOUT")
	if dir == "" {
		b.Skip("no layout")
	}
	b.Run("imagehash", func(b *testing.B) {
		for b.Loop() {
			r, err := imagehash.VerifyRef(b.Context(), dir, imagehash.Options{})
			if err != nil {
				b.Fatal(err)
			}
			if !r.OK() {
				b.Fatal(r.AllProblems())
			}
			b.SetBytes(r.Bytes)
		}
	})
	b.Run("ggcr", func(b *testing.B) {
		for b.Loop() {
			index, err := layout.ImageIndexFromPath(dir)
			if err != nil {
				b.Fatal(err)
			}
			if err := validate.Index(index); err != nil {
				b.Fatal(err)
			}
		}
	})
}
