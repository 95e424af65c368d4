// Package policies is the stage that computes runtime policies.
package policies

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/published"
	"github.com/retally/retally/policygen"
)

// Stage computes the runtime policy of every workload whose images are
// at hand. Its values are the hashes that a manifest lists.
func Stage() run.Stage {
	return run.Stage{Name: "policies", Version: 4, After: []string{"images", "snp"}, Fill: fill, Check: check, Run: execute, Plan: plan}
}

func plan(c *config.Config) []run.PlanLine {
	p := c.Policies
	switch {
	case c.Deployment == "":
		return nil
	case p == nil:
		return []run.PlanLine{{Key: "policy/**", Missing: "policies", How: "policies: {settings: genpolicy-settings.json, profile: kata-4.1}"}}
	}
	line := run.PlanLine{Key: "policy/*/*/*", From: strings.Join(append([]string{c.Deployment, p.Settings, p.RulesName()}, p.ConfigFiles...), ", ") + "; profile " + p.Profile}
	if profile, err := policygen.ProfileByName(p.Profile); err == nil {
		line.From += " (" + profile.Label() + ")"
	}
	if len(c.Images) == 0 {
		line.From, line.Missing, line.How = "", "images", "images: {NAME: {oci: result/NAME}}, of every container and of the pause image that the settings name"
	}
	return []run.PlanLine{line}
}

// policyRun is one run of the stage.
type policyRun struct {
	in      *run.In
	out     *run.Out
	conf    *config.Policies
	profile policygen.Profile

	d        *deployment.Deployment
	names    map[string]string // of images in keys
	parts    *yamlParts
	scope    func(*deployment.Workload) bool
	input    policygen.Input // all but the YAML, for every workload
	dropIns  []policygen.NamedFile
	base     policygen.NamedFile
	listed   *manifest.Manifest  // what the hashes are compared with, may be nil
	made     *manifest.Manifest  // the base manifest, may be nil
	textHash bool                // the manifest's version hashes the policy, not its document
	inputs   []pipeline.InputRef // of every policy
	absent   map[string]string   // image text -> why its bytes are not at hand
	computed map[pipeline.Key]bool
	changed  *published.Generation // the deployment as Contrast changes it, may be nil

	kept, unwritten int // bytes of documents, and documents beyond the bound
}

func execute(ctx context.Context, in *run.In) (*run.Out, error) {
	out := &run.Out{Causes: map[pipeline.Key][]pipeline.Cause{}, Notes: map[pipeline.Key]string{}}
	if in.Config.Policies == nil {
		if m := in.Config.Manifest; m != nil && m.Release != "" {
			return out, withoutPolicies(ctx, in, out)
		}
		if in.Config.Deployment != "" && (in.Config.Manifest != nil || in.Config.Against != "") {
			in.Lack("what the policies are made of", "policy/**", "add policies: {settings: genpolicy-settings.json, profile: kata-4.1}, rules: FILE where they are not retally's own, and images: with the bytes of every container's image")
		}
		return out, nil
	}
	built := map[string]string{}
	for name, i := range in.Config.Images {
		if i.Nix != "" {
			built[name], _ = published.BuiltImage(in, name)
		}
	}
	images := NewImages(Sources{Named: in.Config.Images, Path: in.Path, Built: func(name string) string { return built[name] }, Progress: in.Progress})
	defer images.Close()
	r := &policyRun{in: in, out: out, conf: in.Config.Policies, absent: map[string]string{}, computed: map[pipeline.Key]bool{}}
	r.input.Images, r.input.Cache = &onceImages{under: images}, &layerMemory{}
	if err := r.read(ctx); err != nil {
		return nil, err
	}
	policies, err := r.generate(ctx)
	if err != nil {
		return nil, err
	}
	for i, p := range policies {
		r.measure(p)
		if other, ok := r.inListedNamespace(ctx, &p); ok {
			r.measure(other)
			policies[i] = other
		}
	}
	r.carried(policies)
	r.platforms()
	if err := r.explain(ctx, policies); err != nil {
		return nil, err
	}
	r.count()
	return out, nil
}

// read takes in everything but the images.
func (r *policyRun) read(ctx context.Context) error {
	in := r.in
	var err error
	if r.changed, err = published.Generate(ctx, in); err != nil {
		return err
	}
	r.ofRelease()
	c := r.conf
	set, err := Resolve(ctx, in, c)
	if err != nil {
		return err
	}
	data, err := in.ReadFile(ctx, in.Config.Deployment, config.YAMLLimit)
	if err != nil {
		return err
	}
	if r.d, err = published.Deployment(ctx, in, in.Config); err != nil {
		return err
	}
	if r.changed != nil {
		// Places are those of the changed deployment, which the run writes.
		data, r.d = r.changed.YAML, r.changed.Changed
		r.out.Artifacts = append(r.out.Artifacts, run.Artifact{Name: r.changed.File, Data: data})
	}
	r.names, r.parts, r.scope = published.ImageNames(r.d.Images()), splitYAML(data), inScope(r.d)
	set.Input.Images, set.Input.Cache = r.input.Images, r.input.Cache
	r.profile, r.input, r.base, r.dropIns = set.Input.Profile, set.Input, set.Base, set.DropIns
	r.inputs = append([]pipeline.InputRef{pipeline.FromFile(in.Config.Deployment)}, set.Inputs...)
	for _, w := range r.input.Rules.Warnings() {
		r.problem(pipeline.LevelWarning, "policy-rules", pipeline.Where{File: c.RulesName()}, strings.TrimPrefix(w, c.RulesName()+": "), "")
	}
	r.pausePin()
	r.releaseInputs()
	return r.readListed(ctx)
}

// readListed reads the manifests that list hashes, the generated one and the
// published one. The oldest versions list the hash of the policy itself.
func (r *policyRun) readListed(ctx context.Context) error {
	read := func(name string) (*manifest.Manifest, error) {
		m, err := run.Parsed(ctx, r.in, name, config.JSONLimit, manifest.Parse)
		if err == nil {
			shape := m.Shape()
			r.textHash = shape.Known() && shape.Newest <= manifest.V16
		}
		return m, err
	}
	var err error
	if c := r.in.Config.Manifest; c != nil && c.Base != "" {
		if r.made, err = read(c.Base); err != nil {
			return err
		}
	}
	if r.in.Config.Against != "" {
		r.listed, err = read(r.in.Config.Against)
	}
	if r.changed != nil {
		r.textHash = r.changed.Release.PolicyHash.Value == "policy"
	}
	return err
}

func (r *policyRun) problem(level, code string, where pipeline.Where, msg, hint string) {
	r.out.Problems = append(r.out.Problems, pipeline.Problem{Level: level, Code: code, Where: where, Msg: msg, Hint: hint})
}

// policyKey is the key of a workload's policy hash, as the manifest's entry of
// the same workload has it.
func policyKey(w *deployment.Workload) pipeline.Key {
	if id, ok := manifest.ParseWorkloadID(w.SecretID); ok {
		return pipeline.NewKey("policy", id.Kind, id.Namespace, id.Name)
	}
	return pipeline.NewKey("policy", "id", "-", w.SecretID)
}

// hash is what the manifest lists: the digest of the initdata document, or in
// the oldest versions of the policy itself.
func (r *policyRun) hash(p *policygen.Policy) digest.Digest {
	if r.textHash {
		return p.TextDigest
	}
	return p.InitdataDigest
}

func (r *policyRun) measure(p computedPolicy) {
	basis := pipeline.Recomputed
	note := "profile " + r.profile.Name + ", " + r.profile.Label()
	if p.namespace != "" {
		note += "; computed for the published manifest's namespace in place of " + p.w.Namespace
	}
	if r.profile.Reference == "" {
		// Nobody has held this profile against the generator it stands for.
		basis = pipeline.Assumed
	}
	inputs := slices.Clone(r.inputs)
	if r.changed != nil {
		own := r.changed.Of(p.w)
		b, more := r.changed.Basis(own)
		basis, inputs = max(basis, b), append(inputs, more...)
	}
	var seen []pipeline.Key
	for _, text := range append(imageTexts(p.w), r.pauseImage()) {
		if key, _ := r.imageKey(text); key != "" && !slices.Contains(seen, key) {
			seen = append(seen, key)
			inputs = append(inputs, pipeline.FromKey(key))
		}
	}
	r.out.Measurements = append(r.out.Measurements, pipeline.Measurement{Key: p.key, Value: pipeline.OfDigest(r.hash(&p.Policy)), Basis: basis, Inputs: inputs, Note: note})
	name, text := artifactName(p.w.Kind, cmp.Or(p.namespace, p.w.Namespace), p.w.Name)+".initdata.toml", p.Initdata()
	if r.textHash {
		name, text = strings.TrimSuffix(name, ".initdata.toml")+".rego", p.Text()
	}
	if r.kept += len(text); r.kept > documentBytesAtMost {
		r.unwritten++
		return
	}
	r.out.Artifacts = append(r.out.Artifacts, run.Artifact{Name: "policies/" + name, Data: text})
}

// documentBytesAtMost bounds the documents that a run keeps and writes; one has
// 40 KB and more.
const documentBytesAtMost = 40 << 20

func imageTexts(w *deployment.Workload) []string {
	var out []string
	for _, c := range w.Containers {
		out = append(out, c.Image.Text)
	}
	return out
}

// artifactName is a file name for a workload. Names come from the deployment,
// so they are encoded, and long ones end in a digest.
func artifactName(kind, namespace, name string) string {
	part := func(s string) string { return string(pipeline.NewKey(cmp.Or(s, "default"))) }
	name = part(kind) + "_" + part(namespace) + "_" + part(name)
	const most = 150
	if len(name) > most {
		sum := sha256.Sum256([]byte(name))
		name = name[:most] + "_" + hex.EncodeToString(sum[:8])
	}
	return name
}

// count says what was computed, with which rules.
func (r *policyRun) count() {
	n := 0
	for i := range r.d.Workloads {
		if r.scope(&r.d.Workloads[i]) {
			n++
		}
	}
	if n == 0 && len(r.d.Workloads) > 0 {
		r.problem(pipeline.LevelNote, "policy-none", pipeline.Where{File: r.d.File}, "no workload has a runtime class of confidential pods, so none has a policy", "")
		return
	}
	if r.unwritten > 0 {
		r.problem(pipeline.LevelNote, "policy-documents", pipeline.Where{File: r.d.File}, fmt.Sprintf("%s not written: together they have more than %d bytes", show.Plural(r.unwritten, "document is", "documents are"), documentBytesAtMost), "")
	}
	r.out.Facts = append(r.out.Facts, fmt.Sprintf("policies: %d of %s computed with profile %s (%s), rules %s %s",
		len(r.computed), show.Plural(n, "workload", "workloads"), r.profile.Name, r.profile.Label(), r.conf.RulesName(), r.input.Rules.Digest()))
}
