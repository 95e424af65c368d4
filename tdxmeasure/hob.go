package tdxmeasure

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/retally/retally/internal/ovmf"
)

// HOBOptions are the switches of the TD HOB.
type HOBOptions struct {
	// FixedLayout takes the memory layout of edk2-stable202411 to 202502 as
	// SecretVM builds them, whatever the sections say, as reproduce-mr does.
	FixedLayout bool
	// FirstBase takes the list's address from the first TD_HOB section
	// instead of the last, as reproduce-mr does.
	FirstBase bool
}

const (
	defaultHOBBase = 0x809000
	// lowMemorySplit and lowMemoryEnd are QEMU's q35 rule: a guest with at
	// least 2816 MiB has 2 GiB below 4 GiB (hw/i386/pc_q35.c).
	lowMemorySplit = 0xB0000000
	lowMemoryEnd   = 0x80000000
	// MaxMemory is the largest guest measured: 52 bits of physical address.
	MaxMemory = 1 << 52
)

type memoryRange struct {
	start, end uint64
	accepted   bool
}

// fixedLayout are the accepted ranges that reproduce-mr has as constants.
func fixedLayout() []memoryRange {
	return []memoryRange{
		{0x800000, 0x806000, true},
		{0x809000, 0x80B000, true},
		{0x80B000, 0x80D000, true},
		{0x811000, 0x820000, true},
	}
}

// TDHOB makes the bytes of the hand-off block list that QEMU places in the
// guest and OVMF measures (UEFI Platform Initialization, volume 3, hand-off
// blocks; QEMU's tdvf-hob.c). memory is the guest's size in bytes. The
// end-of-list block is not part of what is measured.
func TDHOB(sections []ovmf.Section, memory uint64, opt HOBOptions) ([]byte, error) {
	if memory == 0 || memory > MaxMemory {
		return nil, &Error{Input: "memory", Offset: -1, Found: fmt.Sprintf("%d bytes", memory), Want: "1 byte to 4 PiB"}
	}
	base := uint64(defaultHOBBase)
	ranges := []memoryRange{{0, memory, false}}
	haveBase := false
	for _, s := range sections {
		if s.Type == ovmf.TDHOB && !(haveBase && opt.FirstBase) {
			base, haveBase = s.MemoryAddress, true
		}
		if !opt.FixedLayout && (s.Type == ovmf.TDHOB || s.Type == ovmf.TempMem) {
			ranges = accept(ranges, s.MemoryAddress, s.MemoryAddress+s.MemorySize)
		}
	}
	if opt.FixedLayout {
		for _, r := range fixedLayout() {
			ranges = accept(ranges, r.start, r.end)
		}
	}
	hob := handoffBlock()
	last := ranges[len(ranges)-1]
	for _, r := range ranges[:len(ranges)-1] {
		hob = appendResource(hob, r.accepted, r.start, r.end-r.start)
	}
	// The last range is cut at the hole below 4 GiB, and counts as unaccepted
	// whatever it was.
	if memory < lowMemorySplit {
		hob = appendResource(hob, false, last.start, last.end-last.start)
	} else {
		if last.start < lowMemoryEnd {
			hob = appendResource(hob, false, last.start, lowMemoryEnd-last.start)
		}
		if last.end > lowMemoryEnd {
			hob = appendResource(hob, false, 1<<32, last.end-lowMemoryEnd)
		}
	}
	binary.LittleEndian.PutUint64(hob[48:], base+uint64(len(hob))+8)
	return hob, nil
}

// accept cuts [start, end) out of the unaccepted ranges and adds it as
// accepted. Accepted ranges are left as they are, also where they overlap.
func accept(ranges []memoryRange, start, end uint64) []memoryRange {
	if start >= end {
		return ranges
	}
	out := make([]memoryRange, 0, len(ranges)+2)
	for _, r := range ranges {
		if r.accepted || r.end <= start || r.start >= end {
			out = append(out, r)
			continue
		}
		if r.start < start {
			out = append(out, memoryRange{r.start, start, false})
		}
		if r.end > end {
			out = append(out, memoryRange{end, r.end, false})
		}
	}
	out = append(out, memoryRange{start, end, true})
	slices.SortStableFunc(out, func(a, b memoryRange) int {
		switch {
		case a.start < b.start:
			return -1
		case a.start > b.start:
			return 1
		default:
			return 0
		}
	})
	return out
}

func handoffBlock() []byte {
	b := make([]byte, 56)
	binary.LittleEndian.PutUint16(b, 1) // EFI_HOB_TYPE_HANDOFF
	binary.LittleEndian.PutUint16(b[2:], 56)
	binary.LittleEndian.PutUint32(b[8:], 9) // EFI_HOB_HANDOFF_TABLE_VERSION
	return b
}

func appendResource(hob []byte, accepted bool, start, length uint64) []byte {
	b := make([]byte, 48)
	binary.LittleEndian.PutUint16(b, 3) // EFI_HOB_TYPE_RESOURCE_DESCRIPTOR
	binary.LittleEndian.PutUint16(b[2:], 48)
	if !accepted {
		binary.LittleEndian.PutUint32(b[24:], 7) // EFI_RESOURCE_MEMORY_UNACCEPTED
	}
	binary.LittleEndian.PutUint32(b[28:], 7) // present, initialized, tested
	binary.LittleEndian.PutUint64(b[32:], start)
	binary.LittleEndian.PutUint64(b[40:], length)
	return append(hob, b...)
}
