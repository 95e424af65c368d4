package snpmeasure_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/snpmeasure"
)

// standard is the machine of the specification's worked example (1.10).
func standard(t testing.TB) (snpmeasure.Artifacts, snpmeasure.Config) {
	t.Helper()
	f := newFiles(t, fixture(t, ""))
	file := func(name string) snpmeasure.Input { return snpmeasure.Bytes(name, f.get(t, name)) }
	return snpmeasure.Artifacts{Firmware: file("a-std-8k"), Kernel: file("k1"), Initrd: file("i1")}, snpmeasure.Config{
		Mode: snpmeasure.SNP, VMM: snpmeasure.QEMU, VCPUs: 2, CPU: cpu(t, "EPYC-v4"), Features: 1, Cmdline: "console=ttyS0 loglevel=7",
	}
}

func measure(t testing.TB, a snpmeasure.Artifacts, c snpmeasure.Config) *snpmeasure.Result {
	t.Helper()
	r, err := snpmeasure.New(a).Measure(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestTrace holds the worked example's steps.
func TestTrace(t *testing.T) {
	a, c := standard(t)
	r := measure(t, a, c)
	var got []string
	for _, e := range r.Trace.Events {
		got = append(got, e.Digest.Hex()[:16]+" "+e.Label)
	}
	if d := cmp.Diff([]string{
		"aa01c0a4870a1968 firmware pages at 0xffffe000",
		"8d3bbf2d90ba1f39 section 0, memory, zero pages at 0x800000 to 0x809000",
		"8e0f71fb221a0cf5 section 1, memory, zero pages at 0x80a000 to 0x80d000",
		"3d9147cc54cb0ce3 section 2, secrets page at 0x80d000",
		"8bafec63c0dba24f section 3, CPUID page at 0x80e000",
		"2d426c6326c4776a section 4, SVSM calling area, zero pages at 0x80f000 to 0x810000",
		"de0b75f1cce1f5d1 section 5, memory, zero pages at 0x811000 to 0x820000",
		"75875794c9876d36 section 6, page with the hashes of kernel, initrd and command line at 0x810000",
		"485450a1278e3291 registers of vCPU 0",
		"bcdb967f8fa3e113 registers of vCPU 1",
	}, got); d != "" {
		t.Error(d)
	}
}

// TestKnownHashes: hashes in place of files give the files' digest.
func TestKnownHashes(t *testing.T) {
	a, c := standard(t)
	want := measure(t, a, c)
	f := newFiles(t, fixture(t, ""))
	a.Kernel = snpmeasure.Input{Name: "kernel", Known: digest.SHA256.Sum(f.get(t, "k1"))}
	a.Initrd = snpmeasure.Input{Name: "initrd", Known: digest.SHA256.Sum(f.get(t, "i1"))}
	c.CmdlineSum, c.Cmdline = snpmeasure.CmdlineSum(c.Cmdline), ""
	if got := measure(t, a, c); got.Digest != want.Digest {
		t.Errorf("digest = %s, want %s", got.Digest, want.Digest)
	}
	a.Kernel.Known = digest.SHA384.Sum(nil)
	if _, err := snpmeasure.New(a).Measure(context.Background(), c); !errors.Is(err, snpmeasure.ErrSetting) {
		t.Errorf("SHA-384 of a kernel: error = %v", err)
	}
}

// TestSettings: nothing that was given is ignored without a word, and nothing
// that is missing is taken for granted.
func TestSettings(t *testing.T) {
	for name, edit := range map[string]func(*snpmeasure.Artifacts, *snpmeasure.Config){
		"no mode":                func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.Mode = "" },
		"unknown mode":           func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.Mode = "tdx" },
		"no VMM":                 func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.VMM = "" },
		"VMM in capitals":        func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.VMM = "QEMU" },
		"unknown quirk":          func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.Quirks = []snpmeasure.Quirk{"rust"} },
		"a quirk that is a note": func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.Quirks = []snpmeasure.Quirk{snpmeasure.SVSMFCW} },
		"both of a pair": func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) {
			c.Quirks = []snpmeasure.Quirk{snpmeasure.EC2RDX600, snpmeasure.EC2RDXZero}
		},
		"vCPUs below 0":          func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.VCPUs = -1 },
		"vCPUs beyond the limit": func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.VCPUs = snpmeasure.MaxVCPUs + 1 },
		"vCPUs in mode sev":      func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.Mode = snpmeasure.SEV },
		"no CPU type":            func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.CPU = snpmeasure.CPU{} },
		"initrd without kernel":  func(a *snpmeasure.Artifacts, c *snpmeasure.Config) { a.Kernel, c.Cmdline = snpmeasure.Input{}, "" },
		"line without kernel": func(a *snpmeasure.Artifacts, _ *snpmeasure.Config) {
			a.Kernel, a.Initrd = snpmeasure.Input{}, snpmeasure.Input{}
		},
		"kernel in mode ovmf-hash":  func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.Mode, c.VCPUs = snpmeasure.OVMFHash, 0 },
		"zero byte in the line":     func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.Cmdline = "quiet\x00init=/evil" },
		"line and its hash":         func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.CmdlineSum = digest.SHA256.Sum(nil) },
		"seed of another algorithm": func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.Seed = digest.SHA256.Sum(nil) },
		"tables without seed":       func(a *snpmeasure.Artifacts, _ *snpmeasure.Config) { a.Layout = &snpmeasure.Layout{} },
		"no firmware":               func(a *snpmeasure.Artifacts, _ *snpmeasure.Config) { a.Firmware = snpmeasure.Input{} },
		"firmware by its hash": func(a *snpmeasure.Artifacts, _ *snpmeasure.Config) {
			a.Firmware = snpmeasure.Input{Known: digest.SHA256.Sum(nil)}
		},
		"SVSM in mode snp": func(a *snpmeasure.Artifacts, _ *snpmeasure.Config) { a.SVSM = a.Kernel },
		"mode svsm without its file": func(a *snpmeasure.Artifacts, c *snpmeasure.Config) {
			*a, c.Cmdline, c.Mode, c.VarsSize = snpmeasure.Artifacts{Firmware: a.Firmware}, "", snpmeasure.SVSM, 4096
		},
		"mode svsm without a store": func(a *snpmeasure.Artifacts, c *snpmeasure.Config) {
			*a, c.Cmdline, c.Mode = snpmeasure.Artifacts{Firmware: a.Firmware, SVSM: a.Firmware}, "", snpmeasure.SVSM
		},
		"store of 4 GiB": func(a *snpmeasure.Artifacts, c *snpmeasure.Config) {
			*a, c.Cmdline, c.Mode, c.VarsSize = snpmeasure.Artifacts{Firmware: a.Firmware, SVSM: a.Firmware}, "", snpmeasure.SVSM, 1<<32-8192
		},
	} {
		a, c := standard(t)
		edit(&a, &c)
		r, err := snpmeasure.New(a).Measure(context.Background(), c)
		var at *place.Fault
		if !errors.Is(err, snpmeasure.ErrSetting) || !errors.As(err, &at) {
			t.Errorf("%s: %v, error = %v, want ErrSetting", name, r, err)
		}
	}
}

// TestTooMuchMemory: metadata cannot make the program hash for hours.
func TestTooMuchMemory(t *testing.T) {
	k := known{Reset: 1}
	for range 3 {
		k.Sections = append(k.Sections, snpmeasure.Section{Size: 0xfffff000, Type: ovmf.SEVSecrets})
	}
	a := snpmeasure.Artifacts{Firmware: snpmeasure.Bytes("fw", k.stub())}
	c := snpmeasure.Config{Mode: snpmeasure.SNP, VMM: snpmeasure.EC2, VCPUs: 1}
	measure(t, a, c) // one page each, whatever their size
	k.Sections = append(k.Sections, snpmeasure.Section{Size: 0x1000, Type: ovmf.SEVMemory}, snpmeasure.Section{Size: 0xfffff000, Type: ovmf.SEVMemory}, snpmeasure.Section{Size: 0x1000, Type: ovmf.SEVSVSMArea})
	a.Firmware = snpmeasure.Bytes("fw", k.stub())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := snpmeasure.New(a).Measure(ctx, c); err == nil {
		t.Error("a canceled run gives a digest")
	}
	if _, err := snpmeasure.New(a).Measure(context.Background(), c); !errors.Is(err, snpmeasure.ErrTooLarge) {
		t.Errorf("error = %v, want ErrTooLarge", err)
	}
}

// TestMatrix: each result is what the machine has alone, whatever the order of
// counts, and by several goroutines at once.
func TestMatrix(t *testing.T) {
	f := newFiles(t, fixture(t, ""))
	rapid.Check(t, func(rt *rapid.T) {
		a, c := standard(t)
		c.Mode = rapid.SampledFrom([]snpmeasure.Mode{snpmeasure.SNP, snpmeasure.SEVES, snpmeasure.SVSM}).Draw(rt, "mode")
		if c.Mode == snpmeasure.SVSM {
			a = snpmeasure.Artifacts{Firmware: a.Firmware, SVSM: snpmeasure.Bytes("svsm", f.get(t, "svsm-a-12k"))}
			c.Cmdline, c.VarsSize = "", 131072
		}
		counts := rapid.SliceOfN(rapid.IntRange(0, 40), 1, 5).Draw(rt, "counts")
		cpus := []snpmeasure.CPU{cpu(t, "EPYC-Milan"), snpmeasure.CPUOfSignature(rapid.Uint32().Draw(rt, "sig"))}
		features := []uint64{1, rapid.Uint64().Draw(rt, "features")}
		m := snpmeasure.New(a)
		var wg sync.WaitGroup
		var all [2][]*snpmeasure.Result
		var errs [2]error
		for i := range all {
			wg.Go(func() { all[i], errs[i] = m.Matrix(context.Background(), c, counts, cpus, features) })
		}
		wg.Wait()
		i := 0
		for _, n := range counts {
			for _, cpu := range cpus {
				for _, f := range features {
					c.VCPUs, c.CPU, c.Features = n, cpu, f
					want, err := snpmeasure.New(a).Measure(context.Background(), c)
					if err != nil || errs[0] != nil || errs[1] != nil {
						rt.Fatal(err, errs)
					}
					for _, got := range []*snpmeasure.Result{all[0][i], all[1][i]} {
						if got.Digest != want.Digest || !slices.Equal(got.VMSA, want.VMSA) || !slices.Equal(got.Quirks, want.Quirks) || len(got.Trace.Events) != len(want.Trace.Events) || got.Config.VCPUs != n {
							rt.Fatalf("%d vCPUs, %s, %#x: %+v, want %+v", n, cpu, f, got, want)
						}
					}
					i++
				}
			}
		}
	})
}

func TestMatrixBound(t *testing.T) {
	a, c := standard(t)
	if _, err := snpmeasure.New(a).Matrix(context.Background(), c, make([]int, 1<<11), make([]snpmeasure.CPU, 1<<5), make([]uint64, 1<<5)); !errors.Is(err, snpmeasure.ErrSetting) {
		t.Errorf("error = %v", err)
	}
}

// TestQuirksShown: what is special about a digest stands beside it.
func TestQuirksShown(t *testing.T) {
	type edit = func(*snpmeasure.Artifacts, *snpmeasure.Config)
	f := newFiles(t, fixture(t, ""))
	firmware := func(name string) edit {
		return func(a *snpmeasure.Artifacts, c *snpmeasure.Config) {
			*a, c.Cmdline = snpmeasure.Artifacts{Firmware: snpmeasure.Bytes(name, f.get(t, name))}, ""
		}
	}
	for _, c := range []struct {
		edit []edit
		want []snpmeasure.Quirk
	}{
		{nil, nil},
		{[]edit{func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.VMM = snpmeasure.EC2 }}, []snpmeasure.Quirk{snpmeasure.EC2RDX600}},
		{[]edit{func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.VMM = snpmeasure.GCE }}, []snpmeasure.Quirk{snpmeasure.GCEOnePeer}},
		{[]edit{func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.VMM = snpmeasure.Krun }}, []snpmeasure.Quirk{snpmeasure.KrunOnePeer}},
		{[]edit{func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.Features = 1 << 40 }}, []snpmeasure.Quirk{snpmeasure.UnknownFeatures}},
		{[]edit{func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.VCPUs = 0 }}, []snpmeasure.Quirk{snpmeasure.NoVCPUs}},
		{[]edit{func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.Cmdline += "\n" }}, []snpmeasure.Quirk{snpmeasure.CmdlineAsIs}},
		{[]edit{func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) { c.Seed = digest.SHA384.Sum(nil) }}, []snpmeasure.Quirk{snpmeasure.FirmwareBySeed, snpmeasure.SeedHidesFile}},
		{[]edit{firmware("h-nometadata-8k")}, []snpmeasure.Quirk{snpmeasure.MetadataOptional}},
		{[]edit{firmware("g-noresetblock-8k"), func(_ *snpmeasure.Artifacts, c *snpmeasure.Config) {
			c.VCPUs, c.Quirks = 1, []snpmeasure.Quirk{snpmeasure.ResetOptional}
		}}, []snpmeasure.Quirk{snpmeasure.ResetOptional}},
	} {
		a, config := standard(t)
		for _, e := range c.edit {
			e(&a, &config)
		}
		if got := measure(t, a, config).Quirks; !slices.Equal(got, c.want) {
			t.Errorf("quirks = %v, want %v", got, c.want)
		}
	}
	// Without a reset block, two CPUs stay refused.
	a, config := standard(t)
	firmware("g-noresetblock-8k")(&a, &config)
	config.Quirks = []snpmeasure.Quirk{snpmeasure.ResetOptional}
	if _, err := snpmeasure.New(a).Measure(context.Background(), config); !errors.Is(err, snpmeasure.ErrNoResetBlock) {
		t.Errorf("error = %v, want ErrNoResetBlock", err)
	}
}

func TestExtendRefuses(t *testing.T) {
	one := digest.SHA384.Sum(nil)
	c := snpmeasure.Config{VMM: snpmeasure.QEMU, CPU: cpu(t, "EPYC"), Features: 1}
	if _, err := snpmeasure.Extend(context.Background(), one, 0, c, []int{2}); !errors.Is(err, snpmeasure.ErrResetZero) {
		t.Errorf("start address 0: error = %v", err)
	}
	if r, err := snpmeasure.Extend(context.Background(), one, 0, c, []int{1}); err != nil || r[0].Digest != one {
		t.Errorf("one vCPU: %v, %v", r, err)
	}
	for _, n := range []int{0, -1, snpmeasure.MaxVCPUs + 1} {
		if _, err := snpmeasure.Extend(context.Background(), one, 1, c, []int{n}); !errors.Is(err, snpmeasure.ErrSetting) {
			t.Errorf("%d vCPUs: error = %v", n, err)
		}
	}
	if _, err := snpmeasure.Extend(context.Background(), digest.SHA256.Sum(nil), 1, c, []int{2}); !errors.Is(err, snpmeasure.ErrSetting) {
		t.Errorf("SHA-256: error = %v", err)
	}
	c.CPU = snpmeasure.CPU{}
	if _, err := snpmeasure.Extend(context.Background(), one, 1, c, []int{2}); !errors.Is(err, snpmeasure.ErrSetting) {
		t.Errorf("no CPU type: error = %v", err)
	}
}

// TestRegisters: the pages are those whose hashes a result has.
func TestRegisters(t *testing.T) {
	a, c := standard(t)
	m := snpmeasure.New(a)
	first, others, err := m.Registers(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	want := measure(t, a, c).VMSA
	if got := []digest.Digest{digest.SHA256.Sum(first), digest.SHA256.Sum(others)}; !slices.Equal(got, want) {
		t.Errorf("pages %v, want %v", got, want)
	}
	c.VCPUs = 1
	if _, others, err = m.Registers(context.Background(), c); err != nil || others != nil {
		t.Errorf("one vCPU: others = %x, %v", others, err)
	}
}

func TestFeatureNames(t *testing.T) {
	names, unknown := snpmeasure.FeatureNames(0x21 | 1<<11 | 1<<63)
	if got := fmt.Sprint(names, unknown == 1<<11|1<<63); got != "[SNP active debug swap] true" {
		t.Errorf("got %s, unknown %#x", got, unknown)
	}
}

// TestShortInput: a file that ends before its size is no digest.
func TestShortInput(t *testing.T) {
	a, c := standard(t)
	a.Kernel.Size++
	if _, err := snpmeasure.New(a).Measure(context.Background(), c); err == nil {
		t.Error("no error")
	}
}
