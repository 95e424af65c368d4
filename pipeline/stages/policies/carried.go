package policies

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/policygen"
)

// carried holds the documents that the deployment carries as annotations against
// the computed and the published policies. What is deployed boots with the
// document that stands there, whatever was computed for it.
func (r *policyRun) carried(policies []computedPolicy) {
	listed := map[string]bool{}
	if r.listed != nil {
		for _, p := range r.listed.Policies() {
			listed[strings.ToLower(p.HashText)] = true
		}
	}
	for i := range r.d.Workloads {
		w := &r.d.Workloads[i]
		r.carriedElsewhere(w, policies)
		text, has := w.Annotations[initdataAnnotation]
		if !has || text == "" {
			continue // contrast generate writes it later
		}
		where := pipeline.Where{File: r.d.File, Line: w.Line}
		document, err := policygen.DecodeAnnotation(text)
		if err != nil {
			r.problem(pipeline.LevelError, "initdata", where, fmt.Sprintf("%s: the annotation %s cannot be read: %v", w.ID(), initdataAnnotation, err), "take it away, or let contrast generate write it")
			continue
		}
		sum := digest.SHA256.Sum(document).Hex()
		ours := ""
		if at := slices.IndexFunc(policies, func(p computedPolicy) bool { return p.w.ID() == w.ID() }); at >= 0 {
			ours = r.hash(&policies[at].Policy).Hex()
		}
		// Where ours is not the published one, that is a finding of its own.
		if sum == ours || listed[sum] && !listed[ours] {
			continue
		}
		r.problem(pipeline.LevelError, "initdata", where, fmt.Sprintf("%s carries a policy document with SHA-256 %s, which is neither the computed one nor published for it: the guest gets the document that stands there", w.ID(), sum), "take the annotation away, or let contrast generate write it")
	}
}

// carriedElsewhere holds what other annotations carry against the computed policy:
// some runtimes read those.
func (r *policyRun) carriedElsewhere(w *deployment.Workload, policies []computedPolicy) {
	for _, key := range slices.Sorted(maps.Keys(w.Annotations)) {
		text, isPolicy, carries, err := policygen.CarriesPolicy(key, w.Annotations[key])
		if !carries {
			continue
		}
		where := pipeline.Where{File: r.d.File, Line: w.Line}
		if err != nil {
			r.problem(pipeline.LevelError, "initdata", where, fmt.Sprintf("%s: the annotation %s carries a policy that is not read: %v", w.ID(), key, err), "take it away")
			continue
		}
		at := slices.IndexFunc(policies, func(p computedPolicy) bool { return p.w.ID() == w.ID() })
		if at >= 0 && (isPolicy && bytes.Equal(text, policies[at].Policy.Text()) || !isPolicy && digest.SHA256.Sum(text) == r.hash(&policies[at].Policy)) {
			continue
		}
		r.problem(pipeline.LevelError, "initdata", where, fmt.Sprintf("%s: the annotation %s carries a policy with SHA-256 %s, which is not the computed one: runtimes that read this annotation give the guest what stands there", w.ID(), key, digest.SHA256.Sum(text).Hex()), "take the annotation away")
	}
}

// platforms holds the runtime classes against the machines that the manifest
// names: a class of a platform that it has no reference value for is nobody's.
func (r *policyRun) platforms() {
	if r.listed == nil {
		return
	}
	var named []string
	for _, e := range r.listed.SNP() {
		named = append(named, e.Platform)
	}
	for _, e := range r.listed.TDX() {
		named = append(named, e.Platform)
	}
	named = slices.DeleteFunc(named, func(s string) bool { return s == "" })
	if len(named) == 0 {
		return // before Contrast 1.16 entries had no names
	}
	for i := range r.d.Workloads {
		w := &r.d.Workloads[i]
		if w.Platform == "" || slices.ContainsFunc(named, func(s string) bool { return strings.EqualFold(s, w.Platform) }) {
			continue
		}
		r.problem(pipeline.LevelError, string(deployment.RuntimeClassOdd), pipeline.Where{File: r.d.File, Line: w.Line},
			fmt.Sprintf("%s: its runtime class names the platform %s, and %s has reference values for %s alone", w.ID(), show.Text(show.Clip(w.Platform, 80)), r.listed.File(), show.Text(show.Clip(strings.Join(named, ", "), 400))), "contrast-cc, or contrast-cc-PLATFORM of a platform that the manifest names")
	}
}
