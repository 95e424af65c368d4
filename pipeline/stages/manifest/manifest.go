// Package manifest is the stage that makes manifest.json and compares manifests.
package manifest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/published"
)

// Stage makes manifest.json as the vendor's scripts do, from what was
// recounted and, where nothing was, from the base manifest; and holds it
// against the published one.
func Stage() run.Stage {
	return run.Stage{Name: "manifest", Version: 5, After: []string{"tdx", "snp", "policies"}, Fill: fill, Check: check, Run: execute, Plan: plan}
}

func plan(c *config.Config) []run.PlanLine {
	switch {
	case c.Manifest == nil && c.MachinesOnly():
		return nil
	case c.Manifest == nil:
		return []run.PlanLine{{Key: "manifest/bytes", Missing: "manifest", How: "manifest: {base: manifest.json, adjust: adjustments.yaml}"}}
	}
	base := c.Manifest.Base
	if c.Manifest.Release != "" {
		base = c.Deployment + ", " + c.Manifest.Release
		if why := config.ContrastRemark(c.Manifest.Release); why != "" {
			base += " (" + why + ")"
		}
		if c.Manifest.Values != "" {
			base += ", " + c.Manifest.Values
		}
	}
	lines := []run.PlanLine{{Key: "policy/** snp/** tdx/**", From: base}}
	if c.Manifest.Adjust != "" {
		lines = append(lines, run.PlanLine{Key: "manifest/bytes", From: base + ", " + c.Manifest.Adjust})
	} else {
		lines = append(lines, run.PlanLine{Key: "manifest/bytes", From: base})
	}
	if c.Against == "" {
		lines = append(lines, run.PlanLine{Key: "the published manifest", Missing: "against", How: "against: manifest.published.json"})
	}
	return lines
}

func execute(ctx context.Context, in *run.In) (*run.Out, error) {
	out := &run.Out{Causes: map[pipeline.Key][]pipeline.Cause{}, Notes: map[pipeline.Key]string{}}
	var theirs *manifest.Manifest
	if in.Config.Against != "" {
		var err error
		if theirs, err = run.Parsed(ctx, in, in.Config.Against, config.JSONLimit, manifest.Parse); err != nil {
			return nil, err
		}
		out.Problems = append(out.Problems, Problems(in.Config.Against, theirs, false)...)
	}
	if in.Config.Manifest == nil {
		if theirs != nil {
			in.Lack("the manifest as generated", "manifest/bytes", "add manifest: {base: FILE}, the output of contrast generate, and adjust: FILE, the edits after it")
			return out, publishedOnly(ctx, in, theirs, out)
		}
		return out, nil
	}
	m, err := buildManifest(ctx, in, out)
	if err != nil {
		return nil, err
	}
	out.Artifacts = append(out.Artifacts, run.Artifact{Name: "manifest.json", Data: m.bytes})
	ours := m.manifest
	out.Problems = append(out.Problems, Problems("manifest.json", ours, true)...)
	against := theirs
	if against == nil {
		against = ours
	}
	ms, refs := Sides(ours, against, m.basis)
	ms, missing := WithoutPlaceholders(ms)
	if m.made != nil {
		m.made.lacking(missing)
		m.made.count(ms, len(missing))
	}
	out.Measurements = append(out.Measurements, ownMachines(in, withoutComputed(slices.Clone(ms), m.policies))...)
	m.incomplete = len(openPlaceholders(ours.Placeholders()))
	whole := pipeline.Measurement{Key: "manifest/bytes", Value: pipeline.OfDigest(digest.SHA256.Sum(m.bytes)), Basis: pipeline.Recomputed, Inputs: m.inputs}
	for _, m := range ms {
		whole.Inputs = append(whole.Inputs, pipeline.FromKey(m.Key))
	}
	if m.incomplete == 0 {
		out.Measurements = append(out.Measurements, whole)
	}
	if theirs == nil && m.made != nil {
		return out, nil
	}
	if theirs == nil {
		in.Lack("the published manifest", "manifest/**", "add against: FILE or --against FILE, for instance the manifest that retally proxy-log names")
		return out, nil
	}
	out.References = append(out.References, refs...)
	unjudged(out, theirs, theirs.Validate())
	out.Complete = append(out.Complete, completeKeys(refs, ms, missing, m.made)...)
	out.Published = append(out.Published, manifestKeys...)
	if m.incomplete > 0 {
		out.Bytes = incompleteBytes(m, theirs)
	} else {
		out.Bytes = compareBytes(m.bytes, ours, theirs)
	}
	addCauses(out, ms, slices.DeleteFunc(slices.Clone(refs), func(r pipeline.Reference) bool { return missing[r.Key] }), ours, theirs, m)
	return out, nil
}

// publishedOnly checks a published manifest without the one it was generated
// from: what follows from the deployment is compared, the rest is unchecked.
func publishedOnly(ctx context.Context, in *run.In, theirs *manifest.Manifest, out *run.Out) error {
	_, refs := Sides(theirs, theirs, func(manifest.Field) (pipeline.Basis, []pipeline.InputRef) { return pipeline.Copied, nil })
	out.References = refs
	unjudged(out, theirs, theirs.Validate())
	if in.Config.Deployment == "" {
		return nil
	}
	d, err := published.Deployment(ctx, in, in.Config)
	if err != nil {
		return err
	}
	type name struct{ kind, name string }
	entries := map[name]manifest.Policy{}
	namespaces := map[string]bool{}
	for _, p := range theirs.Policies() {
		if w, ok := manifest.ParseWorkloadID(p.WorkloadSecretID); ok {
			entries[name{w.Kind, w.Name}] = p
			namespaces[w.Namespace] = true
		}
	}
	hasRoles := slices.ContainsFunc(theirs.Policies(), func(p manifest.Policy) bool { return p.Role != "" })
	for _, w := range d.Workloads {
		if !w.Confidential || w.Coordinator && !hasRoles {
			continue
		}
		p, ok := entries[name{w.Kind, w.Name}]
		if !ok {
			out.Problems = append(out.Problems, pipeline.Problem{
				Level: pipeline.LevelError, Code: "policy-missing", Where: pipeline.Where{File: in.Config.Against},
				Msg: fmt.Sprintf("has no policy for %s of %s:%d", w.ID(), d.File, w.Line), Hint: "is it the manifest of this deployment?",
			})
			continue
		}
		delete(entries, name{w.Kind, w.Name})
		id, _ := manifest.ParseWorkloadID(p.WorkloadSecretID)
		key := pipeline.NewKey("policy", id.Kind, id.Namespace, id.Name, "WorkloadSecretID")
		m := pipeline.Measurement{Key: key, Value: pipeline.OfText(w.SecretID), Basis: pipeline.Recomputed, Inputs: []pipeline.InputRef{pipeline.FromFile(d.File)}}
		if !namespaces[w.Namespace] {
			// Another deployment of the same release: only the namespace counts.
			if own, ok := manifest.ParseWorkloadID(w.SecretID); ok {
				own.Namespace = id.Namespace
				m.Value = pipeline.OfText(own.ID())
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
				out.Problems = append(out.Problems, pipeline.Problem{Level: pipeline.LevelError, Code: "policy-role", Where: pipeline.Where{File: in.Config.Against, Line: p.Line}, Msg: fmt.Sprintf("%s has role %q, the deployment gives %q", w.ID(), p.Role, role)})
			}
		}
	}
	for n, p := range entries {
		w, _ := manifest.ParseWorkloadID(p.WorkloadSecretID)
		// The deployment lists every workload: this one was let in besides. One
		// finding says it, so its other fields are left out.
		key := pipeline.NewKey("policy", n.kind, w.Namespace, n.name)
		out.Complete = append(out.Complete, string(key))
		out.References = slices.DeleteFunc(out.References, func(r pipeline.Reference) bool { return strings.HasPrefix(string(r.Key), string(key)+"/") })
		for i := range out.References {
			if r := &out.References[i]; r.Key == key {
				r.Stricter = pipeline.StricterAbsent
			}
		}
		out.Causes[key] = []pipeline.Cause{{
			Path: []string{"manifest", p.Pointer}, Actual: p.HashText, Standing: pipeline.Suspected, Where: pipeline.Where{File: in.Config.Against, Line: p.Line}, Hint: "extra-policy",
			Note: "the published manifest lets in a workload that the deployment does not have",
		}}
	}
	slices.Sort(out.Complete)
	return nil
}

// addCauses says for each value of the published manifest that is not
// ours where it stands, and whether the differing values are all there is:
// proved, if putting ours in their place gives our file byte for byte.
func addCauses(out *run.Out, ms []pipeline.Measurement, refs []pipeline.Reference, ours, theirs *manifest.Manifest, b *built) {
	standing, note := pipeline.Suspected, "the published manifest has another value"
	if tree, ok := undo(ours, theirs); ok && b.incomplete == 0 {
		if style, ok := ours.Style(); ok && bytes.Equal(style.Format(tree), b.bytes) {
			standing, note = pipeline.Proved, "the published manifest has another value; with ours in its place the files are identical"
		}
	}
	values := map[pipeline.Key]pipeline.Value{}
	for _, m := range ms {
		values[m.Key] = m.Value
	}
	for _, r := range refs {
		got, ok := values[r.Key]
		if !ok && r.Key.Kind() == "policy" {
			out.Causes[r.Key] = []pipeline.Cause{{
				Path: []string{"manifest", r.Where.Pointer}, Actual: r.Want.String(), Standing: standing, Where: r.Where, Hint: "extra-policy",
				Note: "the published manifest lets in a workload that the deployment does not have",
			}}
		}
		if !ok || got.Kind() == pipeline.ListKind || r.Holds(got) {
			continue
		}
		c := pipeline.Cause{Path: []string{"manifest", r.Where.Pointer}, Expected: got.String(), Actual: r.Want.String(), Note: note, Standing: standing, Where: r.Where, Hint: "manifest-field"}
		out.Causes[r.Key] = []pipeline.Cause{c}
		if r.Key.Kind() == "policy" && got.Kind() == pipeline.DigestKind && b.policies[r.Key] == "" {
			out.Causes[r.Key] = append(out.Causes[r.Key], pipeline.Cause{
				Path: []string{string(r.Key), "policy text"}, Standing: pipeline.Suspected, Hint: "policy-hash",
				Note: "what in the policy changed is unknown: only the two hashes are at hand, not the texts",
			})
		}
	}
}

// Problems are a manifest's own defects. One in our manifest comes from its
// inputs; one in the published manifest is the vendor's.
func Problems(file string, m *manifest.Manifest, ours bool) []pipeline.Problem {
	var out []pipeline.Problem
	if list := m.Placeholders(); !ours && len(list) > 0 {
		// It must not pass for a published value by being what stands here for none.
		out = append(out, pipeline.Problem{
			Level: pipeline.LevelError, Code: "manifest-not-reproduced", Where: pipeline.Where{File: file, Pointer: list[0]}, Msg: fmt.Sprintf("is no published manifest: %d of its values say that they were not reproduced", len(list)),
			Hint: "it was generated by this program without some inputs",
		})
	}
	for _, p := range m.Validate() {
		if ours && strings.Contains(p.Msg, "not reproduced: ") {
			continue // said as a missing input
		}
		level := pipeline.LevelWarning
		if p.Severity == manifest.SeverityError && !ours {
			level = pipeline.LevelError
		}
		out = append(out, pipeline.Problem{
			Level: level, Code: "manifest-" + p.Code, Where: pipeline.Where{File: file, Pointer: p.Pointer, Line: p.Line}, Msg: p.Msg, Hint: p.Hint,
		})
	}
	return out
}

// built is the manifest as recounted, with where its values come from.
type built struct {
	bytes    []byte
	manifest *manifest.Manifest // as bytes give it
	inputs   []pipeline.InputRef
	basis    BasisOf
	// policies are the keys of policy hashes that an earlier stage computed,
	// with the key under which it did.
	policies map[pipeline.Key]pipeline.Key
	// made is the base where it was generated here; nil where one was read.
	made *generated
	// incomplete counts the values that are not there, but for the exempt ones.
	incomplete int
}

// baseManifest reads the base, or generates it.
func baseManifest(ctx context.Context, in *run.In, out *run.Out) (*manifest.Manifest, *generated, error) {
	if in.Config.Manifest.Release != "" {
		return generate(ctx, in, out)
	}
	base, err := run.Parsed(ctx, in, in.Config.Manifest.Base, config.JSONLimit, manifest.Parse)
	return base, nil, err
}

// baseName is the file that what nobody here computed comes from.
func baseName(c *config.Manifest) string { return cmp.Or(c.Base, c.Release) }

func buildManifest(ctx context.Context, in *run.In, out *run.Out) (*built, error) {
	c := in.Config.Manifest
	base, made, err := baseManifest(ctx, in, out)
	if err != nil {
		return nil, err
	}
	if base, err = withPolicies(in, base, out); err != nil {
		return nil, err
	}
	base, computed, err := computedMachines(in, base)
	if err != nil {
		return nil, err
	}
	baseData := base.Raw()
	b := &built{bytes: baseData, inputs: []pipeline.InputRef{pipeline.FromFile(baseName(c))}}
	if made != nil {
		b.made = made
		made.bases(base, computed)
	}
	var plan *manifest.Plan
	edited := base.Tree()
	if c.Adjust != "" {
		if plan, err = run.Parsed(ctx, in, c.Adjust, config.YAMLLimit, manifest.ParsePlan); err != nil {
			return nil, err
		}
		if strings.HasPrefix(c.Adjust, config.ProfilePrefix) {
			if _, remark, err := config.ProfilePlan(c.Adjust); err == nil && remark != "" {
				out.Problems = append(out.Problems, pipeline.Problem{Level: pipeline.LevelWarning, Code: "profile-version", Where: pipeline.Where{File: c.Adjust}, Msg: remark})
			}
		}
		vars, empty, err := Variables(ctx, in, plan)
		if err != nil {
			return nil, err
		}
		out.Problems = append(out.Problems, empty...)
		res, err := plan.Apply(baseData, vars)
		if err != nil {
			return nil, err
		}
		b.bytes, edited = res.Bytes, res.Tree
		b.inputs = append(b.inputs, pipeline.FromFile(c.Adjust))
		for _, s := range res.Steps {
			if s.Warning != "" {
				out.Problems = append(out.Problems, pipeline.Problem{Level: pipeline.LevelWarning, Code: "adjust-step", Where: pipeline.Where{File: c.Adjust, Line: s.Line}, Msg: fmt.Sprintf("step %d (%s %s): %s", s.Index+1, s.Op, s.Path, s.Warning)})
			}
		}
		for _, w := range plan.Warnings() {
			out.Problems = append(out.Problems, pipeline.Problem{Level: pipeline.LevelWarning, Code: "adjust-plan", Where: pipeline.Where{File: c.Adjust}, Msg: w})
		}
	}
	if err := workloadsAgree(ctx, in, base, out); err != nil {
		return nil, err
	}
	if b.manifest, err = manifest.Parse("manifest.json", b.bytes); err != nil {
		return nil, fmt.Errorf("the manifest as recounted: %w", err)
	}
	b.policies = computedKeys(in, b.manifest)
	b.basis = newOrigins(in.Config, base, edited, b.manifest, computed, b.policies).basis
	return b, nil
}

// Variables takes a plan's variables from the deployment and from the
// configuration, which wins. A variable whose object the deployment does not
// have is empty, as it is in the vendors' scripts, with a problem that names it:
// such a script goes on as long as no whole value becomes empty, and so does
// [manifest.Plan.Apply].
func Variables(ctx context.Context, in *run.In, plan *manifest.Plan) (vars map[string]string, empty []pipeline.Problem, err error) {
	vars = map[string]string{}
	given := in.Config.Manifest.Variables
	for _, name := range plan.VariableNames() {
		if v, ok := given[name]; ok {
			vars[name] = v
			continue
		}
		v := plan.Variables()[name]
		if in.Config.Deployment == "" {
			return nil, nil, &pipeline.InputError{
				Op: "find variable", File: in.Config.Manifest.Adjust, Err: fmt.Errorf("${%s} comes from the deployment, and none is given", name),
				Hint: "add deployment: FILE, or manifest.variables." + name,
			}
		}
		d, err := published.Deployment(ctx, in, in.Config)
		if err != nil {
			return nil, nil, err
		}
		text, _, err := d.Lookup(v.Kind, v.Name, v.Field)
		var lookup *deployment.LookupError
		switch {
		case errors.As(err, &lookup) && lookup.NoObject && len(d.Workloads) > 0: // else it is no deployment
			empty = append(empty, pipeline.Problem{
				Level: pipeline.LevelWarning, Code: "adjust-variable", Where: pipeline.Where{File: in.Config.Deployment},
				Msg: fmt.Sprintf("${%s} of the plan is empty: %v", name, err), Hint: "the vendor's script goes on with an empty text, too; manifest.variables." + name + " sets it",
			})
		case err != nil:
			return nil, nil, &pipeline.InputError{Op: "find variable", File: in.Config.Deployment, Err: fmt.Errorf("${%s}: %w", name, err), Hint: "set manifest.variables." + name}
		}
		vars[name] = text
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if _, ok := plan.Variables()[name]; !ok {
			return nil, nil, &pipeline.InputError{Op: "set variable", File: in.Config.Manifest.Adjust, Err: fmt.Errorf("the plan has no variable %q", name), Hint: "known: " + strings.Join(plan.VariableNames(), ", ")}
		}
	}
	return vars, empty, nil
}

// workloadsAgree checks that the base manifest is one of this deployment:
// same workloads, names, secret identities and roles.
func workloadsAgree(ctx context.Context, in *run.In, base *manifest.Manifest, out *run.Out) error {
	if in.Config.Deployment == "" {
		return nil
	}
	d, err := published.Deployment(ctx, in, in.Config)
	if err != nil {
		return err
	}
	inBase := map[string]manifest.Policy{}
	for _, p := range base.Policies() {
		inBase[p.WorkloadSecretID] = p
	}
	hint := "generate the base manifest from this deployment"
	if in.Config.Manifest.Release != "" {
		hint = "what the API server refuses of the deployment, Contrast does not generate"
	}
	problem := func(line int, msg string) {
		out.Problems = append(out.Problems, pipeline.Problem{Level: pipeline.LevelError, Code: "base-manifest", Where: pipeline.Where{File: baseName(in.Config.Manifest), Line: line}, Msg: msg, Hint: hint})
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

// exempt names the fields that cannot be equal by construction: contrast
// generate makes a fresh key where none is given.
var exempt = []string{"SeedshareOwnerPubKeys"}

// compareBytes compares two manifests as files. Exempt fields are named first
// and then taken from the published side.
func compareBytes(got []byte, ours, theirs *manifest.Manifest) *pipeline.BytesResult {
	r := &pipeline.BytesResult{Verdict: pipeline.Match, Got: pipeline.OfDigest(digest.SHA256.Sum(got)), Want: pipeline.OfDigest(digest.SHA256.Sum(theirs.Raw()))}
	if bytes.Equal(got, theirs.Raw()) {
		return r
	}
	expected := got
	if tree, names := withExempt(ours, theirs); len(names) > 0 {
		r.Exempt = names
		if style, ok := ours.Style(); ok {
			expected = style.Format(tree)
		}
		if bytes.Equal(expected, theirs.Raw()) {
			r.Note = "identical in everything else"
			return r
		}
	}
	r.Verdict = pipeline.Differs
	r.CountLines(expected, theirs.Raw())
	if style, ok := ours.Style(); ok && bytes.Equal(style.Format(theirs.Tree()), expected) {
		r.Note = "the contents are the same, only the layout of the text differs"
	}
	return r
}

// withExempt returns our tree with the exempt fields' values of the published
// side, and which fields those are.
func withExempt(ours, theirs *manifest.Manifest) (*jsondoc.Value, []string) {
	tree := ours.Tree().Clone()
	var names []string
	for _, name := range exempt {
		a, b := tree.Get(name), theirs.Tree().Get(name)
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

func check(c *config.Config, at config.At) error {
	if c.Manifest == nil {
		return nil
	}
	if c.Manifest.Format != "" && c.Manifest.Format != "contrast" {
		return at(fmt.Sprintf("unknown manifest format %q", c.Manifest.Format), "known: contrast", "manifest", "format")
	}
	if c.Manifest.Base == "" && c.Manifest.Release == "" {
		return at("base is missing", "name the manifest.json that contrast generate wrote; or release: profile:contrast@v1.20.0 to generate it here", "manifest")
	}
	return published.CheckGenerate(c, at)
}

func fill(c *config.Config) {
	if c.Manifest != nil && c.Manifest.Format == "" {
		c.Manifest.Format = "contrast"
	}
}
