package snpmeasure_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/snpmeasure"
)

// FuzzMeasure demands of any firmware a fault with a place, or a digest that
// is the fold of its trace and that of one CPU more follows from.
func FuzzMeasure(f *testing.F) {
	files := newFiles(f, fixture(f, ""))
	for _, name := range []string{"a-std-8k", "r-twocpuid-8k", "svsm-a-12k"} {
		data := files.get(f, name)
		f.Add(data[len(data)-4096:], uint8(0), uint8(0), uint8(2), true)
		f.Add(data[len(data)-4096:], uint8(4), uint8(0), uint8(1), false)
	}
	modes := []snpmeasure.Mode{snpmeasure.SNP, snpmeasure.SEVES, snpmeasure.SEV, snpmeasure.OVMFHash, snpmeasure.SVSM}
	vmms := []snpmeasure.VMM{snpmeasure.QEMU, snpmeasure.EC2, snpmeasure.GCE, snpmeasure.Krun}
	f.Fuzz(func(t *testing.T, data []byte, mode, vmm, vcpus uint8, kernel bool) {
		c := snpmeasure.Config{Mode: modes[int(mode)%len(modes)], VMM: vmms[int(vmm)%len(vmms)], CPU: snpmeasure.CPUOfSignature(1), Features: 1}
		a := snpmeasure.Artifacts{Firmware: snpmeasure.Bytes("fw", data)}
		switch c.Mode {
		case snpmeasure.SVSM:
			a.SVSM, c.VarsSize, c.VMM = a.Firmware, 4096, snpmeasure.QEMU
			kernel = false
		case snpmeasure.OVMFHash:
			kernel = false
		}
		if kernel {
			a.Kernel = snpmeasure.Bytes("kernel", []byte("k"))
		}
		if c.Mode != snpmeasure.SEV && c.Mode != snpmeasure.OVMFHash {
			c.VCPUs = int(vcpus)
		}
		l, err := ovmf.ReadSEV(bytes.NewReader(data), int64(len(data)))
		if err == nil {
			var total uint64
			for _, s := range l.Sections {
				total += uint64(s.Size)
			}
			if total > 1<<26 {
				return // slow, not wrong
			}
		}
		m := snpmeasure.New(a)
		r, err := m.Measure(context.Background(), c)
		if err != nil {
			var at *place.Fault
			if !errors.As(err, &at) {
				t.Fatalf("error %v has no place", err)
			}
			return
		}
		if got, err := r.Trace.Compute(); err != nil || got != r.Digest {
			t.Fatalf("digest %s is not the fold of its trace: %s, %v", r.Digest, got, err)
		}
		if c.Mode != snpmeasure.SNP || c.VCPUs < 1 || l.ResetEIP == nil || *l.ResetEIP == 0 {
			return
		}
		more, err := snpmeasure.Extend(context.Background(), mustOne(t, m, c), *l.ResetEIP, c, []int{c.VCPUs})
		if err != nil || more[0].Digest != r.Digest {
			t.Fatalf("extended = %v, %v, want %s", more, err, r.Digest)
		}
	})
}

func mustOne(t testing.TB, m *snpmeasure.Measurer, c snpmeasure.Config) digest.Digest {
	t.Helper()
	c.VCPUs = 1
	r, err := m.Measure(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r.Digest
}

// FuzzIDAuth demands that what is read is written as it was.
func FuzzIDAuth(f *testing.F) {
	_, a, err := snpmeasure.ContrastID(snpmeasure.ContrastEarly, digest.SHA384.Sum(nil), snpmeasure.DefaultPolicy)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a.Bytes(), make([]byte, snpmeasure.IDBlockSize))
	f.Fuzz(func(t *testing.T, auth, block []byte) {
		if b, err := snpmeasure.ParseIDBlock("block", block); err == nil {
			if again, err := b.Bytes(); err != nil || !bytes.Equal(again, block) {
				t.Fatalf("block is written as %x, %v", again, err)
			}
		}
		a, err := snpmeasure.ParseIDAuth("auth", auth)
		if err != nil {
			if !errors.Is(err, snpmeasure.ErrIDKeys) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if !bytes.Equal(a.Bytes(), auth) {
			t.Fatal("written as other bytes")
		}
		if err := a.Verify(block); err == nil && len(block) == 0 {
			t.Log("a signature of nothing")
		}
	})
}
