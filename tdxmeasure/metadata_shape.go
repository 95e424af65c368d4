package tdxmeasure

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/tdxmeasure/acpi"
)

// Shape is the machine that the metadata describes with QEMU's own arguments
// (tdx-measure: boot_config.qemu). The tool starts QEMU with -nodefaults: no
// serial port, and devices only where they are named. QEMU gives a device
// without an address the first free slot of the root bus, from 1 on. ok is
// false where the metadata does not describe a machine.
func (m *Metadata) Shape() (s acpi.Shape, ok bool, err error) {
	if m.Machine == "" {
		return s, false, nil
	}
	bad := func(what, found, want string) (acpi.Shape, bool, error) {
		return acpi.Shape{}, false, &Error{
			Input: "metadata " + what, Offset: -1, Found: fmt.Sprintf("%.80q", found), Want: want,
			Hint: "give the tables of such a machine: {acpi}",
		}
	}
	options := qemuOptions(m.Machine)
	if options[""] != "q35" && options["type"] != "q35" {
		return bad("/boot_config/qemu/machine", m.Machine, "a q35 machine")
	}
	// QEMU turns these three on unless told otherwise.
	s = acpi.Shape{VCPUs: m.VCPUs, Memory: m.Memory, NoCOM1: true}
	s.SMM, s.PIC, s.HPET = options["smm"] != "off", options["pic"] != "off", options["hpet"] != "off"
	for _, g := range m.Globals {
		name, value, _ := strings.Cut(g, "=")
		switch name {
		case "q35-pcihost.pci-hole64-size":
			if s.PCIHole64, err = ParseMemory(value); err != nil {
				return bad("/boot_config/qemu/globals", g, "a size such as 4096G")
			}
		case "ICH9-LPC.acpi-pci-hotplug-with-bridge-support":
			s.NoHotplug = value == "off"
		}
	}
	if s.Slots, err = m.slots(); err != nil {
		return bad("/boot_config/qemu/devices", err.Error(), "devices of the root bus")
	}
	return s, true, nil
}

// slots gives each device its slot.
func (m *Metadata) slots() ([]int, error) {
	const last = 30
	var slots []int
	waiting := 0
	for _, d := range m.Devices {
		o := qemuOptions(d)
		if strings.Contains(o[""], "root-port") || strings.Contains(o[""], "pxb") || o["bus"] != "" && o["bus"] != "pcie.0" {
			return nil, fmt.Errorf("%s", d)
		}
		address, given := o["addr"]
		if !given {
			waiting++
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSuffix(address, ".0"), 0, 8)
		if err != nil || n < 1 || n > last || slices.Contains(slots, int(n)) {
			return nil, fmt.Errorf("%s", d)
		}
		slots = append(slots, int(n))
	}
	for n := 1; waiting > 0; n++ {
		if n > last {
			return nil, fmt.Errorf("%d devices", len(m.Devices))
		}
		if !slices.Contains(slots, n) {
			slots = append(slots, n)
			waiting--
		}
	}
	slices.Sort(slots)
	return slots, nil
}

// qemuOptions splits "name,key=value,..."; the name has the key "".
func qemuOptions(s string) map[string]string {
	out := map[string]string{}
	for i, part := range strings.Split(s, ",") {
		key, value, ok := strings.Cut(part, "=")
		if i == 0 && !ok {
			key, value = "", part
		}
		out[key] = value
	}
	return out
}

// Describes reports whether the metadata says how large the machine is: an
// image's does not.
func (m *Metadata) Describes() bool { return m.Kind == tdxMeasureKind }
