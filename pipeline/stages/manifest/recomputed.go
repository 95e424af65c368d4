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

// computedTDX puts the registers that stage tdx computed into the base
// manifest, where a platform's name fits whatever its case, and says which keys
// these are. What it replaces keeps its place in the file; nothing else moves.
func computedTDX(in *run.In, base *manifest.Manifest) (*manifest.Manifest, map[pipeline.Key]replaced, error) {
	computed := map[string]map[string]pipeline.Measurement{} // platform in lower case, register
	for _, m := range in.All("tdx/*/*") {
		parts := m.Key.Parts()
		platform := strings.ToLower(parts[1])
		if computed[platform] == nil {
			computed[platform] = map[string]pipeline.Measurement{}
		}
		computed[platform][parts[2]] = m
	}
	type edit struct {
		field manifest.Field
		value digest.Digest
	}
	var edits []edit
	data := base.Raw()
	keys := map[pipeline.Key]replaced{}
	for _, f := range base.Fields() {
		platform, name, ok := published.TDXField(f.Path)
		if !ok || f.Value == nil || f.Value.Kind != jsondoc.String {
			continue
		}
		m, ok := computed[strings.ToLower(platform)][name]
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
		keys[pipeline.NewKey("tdx", platform, name)] = replaced{m.Basis, []pipeline.InputRef{pipeline.FromKey(m.Key)}}
	}
	if len(edits) == 0 {
		return base, keys, nil
	}
	// From the end, so that earlier places stay where they are.
	slices.SortFunc(edits, func(a, b edit) int { return b.field.Value.Offset - a.field.Value.Offset })
	for _, e := range edits {
		at, old := e.field.Value.Offset, jsondoc.Go.Compact(e.field.Value)
		data = slices.Concat(data[:at], jsondoc.Go.Compact(jsondoc.NewString(e.value.Hex())), data[at+len(old):])
	}
	edited, err := manifest.Parse(base.File(), data)
	return edited, keys, err
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
