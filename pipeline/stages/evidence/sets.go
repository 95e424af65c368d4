package evidence

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
)

// ManifestSets makes each TDX reference value of a Contrast manifest a
// set: registers that hold together, and what the entry demands beside them. A
// demand that cannot be judged, or is not understood, stays unchecked.
func ManifestSets(file string, m *manifest.Manifest) ([]evidence.ReferenceSet, error) {
	var sets []evidence.ReferenceSet
	var policies []string
	for _, p := range m.Policies() {
		if !p.Hash.IsZero() {
			policies = append(policies, p.Hash.Hex())
		}
	}
	misread := flaws(m)
	for _, e := range m.TDX() {
		set := evidence.ReferenceSet{
			Group: file, Name: cmp.Or(e.Platform, "TDX entry"), Where: fmt.Sprintf("line %d", e.Line), Registers: map[evidence.Register]digest.Digest{},
		}
		add := func(r evidence.Register, text, field string) error {
			if text == "" {
				return nil
			}
			d, err := digest.ParseHex(digest.SHA384, text)
			if err != nil {
				return &pipeline.InputError{Op: "read manifest", File: file, Err: fmt.Errorf("line %d: %s/%s: %w", e.Line, e.Pointer, field, err)}
			}
			set.Registers[r] = d
			return nil
		}
		errs := []error{add(evidence.MRTD, e.MrTd, "MrTd"), add(evidence.MRSEAM, e.MrSeam, "MrSeam")}
		if len(e.Rtmrs) > 4 {
			errs = append(errs, &pipeline.InputError{Op: "read manifest", File: file, Err: fmt.Errorf("line %d: %s/Rtmrs: %d registers, a machine has 4", e.Line, e.Pointer, len(e.Rtmrs))})
			e.Rtmrs = nil
		}
		for i, text := range e.Rtmrs {
			errs = append(errs, add(evidence.Registers()[1+i], text, fmt.Sprintf("Rtmrs/%d", i)))
		}
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
		open := misread(e.Pointer)
		set.Demands = func(r *evidence.Result) []verdict.Check { return append(tdxDemands(&e, policies, r), open...) }
		if len(set.Registers) > 0 {
			sets = append(sets, set)
		}
	}
	if len(sets) == 0 {
		return nil, &pipeline.InputError{Op: "read manifest", File: file, Err: errors.New("has no TDX reference value"), Hint: "evidence of other processors is not verified yet"}
	}
	return sets, nil
}

// flaws finds what of a reference value was not understood: members of a wrong
// type, out of range, or unknown may demand something that nobody compares.
func flaws(m *manifest.Manifest) func(pointer string) verdict.List {
	problems := m.Validate()
	return func(pointer string) verdict.List {
		var open verdict.List
		for _, p := range problems {
			under := p.Pointer == "" || p.Pointer == pointer || strings.HasPrefix(p.Pointer, pointer+"/")
			if p.Severity != manifest.SeverityWarning && under {
				open.Open("manifest", fmt.Sprintf("line %d: %s: %s", p.Line, p.Pointer, p.Msg))
			}
		}
		return open
	}
}

// tdxDemands judges what a TDX reference value demands beside registers.
func tdxDemands(e *manifest.TDXEntry, policies []string, r *evidence.Result) []verdict.Check {
	q := r.Claims.Quote
	if r.Quote == nil || q == nil {
		return []verdict.Check{{Name: "quote", Verdict: verdict.Fail, Reason: "the evidence is no TDX quote"}}
	}
	var checks verdict.List
	// A value that is no hex of the right size was found when the manifest was read,
	// and stays unchecked: flaws.
	bytesOf := func(text string, size int) []byte {
		b, err := hex.DecodeString(text)
		if err != nil || len(b) != size {
			return nil
		}
		return b
	}
	x := &tdxquote.Expectations{
		XFAM: bytesOf(e.Xfam, 8), MinimumQESVN: orZero(e.MinimumQeSvn), MinimumPCESVN: orZero(e.MinimumPceSvn), MinimumEvaluation: orZero(e.MinTCBEvaluationDataNumber),
		MemoryIntegrity: isTrue(e.MemoryIntegrity), SMTDisabled: isTrue(e.SMTDisabled), StaticPlatform: isTrue(e.StaticPlatform),
	}
	for _, v := range []struct {
		name string
		text *string
		size int
		to   *[]byte
	}{{"TdAttributes", e.TdAttributes, 8, &x.TDAttributes}, {"MinimumTeeTcbSvn", e.MinimumTeeTcbSvn, 16, &x.MinimumTEETCBSVN}, {"Xfam", &e.Xfam, 8, &x.XFAM}} {
		if v.text == nil || *v.text == "" {
			continue
		}
		if *v.to = bytesOf(*v.text, v.size); *v.to == nil {
			checks.Open("manifest", fmt.Sprintf("%s is %.40q, want %d bytes in hex: it is not compared", v.name, *v.text, v.size))
		}
	}
	for _, text := range e.AllowedPIIDs {
		id := bytesOf(text, 16)
		if id == nil {
			checks.Open("manifest", fmt.Sprintf("AllowedPIIDs has %.40q, want 16 bytes in hex: it is not compared", text))
			continue
		}
		x.PIIDs = append(x.PIIDs, id)
	}
	checks = append(checks, x.Check(r.Quote, r.PCK, r.TCB)...)
	// The host binds 32 bytes to a register of 48: zeros follow.
	bound, zeros := strings.CutSuffix(q.MRCONFIGID, strings.Repeat("00", 16))
	switch {
	case len(policies) == 0:
		checks.Open("mr_config_id", "the manifest lists no policy that the host could have bound")
	default:
		checks.Judge("mr_config_id", zeros && slices.Contains(policies, bound), "the host bound "+bound+", a policy of the manifest", "the host bound "+q.MRCONFIGID+", which is no policy of the manifest")
	}
	return checks
}

func orZero(n *uint64) uint64 {
	if n == nil {
		return 0
	}
	return *n
}

func isTrue(b *bool) bool { return b != nil && *b }

// measuredAtMost bounds a list of measured machines.
const measuredAtMost = 10000

// MeasuredSets reads what `retally tdx measure -o json` printed: an
// object with registers in hex by their names, or a list of such. Registers
// that are absent or null are not compared, nor an RTMR3 that was measured
// without a compose file or root file system: the checks say so.
func MeasuredSets(file string, data []byte) ([]evidence.ReferenceSet, []verdict.Check, error) {
	var checks verdict.List
	bad := func(format string, args ...any) error {
		return &pipeline.InputError{Op: "read registers", File: file, Err: fmt.Errorf(format, args...), Hint: "want what retally tdx measure -o json prints"}
	}
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: 16 << 20})
	if err != nil {
		return nil, nil, bad("%w", err)
	}
	list := []*jsondoc.Value{doc}
	if doc.Kind == jsondoc.Array {
		list = doc.Elems
	}
	if len(list) > measuredAtMost {
		return nil, nil, bad("%d machines, at most %d are read", len(list), measuredAtMost)
	}
	var sets []evidence.ReferenceSet
	for i, v := range list {
		pointer := ""
		if doc.Kind == jsondoc.Array {
			pointer = fmt.Sprintf("/%d", i)
		}
		if v.Kind != jsondoc.Object {
			return nil, nil, bad("%s: a value of type %s, want an object with registers", cmp.Or(pointer, "/"), v.Kind)
		}
		set := evidence.ReferenceSet{Group: "measured", Name: file + pointer, Registers: map[evidence.Register]digest.Digest{}}
		for _, r := range evidence.Registers() {
			x := v.Get(string(r))
			if x.IsNull() {
				continue
			}
			if x.Kind != jsondoc.String {
				return nil, nil, bad("%s/%s: a value of type %s, want hex", pointer, r, x.Kind)
			}
			if x.Text == "" {
				continue
			}
			d, err := digest.ParseHex(digest.SHA384, strings.ToLower(x.Text))
			if err != nil {
				return nil, nil, bad("%s/%s: %w", pointer, r, err)
			}
			set.Registers[r] = d
		}
		if _, ok := set.Registers[evidence.RTMR3]; ok && emptyRTMR3(v.Get("notes")) {
			delete(set.Registers, evidence.RTMR3)
			checks.Note("measured", "rtmr3 of "+file+pointer+" was measured without compose file or root file system, so it is not compared")
		}
		if len(set.Registers) == 0 {
			return nil, nil, bad("%s: no register (mrtd, rtmr0 to rtmr3)", cmp.Or(pointer, "/"))
		}
		sets = append(sets, set)
	}
	if len(sets) == 0 {
		return nil, nil, bad("an empty list")
	}
	return sets, checks, nil
}

// EmptyRTMR3 is how a measurement says that nothing stood for an input of RTMR3.
const EmptyRTMR3 = "RTMR3 measures an empty one"

func emptyRTMR3(notes *jsondoc.Value) bool {
	return notes != nil && slices.ContainsFunc(notes.Elems, func(n *jsondoc.Value) bool { return strings.HasSuffix(n.Text, EmptyRTMR3) })
}
