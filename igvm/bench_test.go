package igvm_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/retally/retally/igvm"
)

// BenchmarkMeasure reads and measures a file with 4 MiB of pages; the yardstick
// is snpmeasure's BenchmarkSHA384.
func BenchmarkMeasure(b *testing.B) {
	build := new(builder).platform(1, igvm.SNP).platform(2, igvm.TDX)
	build.header(igvm.GuestPolicy, le(uint64(0x30000), uint32(1), uint32(0)))
	for i := range 1024 {
		build.page(uint64(i)*4096, 3, bytes.Repeat([]byte{byte(i)}, 4096), 0, 0)
	}
	file := build.bytes()
	for name, p := range map[string]igvm.Platform{"SNP": igvm.SNP, "TDX": igvm.TDX} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(1024 * 4096)
			b.ReportAllocs()
			for b.Loop() {
				f, err := parse(file)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := f.Measure(context.Background(), p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
