package manifest

import (
	"bytes"
	"slices"
	"strings"

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

// computedMachines puts what the stages of machines computed into the base
// manifest, and says at which offsets of the result it stands. What it replaces
// keeps its place in the file; nothing else moves.
func computedMachines(in *run.In, base *manifest.Manifest) (*manifest.Manifest, map[int]replaced, error) {
	machines := machinesOf(in)
	type edit struct {
		field manifest.Field
		value string
	}
	type place struct{ path, pointer string }
	var edits []edit
	data := base.Raw()
	taken := map[place]replaced{}
	for _, f := range base.Fields() {
		if f.Value == nil || f.Value.Kind != jsondoc.String {
			continue
		}
		m, ok := machines.field(base, f.Path)
		if !ok {
			continue
		}
		if !published.FieldValue(f).Equal(m.Value) {
			// Written with escapes, which hex digits never need, it stays.
			if !bytes.HasPrefix(data[f.Value.Offset:], jsondoc.Go.Compact(f.Value)) {
				continue
			}
			edits = append(edits, edit{f, written(m.Value)})
		}
		taken[place{f.Path, f.Pointer}] = replaced{m.Basis, []pipeline.InputRef{pipeline.FromKey(m.Key)}}
	}
	edited := base
	if len(edits) > 0 {
		// From the end, so that earlier places stay where they are.
		slices.SortFunc(edits, func(a, b edit) int { return b.field.Value.Offset - a.field.Value.Offset })
		for _, e := range edits {
			at, old := e.field.Value.Offset, jsondoc.Go.Compact(e.field.Value)
			data = slices.Concat(data[:at], jsondoc.Go.Compact(jsondoc.NewString(e.value)), data[at+len(old):])
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

// written is a value as a manifest has it.
func written(v pipeline.Value) string {
	if v.Kind() == pipeline.DigestKind {
		return v.Digest().Hex()
	}
	return v.String()
}

// machines are the measurements of machines that earlier stages made: by kind,
// then platform, then what stands behind it in the key.
type machines map[string]map[string]map[string]pipeline.Measurement

func machinesOf(in *run.In) machines {
	ms := machines{"tdx": {}, "snp": {}}
	for _, m := range slices.Concat(in.All("tdx/*/*"), in.All("snp/**")) {
		parts := m.Key.Parts()
		if len(parts) < 3 {
			continue
		}
		of := ms[parts[0]]
		if of[parts[1]] == nil {
			of[parts[1]] = map[string]pipeline.Measurement{}
		}
		of[parts[1]][strings.Join(parts[2:], "/")] = m
	}
	return ms
}

// field is the measurement that a field of the base manifest stands for.
func (ms machines) field(base *manifest.Manifest, path string) (pipeline.Measurement, bool) {
	kind, platform, rest, ok := published.MachineField(path)
	if !ok {
		return pipeline.Measurement{}, false
	}
	own := ms.of(kind, platform)
	if kind == "snp" {
		rest = launchOf(base, path, rest, own)
	}
	m, ok := own[strings.Join(rest, "/")]
	return m, ok
}

// launchOf is the key's end of the machine that an SNP entry is for. One
// without a number of vCPUs is for one vCPU where it has an APEIP, from which
// the others follow; else for the only machine of its product.
func launchOf(base *manifest.Manifest, path string, rest []string, own map[string]pipeline.Measurement) []string {
	if len(rest) != 2 || rest[1] != "launch" {
		if len(rest) == 3 && rest[2] == "apeip" {
			return []string{rest[0], rest[2]}
		}
		return rest
	}
	entry := strings.TrimSuffix(path, "TrustedMeasurement")
	for _, f := range base.Fields() {
		if f.Path == entry+"APEIP" && f.Value != nil && f.Value.Kind == jsondoc.String {
			return []string{rest[0], "cpus=1", rest[1]}
		}
	}
	only := rest
	found := 0
	for key := range own {
		parts := strings.Split(key, "/")
		if len(parts) == 3 && parts[0] == rest[0] && parts[2] == rest[1] {
			only = parts
			found++
		}
	}
	if found != 1 {
		return rest
	}
	return only
}

// of finds a platform of the manifest. Vendors write its name with capitals,
// configurations often do not; names that are alike but for that join only
// where there is exactly one.
func (ms machines) of(kind, platform string) map[string]pipeline.Measurement {
	if own := ms[kind][platform]; own != nil {
		return own
	}
	var found map[string]pipeline.Measurement
	for name, own := range ms[kind] {
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

// ownMachines leaves out the measurements of a manifest's machines that an
// earlier stage made under the same key: a platform that the configuration calls exactly
// as the manifest does.
func ownMachines(in *run.In, ms []pipeline.Measurement) []pipeline.Measurement {
	return slices.DeleteFunc(slices.Clone(ms), func(m pipeline.Measurement) bool {
		if k := m.Key.Kind(); k != "tdx" && k != "snp" {
			return false
		}
		_, measured := in.Get(m.Key)
		return measured
	})
}
