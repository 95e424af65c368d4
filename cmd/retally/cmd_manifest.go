package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline/config"
)

const smallFile = 16 << 20

func (a *app) manifestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "manifest",
		Short: "Edit and check Contrast manifests",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.manifestAdjustCommand(), a.manifestCheckCommand())
	return cmd
}

func (a *app) manifestAdjustCommand() *cobra.Command {
	var (
		plan, deploy, output string
		vars                 []string
	)
	cmd := &cobra.Command{
		Use:   "adjust --plan FILE IN",
		Short: "Apply a plan of edits to a generated manifest, byte for byte as the vendor's script does",
		Long: `Apply the edits that a vendor makes after "contrast generate", described as data
in a plan, and print the manifest. A step that touches nothing is warned about:
most likely a field was renamed. IN may be - for stdin.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if plan == "-" && args[0] == "-" || plan == "-" && deploy == "-" || deploy == "-" && args[0] == "-" {
				return &userError{op: "manifest adjust", msg: "only one input can be stdin"}
			}
			planData, err := a.readPlan(plan)
			if err != nil {
				return err
			}
			p, err := manifest.ParsePlan(plan, planData)
			if err != nil {
				return err
			}
			values, err := a.variables(p, plan, deploy, vars)
			if err != nil {
				return err
			}
			in, err := a.readInput("read manifest", args[0], smallFile)
			if err != nil {
				return err
			}
			res, err := p.Apply(in, values)
			if err != nil {
				return &userError{op: "adjust", path: args[0], err: err}
			}
			for _, w := range p.Warnings() {
				a.talk("retally: warning: %s", w)
			}
			for _, s := range res.Steps {
				if s.Warning != "" {
					a.talk("retally: warning: %s:%d: step %d (%s %s): %s", plan, s.Line, s.Index+1, s.Op, s.Path, s.Warning)
				} else if a.verbose {
					a.talk("retally: step %d (%s %s): %s", s.Index+1, s.Op, s.Path, show.Plural(s.Places, "place", "places"))
				}
			}
			if output == "json" {
				return writeJSON(a.stdout, adjustment(res))
			}
			_, err = a.stdout.Write(res.Bytes)
			return err
		},
	}
	cmd.Flags().StringVar(&plan, "plan", "", "plan of the edits, - for stdin, or profile:privatemode@VERSION")
	cmd.Flags().StringVar(&deploy, "deployment", "", "deployment that gives the plan's variables")
	cmd.Flags().StringArrayVar(&vars, "var", nil, "set a variable of the plan, as NAME=VALUE; may be given several times")
	_ = cmd.MarkFlagRequired("plan")
	outputFlag(cmd, &output)
	return cmd
}

// readPlan reads a plan from a file, from stdin, or from what is built in.
func (a *app) readPlan(plan string) ([]byte, error) {
	if !strings.HasPrefix(plan, config.ProfilePrefix) {
		return a.readInput("read plan", plan, smallFile)
	}
	data, remark, err := config.ProfilePlan(plan)
	if remark != "" {
		a.talk("retally: warning: %s", remark)
	}
	return data, err
}

// adjustment is the JSON form of what the edits did.
func adjustment(res *manifest.Result) map[string]any {
	steps := []map[string]any{}
	for _, s := range res.Steps {
		steps = append(steps, map[string]any{
			"index": s.Index, "op": s.Op, "path": s.Path, "where": s.Where, "places": s.Places, "warning": s.Warning, "line": s.Line,
		})
	}
	return map[string]any{"manifest": string(res.Bytes), "steps": steps}
}

// variables collects a plan's variables: --var wins over the deployment.
func (a *app) variables(p *manifest.Plan, plan, deploy string, vars []string) (map[string]string, error) {
	values := map[string]string{}
	for _, v := range vars {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return nil, &userError{op: "manifest adjust", msg: fmt.Sprintf("--var %s: want NAME=VALUE", v)}
		}
		if !slices.Contains(p.VariableNames(), name) {
			return nil, &userError{op: "manifest adjust", path: plan, msg: fmt.Sprintf("the plan has no variable %q", name), hint: "known: " + strings.Join(p.VariableNames(), ", ")}
		}
		values[name] = value
	}
	var d *deployment.Deployment
	for _, name := range p.VariableNames() {
		if _, ok := values[name]; ok {
			continue
		}
		if d == nil {
			if deploy == "" {
				return nil, &userError{op: "manifest adjust", path: plan, msg: fmt.Sprintf("${%s} comes from the deployment, and none is given", name), hint: fmt.Sprintf("add --deployment FILE or --var %s=VALUE", name)}
			}
			data, err := a.readInput("read deployment", deploy, smallFile)
			if err != nil {
				return nil, err
			}
			if d, err = deployment.Parse(deploy, data); err != nil {
				return nil, err
			}
		}
		v := p.Variables()[name]
		text, _, err := d.Lookup(v.Kind, v.Name, v.Field)
		if err != nil {
			return nil, &userError{op: "find variable " + name, path: deploy, err: err, hint: fmt.Sprintf("set it with --var %s=VALUE", name)}
		}
		values[name] = text
	}
	return values, nil
}

func (a *app) manifestCheckCommand() *cobra.Command {
	var (
		output string
		keys   []string
	)
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Say whether a manifest is valid, field by field",
		Long: `Check a manifest of any Contrast version by the rules that Contrast applies to
it. Exit code 1 if it is invalid. With --owner-key, also say whether a public
key or a certificate is among the owners.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			data, err := a.readInput("read manifest", args[0], smallFile)
			if err != nil {
				return err
			}
			m, err := manifest.Parse(args[0], data)
			if err != nil {
				return err
			}
			problems := m.Validate()
			owners, err := a.checkOwners(m, keys)
			if err != nil {
				return err
			}
			invalid := slices.ContainsFunc(problems, func(p manifest.Problem) bool { return p.Severity == manifest.SeverityError })
			invalid = invalid || slices.ContainsFunc(owners, func(o owner) bool { return o.Role == "" })
			if output == "json" {
				if err := writeJSON(a.stdout, checkedManifest(args[0], m, problems, owners, invalid)); err != nil {
					return err
				}
			} else {
				a.printManifest(args[0], m, problems, owners, invalid)
			}
			if invalid {
				return outcomeError{exitDiffers}
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	cmd.Flags().StringArrayVar(&keys, "owner-key", nil, "PEM file of a public key that must be among the owners; may be given several times")
	return cmd
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

func (a *app) checkOwners(m *manifest.Manifest, files []string) ([]owner, error) {
	out := []owner{}
	for _, f := range files {
		data, err := a.readInput("read owner key", f, 1<<20)
		if err != nil {
			return nil, err
		}
		key, err := manifest.ParseOwnerKey(f, data)
		if err != nil {
			return nil, err
		}
		o := owner{File: f}
		if at, ok := m.FindOwnerKey(key); ok {
			o.Role, o.Pointer = ownerRoles[strings.Split(at, "/")[1]], at
		}
		out = append(out, o)
	}
	return out, nil
}

func checkedManifest(file string, m *manifest.Manifest, problems []manifest.Problem, owners []owner, invalid bool) map[string]any {
	list := []map[string]any{}
	for _, p := range problems {
		list = append(list, map[string]any{
			"pointer": p.Pointer, "line": p.Line, "column": p.Column, "code": p.Code, "severity": p.Severity.String(), "message": p.Msg, "hint": p.Hint,
		})
	}
	_, plain := m.Style()
	return map[string]any{
		"file": file, "valid": !invalid, "shape": m.Shape().String(), "policies": len(m.Policies()), "snp": len(m.SNP()), "tdx": len(m.TDX()),
		"canonicalLayout": plain, "problems": list, "ownerKeys": owners,
	}
}

func (a *app) printManifest(file string, m *manifest.Manifest, problems []manifest.Problem, owners []owner, invalid bool) {
	verdict := "VALID"
	if invalid {
		verdict = "INVALID"
	}
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	line("%s  %s", verdict, file)
	line("  written by %s", m.Shape())
	line("  %s, %s, %s", show.Plural(len(m.Policies()), "workload policy", "workload policies"), show.Plural(len(m.SNP()), "SNP reference value", "SNP reference values"), show.Plural(len(m.TDX()), "TDX reference value", "TDX reference values"))
	if _, plain := m.Style(); !plain {
		line("  its layout is none that contrast, yq or jq writes: it was edited by something else")
	}
	for _, o := range owners {
		if o.Role == "" {
			line("  %s is not among the owner keys", o.File)
		} else {
			line("  %s is the key of a %s (%s)", o.File, o.Role, o.Pointer)
		}
	}
	for _, p := range problems {
		s := fmt.Sprintf("  %s:%d:%d: %s: %s: %s", file, p.Line, p.Column, p.Severity, p.Pointer, p.Msg)
		if p.Hint != "" {
			s += " (" + p.Hint + ")"
		}
		line("%s", s)
	}
}
