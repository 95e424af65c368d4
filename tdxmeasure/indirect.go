package tdxmeasure

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/retally/retally/internal/authenticode"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/trace"
)

// Indirect is a boot from a disk through shim and GRUB (virtee/tdx-measure;
// read, never compared with a machine here).
type Indirect struct {
	BootOrder []byte            // raw value of the variable
	Entries   map[uint16][]byte // raw values of the Boot#### variables that exist
	GPT       []byte            // the GPT header block and the entries behind it, from LBA 1 of the disk
	Shim      Input
	Grub      Input
	// MokList, MokListX and MokListTrusted are file contents.
	MokList, MokListX, MokListTrusted []byte
}

// sbatLevel is the data of shim's SbatLevel variable.
const sbatLevel = "sbat,1,2021030218\n"

const (
	gptHeader   = 92
	gptBlock    = 512
	maxGPTEntry = 4096
)

// GPTEvent makes the bytes measured for a partition table: the 92-byte header,
// the number of used entries, those entries (TCG PC Client Platform Firmware
// Profile, UEFI_GPT_DATA). disk starts at LBA 1; the entries follow the
// header's block.
func GPTEvent(disk []byte) ([]byte, error) {
	fail := func(offset int64, want, format string, args ...any) ([]byte, error) {
		return nil, &Error{Input: "partition table", Offset: offset, Found: fmt.Sprintf(format, args...), Want: want}
	}
	if len(disk) < gptBlock {
		return fail(-1, "at least a block of 512", "%d bytes", len(disk))
	}
	if string(disk[:8]) != "EFI PART" {
		return fail(0, `"EFI PART"`, "signature %q", disk[:8])
	}
	count, size := binary.LittleEndian.Uint32(disk[80:]), binary.LittleEndian.Uint32(disk[84:])
	if size < 16 || size > maxGPTEntry {
		return fail(84, fmt.Sprintf("16 to %d", maxGPTEntry), "entry size %d", size)
	}
	if uint64(count)*uint64(size) > uint64(len(disk)-gptBlock) {
		return fail(80, fmt.Sprintf("entries within %d bytes", len(disk)-gptBlock), "%d entries of %d bytes", count, size)
	}
	var used []byte
	n := uint64(0)
	for e := disk[gptBlock:]; count > 0; count, e = count-1, e[size:] {
		if [16]byte(e) != [16]byte{} {
			used = append(used, e[:size]...)
			n++
		}
	}
	out := append([]byte(nil), disk[:gptHeader]...)
	out = binary.LittleEndian.AppendUint64(out, n)
	return append(out, used...), nil
}

// MeasureIndirect computes the registers of a boot from disk: MRTD and the
// firmware part of RTMR0 as in a direct boot, the rest from in.
func (m *Measurer) MeasureIndirect(ctx context.Context, c *Config, in Indirect) (*Result, error) {
	r := &Result{Notes: append([]string{"the events of a boot from disk were read in a tool and never compared with a machine"}, c.Profile.Notes...)}
	var err error
	if r.MRTDTrace, err = m.mrtd(ctx, c); err != nil {
		return nil, err
	}
	firmware := *c
	firmware.Profile.RTMR0 = nil
	for _, e := range c.Profile.RTMR0 {
		switch e.Name {
		case EventOrder, EventOrder01, EventUiApp, EventMenuApp, EventFrontPage:
		default:
			firmware.Profile.RTMR0 = append(firmware.Profile.RTMR0, e)
		}
	}
	if r.RTMRTrace[0], err = m.rtmr0(ctx, &firmware); err != nil {
		return nil, err
	}
	if err := in.bootVariables(&r.RTMRTrace[0]); err != nil {
		return nil, err
	}
	if r.RTMRTrace[1], err = in.rtmr1(ctx, c); err != nil {
		return nil, err
	}
	if r.RTMRTrace[2], err = m.indirectRTMR2(ctx, c, in); err != nil {
		return nil, err
	}
	r.RTMRTrace[3] = newTrace(trace.Extend)
	if r.MRTD, err = r.MRTDTrace.Compute(); err != nil {
		return nil, err
	}
	for i := range r.RTMR {
		if r.RTMR[i], err = r.RTMRTrace[i].Compute(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (in *Indirect) bootVariables(t *Trace) error {
	if len(in.BootOrder)%2 != 0 {
		return &Error{Input: "BootOrder", Offset: -1, Found: fmt.Sprintf("%d bytes", len(in.BootOrder)), Want: "two for each entry"}
	}
	t.Made("BootOrder", in.BootOrder)
	for b := in.BootOrder; len(b) > 0; b = b[2:] {
		n := binary.LittleEndian.Uint16(b)
		if entry, ok := in.Entries[n]; ok {
			t.Made(fmt.Sprintf("Boot%04X", n), entry)
		}
	}
	t.Made("variable SbatLevel", Variable(guidShim, "SbatLevel", []byte(sbatLevel)))
	return nil
}

func (in *Indirect) rtmr1(ctx context.Context, c *Config) (Trace, error) {
	t := newTrace(trace.Extend)
	t.Made("action "+actionCalling, []byte(actionCalling))
	t.Made("separator", make([]byte, 4))
	gpt, err := GPTEvent(in.GPT)
	if err != nil {
		return t, err
	}
	t.Made("partition table", gpt)
	for _, image := range []struct {
		name string
		in   Input
	}{{"shim", in.Shim}, {"GRUB", in.Grub}} {
		if image.in.R == nil {
			return t, missing(image.name, "the file from the EFI system partition")
		}
		d, err := authenticode.Digest(ctx, digest.SHA384, image.in.R, image.in.Size, c.Profile.Authenticode)
		if err != nil {
			return t, &FileError{image.in.Name, err}
		}
		t.Add(image.name+", Authenticode", d, trace.Origin{Input: image.in.Name, Size: image.in.Size})
	}
	t.Made("action "+actionExit, []byte(actionExit))
	t.Made("action "+actionExited, []byte(actionExited))
	return t, nil
}

// indirectRTMR2 has the machine owner key lists, the command line without an
// end mark, and the initrd.
func (m *Measurer) indirectRTMR2(ctx context.Context, c *Config, in Indirect) (Trace, error) {
	t := newTrace(trace.Extend)
	t.Made("MokList", in.MokList)
	t.Made("MokListX", in.MokListX)
	t.Made("MokListTrusted", in.MokListTrusted)
	units, err := UTF16("command line", c.Cmdline)
	if err != nil {
		return t, err
	}
	t.Made("kernel command line", units)
	d, err := m.fileDigest(ctx, "initrd", m.Initrd, digest.SHA384)
	if err != nil {
		return t, err
	}
	t.Add("initrd", d, trace.Origin{Input: m.Initrd.Name, Size: m.Initrd.Size})
	return t, nil
}
