package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/stages/policies"
	"github.com/retally/retally/pipeline/stages/policies/decide"
	"github.com/retally/retally/policygen"
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
	named, err := decide.Choose(list, c.workload, config.Shown(c.policy))
	if err != nil {
		return plain(err)
	}
	whose, err := a.rulesFor(cmd.Context(), named, c)
	if err != nil {
		return err
	}
	result, err := decide.New(named, whose, config.Shown(c.policy))
	if err != nil {
		return plain(err)
	}
	data, err := a.readInput("read request", c.request, policyFileLimit)
	if err != nil {
		return err
	}
	if err := result.Ask(cmd.Context(), config.Shown(c.request), data, c.kind); err != nil {
		return plain(err)
	}
	return a.judged(&c.comparison, targets, "whether "+config.Shown(c.policy)+" allows what "+config.Shown(c.request)+" asks", result.Out(config.Shown(c.policy), config.Shown(c.request)), view{json: result, text: result.Text, differs: "denied", want: "asked"})
}

// rulesFor completes data that came without rules and says whose rules decide.
func (a *app) rulesFor(ctx context.Context, p *policygen.NamedPolicy, c *policyCheck) (string, error) {
	if p.Rules != nil {
		if c.own.Rules != "" || c.own.ImageBinding != "" {
			return "", &userError{op: "policy check", path: config.Shown(c.policy), msg: "has rules of its own, which decide", hint: "leave --rules and --image-binding away, or give the policy data alone"}
		}
		return "the policy's own", nil
	}
	if p.Data == nil {
		return "the guest's own", nil // a document without a policy, which is refused
	}
	if err := policies.RulesOrBinding("policy check", &c.own, rules.Off); err != nil {
		return "", plain(err)
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
