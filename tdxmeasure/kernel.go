package tdxmeasure

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/retally/retally/internal/bzimage"
)

// HeaderRule says which setup-header rule is applied to the kernel before it
// is measured.
type HeaderRule string

const (
	// HeaderQEMU is what QEMU before 10.2 writes.
	HeaderQEMU HeaderRule = "qemu"
	// HeaderDstack is HeaderQEMU as dstack-mr and tdx-measure have it: without
	// the case of boot protocols before 2.02.
	HeaderDstack HeaderRule = "dstack"
)

// HeaderEdit is a run of bytes that the hypervisor writes into the kernel's
// setup header.
type HeaderEdit = bzimage.Edit

// Kernel describes the setup header of a bzImage as far as loaders use it
// (Linux, Documentation/arch/x86/boot.rst).
type Kernel struct {
	Name     string
	Size     int64
	Protocol uint16 // 0 without the HdrS signature
	header   [headerWindow]byte
}

const (
	headerWindow  = 0x260
	minKernel     = 0x1000
	acpiReserve   = 0x28000    // what QEMU keeps free below the top of low memory
	initrdDefault = 0x37ffffff // where an initrd may end if the header is silent
)

// ReadKernel reads the setup header.
func ReadKernel(in Input) (*Kernel, error) {
	if in.Size < minKernel {
		return nil, &FileError{in.Name, &Error{Input: "kernel", Offset: -1, Found: fmt.Sprintf("%d bytes", in.Size), Want: "a kernel of at least 4096 bytes"}}
	}
	k := &Kernel{Name: in.Name, Size: in.Size}
	if _, err := in.R.ReadAt(k.header[:], 0); err != nil {
		return nil, fmt.Errorf("read %s: offset 0: %w", in.Name, err)
	}
	if string(k.header[0x202:0x206]) == "HdrS" {
		k.Protocol = binary.LittleEndian.Uint16(k.header[0x206:])
	}
	return k, nil
}

// Edits returns what QEMU before 10.2 writes into the header before the
// firmware measures the kernel, for an initrd and a guest memory of the given
// sizes in bytes (QEMU, hw/i386/x86-common.c, x86_load_linux). QEMU places
// the command line of kernels before protocol 2.02 by its length; the tools
// that measure do not, and neither does this: such kernels have no EFI stub.
func (k *Kernel) Edits(initrd int64, memory uint64, rule HeaderRule) ([]HeaderEdit, error) {
	var edits []HeaderEdit
	put8 := func(field string, at int64, v byte) {
		edits = append(edits, HeaderEdit{Field: field, Offset: at, Bytes: []byte{v}})
	}
	put16 := func(field string, at int64, v uint16) {
		edits = append(edits, HeaderEdit{Field: field, Offset: at, Bytes: binary.LittleEndian.AppendUint16(nil, v)})
	}
	put32 := func(field string, at int64, v uint32) {
		edits = append(edits, HeaderEdit{Field: field, Offset: at, Bytes: binary.LittleEndian.AppendUint32(nil, v)})
	}
	p := k.Protocol
	realMode, cmdline := uint32(0x10000), uint32(0x20000)
	if p < 0x200 || k.header[0x211]&1 == 0 || (p < 0x202 && rule != HeaderDstack) {
		realMode, cmdline = 0x90000, 0x9a000
	}
	if p >= 0x200 {
		put8("type_of_loader", 0x210, 0xb0)
	}
	if p >= 0x201 {
		put8("loadflags", 0x211, k.header[0x211]|0x80)
		put32("heap_end_ptr", 0x224, cmdline-realMode-0x200)
	}
	if p >= 0x202 {
		put32("cmd_line_ptr", 0x228, cmdline)
	} else {
		put16("cmd_line_magic", 0x20, 0xA33F)
		put16("cmd_line_offset", 0x22, uint16(cmdline-realMode))
	}
	if initrd <= 0 {
		return edits, nil
	}
	address, err := k.initrdAddress(initrd, memory)
	if err != nil {
		return nil, err
	}
	put32("ramdisk_image", 0x218, address)
	put32("ramdisk_size", 0x21c, uint32(initrd))
	return edits, nil
}

// initrdAddress is where QEMU loads the initrd: as high as the kernel and the
// memory below 4 GiB allow, at a page.
func (k *Kernel) initrdAddress(initrd int64, memory uint64) (uint32, error) {
	p := k.Protocol
	if p < 0x200 {
		return 0, &FileError{k.Name, &Error{
			Input: "kernel", Offset: 0x206, Found: fmt.Sprintf("boot protocol %#x with an initrd", p), Want: "at least 0x200",
			Hint: "such a kernel cannot load an initrd; measure it without one",
		}}
	}
	limit := uint32(initrdDefault)
	switch {
	case p >= 0x20c:
		if binary.LittleEndian.Uint16(k.header[0x236:])&0x40 != 0 {
			limit = 0xffffffff
		}
	case p >= 0x203:
		if v := binary.LittleEndian.Uint32(k.header[0x22c:]); v != 0 {
			limit = v
		}
	}
	low := uint64(lowMemorySplit)
	if memory >= lowMemorySplit {
		low = lowMemoryEnd
	}
	below4G := min(memory, low)
	if below4G <= acpiReserve {
		return 0, &Error{Input: "memory", Offset: -1, Found: fmt.Sprintf("%d bytes", memory), Want: "room for a kernel"}
	}
	limit = min(limit, uint32(below4G)-acpiReserve-1)
	if initrd >= int64(limit) {
		return 0, &Error{Input: "initrd", Offset: -1, Found: fmt.Sprintf("%d bytes", initrd), Want: fmt.Sprintf("less than %d for this kernel and memory", limit)}
	}
	return (limit - uint32(initrd)) &^ 4095, nil
}

// Overlay reads the kernel's bytes with the edits in place.
func (k *Kernel) Overlay(r io.ReaderAt, edits []HeaderEdit) io.ReaderAt {
	return bzimage.Overlay(r, edits)
}
