package acpi

import (
	"bytes"
	"embed"
	"encoding/binary"
	"fmt"
	"slices"
)

// The bases are QEMU 10's own tables for 1 vCPU, 2 GiB, PIC off, a serial
// port, and devices in slots 1 to 5 (or SecretVM's devices). gen/ makes them
// again from a stock QEMU 10.
//
//go:embed bases/*.hex
var baseFiles embed.FS

const (
	pci64Base    = 0x380000000000 // 7/8 of 2^46: where OVMF puts the window on TDX hosts
	defaultHole  = 32 << 30
	pci32Max     = 0xdfffffff // below it the 32-bit window, above it ECAM
	lowSplit     = 0xB0000000 // q35: less memory than this stays in one piece
	lowMemoryEnd = 0x80000000
	pxbSlot      = 16
)

// Templates makes tables blobs by editing QEMU's own tables. It holds the
// parsed bases and is safe for use by several goroutines.
type Templates struct {
	bases map[string]*base
}

type base struct {
	dsdtHeader []byte // 36 bytes
	dsdt       []byte // the term list
	facs, facp []byte
	apic       []byte
	mcfg, waet []byte
	rsdtHeader []byte
}

// NewTemplates reads the built-in bases.
func NewTemplates() (*Templates, error) {
	t := &Templates{bases: map[string]*base{}}
	entries, err := baseFiles.ReadDir("bases")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		text, err := baseFiles.ReadFile("bases/" + e.Name())
		if err != nil {
			return nil, err
		}
		blobs, err := FromTables(text)
		if err != nil {
			return nil, fmt.Errorf("read built-in tables %s: %w", e.Name(), err)
		}
		b, err := splitBase(blobs.Tables)
		if err != nil {
			return nil, fmt.Errorf("read built-in tables %s: %w", e.Name(), err)
		}
		t.bases[string(bytes.TrimSuffix([]byte(e.Name()), []byte(".hex")))] = b
	}
	return t, nil
}

func splitBase(blob []byte) (*base, error) {
	tables, err := Parse(blob)
	if err != nil {
		return nil, err
	}
	part := map[string][]byte{}
	for _, t := range tables {
		part[t.Signature] = blob[t.Offset : t.Offset+t.Length]
	}
	for _, need := range []string{"FACS", "DSDT", "FACP", "APIC", "MCFG", "WAET", "RSDT"} {
		if part[need] == nil {
			return nil, fail(0, need, "no such table")
		}
	}
	return &base{
		dsdtHeader: part["DSDT"][:headerSize], dsdt: part["DSDT"][headerSize:],
		facs: part["FACS"], facp: part["FACP"], apic: part["APIC"], mcfg: part["MCFG"], waet: part["WAET"],
		rsdtHeader: part["RSDT"][:headerSize],
	}, nil
}

// Make returns the three files for a shape.
func (t *Templates) Make(s Shape) (*Blobs, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	b := t.bases[s.baseName()]
	if b == nil {
		return nil, s.bad("layout", "a built-in base", "%q", s.baseName())
	}
	dsdt, err := b.makeDSDT(s)
	if err != nil {
		return nil, fmt.Errorf("make ACPI tables: DSDT: %w", err)
	}
	blob, tables := b.layOut(s, dsdt)
	return assemble(blob, tables)
}

func (s Shape) baseName() string {
	switch {
	case s.Base == SecretVM || s.Base == SecretVMGPU:
		return string(s.Base)
	case s.PXB && s.NoHotplug:
		return "hotplugoff-numa-pxb"
	case s.PXB:
		return "hotplug-numa-pxb"
	case s.NoHotplug:
		return "hotplugoff"
	default:
		return "hotplug"
	}
}

// layOut puts the tables one after the other and fills in the pointers, which
// are offsets in the blob until the firmware relocates them.
func (b *base) layOut(s Shape, dsdt []byte) ([]byte, []Table) {
	blob := make([]byte, 0, blobUnit*(1+len(dsdt)/blobUnit)+64<<10)
	var tables []Table
	var entries []int
	put := func(table []byte) int {
		at := len(blob)
		blob = append(blob, table...)
		tables = append(tables, Table{string(table[:4]), at, len(table)})
		return at
	}
	put(b.facs)
	dsdtAt := put(dsdt)
	facp := put(b.facp)
	entries = append(entries, facp)
	entries = append(entries, put(b.makeAPIC(s)))
	if s.HPET {
		entries = append(entries, put(makeHPET()))
	}
	if s.NUMA {
		entries = append(entries, put(makeSRAT(s)))
	}
	entries = append(entries, put(b.mcfg), put(b.waet))
	editFACP(blob[facp:facp+len(b.facp)], s, dsdtAt)
	rsdt := bytes.Clone(b.rsdtHeader)
	binary.LittleEndian.PutUint32(rsdt[4:], uint32(headerSize+4*len(entries)))
	for _, e := range entries {
		rsdt = binary.LittleEndian.AppendUint32(rsdt, uint32(e))
	}
	put(rsdt)
	return blob, tables
}

func editFACP(facp []byte, s Shape, dsdt int) {
	binary.LittleEndian.PutUint32(facp[40:], uint32(dsdt))
	binary.LittleEndian.PutUint64(facp[140:], uint64(dsdt))
	if s.SMM { // SMI_CMD, ACPI_ENABLE, ACPI_DISABLE
		binary.LittleEndian.PutUint32(facp[48:], 0xb2)
		facp[52], facp[53] = 2, 3
	}
	if s.VCPUs > 8 { // FORCE_APIC_CLUSTER_MODEL
		binary.LittleEndian.PutUint32(facp[112:], binary.LittleEndian.Uint32(facp[112:])|1<<18)
	}
}

// makeAPIC rebuilds the MADT (ACPI specification, 5.2.12): flags, a processor
// entry for each vCPU, then I/O APIC, overrides and NMI as in the base.
func (b *base) makeAPIC(s Shape) []byte {
	out := bytes.Clone(b.apic[:44])
	out[40] = 0
	if s.PIC {
		out[40] = 1 // PCAT_COMPAT
	}
	for i := range s.VCPUs {
		out = append(out, processorEntry(i)...)
	}
	for e := b.apic[44:]; len(e) > 1 && int(e[1]) >= 2 && int(e[1]) <= len(e); e = e[e[1]:] {
		switch entry := e[:e[1]]; {
		case entry[0] == 0 || entry[0] == 9: // processors
		case entry[0] == 2 && s.Family == Family82: // overrides: below
		case entry[0] == 4 && s.VCPUs > 255: // NMI on all, in x2APIC form
			out = append(out, 0x0a, 0x0c, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0)
		default:
			out = append(out, entry...)
		}
		if s.Family == Family82 && e[0] == 1 { // behind the I/O APIC
			out = appendEdgeOverrides(out)
		}
	}
	binary.LittleEndian.PutUint32(out[4:], uint32(len(out)))
	return out
}

// appendEdgeOverrides describes every legacy interrupt as active-high and
// edge-triggered, as the TDX branches of QEMU up to 9.1 do; the timer is
// global interrupt 2.
func appendEdgeOverrides(out []byte) []byte {
	for i := range byte(16) {
		gsi := i
		if i == 0 {
			gsi = 2
		}
		out = append(out, 2, 10, 0, i, gsi, 0, 0, 0, 5, 0)
	}
	return out
}

// processorEntry is the interrupt controller structure of vCPU i: Local APIC
// for APIC ids below 255, else Local x2APIC.
func processorEntry(i int) []byte {
	if i < 255 {
		return []byte{0, 8, byte(i), byte(i), 1, 0, 0, 0}
	}
	b := []byte{9, 16, 0, 0}
	b = binary.LittleEndian.AppendUint32(b, uint32(i))
	b = binary.LittleEndian.AppendUint32(b, 1)
	return binary.LittleEndian.AppendUint32(b, uint32(i))
}

func tableHeader(signature string, length int, revision byte) []byte {
	b := []byte(signature)
	b = binary.LittleEndian.AppendUint32(b, uint32(length))
	b = append(b, revision, 0)
	b = append(b, "BOCHS BXPC    "...)
	b = binary.LittleEndian.AppendUint32(b, 1)
	b = append(b, "BXPC"...)
	return binary.LittleEndian.AppendUint32(b, 1)
}

// makeHPET is QEMU's HPET table: timer block 8086:a201, at 0xfed00000.
func makeHPET() []byte {
	b := tableHeader("HPET", 56, 1)
	b = binary.LittleEndian.AppendUint32(b, 0x8086a201)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, 0xfed00000)
	return append(b, 0, 0, 0, 0)
}

// makeSRAT is the affinity table of one node (ACPI specification, 5.2.16;
// QEMU, hw/i386/acpi-build.c, build_srat).
func makeSRAT(s Shape) []byte {
	b := tableHeader("SRAT", 0, 1)
	b = binary.LittleEndian.AppendUint32(b, 1)
	b = append(b, make([]byte, 8)...)
	for i := range s.VCPUs {
		if i < 255 {
			b = append(b, 0, 16, 0, byte(i), 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
			continue
		}
		b = append(b, 2, 24, 0, 0, 0, 0, 0, 0)
		b = binary.LittleEndian.AppendUint32(b, uint32(i))
		b = binary.LittleEndian.AppendUint32(b, 1)
		b = append(b, make([]byte, 8)...)
	}
	memory := func(start, length uint64, enabled uint32) {
		b = append(b, 1, 40, 0, 0, 0, 0, 0, 0)
		b = binary.LittleEndian.AppendUint64(b, start)
		b = binary.LittleEndian.AppendUint64(b, length)
		b = append(b, 0, 0, 0, 0)
		b = binary.LittleEndian.AppendUint32(b, enabled)
		b = append(b, make([]byte, 8)...)
	}
	const lowEnd, highStart = 0xa0000, 0x100000 // around the hole below 1 MiB
	below4G := s.Memory
	if s.Memory >= lowSplit {
		below4G = lowMemoryEnd
	}
	ranges := 1
	memory(0, lowEnd, 1)
	if below4G > highStart {
		memory(highStart, below4G-highStart, 1)
		ranges++
	}
	if s.Memory > below4G {
		memory(s.highStart(below4G), s.Memory-below4G, 1)
		ranges++
	}
	for ; ranges < 3; ranges++ { // QEMU keeps room for nodes + 2 ranges
		memory(0, 0, 0)
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
	return b
}

// highStart is where memory above 4 GiB begins (QEMU, hw/i386/pc.c,
// pc_memory_init).
func (s Shape) highStart(below4G uint64) uint64 {
	const start, hyperTransport, moved, unit = 1 << 32, 0xFD00000000, 1 << 40, 1 << 30
	end := (start + s.Memory - below4G + unit - 1) / unit * unit
	if s.AMDCPU && end+s.hole64()-1 >= hyperTransport {
		return moved
	}
	return start
}

// pci64Window is the first and the last address of the 64-bit PCI window. It
// begins where the firmware put the first 64-bit device; without devices QEMU
// reports it right above memory, in whole GiB (QEMU, hw/pci-host/q35.c).
func (s Shape) pci64Window() (first, last uint64) {
	first = pci64Base
	if !s.hasDevices() {
		first = s.memoryEnd()
	}
	switch {
	case s.PCI64Max != 0:
		return first, s.PCI64Max
	case s.Base == SecretVM:
		// 32 GiB reserved for the empty port, 4 times 16 KiB of virtio BARs.
		return first, 0x38080000ffff
	case s.Base == SecretVMGPU:
		// 128 GiB and 48 MiB of BARs behind the port: found by search.
		return first, 0x38200300ffff
	}
	const unit = 1 << 30 // QEMU ends the window at a whole GiB
	return first, (first+s.hole64()+unit-1)/unit*unit - 1
}

// memoryEnd is the first whole GiB above memory.
func (s Shape) memoryEnd() uint64 {
	below4G := s.Memory
	if s.Memory >= lowSplit {
		below4G = lowMemoryEnd
	}
	const unit = 1 << 30
	return (s.highStart(below4G) + s.Memory - below4G + unit - 1) / unit * unit
}

// mostHole64 is the largest 64-bit PCI hole that QEMU starts with: it must end,
// counted from the end of memory, within what a processor of 52 address bits, the
// most that there are, can name (QEMU, hw/i386/pc.c, pc_memory_init and
// pc_max_used_gpa; QEMU 8.2 starts with the most and refuses one byte more). Of the real machines with GPUs some have 2^50.
func (s Shape) mostHole64() uint64 {
	const space = 1 << 52
	if end := s.memoryEnd(); end < space {
		return space - end
	}
	return 0
}

// hole64 is the least size of the 64-bit window. Devices of this package's
// shapes never need more.
func (s Shape) hole64() uint64 {
	if s.PCIHole64 != 0 {
		return s.PCIHole64
	}
	return defaultHole
}

func (s Shape) hasDevices() bool {
	return s.Base == SecretVM || s.Base == SecretVMGPU || len(s.Slots)+len(s.RootPorts) > 0
}

func sorted(s []int) []int { return slices.Sorted(slices.Values(s)) }
