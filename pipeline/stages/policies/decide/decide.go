// Package decide is what a policy's answers to requests are as values of a
// report. It stands beside the stage, which computes policies, because asking
// them needs a rule engine.
package decide

import (
	"fmt"
	"io"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/policygen/check"
)

// Decisions are a policy's answers to requests.
type Decisions struct {
	Allowed     bool       `json:"allowed"` // all of them
	Kind        string     `json:"kind,omitempty"`
	Namespace   string     `json:"namespace,omitempty"`
	Name        string     `json:"name,omitempty"`
	Rules       string     `json:"rules"`
	RulesDigest string     `json:"rules_digest"`
	Decisions   []Decision `json:"decisions"`

	policy *check.Policy
}

// Decision is the answer to one request of a sequence.
type Decision struct {
	Request     int    `json:"request"` // from 1
	Line        int    `json:"line,omitempty"`
	Description string `json:"description,omitempty"`
	*check.Decision
}

// Out has a value for each request: that the policy allows it.
func (d *Decisions) Out(policy, requests string) *run.Out {
	out := run.NewOut()
	for _, x := range d.Decisions {
		key, where := pipeline.NewKey("request", fmt.Sprint(x.Request), x.Decision.Kind), pipeline.Where{File: requests, Line: x.Line}
		out.Measure(key, pipeline.OfBool(x.Allowed), policy, x.Description)
		out.Refer(key, pipeline.OfBool(true), where, "request that the guest is to allow")
		for _, c := range x.Reasons {
			for _, f := range c.Failed {
				out.Causes[key] = append(out.Causes[key], pipeline.Cause{
					Path: []string{string(key), candidate(c), f.Check, f.Key}, Expected: show.Clip(string(f.Expected), 200), Actual: show.Clip(string(f.Actual), 200),
					Note: candidate(c) + ": " + f.Check, Standing: pipeline.Suspected, Hint: "policy-content", Where: where,
				})
			}
		}
	}
	return out
}

// Text is the form for people.
func (d *Decisions) Text(w io.Writer, verbose bool) {
	allowed := 0
	for _, x := range d.Decisions {
		verdict := "DENIED "
		if x.Allowed {
			verdict = "ALLOWED"
			allowed++
		}
		name := x.Decision.Kind
		if x.Line > 0 {
			name = fmt.Sprintf("line %d: %s", x.Line, name)
		}
		if x.Description != "" {
			name += ": " + x.Description
		}
		show.Line(w, "%s  %s", verdict, name)
		for _, c := range x.Reasons {
			candidateText(w, c, verbose)
		}
		if x.Undefined {
			show.Line(w, "  the policy has no answer to this kind of request: the guest refuses it")
		}
		if x.Note != "" {
			show.Line(w, "  note: %s", x.Note)
		}
	}
	if len(d.Decisions) > 1 {
		show.Line(w, "%d of %s allowed", allowed, show.Plural(len(d.Decisions), "request", "requests"))
	}
	name := d.Name
	if d.Namespace != "" {
		name = d.Namespace + "/" + name
	}
	if name = strings.TrimSpace(d.Kind + " " + name); name != "" {
		show.Line(w, "policy of %s, rules %s (%s)", name, d.Rules, d.RulesDigest)
	} else {
		show.Line(w, "rules %s (%s)", d.Rules, d.RulesDigest)
	}
}

// candidate names the part of a policy that a request may have been meant for.
func candidate(c check.Candidate) string {
	switch {
	case c.Container < 0:
		return "the request as a whole"
	case c.Name != "":
		return "container " + c.Name
	case c.Container == 0:
		return "the pause container"
	}
	return fmt.Sprintf("container %d", c.Container)
}

func candidateText(w io.Writer, c check.Candidate, verbose bool) {
	show.Line(w, "  %s: %d of %d checks passed", candidate(c), c.Passed, c.Checks)
	for i, f := range c.Failed {
		if i > 0 && !verbose {
			show.Line(w, "    and %d more (-v shows all)", len(c.Failed)-1)
			break
		}
		where := f.Check
		if f.Key != "" {
			where += " " + f.Key
		}
		expected, actual := string(f.Expected), string(f.Actual)
		if !verbose {
			expected, actual = show.Clip(expected, 300), show.Clip(actual, 300)
		}
		show.Line(w, "    %s: expected %s, actual %s", where, expected, actual)
	}
}
