package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/stages/policies"
	"github.com/retally/retally/pipeline/stages/policies/decide"
	"github.com/retally/retally/policygen"
)

func (a *app) policyDiffCommand() *cobra.Command {
	var flags comparison
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Why two policies differ, at the level of their data",
		Long: `Compare two policies, or two sets of them, of any form: policy texts, policy
data, initdata documents, annotation values, annotated YAML. Workloads are joined
by kind, namespace and name. Every difference is named with both sides: image,
args, env, mounts, annotations, user, settings, rules.

Initdata documents are compared whole: algorithm, version, every member, and the
text, whose digest is what is attested: both digests are named.

Exit codes: 0 the same, 1 they differ, 3 nothing differs, but one side has what
the other cannot be compared in (rules against data alone, a document against a
policy).`,
		Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := onlyOneStdin("policy diff", args...); err != nil {
				return err
			}
			targets, err := flags.targets(args...)
			if err != nil {
				return err
			}
			var sides [2][]policygen.NamedPolicy
			for i, path := range args {
				list, err := a.readPolicies(path)
				if err != nil {
					return a.policyProblems(err, "policy diff", config.Shown(path), flags.output)
				}
				sides[i] = list
			}
			d := policies.Compare(sides[0], sides[1], config.Shown(args[0]), config.Shown(args[1]))
			return a.judged(&flags, targets, config.Shown(args[1])+" compared with "+config.Shown(args[0]), d.Out(), view{json: d, text: d.Text, taken: true, got: "A", want: "B"})
		},
	}
	flags.flags(cmd)
	return cmd
}

func (a *app) policyShowCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "What a policy permits, in plain words",
		Long: `Say which requests of the host the rules allow: always, never, under which
conditions, or that they are not understood. Then what each container may do
that its YAML does not say: what comes from the image and the settings. FILE is
a policy of any form, also rules that were written by hand, - for stdin; of
annotated YAML what it says itself is left out.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := a.readPolicies(args[0])
			if err != nil {
				return a.policyProblems(err, "policy show", config.Shown(args[0]), output)
			}
			shown, err := decide.Show(cmd.Context(), list)
			if err != nil {
				return err
			}
			return a.result(output, shown, func(w io.Writer) { decide.ShownText(w, shown) })
		},
	}
	outputFlag(cmd, &output)
	return cmd
}
