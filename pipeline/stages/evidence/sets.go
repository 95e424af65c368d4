package evidence

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
)

// ManifestSets makes each TDX reference value of a Contrast manifest a
// set of registers that hold together. What an entry demands beside registers
// is listed, because it is not compared.
func ManifestSets(file string, m *manifest.Manifest) (sets []evidence.ReferenceSet, open []verdict.Check, err error) {
	var notes verdict.List
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
			return nil, nil, err
		}
		if len(set.Registers) > 0 {
			sets = append(sets, set)
		}
	}
	if len(sets) == 0 {
		return nil, nil, &pipeline.InputError{Op: "read manifest", File: file, Err: errors.New("has no TDX reference value"), Hint: "evidence of other processors is not verified yet"}
	}
	notes.Note("manifest", "Xfam, MinTCBEvaluationDataNumber, AllowedPIIDs and the policies (MRCONFIGID) of "+file+" are not compared")
	return sets, notes, nil
}

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
