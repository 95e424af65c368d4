package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/policies"
	"github.com/retally/retally/pipeline/stages/policies/decide"
	"github.com/retally/retally/policygen"
	"github.com/retally/retally/policygen/check"
	"github.com/retally/retally/policygen/rules"
)

type policyCheck struct {
	comparison
	own                             config.Policies // rules for data that comes without
	policy, request, kind, workload string
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
	c.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&c.policy, "policy", "", "policy of any form, - for stdin")
	f.StringVar(&c.request, "request", "", "request or requests, - for stdin")
	f.StringVar(&c.kind, "kind", "", "kind of the request, such as CreateContainerRequest (default: as the text or its members tell)")
	f.StringVar(&c.workload, "workload", "", "KIND/NAME or KIND/NAMESPACE/NAME of annotated YAML with several workloads")
	f.StringVar(&c.own.Rules, "rules", "", "rules.rego for data that comes without rules (default: retally's own)")
	f.StringVar(&c.own.ImageBinding, "image-binding", "", "binding of retally's own rules for data without rules: annotation, guest_pull, off (default off)")
	return cmd
}

func (a *app) checkPolicy(cmd *cobra.Command, c *policyCheck) error {
	const op = "policy check"
	for _, flag := range []struct{ name, value string }{{"policy", c.policy}, {"request", c.request}} {
		if flag.value == "" {
			return &userError{op: op, msg: "--" + flag.name + " FILE is missing", hint: "usage: " + cmd.UseLine()}
		}
	}
	if err := onlyOneStdin(op, c.policy, c.request, c.own.Rules); err != nil {
		return err
	}
	targets, err := c.targets(c.policy, c.request, c.own.Rules)
	if err != nil {
		return err
	}
	list, err := a.readPolicies(c.policy)
	if err != nil {
		return a.policyProblems(err, op, config.Shown(c.policy), c.output)
	}
	named, err := chooseWorkload(list, c.workload, config.Shown(c.policy))
	if err != nil {
		return err
	}
	result := decide.Decisions{Allowed: true, Kind: named.Kind, Namespace: named.Namespace, Name: named.Name, Decisions: []decide.Decision{}}
	if result.Rules, err = a.rulesFor(cmd.Context(), named, c); err != nil {
		return err
	}
	result.RulesDigest = policygen.Rules{Text: named.Rules}.Digest().String()
	if err := a.decide(cmd.Context(), named, c, &result); err != nil {
		return err
	}
	rep := run.NewReport(tool(), "whether "+config.Shown(c.policy)+" allows what "+config.Shown(c.request)+" asks")
	rep.WantName = "asked"
	run.Judge(rep, pipeline.Case{Allow: c.allow}, result.Out(config.Shown(c.policy), config.Shown(c.request)))
	return a.finish(&c.comparison, targets, rep, view{json: result, text: result.Text, differs: "denied"})
}

// decide asks the policy about every request; what one of them changes holds for
// the next.
func (a *app) decide(ctx context.Context, named *policygen.NamedPolicy, c *policyCheck, result *decide.Decisions) error {
	const op = "policy check"
	policy, err := check.Parse(config.Shown(c.policy), slices.Concat(named.Rules, []byte("\npolicy_data := "), named.Data))
	if err != nil {
		return &userError{op: op, path: config.Shown(c.policy), err: err}
	}
	data, err := a.readInput("read request", c.request, policyFileLimit)
	if err != nil {
		return err
	}
	for i, one := range check.SplitRequests(data) {
		req, err := check.ParseRequest(one.Text, c.kind)
		if err != nil {
			return &userError{op: op, path: one.Place(config.Shown(c.request)), err: err, hint: "--kind names the kind"}
		}
		d, err := policy.Evaluate(ctx, req.Kind, req.Input)
		if err != nil {
			if cerr := ctx.Err(); cerr != nil {
				return cerr
			}
			return &userError{op: op, path: one.Place(config.Shown(c.request)), err: err}
		}
		result.Allowed = result.Allowed && d.Allowed
		result.Decisions = append(result.Decisions, decide.Decision{Request: i + 1, Line: one.Line, Description: one.Description(), Decision: d})
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
func (a *app) rulesFor(ctx context.Context, p *policygen.NamedPolicy, c *policyCheck) (string, error) {
	if p.Rules != nil {
		if c.own.Rules != "" || c.own.ImageBinding != "" {
			return "", &userError{op: "policy check", path: config.Shown(c.policy), msg: "has rules of its own, which decide", hint: "leave --rules and --image-binding away, or give the policy data alone"}
		}
		return "the policy's own", nil
	}
	if err := rulesOrBinding("policy check", &c.own, string(rules.Off)); err != nil {
		return "", err
	}
	set, err := policies.Rules(ctx, a.inputs(new(config.Config)), &c.own)
	if err != nil {
		return "", err
	}
	p.Rules = set.Text
	if c.own.Rules == "" {
		return "retally's own, image_binding " + c.own.ImageBinding, nil
	}
	return set.Name, nil
}
