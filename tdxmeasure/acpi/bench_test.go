package acpi_test

import (
	"crypto/sha512"
	"testing"

	"github.com/retally/retally/tdxmeasure/acpi"
)

// BenchmarkMake makes the tables of a machine; BenchmarkMakeAndHash also
// hashes them, as a register does.
func BenchmarkMake(b *testing.B) {
	tpl := templates(b)
	s := acpi.Shape{Family: acpi.Family82, VCPUs: 16, Memory: 2 << 30, Slots: acpi.SlotsUpTo(5)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tpl.Make(s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMakeAndHash(b *testing.B) {
	tpl := templates(b)
	s := acpi.Shape{Family: acpi.Family82, VCPUs: 16, Memory: 2 << 30, Slots: acpi.SlotsUpTo(5)}
	b.ReportAllocs()
	for b.Loop() {
		blobs, err := tpl.Make(s)
		if err != nil {
			b.Fatal(err)
		}
		sha512.Sum384(blobs.Tables)
	}
}
