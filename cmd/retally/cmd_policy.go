package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/stages/policies"
	"github.com/retally/retally/policygen"
)

// policyFileLimit bounds a policy, an initdata document or annotated YAML.
const policyFileLimit = 64 << 20

func (a *app) policyCommand() *cobra.Command {
	return group("policy", "Runtime policies: generate them, ask them about a request, compare and explain them",
		a.policyGenerateCommand(), a.policyCheckCommand(), a.policyDiffCommand(), a.policyShowCommand())
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
	code, end := refused(list.Only(policygen.GuestPull))
	summary, lines := policies.Problems(list)
	if op != "policy generate" {
		summary = strings.TrimSuffix(summary, "; nothing was written")
	}
	if output == "json" {
		if err := a.writeFailure(failureError{code, op, path, summary + "\n" + list.Error(), list[0].Hint}, policies.Classed(list)); err != nil {
			return err
		}
		return end
	}
	for _, line := range append([]string{op + " " + path + ": " + summary}, lines...) {
		fmt.Fprintln(a.stderr, "retally: "+show.Text(line))
	}
	return end
}

// readPolicies reads all policies of a file of any form.
func (a *app) readPolicies(path string) ([]policygen.NamedPolicy, error) {
	data, err := a.readInput("read policy", path, policyFileLimit)
	if err != nil {
		return nil, err
	}
	list, err := policygen.ReadPolicies(policygen.NamedFile{Name: config.Shown(path), Data: data})
	var problems policygen.Problems
	if err != nil && !errors.As(err, &problems) {
		err = &userError{op: "read policy", err: err, hint: "want a policy (Rego, with or without policy_data), policy_data, an initdata document, an annotation's value, or annotated YAML"}
	}
	return list, err
}

// onlyOneStdin refuses two inputs from one stream.
func onlyOneStdin(op string, paths ...string) error {
	seen := false
	for _, p := range paths {
		if p == "-" && seen {
			return &userError{op: op, msg: "only one input can be stdin", hint: "write the other to a file first"}
		}
		seen = seen || p == "-"
	}
	return nil
}
