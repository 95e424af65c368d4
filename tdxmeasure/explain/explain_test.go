package explain_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/search"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/internal/testtdx"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
	"github.com/retally/retally/tdxmeasure/explain"
)

func profile(t testing.TB, name string) tdxmeasure.Profile {
	t.Helper()
	p, err := tdxmeasure.LoadProfile(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// start is a machine on synthetic artifacts.
func start(t testing.TB) explain.Input {
	t.Helper()
	src, err := tdxmeasure.NewTemplateSource()
	if err != nil {
		t.Fatal(err)
	}
	compose := []byte("services:\n  web:\n    image: nginx\n")
	rootfs := tdxmeasure.Bytes("v0.0.25", []byte("root file system"))
	return explain.Input{
		Artifacts: tdxmeasure.Artifacts{
			Firmware: tdxmeasure.Bytes("firmware", testtdx.Firmware()), Kernel: tdxmeasure.Bytes("kernel", testtdx.Kernel()),
			Initrd: tdxmeasure.Bytes("initrd", []byte("an initrd")), Compose: tdxmeasure.Bytes("compose", compose), Rootfs: rootfs,
			DockerFiles: tdxmeasure.Bytes("docker files", []byte("archive")),
		},
		Compose: compose,
		Rootfs: []tdxmeasure.Input{
			tdxmeasure.Bytes("v0.0.24", []byte("older root file system")), tdxmeasure.Bytes("v0.0.26", []byte("newer root file system")),
		},
		Config: tdxmeasure.Config{
			Profile: profile(t, "secretvm"), VCPUs: 1, Memory: 2 << 30, Cmdline: "console=ttyS0 loglevel=7 ", ACPI: src,
			Devices: acpi.Shape{Base: acpi.SecretVM}, AppID: make([]byte, 20),
		},
	}
}

// seed is a machine that somebody published a register of.
type seed struct {
	name     string
	register explain.Register
	change   func(*explain.Input)
	want     []string // the deviations, by id
}

func seeds() []seed {
	cfg := func(edit func(*tdxmeasure.Config)) func(*explain.Input) {
		return func(in *explain.Input) { edit(&in.Config) }
	}
	type c = *tdxmeasure.Config
	list := []seed{
		{"two passes", explain.MRTD, cfg(func(c c) { c.Profile.PageOrder = tdxmeasure.TwoPass }), []string{"page-order-two-pass"}},
		{"4 vCPUs", explain.RTMR0, cfg(func(c c) { c.VCPUs = 4 }), []string{"vcpus-4"}},
		{"96 vCPUs", explain.RTMR0, cfg(func(c c) { c.VCPUs = 96 }), []string{"vcpus-96"}},
		{"16 GiB", explain.RTMR0, cfg(func(c c) { c.Memory = 16 << 30 }), []string{"memory-16384M"}},
		{"512 MiB", explain.RTMR0, cfg(func(c c) { c.Memory = 512 << 20 }), []string{"memory-512M"}},
		{"family 8.2", explain.RTMR0, cfg(func(c c) { c.Profile.ACPIFamily = acpi.Family82 }), []string{"acpi-8.2"}},
		{"family 9.2", explain.RTMR0, cfg(func(c c) { c.Profile.ACPIFamily = acpi.Family92 }), []string{"acpi-9.2"}},
		{"family 11.0", explain.RTMR0, cfg(func(c c) { c.Profile.ACPIFamily = acpi.Family110 }), []string{"acpi-11.0"}},
		{"family 11.1", explain.RTMR0, cfg(func(c c) { c.Profile.ACPIFamily = acpi.Family111 }), []string{"acpi-11.1"}},
		{"PIC", explain.RTMR0, cfg(func(c c) { c.Profile.PIC = true }), []string{"pic-on"}},
		{"no serial port", explain.RTMR0, cfg(func(c c) { c.Devices.NoCOM1 = true }), []string{"no-com1"}},
		{"GPU", explain.RTMR0, cfg(func(c c) { c.Devices.Base = acpi.SecretVMGPU }), []string{"devices-secretvm-gpu"}},
		{"5 devices", explain.RTMR0, cfg(func(c c) { c.Devices.Base, c.Devices.Slots = acpi.Plain, acpi.SlotsUpTo(5) }), []string{"devices-5"}},
		{"HPET", explain.RTMR0, cfg(func(c c) { c.Devices.HPET = true }), []string{"hpet-on"}},
		{"fixed layout", explain.RTMR0, cfg(func(c c) { c.Profile.HOB.FixedLayout = true }), []string{"hob-fixed"}},
		{"constant store", explain.RTMR0, cfg(func(c c) { c.Profile.ConstantCFV = true }), []string{"cfv-constant"}},
		{"last separator", explain.RTMR0, cfg(func(c c) { c.Profile.TrailingSeparator = true }), []string{"trailing-separator"}},
		{"no tables", explain.RTMR0, cfg(func(c c) { c.Profile.ExcludeACPI = true }), []string{"acpi-excluded"}},
		{"8.2 and PIC", explain.RTMR0, cfg(func(c c) { c.Profile.ACPIFamily, c.Profile.PIC = acpi.Family82, true }), []string{"qemu-8.2"}},
		{"host of QEMU 8.2, 4 vCPUs", explain.RTMR0, cfg(func(c c) { c.Profile.ACPIFamily, c.Profile.PIC, c.VCPUs = acpi.Family82, true, 4 }), []string{"qemu-8.2", "vcpus-4"}},
		{"8.2 and PIC, no serial port", explain.RTMR0, cfg(func(c c) {
			c.Profile.ACPIFamily, c.Profile.PIC, c.Devices.NoCOM1 = acpi.Family82, true, true
		}), []string{"no-com1", "qemu-8.2"}},
		{"9.2 and PIC", explain.RTMR0, cfg(func(c c) { c.Profile.ACPIFamily, c.Profile.PIC = acpi.Family92, true }), []string{"acpi-9.2", "pic-on"}},
		{"8 vCPUs, 16 GiB", explain.RTMR0, cfg(func(c c) { c.VCPUs, c.Memory = 8, 16<<30 }), []string{"vcpus-8", "memory-16384M"}},
		{"2 vCPUs, 4 GiB", explain.RTMR0, cfg(func(c c) { c.VCPUs, c.Memory = 2, 4<<30 }), []string{"vcpus-2", "memory-4096M"}},
		{"4 vCPUs, no serial port", explain.RTMR0, cfg(func(c c) { c.VCPUs, c.Devices.NoCOM1 = 4, true }), []string{"vcpus-4", "no-com1"}},
		{"constant store, separator", explain.RTMR0, cfg(func(c c) { c.Profile.ConstantCFV, c.Profile.TrailingSeparator = true, true }), []string{"cfv-constant", "trailing-separator"}},
		{"64-bit window", explain.RTMR0, cfg(func(c c) {
			c.Devices.Base, c.Devices.Slots, c.Devices.PCIHole64 = acpi.Plain, acpi.SlotsUpTo(5), 4096<<30
		}), []string{"devices-5", "pci-hole-4096G"}},
		{"unpatched", explain.RTMR1, cfg(func(c c) { c.Profile.PatchKernel = false }), []string{"kernel-unpatched"}},
		{"1 GiB kernel", explain.RTMR1, cfg(func(c c) { c.Memory = 1 << 30 }), []string{"memory-1024M"}},
		{"2815 MiB kernel", explain.RTMR1, cfg(func(c c) { c.Memory = 2815 << 20 }), []string{"memory-2815M"}},
		{"no initrd", explain.RTMR1, cfg(func(c c) { c.NoInitrd = true }), []string{"no-initrd"}},
		{"tail", explain.RTMR1, cfg(func(c c) { c.Profile.Authenticode.TailOnlyWithCertificate = true }), []string{"authenticode-tail"}},
		{"1 GiB, tail", explain.RTMR1, cfg(func(c c) { c.Memory, c.Profile.Authenticode.TailOnlyWithCertificate = 1<<30, true }), []string{"memory-1024M", "authenticode-tail"}},
		{"suffix", explain.RTMR2, cfg(func(c c) { c.Profile.InitrdArgument = tdxmeasure.ArgumentSuffix }), []string{"initrd-suffix"}},
		{"prefix", explain.RTMR2, cfg(func(c c) { c.Profile.InitrdArgument = tdxmeasure.ArgumentPrefix }), []string{"initrd-prefix"}},
		{"trimmed", explain.RTMR2, cfg(func(c c) { c.Cmdline = strings.TrimSpace(c.Cmdline) }), []string{"cmdline-trimmed"}},
		{"NUL", explain.RTMR2, cfg(func(c c) { c.Cmdline += "\x00" }), []string{"cmdline-nul"}},
		{"suffix, no initrd", explain.RTMR2, cfg(func(c c) { c.Profile.InitrdArgument, c.NoInitrd = tdxmeasure.ArgumentSuffix, true }), []string{"initrd-suffix", "no-initrd"}},
		{"no final newline", explain.RTMR3, func(in *explain.Input) {
			in.Artifacts.Compose = tdxmeasure.Bytes("compose", slices.Clone(in.Compose[:len(in.Compose)-1]))
		}, []string{"compose-no-final-newline"}},
		{"other root", explain.RTMR3, func(in *explain.Input) { in.Artifacts.Rootfs = in.Rootfs[1] }, []string{"rootfs-v0.0.26"}},
		{"no docker files", explain.RTMR3, func(in *explain.Input) { in.Artifacts.DockerFiles = tdxmeasure.Input{} }, []string{"no-docker-files"}},
		{"key service", explain.RTMR3, cfg(func(c c) { c.Profile.RTMR3 = tdxmeasure.RTMR3SecretVMKMS }), []string{"rtmr3-kms"}},
		{"Windows lines, older root", explain.RTMR3, func(in *explain.Input) {
			in.Artifacts.Compose = tdxmeasure.Bytes("compose", []byte(strings.ReplaceAll(string(in.Compose), "\n", "\r\n")))
			in.Artifacts.Rootfs = in.Rootfs[0]
		}, []string{"compose-crlf", "rootfs-v0.0.24"}},
	}
	return list
}

func value(t testing.TB, in explain.Input, r explain.Register) digest.Digest {
	t.Helper()
	trace, err := tdxmeasure.New(in.Artifacts).Register(context.Background(), &in.Config, int(r))
	if err != nil {
		t.Fatal(err)
	}
	d, err := trace.Compute()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestSeededMismatches: the search names every seeded deviation, or pair.
func TestSeededMismatches(t *testing.T) {
	list := seeds()
	if len(list) < 40 {
		t.Fatalf("%d seeds, want at least 40", len(list))
	}
	for _, s := range list {
		published := start(t)
		s.change(&published)
		want := value(t, published, s.register)
		in := start(t)
		if value(t, in, s.register) == want {
			t.Errorf("%s: the seed changes nothing", s.name)
			continue
		}
		began := time.Now()
		a, err := explain.Find(context.Background(), s.register, in, want)
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
			continue
		}
		var got []string
		for _, d := range a.Deviations {
			got = append(got, d.ID)
		}
		slices.Sort(got)
		slices.Sort(s.want)
		if d := cmp.Diff(s.want, got); d != "" {
			t.Errorf("%s: %s (-want +got):\n%s", s.name, a.Sentence(), d)
		}
		t.Logf("%s %s: %s (%d tried, %s)", s.register, s.name, a.Sentence(), a.Tried, time.Since(began).Round(time.Millisecond))
	}
}

// TestNoKnownCause: a value without a known cause is said to have none.
func TestNoKnownCause(t *testing.T) {
	for i := range 10 {
		in := start(t)
		in.Options = search.Options{MaxDeviations: 1}
		want := digest.SHA384.Sum(fmt.Appendf(nil, "no cause %d", i))
		a, err := explain.Find(context.Background(), explain.Register(i%5), in, want)
		if err != nil {
			t.Fatal(err)
		}
		if a.Found || !a.Exhausted || !strings.HasPrefix(a.Sentence(), "no known variant matches") {
			t.Errorf("%s: %+v", explain.Register(i%5), a)
		}
	}
}

// TestShapes finds machines from their RTMR0 and the firmware alone.
func TestShapes(t *testing.T) {
	type machine struct {
		vCPUs  int
		memory uint64
		old    bool // QEMU 8.2 with a PIC
	}
	machines := []machine{{8, 16 << 30, false}, {2, 4 << 30, false}}
	if testenv.IsLong() {
		machines = append(machines, machine{4, 8 << 30, true}, machine{16, 256 << 30, true})
	}
	for _, m := range machines {
		published := start(t)
		c := &published.Config
		c.VCPUs, c.Memory = m.vCPUs, m.memory
		if m.old {
			c.Profile.ACPIFamily, c.Profile.PIC = acpi.Family82, true
		}
		a, err := explain.FindShape(context.Background(), start(t), value(t, published, explain.RTMR0))
		if err != nil {
			t.Fatal(err)
		}
		if !a.Found {
			t.Errorf("%+v: %s", m, a.Sentence())
		}
		t.Log(a.Sentence(), a.Tried)
	}
}

// TestQuirkTable: ids are unique within a register and every row has a note.
func TestQuirkTable(t *testing.T) {
	seen := map[string]bool{}
	for _, q := range explain.Quirks() {
		key := q.Register + " " + q.ID
		if seen[key] || q.Note == "" || q.ID == "" {
			t.Errorf("quirk %+v is a duplicate or has no text", q)
		}
		seen[key] = true
	}
}
