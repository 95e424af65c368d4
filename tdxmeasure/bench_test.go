package tdxmeasure_test

import (
	"context"
	"crypto/sha512"
	"os"
	"testing"

	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// file opens a file named by a variable of the environment.
func file(b *testing.B, variable string) tdxmeasure.Input {
	b.Helper()
	name := os.Getenv(variable)
	if name == "" {
		b.Skipf("SKIP-VISIBLE benchmark: %s is not set", variable)
	}
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	return tdxmeasure.Input{Name: variable, R: f, Size: st.Size()}
}

func machine(b *testing.B) tdxmeasure.Config {
	return tdxmeasure.Config{Profile: profile(b, "secretvm"), VCPUs: 1, Memory: 2 << 30, Cmdline: "console=ttyS0", Devices: acpi.Shape{Base: acpi.SecretVM}, ACPI: templateSource(b)}
}

// BenchmarkMeasure measures a machine from files: BENCH_FIRMWARE,
// BENCH_KERNEL, BENCH_INITRD and, if set, BENCH_ROOTFS.
func BenchmarkMeasure(b *testing.B) {
	a := tdxmeasure.Artifacts{Firmware: file(b, "BENCH_FIRMWARE"), Kernel: file(b, "BENCH_KERNEL"), Initrd: file(b, "BENCH_INITRD")}
	if os.Getenv("BENCH_ROOTFS") != "" {
		a.Rootfs = file(b, "BENCH_ROOTFS")
	}
	c := machine(b)
	b.SetBytes(a.Firmware.Size + a.Kernel.Size + a.Initrd.Size + a.Rootfs.Size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tdxmeasure.New(a).Measure(context.Background(), &c); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkThousandShapes measures 1,000 machines of one artifact set: vCPUs
// times families times devices.
func BenchmarkThousandShapes(b *testing.B) {
	f := newFiles(b)
	a := tdxmeasure.Artifacts{Firmware: f.input(b, "fw02-layoutB.fd"), Kernel: f.input(b, "k01-modern.efi"), Initrd: f.input(b, "initrd-small.bin")}
	if os.Getenv("BENCH_KERNEL") != "" {
		a = tdxmeasure.Artifacts{Firmware: file(b, "BENCH_FIRMWARE"), Kernel: file(b, "BENCH_KERNEL"), Initrd: file(b, "BENCH_INITRD")}
	}
	base := machine(b)
	for b.Loop() {
		m := tdxmeasure.New(a)
		n := 0
		for _, memory := range []uint64{512, 1024, 2048, 2560, 4096} {
			for _, family := range acpi.Families() {
				for slots := range 4 {
					for cpus := 1; cpus <= 10; cpus++ {
						c := base
						c.VCPUs, c.Memory, c.Profile.ACPIFamily = cpus, memory*mib, family
						c.Devices = acpi.Shape{Slots: acpi.SlotsUpTo(3 + slots)}
						if _, err := m.Measure(context.Background(), &c); err != nil {
							b.Fatal(err)
						}
						n++
					}
				}
			}
		}
		if n != 1000 {
			b.Fatalf("%d shapes", n)
		}
	}
}

// BenchmarkSHA384 is the yardstick: the hash alone.
func BenchmarkSHA384(b *testing.B) {
	data := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	for b.Loop() {
		sha512.Sum384(data)
	}
}
