package policies

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/policygen"
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
		_, known := texts[strings.ToLower(p.HashText)]
		used = used || known
	}
	if !used {
		r.problem(pipeline.LevelWarning, "policy-texts", pipeline.Where{File: r.conf.Published}, "has no policy that "+r.listed.File()+" lists", "they are of another release, or were changed")
	}
	s := &variantSearch{r: r, left: variantsAtMost}
	for i := range policies {
		p := &policies[i]
		entry, ok := listedEntry(r.listed, p.w)
		entry.HashText = strings.ToLower(entry.HashText)
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
			causes = r.unknownCauses(p, entry)
		}
		r.out.Causes[p.key] = causes
	}
	return nil
}

// unknownCauses says what is left where nothing explains a hash. A generator
// that gives the published hash is a hint that ours is the wrong one.
func (r *policyRun) unknownCauses(p *computedPolicy, entry manifest.Policy) []pipeline.Cause {
	var out []pipeline.Cause
	if r.made != nil {
		if m, ok := listedEntry(r.made, p.w); ok && strings.EqualFold(m.HashText, entry.HashText) {
			out = append(out, pipeline.Cause{
				Path: []string{string(p.key), r.made.File()}, Actual: "sha256:" + m.HashText, Standing: pipeline.Suspected, Hint: "generator-version", Where: pipeline.Where{File: r.made.File(), Pointer: m.Pointer, Line: m.Line},
				Note: "the generated manifest has the published hash, so its generator gave it: rules, settings, image or profile " + r.profile.Name + " here are not those that it used, or it was given another deployment",
			})
		}
	}
	return append(out, pipeline.Cause{
		Path: []string{string(p.key), "policy text"}, Standing: pipeline.Suspected, Hint: "policy-hash",
		Note: "what in the policy changed is unknown: the published policy's text is not at hand (policies: {published: FILE or FOLDER}), and no other profile, rules, settings or namespace that is known here gives its hash",
	})
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
	out := []publishedText{{where: pipeline.Where{File: name}, name: name, text: data}}
	if text, err := policygen.DecodeAnnotation(string(bytes.TrimSpace(data))); err == nil {
		return append(out, publishedText{where: pipeline.Where{File: name}, name: name, text: text})
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
			out = append(out, publishedText{where: pipeline.Where{File: name, Line: w.Line}, name: "the annotation of " + w.ID(), text: text})
		}
	}
	return out
}

// textCauses compares our policy with the published one. That a text is the
// published one is proved by its digest, so the differences are all there is.
func (r *policyRun) textCauses(p *computedPolicy, entry manifest.Policy, texts map[string]publishedText) []pipeline.Cause {
	t, ok := texts[entry.HashText]
	if !ok {
		return nil
	}
	theirs, err := policygen.ReadPolicies(policygen.NamedFile{Name: t.name, Data: t.text})
	if err != nil {
		r.problem(pipeline.LevelWarning, "policy-texts", t.where, "cannot be read as a policy: "+err.Error(), "")
		return nil
	}
	ours, err := policygen.ReadPolicies(policygen.NamedFile{Name: string(p.key), Data: p.Text()})
	if err != nil || len(theirs) != 1 || len(ours) != 1 {
		return nil
	}
	var causes []pipeline.Cause
	for _, d := range policygen.Diff(theirs, ours) {
		for _, c := range d.Causes {
			causes = append(causes, r.diffCause(p, t, c))
		}
	}
	if !slices.Contains(r.forms(theirs[0]), entry.HashText) {
		causes = append(causes, pipeline.Cause{
			Path: []string{string(p.key), "form"}, Standing: pipeline.Proved, Hint: "policy-form", Where: t.where,
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

func (r *policyRun) diffCause(p *computedPolicy, t publishedText, d policygen.DiffCause) pipeline.Cause {
	what := cmp.Or(categoryWords[d.Category], d.Category)
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
	c := pipeline.Cause{
		Path: append(path, d.Path), Expected: clipText(d.B), Actual: clipText(d.A), Standing: pipeline.Proved,
		Note: note + " (" + d.Path + ")", Where: t.where, Hint: "policy-content",
	}
	if words := idBlockWords(d); words != "" {
		c.Note = note + ": " + words
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
		c.Where = pipeline.Where{File: r.d.File, Line: line}
		// People mend the deployment that they gave.
		if r.changed != nil {
			if own := r.changed.Of(p.w); own != nil && own.Workload != nil {
				if line := placeOf(own.Workload, d); line > 0 {
					c.Where = pipeline.Where{File: r.in.Config.Deployment, Line: line}
				}
			}
		}
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
