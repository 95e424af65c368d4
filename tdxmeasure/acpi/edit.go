package acpi

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// makeDSDT edits the base's term tree into the shape's.
func (b *base) makeDSDT(s Shape) ([]byte, error) {
	terms, err := parseTerms(b.dsdt, 0)
	if err != nil {
		return nil, err
	}
	d := &dsdt{terms: terms, shape: s}
	for _, edit := range []func() error{d.family, d.vCPUs, d.serial, d.hpet, d.slots, d.windows} {
		if err := edit(); err != nil {
			return nil, err
		}
	}
	out := bytes.Clone(b.dsdtHeader)
	for _, t := range d.terms {
		out = t.append(out)
	}
	binary.LittleEndian.PutUint32(out[4:], uint32(len(out)))
	return out, nil
}

type dsdt struct {
	terms []*term
	shape Shape
}

var (
	opScope     = []byte{0x10}
	opMethod    = []byte{0x14}
	opDevice    = []byte{0x5b, 0x82}
	opProcessor = []byte{0x5b, 0x83}
)

func (d *dsdt) need(name string, op []byte) (*term, error) {
	if t := find(d.terms, name, op...); t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("no %s in the base", name)
}

// family turns the base of QEMU 10.0 into that of another family.
func (d *dsdt) family() error {
	switch d.shape.Family {
	case Family82:
		if err := d.replaceMethod("CSCN", cscnBefore10); err != nil {
			return err
		}
		// Without PCI hot-plug there is no PDSM.
		if find(d.terms, "PDSM", opMethod...) != nil {
			if err := d.replaceMethod("PDSM", pdsmBefore92); err != nil {
				return err
			}
		}
		d.edgeTriggered()
		return nil
	case Family92:
		return d.replaceMethod("CSCN", cscnBefore10)
	case Family110:
		return d.withoutHotplugINI()
	case Family111:
		if err := d.withoutHotplugINI(); err != nil {
			return err
		}
		return d.sharedSerialInterrupt()
	}
	return nil
}

func (d *dsdt) replaceMethod(name, body string) error {
	m, err := d.need(name, opMethod)
	if err != nil {
		return err
	}
	raw, err := hex.DecodeString(body)
	if err != nil {
		return err
	}
	m.kids = []*term{rawTerm(raw...)}
	return nil
}

// edgeTriggered sets the edge bit in every Extended Interrupt descriptor (ACPI
// specification, 6.4.3.6): length, flags, count, then 4 bytes an interrupt.
func (d *dsdt) edgeTriggered() {
	walk(d.terms, func(_, t *term) bool {
		if t.op != nil {
			return true
		}
		t.raw = bytes.Clone(t.raw)
		for i := 0; i+5 <= len(t.raw); i++ {
			if b := t.raw[i:]; b[0] == 0x89 && b[2] == 0 && b[3] == 0x09 && b[4] > 0 && int(b[1]) == 2+4*int(b[4]) {
				t.raw[i+3] |= 2
			}
		}
		return true
	})
}

// withoutHotplugINI drops the _INI method of the CPU hot-plug device, which
// QEMU 11 no longer has.
func (d *dsdt) withoutHotplugINI() error {
	pres, err := d.need("PRES", opDevice)
	if err != nil {
		return err
	}
	n := len(pres.kids)
	pres.kids = slices.DeleteFunc(pres.kids, func(t *term) bool { return t.op != nil && t.name() == "_INI" })
	if len(pres.kids) == n {
		return errors.New("no _INI in PRES in the base")
	}
	return nil
}

// sharedSerialInterrupt gives COM1's interrupt its flags byte: level, active
// low, shared (QEMU 11.1).
func (d *dsdt) sharedSerialInterrupt() error {
	com1, err := d.need("COM1", opDevice)
	if err != nil {
		return err
	}
	for _, t := range com1.kids {
		old := []byte{0x11, 0x10, 0x0a, 0x0d, 0x47, 0x01, 0xf8, 0x03, 0xf8, 0x03, 0x00, 0x08, 0x22, 0x10, 0x00}
		if i := bytes.Index(t.raw, old); i >= 0 {
			t.raw = slices.Concat(t.raw[:i],
				[]byte{0x11, 0x11, 0x0a, 0x0e, 0x47, 0x01, 0xf8, 0x03, 0xf8, 0x03, 0x00, 0x08, 0x23, 0x10, 0x00, 0x18},
				t.raw[i+len(old):])
			return nil
		}
	}
	return errors.New("no interrupt of COM1 in the base")
}

// vCPUs adds the processors 1 to n-1, with NUMA also their node.
func (d *dsdt) vCPUs() error {
	cpus, err := d.need("CPUS", opDevice)
	if err != nil {
		return err
	}
	first := find(cpus.kids, "C000", opProcessor...)
	notify := find(cpus.kids, "CTFY", opMethod...)
	scan := find(cpus.kids, "CSCN", opMethod...)
	if first == nil || notify == nil || scan == nil {
		return errors.New("no C000, CTFY or CSCN in the base")
	}
	first.kids = slices.DeleteFunc(first.kids, isProximity)
	if d.shape.NUMA {
		first.kids = append(first.kids, proximity())
	}
	for i := 1; i < d.shape.VCPUs; i++ {
		notify.kids = append(notify.kids, notifyProcessor(i))
		cpus.kids = append(cpus.kids, processor(i, d.shape.NUMA))
	}
	return setLoopBound(scan, d.shape.VCPUs)
}

func isProximity(t *term) bool { return bytes.HasPrefix(t.raw, []byte("\x08_PXM")) }

func proximity() *term { return rawTerm([]byte("\x08_PXM\x00")...) }

func processorName(i int) []byte { return fmt.Appendf(nil, "C%03X", i) }

// notifyProcessor is If (Arg0 == i) { Notify (Cxxx, Arg1) }.
func notifyProcessor(i int) *term {
	test := append(appendInteger([]byte{0x93, 0x68}, uint64(i)), 0x86)
	test = append(append(test, processorName(i)...), 0x69)
	return &term{op: []byte{0xa0}, head: test}
}

// processor is the object of vCPU i: Processor for ids below 255, else a
// Device (QEMU, hw/acpi/cpu.c, build_cpus_aml).
func processor(i int, numa bool) *term {
	number := func(head string, tail ...byte) []byte {
		return append(appendInteger([]byte(head), uint64(i)), tail...)
	}
	method := func(name string, flags byte, body []byte) *term {
		return &term{op: opMethod, head: append([]byte(name), flags), kids: []*term{rawTerm(body...)}}
	}
	t := &term{op: opProcessor, head: append(processorName(i), byte(i), 0, 0, 0, 0, 0)}
	if i >= 255 {
		t = &term{op: opDevice, head: processorName(i), kids: []*term{
			rawTerm([]byte("\x08_HID\x0dACPI0007\x00")...),
			rawTerm(number("\x08_UID")...),
		}}
	}
	mat := processorEntry(i)
	t.kids = append(t.kids,
		method("_STA", 0x08, number("\xa4CSTA")),
		&term{op: []byte("\x08_MAT\x11"), head: append([]byte{0x0a, byte(len(mat))}, mat...)},
		method("_EJ0", 0x01, number("CEJ0")),
		method("_OST", 0x0b, number("COST", 0x68, 0x69, 0x6a)),
	)
	if numa {
		t.kids = append(t.kids, proximity())
	}
	return t
}

// setLoopBound writes n into the test Local3 < 1 of CSCN's inner loop and
// re-encodes the two loops around it.
func setLoopBound(scan *term, n int) error {
	body := scan.kids[0].raw
	test := []byte{0x95, 0x63, 0x01}
	at := bytes.Index(body, test)
	if at < 0 {
		return errors.New("no loop test in CSCN")
	}
	inner, outer := -1, -1
	for i := range at {
		if body[i] != 0xa2 { // While
			continue
		}
		if total, _, err := packageLength(body[i+1:]); err == nil && i+1+total > at+len(test) {
			outer, inner = inner, i
			if outer < 0 {
				outer = i
			}
		}
	}
	if inner < 0 || inner == outer {
		return errors.New("no two loops around the loop test in CSCN")
	}
	bound := appendInteger([]byte{0x95, 0x63}, uint64(n))
	loop := func(at int, edit func(content []byte, start int) *term) (*term, []byte) {
		total, size, _ := packageLength(body[at+1:])
		return edit(body[at+1+size:at+1+total], at+1+size), body[at+1+total:]
	}
	outerTerm, rest := loop(outer, func(content []byte, start int) *term {
		innerTerm, after := loop(inner, func(in []byte, s int) *term {
			return &term{op: []byte{0xa2}, head: slices.Concat(in[:at-s], bound, in[at-s+len(test):])}
		})
		after = after[:len(content)-(len(body)-len(after)-start)]
		return &term{op: []byte{0xa2}, head: content[:inner-start], kids: []*term{innerTerm, rawTerm(after...)}}
	})
	scan.kids = []*term{rawTerm(body[:outer]...), outerTerm, rawTerm(rest...)}
	return nil
}

// serial takes the serial port away.
func (d *dsdt) serial() error {
	if !d.shape.NoCOM1 {
		return nil
	}
	isa, err := d.need("SF8_", opDevice)
	if err != nil {
		return err
	}
	isa.kids = slices.DeleteFunc(isa.kids, func(t *term) bool { return t.op != nil && t.name() == "COM1" })
	return nil
}

// hpet adds the HPET device, in a scope of its own before the general-purpose
// events.
func (d *dsdt) hpet() error {
	if !d.shape.HPET {
		return nil
	}
	raw, err := hex.DecodeString(hpetScope)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(d.terms, func(t *term) bool { return bytes.Equal(t.op, opScope) && t.name() == "_GPE" })
	if at < 0 {
		return errors.New("no _GPE in the base")
	}
	d.terms = slices.Insert(d.terms, at, rawTerm(raw...))
	return nil
}

// slots replaces the devices in slots 1 to 30 of the root bus.
func (d *dsdt) slots() error {
	if d.shape.Base != "" && d.shape.Base != Plain {
		return nil
	}
	var bus *term
	walk(d.terms, func(parent, t *term) bool {
		if t.op != nil && t.name() == "S08_" && parent != nil {
			bus = parent
		}
		return bus == nil
	})
	if bus == nil {
		return errors.New("no device in slot 1 in the base")
	}
	at := -1
	bus.kids = slices.DeleteFunc(bus.kids, func(t *term) bool { return isSlot(t, 1, 30) })
	for i, t := range bus.kids {
		if isSlot(t, 0, 0) {
			at = i + 1
		}
	}
	if at < 0 {
		return errors.New("no host bridge in the base")
	}
	ports := map[int]bool{}
	for _, p := range d.shape.RootPorts {
		ports[p] = true
	}
	all := slices.Concat(d.shape.Slots, d.shape.RootPorts)
	if d.shape.PXB {
		all = append(all, pxbSlot)
	}
	var devices []*term
	for _, slot := range sorted(all) {
		dev := &term{op: opDevice, head: fmt.Appendf(nil, "S%02X_", slot<<3), kids: []*term{
			rawTerm(appendInteger([]byte("\x08_ADR"), uint64(slot)<<16)...),
		}}
		if ports[slot] {
			dev.kids = append(dev.kids, &term{op: opDevice, head: []byte("S00_"), kids: []*term{rawTerm([]byte("\x08_ADR\x00")...)}})
		}
		devices = append(devices, dev)
	}
	bus.kids = slices.Insert(bus.kids, at, devices...)
	return nil
}

// isSlot reports whether t is the device of function 0 of a root bus slot.
func isSlot(t *term, from, to int) bool {
	if !bytes.Equal(t.op, opDevice) || len(t.head) != 4 {
		return false
	}
	var devfn int
	if n, err := fmt.Sscanf(string(t.head), "S%02X_", &devfn); n != 1 || err != nil {
		return false
	}
	return devfn&7 == 0 && devfn>>3 >= from && devfn>>3 <= to
}

// windows writes the 32-bit and 64-bit PCI windows into the root bus's
// resources (ACPI specification, 6.4.3.5).
func (d *dsdt) windows() error {
	low := uint32(lowMemoryEnd)
	if d.shape.Memory < lowSplit {
		low = uint32(d.shape.Memory)
	}
	d32 := []byte{0x87, 0x17, 0x00, 0x00, 0x0c, 0x01, 0, 0, 0, 0}
	d64 := binary.LittleEndian.AppendUint64(nil, pci64Base)
	done32, done64 := false, false
	walk(d.terms, func(_, t *term) bool {
		if t.op != nil || !bytes.HasPrefix(t.raw, []byte("\x08_CRS")) {
			return true
		}
		raw := t.raw
		for i := bytes.Index(raw, d32); i >= 0; i = next(raw, d32, i) {
			if i+26 <= len(raw) && binary.LittleEndian.Uint32(raw[i+14:]) == pci32Max {
				raw = bytes.Clone(raw)
				binary.LittleEndian.PutUint32(raw[i+10:], low)
				binary.LittleEndian.PutUint32(raw[i+22:], pci32Max+1-low)
				done32 = true
			}
		}
		if i := bytes.Index(raw, d64); i >= 0 && i+32 <= len(raw) {
			raw = bytes.Clone(raw)
			first, last := d.shape.pci64Window()
			binary.LittleEndian.PutUint64(raw[i:], first)
			binary.LittleEndian.PutUint64(raw[i+8:], last)
			binary.LittleEndian.PutUint64(raw[i+24:], last-first+1)
			done64 = true
		}
		t.raw = raw
		return !(done32 && done64)
	})
	if !done32 || !done64 {
		return errors.New("no PCI windows in the base")
	}
	return nil
}

func next(b, sub []byte, at int) int {
	i := bytes.Index(b[at+1:], sub)
	if i < 0 {
		return -1
	}
	return at + 1 + i
}
