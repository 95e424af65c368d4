package qtest_test

import (
	"context"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/tdxmeasure/acpi"
)

var update = flag.Bool("update", false, "make the built-in ACPI tables again from a stock QEMU 10")

// TestOracleBases compares the built-in tables with a stock QEMU 10 and, with
// -update, makes them again:
//
//	RETALLY_QEMU=path/to/qemu-system-x86_64 go test ./internal/qtest -run Bases -update
func TestOracleBases(t *testing.T) {
	q := of(t, acpi.Family100)
	plain := acpi.Shape{Family: acpi.Family100, VCPUs: 1, Memory: 2 << 30, Slots: acpi.SlotsUpTo(5)}
	with := func(edit func(*acpi.Shape)) acpi.Shape {
		s := plain
		edit(&s)
		return s
	}
	for name, s := range map[string]acpi.Shape{
		"hotplug":             plain,
		"hotplugoff":          with(func(s *acpi.Shape) { s.NoHotplug = true }),
		"hotplug-numa-pxb":    with(func(s *acpi.Shape) { s.NUMA, s.PXB = true, true }),
		"hotplugoff-numa-pxb": with(func(s *acpi.Shape) { s.NUMA, s.PXB, s.NoHotplug = true, true, true }),
		"secretvm":            with(func(s *acpi.Shape) { s.Base, s.Slots = acpi.SecretVM, nil }),
		"secretvm-gpu":        with(func(s *acpi.Shape) { s.Base, s.Slots = acpi.SecretVMGPU, nil }),
	} {
		blobs, err := q.Tables(context.Background(), s)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		tables, err := acpi.Parse(blobs.Tables)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		last := tables[len(tables)-1]
		got := text(blobs.Tables[:last.Offset+last.Length])
		path := filepath.Join(testenv.ModuleRoot(t), "tdxmeasure/acpi/bases", name+".hex")
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), string(got)); d != "" {
			t.Errorf("%s differs from %s (-built-in +QEMU):\n%s", name, q.Name(), d)
		}
	}
}

// text writes hex lines of 64 bytes.
func text(b []byte) []byte {
	var out []byte
	for len(b) > 0 {
		n := min(64, len(b))
		out = hex.AppendEncode(out, b[:n])
		out = append(out, '\n')
		b = b[n:]
	}
	return out
}
