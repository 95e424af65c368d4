package snpmeasure_test

import (
	"context"
	"testing"

	"github.com/retally/retally/snpmeasure"
)

// TestLadder: each rung is what the machine of that size measures, in every
// mode that measures CPUs, and from one CPU on.
func TestLadder(t *testing.T) {
	k := known{Hashes: 0x810c00, Reset: 0x80b004, Sections: []snpmeasure.Section{{Address: 0x800000, Size: 0x1000, Type: 1}}}
	m := snpmeasure.New(snpmeasure.Artifacts{Firmware: snpmeasure.Bytes("stub", k.stub())})
	for _, c := range []snpmeasure.Config{
		{Mode: snpmeasure.SNP, VMM: snpmeasure.QEMU, CPU: cpu(t, "EPYC-Genoa"), Features: 0x21},
		{Mode: snpmeasure.SNP, VMM: snpmeasure.GCE, Features: 1},
		{Mode: snpmeasure.SEVES, VMM: snpmeasure.QEMU, CPU: cpu(t, "EPYC"), Features: 1},
	} {
		rungs, err := m.Ladder(context.Background(), c, 5)
		if err != nil || len(rungs) != 5 {
			t.Fatal(len(rungs), err)
		}
		results, err := m.Matrix(context.Background(), c, []int{1, 2, 3, 4, 5}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range results {
			if rungs[i] != r.Digest {
				t.Errorf("%s %d: %s, want %s", c.Mode, i+1, rungs[i], r.Digest)
			}
		}
		if c.Mode != snpmeasure.SNP {
			continue
		}
		again, err := snpmeasure.ExtendLadder(context.Background(), rungs[0], k.Reset, c, 5)
		if err != nil {
			t.Fatal(err)
		}
		for i := range again {
			if again[i] != rungs[i] {
				t.Errorf("extended, %d: %s, want %s", i+1, again[i], rungs[i])
			}
		}
	}
	// A firmware without a start address for a second CPU has one rung or none.
	k.Reset = 0
	m = snpmeasure.New(snpmeasure.Artifacts{Firmware: snpmeasure.Bytes("stub", k.stub())})
	if rungs, err := m.Ladder(context.Background(), snpmeasure.Config{Mode: snpmeasure.SNP, VMM: snpmeasure.QEMU, CPU: cpu(t, "EPYC"), Features: 1}, 2); err == nil {
		t.Errorf("%d rungs", len(rungs))
	}
}
