package manifest

import (
	"bytes"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/published"
)

// replaced is a value of the base manifest that a computed one takes the place
// of.
type replaced struct {
	Basis  pipeline.Basis
	Inputs []pipeline.InputRef
}

// computedTDX puts the registers that stage tdx computed into the base manifest,
// and says at which offsets of the result they stand. What it replaces keeps
// its place in the file; nothing else moves.
func computedTDX(in *run.In, base *manifest.Manifest) (*manifest.Manifest, map[int]replaced, error) {
	machines := computedMachines(in)
	type edit struct {
		field manifest.Field
		value digest.Digest
	}
	type place struct{ path, pointer string }
	var edits []edit
	data := base.Raw()
	taken := map[place]replaced{}
	for _, f := range base.Fields() {
		platform, name, ok := published.TDXField(f.Path)
		if !ok || f.Value == nil || f.Value.Kind != jsondoc.String {
			continue
		}
		m, ok := machines.of(platform)[name]
		if !ok {
			continue
		}
		if !published.FieldValue(f).Equal(m.Value) {
			// Written with escapes, which hex digits never need, it stays.
			if !bytes.HasPrefix(data[f.Value.Offset:], jsondoc.Go.Compact(f.Value)) {
				continue
			}
			edits = append(edits, edit{f, m.Value.Digest()})
		}
		taken[place{f.Path, f.Pointer}] = replaced{m.Basis, []pipeline.InputRef{pipeline.FromKey(m.Key)}}
	}
	edited := base
	if len(edits) > 0 {
		// From the end, so that earlier places stay where they are.
		slices.SortFunc(edits, func(a, b edit) int { return b.field.Value.Offset - a.field.Value.Offset })
		for _, e := range edits {
			at, old := e.field.Value.Offset, jsondoc.Go.Compact(e.field.Value)
			data = slices.Concat(data[:at], jsondoc.Go.Compact(jsondoc.NewString(e.value.Hex())), data[at+len(old):])
		}
		var err error
		if edited, err = manifest.Parse(base.File(), data); err != nil {
			return nil, nil, err
		}
	}
	offsets := map[int]replaced{}
	for _, f := range edited.Fields() {
		if r, ok := taken[place{f.Path, f.Pointer}]; ok {
			offsets[f.Value.Offset] = r
		}
	}
	return edited, offsets, nil
}

// machines are the registers that stage tdx computed, by platform.
type machines map[string]map[string]pipeline.Measurement

func computedMachines(in *run.In) machines {
	ms := machines{}
	for _, m := range in.All("tdx/*/*") {
		parts := m.Key.Parts()
		if ms[parts[1]] == nil {
			ms[parts[1]] = map[string]pipeline.Measurement{}
		}
		ms[parts[1]][parts[2]] = m
	}
	return ms
}

// of finds a platform of the manifest. Vendors write its name with capitals,
// configurations often do not; names that are alike but for that join only
// where there is exactly one.
func (ms machines) of(platform string) map[string]pipeline.Measurement {
	if own := ms[platform]; own != nil {
		return own
	}
	var found map[string]pipeline.Measurement
	for name, own := range ms {
		if !strings.EqualFold(name, platform) {
			continue
		}
		if found != nil {
			return nil
		}
		found = own
	}
	return found
}

// ownMachines leaves out the measurements of a manifest's machines that stage
// tdx made under the same key: a platform that the configuration calls exactly
// as the manifest does.
func ownMachines(in *run.In, ms []pipeline.Measurement) []pipeline.Measurement {
	return slices.DeleteFunc(slices.Clone(ms), func(m pipeline.Measurement) bool {
		if m.Key.Kind() != "tdx" {
			return false
		}
		_, measured := in.Get(m.Key)
		return measured
	})
}
