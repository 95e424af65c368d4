package acpi_test

import (
	"errors"
	"testing"

	"github.com/retally/retally/tdxmeasure/acpi"
)

// TestPCIHoleLimits: what QEMU starts with is made, and what it refuses is not.
func TestPCIHoleLimits(t *testing.T) {
	const gib, space = 1 << 30, 1 << 52
	for _, tt := range []struct {
		name         string
		memory, hole uint64
		ok           bool
	}{
		{"a real machine with eight GPUs", 256 * gib, 1 << 50, true},
		{"half the space", 2 * gib, 1 << 51, true},
		{"least", 2 * gib, gib, true},
		{"less", 2 * gib, gib - 1, false},
		{"most, no memory above 4 GiB", 2 * gib, space - 4*gib, true},
		{"one byte more", 2 * gib, space - 4*gib + 1, false},
		{"most, with memory above 4 GiB", 256 * gib, space - 258*gib, true},
		{"one byte more than that", 256 * gib, space - 258*gib + 1, false},
		{"everything", 2 * gib, space, false},
		{"beyond", 2 * gib, 1 << 63, false},
		{"memory fills the space", space, gib, false},
	} {
		s := acpi.Shape{Family: acpi.Family82, VCPUs: 2, Memory: tt.memory, Slots: acpi.SlotsUpTo(4), PCIHole64: tt.hole}
		err := s.Check()
		var shape *acpi.ShapeError
		if tt.ok && err != nil || !tt.ok && !errors.As(err, &shape) {
			t.Errorf("%s: %v, allowed: %v", tt.name, err, tt.ok)
		}
	}
}
