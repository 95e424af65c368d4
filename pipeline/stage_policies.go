package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/policygen"
)

// policiesStage computes the runtime policy of every workload whose images are
// at hand. Its values are the hashes that a manifest lists.
var policiesStage = Stage{Name: "policies", Version: 1, Run: runPolicies, Plan: planPolicies}

func planPolicies(c *Config) []PlanLine {
	p := c.Policies
	switch {
	case c.Deployment == "":
		return nil
	case p == nil:
		return []PlanLine{{Key: "policy/**", Missing: "policies", How: "policies: {settings: genpolicy-settings.json, profile: kata-4.1}"}}
	}
	line := PlanLine{Key: "policy/*/*/*", From: strings.Join(append([]string{c.Deployment, p.Settings, p.rulesName()}, p.ConfigFiles...), ", ") + "; profile " + p.Profile}
	if profile, err := policygen.ProfileByName(p.Profile); err == nil {
		line.From += " (" + profile.Label() + ")"
	}
	if len(c.Images) == 0 {
		line.From, line.Missing, line.How = "", "images", "images: {NAME: {oci: result/NAME}}, of every container and of the pause image that the settings name"
	}
	return []PlanLine{line}
}

// policyRun is one run of the stage.
type policyRun struct {
	in      *In
	out     *Out
	conf    *PoliciesConfig
	profile policygen.Profile

	d        *deployment.Deployment
	names    map[string]string // of images in keys
	parts    *yamlParts
	scope    func(*deployment.Workload) bool
	input    policygen.Input // all but the YAML, for every workload
	dropIns  []policygen.NamedFile
	base     policygen.NamedFile
	listed   *manifest.Manifest // what the hashes are compared with, may be nil
	textHash bool               // the manifest's version hashes the policy, not its document
	inputs   []InputRef         // of every policy
	absent   map[string]string  // image text -> why its bytes are not at hand
	computed map[Key]bool
}

func runPolicies(ctx context.Context, in *In) (*Out, error) {
	out := &Out{Causes: map[Key][]Cause{}, Notes: map[Key]string{}}
	if in.Config.Policies == nil {
		if in.Config.Deployment != "" && (in.Config.Manifest != nil || in.Config.Against != "") {
			in.Lack("what the policies are made of", "policy/**", "add policies: {settings: genpolicy-settings.json, profile: kata-4.1}, rules: FILE where they are not retally's own, and images: with the bytes of every container's image")
		}
		return out, nil
	}
	images := NewPolicyImages(PolicyImageSources{Named: in.Config.Images, Path: in.reader.Path, Progress: in.Progress})
	defer images.Close()
	r := &policyRun{in: in, out: out, conf: in.Config.Policies, absent: map[string]string{}, computed: map[Key]bool{}}
	r.input.Images, r.input.Cache = &onceImages{under: images}, &layerMemory{}
	if err := r.read(ctx); err != nil {
		return nil, err
	}
	policies, err := r.generate(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range policies {
		r.measure(p)
	}
	if err := r.explain(ctx, policies); err != nil {
		return nil, err
	}
	r.count()
	return out, nil
}

// read takes in everything but the images.
func (r *policyRun) read(ctx context.Context) error {
	in, c := r.in, r.conf
	var err error
	if r.profile, err = policygen.ProfileByName(c.Profile); err != nil {
		return err
	}
	data, err := in.ReadFile(ctx, in.Config.Deployment, yamlLimit)
	if err != nil {
		return err
	}
	if r.d, err = readDeployment(ctx, in); err != nil {
		return err
	}
	r.names, r.parts, r.scope = imageNames(r.d.Images()), splitYAML(data), inScope(r.d)
	text, err := in.ReadFile(ctx, c.rulesName(), jsonLimit)
	if err != nil {
		return err
	}
	r.inputs = []InputRef{FromFile(in.Config.Deployment), FromFile(c.rulesName())}
	r.input.Profile = r.profile
	r.input.Rules = policygen.Rules{Name: c.rulesName(), Text: text, RequirePinned: c.Rules == "" && c.ImageBinding != "off"}
	for _, w := range r.input.Rules.Warnings() {
		r.problem(LevelWarning, "policy-rules", Where{File: c.rulesName()}, strings.TrimPrefix(w, c.rulesName()+": "), "")
	}
	if err := r.settings(ctx); err != nil {
		return err
	}
	for _, name := range c.ConfigFiles {
		data, err := in.ReadFile(ctx, name, yamlLimit)
		if err != nil {
			return err
		}
		r.input.ConfigFiles = append(r.input.ConfigFiles, policygen.NamedFile{Name: name, Data: data})
		r.inputs = append(r.inputs, FromFile(name))
	}
	r.pausePin()
	if c.Lenient {
		r.input.Unknown = policygen.AcceptHarmless
	}
	return r.readListed(ctx)
}

// readListed reads the manifest that lists the hashes: the published one, else
// the generated one. The oldest versions list the hash of the policy itself.
func (r *policyRun) readListed(ctx context.Context) error {
	name := r.in.Config.Against
	if name == "" && r.in.Config.Manifest != nil {
		name = r.in.Config.Manifest.Base
	}
	if name == "" {
		return nil
	}
	data, err := r.in.ReadFile(ctx, name, jsonLimit)
	if err != nil {
		return err
	}
	m, err := manifest.Parse(name, data)
	if err != nil {
		return err
	}
	shape := m.Shape()
	r.textHash = shape.Known() && shape.Newest <= manifest.V16
	if r.in.Config.Against != "" {
		r.listed = m
	}
	return nil
}

func (r *policyRun) problem(level, code string, where Where, msg, hint string) {
	r.out.Problems = append(r.out.Problems, Problem{Level: level, Code: code, Where: where, Msg: msg, Hint: hint})
}

// policyKey is the key of a workload's policy hash, as the manifest's entry of
// the same workload has it.
func policyKey(w *deployment.Workload) Key {
	if id, ok := manifest.ParseWorkloadID(w.SecretID); ok {
		return NewKey("policy", id.Kind, id.Namespace, id.Name)
	}
	return NewKey("policy", "id", "-", w.SecretID)
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
	basis := Recomputed
	note := "profile " + r.profile.Name + ", " + r.profile.Label()
	if r.profile.Reference == "" {
		// Nobody has held this profile against the generator it stands for.
		basis = Assumed
	}
	inputs := slices.Clone(r.inputs)
	var seen []Key
	for _, text := range append(imageTexts(p.w), r.pauseImage()) {
		if key, _ := r.imageKey(text); key != "" && !slices.Contains(seen, key) {
			seen = append(seen, key)
			inputs = append(inputs, FromKey(key))
		}
	}
	r.out.Measurements = append(r.out.Measurements, Measurement{Key: p.key, Value: OfDigest(r.hash(&p.Policy)), Basis: basis, Inputs: inputs, Note: note})
	name, text := artifactName(p.w)+".initdata.toml", p.Initdata()
	if r.textHash {
		name, text = artifactName(p.w)+".rego", p.Text()
	}
	r.out.Artifacts = append(r.out.Artifacts, Artifact{Name: "policies/" + name, Data: text})
}

func imageTexts(w *deployment.Workload) []string {
	var out []string
	for _, c := range w.Containers {
		out = append(out, c.Image.Text)
	}
	return out
}

// artifactName is a file name for a workload. Names come from the deployment,
// so they are encoded, and long ones end in a digest.
func artifactName(w *deployment.Workload) string {
	part := func(s string) string { return string(NewKey(orWord(s, "default"))) }
	name := part(w.Kind) + "_" + part(w.Namespace) + "_" + part(w.Name)
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
		r.problem(LevelNote, "policy-none", Where{File: r.d.File}, "no workload has a runtime class of confidential pods, so none has a policy", "")
		return
	}
	r.out.Facts = append(r.out.Facts, fmt.Sprintf("policies: %d of %s computed with profile %s (%s), rules %s %s",
		len(r.computed), plural(n, "workload", "workloads"), r.profile.Name, r.profile.Label(), r.conf.rulesName(), r.input.Rules.Digest()))
}
