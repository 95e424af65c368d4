package manifest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
)

// withPolicies puts the computed policy hashes in the place of those that the
// base manifest has for the same workloads, sorted as `contrast generate`
// sorts them. Without a difference the bytes stay as they are.
func withPolicies(in *run.In, base *manifest.Manifest, out *run.Out) (*manifest.Manifest, error) {
	if in.Config.Policies == nil || in.Config.Deployment == "" {
		return base, nil
	}
	rename := map[string]string{}
	for _, p := range base.Policies() {
		m, ok := computedHash(in, p)
		if !ok || strings.EqualFold(m.Value.Digest().Hex(), p.HashText) {
			continue
		}
		rename[p.HashText] = m.Value.Digest().Hex()
		out.Problems = append(out.Problems, pipeline.Problem{
			Level: pipeline.LevelWarning, Code: "base-policy", Where: pipeline.Where{File: base.File(), Line: p.Line, Pointer: p.Pointer},
			Msg:  fmt.Sprintf("lists another policy for %s than is computed from the deployment; the computed one is taken", p.WorkloadSecretID),
			Hint: "the file was generated from another deployment, or with other rules, settings or version of the generator",
		})
	}
	if len(rename) == 0 {
		return base, nil
	}
	tree := base.Tree().Clone()
	policies := tree.Get("Policies")
	for i := range policies.Members {
		if to, ok := rename[policies.Members[i].Key]; ok {
			policies.Members[i].Key = to
		}
	}
	slices.SortStableFunc(policies.Members, func(x, y jsondoc.Member) int { return strings.Compare(x.Key, y.Key) })
	for i := 1; i < len(policies.Members); i++ {
		if policies.Members[i].Key == policies.Members[i-1].Key {
			return nil, &pipeline.InputError{Op: "put policies into", File: base.File(), Err: fmt.Errorf("two workloads have the same policy hash %s", policies.Members[i].Key), Hint: "Contrast refuses that, too: give them different names"}
		}
	}
	style, ok := base.Style()
	if !ok {
		style = jsondoc.Go
	}
	return manifest.Parse(base.File(), style.Format(tree))
}

// computedHash is the hash that the policies stage computed for an entry.
func computedHash(in *run.In, p manifest.Policy) (pipeline.Measurement, bool) {
	key := pipeline.NewKey("policy", "id", "-", p.WorkloadSecretID)
	if id, ok := manifest.ParseWorkloadID(p.WorkloadSecretID); ok {
		key = pipeline.NewKey("policy", id.Kind, id.Namespace, id.Name)
	}
	m, ok := in.Get(key)
	return m, ok && m.Value.Kind() == pipeline.DigestKind
}

// computedKeys are the keys of the finished manifest's policy hashes that the
// policies stage computed, with the stage's own key: two workloads of one name
// in two namespaces have keys of another form here.
func computedKeys(in *run.In, m *manifest.Manifest) map[pipeline.Key]pipeline.Key {
	if in.Config.Policies == nil {
		return nil
	}
	hashes := map[string]pipeline.Key{}
	for _, p := range m.Policies() {
		if c, ok := computedHash(in, p); ok && strings.EqualFold(c.Value.Digest().Hex(), p.HashText) {
			hashes[p.HashText] = c.Key
		}
	}
	keys, j := map[pipeline.Key]pipeline.Key{}, &joiner{}
	for _, f := range m.Fields() {
		if strings.HasPrefix(f.Path, "policy/") && strings.HasSuffix(f.Path, "/hash") {
			if own, ok := hashes[f.Value.Text]; ok {
				keys[j.key(f.Path, f)] = own
			}
		}
	}
	return keys
}

// withoutComputed takes out what the policies stage measured itself.
func withoutComputed(ms []pipeline.Measurement, computed map[pipeline.Key]pipeline.Key) []pipeline.Measurement {
	return slices.DeleteFunc(ms, func(m pipeline.Measurement) bool { return computed[m.Key] == m.Key && m.Key != "" })
}
