package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/policygen"
)

// policyFileLimit bounds a policy, an initdata document or annotated YAML.
const policyFileLimit = 64 << 20

func (a *app) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Runtime policies: generate them, ask them about a request, compare and explain them",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.policyGenerateCommand(), a.policyCheckCommand(), a.policyDiffCommand(), a.policyShowCommand())
	return cmd
}

// problemClass says what a problem means to the one who has to mend it.
func problemClass(p policygen.Problem) string {
	switch {
	case p.Kind == policygen.UnknownField && p.Harmless:
		return "harmless"
	case p.Kind == policygen.UnknownField:
		return "security"
	}
	return "fault"
}

// classedProblem is a problem as the JSON form has it.
type classedProblem struct {
	policygen.Problem
	Class string `json:"class"`
}

func classed(list policygen.Problems) []classedProblem {
	out := make([]classedProblem, len(list))
	for i, p := range list {
		out[i] = classedProblem{p, problemClass(p)}
	}
	return out
}

// problemGroups are the classes in the order of their weight.
var problemGroups = []struct{ class, title string }{
	{"fault", "faults"},
	{"security", "unknown fields that may give a container more than its policy says"},
	{"harmless", "unknown fields that no container notices (--lenient accepts them)"},
}

// policyProblems prints all problems of all documents and gives the exit code;
// an error that is no list of problems goes through unchanged.
func (a *app) policyProblems(err error, op, path, output string) error {
	var list policygen.Problems
	if !errors.As(err, &list) {
		return err
	}
	// The reference has an exit code of its own for users that guest pull
	// cannot reproduce: the YAML is fine, and not valid for such a cluster.
	code := exitTrouble
	if list.Only(policygen.GuestPull) {
		code = exitDiffers
	}
	var counts []string
	grouped := map[string]policygen.Problems{}
	for _, p := range list {
		grouped[problemClass(p)] = append(grouped[problemClass(p)], p)
	}
	for _, g := range problemGroups {
		if n := len(grouped[g.class]); n > 0 {
			counts = append(counts, map[string]string{
				"fault": show.Plural(n, "fault", "faults"), "security": fmt.Sprintf("%d security relevant", n), "harmless": fmt.Sprintf("%d harmless", n),
			}[g.class])
		}
	}
	summary := fmt.Sprintf("%s: %s; nothing was written", show.Plural(len(list), "problem", "problems"), strings.Join(counts, ", "))
	if output == "json" {
		if err := writeJSON(a.stdout, map[string]any{
			"error": map[string]any{
				"code": code, "op": op, "path": path, "message": summary + "\n" + list.Error(), "hint": list[0].Hint,
			},
			"problems": classed(list),
		}); err != nil {
			return err
		}
		return outcomeError{code}
	}
	say := func(format string, args ...any) {
		fmt.Fprintln(a.stderr, "retally: "+show.Text(fmt.Sprintf(format, args...)))
	}
	say("%s %s: %s", op, path, summary)
	for _, g := range problemGroups {
		if len(grouped[g.class]) == 0 {
			continue
		}
		if len(grouped) > 1 || g.class != "fault" {
			say("%s:", g.title)
		}
		for _, p := range grouped[g.class] {
			say("  %s", p)
		}
	}
	return outcomeError{code}
}

// shownName is how a file of the command line is called in results.
func shownName(path string) string {
	if path == "-" {
		return "stdin"
	}
	return path
}

// readPolicies reads all policies of a file of any form.
func (a *app) readPolicies(path string) ([]policygen.NamedPolicy, error) {
	data, err := a.readInput("read policy", path, policyFileLimit)
	if err != nil {
		return nil, err
	}
	list, err := policygen.ReadPolicies(policygen.NamedFile{Name: shownName(path), Data: data})
	var problems policygen.Problems
	if err != nil && !errors.As(err, &problems) {
		err = &userError{op: "read policy", err: err, hint: "want a policy (rules with policy_data), policy_data, an initdata document, the annotation's value, or annotated YAML"}
	}
	return list, err
}

// workloadName is KIND NAMESPACE/NAME as far as the file says.
func workloadName(kind, namespace, name string) string {
	if namespace != "" {
		name = namespace + "/" + name
	}
	return strings.TrimSpace(kind + " " + name)
}

// onlyOneStdin refuses two inputs from one stream.
func onlyOneStdin(op string, paths ...string) error {
	seen := false
	for _, p := range paths {
		if p == "-" && seen {
			return &userError{op: op, msg: "only one input can be read from stdin", hint: "write the other to a file first"}
		}
		seen = seen || p == "-"
	}
	return nil
}
