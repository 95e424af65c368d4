package explain

import (
	"fmt"
	"strings"

	"github.com/retally/retally/internal/search"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
)

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
	for _, gib := range []uint64{1024, 2048, 4096, 8192, 16384, 64, 128, 256, 512, 1 << 20} {
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
