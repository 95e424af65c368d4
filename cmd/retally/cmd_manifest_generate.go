package main

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
	"github.com/retally/retally/pipeline/stages/images"
	manifeststage "github.com/retally/retally/pipeline/stages/manifest"
	"github.com/retally/retally/profiles"
)

// manifestGenerate are the flags: the parts of retally.yaml that a generation
// needs, and where the images are.
type manifestGenerate struct {
	output                    string
	deployment, profile, plan string
	of                        config.Manifest
	policies                  config.Policies
	images, platforms, vars   []string
}

func (a *app) manifestGenerateCommand() *cobra.Command {
	var g manifestGenerate
	cmd := &cobra.Command{
		Use:   "generate --deployment FILE --profile contrast-VERSION|FILE",
		Short: "Generate a Contrast manifest from a deployment, and say of each value how it is known or what it lacks",
		Long: `Compute the manifest that "contrast generate" writes for a deployment, and print
it. The deployment is changed as Contrast changes it (initializer, service mesh,
image store, images, ID blocks), the policies are computed from the changed one,
and reference values come from --platform (computed from firmware, kernel,
initrd and command line) or --reference-values (a file of values with their
sources, which are copied). No file is written over.

A value whose input is missing is written as "not reproduced: ..." and listed on
stderr with that input; the others are computed all the same. Exit code 3 then,
0 if nothing is missing. What nothing public confirms for the release is listed
as assumed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if g.deployment == "" || g.profile == "" {
				return &userError{op: "manifest generate", msg: "a deployment and a release are needed", hint: "--deployment deployment.yaml --profile contrast-v1.20.0; known: " + strings.Join(profiles.ContrastReleases(), ", ")}
			}
			return a.generateManifest(cmd.Context(), &g)
		},
	}
	f := cmd.Flags()
	f.StringVar(&g.deployment, "deployment", "", "Kubernetes YAML of the deployment, - for stdin")
	f.StringVar(&g.profile, "profile", "", "release of Contrast, as contrast-1.20.0, or a file in the form of profiles/contrast")
	f.StringArrayVar(&g.images, "images", nil, "OCI layout or archive, or a folder of such, called as the last part of the image's name; may be given several times")
	f.StringVar(&g.policies.Settings, "settings", "", "genpolicy-settings.json of the release, or a folder with drop-ins")
	f.StringVar(&g.policies.Rules, "rules", "", "rules.rego of the release")
	f.StringArrayVar(&g.policies.ConfigFiles, "config-file", nil, "YAML with further ConfigMaps and Secrets; may be given several times")
	f.StringVar(&g.of.Values, "reference-values", "", "file of values with their sources, which are copied")
	f.StringArrayVar(&g.platforms, "platform", nil, "machine as NAME=FILE, a YAML file with the fields of platforms in retally.yaml; may be given several times")
	f.StringVar(&g.of.DefaultPlatform, "default-platform", "", "platform of runtime classes that name none")
	f.StringSliceVar(&g.of.Skip, "skip", nil, "changes to leave out: initializer, service-mesh, image-store")
	f.BoolVar(&g.of.ImageStore, "image-store", false, "add the image store, as --inject-image-store does")
	f.StringVar(&g.plan, "plan", "", "plan of edits to apply, or profile:privatemode@VERSION")
	f.StringArrayVar(&g.vars, "var", nil, "set a variable of the plan, as NAME=VALUE; may be given several times")
	outputFlag(cmd, &g.output)
	return cmd
}

// config turns the flags into the description that retally.yaml gives.
func (g *manifestGenerate) config(a *app) (*config.Config, error) {
	c := &config.Config{Version: 1, Deployment: g.deployment, Manifest: &g.of}
	g.of.Format, g.of.Adjust, g.of.Release = "contrast", g.plan, g.profile
	if version, ok := strings.CutPrefix(g.profile, "contrast-"); ok && !strings.ContainsAny(version, `/\`) && !strings.HasSuffix(version, ".yaml") {
		g.of.Release = config.ProfilePrefix + "contrast@v" + strings.TrimPrefix(version, "v")
		if strings.Count(version, ".") == 1 {
			g.of.Release += ".0"
		}
	}
	if g.policies.Settings != "" && g.policies.Rules != "" {
		c.Policies = &g.policies
	}
	if len(g.vars) > 0 && g.plan == "" {
		return nil, &userError{op: "manifest generate", msg: "--var sets a variable of a plan, and none is given", hint: "--plan FILE"}
	}
	for _, v := range g.vars {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return nil, &userError{op: "manifest generate", msg: "--var " + v + ": want NAME=VALUE"}
		}
		if g.of.Variables == nil {
			g.of.Variables = map[string]string{}
		}
		g.of.Variables[name] = value
	}
	var err error
	if c.Platforms, err = a.platformFiles("manifest generate", g.platforms); err != nil {
		return nil, err
	}
	c.Images, err = images.Named(g.images)
	return c, err
}

// platformFiles reads the machines that --platform names.
func (a *app) platformFiles(verb string, flags []string) (map[string]config.Platform, error) {
	if len(flags) == 0 {
		return nil, nil
	}
	out := map[string]config.Platform{}
	for _, p := range flags {
		name, file, ok := strings.Cut(p, "=")
		if !ok || name == "" || file == "" {
			return nil, &userError{op: verb, msg: "--platform " + p + ": want NAME=FILE"}
		}
		data, err := a.readInput("read platform", file, smallFile)
		if err != nil {
			return nil, err
		}
		docs, err := yamldoc.Parse(file, data, yamldoc.Limits{Bytes: 1 << 20, Docs: 1})
		if err != nil {
			return nil, err
		}
		var platform config.Platform
		if len(docs) == 0 {
			return nil, &userError{op: "read platform", path: file, msg: "the file is empty"}
		}
		if err := yamldoc.DecodeStrict(file, docs[0], &platform); err != nil {
			return nil, err
		}
		if _, dup := out[name]; dup {
			return nil, &userError{op: verb, msg: "--platform " + name + " is given twice"}
		}
		out[name] = platform
	}
	return out, nil
}

func (a *app) generateManifest(ctx context.Context, g *manifestGenerate) error {
	if err := onlyOneStdin("manifest generate", g.deployment, g.policies.Rules, g.policies.Settings, g.of.Values, g.plan); err != nil {
		return err
	}
	cfg, err := g.config(a)
	if err != nil {
		return plain(err)
	}
	if err := run.CheckConfig(stages.Table(), cfg); err != nil {
		return &userError{op: "manifest generate", err: err}
	}
	root, err := filepath.Abs(".")
	if err != nil {
		return err
	}
	reader := run.NewReader(root, nil)
	reader.Stdin = a.stdin
	progress := new(run.Progress)
	stop := a.showProgress(progress)
	res, err := run.Run(ctx, stages.Table(), cfg, run.Options{
		Root: root, Subject: "the manifest of " + config.Shown(g.deployment), Tool: tool(), Build: run.BuildIdentity(), Progress: progress, Reader: reader,
	})
	stop()
	if err != nil {
		return err
	}
	made := manifeststage.NewGenerated(res)
	for _, line := range made.Talk(a.verbose) {
		a.talk("retally: %s", line)
	}
	return a.judged(&comparison{output: g.output}, nil, res.Report.Subject, made.Out(), view{json: made.JSON(), text: made.Text, computes: made.Complete()})
}
