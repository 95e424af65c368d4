package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/policygen"
	"github.com/retally/retally/policygen/check"
	"github.com/retally/retally/policygen/rules"
)

type policyCheck struct {
	output, policy, request, kind, workload, rules, binding string
}

func (a *app) policyCheckCommand() *cobra.Command {
	var c policyCheck
	cmd := &cobra.Command{
		Use:   "check --policy FILE --request FILE",
		Short: "Would the guest allow this request? If not, which part of the policy does it not fit?",
		Long: `Ask a policy about a request of the host. POLICY is a policy text, policy data,
an initdata document, the value of the annotation, or annotated YAML (with
several workloads --workload KIND/NAME chooses one).

REQUEST is JSON, or text with JSON in it as pod events and logs show it, escaped
any number of times. A file with one JSON object a line, or a JSON array, is a
sequence of requests: what one of them changes holds for the next.

A denied request is explained for every container of the policy that it may have
been meant for, the nearest first: the first check that fails, what the policy
wants and what the request has (-v: all checks that fail). The decision is that
of the policy's own rules; the explanation comes from its data.

Exit codes: 0 allowed, 1 denied.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.checkPolicy(cmd, &c)
		},
	}
	outputFlag(cmd, &c.output)
	f := cmd.Flags()
	f.StringVar(&c.policy, "policy", "", "policy of any form, - for stdin")
	f.StringVar(&c.request, "request", "", "request or requests, - for stdin")
	f.StringVar(&c.kind, "kind", "", "kind of the request, such as CreateContainerRequest (default: as the text or its members tell)")
	f.StringVar(&c.workload, "workload", "", "KIND/NAME or KIND/NAMESPACE/NAME of annotated YAML with several workloads")
	f.StringVar(&c.rules, "rules", "", "rules.rego for data that comes without rules (default: retally's own)")
	f.StringVar(&c.binding, "image-binding", "", "binding of retally's own rules for data without rules: annotation, guest_pull, off (default off)")
	return cmd
}

func (a *app) checkPolicy(cmd *cobra.Command, c *policyCheck) error {
	const op = "policy check"
	for _, flag := range []struct{ name, value string }{{"policy", c.policy}, {"request", c.request}} {
		if flag.value == "" {
			return &userError{op: op, msg: "--" + flag.name + " FILE is missing", hint: "usage: " + cmd.UseLine()}
		}
	}
	if err := onlyOneStdin(op, c.policy, c.request, c.rules); err != nil {
		return err
	}
	list, err := a.readPolicies(c.policy)
	if err != nil {
		return a.policyProblems(err, op, shownName(c.policy), c.output)
	}
	named, err := chooseWorkload(list, c.workload, shownName(c.policy))
	if err != nil {
		return err
	}
	judged, err := a.rulesFor(named, c)
	if err != nil {
		return err
	}
	text := slices.Concat(named.Rules, []byte("\npolicy_data := "), named.Data)
	policy, err := check.Parse(shownName(c.policy), text)
	if err != nil {
		return &userError{op: op, path: shownName(c.policy), err: err}
	}
	data, err := a.readInput("read request", c.request, policyFileLimit)
	if err != nil {
		return err
	}
	result := checkResult{
		Allowed: true, Kind: named.Kind, Namespace: named.Namespace, Name: named.Name,
		Rules: judged, RulesDigest: policygen.Rules{Text: named.Rules}.Digest().String(), Decisions: []checkDecision{},
	}
	for i, one := range splitRequests(data) {
		req, err := check.ParseRequest(one.text, c.kind)
		if err != nil {
			return &userError{op: op, path: one.place(shownName(c.request)), err: err, hint: "--kind names the kind"}
		}
		d, err := policy.Evaluate(cmd.Context(), req.Kind, req.Input)
		if err != nil {
			if cerr := cmd.Context().Err(); cerr != nil {
				return cerr
			}
			return &userError{op: op, path: one.place(shownName(c.request)), err: err}
		}
		result.Allowed = result.Allowed && d.Allowed
		result.Decisions = append(result.Decisions, checkDecision{Request: i + 1, Line: one.line, Description: one.description(), Decision: d})
	}
	if c.output == "json" {
		if err := writeJSON(a.stdout, result); err != nil {
			return err
		}
	} else {
		a.printCheck(&result)
	}
	if !result.Allowed {
		return outcomeError{exitDiffers}
	}
	return nil
}

// chooseWorkload finds the policy that is meant.
func chooseWorkload(list []policygen.NamedPolicy, want, file string) (*policygen.NamedPolicy, error) {
	var names []string
	var hits []*policygen.NamedPolicy
	for i := range list {
		p := &list[i]
		names = append(names, p.Kind+"/"+p.Name)
		if want == "" || strings.EqualFold(want, p.Kind+"/"+p.Name) || strings.EqualFold(want, p.Kind+"/"+p.Namespace+"/"+p.Name) {
			hits = append(hits, p)
		}
	}
	const most = 20
	if len(names) > most {
		names = append(names[:most:most], fmt.Sprintf("%d more", len(list)-most))
	}
	known := "it has " + strings.Join(names, ", ")
	switch {
	case len(hits) == 1:
		return hits[0], nil
	case want == "":
		return nil, &userError{op: "policy check", path: file, msg: fmt.Sprintf("%d policies are in it", len(list)), hint: "--workload KIND/NAME chooses one; " + known}
	case len(hits) == 0:
		return nil, &userError{op: "policy check", path: file, msg: "no policy of " + want, hint: known}
	}
	return nil, &userError{op: "policy check", path: file, msg: fmt.Sprintf("%d policies of %s", len(hits), want), hint: "name the namespace: KIND/NAMESPACE/NAME"}
}

// rulesFor completes data that came without rules and says whose rules decide.
func (a *app) rulesFor(p *policygen.NamedPolicy, c *policyCheck) (string, error) {
	if p.Rules != nil {
		if c.rules != "" || c.binding != "" {
			return "", &userError{op: "policy check", path: shownName(c.policy), msg: "has rules of its own, which decide", hint: "leave --rules and --image-binding away, or give the policy data alone"}
		}
		return "the policy's own", nil
	}
	set, err := a.ruleSet("policy check", c.rules, c.binding, string(rules.Off))
	if err != nil {
		return "", err
	}
	p.Rules = set.Text
	if set.binding != "" {
		return "retally's own, image_binding " + set.binding, nil
	}
	return set.Name, nil
}

type checkResult struct {
	Allowed     bool            `json:"allowed"` // all of them
	Kind        string          `json:"kind,omitempty"`
	Namespace   string          `json:"namespace,omitempty"`
	Name        string          `json:"name,omitempty"`
	Rules       string          `json:"rules"`
	RulesDigest string          `json:"rules_digest"`
	Decisions   []checkDecision `json:"decisions"`
}

type checkDecision struct {
	Request     int    `json:"request"` // from 1
	Line        int    `json:"line,omitempty"`
	Description string `json:"description,omitempty"`
	*check.Decision
}

// oneRequest is a request of a sequence, with its line where it has one.
type oneRequest struct {
	text []byte
	line int
}

func (r oneRequest) place(file string) string {
	if r.line > 0 {
		return fmt.Sprintf("%s:%d", file, r.line)
	}
	return file
}

// description is what test cases call a request.
func (r oneRequest) description() string {
	var d struct {
		Description string `json:"description"`
	}
	if json.Unmarshal(r.text, &d) != nil {
		return ""
	}
	return d.Description
}

// splitRequests takes a sequence apart: lines that are JSON objects each, or
// the elements of an array. Everything else is one request.
func splitRequests(data []byte) []oneRequest {
	trimmed := bytes.TrimSpace(data)
	if bytes.HasPrefix(trimmed, []byte("[")) {
		var list []json.RawMessage
		if json.Unmarshal(trimmed, &list) == nil && len(list) > 0 {
			var out []oneRequest
			for _, e := range list {
				out = append(out, oneRequest{text: e})
			}
			return out
		}
	}
	var out []oneRequest
	n := 0
	for line := range bytes.Lines(data) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if line[0] != '{' || !json.Valid(line) {
			return []oneRequest{{text: data}}
		}
		out = append(out, oneRequest{line, n})
	}
	if len(out) < 2 {
		return []oneRequest{{text: data}}
	}
	return out
}

func (a *app) printCheck(r *checkResult) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	allowed := 0
	for _, d := range r.Decisions {
		verdict := "DENIED "
		if d.Allowed {
			verdict = "ALLOWED"
			allowed++
		}
		name := d.Kind
		if d.Line > 0 {
			name = fmt.Sprintf("line %d: %s", d.Line, name)
		}
		if d.Description != "" {
			name += ": " + d.Description
		}
		line("%s  %s", verdict, name)
		for _, c := range d.Reasons {
			a.printCandidate(c)
		}
		if d.Undefined {
			line("  the policy has no answer to this kind of request: the guest refuses it")
		}
		if d.Note != "" {
			line("  note: %s", d.Note)
		}
	}
	if len(r.Decisions) > 1 {
		line("%d of %s allowed", allowed, show.Plural(len(r.Decisions), "request", "requests"))
	}
	if name := workloadName(r.Kind, r.Namespace, r.Name); name != "" {
		line("policy of %s, rules %s (%s)", name, r.Rules, r.RulesDigest)
	} else {
		line("rules %s (%s)", r.Rules, r.RulesDigest)
	}
}

func (a *app) printCandidate(c check.Candidate) {
	who := "the request as a whole"
	if c.Container >= 0 {
		who = fmt.Sprintf("container %d", c.Container)
		if c.Name != "" {
			who = fmt.Sprintf("container %s", c.Name)
		} else if c.Container == 0 {
			who = "the pause container"
		}
	}
	fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf("  %s: %d of %d checks passed", who, c.Passed, c.Checks)))
	for i, f := range c.Failed {
		if i > 0 && !a.verbose {
			fmt.Fprintf(a.stdout, "    and %d more (-v shows all)\n", len(c.Failed)-1)
			break
		}
		where := f.Check
		if f.Key != "" {
			where += " " + f.Key
		}
		expected, actual := string(f.Expected), string(f.Actual)
		if !a.verbose {
			expected, actual = show.Clip(expected, 300), show.Clip(actual, 300)
		}
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf("    %s: expected %s, actual %s", where, expected, actual)))
	}
}
