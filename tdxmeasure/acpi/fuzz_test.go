package acpi_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/retally/retally/tdxmeasure/acpi"
)

// FuzzFromTables demands that a blob that is accepted is laid out as it says.
func FuzzFromTables(f *testing.F) {
	b, err := templates(f).Make(acpi.Shape{Family: acpi.Family100, VCPUs: 1, Memory: 2 << 30})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.TrimRight(b.Tables, "\x00"))
	f.Add([]byte("46414353"))
	f.Fuzz(func(t *testing.T, data []byte) {
		blobs, err := acpi.FromTables(data)
		if err != nil {
			return
		}
		if len(blobs.Tables)%(128<<10) != 0 || len(blobs.Loader) != 4096 || len(blobs.RSDP) != 20 {
			t.Fatalf("files of %d, %d and %d bytes", len(blobs.Tables), len(blobs.Loader), len(blobs.RSDP))
		}
		again, err := acpi.FromTables(blobs.Tables)
		if err != nil || !bytes.Equal(again.Loader, blobs.Loader) {
			t.Fatalf("the padded blob differs: %v", err)
		}
	})
}

// FuzzMake demands that every shape is made or refused, and that what is made
// can be read.
func FuzzMake(f *testing.F) {
	f.Add(uint8(0), uint16(4), uint32(2048), uint16(0x1f), uint16(0), uint16(0))
	f.Add(uint8(4), uint16(300), uint32(65536), uint16(3), uint16(0xc), uint16(0xff))
	tpl := templates(f)
	f.Fuzz(func(t *testing.T, family uint8, vcpus uint16, mib uint32, slots, ports, flags uint16) {
		bit := func(n int) bool { return flags>>n&1 == 1 }
		s := acpi.Shape{
			Family: acpi.Families()[int(family)%5], VCPUs: int(vcpus), Memory: uint64(mib) << 20, PIC: bit(0), SMM: bit(1), HPET: bit(2),
			NoCOM1: bit(3), NoHotplug: bit(4), NUMA: bit(5), PXB: bit(6), AMDCPU: bit(7),
		}
		for i := range 16 {
			if slots>>i&1 == 1 {
				s.Slots = append(s.Slots, i)
			}
			if ports>>i&1 == 1 {
				s.RootPorts = append(s.RootPorts, i)
			}
		}
		blobs, err := tpl.Make(s)
		if err != nil {
			if s.Check() == nil {
				t.Fatalf("%s: %v", s, err)
			}
			return
		}
		tables, err := acpi.Parse(blobs.Tables)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		has := func(signature string) bool {
			return slices.ContainsFunc(tables, func(t acpi.Table) bool { return t.Signature == signature })
		}
		if has("SRAT") != s.NUMA || has("HPET") != s.HPET {
			t.Fatalf("%s: tables %v", s, tables)
		}
		canonical, err := tpl.Make(s.Canonical())
		if err != nil || !bytes.Equal(canonical.Tables, blobs.Tables) {
			t.Fatalf("%s: the canonical shape has other tables: %v", s, err)
		}
	})
}
