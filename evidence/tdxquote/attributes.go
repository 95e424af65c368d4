package tdxquote

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// Attributes are a TD's ATTRIBUTES as a number. The host chooses them when it
// makes the TD; the quote signs whatever it chose ("Intel TDX Module Base
// Architecture Specification", ATTRIBUTES).
type Attributes uint64

// The bits by name.
const (
	AttrDebug         Attributes = 1 << 0  // group TUD, bits 3:0
	AttrICSSD         Attributes = 1 << 16 // defense against single-stepping
	AttrServiceTDExt  Attributes = 1 << 17 // the report names service TDs in its extended part
	AttrLASS          Attributes = 1 << 27 // linear address space separation
	AttrSEPTVEDisable Attributes = 1 << 28 // no #VE on access to a pending page
	AttrMigratable    Attributes = 1 << 29
	AttrPKS           Attributes = 1 << 30 // supervisor protection keys
	AttrKeyLocker     Attributes = 1 << 31
	AttrTPA           Attributes = 1 << 62 // provisioning agent of TDX Connect
	AttrPerfmon       Attributes = 1 << 63

	attrUnderDebug     Attributes = 0x000f // group TUD
	attrUnderProfiling Attributes = 0xfff0 // group TUP; the first specification had 7:4 in TUD
	attrKnown                     = attrUnderDebug | attrUnderProfiling | AttrICSSD | AttrServiceTDExt | AttrLASS | AttrSEPTVEDisable |
		AttrMigratable | AttrPKS | AttrKeyLocker | AttrTPA | AttrPerfmon
)

// The bits of XFAM, which are those of XCR0 and IA32_XSS ("Intel SDM volume 1",
// section 13.1), as TDX modules let a host set them ("Intel TDX Module Base
// Architecture Specification", XFAM; the masks are those of Intel's published
// module, with APX of later ones).
const (
	xfamAlways  = 0x3 // x87 and SSE
	xfamAVX     = 1 << 2
	xfamAVX512  = 7 << 5
	xfamENQCMD  = 1 << 10 // only with TDX Connect
	xfamCET     = 3 << 11
	xfamAMX     = 3 << 17
	xfamAPX     = 1 << 19
	xfamAllowed = 0x6dbe7 | xfamENQCMD | xfamAPX
)

// Attributes returns the TD's attributes.
func (b *Body) Attributes() Attributes {
	return Attributes(binary.LittleEndian.Uint64(b.TDAttributes[:]))
}

// bitList names bits by number: "3, 17".
func bitList(v uint64) string {
	var out []string
	for ; v != 0; v &= v - 1 {
		out = append(out, fmt.Sprint(bits.TrailingZeros64(v)))
	}
	return strings.Join(out, ", ")
}

// checkAttributes judges what the host chose for the TD, each property that
// bears on its protection by a check of its own.
func (q *Quote) checkAttributes(l *verdict.List, o Options) {
	a := q.Body.Attributes()
	switch {
	case a&AttrDebug != 0:
		l.Fail("td-debug", "the debug bit is set: the host can read and change this TD's memory")
	case a&attrUnderDebug != 0:
		l.Fail("td-debug", fmt.Sprintf("TD attributes have bits of the under-debug group set: %#02x", uint64(a&attrUnderDebug)))
	case a&attrUnderProfiling != 0:
		l.Fail("td-debug", fmt.Sprintf("TD attributes have bits of the under-profiling group set: %#02x: the host can watch what this TD does", uint64(a&attrUnderProfiling)))
	default:
		l.Pass("td-debug", "the TD is not under debug")
	}
	switch unknown := a &^ attrKnown; {
	case unknown != 0:
		l.Fail("td-attributes", fmt.Sprintf("reserved TD attributes are set (bits %s of %x): what they do to the TD's protection is not known", bitList(uint64(unknown)), q.Body.TDAttributes))
	case a&AttrKeyLocker != 0:
		l.Open("td-attributes", "the Key Locker bit (31) is set, which no TDX module is known to allow: what it does to the TD's protection is not known")
	default:
		l.Pass("td-attributes", attributeText(a))
	}
	q.checkPendingVE(l, a, o.LinuxGuest)
	q.checkServiceTD(l, a, o.ServiceTD)
	if a&AttrTPA != 0 {
		l.Open("td-provisioning-agent", "the TD is a provisioning agent of TDX Connect (attributes bit 62), which serves the platform and runs no service of its own")
	}
	q.checkXFAM(l)
}

// attributeText names the bits that weaken nothing.
func attributeText(a Attributes) string {
	var names []string
	for _, x := range []struct {
		bit  Attributes
		name string
	}{{AttrICSSD, "single-step defense"}, {AttrLASS, "LASS"}, {AttrPKS, "supervisor protection keys"}, {AttrPerfmon, "performance counters of its own"}} {
		if a&x.bit != 0 {
			names = append(names, x.name)
		}
	}
	if names == nil {
		return "no reserved TD attribute is set"
	}
	return "no reserved TD attribute is set; the TD has " + strings.Join(names, ", ")
}

// checkPendingVE: without SEPT_VE_DISABLE the host can raise an exception in the
// TD at any access to memory, by taking a page away. Whether that harms depends
// on the guest: Linux refuses to start so, a paravisor may want it. Where the
// guest is known to be Linux, the bit must be there; else it is named and open.
func (q *Quote) checkPendingVE(l *verdict.List, a Attributes, linux bool) {
	const name = "td-sept-ve"
	switch {
	case a&AttrSEPTVEDisable != 0:
		l.Pass(name, "SEPT_VE_DISABLE is set: the host cannot raise an exception in the TD by taking memory away")
	case linux:
		l.Open(name, "SEPT_VE_DISABLE is not set: the host can raise an exception in the TD by taking memory away, and Linux does not start so without giving the bit another meaning")
	default:
		l.Note(name, "SEPT_VE_DISABLE is not set: the host can raise an exception in the TD by taking memory away; a paravisor handles that, a plain Linux guest must not run so")
	}
}

// checkServiceTD: a migratable TD can be moved by a migration TD, and a bound
// service TD reads and writes the TD's state. Both are as good as that other TD,
// which SERVTD_HASH names.
func (q *Quote) checkServiceTD(l *verdict.List, a Attributes, allowed []digest.Digest) {
	const migratable, service = "td-migratable", "td-service"
	b := &q.Body
	bound := q.BodyType >= TD15 && !zero(b.MRSERVICETD.Bytes())
	known := bound && slices.Contains(allowed, b.MRSERVICETD)
	switch {
	case a&AttrMigratable == 0 && q.BodyType < TD15:
		l.Pass(migratable, "the TD cannot be moved to another machine; whether another service TD is bound to it, a quote of this form does not say")
	case a&AttrMigratable == 0:
		l.Pass(migratable, "the TD cannot be moved to another machine")
	case known:
		l.Pass(migratable, "the TD can be moved by the service TD "+b.MRSERVICETD.Hex()+", which is on the allow-list")
	case bound:
		l.Open(migratable, "the TD can be moved to another machine by a migration TD; the one bound to it, "+b.MRSERVICETD.Hex()+", was not compared")
	default:
		l.Open(migratable, "the TD can be moved to another machine by a migration TD, and the quote does not say by which (no service TD in it)")
	}
	x := &b.Extended
	extended := q.BodyType >= TD15Ex && !(zero(x.InitServiceTDHash[:]) && zero(x.InitServiceTDAttr[:]) && zero(x.CurrentServiceTDHash[:]) && zero(x.CurrentServiceTDAttrs[:]))
	switch {
	case extended:
		l.Open(service, fmt.Sprintf("service TDs are or were bound to the TD (at first %x, now %x); they read and write its state and were not compared", x.InitServiceTDHash, x.CurrentServiceTDHash))
	case known:
		l.Pass(service, "the service TD bound to the TD, "+b.MRSERVICETD.Hex()+", is on the allow-list")
	case bound:
		l.Open(service, "a service TD is bound to the TD, MRSERVICETD "+b.MRSERVICETD.Hex()+"; it reads and writes the TD's state and was not compared")
	case a&AttrServiceTDExt != 0 && q.BodyType < TD15Ex:
		l.Open(service, "the TD reports its service TDs in an extended part (attributes bit 17) that this quote does not have")
	case q.BodyType >= TD15:
		l.Pass(service, "no service TD is bound to the TD")
	}
	if q.BodyType >= TD15Ex && x.VMID != 0 {
		l.Note("td-partition", fmt.Sprintf("the report is of partition %d inside of the TD", x.VMID))
	}
}

// checkXFAM: a TDX module lets a host choose only some sets of processor
// features; what no module allows was not made by one that is understood here.
func (q *Quote) checkXFAM(l *verdict.List) {
	const name = "td-xfam"
	x := binary.LittleEndian.Uint64(q.Body.XFAM[:])
	shown := hex.EncodeToString(q.Body.XFAM[:])
	whole := func(mask uint64) bool { return x&mask == 0 || x&mask == mask }
	switch {
	case x&^xfamAllowed != 0:
		l.Fail(name, fmt.Sprintf("XFAM %s has bits set that must be zero: %s", shown, bitList(x&^xfamAllowed)))
	case x&xfamAlways != xfamAlways:
		l.Fail(name, "XFAM "+shown+" lacks x87 or SSE, which every TD has")
	case !whole(xfamAVX512) || x&xfamAVX512 != 0 && x&xfamAVX == 0 || !whole(xfamCET) || !whole(xfamAMX):
		l.Fail(name, "XFAM "+shown+" has a part of a feature set (AVX-512, CET or AMX), which no TDX module allows")
	case x&xfamENQCMD != 0:
		l.Open(name, "XFAM "+shown+" lets the TD send work to devices (ENQCMD, bit 10), which is known of TDX Connect only")
	default:
		l.Pass(name, "XFAM "+shown+" is a set of processor features that a TDX module allows")
	}
}
