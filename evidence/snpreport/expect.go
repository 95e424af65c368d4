package snpreport

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// Expectations are what a report must say, as data. What is nil or empty is not
// compared, and the checks say so where it matters.
type Expectations struct {
	Product      Product
	Measurements []digest.Digest // SHA-384; one of them
	HostData     [][32]byte      // one of them
	ReportData   *[64]byte

	// Policy is the loosest that the guest may run under: every allowance of the
	// report's must be one of it, every demand of it must be one of the
	// report's, and the least ABI must not be below it.
	Policy *Policy
	// PlatformInfo likewise: no more of SMT_EN and TIO_EN, no less of the rest.
	PlatformInfo *PlatformInfo

	MinimumTCB       *Components // REPORTED_TCB, component by component
	MinimumLaunchTCB *Components
	MinimumGuestSVN  uint32
	MinimumFirmware  *FirmwareVersion // COMMITTED version

	// Bits of LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR that must be set.
	LaunchMitVector, CurrentMitVector uint64

	VMPL             *uint32
	ChipIDs          [][]byte // 64 bytes each, on Turin 8 or 64; one of them
	IDKeyDigests     []digest.Digest
	AuthorKeyDigests []digest.Digest
	FamilyID         *[16]byte
	ImageID          *[16]byte
}

// Protection says whether the hardware protects what was measured, whatever that
// is: a guest under debug, or one that a migration agent may carry away, can be
// read and changed by others after its launch. allowed may be nil; else it is
// the loosest policy, whose debug and migration bits are allowed.
func (r *Report) Protection(allowed *Policy) []verdict.Check {
	var l verdict.List
	var limit Policy
	if allowed != nil {
		limit = *allowed
	}
	switch {
	case r.Policy&PolicyDebug == 0:
		l.Pass("policy-debug", "the policy forbids debugging")
	case limit&PolicyDebug != 0:
		l.Pass("policy-debug", "the policy allows debugging, which is expected: the host can read and change this guest's memory")
	default:
		l.Fail("policy-debug", "the policy allows debugging (bit 19): the host can read and change this guest's memory")
	}
	switch {
	case r.Policy&PolicyMigrateMA == 0:
		l.Pass("policy-migration", "the policy allows no migration agent")
	case limit&PolicyMigrateMA != 0:
		l.Pass("policy-migration", "the policy allows a migration agent, which is expected")
	default:
		l.Fail("policy-migration", "the policy allows a migration agent (bit 18), which can carry the guest away; its report id is "+hex.EncodeToString(r.ReportIDMA[:]))
	}
	if u := r.Policy.Unknown(); u != 0 {
		l.Fail("policy-bits", fmt.Sprintf("the policy has bits of unknown meaning: %#x", uint64(u)))
	}
	if u := r.PlatformInfo.Unknown(); u != 0 {
		l.Open("platform-bits", fmt.Sprintf("the platform information has bits of unknown meaning: %#x", uint64(u)))
	}
	return l
}

// Check compares a report with expectations. It includes Protection. A report
// whose measurement nobody expects stays unchecked. certified is the product by
// the certificate (Result.Product), for reports that do not name theirs.
func (e *Expectations) Check(r *Report, certified Product) []verdict.Check {
	l := verdict.List(r.Protection(e.Policy))
	if len(e.Measurements) == 0 {
		l.Open("measurement", "no expected launch digest was given; the report has "+r.Measurement.Hex())
	} else {
		oneDigest(&l, "measurement", "launch digest", r.Measurement, e.Measurements)
	}
	e.checkData(&l, r)
	e.checkPolicy(&l, r)
	e.checkTCB(&l, r)
	e.checkProduct(&l, r, certified)
	e.checkIdentity(&l, r)
	return l
}

// oneDigest: a value is one of those expected. A value of zeros is the absence
// of one, and is expected only by whoever lists it.
func oneDigest(l *verdict.List, name, what string, got digest.Digest, want []digest.Digest) {
	text := make([]string, 0, len(want))
	for _, w := range want {
		text = append(text, w.Hex())
	}
	found := got.Hex()
	if got.IsZero() || len(bytes.Trim(got.Bytes(), "\x00")) == 0 {
		found = "none (zero)"
	}
	l.Judge(name, slices.Contains(want, got), "the "+what+" is "+found+", as expected",
		"the "+what+" is "+found+", expected is "+strings.Join(text, " or "))
}

func (e *Expectations) checkData(l *verdict.List, r *Report) {
	if len(e.HostData) > 0 {
		text := make([]string, 0, len(e.HostData))
		for _, d := range e.HostData {
			text = append(text, hex.EncodeToString(d[:]))
		}
		l.Judge("host-data", slices.Contains(e.HostData, r.HostData), "the host data is "+hex.EncodeToString(r.HostData[:])+", as expected",
			"the host data is "+hex.EncodeToString(r.HostData[:])+", expected is "+strings.Join(text, " or "))
	} else if r.HostData != [32]byte{} {
		l.Note("host-data", "no expected host data was given; the report has "+hex.EncodeToString(r.HostData[:]))
	}
	if e.ReportData != nil {
		l.Judge("report-data", r.ReportData == *e.ReportData, "the report data is as expected",
			fmt.Sprintf("the report data is %x, expected is %x", r.ReportData, *e.ReportData))
	}
}

func (e *Expectations) checkPolicy(l *verdict.List, r *Report) {
	if e.Policy != nil {
		want := *e.Policy
		loose := looser(uint64(r.Policy), uint64(want), policyBits())
		if older := r.Policy.ABIMajor() < want.ABIMajor() || r.Policy.ABIMajor() == want.ABIMajor() && r.Policy.ABIMinor() < want.ABIMinor(); older {
			loose = strings.TrimPrefix(loose+", the least ABI is lower", ", ")
		}
		l.Judge("policy", loose == "", "the policy is "+r.Policy.String()+", no looser than expected",
			"the policy is "+r.Policy.String()+", looser than the expected "+want.String()+": "+loose)
	}
	if e.PlatformInfo != nil {
		want := *e.PlatformInfo
		loose := looser(uint64(r.PlatformInfo), uint64(want), platformBits())
		l.Judge("platform-info", loose == "", "the platform is "+r.PlatformInfo.String()+", no weaker than expected",
			"the platform is "+r.PlatformInfo.String()+", weaker than the expected "+want.String()+": "+loose)
	}
	if e.VMPL != nil {
		l.Judge("vmpl", r.VMPL == *e.VMPL, fmt.Sprintf("the report was asked for at VMPL %d, as expected", r.VMPL),
			fmt.Sprintf("the report was asked for at VMPL %d, expected is VMPL %d", r.VMPL, *e.VMPL))
	}
}

func (e *Expectations) checkTCB(l *verdict.List, r *Report) {
	for _, t := range []struct {
		name, what string
		got        TCB
		minimum    *Components
	}{{"tcb", "reported TCB", r.ReportedTCB, e.MinimumTCB}, {"launch-tcb", "TCB at launch", r.LaunchTCB, e.MinimumLaunchTCB}} {
		if t.minimum == nil {
			continue
		}
		got := r.Components(t.got)
		below := got.Below(*t.minimum)
		l.Judge(t.name, below == "", "the "+t.what+" ("+got.Text(r.Product())+") reaches the minimum",
			"the "+t.what+" is below the minimum: "+below)
	}
	if e.MinimumGuestSVN > 0 {
		l.Judge("guest-svn", r.GuestSVN >= e.MinimumGuestSVN, fmt.Sprintf("the guest's security version %d reaches the minimum", r.GuestSVN),
			fmt.Sprintf("the guest's security version is %d, the minimum is %d", r.GuestSVN, e.MinimumGuestSVN))
	}
	if m := e.MinimumFirmware; m != nil {
		order := func(v FirmwareVersion) []int { return []int{int(v.Major), int(v.Minor), int(v.Build)} }
		l.Judge("firmware", slices.Compare(order(r.Committed), order(*m)) >= 0, "the committed firmware "+r.Committed.String()+" reaches the minimum",
			"the committed firmware is "+r.Committed.String()+", the minimum is "+m.String())
	}
	for _, v := range []struct {
		name      string
		got, want uint64
	}{{"launch-mitigations", r.LaunchMitVector, e.LaunchMitVector}, {"current-mitigations", r.CurrentMitVector, e.CurrentMitVector}} {
		if v.want == 0 {
			continue
		}
		if r.Version < 5 {
			l.Open(v.name, fmt.Sprintf("a report of version %d does not state mitigations", r.Version))
			continue
		}
		l.Judge(v.name, v.got&v.want == v.want, fmt.Sprintf("the mitigations %#x are there", v.want),
			fmt.Sprintf("the mitigations are %#x, expected is %#x", v.got, v.want))
	}
}

func (e *Expectations) checkProduct(l *verdict.List, r *Report, certified Product) {
	own := r.Product()
	if own == "" {
		own = certified
	}
	switch {
	case e.Product == "":
	case own == "":
		l.Open("expected-product", "a report of version 2 does not name the processor and no certificate does, expected is "+string(e.Product))
	default:
		l.Judge("expected-product", own == e.Product, "the processor is of "+string(own)+", as expected", "the processor is of "+string(own)+", expected is "+string(e.Product))
	}
}

func (e *Expectations) checkIdentity(l *verdict.List, r *Report) {
	if len(e.ChipIDs) > 0 {
		listed := slices.ContainsFunc(e.ChipIDs, func(id []byte) bool { return bytes.Equal(id, r.ChipID[:]) || bytes.Equal(id, r.chip()) })
		switch {
		case r.ChipIDMasked():
			l.Fail("chip-id", "the report hides its chip's id, so the chip is not known to be on the list")
		default:
			l.Judge("chip-id", listed, "the chip "+r.ChipIDHex()+" is on the list", fmt.Sprintf("the chip %s is not on the list of %d", r.ChipIDHex(), len(e.ChipIDs)))
		}
	}
	if len(e.IDKeyDigests) > 0 {
		oneDigest(l, "id-key-digest", "ID key digest", r.IDKeyDigest, e.IDKeyDigests)
	}
	if len(e.AuthorKeyDigests) > 0 {
		oneDigest(l, "author-key-digest", "author key digest", r.AuthorKeyDigest, e.AuthorKeyDigests)
	}
	for _, id := range []struct {
		name, what string
		got        [16]byte
		want       *[16]byte
	}{{"family-id", "family id", r.FamilyID, e.FamilyID}, {"image-id", "image id", r.ImageID, e.ImageID}} {
		if id.want != nil {
			l.Judge(id.name, id.got == *id.want, fmt.Sprintf("the %s is %x, as expected", id.what, id.got), fmt.Sprintf("the %s is %x, expected is %x", id.what, id.got, *id.want))
		}
	}
}
