// Package check asks a policy about a request, with the official OPA library,
// and says which part of the policy's data a denied request does not fit.
//
// It alone imports OPA: generating policies needs no rule engine.
package check

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/retally/retally/policygen"
	"github.com/retally/retally/policygen/rules"
)

// Decision is the answer to one request.
type Decision struct {
	Kind    string `json:"kind"`
	Allowed bool   `json:"allowed"`
	// Undefined is set if the policy has no answer: the agent then refuses.
	Undefined bool `json:"undefined,omitempty"`
	// Reasons explains a denial, the nearest candidate first. It is empty for
	// requests that are allowed.
	Reasons []Candidate `json:"reasons,omitempty"`
	// Note is set where the policy's own rules deny what its data allows.
	Note string `json:"note,omitempty"`
}

// Candidate is one container of the policy (or the request as a whole) with
// the checks that the request fails.
type Candidate struct {
	Container int    `json:"container"`      // index in the policy; -1: the request as a whole
	Name      string `json:"name,omitempty"` // of the container
	Passed    int    `json:"passed"`
	Checks    int    `json:"checks"`
	Failed    []Fail `json:"failed"` // in the order of the checks; the first is the first failing predicate
}

// Fail is one failed check.
type Fail struct {
	Check    string          `json:"check"`
	Key      string          `json:"key,omitempty"`
	Expected json.RawMessage `json:"expected"`
	Actual   json.RawMessage `json:"actual"`
}

// Policy is a policy with the state that its requests build up: which
// containers run, which network namespace they share.
type Policy struct {
	// Limits bound each answer.
	Limits Limits

	compiled    *ast.Compiler
	text        string
	old         bool          // Rego of before version 1
	failures    *bool         // whether the agent allows what the rules deny, once asked
	explanation string        // our rules over the policy's data, "" where it has none
	explain     *ast.Compiler // compiled when first needed
	store       storage.Store
	state       []byte
}

// oldRego is said of policies that only older agents read.
const oldRego = "the text is Rego of before version 1 (rules without if): agents with a newer engine refuse it"

// Parse compiles a policy text: rules and policy_data, or rules that were written
// by hand and need none.
func Parse(name string, text []byte) (*Policy, error) {
	data, err := policygen.SplitPolicy(text)
	if err != nil && !policygen.IsRego(text) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	byHand := err != nil
	p := &Policy{state: []byte(`{"pstate":{}}`), text: string(text)}
	if p.compiled, p.old, err = compile(name, p.text, nil); err != nil {
		return nil, err
	}
	if !byHand {
		own, err := rules.Default(bindingOf(text))
		if err != nil {
			return nil, err
		}
		p.explanation = string(slices.Concat(own.Text, []byte("\npolicy_data := "), data.JSON, []byte(explainRules)))
	}
	p.reset()
	return p, nil
}

// bindingOf reads the image binding of a policy with our rules.
func bindingOf(text []byte) rules.Binding {
	for _, b := range []rules.Binding{rules.Annotation, rules.GuestPull} {
		if bytes.Contains(text, fmt.Appendf(nil, "\nimage_binding := %q\n", b)) {
			return b
		}
	}
	return rules.Off
}

// explainRules collects the checks of every kind of request.
const explainRules = `

explanations["CreateContainerRequest"] := array.concat(
	[{"container": -1, "name": "", "checks": plain_checks}],
	[{"container": i, "name": object.get(object.get(c.OCI, "Annotations", {}), name_key, ""), "checks": list} |
		some i, c in policy_data.containers
		list := container_checks(c)
	],
)

explanations["ExecProcessRequest"] := [{"container": -1, "name": "", "checks": exec_checks}]

explanations["CreateSandboxRequest"] := [{"container": -1, "name": "", "checks": sandbox_checks}]

explanations["CopyFileRequest"] := [{"container": -1, "name": "", "checks": copy_checks}]

explanations["UpdateRoutesRequest"] := [{"container": -1, "name": "", "checks": route_checks}]

explanations["UpdateInterfaceRequest"] := [{"container": -1, "name": "", "checks": interface_checks}]

explanations["AddARPNeighborsRequest"] := [{"container": -1, "name": "", "checks": neighbor_checks}]
`

// compile builds a policy without any builtin that reaches out of it: a
// foreign policy must not open connections or read the environment. A text that
// is not Rego of version 1 is read as what came before, if it is that; change,
// if not nil, may take parts of it away first.
func compile(name, text string, change func(*ast.Module)) (_ *ast.Compiler, old bool, err error) {
	module, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV1})
	if err != nil {
		before, errBefore := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV0})
		if errBefore != nil {
			return nil, false, fmt.Errorf("parse policy: %w", err)
		}
		module, old = before, true
	}
	if module == nil {
		return nil, false, errors.New("parse policy: the text is empty")
	}
	if change != nil {
		change(module)
	}
	caps := ast.CapabilitiesForThisVersion()
	caps.Builtins = slices.DeleteFunc(slices.Clone(caps.Builtins), func(b *ast.Builtin) bool {
		return b.IsNondeterministic()
	})
	caps.AllowNet = []string{}
	c := ast.NewCompiler().WithCapabilities(caps)
	c.Compile(map[string]*ast.Module{name: module})
	if c.Failed() {
		return nil, false, fmt.Errorf("compile policy: %w", c.Errors)
	}
	return c, old, nil
}

func (p *Policy) reset() { p.store = inmem.NewFromReader(bytes.NewReader(p.state)) }

// Evaluate asks the policy about a request of that kind, for example
// CreateContainerRequest, in the form the agent gives to rules: every field
// present. State carries over to the next call. A policy that wants more than
// p.Limits is an error, a LimitError.
func (p *Policy) Evaluate(ctx context.Context, kind string, input []byte) (*Decision, error) {
	var request any
	dec := json.NewDecoder(bytes.NewReader(input))
	dec.UseNumber()
	if err := dec.Decode(&request); err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	if !isName(kind) {
		return nil, fmt.Errorf("evaluate policy: %q is no kind of request", kind)
	}
	everything, err := p.everything(ctx) // the agent asks before the first request
	if err != nil {
		return nil, err
	}
	answer, err := p.query(ctx, p.compiled, "data.agent_policy."+kind, request)
	if err != nil {
		return nil, err
	}
	d := &Decision{Kind: kind, Undefined: answer == nil}
	switch a := answer.(type) {
	case bool:
		d.Allowed = a
	case map[string]any:
		d.Allowed, _ = a["allowed"].(bool)
		if d.Allowed && a["ops"] != nil {
			if err := p.apply(a["ops"]); err != nil {
				return nil, err
			}
		}
	}
	if p.old {
		d.Note = oldRego
	}
	if d.Allowed {
		return d, nil
	}
	if everything {
		d.Allowed, d.Note = true, "the rules deny it, but "+allowFailures+" is set: the agent allows what they deny"
		return d, nil
	}
	return d, p.reasons(ctx, d, request)
}

func isName(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return s != ""
}

func (p *Policy) query(ctx context.Context, c *ast.Compiler, query string, input any) (any, error) {
	ctx, stop := p.Limits.limited(ctx)
	defer stop()
	results, err := rego.New(
		rego.Query(query), rego.Compiler(c), rego.Store(p.store), rego.Input(input),
		rego.SetRegoVersion(ast.RegoV1),
	).Eval(ctx)
	if limit := reached(ctx); limit != nil {
		return nil, fmt.Errorf("evaluate %s: %w", query, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("evaluate %s: %w", query, err)
	}
	if len(results) == 0 || len(results[0].Expressions) == 0 {
		return nil, nil //nolint:nilnil // an undefined rule is an answer of its own
	}
	return results[0].Expressions[0].Value, nil
}

func (p *Policy) apply(ops any) error {
	patch, err := json.Marshal(ops)
	if err != nil {
		return fmt.Errorf("read ops of the policy: %w", err)
	}
	if p.state, err = policygen.ApplyPatch(p.state, patch); err != nil {
		return fmt.Errorf("policy state: %w", err)
	}
	p.reset()
	return nil
}

// reasons evaluates the checks of our own rules, whatever rules the policy
// has: what a denial is about is in the data.
func (p *Policy) reasons(ctx context.Context, d *Decision, request any) error {
	if p.explanation == "" {
		d.Note = strings.TrimPrefix(d.Note+"; the policy has no data to explain it with: what denies it is in its rules", "; ")
		return nil
	}
	if p.explain == nil {
		c, _, err := compile("explanation", p.explanation, nil)
		if err != nil {
			// Data of another generator may lack members that our rules name.
			d.Note = "no explanation: the policy's data has another form than ours: " + err.Error()
			return nil
		}
		p.explain = c
	}
	answer, err := p.query(ctx, p.explain, "data.agent_policy.explanations."+d.Kind, request)
	if err != nil {
		return err
	}
	list, err := readCandidates(answer)
	if err != nil {
		return err
	}
	d.Reasons = rank(list)
	switch {
	case answer == nil:
		d.Note = "the policy's rules deny this kind of request, or the request lacks fields that the agent always gives"
	case len(d.Reasons) == 0:
		d.Note = "the request fits the policy's data: what denies it is in the rules"
	}
	return nil
}

func readCandidates(answer any) ([]Candidate, error) {
	text, err := json.Marshal(answer)
	if err != nil {
		return nil, fmt.Errorf("read explanation: %w", err)
	}
	var raw []struct {
		Container int    `json:"container"`
		Name      string `json:"name"`
		Checks    []struct {
			ID     string `json:"id"`
			Failed []struct {
				Key      string          `json:"key"`
				Expected json.RawMessage `json:"expected"`
				Actual   json.RawMessage `json:"actual"`
			} `json:"failed"`
		} `json:"checks"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, errors.New("read explanation: the checks have another form than expected")
	}
	var list []Candidate
	for _, r := range raw {
		c := Candidate{Container: r.Container, Name: r.Name, Checks: len(r.Checks)}
		for _, one := range r.Checks {
			if len(one.Failed) == 0 {
				c.Passed++
			}
			for _, f := range one.Failed {
				c.Failed = append(c.Failed, Fail{Check: one.ID, Key: f.Key, Expected: f.Expected, Actual: f.Actual})
			}
		}
		list = append(list, c)
	}
	return list, nil
}

// rank puts what concerns the request as a whole first, then the candidates by
// how far they got: by name, then by the number of checks passed. If a whole
// request and some candidate pass, nothing is left to explain.
func rank(list []Candidate) []Candidate {
	var whole, containers []Candidate
	fits := false
	for _, c := range list {
		switch {
		case c.Container < 0 && len(c.Failed) > 0:
			whole = append(whole, c)
		case c.Container >= 0 && len(c.Failed) == 0:
			fits = true
		case c.Container >= 0:
			containers = append(containers, c)
		}
	}
	if fits {
		return whole
	}
	slices.SortStableFunc(containers, func(a, b Candidate) int {
		if n := identity(a) - identity(b); n != 0 {
			return n
		}
		return (a.Checks - a.Passed) - (b.Checks - b.Passed)
	})
	return append(whole, containers...)
}

// identity is 0 for a candidate whose type and name fit: it is the one that
// was meant.
func identity(c Candidate) int {
	if len(c.Failed) > 0 && strings.HasPrefix(c.Failed[0].Check, "container ") {
		return 1
	}
	return 0
}
