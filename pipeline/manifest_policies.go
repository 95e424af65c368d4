package pipeline

import (
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/manifest"
)

// withPolicies puts the computed policy hashes in the place of those that the
// base manifest has for the same workloads, sorted as `contrast generate`
// sorts them. Without a difference the bytes stay as they are.
func withPolicies(in *In, base *manifest.Manifest, out *Out) (*manifest.Manifest, error) {
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
		out.Problems = append(out.Problems, Problem{
			Level: LevelWarning, Code: "base-policy", Where: Where{File: base.File(), Line: p.Line, Pointer: p.Pointer},
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
			return nil, &InputError{Op: "put policies into", File: base.File(), Err: fmt.Errorf("two workloads have the same policy hash %s", policies.Members[i].Key), Hint: "Contrast refuses that, too: give them different names"}
		}
	}
	style, ok := base.Style()
	if !ok {
		style = jsondoc.Go
	}
	return manifest.Parse(base.File(), style.Format(tree))
}

// computedHash is the hash that the policies stage computed for an entry.
func computedHash(in *In, p manifest.Policy) (Measurement, bool) {
	key := NewKey("policy", "id", "-", p.WorkloadSecretID)
	if id, ok := manifest.ParseWorkloadID(p.WorkloadSecretID); ok {
		key = NewKey("policy", id.Kind, id.Namespace, id.Name)
	}
	m, ok := in.Get(key)
	return m, ok && m.Value.Kind() == DigestKind
}

// computedKeys are the keys of the finished manifest's policy hashes that the
// policies stage computed, with the stage's own key: two workloads of one name
// in two namespaces have keys of another form here.
func computedKeys(in *In, m *manifest.Manifest) map[Key]Key {
	if in.Config.Policies == nil {
		return nil
	}
	hashes := map[string]Key{}
	for _, p := range m.Policies() {
		if c, ok := computedHash(in, p); ok && strings.EqualFold(c.Value.Digest().Hex(), p.HashText) {
			hashes[p.HashText] = c.Key
		}
	}
	keys, j := map[Key]Key{}, &joiner{}
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
func withoutComputed(ms []Measurement, computed map[Key]Key) []Measurement {
	return slices.DeleteFunc(ms, func(m Measurement) bool { return computed[m.Key] == m.Key && m.Key != "" })
}
