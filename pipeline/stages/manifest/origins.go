package manifest

import (
	"strconv"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/stages/published"
)

// origins says of every value of the finished manifest where its own bytes come
// from. An edit makes the basis of what it sets and of nothing else: that a
// step changed an entry's name says nothing of the entry's other fields.
type origins struct {
	cfg *config.Config
	// at gives, by JSON pointer of the finished manifest, the offset in the base
	// manifest of the value that stands there; none: the plan set it.
	at map[string]int
	// base gives the basis of the base manifest's values by their offset there.
	base map[int]replaced
	// policies are the policy hashes that an earlier stage computed.
	policies map[pipeline.Key]pipeline.Key
	join     joiner
}

func newOrigins(cfg *config.Config, base *manifest.Manifest, edited *jsondoc.Value, m *manifest.Manifest, computed map[int]replaced, policies map[pipeline.Key]pipeline.Key) *origins {
	o := &origins{cfg: cfg, at: map[string]int{}, base: computed, policies: policies}
	o.walk(edited, "")
	if cfg.Deployment != "" {
		derived := replaced{pipeline.Recomputed, []pipeline.InputRef{pipeline.FromFile(cfg.Deployment)}}
		for _, f := range base.Fields() {
			name := f.Path[strings.LastIndexByte(f.Path, '/')+1:]
			if !strings.HasPrefix(f.Path, "policy/") || !derivedFields[name] || f.Value == nil {
				continue
			}
			o.base[f.Value.Offset] = derived
			for _, e := range f.Value.Elems {
				o.base[e.Offset] = derived
			}
		}
	}
	return o
}

// derivedFields of a policy follow from the deployment alone.
var derivedFields = map[string]bool{"SANs": true, "WorkloadSecretID": true, "Role": true, "CommonName": true}

// walk notes where each value of the edited tree stood in the base. What the
// parser read has an offset, what a plan made has none.
func (o *origins) walk(v *jsondoc.Value, pointer string) {
	if v.Offset > 0 {
		o.at[pointer] = v.Offset
	}
	for i, e := range v.Elems {
		o.walk(e, pointer+"/"+strconv.Itoa(i))
	}
	for _, m := range v.Members {
		at := pointer + "/" + jsondoc.EscapePointer(m.Key)
		o.walk(m.Value, at)
		if m.Offset > 0 {
			o.at[keyOf(at)] = m.Offset
		}
	}
}

// keyOf is the pointer of a member's key, which is a value in the case of
// policies: their hash.
func keyOf(pointer string) string { return pointer + "\x00key" }

// basis is the weakest basis of the bytes that a value is made of.
func (o *origins) basis(f manifest.Field) (pipeline.Basis, []pipeline.InputRef) {
	if f.Pointer == "" { // absent, with a default: nothing but the base says so
		return pipeline.Copied, []pipeline.InputRef{pipeline.FromFile(baseName(o.cfg.Manifest))}
	}
	isHash := strings.HasPrefix(f.Path, "policy/") && strings.HasSuffix(f.Path, "/hash")
	if isHash {
		if own := o.policies[o.join.key(f.Path, f)]; own != "" {
			return pipeline.Recomputed, []pipeline.InputRef{pipeline.FromKey(own)}
		}
		return o.one(keyOf(f.Pointer), true)
	}
	measured := isMeasured(f.Path) || isName(f.Path)
	if f.Value == nil || f.Value.Kind != jsondoc.Array || len(f.Value.Elems) == 0 {
		return o.one(f.Pointer, measured)
	}
	var basis pipeline.Basis
	var inputs []pipeline.InputRef
	for i := range f.Value.Elems {
		b, in := o.one(f.Pointer+"/"+strconv.Itoa(i), measured)
		basis = max(basis, b)
		for _, ref := range in {
			if !contains(inputs, ref) {
				inputs = append(inputs, ref)
			}
		}
	}
	return basis, inputs
}

func contains(list []pipeline.InputRef, ref pipeline.InputRef) bool {
	for _, r := range list {
		if r == ref {
			return true
		}
	}
	return false
}

// one is the basis of one value. A measurement that a plan sets is the vendor's
// word, whoever wrote the plan: it is measured here or it is copied.
func (o *origins) one(pointer string, measured bool) (pipeline.Basis, []pipeline.InputRef) {
	offset, fromBase := o.at[pointer]
	if !fromBase {
		plan := []pipeline.InputRef{pipeline.FromFile(o.cfg.Manifest.Adjust)}
		if measured {
			return pipeline.Copied, plan
		}
		return pipeline.Recomputed, plan
	}
	if r, ok := o.base[offset]; ok {
		return r.Basis, r.Inputs
	}
	return pipeline.Copied, []pipeline.InputRef{pipeline.FromFile(baseName(o.cfg.Manifest))}
}

// isName reports whether a field is what its entry is joined by. A name is no
// evidence for anything: it carries no basis.
func isName(path string) bool {
	switch strings.TrimPrefix(path, entryOf(path)+"/") {
	case "Platform", "ProductName", "CPUs":
		return !strings.HasPrefix(path, "policy/")
	default:
		return false
	}
}

// isMeasured reports whether a field of a manifest is a measurement, not
// something that a vendor chooses.
func isMeasured(path string) bool {
	entry := entryOf(path)
	switch published.RegisterNames[strings.TrimPrefix(path, entry+"/")] {
	case "", "mrseam", "xfam":
		return false // what a vendor demands of module and processor
	default:
		return true
	}
}
