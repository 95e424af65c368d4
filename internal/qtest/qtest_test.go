package qtest_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/retally/retally/internal/qtest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// programs are the QEMUs to compare with: the one in the path, and those that
// RETALLY_QEMU lists.
func programs(t *testing.T) []string {
	t.Helper()
	var list []string
	if p, err := exec.LookPath("qemu-system-x86_64"); err == nil {
		list = append(list, p)
	}
	return append(list, filepath.SplitList(os.Getenv("RETALLY_QEMU"))...)
}

// of returns a QEMU of a family, or ends the test as a missing oracle.
func of(t *testing.T, family acpi.Family) *qtest.Source {
	t.Helper()
	for _, p := range programs(t) {
		s := &qtest.Source{Program: p}
		if _, f, err := s.Version(context.Background()); err == nil && f == family {
			return s
		}
	}
	// Newer QEMUs are not everywhere to be had: not run, and said so.
	t.Skipf("SKIP-VISIBLE oracle: no QEMU of family %s (RETALLY_QEMU lists programs)", family)
	return nil
}

func randomShape(r *rand.Rand, family acpi.Family) acpi.Shape {
	s := acpi.Shape{Family: family, VCPUs: 1 + r.IntN(32), Memory: uint64(64+r.IntN(6000)) * acpi.MiB}
	flip := func() bool { return r.IntN(2) == 0 }
	s.PIC, s.SMM, s.HPET, s.NoCOM1 = flip(), flip(), flip(), flip()
	switch r.IntN(6) {
	case 0:
		s.Base = acpi.SecretVM
		return s
	case 1:
		s.Base = acpi.SecretVMGPU
		return s
	case 2:
		s.NUMA = true
	case 3:
		s.NUMA, s.PXB = true, true
	}
	s.NoHotplug = flip()
	for slot := 1; slot <= 15; slot++ {
		switch n := r.IntN(4); {
		case n == 0:
			s.Slots = append(s.Slots, slot)
		case n == 1 && s.NoHotplug && len(s.RootPorts) < 4:
			s.RootPorts = append(s.RootPorts, slot)
		}
	}
	if r.IntN(3) == 0 {
		s.PCIHole64 = uint64(1+r.IntN(64)) << 33
	}
	if r.IntN(8) == 0 {
		s.VCPUs = 200 + r.IntN(80)
	}
	return s
}

// TestOracleTemplates compares the built-in templates with QEMU itself.
func TestOracleTemplates(t *testing.T) {
	tpl, err := acpi.NewTemplates()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range []acpi.Family{acpi.Family100, acpi.Family111} {
		t.Run(string(family), func(t *testing.T) {
			q := of(t, family)
			n := 6
			if testenv.IsLong() {
				n = 50
			}
			r := rand.New(rand.NewPCG(1, uint64(len(family))))
			for range n {
				s := randomShape(r, family)
				want, err := q.Tables(context.Background(), s)
				if err != nil {
					t.Fatalf("%s: %v", s, err)
				}
				got, err := tpl.Make(s)
				if err != nil {
					t.Fatalf("%s: %v", s, err)
				}
				same(t, s, got, want)
			}
			t.Logf("%s: %d shapes equal to %s", family, n, q.Name())
		})
	}
}

func same(t *testing.T, s acpi.Shape, got, want *acpi.Blobs) {
	t.Helper()
	for name, p := range map[string][2][]byte{"tables": {got.Tables, want.Tables}, "rsdp": {got.RSDP, want.RSDP}, "loader": {got.Loader, want.Loader}} {
		if !bytes.Equal(p[0], p[1]) {
			i := 0
			for i < min(len(p[0]), len(p[1])) && p[0][i] == p[1][i] {
				i++
			}
			t.Errorf("%s: %s of %d and %d bytes differ at %#x; shape %+v", s, name, len(p[0]), len(p[1]), i, s)
			if os.Getenv("RETALLY_KEEP") != "" {
				os.WriteFile(filepath.Join(os.Getenv("RETALLY_KEEP"), "got.bin"), p[0], 0o644)
				os.WriteFile(filepath.Join(os.Getenv("RETALLY_KEEP"), "want.bin"), p[1], 0o644)
			}
		}
	}
}

// TestOracleOldFamily reports a QEMU that no TDX host runs as such.
func TestOracleOldFamily(t *testing.T) {
	for _, p := range programs(t) {
		s := &qtest.Source{Program: p}
		v, f, err := s.Version(context.Background())
		if err != nil || f != "" {
			continue
		}
		_, err = s.Tables(context.Background(), acpi.Shape{Family: acpi.Family82, VCPUs: 1, Memory: 2 << 30})
		var wrong *qtest.FamilyError
		if !errors.As(err, &wrong) {
			t.Errorf("QEMU %s: error = %v, want a FamilyError", v, err)
		}
		t.Logf("%v", err)
		return
	}
	t.Skip("SKIP-VISIBLE oracle: no QEMU older than 10")
}
