package explain_test

import (
	"context"
	"encoding/binary"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/search"
	"github.com/retally/retally/pcrmeasure"
	"github.com/retally/retally/pcrmeasure/explain"
)

// kernel is a bzImage that is a PE image too, as small as one can be.
func kernel() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0x1000)
	copy(b, "MZ")
	b[0x3c] = 0x40
	copy(b[0x40:], "PE\x00\x00\x64\x86\x00\x00")
	le.PutUint16(b[0x54:], 112)
	le.PutUint16(b[0x58:], 0x20b)
	le.PutUint32(b[0x58+60:], 0x400)
	copy(b[0x202:], "HdrS\x0f\x02")
	b[0x211] = 1
	b[0x236] = 2
	return b
}

func input() explain.Input {
	return explain.Input{
		Artifacts: pcrmeasure.Artifacts{Kernel: pcrmeasure.Bytes("kernel", kernel()), Initrd: pcrmeasure.Bytes("initrd", make([]byte, 5000)), NoVariables: true},
		Machine:   pcrmeasure.Machine{Bank: digest.SHA256, Pattern: pcrmeasure.Direct, Memory: 2 << 30, VCPUs: 1, Cmdline: "console=ttyS0  quiet"},
		Initrds:   []pcrmeasure.Input{pcrmeasure.Bytes("other", make([]byte, 9000))},
		Options:   search.Options{Workers: 1},
	}
}

// TestFind changes a machine and lets the search find what was changed.
func TestFind(t *testing.T) {
	for name, c := range map[string]struct {
		pcr    int
		change func(*explain.Input)
		want   []string
	}{
		"nothing":       {4, func(*explain.Input) {}, nil},
		"memory":        {4, func(i *explain.Input) { i.Machine.Memory = 1 << 30 }, []string{"memory-1024MiB"}},
		"initrd":        {4, func(i *explain.Input) { i.Artifacts.Initrd = i.Initrds[0] }, []string{"initrd-1"}},
		"both":          {4, func(i *explain.Input) { i.Machine.Memory, i.Artifacts.Initrd = 512<<20, i.Initrds[0] }, []string{"memory-512MiB", "initrd-1"}},
		"newer QEMU":    {4, func(i *explain.Input) { i.Machine.Header = pcrmeasure.HeaderAsGiven }, []string{"header-as-given"}},
		"secure boot":   {4, func(i *explain.Input) { i.Artifacts.NoVariables, i.Machine.SecureBoot = false, pcrmeasure.On }, []string{"secure-boot-on"}},
		"failed option": {4, func(i *explain.Input) { i.Machine.FailedOptions = 1 }, []string{"failed-1"}},
		"spaces":        {9, func(i *explain.Input) { i.Machine.Cmdline = "console=ttyS0 quiet" }, []string{"cmdline-single-spaces"}},
		"argument":      {9, func(i *explain.Input) { i.Machine.InitrdArgument = pcrmeasure.ArgumentPrefix }, []string{"argument-prefix"}},
		"line end":      {9, func(i *explain.Input) { i.Machine.Cmdline += "\n" }, []string{"cmdline-newline"}},
		"phase":         {11, func(i *explain.Input) { i.Machine.Phases = []string{"enter-initrd"} }, []string{"phase-enter-initrd"}},
		"devices":       {1, func(i *explain.Input) { i.Machine.Devices = "virtio-disk" }, []string{"devices-virtio-disk"}},
	} {
		changed, base := input(), input()
		if name == "secure boot" {
			base.Artifacts.NoVariables = false
		}
		c.change(&changed)
		p, err := pcrmeasure.New(changed.Artifacts).PredictOne(context.Background(), &changed.Machine, c.pcr)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		a, err := explain.Find(context.Background(), c.pcr, base, p.Value)
		if err != nil || !a.Found || len(a.Deviations) != len(c.want) {
			t.Errorf("%s: %+v %v, want %v", name, a, err, c.want)
			continue
		}
		for i, d := range a.Deviations {
			if d.ID != c.want[i] {
				t.Errorf("%s: deviation %s, want %s", name, d.ID, c.want[i])
			}
		}
	}
}

func TestNotFound(t *testing.T) {
	in := input()
	in.Options.MaxDeviations = 1
	a, err := explain.Find(context.Background(), 4, in, digest.SHA256.Sum([]byte("x")))
	if err != nil || a.Found || !a.Exhausted {
		t.Errorf("%+v %v, want a search that ends without a match", a, err)
	}
	if _, err := explain.Find(context.Background(), 24, in, digest.SHA256.Sum(nil)); err == nil {
		t.Error("PCR 24 is searched")
	}
}
