package manifest

import (
	"fmt"
	"io"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
)

// Validity is a manifest held against the rules that Contrast applies to it.
type Validity struct {
	m        *manifest.Manifest
	problems []manifest.Problem
	owners   []owner
}

// owner says in which role a key stands in the manifest, "" for none.
type owner struct {
	File    string `json:"file"`
	Role    string `json:"role"`
	Pointer string `json:"pointer"`
}

var ownerRoles = map[string]string{
	"WorkloadOwnerPubKeys":    "workload owner, who may set a new manifest",
	"WorkloadOwnerKeyDigests": "workload owner, who may set a new manifest",
	"SeedshareOwnerPubKeys":   "seedshare owner, who may recover the secrets",
}

// NewValidity checks a manifest field by field.
func NewValidity(m *manifest.Manifest) *Validity {
	return &Validity{m: m, problems: m.Validate(), owners: []owner{}}
}

// Owner also asks whether a key is among the owners.
func (v *Validity) Owner(file string, key manifest.OwnerKey) {
	o := owner{File: file}
	if at, ok := v.m.FindOwnerKey(key); ok {
		o.Role, o.Pointer = ownerRoles[strings.Split(at, "/")[1]], at
	}
	v.owners = append(v.owners, o)
}

// unjudged makes a value that stays unchecked of each thing in a published
// manifest that a newer version may have written: equal bytes on both sides do
// not say what it permits.
func unjudged(out *run.Out, m *manifest.Manifest, problems []manifest.Problem) {
	n := 0
	for _, p := range problems {
		if p.Severity != manifest.SeverityUnjudged {
			continue
		}
		n++
		key := pipeline.NewKey("manifest", "unjudged", fmt.Sprint(n))
		note := p.Pointer + ": " + p.Msg
		out.References = append(out.References, pipeline.Reference{
			Key: key, Relation: pipeline.Equal, Want: pipeline.OfText("judged"), Where: pipeline.Where{File: m.File(), Pointer: p.Pointer, Line: p.Line}, Words: p.Pointer, Note: note,
		})
	}
}

// unjudged lists what a newer version may have written.
func (v *Validity) unjudged() []manifest.Problem {
	var out []manifest.Problem
	for _, p := range v.problems {
		if p.Severity == manifest.SeverityUnjudged {
			out = append(out, p)
		}
	}
	return out
}

// holds reports whether every known rule holds and every key is an owner's.
func (v *Validity) holds() bool {
	for _, p := range v.problems {
		if p.Severity == manifest.SeverityError {
			return false
		}
	}
	for _, o := range v.owners {
		if o.Role == "" {
			return false
		}
	}
	return true
}

// Out has one value for the rules and one for each owner key.
func (v *Validity) Out() *run.Out {
	out := run.NewOut()
	file := v.m.File()
	out.Problems = Problems(file, v.m, false)
	hold := func(key pipeline.Key, holds bool, where pipeline.Where, words string) {
		out.Measure(key, pipeline.OfBool(holds), file, "")
		out.Refer(key, pipeline.OfBool(true), where, words)
	}
	rules := true
	for _, p := range v.problems {
		rules = rules && p.Severity != manifest.SeverityError
	}
	hold(pipeline.NewKey("manifest", "valid"), rules, pipeline.Where{File: file}, "every rule of Contrast holds")
	unjudged(out, v.m, v.problems)
	for i, o := range v.owners {
		hold(pipeline.NewKey("manifest", "owner", fmt.Sprint(i+1)), o.Role != "", pipeline.Where{File: o.File, Pointer: o.Pointer}, "the key of "+o.File+" is among the owners")
	}
	return out
}

// JSON is the form that scripts read.
func (v *Validity) JSON() any {
	list := []map[string]any{}
	for _, p := range v.problems {
		list = append(list, map[string]any{
			"pointer": p.Pointer, "line": p.Line, "column": p.Column, "code": p.Code, "severity": p.Severity.String(), "message": p.Msg, "hint": p.Hint,
		})
	}
	unjudged := []string{}
	for _, p := range v.unjudged() {
		unjudged = append(unjudged, p.Pointer)
	}
	_, plain := v.m.Style()
	return map[string]any{
		"file": v.m.File(), "valid": v.holds() && len(unjudged) == 0, "unjudged": unjudged, "shape": v.m.Shape().String(), "policies": len(v.m.Policies()), "snp": len(v.m.SNP()), "tdx": len(v.m.TDX()),
		"canonicalLayout": plain, "problems": list, "ownerKeys": v.owners,
		// The spelling of all other documents; the two above stay for one release.
		"canonical_layout": plain, "owner_keys": v.owners,
	}
}

// Text is the form for people.
func (v *Validity) Text(w io.Writer, _ bool) {
	verdict := "INVALID"
	switch {
	case v.holds() && len(v.unjudged()) > 0:
		verdict = "NOT FULLY CHECKED"
	case v.holds():
		verdict = "VALID"
	}
	m, file := v.m, v.m.File()
	show.Line(w, "%s  %s", verdict, file)
	show.Line(w, "  written by %s", m.Shape())
	show.Line(w, "  %s, %s, %s", show.Plural(len(m.Policies()), "workload policy", "workload policies"), show.Plural(len(m.SNP()), "SNP reference value", "SNP reference values"), show.Plural(len(m.TDX()), "TDX reference value", "TDX reference values"))
	if _, plain := m.Style(); !plain {
		show.Line(w, "  its layout is none that contrast, yq or jq writes: it was edited by something else")
	}
	for _, o := range v.owners {
		if o.Role == "" {
			show.Line(w, "  %s is not among the owner keys", o.File)
		} else {
			show.Line(w, "  %s is the key of a %s (%s)", o.File, o.Role, o.Pointer)
		}
	}
	for _, p := range v.problems {
		s := fmt.Sprintf("  %s:%d:%d: %s: %s: %s", file, p.Line, p.Column, p.Severity, p.Pointer, p.Msg)
		if p.Hint != "" {
			s += " (" + p.Hint + ")"
		}
		show.Line(w, "%s", s)
	}
}
