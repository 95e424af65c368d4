// Package explain finds the known deviation of a TDX machine that turns a
// computed register into the published one. Deviations are data with stable
// names; registers are searched one by one, because each depends on few of
// them.
package explain

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/search"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// Register names a measurement register.
type Register int

// The registers.
const (
	MRTD Register = iota
	RTMR0
	RTMR1
	RTMR2
	RTMR3
)

// String names the register as quotes do.
func (r Register) String() string {
	return [...]string{"MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3"}[r]
}

// candidate is one machine of a search.
type candidate struct {
	tdxmeasure.Config
	artifacts int    // index into the searcher's sets
	tail      string // what stands behind the measured command line
	noNUL     bool
	edit      string // of the compose file
	// serialFixed: the serial port is as somebody said, else it comes with the
	// host and the devices.
	serialFixed bool
}

// usualSerial gives a machine the serial port that its host and devices come
// with, as the flags of tdx measure do.
func (c *candidate) usualSerial() {
	if !c.serialFixed {
		c.Devices.NoCOM1 = usualNoCOM1(c)
	}
}

func usualNoCOM1(c *candidate) bool {
	return c.Devices.Base == acpi.SecretVM && tdxmeasure.SecretVMDevices(&c.Profile, false).NoCOM1
}

// start is the candidate that a search's machine is.
func start(c tdxmeasure.Config) candidate {
	base := candidate{Config: c}
	base.serialFixed = c.Devices.NoCOM1 != usualNoCOM1(&base)
	return base
}

// noteSerial completes the notes of variants that change the serial port too.
func noteSerial(a axis, base candidate) axis {
	for i, v := range a.Variants {
		c := clone(base)
		v.Apply(&c)
		switch {
		case c.Devices.NoCOM1 == base.Devices.NoCOM1:
		case c.Devices.NoCOM1:
			a.Variants[i].Note += " (and so no serial port)"
		default:
			a.Variants[i].Note += " (and so a serial port)"
		}
	}
	return a
}

// Input is what a search starts from.
type Input struct {
	Artifacts tdxmeasure.Artifacts
	Config    tdxmeasure.Config
	// Rootfs are other root file systems that may have been used, such as
	// those of a registry's rows, and Initrds other initrds.
	Rootfs []tdxmeasure.Input
	// Compose is the compose file's text; without it only the bytes as given
	// are tried.
	Compose []byte
	Options search.Options
}

// Find searches one register for a published value.
func Find(ctx context.Context, r Register, in Input, want digest.Digest) (search.Answer, error) {
	s := &searcher{in: in, register: r, want: want, measurer: tdxmeasure.New(in.Artifacts)}
	base := start(in.Config)
	opt := in.Options
	if opt.MaxDeviations == 0 {
		opt.MaxDeviations = 2
	}
	return search.Find(ctx, base, clone, effective(base, s.axes(base)), opt, s.test)
}

// effective leaves out the variants that change nothing in the base, or no
// more than one before them on the axis does.
func effective(base candidate, axes []axis) []axis {
	for i := range axes {
		seen := []candidate{base}
		axes[i].Variants = slices.DeleteFunc(axes[i].Variants, func(v variant) bool {
			c := clone(base)
			v.Apply(&c)
			known := slices.ContainsFunc(seen, func(s candidate) bool { return reflect.DeepEqual(c, s) })
			seen = append(seen, c)
			return known
		})
	}
	return slices.DeleteFunc(axes, func(a axis) bool { return len(a.Variants) == 0 })
}

// FindUsual searches for the machine behind an RTMR0 among those that people
// rent: sizes of 1 to 16 GiB a vCPU, and the few device layouts of SecretVM and
// dstack. It takes about a second where FindShape takes minutes.
func FindUsual(ctx context.Context, in Input, want digest.Digest) (search.Answer, error) {
	s := &searcher{in: in, register: RTMR0, want: want, measurer: tdxmeasure.New(in.Artifacts)}
	base := start(in.Config)
	axes := []axis{serial()}
	if s.storeMatters(ctx, base) {
		axes = append(axes, variableStore())
	}
	layouts := devices()
	layouts.Variants = slices.DeleteFunc(layouts.Variants, func(v variant) bool {
		return !slices.Contains([]string{"devices-secretvm", "devices-secretvm-gpu", "devices-4", "devices-5", "devices-6"}, v.ID)
	})
	sizes, parts := usualSizes(base)
	axes = append(axes, pic(), noteSerial(family(), base), sizes, noteSerial(layouts, base))
	a, err := search.Find(ctx, base, clone, effective(base, axes), in.Options, s.test)
	// A size is one choice here, but two deviations for the reader.
	var deviations []search.Deviation
	for _, d := range a.Deviations {
		if both, ok := parts[d.ID]; ok {
			deviations = append(deviations, both...)
			continue
		}
		deviations = append(deviations, d)
	}
	a.Deviations = deviations
	return a, err
}

// usualSizes are pairs of vCPUs and memory that clouds offer, and the
// deviations that each one is.
func usualSizes(base candidate) (axis, map[string][]search.Deviation) {
	a := axis{Name: "size"}
	parts := map[string][]search.Deviation{}
	for _, n := range []int{1, 2, 4, 8, 16, 32, 64} {
		for _, ratio := range []uint64{2, 4, 1, 8, 16} {
			mib := uint64(n) * ratio << 10
			id := fmt.Sprintf("size-%d-%dM", n, mib)
			a.Variants = append(a.Variants, variant{ID: id, Apply: func(c *candidate) { c.VCPUs, c.Memory = n, mib<<20 }})
			if n != base.VCPUs {
				parts[id] = append(parts[id], search.Deviation{Axis: "vCPUs", ID: fmt.Sprintf("vcpus-%d", n), Note: vCPUNote(n)})
			}
			if mib<<20 != base.Memory {
				parts[id] = append(parts[id], search.Deviation{Axis: "memory", ID: fmt.Sprintf("memory-%dM", mib), Note: memoryNote(mib)})
			}
		}
	}
	return a, parts
}

// FindShape searches for the machine behind an RTMR0 when only the firmware
// is known: all combinations of what a machine's shape may be.
func FindShape(ctx context.Context, in Input, want digest.Digest) (search.Answer, error) {
	s := &searcher{in: in, register: RTMR0, want: want, measurer: tdxmeasure.New(in.Artifacts)}
	base := start(in.Config)
	// Small axes first, and devices last: machines differ in size more often.
	axes := []axis{serial()}
	if s.storeMatters(ctx, base) {
		axes = append(axes, variableStore())
	}
	axes = append(axes, pic(), noteSerial(family(), base), vCPUs(), memory(), noteSerial(devices(), base))
	return search.Find(ctx, base, clone, effective(base, axes), in.Options, s.test)
}

// storeMatters reports whether the firmware at hand has another variable
// store than the empty one that most machines have: then either may be the
// machine's.
func (s *searcher) storeMatters(ctx context.Context, base candidate) bool {
	other := base
	other.Profile.ConstantCFV = !base.Profile.ConstantCFV
	var values [2]digest.Digest
	for i, c := range []*candidate{&base, &other} {
		t, err := s.measurer.Register(ctx, &c.Config, int(RTMR0))
		if err != nil {
			return true
		}
		if values[i], err = t.Compute(); err != nil {
			return true
		}
	}
	return values[0] != values[1]
}

// clone copies what variants change; slices are replaced whole, never written
// to.
func clone(c candidate) candidate { return c }

type searcher struct {
	in       Input
	register Register
	want     digest.Digest
	measurer *tdxmeasure.Measurer
}

// test measures one candidate's register.
func (s *searcher) test(ctx context.Context, c *candidate) (bool, error) {
	m := s.measurer
	var t tdxmeasure.Trace
	var err error
	switch s.register {
	case RTMR2:
		t, err = s.rtmr2(ctx, c)
	case RTMR3:
		t, err = s.rtmr3(ctx, c)
	default:
		t, err = m.Register(ctx, &c.Config, int(s.register))
	}
	if err != nil {
		return false, err
	}
	d, err := t.Compute()
	return d == s.want, err
}

// rtmr2 measures the command line as a candidate has it.
func (s *searcher) rtmr2(ctx context.Context, c *candidate) (tdxmeasure.Trace, error) {
	t, err := s.measurer.Register(ctx, &c.Config, int(RTMR2))
	if err != nil || (c.tail == "" && !c.noNUL) {
		return t, err
	}
	line := tdxmeasure.MeasuredCmdline(c.Cmdline, c.Profile.InitrdArgument) + c.tail
	units, err := tdxmeasure.UTF16("command line", line)
	if err != nil {
		return t, err
	}
	if !c.noNUL {
		units = append(units, 0, 0)
	}
	t.Events = slices.Clone(t.Events)
	t.Events[0].Digest = digest.SHA384.Sum(units)
	return t, nil
}

// rtmr3 measures with the compose file and the root file system that a
// candidate has.
func (s *searcher) rtmr3(ctx context.Context, c *candidate) (tdxmeasure.Trace, error) {
	if c.artifacts == 0 && c.edit == "" {
		return s.measurer.Register(ctx, &c.Config, int(RTMR3))
	}
	a := s.in.Artifacts
	switch {
	case c.artifacts == withoutFiles:
		a.DockerFiles = tdxmeasure.Input{}
	case c.artifacts > 0:
		a.Rootfs = s.in.Rootfs[c.artifacts-1]
	}
	if c.artifacts != 0 && a.Rootfs.Known.IsZero() && a.Rootfs.R != nil {
		// Another measurer would read the file again: take the digest.
		d, err := a.Rootfs.Sum(ctx, digest.SHA256)
		if err != nil {
			return tdxmeasure.Trace{}, err
		}
		a.Rootfs.Known = d
	}
	if c.edit != "" {
		a.Compose = tdxmeasure.Bytes(a.Compose.Name, composeEdits[c.edit](s.in.Compose))
	}
	return tdxmeasure.New(a).Register(ctx, &c.Config, int(RTMR3))
}

const withoutFiles = -1

// composeEdits are the ways in which a compose file is changed on its way.
var composeEdits = map[string]func([]byte) []byte{
	"final-newline":    func(b []byte) []byte { return append(bytes.Clone(b), '\n') },
	"no-final-newline": func(b []byte) []byte { return bytes.TrimRight(b, "\r\n") },
	"crlf":             func(b []byte) []byte { return bytes.ReplaceAll(lf(b), []byte("\n"), []byte("\r\n")) },
	"lf":               lf,
	"bom":              func(b []byte) []byte { return append([]byte("\xef\xbb\xbf"), b...) },
	"no-bom":           func(b []byte) []byte { return bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")) },
}

func lf(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) }

type axis = search.Axis[candidate]

type variant = search.Variant[candidate]

// axes are the known deviations that the searched register depends on.
func (s *searcher) axes(base candidate) []axis {
	switch s.register {
	case MRTD:
		return []axis{pageOrder(), readOn()}
	case RTMR0:
		return []axis{
			// Small axes first: pairs among them are tried before the many sizes.
			noteSerial(host(), base), pic(), serial(), hobLayout(), variableStore(), trailingSeparator(), excludeTables(), hotplug(), timer(),
			holeSize(), noteSerial(devices(), base), vCPUs(), memory(),
		}
	case RTMR1:
		return []axis{patching(), memory(), unsignedTail(), noInitrd()}
	case RTMR2:
		return []axis{initrdArgument(), tail(), noInitrd()}
	default:
		return s.rtmr3Axes()
	}
}

func pageOrder() axis {
	a := axis{Name: "page order"}
	for _, v := range []struct {
		order       tdxmeasure.PageOrder
		since, note string
	}{
		{tdxmeasure.SinglePass, "9.0.0", "the page order of QEMU 9.0 and newer (single pass)"},
		{tdxmeasure.TwoPass, "8.0.0", "QEMU 8.2 page order (two passes)"},
		{tdxmeasure.RawExtend, "", "Contrast's page order (raw sizes)"},
	} {
		a.Variants = append(a.Variants, variant{
			ID: "page-order-" + string(v.order), Since: v.since, Note: v.note, Apply: func(c *candidate) { c.Profile.PageOrder = v.order },
		})
	}
	return a
}

func readOn() axis {
	return axis{Name: "section data", Variants: []variant{{
		ID: "section-read-on", Note: "measured sections read on past their data", Apply: func(c *candidate) { c.Profile.MRTD.ReadOn = true },
	}}}
}

func vCPUs() axis {
	a := axis{Name: "vCPUs"}
	counts := []int{
		1, 2, 4, 8, 16, 32, 64, 3, 5, 6, 7, 10, 12, 14, 20, 24, 28, 30, 40, 48, 56, 60, 80, 96, 112, 120, 128, 160, 192, 224, 240, 256,
	}
	for _, n := range counts {
		a.Variants = append(a.Variants, variant{ID: fmt.Sprintf("vcpus-%d", n), Note: vCPUNote(n), Apply: func(c *candidate) { c.VCPUs = n }})
	}
	return a
}

func vCPUNote(n int) string {
	if n == 1 {
		return "1 vCPU"
	}
	return fmt.Sprintf("%d vCPUs", n)
}

func memory() axis {
	a := axis{Name: "memory"}
	for _, mib := range []uint64{
		2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576, 512, 1024, 1536, 2560, 2815, 2816, 3072, 6144,
		12288, 20480, 24576, 40960, 49152, 98304, 196608, 393216, 786432,
	} {
		a.Variants = append(a.Variants, variant{
			ID: fmt.Sprintf("memory-%dM", mib), Note: memoryNote(mib), Apply: func(c *candidate) { c.Memory = mib << 20 },
		})
	}
	return a
}

func memoryNote(mib uint64) string {
	if mib%1024 == 0 {
		return fmt.Sprintf("%d GiB of memory", mib/1024)
	}
	return fmt.Sprintf("%d MiB of memory", mib)
}

func family() axis {
	a := axis{Name: "ACPI family"}
	for _, f := range acpi.Families() {
		a.Variants = append(a.Variants, variant{
			ID: "acpi-" + string(f), Since: string(f), Note: "the ACPI tables of QEMU " + string(f),
			Apply: func(c *candidate) {
				c.Profile.ACPIFamily, c.Devices.Family = f, f
				c.usualSerial()
			},
		})
	}
	return a
}

// host is the family of ACPI tables, alone or with the PIC that hosts of that
// QEMU have: people move from one host to another, not from one table to
// another.
func host() axis {
	a := family()
	for _, f := range acpi.Families() {
		a.Variants = append(a.Variants, variant{
			ID: "qemu-" + string(f), Since: string(f), Note: "a QEMU " + string(f) + " host (ACPI tables and PIC)",
			Apply: func(c *candidate) {
				if c.Profile.ACPIFamily == f {
					return // another host, not another device
				}
				c.Profile.ACPIFamily, c.Devices.Family = f, f
				c.Profile.PIC = f == acpi.Family82
				c.Devices.PIC = c.Profile.PIC
				c.usualSerial()
			},
		})
	}
	return a
}

// toggle is an axis of the two states of a switch.
func toggle(name, onID, onNote, offID, offNote string, set func(*candidate, bool)) axis {
	return axis{Name: name, Variants: []variant{
		{ID: onID, Note: onNote, Apply: func(c *candidate) { set(c, true) }},
		{ID: offID, Note: offNote, Apply: func(c *candidate) { set(c, false) }},
	}}
}

func pic() axis {
	return toggle("PIC", "pic-on", "the PIC on", "pic-off", "the PIC off", func(c *candidate, on bool) { c.Profile.PIC, c.Devices.PIC = on, on })
}

func serial() axis {
	return toggle("serial port", "no-com1", "no serial port", "com1", "a serial port", func(c *candidate, none bool) {
		c.Devices.NoCOM1, c.serialFixed = none, true
	})
}

func hotplug() axis {
	return toggle("PCI hot-plug", "hotplug-off", "PCI hot-plug off", "hotplug-on", "PCI hot-plug on", func(c *candidate, off bool) { c.Devices.NoHotplug = off })
}

func timer() axis {
	return toggle("HPET", "hpet-on", "an HPET", "hpet-off", "no HPET", func(c *candidate, on bool) { c.Devices.HPET = on })
}

func devices() axis {
	a := axis{Name: "devices"}
	for _, v := range []struct {
		id, note string
		base     acpi.Base
	}{
		{"devices-secretvm", "SecretVM's devices", acpi.SecretVM},
		{"devices-secretvm-gpu", "SecretVM's devices and a GPU", acpi.SecretVMGPU},
	} {
		a.Variants = append(a.Variants, variant{ID: v.id, Note: v.note, Apply: func(c *candidate) {
			c.Devices.Base, c.Devices.Slots, c.Devices.RootPorts = v.base, nil, nil
			c.Devices.NUMA, c.Devices.PXB, c.Devices.NoHotplug = false, false, false
			c.usualSerial()
		}})
	}
	for _, n := range []int{5, 4, 6, 3, 7, 8, 2, 1, 0, 9, 10} {
		note := fmt.Sprintf("%d devices on the root bus", n)
		if n == 1 {
			note = "one device on the root bus"
		}
		a.Variants = append(a.Variants, variant{ID: fmt.Sprintf("devices-%d", n), Note: note, Apply: func(c *candidate) {
			c.Devices.Base, c.Devices.Slots = acpi.Plain, acpi.SlotsUpTo(n)
			c.usualSerial()
		}})
	}
	for n := 1; n <= 8; n++ {
		note := fmt.Sprintf("%d GPUs behind root ports", n)
		if n == 1 {
			note = "a GPU behind a root port"
		}
		a.Variants = append(a.Variants, variant{ID: fmt.Sprintf("gpus-%d", n), Note: note, Apply: func(c *candidate) {
			first := len(c.Devices.Slots) + 1
			c.Devices.NoHotplug, c.Devices.RootPorts = true, nil
			for i := range n {
				c.Devices.RootPorts = append(c.Devices.RootPorts, first+i)
			}
		}})
	}
	return a
}

func hobLayout() axis {
	return axis{Name: "TD HOB layout", Variants: []variant{
		{ID: "hob-fixed", Note: "reproduce-mr's fixed memory layout", Apply: func(c *candidate) {
			c.Profile.HOB = tdxmeasure.HOBOptions{FixedLayout: true, FirstBase: true}
		}},
		{ID: "hob-firmware", Note: "the memory layout of the firmware's sections", Apply: func(c *candidate) { c.Profile.HOB = tdxmeasure.HOBOptions{} }},
		{ID: "hob-first-base", Note: "the hand-off blocks at the first TD_HOB section", Apply: func(c *candidate) { c.Profile.HOB.FirstBase = true }},
	}}
}

func variableStore() axis {
	return toggle("variable store", "cfv-constant", "the constant of an empty variable store", "cfv-firmware", "the firmware's own variable store",
		func(c *candidate, constant bool) { c.Profile.ConstantCFV = constant })
}

func trailingSeparator() axis {
	return toggle("last separator", "trailing-separator", "one more separator at the end", "no-trailing-separator", "no separator at the end",
		func(c *candidate, on bool) { c.Profile.TrailingSeparator = on })
}

func excludeTables() axis {
	return axis{Name: "ACPI events", Variants: []variant{{
		ID: "acpi-excluded", Note: "no ACPI tables measured", Apply: func(c *candidate) { c.Profile.ExcludeACPI = true },
	}}}
}

func holeSize() axis {
	a := axis{Name: "64-bit PCI window"}
	for _, gib := range []uint64{1024, 2048, 4096, 8192, 16384, 64, 128, 256, 512} {
		a.Variants = append(a.Variants, variant{
			ID: fmt.Sprintf("pci-hole-%dG", gib), Note: fmt.Sprintf("a 64-bit PCI window of %d GiB", gib), Apply: func(c *candidate) { c.Devices.PCIHole64 = gib << 30 },
		})
	}
	return a
}

func patching() axis {
	return axis{Name: "kernel header", Variants: []variant{
		{ID: "kernel-unpatched", Since: "10.2.0", Note: "the kernel's header left alone, as QEMU 10.2 and newer do", Apply: func(c *candidate) { c.Profile.PatchKernel = false }},
		{ID: "kernel-patched", Since: "8.0.0", Note: "the kernel's header patched, as QEMU before 10.2 does", Apply: func(c *candidate) { c.Profile.PatchKernel = true }},
		{ID: "kernel-patched-dstack", Note: "the kernel's header patched as dstack-mr has it", Apply: func(c *candidate) {
			c.Profile.PatchKernel, c.Profile.HeaderRule = true, tdxmeasure.HeaderDstack
		}},
	}}
}

func unsignedTail() axis {
	return axis{Name: "Authenticode", Variants: []variant{
		{ID: "authenticode-tail", Note: "bytes behind an unsigned kernel's sections left out, as dstack-mr has it", Apply: func(c *candidate) {
			c.Profile.Authenticode.TailOnlyWithCertificate = true
		}},
		{ID: "authenticode-unpadded", Note: "no padding of the kernel to 8 bytes", Apply: func(c *candidate) { c.Profile.Authenticode.PadTo8 = false }},
	}}
}

func noInitrd() axis {
	return axis{Name: "initrd", Variants: []variant{{ID: "no-initrd", Note: "no initrd", Apply: func(c *candidate) { c.NoInitrd = true }}}}
}

func initrdArgument() axis {
	a := axis{Name: "initrd argument", Variants: []variant{
		{ID: "initrd-suffix", Note: `"initrd=initrd" behind the command line`, Apply: func(c *candidate) { c.Profile.InitrdArgument = tdxmeasure.ArgumentSuffix }},
		{ID: "initrd-prefix", Note: `"initrd=initrd" before the command line`, Apply: func(c *candidate) { c.Profile.InitrdArgument = tdxmeasure.ArgumentPrefix }},
		{ID: "initrd-as-given", Note: `no "initrd=initrd" added to the command line`, Apply: func(c *candidate) { c.Profile.InitrdArgument = tdxmeasure.ArgumentAsGiven }},
		{ID: "initrd-removed", Note: `the command line without its "initrd=initrd"`, Apply: func(c *candidate) {
			c.Profile.InitrdArgument = tdxmeasure.ArgumentAsGiven
			c.Cmdline = strings.TrimPrefix(strings.TrimSuffix(c.Cmdline, " initrd=initrd"), "initrd=initrd ")
		}},
	}}
	return a
}

func tail() axis {
	return axis{Name: "command line's end", Variants: []variant{
		{ID: "cmdline-blank", Note: "a blank at the end of the command line", Apply: func(c *candidate) { c.tail = " " }},
		{ID: "cmdline-newline", Note: "a line feed at the end of the command line", Apply: func(c *candidate) { c.tail = "\n" }},
		{ID: "cmdline-nul", Note: "one more NUL at the end of the command line", Apply: func(c *candidate) { c.tail = "\x00" }},
		{ID: "cmdline-no-nul", Note: "no NUL at the end of the command line", Apply: func(c *candidate) { c.noNUL = true }},
		{ID: "cmdline-trimmed", Note: "the command line without blanks around it", Apply: func(c *candidate) { c.Cmdline = strings.TrimSpace(c.Cmdline) }},
	}}
}

func (s *searcher) rtmr3Axes() []axis {
	schemes := axis{Name: "scheme", Variants: []variant{
		{ID: "rtmr3-raw", Note: "plain digests in RTMR3", Apply: func(c *candidate) { c.Profile.RTMR3 = tdxmeasure.RTMR3Raw }},
		{ID: "rtmr3-kms", Note: "a key service's events in RTMR3", Apply: func(c *candidate) { c.Profile.RTMR3 = tdxmeasure.RTMR3SecretVMKMS }},
	}}
	files := axis{Name: "root file system"}
	for i, r := range s.in.Rootfs {
		files.Variants = append(files.Variants, variant{
			ID: "rootfs-" + r.Name, Note: "the root file system " + r.Name, Apply: func(c *candidate) { c.artifacts = i + 1 },
		})
	}
	if s.in.Artifacts.DockerFiles.Present() {
		files.Variants = append(files.Variants, variant{ID: "no-docker-files", Note: "no docker files", Apply: func(c *candidate) { c.artifacts = withoutFiles }})
	}
	compose := axis{Name: "compose file"}
	if s.in.Compose != nil {
		for _, v := range [][2]string{
			{"final-newline", "a line feed at the end of the compose file"},
			{"no-final-newline", "no line feed at the end of the compose file"},
			{"crlf", "Windows line ends in the compose file"},
			{"lf", "Unix line ends in the compose file"},
			{"bom", "a byte order mark before the compose file"},
			{"no-bom", "no byte order mark before the compose file"},
		} {
			compose.Variants = append(compose.Variants, variant{ID: "compose-" + v[0], Note: v[1], Apply: func(c *candidate) { c.edit = v[0] }})
		}
	}
	return []axis{compose, files, schemes}
}

// Quirk is a row of the table of known deviations.
type Quirk struct{ Register, Axis, ID, Since, Note string }

// Quirks lists all known deviations that do not depend on an input.
func Quirks() []Quirk {
	var out []Quirk
	for r := MRTD; r <= RTMR3; r++ {
		s := &searcher{register: r, in: Input{Compose: []byte{}}}
		for _, a := range s.axes(candidate{}) {
			for _, v := range a.Variants {
				out = append(out, Quirk{r.String(), a.Name, v.ID, v.Since, v.Note})
			}
		}
	}
	return out
}
