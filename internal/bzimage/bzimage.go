// Package bzimage reads the setup header of a Linux bzImage and knows what QEMU
// writes into it before a guest's firmware measures the kernel (Linux,
// Documentation/arch/x86/boot.rst; QEMU, hw/i386/x86.c, x86_load_linux).
//
// The kernel's bytes are never changed: Overlay reads them with the edits in
// place.
package bzimage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/place"
)

const (
	window        = 0x260
	acpiReserve   = 0x28000    // what QEMU keeps free below the top of low memory
	initrdDefault = 0x37ffffff // where an initrd may end before protocol 2.03
	above4G       = 1 << 1     // XLF_CAN_BE_LOADED_ABOVE_4G
)

// Header is the part of a kernel's first sectors that loaders use.
type Header struct {
	// Protocol is the boot protocol, such as 0x20f; 0 without the signature
	// "HdrS": the file is no bzImage, and QEMU hands it over as it is.
	Protocol uint16
	raw      [window]byte
}

// Read reads the header of a file of the given size. A file that is shorter
// than a header has protocol 0.
func Read(r io.ReaderAt, size int64) (*Header, error) {
	h := &Header{}
	n := min(size, window)
	if got, err := r.ReadAt(h.raw[:n], 0); int64(got) < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, &place.Fault{Input: "kernel", Where: place.Where{}.At(int64(got)), Err: err}
	}
	if n == window && string(h.raw[0x202:0x206]) == "HdrS" {
		h.Protocol = binary.LittleEndian.Uint16(h.raw[0x206:])
	}
	return h, nil
}

// Edit is a run of bytes that QEMU writes into the header.
type Edit struct {
	Field  string
	Offset int64
	Bytes  []byte
}

// Load is what QEMU loads the kernel with.
type Load struct {
	Cmdline string // of -append
	Initrd  int64  // bytes; 0 without an initrd
	Below4G uint64 // bytes of guest memory below 4 GiB
}

// Below4G is the guest memory below 4 GiB of QEMU's machine types q35 and pc
// (QEMU, hw/i386/pc_q35.c and pc_piix.c).
func Below4G(machine string, memory uint64) (uint64, error) {
	switch {
	case machine == "q35" && memory < 0xb0000000, machine == "pc" && memory < 0xe0000000:
		return memory, nil
	case machine == "q35":
		return 0x80000000, nil
	case machine == "pc":
		return 0xc0000000, nil
	}
	return 0, &place.Fault{Op: "measure", Input: "kernel", Field: "machine type", Found: strconv.Quote(machine), Want: "q35 or pc"}
}

// Edits returns what QEMU before 10.2 writes into the header of a guest
// without SEV. A file without a header is not touched.
func (h *Header) Edits(l Load) ([]Edit, error) {
	p := h.Protocol
	if p == 0 {
		return nil, nil
	}
	var edits []Edit
	le := binary.LittleEndian
	put8 := func(field string, at int64, v byte) { edits = append(edits, Edit{field, at, []byte{v}}) }
	put16 := func(field string, at int64, v uint16) {
		edits = append(edits, Edit{field, at, le.AppendUint16(nil, v)})
	}
	put32 := func(field string, at int64, v uint32) {
		edits = append(edits, Edit{field, at, le.AppendUint32(nil, v)})
	}
	realMode, cmdline := uint32(0x10000), uint32(0x20000)
	if p < 0x202 || h.raw[0x211]&1 == 0 {
		realMode, cmdline = 0x90000, 0x9a000-uint32(len(l.Cmdline)+16)&^15
	}
	if p >= 0x202 {
		put32("cmd_line_ptr", 0x228, cmdline)
	} else {
		put16("cmd_line_magic", 0x20, 0xa33f)
		put16("cmd_line_offset", 0x22, uint16(cmdline-realMode))
	}
	if mode, ok, err := videoMode(l.Cmdline); err != nil {
		return nil, err
	} else if ok {
		put16("vid_mode", 0x1fa, mode)
	}
	if p >= 0x200 {
		put8("type_of_loader", 0x210, 0xb0)
	}
	if p >= 0x201 {
		put8("loadflags", 0x211, h.raw[0x211]|0x80)
		put16("heap_end_ptr", 0x224, uint16(cmdline-realMode-0x200))
	}
	if l.Initrd > 0 {
		address, err := h.initrdAddress(l)
		if err != nil {
			return nil, err
		}
		put32("ramdisk_image", 0x218, address)
		put32("ramdisk_size", 0x21c, uint32(l.Initrd))
	}
	return edits, nil
}

// videoMode reads vga= as QEMU does: the first occurrence anywhere in the
// command line, a number in any base of C, "normal", "ext" or "ask".
func videoMode(cmdline string) (mode uint16, ok bool, err error) {
	_, v, found := strings.Cut(cmdline, "vga=")
	if !found {
		return 0, false, nil
	}
	for word, mode := range map[string]uint16{"normal": 0xffff, "ext": 0xfffe, "ask": 0xfffd} {
		if strings.HasPrefix(v, word) {
			return mode, true, nil
		}
	}
	v, _, _ = strings.Cut(v, " ")
	n, err := strconv.ParseUint(v, 0, 32)
	if err != nil || strings.Contains(v, "_") || strings.HasPrefix(v, "0b") || strings.HasPrefix(v, "0o") {
		return 0, false, &place.Fault{Op: "measure", Input: "kernel", Field: "vga=", Found: strconv.Quote(v), Want: "a number, normal, ext or ask", Hint: "QEMU refuses to start with it"}
	}
	return uint16(n), true, nil
}

// initrdAddress is where QEMU loads the initrd: as high as the kernel and the
// memory below 4 GiB allow, at a page.
func (h *Header) initrdAddress(l Load) (uint32, error) {
	le := binary.LittleEndian
	limit := uint64(initrdDefault)
	switch {
	case h.Protocol < 0x200:
		return 0, &place.Fault{Op: "measure", Input: "kernel", Where: place.Where{}.At(0x206), Field: "version", Found: fmt.Sprintf("boot protocol %#x with an initrd", h.Protocol), Want: "at least 0x200", Hint: "such a kernel loads no initrd; measure it without one"}
	case h.Protocol >= 0x20c && le.Uint16(h.raw[0x236:])&above4G != 0:
		limit = 0xffffffff
	case h.Protocol >= 0x203:
		limit = uint64(le.Uint32(h.raw[0x22c:]))
	}
	if l.Below4G <= acpiReserve || l.Below4G > 1<<32 {
		return 0, &place.Fault{Op: "measure", Input: "kernel", Field: "memory below 4 GiB", Found: fmt.Sprintf("%d bytes", l.Below4G), Want: "more than 163840 and at most 4 GiB", Hint: "give the guest's memory"}
	}
	if limit >= l.Below4G-acpiReserve {
		limit = l.Below4G - acpiReserve - 1
	}
	if l.Initrd < 0 || uint64(l.Initrd) >= limit {
		return 0, &place.Fault{Op: "measure", Input: "initrd", Field: "size", Found: fmt.Sprintf("%d bytes", l.Initrd), Want: fmt.Sprintf("less than %d for this kernel and memory", limit)}
	}
	return uint32(limit-uint64(l.Initrd)) &^ 4095, nil
}

// Overlay reads r with edits in place of its bytes.
func Overlay(r io.ReaderAt, edits []Edit) io.ReaderAt { return overlay{r, edits} }

type overlay struct {
	r     io.ReaderAt
	edits []Edit
}

// ReadAt implements io.ReaderAt.
func (o overlay) ReadAt(p []byte, at int64) (int, error) {
	n, err := o.r.ReadAt(p, at)
	for _, e := range o.edits {
		for i, b := range e.Bytes {
			if j := e.Offset + int64(i) - at; j >= 0 && j < int64(n) {
				p[j] = b
			}
		}
	}
	return n, err
}
