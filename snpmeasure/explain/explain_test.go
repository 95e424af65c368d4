package explain_test

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/snpmeasure"
	"github.com/retally/retally/snpmeasure/explain"
)

const line = "console=ttyS0 loglevel=7"

// machine is a described machine: the firmware of the specification's worked
// example, a kernel, an initrd and a command line.
func machine(t *testing.T) explain.Input {
	t.Helper()
	f, err := os.Open(filepath.Join(testenv.ModuleRoot(t), "fixtures/snp/ovmf/a-std-8k.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	fw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return explain.Input{
		Artifacts: snpmeasure.Artifacts{Firmware: snpmeasure.Bytes("OVMF.fd", fw), Kernel: snpmeasure.Bytes("kernel", []byte("a kernel")), Initrd: snpmeasure.Bytes("initrd", []byte("an initrd"))},
		Config:    snpmeasure.Config{Mode: snpmeasure.SNP, VMM: snpmeasure.QEMU, VCPUs: 1, CPU: cpu(t, "EPYC-Milan"), Features: 1, Cmdline: line},
	}
}

func cpu(t *testing.T, name string) snpmeasure.CPU {
	t.Helper()
	c, err := snpmeasure.CPUOfType(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func measure(t *testing.T, in explain.Input) digest.Digest {
	t.Helper()
	r, err := snpmeasure.New(in.Artifacts).Measure(context.Background(), in.Config)
	if err != nil {
		t.Fatal(err)
	}
	return r.Digest
}

// seeded is a machine that deviates from the described one in up to three ways,
// and what a search must answer.
func seeded(t *testing.T, r *rand.Rand) (explain.Input, []string) {
	in := machine(t)
	c := &in.Config
	choices := []func() string{
		func() string { c.VCPUs = 2 + r.IntN(explain.MaxVCPUs-1); return fmt.Sprintf("vcpus-%d", c.VCPUs) },
		func() string {
			name := []string{"EPYC-Genoa", "EPYC-Turin", "EPYC-Rome", "EPYC"}[r.IntN(4)]
			c.CPU = cpu(t, name)
			return "type-" + name
		},
		func() string { c.Features = 0x21; return "features-0x21" },
		func() string {
			i := r.IntN(2)
			c.Cmdline += []string{"\n", " "}[i]
			return []string{"cmdline-newline", "cmdline-blank"}[i]
		},
		func() string {
			in.Artifacts.Kernel, in.Artifacts.Initrd, c.Cmdline = snpmeasure.Input{}, snpmeasure.Input{}, ""
			return "no-kernel-hashes"
		},
		func() string {
			c.VMM = []snpmeasure.VMM{snpmeasure.EC2, snpmeasure.GCE, snpmeasure.Krun}[r.IntN(3)]
			return "vmm-" + string(c.VMM)
		},
	}
	picked := r.Perm(len(choices))[:1+r.IntN(3)]
	// Without a kernel there is no command line, and only QEMU puts the type
	// into a register.
	if slices.Contains(picked, 4) {
		picked = slices.DeleteFunc(picked, func(i int) bool { return i == 3 })
	}
	if slices.Contains(picked, 5) {
		picked = slices.DeleteFunc(picked, func(i int) bool { return i == 1 })
	}
	var ids []string
	for _, i := range picked {
		ids = append(ids, choices[i]())
	}
	slices.Sort(ids)
	return in, ids
}

// TestSeeded: 30 of 30 machines are named by exactly their deviations.
func TestSeeded(t *testing.T) {
	r := rand.New(rand.NewPCG(14, 30))
	for i := range 30 {
		other, want := seeded(t, r)
		a, err := explain.Find(context.Background(), machine(t), measure(t, other))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range a.Deviations {
			got = append(got, d.ID)
		}
		slices.Sort(got)
		if !a.Found || !slices.Equal(got, want) {
			t.Errorf("case %d: %s, want %v", i, a.Sentence(), want)
		}
	}
}

// TestNoKnownVariant: 10 of 10 machines of other artifacts are not explained
// away, though everything was tried.
func TestNoKnownVariant(t *testing.T) {
	r := rand.New(rand.NewPCG(14, 10))
	for i := range 10 {
		other, _ := seeded(t, r)
		switch i % 3 {
		case 0:
			other.Artifacts.Kernel, other.Artifacts.Initrd = snpmeasure.Bytes("kernel", []byte("another kernel")), snpmeasure.Bytes("initrd", []byte("an initrd"))
		case 1:
			other.Artifacts.Kernel = snpmeasure.Bytes("kernel", []byte("a kernel"))
			other.Config.Cmdline = line + " quiet"
		default:
			other.Config.VCPUs = explain.MaxVCPUs + 1
		}
		in := machine(t)
		in.Options.MaxDeviations = 4
		a, err := explain.Find(context.Background(), in, measure(t, other))
		if err != nil {
			t.Fatal(err)
		}
		if a.Found || !a.Exhausted || !strings.HasPrefix(a.Sentence(), "no known variant matches") {
			t.Errorf("case %d: %s", i, a.Sentence())
		}
	}
}

// TestFromOne: from the digest for one vCPU numbers, types and features of
// more are found, and the described machine itself without a deviation.
func TestFromOne(t *testing.T) {
	full := machine(t)
	one := measure(t, full)
	in := explain.Input{Config: full.Config, One: one, APEIP: 0x80b004}
	in.Config.Cmdline = ""
	a, err := explain.Find(context.Background(), in, one)
	if err != nil || a.Sentence() != "matches as configured" {
		t.Errorf("%s, %v", a.Sentence(), err)
	}
	full.Config.VCPUs = 5
	a, err = explain.Find(context.Background(), in, measure(t, full))
	if err != nil || a.Sentence() != "matches with 5 vCPUs" {
		t.Errorf("%s, %v", a.Sentence(), err)
	}
}
