package snpmeasure_test

import (
	"context"
	"crypto/sha512"
	"testing"

	"github.com/retally/retally/snpmeasure"
)

// firmware4M is a firmware of 4 MiB with the tables of a real one.
func firmware4M(b *testing.B) snpmeasure.Input {
	b.Helper()
	f := newFiles(b, fixture(b, ""))
	small := f.get(b, "a-std-8k")
	big := make([]byte, 4<<20)
	for i := range big {
		big[i] = byte(i * 7)
	}
	copy(big[len(big)-len(small):], small)
	return snpmeasure.Bytes("firmware", big)
}

// BenchmarkDigest measures a firmware of 4 MiB without a kernel; the
// yardstick is BenchmarkSHA384.
func BenchmarkDigest(b *testing.B) {
	fw := firmware4M(b)
	c := snpmeasure.Config{Mode: snpmeasure.SNP, VMM: snpmeasure.QEMU, VCPUs: 1, CPU: cpu(b, "EPYC-Milan"), Features: 1}
	b.SetBytes(fw.Size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := snpmeasure.New(snpmeasure.Artifacts{Firmware: fw}).Measure(context.Background(), c); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSHA384 is the hash alone over as many bytes.
func BenchmarkSHA384(b *testing.B) {
	data := make([]byte, 4<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		sha512.Sum384(data)
	}
}

// BenchmarkThousandShapes measures 1,000 machines of up to 128 CPUs.
func BenchmarkThousandShapes(b *testing.B) {
	a := snpmeasure.Artifacts{Firmware: firmware4M(b)}
	var counts []int
	for n := 4; n <= 128; n += 5 {
		counts = append(counts, n)
	}
	var cpus []snpmeasure.CPU
	for _, name := range []string{"EPYC", "EPYC-Rome", "EPYC-Milan", "EPYC-Genoa", "EPYC-Turin"} {
		cpus = append(cpus, cpu(b, name))
	}
	features := []uint64{1, 0x21, 0, 3, 5, 0x29, 0x201, 0x221}
	for b.Loop() {
		r, err := snpmeasure.New(a).Matrix(context.Background(), snpmeasure.Config{Mode: snpmeasure.SNP, VMM: snpmeasure.QEMU}, counts, cpus, features)
		if err != nil || len(r) != 1000 {
			b.Fatal(len(r), err)
		}
	}
}

// BenchmarkContrastID makes an ID block whose key is recovered.
func BenchmarkContrastID(b *testing.B) {
	one := sha384(b, "ea6a66550b8b0117ba8dd0a88b6f409e669b5ac80a5cf340647ac956353dfd3c9c740898cb9119c329da8c8641ecd47a")
	for b.Loop() {
		if _, _, err := snpmeasure.ContrastID(snpmeasure.ContrastCurrent, one, snpmeasure.DefaultPolicy); err != nil {
			b.Fatal(err)
		}
	}
}
