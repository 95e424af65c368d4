package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/policygen"
)

func (a *app) policyDiffCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Why two policies differ, at the level of their data",
		Long: `Compare two policies, or two sets of them, of any form: policy texts, policy
data, initdata documents, annotation values, annotated YAML. Workloads are joined
by kind, namespace and name. Every difference is named with both sides: image,
args, env, mounts, annotations, user, settings, rules.

Initdata documents are compared whole: algorithm, every member, and the text,
which is what is attested.

Exit codes: 0 the same, 1 they differ, 3 nothing differs, but one side has what
the other cannot be compared in (rules against data alone, a document against a
policy).`,
		Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := onlyOneStdin("policy diff", args...); err != nil {
				return err
			}
			var sides [2][]policygen.NamedPolicy
			for i, path := range args {
				list, err := a.readPolicies(path)
				if err != nil {
					return a.policyProblems(err, "policy diff", shownName(path), output)
				}
				sides[i] = list
			}
			result := policyDifference{Equal: true, Workloads: policygen.Diff(sides[0], sides[1])}
			unchecked := false
			for _, w := range result.Workloads {
				result.Equal = result.Equal && w.State == "equal"
				unchecked = unchecked || w.State == "unchecked"
				result.differs = result.differs || w.State != "equal" && w.State != "unchecked"
			}
			if output == "json" {
				if err := writeJSON(a.stdout, result); err != nil {
					return err
				}
			} else {
				a.printPolicyDiff(&result, shownName(args[0]), shownName(args[1]))
			}
			switch {
			case result.differs:
				return outcomeError{exitDiffers}
			case unchecked || len(result.Workloads) == 0:
				return outcomeError{exitUnchecked}
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

type policyDifference struct {
	Equal     bool `json:"equal"`
	differs   bool
	Workloads []policygen.WorkloadDiff `json:"workloads"`
}

func (a *app) printPolicyDiff(d *policyDifference, nameA, nameB string) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	differing := 0
	for _, w := range d.Workloads {
		if w.State != "equal" {
			differing++
		}
	}
	if d.Equal {
		line("MATCH  %s", show.Plural(len(d.Workloads), "policy is the same", "policies are the same"))
		return
	}
	if d.differs {
		line("DIFFERS  %d of %s", differing, show.Plural(len(d.Workloads), "workload", "workloads"))
	} else {
		line("UNCHECKED  nothing differs, but %s not be compared as a whole", show.Plural(differing, "policy could", "policies could"))
	}
	line("  A %s", nameA)
	line("  B %s", nameB)
	const most = 40
	for _, w := range d.Workloads {
		name := orWord(workloadName(w.Kind, w.Namespace, w.Name), "the policy")
		if w.State == "equal" {
			if a.verbose {
				line("  %s: the same", name)
			}
			continue
		}
		line("  %s: %s", name, w.State)
		for i, c := range w.Causes {
			if i == most && !a.verbose {
				line("    and %d more (-v shows all)", len(w.Causes)-most)
				break
			}
			line("    %s", c)
		}
		for _, u := range w.Unchecked {
			line("    unchecked: %s", u)
		}
	}
}

func (a *app) policyShowCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "What a policy permits, in plain words",
		Long: `Say what each container may do that its YAML does not say: what comes from the
image, the settings and the rules. FILE is a policy of any form, - for stdin; of
annotated YAML what it says itself is left out.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			list, err := a.readPolicies(args[0])
			if err != nil {
				return a.policyProblems(err, "policy show", shownName(args[0]), output)
			}
			shown := policygen.Show(list)
			if output == "json" {
				return writeJSON(a.stdout, shown)
			}
			line := func(format string, args ...any) {
				fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
			}
			for _, s := range shown {
				line("%s", orWord(workloadName(s.Kind, s.Namespace, s.Name), "the policy"))
				for _, p := range s.Pod {
					line("  %s", p)
				}
				for _, c := range s.Containers {
					line("  container %s may", c.Name)
					for _, may := range c.May {
						line("    %s", may)
					}
				}
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}
