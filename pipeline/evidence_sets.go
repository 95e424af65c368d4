package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/tdxmeasure"
)

// EvidenceManifestSets makes each TDX reference value of a Contrast manifest a
// set of registers that hold together. What an entry demands beside registers
// is listed, because it is not compared.
func EvidenceManifestSets(file string, m *manifest.Manifest) (sets []evidence.ReferenceSet, open []verdict.Check, err error) {
	var notes verdict.List
	for _, e := range m.TDX() {
		set := evidence.ReferenceSet{
			Group: file, Name: orName(e.Platform, "TDX entry"), Where: fmt.Sprintf("line %d", e.Line), Registers: map[evidence.Register]digest.Digest{},
		}
		add := func(r evidence.Register, text, field string) error {
			if text == "" {
				return nil
			}
			d, err := digest.ParseHex(digest.SHA384, text)
			if err != nil {
				return &InputError{Op: "read manifest", File: file, Err: fmt.Errorf("line %d: %s/%s: %w", e.Line, e.Pointer, field, err)}
			}
			set.Registers[r] = d
			return nil
		}
		errs := []error{add(evidence.MRTD, e.MrTd, "MrTd"), add(evidence.MRSEAM, e.MrSeam, "MrSeam")}
		if len(e.Rtmrs) > 4 {
			errs = append(errs, &InputError{Op: "read manifest", File: file, Err: fmt.Errorf("line %d: %s/Rtmrs: %d registers, a machine has 4", e.Line, e.Pointer, len(e.Rtmrs))})
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
		return nil, nil, &InputError{Op: "read manifest", File: file, Err: errors.New("has no TDX reference value"), Hint: "evidence of other processors is not verified yet"}
	}
	notes.Note("manifest", "Xfam, MinTCBEvaluationDataNumber, AllowedPIIDs and the policies (MRCONFIGID) of "+file+" are not compared")
	return sets, notes, nil
}

func orName(s, word string) string {
	if s == "" {
		return word
	}
	return s
}

// measuredAtMost bounds a list of measured machines.
const measuredAtMost = 10000

// EvidenceMeasuredSets reads what `retally tdx measure -o json` printed: an
// object with registers in hex by their names, or a list of such. Registers
// that are absent or null are not compared.
func EvidenceMeasuredSets(file string, data []byte) ([]evidence.ReferenceSet, error) {
	bad := func(format string, args ...any) error {
		return &InputError{Op: "read registers", File: file, Err: fmt.Errorf(format, args...), Hint: "want what retally tdx measure -o json prints"}
	}
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: 16 << 20})
	if err != nil {
		return nil, bad("%w", err)
	}
	list := []*jsondoc.Value{doc}
	if doc.Kind == jsondoc.Array {
		list = doc.Elems
	}
	if len(list) > measuredAtMost {
		return nil, bad("%d machines, at most %d are read", len(list), measuredAtMost)
	}
	var sets []evidence.ReferenceSet
	for i, v := range list {
		pointer := ""
		if doc.Kind == jsondoc.Array {
			pointer = fmt.Sprintf("/%d", i)
		}
		if v.Kind != jsondoc.Object {
			return nil, bad("%s: a value of type %s, want an object with registers", orName(pointer, "/"), v.Kind)
		}
		set := evidence.ReferenceSet{Group: "measured", Name: file + pointer, Registers: map[evidence.Register]digest.Digest{}}
		for _, r := range evidence.Registers() {
			x := v.Get(string(r))
			if x.IsNull() {
				continue
			}
			if x.Kind != jsondoc.String {
				return nil, bad("%s/%s: a value of type %s, want hex", pointer, r, x.Kind)
			}
			if x.Text == "" {
				continue
			}
			d, err := digest.ParseHex(digest.SHA384, strings.ToLower(x.Text))
			if err != nil {
				return nil, bad("%s/%s: %w", pointer, r, err)
			}
			set.Registers[r] = d
		}
		if len(set.Registers) == 0 {
			return nil, bad("%s: no register (mrtd, rtmr0 to rtmr3)", orName(pointer, "/"))
		}
		sets = append(sets, set)
	}
	if len(sets) == 0 {
		return nil, bad("an empty list")
	}
	return sets, nil
}

// EvidenceVMConfigSet recomputes MRTD and RTMR0 to RTMR2 of a dstack machine
// from its vm_config. The document comes from whoever sent the quote, so the
// set only counts if the caller says which image is expected (imageHash, the
// os_image_hash; zero: none). The shape of the machine, which goes into RTMR0,
// stays the sender's word and is named. The set is nil if the document does not
// suffice; the checks say why.
func EvidenceVMConfigSet(ctx context.Context, file string, data []byte, imageHash digest.Digest) (*evidence.ReferenceSet, []verdict.Check, error) {
	const name = "vm_config"
	var checks verdict.List
	c, err := tdxmeasure.ParseDstackConfig(file, data)
	if err != nil {
		return nil, nil, err
	}
	if !imageHash.IsZero() {
		claimed, err := digest.ParseHex(digest.SHA256, strings.ToLower(c.OSImageHash))
		checks.Judge("os-image-hash", err == nil && claimed == imageHash, file+" names the expected image, os_image_hash "+imageHash.Hex(),
			fmt.Sprintf("%s says os_image_hash %q, expected is %s", file, c.OSImageHash, imageHash.Hex()))
	}
	for _, p := range c.Problems {
		checks.Fail(name, p)
	}
	if c.Measurement == nil {
		checks.Note(name, file+" has no measurement document (tdx_measurement), so no register is recomputed from it; measure the image's files and give the result (--measured FILE)")
		return nil, checks, nil
	}
	source, err := tdxmeasure.NewTemplateSource()
	if err != nil {
		return nil, nil, err
	}
	r, err := c.Measurement.Measure(ctx, c, source)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		checks.Note(name, "no register could be recomputed from "+file+": "+err.Error())
		return nil, checks, nil
	}
	set := &evidence.ReferenceSet{
		Group: name, Name: fmt.Sprintf("the image %.16s… on a machine that its sender describes with %d vCPUs, %d MiB, QEMU %s", c.OSImageHash, c.VCPUs, c.Memory>>20, orName(c.QEMU, "unknown")),
		Registers: map[evidence.Register]digest.Digest{evidence.MRTD: r.MRTD, evidence.RTMR0: r.RTMR[0], evidence.RTMR1: r.RTMR[1], evidence.RTMR2: r.RTMR[2]},
	}
	if imageHash.IsZero() {
		set.Claimed = fmt.Sprintf("the document comes from the sender; say which image you expect (--os-image-hash HEX; the sender's is %s)", c.OSImageHash)
	}
	return set, checks, nil
}
