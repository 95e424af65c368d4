package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	manifeststage "github.com/retally/retally/pipeline/stages/manifest"
)

const smallFile = 16 << 20

func (a *app) manifestCommand() *cobra.Command {
	return group("manifest", "Generate, edit and check Contrast manifests",
		a.manifestGenerateCommand(), a.manifestAdjustCommand(), a.manifestCheckCommand())
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
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := onlyOneStdin("manifest adjust", plan, deploy, args[0]); err != nil {
				return err
			}
			planData, err := a.readPlan(plan)
			if err != nil {
				return err
			}
			p, err := manifest.ParsePlan(plan, planData)
			if err != nil {
				return err
			}
			values, err := a.variables(cmd.Context(), p, plan, deploy, vars)
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
				return a.result(output, manifeststage.Adjusted(res), nil)
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

// variables collects a plan's variables: --var wins over the deployment.
func (a *app) variables(ctx context.Context, p *manifest.Plan, plan, deploy string, vars []string) (map[string]string, error) {
	values, err := manifeststage.Given(p, plan, vars)
	if err != nil {
		return nil, plain(err)
	}
	in := a.inputs(&config.Config{Deployment: deploy, Manifest: &config.Manifest{Adjust: plan, Variables: values}})
	values, empty, err := manifeststage.Variables(ctx, in, p)
	for _, e := range empty {
		a.talk("retally: warning: %s (--var sets it)", e.Msg)
	}
	var missing *pipeline.InputError
	if errors.As(err, &missing) && missing.Op == "find variable" {
		return nil, &userError{op: "manifest adjust", path: missing.File, err: missing.Err, hint: "add --deployment FILE or --var NAME=VALUE"}
	}
	return values, err
}

func (a *app) manifestCheckCommand() *cobra.Command {
	var (
		flags comparison
		keys  []string
	)
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Say whether a manifest is valid, field by field",
		Long: `Check a manifest of any Contrast version by the rules that Contrast applies to
it. Exit code 1 if it is invalid. With --owner-key, also say whether a public
key or a certificate is among the owners.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			targets, err := flags.targets(append(keys, args...)...)
			if err != nil {
				return err
			}
			if err := onlyOneStdin("manifest check", append(keys, args...)...); err != nil {
				return err
			}
			data, err := a.readInput("read manifest", args[0], smallFile)
			if err != nil {
				return err
			}
			m, err := manifest.Parse(args[0], data)
			if err != nil {
				return err
			}
			v := manifeststage.NewValidity(m)
			for _, file := range keys {
				data, err := a.readInput("read owner key", file, 1<<20)
				if err != nil {
					return err
				}
				key, err := manifest.ParseOwnerKey(file, data)
				if err != nil {
					return err
				}
				v.Owner(file, key)
			}
			return a.judged(&flags, targets, "whether "+args[0]+" is a valid manifest", v.Out(), view{json: v.JSON(), text: v.Text, differs: "invalid"})
		},
	}
	flags.flags(cmd)
	cmd.Flags().StringArrayVar(&keys, "owner-key", nil, "PEM file of a public key that must be among the owners; may be given several times")
	return cmd
}
