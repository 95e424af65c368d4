package tdxquote

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/evidence/verdict"
)

// Expectations are what a quote must be like beside its registers; the zero value
// of each expects nothing. Contrast's manifest has the same ("Reference values",
// TDX), and its names stand in the reasons.
type Expectations struct {
	TDAttributes, XFAM                 []byte // 8 bytes
	MRConfigID, MROwner, MROwnerConfig []byte // 48 bytes
	// MinimumTEETCBSVN bounds every byte of TEE_TCB_SVN from below.
	MinimumTEETCBSVN []byte // 16 bytes
	// MinimumQESVN and MinimumPCESVN bound the header's, which quotes since version
	// 4 leave at zero.
	MinimumQESVN, MinimumPCESVN uint64
	// MinimumEvaluation bounds the number of Intel's TCB recoveries that the
	// collateral knows.
	MinimumEvaluation uint64

	// Of the platform, by the PCK certificate. FMSPCs lists the kinds of processor
	// that are allowed, 6 bytes each, PIIDs the instances, 16 bytes each.
	FMSPCs, PIIDs                                [][]byte
	MemoryIntegrity, SMTDisabled, StaticPlatform bool
}

// Check holds a quote against what is expected. pck is the platform's certificate
// and tcb its level, each nil where it is not known: what rests on it stays
// unchecked then.
func (x *Expectations) Check(q *Quote, pck *PCK, tcb *TCB) []verdict.Check {
	var l verdict.List
	b := &q.Body
	for _, v := range []struct {
		name      string
		got, want []byte
	}{
		{"td_attributes", b.TDAttributes[:], x.TDAttributes},
		{"xfam", b.XFAM[:], x.XFAM},
		{"mrconfigid", b.MRCONFIGID[:], x.MRConfigID},
		{"mrowner", b.MROWNER[:], x.MROwner},
		{"mrownerconfig", b.MROWNERCONFIG[:], x.MROwnerConfig},
	} {
		if v.want != nil {
			l.Judge(v.name, bytes.Equal(v.got, v.want), "is "+hex.EncodeToString(v.got)+", as expected", fmt.Sprintf("is %x, expected is %x", v.got, v.want))
		}
	}
	if x.MinimumTEETCBSVN != nil {
		var least [16]byte
		copy(least[:], x.MinimumTEETCBSVN)
		low := 0 // the first byte that is short
		for low < len(least) && b.TEETCBSVN[low] >= least[low] {
			low++
		}
		l.Judge("tee_tcb_svn", low == len(least), fmt.Sprintf("no byte of %x is below %x", b.TEETCBSVN, least),
			fmt.Sprintf("byte %d of %x is below that of %x", low, b.TEETCBSVN, least))
	}
	for _, v := range []struct {
		name string
		got  uint16
		want uint64
	}{{"qe_svn", q.Header.QESVN, x.MinimumQESVN}, {"pce_svn", q.Header.PCESVN, x.MinimumPCESVN}} {
		if v.want > 0 {
			l.Judge(v.name, uint64(v.got) >= v.want, fmt.Sprintf("is %d, expected is at least %d", v.got, v.want), fmt.Sprintf("is %d in the header, expected is at least %d", v.got, v.want))
		}
	}
	const evaluation = "tcb-evaluation"
	switch {
	case x.MinimumEvaluation == 0:
	case tcb == nil:
		l.Open(evaluation, fmt.Sprintf("the number of the TCB evaluation, expected is at least %d, is known of collateral only, and none was judged", x.MinimumEvaluation))
	default:
		l.Judge(evaluation, tcb.Evaluation >= x.MinimumEvaluation, fmt.Sprintf("the collateral is of TCB evaluation %d, expected is at least %d", tcb.Evaluation, x.MinimumEvaluation),
			fmt.Sprintf("the collateral is of TCB evaluation %d, expected is at least %d: it does not know the newer security advisories", tcb.Evaluation, x.MinimumEvaluation))
	}
	x.checkPlatform(&l, pck)
	return l
}

// checkPlatform looks at what Intel certified about the machine.
func (x *Expectations) checkPlatform(l *verdict.List, pck *PCK) {
	if len(x.FMSPCs) > 0 {
		const name = "fmspc"
		if pck == nil {
			l.Open(name, "the PCK certificate cannot be read")
		} else {
			l.Judge(name, slices.ContainsFunc(x.FMSPCs, func(id []byte) bool { return bytes.Equal(id, pck.FMSPC[:]) }),
				fmt.Sprintf("is %x, as expected", pck.FMSPC), fmt.Sprintf("is %x, expected is %x", pck.FMSPC, x.FMSPCs[:min(4, len(x.FMSPCs))]))
		}
	}
	if len(x.PIIDs) > 0 {
		const name = "piid"
		switch {
		case pck == nil || pck.PIID == nil:
			l.Open(name, "the PCK certificate names no platform instance, and one of "+fmt.Sprint(len(x.PIIDs))+" is expected")
		default:
			shown := make([]string, 0, len(x.PIIDs))
			for _, id := range x.PIIDs[:min(4, len(x.PIIDs))] {
				shown = append(shown, hex.EncodeToString(id))
			}
			l.Judge(name, slices.ContainsFunc(x.PIIDs, func(id []byte) bool { return bytes.Equal(id, pck.PIID) }),
				fmt.Sprintf("the platform instance %x is one of those allowed", pck.PIID),
				fmt.Sprintf("the platform instance %x is none of those allowed (%s)", pck.PIID, strings.Join(shown, ", ")))
		}
	}
	if x.MemoryIntegrity {
		const name = "memory-integrity"
		switch {
		case pck == nil || pck.SGXType < 0:
			l.Open(name, "the PCK certificate does not say how the platform protects its memory")
		default:
			l.Judge(name, pck.SGXType == SGXScalableIntegrity, "the platform has cryptographic memory integrity",
				fmt.Sprintf("the platform has no cryptographic memory integrity (SGX type %d)", pck.SGXType))
		}
	}
	flag := func(name string, want bool, get func(*Configuration) *bool, pass, fail string) {
		if !want {
			return
		}
		var on *bool
		if pck != nil && pck.Configuration != nil {
			on = get(pck.Configuration)
		}
		if on == nil {
			l.Open(name, "the PCK certificate does not say whether "+fail)
			return
		}
		l.Judge(name, !*on, pass, fail)
	}
	flag("smt", x.SMTDisabled, func(c *Configuration) *bool { return c.SMT }, "hyper-threading is off", "hyper-threading is on")
	flag("static-platform", x.StaticPlatform, func(c *Configuration) *bool { return c.DynamicPlatform }, "the platform's packages cannot be added or replaced", "packages of the platform can be added or replaced")
}
