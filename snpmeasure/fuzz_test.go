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
	// Short inputs: the fuzzer spends its time on making long ones shorter.
	k := known{Hashes: 0x810c00, Reset: 0x80b004, Sections: []snpmeasure.Section{
		{Address: 0x800000, Size: 0x2000, Type: ovmf.SEVMemory},
		{Address: 0x80d000, Size: 0x1000, Type: ovmf.SEVSecrets},
		{Address: 0x80e000, Size: 0x1000, Type: ovmf.SEVCPUID},
		{Address: 0x810000, Size: 0x1000, Type: ovmf.SEVKernelHashes},
	}}
	fw := k.stub()
	for mode := range uint8(5) {
		f.Add(fw[len(fw)-256:], mode, uint8(0), uint8(2), mode == 0)
	}
	modes := []snpmeasure.Mode{snpmeasure.SNP, snpmeasure.SEVES, snpmeasure.SEV, snpmeasure.OVMFHash, snpmeasure.SVSM}
	vmms := []snpmeasure.VMM{snpmeasure.QEMU, snpmeasure.EC2, snpmeasure.GCE, snpmeasure.Krun}
	f.Fuzz(func(t *testing.T, tail []byte, mode, vmm, vcpus uint8, kernel bool) {
		data := make([]byte, 8192)
		copy(data[max(0, len(data)-len(tail)):], tail)
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

// FuzzIDAuth demands that what is read is written as it was. Its input edits a
// valid structure: three bytes are an offset and a value.
func FuzzIDAuth(f *testing.F) {
	b, a, err := snpmeasure.ContrastID(snpmeasure.ContrastEarly, digest.SHA384.Sum(nil), snpmeasure.DefaultPolicy)
	if err != nil {
		f.Fatal(err)
	}
	block, err := b.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	good := a.Bytes()
	f.Add([]byte{}, block)
	f.Add([]byte{0x44, 2, 1, 4, 0, 0}, block)
	f.Add([]byte{0x80, 6, 2, 0xc8, 6, 1, 0x80, 8, 2}, block)
	f.Fuzz(func(t *testing.T, edits, block []byte) {
		if b, err := snpmeasure.ParseIDBlock("block", block); err == nil {
			if again, err := b.Bytes(); err != nil || !bytes.Equal(again, block) {
				t.Fatalf("block is written as %x, %v", again, err)
			}
		}
		auth := bytes.Clone(good)
		for ; len(edits) >= 3; edits = edits[3:] {
			auth[(int(edits[0])|int(edits[1])<<8)%len(auth)] = edits[2]
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
		if err := a.Verify(block); err != nil && !errors.Is(err, snpmeasure.ErrIDKeys) {
			t.Fatalf("error %v", err)
		}
	})
}
