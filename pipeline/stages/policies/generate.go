package policies

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/policygen"
)

// computedPolicy is a policy with the workload that it is for.
type computedPolicy struct {
	policygen.Policy
	w   *deployment.Workload
	key pipeline.Key
	// namespace is set if the deployment's was exchanged for it.
	namespace string
	exchange  exchange
}

// roundsAtMost bounds how often the generator is asked again without the
// workloads that it refused. It names up to a thousand faults at once, but of
// faults of syntax only the first.
const roundsAtMost = 16

// generate computes what can be computed: a workload with a fault or without
// the bytes of an image is left out, and the others are computed.
func (r *policyRun) generate(ctx context.Context) ([]computedPolicy, error) {
	if why := r.absence(r.pauseImage()); why != "" {
		r.in.Lack(fmt.Sprintf("the bytes of the pause image %s, which %s names (%s)", r.pauseImage(), r.base.Name, why), "policy/**",
			"images: {"+lastPart(r.pauseImage())+": {oci: FOLDER}}; every pod runs it, so every policy holds its configuration")
		for i := range r.d.Workloads {
			if w := &r.d.Workloads[i]; r.scope(w) {
				r.lacks(w, "not computed, because the bytes of the pause image are not at hand", "the bytes of the pause image "+r.pauseImage()+" ("+why+")")
				r.unchanged(w)
			}
		}
		return nil, nil
	}
	keep := r.available()
	config := map[int]bool{}
	for _, o := range r.d.Objects {
		if o.Kind == "ConfigMap" || o.Kind == "Secret" {
			config[r.parts.of(o.Line)] = true
		}
	}
	for rounds := 0; len(keep) > 0; rounds++ {
		if rounds == roundsAtMost {
			r.problem(pipeline.LevelError, "policy-faults", pipeline.Where{File: r.d.File}, "has too many faults to list them all; no policy was computed", "mend those that are listed, then run again")
			return nil, nil
		}
		parts := map[int]bool{}
		for i := range keep {
			parts[i] = true
		}
		for i := range config {
			parts[i] = true
		}
		input := r.input
		input.YAML = policygen.NamedFile{Name: r.d.File, Data: r.parts.only(parts)}
		out, err := policygen.Generate(ctx, input)
		var problems policygen.Problems
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil:
			r.notes(out)
			return r.assign(out.Policies, parts)
		case !errors.As(err, &problems):
			return nil, err
		}
		if !r.faults(problems, keep) {
			return nil, nil
		}
	}
	return nil, nil
}

// available are the parts with workloads in scope whose images are all there;
// the images that are missing are named once, with who needs them.
func (r *policyRun) available() map[int]bool {
	keep, lacking := map[int]bool{}, map[int]bool{}
	var missing []string
	needs := map[string][]pipeline.Key{}
	for i := range r.d.Workloads {
		w := &r.d.Workloads[i]
		if !r.scope(w) {
			continue
		}
		part := r.parts.of(w.Line)
		keep[part] = true
		if r.unchanged(w) {
			lacking[part] = true
		}
		for _, c := range w.Containers {
			if r.changed.Placeholder(c.Image.Text) {
				continue // its digest is what is missing
			}
			why := r.absence(c.Image.Text)
			if why == "" {
				continue
			}
			lacking[part] = true
			if needs[c.Image.Text] == nil {
				missing = append(missing, c.Image.Text)
			}
			if key := policyKey(w); !slices.Contains(needs[c.Image.Text], key) {
				needs[c.Image.Text] = append(needs[c.Image.Text], key)
				r.lacks(w, "not computed, because the bytes of image "+lastPart(c.Image.Text)+" are not at hand", "the bytes of image "+c.Image.Text+" ("+why+")")
			}
		}
	}
	for i := range lacking {
		delete(keep, i)
	}
	for _, text := range missing {
		what := "the bytes of image " + lastPart(text)
		if n := len(needs[text]); n > 1 {
			what += fmt.Sprintf(", which %d workloads run", n)
		}
		r.in.Lack(fmt.Sprintf("%s (%s)", what, r.absence(text)), string(needs[text][0]), "images: {"+lastPart(text)+": {oci: FOLDER}}; its configuration is part of the policy")
	}
	return keep
}

// faults reports problems and takes the parts with faults out. It is false if
// a fault lies where every workload needs it.
func (r *policyRun) faults(problems policygen.Problems, keep map[int]bool) bool {
	all := false
	for _, p := range problems {
		r.fault(p, false)
		part := -1
		if p.File == r.d.File && p.Line > 0 {
			part = r.parts.of(p.Line)
		}
		if !keep[part] {
			all = true // in the settings, a ConfigMap, or nowhere
		}
		for i := range r.d.Workloads {
			w := &r.d.Workloads[i]
			if r.scope(w) && (part < 0 || r.parts.of(w.Line) == part) {
				r.lacks(w, "not computed, because of a fault in the inputs", "inputs without a fault: "+p.String())
			}
		}
	}
	for _, p := range problems {
		if p.File == r.d.File && p.Line > 0 {
			delete(keep, r.parts.of(p.Line))
		}
	}
	return !all
}

// fault turns a problem of the generator into one of the report. A field that
// a container could notice is an error; others can be accepted.
func (r *policyRun) fault(p policygen.Problem, accepted bool) {
	level, hint := pipeline.LevelError, p.Hint
	switch {
	case accepted:
		level = pipeline.LevelNote
	case p.Harmless:
		level = pipeline.LevelWarning
		hint = "no container can notice it: lenient: true in policies accepts it, and without that its workload has no policy"
	}
	msg := p.Message
	if p.Path != "" {
		msg = p.Path + ": " + msg
	}
	if p.Column > 0 {
		msg += fmt.Sprintf(" (column %d)", p.Column)
	}
	r.problem(level, "policy-"+p.Kind.String(), pipeline.Where{File: p.File, Line: p.Line}, msg, hint)
}

func (r *policyRun) notes(out *policygen.Output) {
	for _, p := range out.Notes {
		r.fault(p, true)
	}
	layers, images := 0, []string{}
	for _, use := range out.Images {
		before := layers
		for _, l := range use.Layers {
			if l.State == "skipped" {
				layers++
			}
		}
		if layers > before {
			images = append(images, lastPart(use.Reference))
		}
	}
	if layers > 0 {
		slices.Sort(images)
		r.problem(pipeline.LevelNote, "policy-layers", pipeline.Where{File: r.d.File}, fmt.Sprintf("profile %s looks for users and groups in gzip layers only, so not in %s of %s",
			r.profile.Name, show.Plural(layers, "layer", "layers"), strings.Join(slices.Compact(images), ", ")), "")
	}
}

// assign joins policies and workloads by the object that both are of: its place
// in the file, its kind, namespace and name. Two readers that see another object
// at one place are no match but an error.
func (r *policyRun) assign(list []policygen.Policy, parts map[int]bool) ([]computedPolicy, error) {
	byObject := map[object]*policygen.Policy{}
	for i := range list {
		p := &list[i]
		id := objectOf(p)
		if other := byObject[id]; other != nil && other.TextDigest != p.TextDigest {
			return nil, &pipeline.InputError{Op: "join policies", File: r.d.File, Err: fmt.Errorf("line %d: %s stands there twice, with two policies", id.line, id), Hint: "write each object once, on lines of its own"}
		}
		byObject[id] = p
	}
	var out []computedPolicy
	joined := map[object]bool{}
	for i := range r.d.Workloads {
		w := &r.d.Workloads[i]
		if !parts[r.parts.of(w.Line)] {
			continue
		}
		id := workloadObject(w)
		p := byObject[id]
		if p == nil {
			return nil, &pipeline.InputError{Op: "join policies", File: r.d.File, Err: fmt.Errorf("line %d: the generator does not see %s there", id.line, id), Hint: "the generator and this program read the file in two ways: write each key once and without a tag"}
		}
		joined[id] = true
		key := policyKey(w)
		if !r.scope(w) || r.computed[key] || w.Name == "" {
			continue // an object that is there twice is reported as such
		}
		if r.changed == nil && needsMutation(r.profile, w) {
			r.in.Lack("the deployment as contrast generate writes it", string(key), "give deployment: the YAML of contrast generate --output; it adds an initializer to "+w.ID()+" before it computes the policy")
			r.out.Notes[key] = "not computed, because contrast generate adds an initializer first, which the deployment does not have"
			continue
		}
		r.computed[key] = true
		own := *p
		own.Annotation = "" // the document's other form, which nobody here needs
		out = append(out, computedPolicy{Policy: own, w: w, key: key})
	}
	for i := range list {
		if id := objectOf(&list[i]); !joined[id] {
			return nil, &pipeline.InputError{Op: "join policies", File: r.d.File, Err: fmt.Errorf("line %d: the generator sees %s there, which the deployment does not have", id.line, id), Hint: "the generator and this program read the file in two ways: write each key once and without a tag"}
		}
	}
	return out, nil
}

// object is what both readers of a deployment must see alike.
type object struct {
	line, column          int
	kind, namespace, name string
}

// String reads "Pod shop/web".
func (o object) String() string {
	return fmt.Sprintf("%s %s/%s", o.kind, cmp.Or(o.namespace, "default"), o.name)
}

func objectOf(p *policygen.Policy) object {
	return object{p.Line, p.Column, p.Kind, p.Namespace, p.Name}
}

func workloadObject(w *deployment.Workload) object {
	return object{w.Node.Line, w.Node.Column, w.Kind, w.Namespace, w.Name}
}

// needsMutation reports whether `contrast generate` would still change a
// workload: it puts an initializer in front unless that is there, is declined,
// or the workload is the Coordinator.
func needsMutation(p policygen.Profile, w *deployment.Workload) bool {
	if !strings.HasPrefix(p.Name, "contrast-") || w.Coordinator || w.Annotations["contrast.edgeless.systems/skip-initializer"] == "true" {
		return false
	}
	return !slices.ContainsFunc(w.Containers, func(c deployment.Container) bool { return c.Init && c.Name == "contrast-initializer" })
}
