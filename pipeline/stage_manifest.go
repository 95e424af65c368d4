package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/manifest"
)

// manifestStage makes manifest.json as the vendor's scripts do, from what was
// recounted and, where nothing was, from the base manifest; and holds it
// against the published one.
func manifestStage() Stage {
	return Stage{Name: "manifest", Version: 3, After: []string{"tdx", "policies"}, Fill: fillManifest, Check: checkManifest, Run: runManifest, Plan: planManifest}
}

func planManifest(c *Config) []PlanLine {
	switch {
	case c.Manifest == nil && c.machinesOnly():
		return nil
	case c.Manifest == nil:
		return []PlanLine{{Key: "manifest/bytes", Missing: "manifest", How: "manifest: {base: manifest.json, adjust: adjustments.yaml}"}}
	}
	lines := []PlanLine{{Key: "policy/** snp/** tdx/**", From: c.Manifest.Base}}
	if c.Manifest.Adjust != "" {
		lines = append(lines, PlanLine{Key: "manifest/bytes", From: c.Manifest.Base + ", " + c.Manifest.Adjust})
	} else {
		lines = append(lines, PlanLine{Key: "manifest/bytes", From: c.Manifest.Base})
	}
	if c.Against == "" {
		lines = append(lines, PlanLine{Key: "the published manifest", Missing: "against", How: "against: manifest.published.json"})
	}
	return lines
}

func runManifest(ctx context.Context, in *In) (*Out, error) {
	out := &Out{Causes: map[Key][]Cause{}, Notes: map[Key]string{}}
	var published *manifest.Manifest
	if in.Config.Against != "" {
		var err error
		if published, err = Parsed(ctx, in, in.Config.Against, JSONLimit, manifest.Parse); err != nil {
			return nil, err
		}
		out.Problems = append(out.Problems, manifestProblems(in.Config.Against, published, false)...)
	}
	if in.Config.Manifest == nil {
		if published != nil {
			in.Lack("the manifest as generated", "manifest/bytes", "add manifest: {base: FILE}, the output of contrast generate, and adjust: FILE, the edits after it")
			return out, publishedOnly(ctx, in, published, out)
		}
		return out, nil
	}
	m, err := buildManifest(ctx, in, out)
	if err != nil {
		return nil, err
	}
	out.Artifacts = append(out.Artifacts, Artifact{Name: "manifest.json", Data: m.bytes})
	ours := m.manifest
	out.Problems = append(out.Problems, manifestProblems("manifest.json", ours, true)...)
	against := published
	if against == nil {
		against = ours
	}
	ms, refs := manifestSides(ours, against, m.basis)
	out.Measurements = append(out.Measurements, ownMachines(in, withoutComputed(slices.Clone(ms), m.policies))...)
	whole := Measurement{Key: "manifest/bytes", Value: OfDigest(digest.SHA256.Sum(m.bytes)), Basis: Recomputed, Inputs: m.inputs}
	for _, m := range ms {
		whole.Inputs = append(whole.Inputs, FromKey(m.Key))
	}
	out.Measurements = append(out.Measurements, whole)
	if published == nil {
		in.Lack("the published manifest", "manifest/**", "add against: FILE or --against FILE, for instance the manifest that retally proxy-log names")
		return out, nil
	}
	out.References = append(out.References, refs...)
	out.Complete = append(out.Complete, manifestKeys...)
	out.Published = append(out.Published, manifestKeys...)
	out.Bytes = compareBytes(m.bytes, ours, published)
	addCauses(out, ms, refs, ours, published, m)
	return out, nil
}

// publishedOnly checks a published manifest without the one it was generated
// from: what follows from the deployment is compared, the rest is unchecked.
func publishedOnly(ctx context.Context, in *In, published *manifest.Manifest, out *Out) error {
	_, refs := manifestSides(published, published, func(Key) (Basis, []InputRef) { return Copied, nil })
	out.References = refs
	if in.Config.Deployment == "" {
		return nil
	}
	d, err := Parsed(ctx, in, in.Config.Deployment, YAMLLimit, deployment.Parse)
	if err != nil {
		return err
	}
	type name struct{ kind, name string }
	entries := map[name]manifest.Policy{}
	namespaces := map[string]bool{}
	for _, p := range published.Policies() {
		if w, ok := manifest.ParseWorkloadID(p.WorkloadSecretID); ok {
			entries[name{w.Kind, w.Name}] = p
			namespaces[w.Namespace] = true
		}
	}
	hasRoles := slices.ContainsFunc(published.Policies(), func(p manifest.Policy) bool { return p.Role != "" })
	for _, w := range d.Workloads {
		if !w.Confidential || w.Coordinator && !hasRoles {
			continue
		}
		p, ok := entries[name{w.Kind, w.Name}]
		if !ok {
			out.Problems = append(out.Problems, Problem{
				Level: LevelError, Code: "policy-missing", Where: Where{File: in.Config.Against},
				Msg: fmt.Sprintf("has no policy for %s of %s:%d", w.ID(), d.File, w.Line), Hint: "is it the manifest of this deployment?",
			})
			continue
		}
		delete(entries, name{w.Kind, w.Name})
		id, _ := manifest.ParseWorkloadID(p.WorkloadSecretID)
		key := NewKey("policy", id.Kind, id.Namespace, id.Name, "WorkloadSecretID")
		m := Measurement{Key: key, Value: OfText(w.SecretID), Basis: Recomputed, Inputs: []InputRef{FromFile(d.File)}}
		if !namespaces[w.Namespace] {
			// Another deployment of the same release: only the namespace counts.
			if own, ok := manifest.ParseWorkloadID(w.SecretID); ok {
				own.Namespace = id.Namespace
				m.Value = OfText(own.ID())
				m.Note = "compared apart from the namespace"
			}
		}
		out.Measurements = append(out.Measurements, m)
		if hasRoles {
			role := ""
			if w.Coordinator {
				role = "coordinator"
			}
			if role != p.Role {
				out.Problems = append(out.Problems, Problem{Level: LevelError, Code: "policy-role", Where: Where{File: in.Config.Against, Line: p.Line}, Msg: fmt.Sprintf("%s has role %q, the deployment gives %q", w.ID(), p.Role, role)})
			}
		}
	}
	for n, p := range entries {
		w, _ := manifest.ParseWorkloadID(p.WorkloadSecretID)
		// The deployment lists every workload: this one was let in besides. One
		// finding says it, so its other fields are left out.
		key := NewKey("policy", n.kind, w.Namespace, n.name)
		out.Complete = append(out.Complete, string(key))
		out.References = slices.DeleteFunc(out.References, func(r Reference) bool { return strings.HasPrefix(string(r.Key), string(key)+"/") })
		for i := range out.References {
			if r := &out.References[i]; r.Key == key {
				r.Stricter = StricterAbsent
			}
		}
		out.Causes[key] = []Cause{{
			Path: []string{"manifest", p.Pointer}, Actual: p.HashText, Standing: Suspected, Where: Where{File: in.Config.Against, Line: p.Line}, Hint: "extra-policy",
			Note: "the published manifest lets in a workload that the deployment does not have",
		}}
	}
	slices.Sort(out.Complete)
	return nil
}

// addCauses says for each value of the published manifest that is not
// ours where it stands, and whether the differing values are all there is:
// proved, if putting ours in their place gives our file byte for byte.
func addCauses(out *Out, ms []Measurement, refs []Reference, ours, published *manifest.Manifest, b *built) {
	standing, note := Suspected, "the published manifest has another value"
	if tree, ok := undo(ours, published); ok {
		if style, ok := ours.Style(); ok && bytes.Equal(style.Format(tree), b.bytes) {
			standing, note = Proved, "the published manifest has another value; with ours in its place the files are identical"
		}
	}
	values := map[Key]Value{}
	for _, m := range ms {
		values[m.Key] = m.Value
	}
	for _, r := range refs {
		got, ok := values[r.Key]
		if !ok && r.Key.Kind() == "policy" {
			out.Causes[r.Key] = []Cause{{
				Path: []string{"manifest", r.Where.Pointer}, Actual: r.Want.String(), Standing: standing, Where: r.Where, Hint: "extra-policy",
				Note: "the published manifest lets in a workload that the deployment does not have",
			}}
		}
		if !ok || got.Kind() == ListKind || r.Holds(got) {
			continue
		}
		c := Cause{Path: []string{"manifest", r.Where.Pointer}, Expected: got.String(), Actual: r.Want.String(), Note: note, Standing: standing, Where: r.Where, Hint: "manifest-field"}
		out.Causes[r.Key] = []Cause{c}
		if r.Key.Kind() == "policy" && got.Kind() == DigestKind && b.policies[r.Key] == "" {
			out.Causes[r.Key] = append(out.Causes[r.Key], Cause{
				Path: []string{string(r.Key), "policy text"}, Standing: Suspected, Hint: "policy-hash",
				Note: "what in the policy changed is unknown: only the two hashes are at hand, not the texts",
			})
		}
	}
}

// Problems are a manifest's own defects. One in our manifest comes from its
// inputs; one in the published manifest is the vendor's.
func manifestProblems(file string, m *manifest.Manifest, ours bool) []Problem {
	var out []Problem
	for _, p := range m.Validate() {
		level := LevelWarning
		if p.Severity == manifest.SeverityError && !ours {
			level = LevelError
		}
		out = append(out, Problem{
			Level: level, Code: "manifest-" + p.Code, Where: Where{File: file, Pointer: p.Pointer, Line: p.Line}, Msg: p.Msg, Hint: p.Hint,
		})
	}
	return out
}

// built is the manifest as recounted, with where its values come from.
type built struct {
	bytes    []byte
	manifest *manifest.Manifest // as bytes give it
	inputs   []InputRef
	basis    func(Key) (Basis, []InputRef)
	// policies are the keys of policy hashes that an earlier stage computed,
	// with the key under which it did.
	policies map[Key]Key
}

func buildManifest(ctx context.Context, in *In, out *Out) (*built, error) {
	c := in.Config.Manifest
	base, err := Parsed(ctx, in, c.Base, JSONLimit, manifest.Parse)
	if err != nil {
		return nil, err
	}
	if base, err = withPolicies(in, base, out); err != nil {
		return nil, err
	}
	base, computed, err := computedTDX(in, base)
	if err != nil {
		return nil, err
	}
	baseData := base.Raw()
	b := &built{bytes: baseData, inputs: []InputRef{FromFile(c.Base)}}
	var plan *manifest.Plan
	if c.Adjust != "" {
		if plan, err = Parsed(ctx, in, c.Adjust, YAMLLimit, manifest.ParsePlan); err != nil {
			return nil, err
		}
		if strings.HasPrefix(c.Adjust, ProfilePrefix) {
			if _, remark, err := ProfilePlan(c.Adjust); err == nil && remark != "" {
				out.Problems = append(out.Problems, Problem{Level: LevelWarning, Code: "profile-version", Where: Where{File: c.Adjust}, Msg: remark})
			}
		}
		vars, err := planVariables(ctx, in, plan)
		if err != nil {
			return nil, err
		}
		res, err := plan.Apply(baseData, vars)
		if err != nil {
			return nil, err
		}
		b.bytes = res.Bytes
		b.inputs = append(b.inputs, FromFile(c.Adjust))
		for _, s := range res.Steps {
			if s.Warning != "" {
				out.Problems = append(out.Problems, Problem{Level: LevelWarning, Code: "adjust-step", Where: Where{File: c.Adjust, Line: s.Line}, Msg: fmt.Sprintf("step %d (%s %s): %s", s.Index+1, s.Op, s.Path, s.Warning)})
			}
		}
		for _, w := range plan.Warnings() {
			out.Problems = append(out.Problems, Problem{Level: LevelWarning, Code: "adjust-plan", Where: Where{File: c.Adjust}, Msg: w})
		}
	}
	if err := workloadsAgree(ctx, in, base, out); err != nil {
		return nil, err
	}
	if b.manifest, err = manifest.Parse("manifest.json", b.bytes); err != nil {
		return nil, fmt.Errorf("the manifest as recounted: %w", err)
	}
	derived := derivedKeys(base, in)
	edited := editedKeys(base, b.manifest)
	b.policies = computedKeys(in, b.manifest)
	b.basis = func(k Key) (Basis, []InputRef) {
		from, ok := computed[k]
		switch {
		case b.policies[k] != "":
			return Recomputed, []InputRef{FromKey(b.policies[k])}
		case edited[k] && plan != nil:
			return Recomputed, []InputRef{FromFile(c.Adjust)}
		case ok:
			return from.Basis, from.Inputs
		case derived[k]:
			return Recomputed, []InputRef{FromFile(in.Config.Deployment)}
		default:
			return Copied, []InputRef{FromFile(c.Base)}
		}
	}
	return b, nil
}

// planVariables takes a plan's variables from the deployment and from the
// configuration, which wins.
func planVariables(ctx context.Context, in *In, plan *manifest.Plan) (map[string]string, error) {
	vars := map[string]string{}
	given := in.Config.Manifest.Variables
	for _, name := range plan.VariableNames() {
		if v, ok := given[name]; ok {
			vars[name] = v
			continue
		}
		v := plan.Variables()[name]
		if in.Config.Deployment == "" {
			return nil, &InputError{
				Op: "find variable", File: in.Config.Manifest.Adjust, Err: fmt.Errorf("${%s} comes from the deployment, and none is given", name),
				Hint: "add deployment: FILE, or manifest.variables." + name,
			}
		}
		d, err := Parsed(ctx, in, in.Config.Deployment, YAMLLimit, deployment.Parse)
		if err != nil {
			return nil, err
		}
		text, _, err := d.Lookup(v.Kind, v.Name, v.Field)
		if err != nil {
			return nil, err
		}
		vars[name] = text
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if _, ok := plan.Variables()[name]; !ok {
			return nil, &InputError{Op: "set variable", File: in.Config.Manifest.Adjust, Err: fmt.Errorf("the plan has no variable %q", name), Hint: "known: " + strings.Join(plan.VariableNames(), ", ")}
		}
	}
	return vars, nil
}

// workloadsAgree checks that the base manifest is one of this deployment:
// same workloads, names, secret identities and roles.
func workloadsAgree(ctx context.Context, in *In, base *manifest.Manifest, out *Out) error {
	if in.Config.Deployment == "" {
		return nil
	}
	d, err := Parsed(ctx, in, in.Config.Deployment, YAMLLimit, deployment.Parse)
	if err != nil {
		return err
	}
	inBase := map[string]manifest.Policy{}
	for _, p := range base.Policies() {
		inBase[p.WorkloadSecretID] = p
	}
	problem := func(line int, msg string) {
		out.Problems = append(out.Problems, Problem{Level: LevelError, Code: "base-manifest", Where: Where{File: in.Config.Manifest.Base, Line: line}, Msg: msg, Hint: "generate the base manifest from this deployment"})
	}
	// Before about 1.8 the coordinator was no entry of the manifest.
	hasRoles := slices.ContainsFunc(base.Policies(), func(p manifest.Policy) bool { return p.Role != "" })
	for _, w := range d.Workloads {
		if !w.Confidential || w.Coordinator && !hasRoles {
			continue
		}
		p, ok := inBase[w.SecretID]
		if !ok {
			problem(0, fmt.Sprintf("has no policy for %s of %s:%d", w.ID(), d.File, w.Line))
			continue
		}
		delete(inBase, w.SecretID)
		if !slices.Equal(p.SANs, w.SANs) {
			problem(p.Line, fmt.Sprintf("policy of %s has the certificate names %s, the deployment gives %s", w.ID(), strings.Join(p.SANs, ", "), strings.Join(w.SANs, ", ")))
		}
		if w.Coordinator != (p.Role == "coordinator") {
			problem(p.Line, fmt.Sprintf("policy of %s has role %q", w.ID(), p.Role))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(inBase)) {
		problem(inBase[id].Line, fmt.Sprintf("has a policy for %q, which the deployment does not have", id))
	}
	return nil
}

// derivedKeys are the fields that follow from the deployment alone.
func derivedKeys(base *manifest.Manifest, in *In) map[Key]bool {
	keys := map[Key]bool{}
	if in.Config.Deployment == "" {
		return keys
	}
	for _, p := range base.Policies() {
		if w, ok := manifest.ParseWorkloadID(p.WorkloadSecretID); ok {
			for _, f := range []string{"SANs", "WorkloadSecretID", "Role", "CommonName"} {
				keys[NewKey("policy", w.Kind, w.Namespace, w.Name, f)] = true
			}
		}
	}
	return keys
}

// editedKeys are the fields whose value the adjustments made.
func editedKeys(base, m *manifest.Manifest) map[Key]bool {
	keys := map[Key]bool{}
	was := map[string]string{}
	for _, f := range base.Fields() {
		was[f.Path] = f.Normalized()
	}
	j := &joiner{}
	for _, f := range m.Fields() {
		if old, ok := was[f.Path]; !ok || old != f.Normalized() {
			keys[j.key(f.Path, f)] = true
		}
	}
	return keys
}

// exempt names the fields that cannot be equal by construction: contrast
// generate makes a fresh key where none is given.
var exempt = []string{"SeedshareOwnerPubKeys"}

// compareBytes compares two manifests as files. Exempt fields are named first
// and then taken from the published side.
func compareBytes(got []byte, ours, published *manifest.Manifest) *BytesResult {
	r := &BytesResult{Verdict: Match, Got: OfDigest(digest.SHA256.Sum(got)), Want: OfDigest(digest.SHA256.Sum(published.Raw()))}
	if bytes.Equal(got, published.Raw()) {
		return r
	}
	expected := got
	if tree, names := withExempt(ours, published); len(names) > 0 {
		r.Exempt = names
		if style, ok := ours.Style(); ok {
			expected = style.Format(tree)
		}
		if bytes.Equal(expected, published.Raw()) {
			r.Note = "identical in everything else"
			return r
		}
	}
	r.Verdict = Differs
	r.FirstLine, r.Lines = lineDiff(expected, published.Raw())
	if style, ok := ours.Style(); ok && bytes.Equal(style.Format(published.Tree()), expected) {
		r.Note = "the contents are the same, only the layout of the text differs"
	}
	return r
}

// withExempt returns our tree with the exempt fields' values of the published
// side, and which fields those are.
func withExempt(ours, published *manifest.Manifest) (*jsondoc.Value, []string) {
	tree := ours.Tree().Clone()
	var names []string
	for _, name := range exempt {
		a, b := tree.Get(name), published.Tree().Get(name)
		if a == nil || b == nil || bytes.Equal(jsondoc.Go.Compact(a), jsondoc.Go.Compact(b)) {
			continue
		}
		if len(a.Elems) != len(b.Elems) {
			continue // another number of keys is not chance
		}
		tree.Set(name, b.Clone())
		names = append(names, name)
	}
	return tree, names
}

func checkManifest(c *Config, at At) error {
	if c.Manifest == nil {
		return nil
	}
	if c.Manifest.Format != "" && c.Manifest.Format != "contrast" {
		return at(fmt.Sprintf("unknown manifest format %q", c.Manifest.Format), "known: contrast", "manifest", "format")
	}
	if c.Manifest.Base == "" {
		return at("base is missing", "name the manifest.json that contrast generate wrote", "manifest")
	}
	return nil
}

func fillManifest(c *Config) {
	if c.Manifest != nil && c.Manifest.Format == "" {
		c.Manifest.Format = "contrast"
	}
}
