package policies

import (
	"context"
	"fmt"
	"slices"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/published"
)

// lacks notes why a workload has no policy: in a sentence, and which input there
// is not.
func (r *policyRun) lacks(w *deployment.Workload, note, what string) {
	key := policyKey(w)
	r.out.Notes[key] = note
	lack(r.out, key, what)
}

func lack(out *run.Out, key pipeline.Key, what string) {
	if out.Missing == nil {
		out.Missing = map[pipeline.Key][]string{}
	}
	if !slices.Contains(out.Missing[key], what) {
		out.Missing[key] = append(out.Missing[key], what)
	}
}

// unchanged reports whether Contrast's changes of a workload are not known
// whole, and says what is missing: a policy of half the changes is no policy.
func (r *policyRun) unchanged(w *deployment.Workload) bool {
	if r.changed == nil {
		return false
	}
	own := r.changed.Of(w)
	if own == nil {
		r.lacks(w, "not computed, because the changed deployment does not have it", "the workload in the changed deployment")
		r.in.Lack("the workload in the changed deployment", string(policyKey(w)), "")
		return true
	}
	for _, m := range own.Missing {
		r.in.Lack(m.What, string(policyKey(w)), m.How)
		r.lacks(w, "not computed, because "+m.What+" is missing", m.What)
	}
	return len(own.Missing) > 0
}

// withoutPolicies says of a generation for which nothing of the generator is
// given what each policy lacks.
func withoutPolicies(ctx context.Context, in *run.In, out *run.Out) error {
	g, err := published.Generate(ctx, in)
	if err != nil {
		return err
	}
	out.Artifacts = append(out.Artifacts, run.Artifact{Name: g.File, Data: g.YAML})
	r := &policyRun{in: in, out: out, changed: g}
	const what = "the settings and rules that the release's generator of policies uses"
	n := 0
	for i := range g.Changed.Workloads {
		w := &g.Changed.Workloads[i]
		if _, given := g.Values.FindPolicy(w.Kind, w.Namespace, w.Name); given || g.Of(w) == nil {
			continue
		}
		n++
		r.unchanged(w)
		r.lacks(w, "not computed, because settings and rules are missing", what)
	}
	if n == 0 {
		return nil // values says them all
	}
	in.Lack(what+", for "+show.Plural(n, "workload", "workloads"), "policy/**", "policies: {settings: genpolicy-settings.json, rules: rules.rego, profile: "+g.Release.PolicyProfile.Value+"}, and images with the bytes of every container's image")
	return nil
}

// ofRelease takes the generator's behavior from the release, where the
// configuration names none.
func (r *policyRun) ofRelease() {
	if r.changed == nil {
		return
	}
	conf := *r.conf
	if want := r.changed.Release.PolicyProfile.Value; conf.Profile == "" {
		conf.Profile = want
	} else if conf.Profile != want {
		r.problem(pipeline.LevelWarning, "release-profile", pipeline.Where{File: r.changed.Release.File()}, fmt.Sprintf("Contrast %s is taken to behave as profile %s, and profile %s is asked for", r.changed.Release.Release, want, conf.Profile), "leave out policies.profile")
	}
	r.conf = &conf
}

// releaseInputs holds settings and rules against those that the release is
// known, or taken, to have.
func (r *policyRun) releaseInputs() {
	if r.changed == nil {
		return
	}
	rel := r.changed.Release
	for _, f := range []struct {
		what, name, want string
		got              digest.Digest
	}{
		{"settings", r.base.Name, rel.Settings.Value, digest.SHA256.Sum(r.base.Data)},
		{"rules", r.conf.RulesName(), rel.Rules.Value, r.input.Rules.Digest()},
	} {
		if f.want != "" && f.got.Hex() != f.want {
			r.problem(pipeline.LevelWarning, "release-inputs", pipeline.Where{File: f.name}, fmt.Sprintf("are not the %s of Contrast %s as far as they are known: SHA-256 %s, want %s", f.what, rel.Release, f.got.Hex(), f.want), "take the release's file, or a release file that says another digest")
		}
	}
}
