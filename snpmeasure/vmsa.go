package snpmeasure

import (
	"encoding/binary"
	"math"
)

// Offsets in the VMSA (APM volume 2, table B-2).
const (
	vmsaES       = 0x000
	vmsaCS       = 0x010
	vmsaSS       = 0x020
	vmsaDS       = 0x030
	vmsaFS       = 0x040
	vmsaGS       = 0x050
	vmsaGDTR     = 0x060
	vmsaLDTR     = 0x070
	vmsaIDTR     = 0x080
	vmsaTR       = 0x090
	vmsaEFER     = 0x0d0
	vmsaCR4      = 0x148
	vmsaCR0      = 0x158
	vmsaDR7      = 0x160
	vmsaDR6      = 0x168
	vmsaRFLAGS   = 0x170
	vmsaRIP      = 0x178
	vmsaPAT      = 0x268
	vmsaRDX      = 0x310
	vmsaFeatures = 0x3b0
	vmsaXCR0     = 0x3e8
	vmsaMXCSR    = 0x408
	vmsaFCW      = 0x410
)

// bspEIP is where the first CPU starts: the reset vector.
const bspEIP = 0xffff_fff0

// vmsa is the page of registers that a CPU starts with. The zero value is a
// page of zeros.
type vmsa [4096]byte

func (v *vmsa) u16(at int, x uint16) { binary.LittleEndian.PutUint16(v[at:], x) }
func (v *vmsa) u32(at int, x uint32) { binary.LittleEndian.PutUint32(v[at:], x) }
func (v *vmsa) u64(at int, x uint64) { binary.LittleEndian.PutUint64(v[at:], x) }

func (v *vmsa) segment(at int, selector, attributes uint16, limit uint32, base uint64) {
	v.u16(at, selector)
	v.u16(at+2, attributes)
	v.u32(at+4, limit)
	v.u64(at+8, base)
}

// start is what differs between the VMMs.
type start struct {
	cs, ss, tr uint16 // attributes
	rdx, pat   uint64
	mxcsr      uint32
	fcw        uint16
}

const resetPAT = 0x0007_0406_0007_0406 // the architecture's reset value

func (c *Config) start(eip uint32) start {
	switch c.VMM {
	case EC2:
		s := start{cs: 0x9b, ss: 0x92, tr: 0x83, rdx: 0x600, pat: resetPAT}
		if eip == bspEIP {
			s.cs = 0x9a
		}
		if c.has(EC2RDXZero) {
			s.rdx = 0
		}
		return s
	case GCE:
		return start{cs: 0x9b, ss: 0x93, tr: 0x8b, rdx: 0x600, pat: 0x0000_0000_0007_0106}
	case Krun:
		return start{cs: 0x9a, ss: 0x92, tr: 0x83, pat: resetPAT}
	default:
		return start{cs: 0x9b, ss: 0x93, tr: 0x8b, rdx: uint64(c.CPU.Sig), pat: resetPAT, mxcsr: 0x1f80, fcw: 0x37f}
	}
}

// registers are the registers of a CPU that starts in real mode at eip.
func (c *Config) registers(eip uint32) *vmsa {
	v, s := new(vmsa), c.start(eip)
	for _, at := range []int{vmsaES, vmsaDS, vmsaFS, vmsaGS} {
		v.segment(at, 0, 0x93, math.MaxUint16, 0)
	}
	v.segment(vmsaCS, 0xf000, s.cs, math.MaxUint16, uint64(eip&0xffff_0000))
	v.segment(vmsaSS, 0, s.ss, math.MaxUint16, 0)
	v.segment(vmsaTR, 0, s.tr, math.MaxUint16, 0)
	v.common()
	v.u64(vmsaCR0, 0x10)
	v.u64(vmsaRIP, uint64(eip&0xffff))
	v.u64(vmsaPAT, s.pat)
	v.u64(vmsaRDX, s.rdx)
	if c.Mode != SEVES {
		v.u64(vmsaFeatures, c.Features)
	}
	v.u32(vmsaMXCSR, s.mxcsr)
	v.u16(vmsaFCW, s.fcw)
	return v
}

// svsmRegisters are the registers with which QEMU starts an SVSM: 32-bit code
// in flat segments. The x87 control word is 0, as on hardware whose reports
// were recomputed.
func (c *Config) svsmRegisters(rip uint64) *vmsa {
	v := new(vmsa)
	for _, at := range []int{vmsaES, vmsaSS, vmsaDS, vmsaFS} {
		v.segment(at, 0x10, 0xc93, math.MaxUint32, 0)
	}
	v.segment(vmsaCS, 8, 0xc9b, math.MaxUint32, 0)
	v.segment(vmsaGS, 0, 0x93, math.MaxUint16, 0)
	v.segment(vmsaTR, 0, 0x8b, math.MaxUint16, 0)
	v.common()
	v.u64(vmsaCR0, 0x11)
	v.u64(vmsaRIP, rip)
	v.u64(vmsaPAT, resetPAT)
	v.u64(vmsaRDX, uint64(c.CPU.Sig))
	v.u64(vmsaFeatures, 1)
	v.u32(vmsaMXCSR, 0x1f80)
	return v
}

// common sets what every start has.
func (v *vmsa) common() {
	v.segment(vmsaGDTR, 0, 0, math.MaxUint16, 0)
	v.segment(vmsaIDTR, 0, 0, math.MaxUint16, 0)
	v.segment(vmsaLDTR, 0, 0x82, math.MaxUint16, 0)
	v.u64(vmsaEFER, 0x1000)
	v.u64(vmsaCR4, 0x40)
	v.u64(vmsaDR7, 0x400)
	v.u64(vmsaDR6, 0xffff_0ff0)
	v.u64(vmsaRFLAGS, 2)
	v.u64(vmsaXCR0, 1)
}
