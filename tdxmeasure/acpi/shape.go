package acpi

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Family names a run of QEMU versions that make the same tables.
type Family string

// The families. TDX hosts run these; QEMU 7.2 and older make others.
const (
	Family82  Family = "8.2"  // the TDX branches 8.x, 9.0 and 9.1
	Family92  Family = "9.2"  //
	Family100 Family = "10.0" // 10.0 to 10.2
	Family110 Family = "11.0" //
	Family111 Family = "11.1" //
)

// Families lists all families, oldest first.
func Families() []Family { return []Family{Family82, Family92, Family100, Family110, Family111} }

// FamilyOf maps a QEMU version to its family. known is false for a version
// newer than the newest one compared: the newest family is then a guess.
func FamilyOf(major, minor int) (f Family, known bool) {
	switch {
	case major < 8:
		return "", false
	case major == 8 || major == 9 && minor < 2:
		return Family82, true
	case major == 9:
		return Family92, true
	case major == 10:
		return Family100, minor <= 2
	case major == 11 && minor == 0:
		return Family110, true
	default:
		return Family111, major == 11 && minor == 1
	}
}

// Base is the device layout that a template starts from.
type Base string

// The layouts.
const (
	// Plain is a q35 machine with devices directly in slots of the root bus.
	Plain Base = "plain"
	// SecretVM has an empty hot-plug root port in slot 1 and four devices in
	// slots 2 to 5.
	SecretVM Base = "secretvm"
	// SecretVMGPU is SecretVM with a GPU behind the port.
	SecretVMGPU Base = "secretvm-gpu"
)

// Limits of a shape.
const (
	MaxVCPUs  = 4096
	MinMemory = 1 << 20
	MaxMemory = 1 << 52
	MiB       = 1 << 20
)

// Shape is what of a virtual machine the tables depend on. A zero field is
// the plain choice: no PIC, no SMM, no HPET, no NUMA.
type Shape struct {
	Family Family
	Base   Base   // "" is Plain
	VCPUs  int    // 1 to 4096
	Memory uint64 // bytes, whole MiB
	PIC    bool   // the legacy interrupt controller; on by default in QEMU 8
	SMM    bool
	HPET   bool
	NoCOM1 bool // no serial port
	// NoHotplug turns ACPI PCI hot-plug off.
	NoHotplug bool
	// NUMA describes one node holding all vCPUs and memory. PXB adds an
	// expander bridge with bus 5 in slot 16; it needs NUMA.
	NUMA, PXB bool
	// Slots are the root bus slots with a plain device, RootPorts those with
	// an occupied root port; root ports need NoHotplug. Only for Plain.
	Slots, RootPorts []int
	// AMDCPU lays memory out as QEMU does for a CPU model of AMD: a guest that
	// would reach the HyperTransport range has its high memory above 1 TiB. No
	// TDX host does so; tables made elsewhere, with another CPU model, do.
	AMDCPU bool
	// PCIHole64 is the size of the 64-bit PCI window, at least 1 GiB, 0 for
	// QEMU's default of 32 GiB. PCI64Max, if not 0, is the window's last address.
	PCIHole64, PCI64Max uint64
}

// RootPortsField is the setting of a ShapeError about occupied root ports.
const RootPortsField = "root ports"

// ShapeError says which setting of a shape cannot be made.
type ShapeError struct {
	Field, Found, Want string
}

// Error implements error.
func (e *ShapeError) Error() string {
	return fmt.Sprintf("make ACPI tables: %s: %s, want %s", e.Field, e.Found, e.Want)
}

func (s Shape) bad(field, want, format string, args ...any) error {
	return &ShapeError{Field: field, Found: fmt.Sprintf(format, args...), Want: want}
}

// Check reports the first setting that no machine has or no template makes.
func (s Shape) Check() error {
	switch {
	case !slices.Contains(Families(), s.Family):
		return s.bad("QEMU family", "8.2, 9.2, 10.0, 11.0 or 11.1", "%q", s.Family)
	case s.VCPUs < 1 || s.VCPUs > MaxVCPUs:
		return s.bad("vCPUs", "1 to 4096", "%d", s.VCPUs)
	case s.Memory < MinMemory || s.Memory > MaxMemory || s.Memory%MiB != 0:
		return s.bad("memory", "1 MiB to 4 PiB in whole MiB", "%d bytes", s.Memory)
	case s.PXB && !s.NUMA:
		return s.bad("expander bridge", "a NUMA node with it", "no NUMA node")
	case s.PCIHole64 != 0 && (s.PCIHole64 < 1<<30 || s.PCIHole64 > s.mostHole64()):
		return s.bad("64-bit PCI hole", fmt.Sprintf("1 GiB to %d bytes, so that it ends below 4 PiB", s.mostHole64()), "%d bytes", s.PCIHole64)
	case s.PCI64Max != 0 && s.PCI64Max <= pci64Base:
		return s.bad("64-bit PCI window", fmt.Sprintf("an end above %#x", uint64(pci64Base)), "%#x", s.PCI64Max)
	}
	switch s.Base {
	case "", Plain:
		return s.checkSlots()
	case SecretVM, SecretVMGPU:
		if s.NUMA || s.NoHotplug || len(s.Slots)+len(s.RootPorts) > 0 {
			return s.bad("devices", "the fixed devices of the "+string(s.Base)+" layout", "NUMA, hot-plug or slots set")
		}
		return nil
	default:
		return s.bad("layout", "plain, secretvm or secretvm-gpu", "%q", s.Base)
	}
}

func (s Shape) checkSlots() error {
	seen := map[int]bool{0: true, 31: true}
	if s.PXB {
		seen[pxbSlot] = true
	}
	for _, slot := range slices.Concat(s.Slots, s.RootPorts) {
		if slot < 1 || slot > 30 || seen[slot] {
			return s.bad("slot", "1 to 30, each used once", "%d", slot)
		}
		seen[slot] = true
	}
	if len(s.RootPorts) > 0 && !s.NoHotplug {
		return s.bad(RootPortsField, "PCI hot-plug off, or tables from QEMU", "%d with PCI hot-plug on", len(s.RootPorts))
	}
	return nil
}

// Canonical returns the shape with the least memory that gives the same
// tables: from 2816 MiB on nothing in them depends on it, unless they describe
// NUMA memory or no device fixes the 64-bit window.
func (s Shape) Canonical() Shape {
	if s.Memory > lowSplit && !s.NUMA && s.hasDevices() {
		s.Memory = lowSplit
	}
	return s
}

// Key is a text that two shapes share only if they are equal.
func (s Shape) Key() string {
	type plain Shape // without the String method, which leaves things out
	return fmt.Sprintf("%+v", plain(s))
}

// SlotsUpTo returns the slots 1 to n.
func SlotsUpTo(n int) []int {
	var s []int
	for i := 1; i <= n; i++ {
		s = append(s, i)
	}
	return s
}

// String describes the shape in a few words.
func (s Shape) String() string {
	words := []string{plural(s.VCPUs, "vCPU"), strconv.FormatUint(s.Memory/MiB, 10) + " MiB"}
	if s.Family != "" {
		words = slices.Insert(words, 0, "QEMU "+string(s.Family)+" tables")
	}
	add := func(on bool, text string) {
		if on {
			words = append(words, text)
		}
	}
	add(s.Base != "" && s.Base != Plain, string(s.Base)+" devices")
	add(len(s.Slots) > 0, plural(len(s.Slots), "device"))
	add(len(s.RootPorts) > 0, plural(len(s.RootPorts), "root port"))
	add(s.PIC, "PIC")
	add(s.SMM, "SMM")
	add(s.HPET, "HPET")
	add(s.NoCOM1, "no COM1")
	add(s.NoHotplug, "PCI hot-plug off")
	add(s.NUMA, "NUMA")
	add(s.PXB, "expander bridge")
	if s.PCIHole64 > 0 {
		words = append(words, fmt.Sprintf("%d GiB PCI hole", s.PCIHole64>>30))
	}
	return strings.Join(words, ", ")
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return strconv.Itoa(n) + " " + word + "s"
}
