package main

import (
	"errors"
	"io"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/internal/outfile"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/images"
	"github.com/retally/retally/pipeline/stages/policies"
	"github.com/retally/retally/policygen"
)

// policyGenerate are the flags: the policies as retally.yaml describes them, and
// what is about this one run.
type policyGenerate struct {
	outputs
	of                        config.Policies
	output, file, out, parity string
	images, classes           []string
	full, pull, noCache       bool
	parallel                  int
	remote                    remoteFlags
}

func (a *app) policyGenerateCommand() *cobra.Command {
	var g policyGenerate
	cmd := &cobra.Command{
		Use:   "generate -f FILE",
		Short: "Compute the policy, the initdata document and its digest of every workload in a Kubernetes YAML",
		Long: `Compute what the hardware report of each pod will carry: the digest of its
initdata document, which holds its policy. Images come from OCI layouts
(--images) or from their registries; layers are read as streams, once each.

Settings describe the cluster's runtime (genpolicy-settings.json, or a folder
with drop-ins): no default can be right for every cluster, so that without
--settings the file genpolicy-settings.json of the working folder is taken, as
genpolicy does, and otherwise nothing is generated.

Without --rules, retally's own rules are used: they bind images to their digests
(--image-binding). --parity kata-4.1 asks for the bytes of that generator; the
other profiles have no reference to compare with and are labelled so.

All problems of all documents are listed at once. Then nothing is written, and
the exit code is 2; it is 1 if the only problem is that the guest pulls images
whose users and groups it cannot reproduce.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("--output", g.output, "text", "json", "yaml"); err != nil {
				return err
			}
			if err := oneOf("--profile", g.of.Profile, append(policies.ProfileNames(), "")...); err != nil {
				return err
			}
			if err := oneOf("--parity", g.parity, append(policies.ProfileNames(), "")...); err != nil {
				return err
			}
			if g.file == "" {
				return &userError{op: "policy generate", msg: "no deployment given", hint: "-f FILE names it, -f - reads stdin"}
			}
			return a.generatePolicies(cmd, &g)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&g.output, "output", "o", "text", "form of the result on stdout: text, json, yaml (the annotated documents)")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	f.StringVarP(&g.file, "file", "f", "", "Kubernetes YAML, - for stdin; at most 16 MiB and 10,000 documents")
	f.StringVar(&g.of.Rules, "rules", "", "rules.rego to put in front of the data (default: retally's own rules)")
	f.StringVar(&g.of.Settings, "settings", "", "genpolicy-settings.json, or a folder with it and genpolicy-settings.d (default: that file in the working folder)")
	f.StringArrayVar(&g.of.ConfigFiles, "config-file", nil, "YAML with further ConfigMaps and Secrets; may be given several times")
	f.StringVar(&g.out, "out", "", "folder for policies, data, initdata documents and the annotated YAML (default: nothing is written)")
	f.StringArrayVar(&g.images, "images", nil, "OCI layout or archive, or a folder of such; without it images are pulled; may be given several times")
	f.BoolVar(&g.pull, "pull", false, "pull what --images does not have (implied by --mirror, and without --images)")
	f.StringVar(&g.parity, "parity", "", "ask for the bytes of this generator: kata-4.1")
	f.StringVar(&g.of.Profile, "profile", "", "which generator's behavior is computed: "+strings.Join(policies.ProfileNames(), ", ")+" (default retally)")
	_ = cmd.RegisterFlagCompletionFunc("parity", cobra.FixedCompletions([]string{"kata-4.1"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("profile", cobra.FixedCompletions(policies.ProfileNames(), cobra.ShellCompDirectiveNoFileComp))
	f.StringVar(&g.of.ImageBinding, "image-binding", "", "how retally's own rules bind images: annotation, guest_pull, off (default annotation)")
	f.BoolVar(&g.of.Lenient, "lenient", false, "accept unknown fields that no container can notice (status, managedFields, ...)")
	f.BoolVar(&g.of.IgnoreUnknown, "ignore-unknown", false, "ignore every unknown field, as genpolicy -s does: the policy may say less than the YAML")
	f.StringVar(&g.of.Initdata, "initdata", "", "initdata document to put the policy into (default: an empty one)")
	f.StringArrayVar(&g.classes, "runtime-class", nil, "only workloads whose runtimeClassName starts with this get a policy; may be given several times")
	f.BoolVar(&g.full, "full", false, "inflate every layer to its end and check its diffID")
	f.BoolVar(&g.noCache, "no-cache", false, "read layers again that another run has read")
	f.IntVar(&g.parallel, "parallel", 0, "images and workloads at a time (default: number of processors)")
	g.remote.connection(cmd)
	g.flags(cmd)
	return cmd
}

// inputs reads what a stage reads, without a run: names start from the working
// folder, and - is stdin.
func (a *app) inputs(c *config.Config) *run.In {
	reader := run.NewReader(".", nil)
	reader.Stdin = a.stdin
	return run.NewIn(c, reader)
}

func (a *app) generatePolicies(cmd *cobra.Command, g *policyGenerate) error {
	ctx := cmd.Context()
	trouble := func(err error) error { return a.policyProblems(err, "policy generate", config.Shown(g.file), g.output) }
	if err := onlyOneStdin("policy generate", append([]string{g.file, g.of.Rules, g.of.Settings, g.of.Initdata}, g.of.ConfigFiles...)...); err != nil {
		return err
	}
	if err := policies.Complete(&g.of, g.parity); err != nil {
		return plain(err)
	}
	g.protect(append(images.InputPaths(g.images), g.file)...)
	g.protect(run.InputPaths(&config.Config{Policies: &g.of}, ".")...)
	reader := a.inputs(&config.Config{Policies: &g.of})
	set, err := policies.Resolve(ctx, reader, &g.of)
	if err != nil {
		return trouble(err)
	}
	in := set.Input
	in.RuntimeClasses, in.Full, in.Parallel, in.YAML.Name = g.classes, g.full, g.parallel, config.Shown(g.file)
	if in.YAML.Data, err = reader.ReadFile(ctx, g.file, config.YAMLLimit); err != nil {
		return err
	}
	opts, closeStore, err := a.remote(&g.remote, new(imagehash.Progress))
	if err != nil {
		return err
	}
	defer closeStore()
	progress := run.NewProgress("policy generate")
	finder := policies.NewImages(policies.Sources{
		Folders: g.images, Pull: g.pull || len(g.images) == 0 || len(g.remote.mirrors) > 0,
		Remote: opts.Remote, Progress: progress,
	})
	defer finder.Close()
	in.Images = finder
	if !g.noCache {
		if store, err := a.openCache(); err != nil {
			a.talk("retally: without cache: %v", err)
		} else {
			in.Cache = policies.NewLayerCache(store)
		}
	}
	// Much of what this makes is dropped at once; a heap of twice what is in use
	// would be the larger part of the memory.
	if a.env("GOGC") == "" {
		defer debug.SetGCPercent(debug.SetGCPercent(50))
	}
	stop := a.showProgress(progress)
	out, err := policygen.Generate(ctx, in)
	stop()
	if err != nil {
		return trouble(err)
	}
	return a.showPolicies(g, policies.NewGenerated(out, set, &g.of, finder.Used()), out.YAML)
}

// showPolicies writes what --out asks for and prints the result.
func (a *app) showPolicies(g *policyGenerate, v *policies.Generated, yaml []byte) error {
	if g.out != "" {
		if err := g.writePolicies(v); err != nil {
			return err
		}
	}
	if g.output == "yaml" {
		_, err := a.stdout.Write(yaml)
		return err
	}
	return a.result(g.output, v.Rows, func(w io.Writer) {
		v.Text(w, a.verbose)
		if g.out != "" {
			show.Line(w, "written to %s", filepath.ToSlash(g.out))
		}
	})
}

// writePolicies puts everything into the folder of --out, or nothing.
func (g *policyGenerate) writePolicies(v *policies.Generated) error {
	err := g.guard.WriteFolder(g.out, v.Files(config.Shown(g.file)))
	var refused *outfile.Error
	if err == nil || errors.As(err, &refused) {
		return err
	}
	return &userError{op: "write policies", path: g.out, err: err, hint: "nothing was changed; --out names another folder"}
}
