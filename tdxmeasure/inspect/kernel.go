// Package inspect looks inside the files that TDX registers are measured
// from: what a kernel's setup header says and what the hypervisor writes into
// it, which files an initrd holds, which ACPI tables a blob has. Nothing is
// measured from what it takes apart.
package inspect

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/retally/retally/internal/authenticode"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/tdxmeasure"
)

// Field is a field of the setup header (Linux, Documentation/arch/x86/boot.rst).
type Field struct {
	Name   string `json:"name"`
	Offset int64  `json:"offset"`
	Value  string `json:"value"`          // hex, most significant digit first
	QEMU   string `json:"qemu,omitempty"` // what QEMU before 10.2 writes, if it writes
}

// Kernel is what a kernel image says about itself.
type Kernel struct {
	Protocol string  `json:"protocol"`
	Version  string  `json:"version,omitempty"`
	Fields   []Field `json:"fields"`
	// Authenticode digests of the file as it is and as QEMU before 10.2 hands
	// it over; SHA-384.
	Raw     digest.Digest `json:"raw"`
	Patched digest.Digest `json:"patched"`
	// Certificates is the size of the signature table, 0 for an unsigned one.
	Certificates int64 `json:"certificates"`
}

// setupFields are the fields by offset and size.
var setupFields = []struct {
	name   string
	offset int64
	size   int
}{
	{"setup_sects", 0x1f1, 1},
	{"syssize", 0x1f4, 4},
	{"boot_flag", 0x1fe, 2},
	{"header", 0x202, 4},
	{"version", 0x206, 2},
	{"kernel_version", 0x20e, 2},
	{"type_of_loader", 0x210, 1},
	{"loadflags", 0x211, 1},
	{"code32_start", 0x214, 4},
	{"ramdisk_image", 0x218, 4},
	{"ramdisk_size", 0x21c, 4},
	{"heap_end_ptr", 0x224, 4},
	{"cmd_line_ptr", 0x228, 4},
	{"initrd_addr_max", 0x22c, 4},
	{"kernel_alignment", 0x230, 4},
	{"relocatable_kernel", 0x234, 1},
	{"xloadflags", 0x236, 2},
	{"cmdline_size", 0x238, 4},
	{"payload_offset", 0x248, 4},
	{"payload_length", 0x24c, 4},
}

// ReadKernel reads the header and shows it next to what QEMU writes for an
// initrd and a memory of the given sizes in bytes.
func ReadKernel(ctx context.Context, in tdxmeasure.Input, initrd int64, memory uint64) (*Kernel, error) {
	k, err := tdxmeasure.ReadKernel(in)
	if err != nil {
		return nil, err
	}
	out := &Kernel{Protocol: fmt.Sprintf("%d.%02d", k.Protocol>>8, k.Protocol&0xff)}
	edits, err := k.Edits(initrd, memory, tdxmeasure.HeaderQEMU)
	if err != nil {
		return nil, err
	}
	written := map[int64]string{}
	for _, e := range edits {
		written[e.Offset] = number(e.Bytes)
	}
	for _, f := range setupFields {
		b := make([]byte, f.size)
		if _, err := in.R.ReadAt(b, f.offset); err != nil {
			return nil, fmt.Errorf("read %s: offset %#x: %w", in.Name, f.offset, err)
		}
		out.Fields = append(out.Fields, Field{Name: f.name, Offset: f.offset, Value: number(b), QEMU: written[f.offset]})
		delete(written, f.offset)
	}
	for _, e := range edits {
		if v, left := written[e.Offset]; left {
			out.Fields = append(out.Fields, Field{Name: e.Field, Offset: e.Offset, QEMU: v})
		}
	}
	out.Version = versionText(in)
	layout, err := authenticode.Parse(in.R, in.Size, authenticode.Options{PadTo8: true})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", in.Name, err)
	}
	out.Certificates = layout.Certificates.Size
	opt := authenticode.Options{PadTo8: true}
	if out.Raw, err = authenticode.Digest(ctx, digest.SHA384, in.R, in.Size, opt); err != nil {
		return nil, err
	}
	out.Patched, err = authenticode.Digest(ctx, digest.SHA384, k.Overlay(in.R, edits), in.Size, opt)
	return out, err
}

// number writes little-endian bytes as one hex number.
func number(b []byte) string {
	var v [8]byte
	copy(v[:], b)
	return fmt.Sprintf("0x%0*x", 2*len(b), binary.LittleEndian.Uint64(v[:]))
}

// versionText is the version that kernel_version points at.
func versionText(in tdxmeasure.Input) string {
	var p [2]byte
	if _, err := in.R.ReadAt(p[:], 0x20e); err != nil {
		return ""
	}
	at := int64(binary.LittleEndian.Uint16(p[:])) + 0x200
	if at == 0x200 || at >= in.Size {
		return ""
	}
	b := make([]byte, min(256, in.Size-at))
	if _, err := in.R.ReadAt(b, at); err != nil {
		return ""
	}
	text, _, _ := strings.Cut(string(b), "\x00")
	return text
}
