package pipeline

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/policygen"
	"github.com/retally/retally/policygen/rules"
)

// explain says of each hash that is not the published one why: from the
// published policy itself where its text is at hand, else by computing the
// policy under other circumstances until the published hash comes out.
func (r *policyRun) explain(ctx context.Context, policies []computedPolicy) error {
	texts, err := r.publishedTexts(ctx)
	if err != nil || r.listed == nil {
		return err
	}
	used := r.conf.Published == ""
	for _, p := range r.listed.Policies() {
		_, known := texts[p.HashText]
		used = used || known
	}
	if !used {
		r.problem(LevelWarning, "policy-texts", Where{File: r.conf.Published}, "has no policy that "+r.listed.File()+" lists", "they are of another release, or were changed")
	}
	s := &variantSearch{r: r, left: variantsAtMost}
	for i := range policies {
		p := &policies[i]
		entry, ok := listedEntry(r.listed, p.w)
		if !ok || entry.HashText == r.hash(&p.Policy).Hex() {
			continue
		}
		causes := r.textCauses(p, entry, texts)
		if len(causes) == 0 {
			if causes, err = s.causes(ctx, p, entry); err != nil {
				return err
			}
		}
		if len(causes) == 0 {
			causes = []Cause{{
				Path: []string{string(p.key), "policy text"}, Standing: Suspected, Hint: "policy-hash",
				Note: "what in the policy changed is unknown: the published policy's text is not at hand (policies: {published: FILE or FOLDER}), and no other profile, rules, settings or namespace that is known here gives its hash",
			}}
		}
		r.out.Causes[p.key] = causes
	}
	return nil
}

// listedEntry finds a workload's entry: by its secret identity, else by kind
// and name, as manifests of two namespaces are joined.
func listedEntry(m *manifest.Manifest, w *deployment.Workload) (manifest.Policy, bool) {
	own, named := manifest.ParseWorkloadID(w.SecretID)
	var found []manifest.Policy
	for _, p := range m.Policies() {
		if p.WorkloadSecretID == w.SecretID {
			return p, true
		}
		if id, ok := manifest.ParseWorkloadID(p.WorkloadSecretID); named && ok && id.Kind == own.Kind && id.Name == own.Name {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		return manifest.Policy{}, false
	}
	return found[0], true
}

// textsOf finds the policies in a file: the file itself, the value of an
// annotation, or the annotations of workloads.
func textsOf(name string, data []byte) []publishedText {
	out := []publishedText{{where: Where{File: name}, name: name, text: data}}
	if text, err := policygen.DecodeAnnotation(string(bytes.TrimSpace(data))); err == nil {
		return append(out, publishedText{where: Where{File: name}, name: name, text: text})
	}
	if !bytes.Contains(data, []byte(initdataAnnotation)) {
		return out
	}
	d, err := deployment.Parse(name, data)
	if err != nil {
		return out
	}
	for _, w := range d.Workloads {
		if text, err := policygen.DecodeAnnotation(w.Annotations[initdataAnnotation]); err == nil {
			out = append(out, publishedText{where: Where{File: name, Line: w.Line}, name: "the annotation of " + w.ID(), text: text})
		}
	}
	return out
}

// textCauses compares our policy with the published one. That a text is the
// published one is proved by its digest, so the differences are all there is.
func (r *policyRun) textCauses(p *computedPolicy, entry manifest.Policy, texts map[string]publishedText) []Cause {
	t, ok := texts[entry.HashText]
	if !ok {
		return nil
	}
	theirs, err := policygen.ReadPolicies(policygen.NamedFile{Name: t.name, Data: t.text})
	if err != nil {
		r.problem(LevelWarning, "policy-texts", t.where, "cannot be read as a policy: "+err.Error(), "")
		return nil
	}
	ours, err := policygen.ReadPolicies(policygen.NamedFile{Name: string(p.key), Data: p.Text()})
	if err != nil || len(theirs) != 1 || len(ours) != 1 {
		return nil
	}
	var causes []Cause
	for _, d := range policygen.Diff(theirs, ours) {
		for _, c := range d.Causes {
			causes = append(causes, r.diffCause(p, t, c))
		}
	}
	if !slices.Contains(r.forms(theirs[0]), entry.HashText) {
		causes = append(causes, Cause{
			Path: []string{string(p.key), "form"}, Standing: Proved, Hint: "policy-form", Where: t.where,
			Note: "the document around the published policy is written in another way, or holds more than the policy",
		})
	}
	return causes
}

// forms are the hashes of a policy in the form that is computed here.
func (r *policyRun) forms(p policygen.NamedPolicy) []string {
	text := slices.Concat(p.Rules, []byte("\npolicy_data := "), p.Data)
	if r.textHash {
		return []string{digest.SHA256.Sum(text).Hex()}
	}
	doc := policygen.Initdata{Version: "0.1.0", Algorithm: digest.SHA256, Data: map[string]string{"policy.rego": string(text)}}
	return []string{digest.SHA256.Sum(doc.Text(r.profile.Initdata)).Hex()}
}

// categoryWords say what the part of a policy is that differs.
var categoryWords = map[string]string{
	"image": "image name", "env": "environment variable", "args": "argument", "linux": "Linux setting", "exec": "command that the host may run",
	"process": "process setting", "containers": "container",
}

func (r *policyRun) diffCause(p *computedPolicy, t publishedText, d policygen.DiffCause) Cause {
	what := orWord(categoryWords[d.Category], d.Category)
	note := what + " not as in the published policy"
	switch {
	case d.A == "" && d.B != "":
		note = what + " that the published policy does not have"
	case d.B == "" && d.A != "":
		note = what + " that only the published policy has"
	}
	path := []string{string(p.key)}
	switch {
	case d.Container != "":
		note = "container " + d.Container + ": " + note
		path = append(path, d.Container)
	case d.Note != "":
		note += ", " + d.Note
	}
	c := Cause{
		Path: append(path, d.Path), Expected: clipText(d.B), Actual: clipText(d.A), Standing: Proved,
		Note: note + " (" + d.Path + ")", Where: t.where, Hint: "policy-content",
	}
	switch {
	case d.Container == "pause":
		c.Hint = "pause-image"
	case d.Category == "annotations":
		c.Hint = "annotations-in-policy"
	case d.Category == "rules" || d.Category == "settings":
		c.Hint = "generator-version"
	}
	if line := placeOf(p.w, d); line > 0 {
		c.Where = Where{File: r.d.File, Line: line}
	}
	return c
}

func clipText(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// placeOf finds the line of the deployment that a difference comes from: the
// argument, the variable, else the container.
func placeOf(w *deployment.Workload, d policygen.DiffCause) int {
	ours, err := strconv.Unquote(d.B)
	if err != nil {
		ours = ""
	}
	for _, c := range w.Containers {
		if c.Name != d.Container {
			continue
		}
		switch d.Category {
		case "image":
			return c.Image.Line
		case "args":
			for _, a := range slices.Concat(c.Command, c.Args) {
				if a.Text == ours && ours != "" {
					return a.Line
				}
			}
		case "env":
			name, _, _ := strings.Cut(ours, "=")
			for _, e := range c.Env {
				if e.Name == name && name != "" {
					return e.Line
				}
			}
		}
		return c.Line
	}
	return 0
}

// variantsAtMost bounds what one run computes in search of published hashes.
const variantsAtMost = 256

// variantSearch computes policies under other circumstances. What explained
// one workload is tried first with the next.
type variantSearch struct {
	r    *policyRun
	left int
	last *variant
}

// variant is a set of changes; an empty field changes nothing.
type variant struct {
	profile   string // another profile
	rules     string // retally's own rules with this binding
	noDropIns bool
	namespace bool // the published manifest's namespace
}

func (v variant) changes() int {
	n := 0
	for _, set := range []bool{v.profile != "", v.rules != "", v.noDropIns, v.namespace} {
		if set {
			n++
		}
	}
	return n
}

func (s *variantSearch) variants(otherNamespace bool) []variant {
	profiles, own := []string{""}, []string{""}
	for _, matched := range []bool{true, false} { // what stands for a known generator says more
		for _, p := range policygen.Profiles() {
			if p.Name != s.r.conf.Profile && (p.Reference != "") == matched {
				profiles = append(profiles, p.Name)
			}
		}
	}
	for _, b := range bindings {
		if ownRules(b) != s.r.conf.rulesName() {
			own = append(own, b)
		}
	}
	var out []variant
	if s.last != nil {
		out = append(out, *s.last)
	}
	for n := 1; n <= 2; n++ {
		for _, namespace := range []bool{false, true} {
			for _, noDropIns := range []bool{false, true} {
				for _, p := range profiles {
					for _, b := range own {
						v := variant{p, b, noDropIns, namespace}
						if v.changes() == n && (!namespace || otherNamespace) && (!noDropIns || len(s.r.dropIns) > 0) {
							out = append(out, v)
						}
					}
				}
			}
		}
	}
	return out
}

// causes finds a change that gives exactly the published hash.
func (s *variantSearch) causes(ctx context.Context, p *computedPolicy, entry manifest.Policy) ([]Cause, error) {
	where := Where{File: s.r.listed.File(), Pointer: entry.Pointer, Line: entry.Line}
	cause := func(path, note string) Cause {
		return Cause{Path: []string{string(p.key), path}, Standing: Proved, Hint: "policy-variant", Where: where, Note: "the published hash is that of the same deployment " + note}
	}
	if entry.HashText == p.TextDigest.Hex() || entry.HashText == p.InitdataDigest.Hex() {
		c := cause("form", "")
		c.Hint, c.Note = "policy-form", "the published hash is that of the policy text, not of the initdata document around it"
		if entry.HashText == p.InitdataDigest.Hex() {
			c.Note = "the published hash is that of the initdata document, not of the policy text in it"
		}
		return []Cause{c}, nil
	}
	id, named := manifest.ParseWorkloadID(entry.WorkloadSecretID)
	other := named && p.w.Namespace != "" && id.Namespace != p.w.Namespace
	for _, v := range s.variants(other) {
		if s.left--; s.left < 0 {
			return nil, nil
		}
		hash, ok := s.r.variantHash(ctx, p, v, id.Namespace)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !ok || hash.Hex() != entry.HashText {
			continue
		}
		s.last = &v
		c := cause("generated", v.words(id.Namespace))
		if v.namespace {
			c.Hint = "namespace"
		}
		return []Cause{c}, nil
	}
	return nil, nil
}

func (v variant) words(namespace string) string {
	var list []string
	if v.namespace {
		list = append(list, "in namespace "+namespace)
	}
	if v.profile != "" {
		list = append(list, "under profile "+v.profile)
	}
	if v.rules != "" {
		list = append(list, "with retally's own rules and image binding "+v.rules)
	}
	if v.noDropIns {
		list = append(list, "without the drop-ins of the settings")
	}
	return strings.Join(list, ", ")
}

// variantHash computes one workload's hash under other circumstances.
func (r *policyRun) variantHash(ctx context.Context, p *computedPolicy, v variant, namespace string) (digest.Digest, bool) {
	input := r.input
	if v.profile != "" {
		profile, err := policygen.ProfileByName(v.profile)
		if err != nil {
			return digest.Digest{}, false
		}
		input.Profile = profile
	}
	if v.rules != "" {
		own, err := rules.Default(rules.Binding(v.rules))
		if err != nil {
			return digest.Digest{}, false
		}
		input.Rules = own
	}
	if v.profile != "" || v.noDropIns {
		dropIns := r.dropIns
		if v.noDropIns {
			dropIns = nil
		}
		settings, err := policygen.ParseSettings(r.base, dropIns, input.Profile)
		if err != nil {
			return digest.Digest{}, false
		}
		input.Settings = settings
	}
	part := r.parts.of(p.w.Line)
	keep, nth, at := map[int]bool{part: true}, 0, 0
	for _, o := range r.d.Objects {
		if o.Kind == "ConfigMap" || o.Kind == "Secret" {
			keep[r.parts.of(o.Line)] = true
		}
	}
	for i := range r.d.Workloads {
		w := &r.d.Workloads[i]
		if w == p.w {
			at = nth
		}
		if keep[r.parts.of(w.Line)] {
			nth++
		}
	}
	input.YAML = policygen.NamedFile{Name: r.d.File, Data: r.parts.only(keep)}
	if v.namespace {
		input.YAML.Data = bytes.ReplaceAll(input.YAML.Data, []byte(p.w.Namespace), []byte(namespace))
	}
	out, err := policygen.Generate(ctx, input)
	if err != nil || at >= len(out.Policies) {
		return digest.Digest{}, false
	}
	return r.hash(&out.Policies[at]), true
}
