package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/policies"
	"github.com/retally/retally/policygen"
	"github.com/retally/retally/policygen/rules"
)

// settingsDefault is the settings file that genpolicy takes if none is named.
const settingsDefault = "genpolicy-settings.json"

// Bounds of what is read whole. policygen has the same ones inside.
const (
	deploymentLimit = 16 << 20
	rulesLimit      = 16 << 20
	settingsLimit   = 16 << 20
)

type policyGenerate struct {
	output, file, rules, settings, out string
	profile, parity, binding, initdata string
	configFiles, images, classes       []string
	lenient, ignore, full, pull        bool
	noCache                            bool
	parallel                           int
	remote                             remoteFlags
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
	f.StringVar(&g.rules, "rules", "", "rules.rego to put in front of the data (default: retally's own rules)")
	f.StringVar(&g.settings, "settings", "", "genpolicy-settings.json, or a folder with it and genpolicy-settings.d (default: that file in the working folder)")
	f.StringArrayVar(&g.configFiles, "config-file", nil, "YAML with further ConfigMaps and Secrets; may be given several times")
	f.StringVar(&g.out, "out", "", "folder for policies, data, initdata documents and the annotated YAML (default: nothing is written)")
	f.StringArrayVar(&g.images, "images", nil, "OCI layout or archive, or a folder of such; without it images are pulled; may be given several times")
	f.BoolVar(&g.pull, "pull", false, "pull what --images does not have (implied by --mirror, and without --images)")
	f.StringVar(&g.parity, "parity", "", "ask for the bytes of this generator: kata-4.1")
	f.StringVar(&g.profile, "profile", "", "which generator's behavior is computed: "+strings.Join(profileNames(), ", ")+" (default retally)")
	f.StringVar(&g.binding, "image-binding", "", "how retally's own rules bind images: annotation, guest_pull, off (default annotation)")
	f.BoolVar(&g.lenient, "lenient", false, "accept unknown fields that no container can notice (status, managedFields, ...)")
	f.BoolVar(&g.ignore, "ignore-unknown", false, "ignore every unknown field, as genpolicy -s does: the policy may say less than the YAML")
	f.StringVar(&g.initdata, "initdata", "", "initdata document to put the policy into (default: an empty one)")
	f.StringArrayVar(&g.classes, "runtime-class", nil, "only workloads whose runtimeClassName starts with this get a policy; may be given several times")
	f.BoolVar(&g.full, "full", false, "inflate every layer to its end and check its diffID")
	f.BoolVar(&g.noCache, "no-cache", false, "read layers again that another run has read")
	f.IntVar(&g.parallel, "parallel", 0, "images and workloads at a time (default: number of processors)")
	g.remote.connection(cmd)
	return cmd
}

func profileNames() []string {
	var names []string
	for _, p := range policygen.Profiles() {
		names = append(names, p.Name)
	}
	return names
}

// chosenProfile reads --parity and --profile.
func (g *policyGenerate) chosenProfile() (policygen.Profile, error) {
	fail := func(format string, args ...any) (policygen.Profile, error) {
		var matched []string
		for _, p := range policygen.Profiles() {
			if p.Reference != "" {
				matched = append(matched, p.Name)
			}
		}
		return policygen.Profile{}, &userError{op: "policy generate", msg: fmt.Sprintf(format, args...), hint: "with a reference: " + strings.Join(matched, ", ") + "; all profiles: " + strings.Join(profileNames(), ", ")}
	}
	name := policygen.Profiles()[0].Name
	switch {
	case g.parity != "" && g.profile != "" && g.parity != g.profile:
		return fail("--parity %s and --profile %s contradict each other", g.parity, g.profile)
	case g.parity != "":
		name = g.parity
	case g.profile != "":
		name = g.profile
	}
	p, err := policygen.ProfileByName(name)
	if err != nil {
		return fail("%v", err)
	}
	if g.parity != "" && p.Reference == "" {
		return fail("--parity %s: nothing was there to compare its bytes with, so that no parity can be promised; --profile %s computes it", name, name)
	}
	return p, nil
}

// ruleSet is the rules of a run and how results call them.
type ruleSet struct {
	policygen.Rules
	binding string // "" for foreign rules
}

func (a *app) ruleSet(op, file, binding, standard string) (ruleSet, error) {
	if file != "" {
		if binding != "" {
			return ruleSet{}, &userError{op: op, msg: "--image-binding is a matter of retally's own rules and does nothing to those of --rules", hint: "leave one of them away"}
		}
		text, err := a.readInput("read rules", file, rulesLimit)
		return ruleSet{Rules: policygen.Rules{Name: shownName(file), Text: text}}, err
	}
	if binding == "" {
		binding = standard
	}
	own, err := rules.Default(rules.Binding(binding))
	if err != nil {
		return ruleSet{}, &userError{op: op, msg: "--image-binding " + binding + ": unknown word", hint: "known: annotation, guest_pull, off"}
	}
	return ruleSet{own, binding}, nil
}

// fileID is an input with its digest.
type fileID struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

func identify(f policygen.NamedFile) fileID {
	return fileID{f.Name, policygen.Rules{Text: f.Data}.Digest().String()}
}

// readSettings reads a settings file, or a folder with drop-ins.
func (a *app) readSettings(path string, p policygen.Profile) (*policygen.Settings, []fileID, error) {
	explicit := path != ""
	if !explicit {
		path = settingsDefault
		if _, err := os.Stat(path); err != nil {
			return nil, nil, &userError{
				op: "policy generate", msg: "no settings given, and there is no " + settingsDefault + " here",
				hint: "--settings PATH names the cluster's genpolicy-settings.json (kata-containers, src/tools/genpolicy; Contrast writes its own) or the folder with its drop-ins",
			}
		}
	}
	var base policygen.NamedFile
	var dropIns []policygen.NamedFile
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		if base, dropIns, err = policygen.SettingsFiles(os.DirFS(path)); err != nil {
			return nil, nil, &userError{op: "read settings", path: path, err: err}
		}
	default:
		base.Name = shownName(path)
		if base.Data, err = a.readInput("read settings", path, settingsLimit); err != nil {
			return nil, nil, err
		}
	}
	ids := []fileID{identify(base)}
	for _, d := range dropIns {
		ids = append(ids, identify(d))
	}
	s, err := policygen.ParseSettings(base, dropIns, p)
	return s, ids, err
}

// policyInputs reads everything but the images.
func (a *app) policyInputs(g *policyGenerate) (in policygen.Input, set ruleSet, settings []fileID, err error) {
	if err := onlyOneStdin("policy generate", append([]string{g.file, g.rules, g.settings, g.initdata}, g.configFiles...)...); err != nil {
		return in, set, nil, err
	}
	if in.Profile, err = g.chosenProfile(); err != nil {
		return in, set, nil, err
	}
	switch {
	case g.lenient && g.ignore:
		return in, set, nil, &userError{op: "policy generate", msg: "--lenient and --ignore-unknown exclude each other"}
	case g.lenient:
		in.Unknown = policygen.AcceptHarmless
	case g.ignore:
		in.Unknown = policygen.IgnoreUnknown
	}
	if set, err = a.ruleSet("policy generate", g.rules, g.binding, string(rules.Annotation)); err != nil {
		return in, set, nil, err
	}
	in.Rules, in.RuntimeClasses, in.Full, in.Parallel = set.Rules, g.classes, g.full, g.parallel
	if in.Settings, settings, err = a.readSettings(g.settings, in.Profile); err != nil {
		return in, set, nil, err
	}
	in.YAML.Name = shownName(g.file)
	if in.YAML.Data, err = a.readInput("read deployment", g.file, deploymentLimit); err != nil {
		return in, set, nil, err
	}
	for _, file := range g.configFiles {
		data, err := a.readInput("read configuration", file, deploymentLimit)
		if err != nil {
			return in, set, nil, err
		}
		in.ConfigFiles = append(in.ConfigFiles, policygen.NamedFile{Name: shownName(file), Data: data})
	}
	if g.initdata != "" {
		text, err := a.readInput("read initdata", g.initdata, policyFileLimit)
		if err != nil {
			return in, set, nil, err
		}
		if in.Base, err = policygen.ParseInitdata(shownName(g.initdata), text, in.Profile.Initdata); err != nil {
			return in, set, nil, err
		}
	}
	return in, set, settings, nil
}

func (a *app) generatePolicies(cmd *cobra.Command, g *policyGenerate) error {
	trouble := func(err error) error { return a.policyProblems(err, "policy generate", shownName(g.file), g.output) }
	in, set, settings, err := a.policyInputs(g)
	if err != nil {
		return trouble(err)
	}
	opts, closeStore, err := g.remote.options(new(imagehash.Progress))
	if err != nil {
		return err
	}
	defer closeStore()
	progress := run.NewProgress("policy generate")
	images := policies.NewImages(policies.Sources{
		Folders: g.images, Pull: g.pull || len(g.images) == 0 || len(g.remote.mirrors) > 0,
		Remote: opts.Remote, Progress: progress,
	})
	defer images.Close()
	in.Images = images
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
	out, err := policygen.Generate(cmd.Context(), in)
	stop()
	if err != nil {
		return trouble(err)
	}
	rows := policyRows(out, set, settings, images.Used())
	if g.out != "" {
		if err := g.write(out, rows); err != nil {
			return err
		}
	}
	switch g.output {
	case "json":
		return writeJSON(a.stdout, rows)
	case "yaml":
		_, err := a.stdout.Write(out.YAML)
		return err
	}
	a.printPolicies(rows, out, set, settings, g)
	return nil
}

// policyRow is one annotation of the output; the first keys are the contract.
type policyRow struct {
	Kind           string   `json:"kind"`
	Namespace      string   `json:"namespace"`
	Name           string   `json:"name"`
	PolicySHA256   string   `json:"policy_sha256"`
	DataSHA256     string   `json:"policy_data_sha256"`
	InitdataSHA256 string   `json:"initdata_sha256"`
	Annotation     string   `json:"annotation"`
	Missing        []string `json:"missing"`

	// InitdataDigest is what is attested: by the algorithm that the document
	// names.
	InitdataDigest string            `json:"initdata_digest"`
	Profile        string            `json:"profile"`
	Label          string            `json:"label"`
	Rules          fileID            `json:"rules"`
	ImageBinding   string            `json:"image_binding,omitempty"`
	Settings       []fileID          `json:"settings"`
	Images         []policyImage     `json:"images"`
	Extensions     []string          `json:"extensions"`
	Notes          []classedProblem  `json:"notes"`
	Warnings       []string          `json:"warnings"`
	Files          map[string]string `json:"files,omitempty"`
}

// policyImage is an image that a policy was made from.
type policyImage struct {
	policygen.ImageUse
	Source string `json:"source"`
}

func policyRows(out *policygen.Output, set ruleSet, settings []fileID, used []policies.UsedImage) []policyRow {
	source := map[string]string{}
	for _, u := range used {
		source[u.Reference] = u.Source
	}
	rows := []policyRow{}
	for i := range out.Policies {
		p := &out.Policies[i]
		row := policyRow{
			Kind: p.Kind, Namespace: p.Namespace, Name: p.Name, PolicySHA256: p.TextDigest.Hex(), DataSHA256: p.DataDigest.Hex(),
			InitdataSHA256: p.InitdataDigest.Hex(), InitdataDigest: p.InitdataDigest.String(), Annotation: p.Annotation, Missing: []string{},
			Profile: out.Profile.Name, Label: out.Profile.Label(), Rules: fileID{set.Name, set.Digest().String()}, ImageBinding: set.binding,
			Settings: settings, Images: []policyImage{}, Extensions: []string{}, Notes: classed(out.Notes), Warnings: orEmpty(out.Warnings),
		}
		if p.InitdataDigest.Algorithm() != p.TextDigest.Algorithm() {
			row.InitdataSHA256 = policygen.Rules{Text: p.Initdata()}.Digest().Hex()
		}
		for _, use := range imagesOf(p, out.Images) {
			row.Images = append(row.Images, policyImage{use, source[use.Reference]})
			row.Extensions = append(row.Extensions, layerNotes(use)...)
		}
		rows = append(rows, row)
	}
	return rows
}

// imagesOf finds what was read for the images of one policy, in the order of
// the run. Several texts may name one image.
func imagesOf(p *policygen.Policy, uses []policygen.ImageUse) []policygen.ImageUse {
	key := func(text string) string {
		ref, err := policygen.ParseImageReference(text)
		switch {
		case err != nil:
			return text
		case ref.Pinned():
			return ref.Registry + "/" + ref.Repository + "@" + ref.Digest.String()
		}
		return ref.String()
	}
	wanted := map[string]bool{}
	for _, text := range p.References {
		wanted[key(text)] = true
	}
	var out []policygen.ImageUse
	for _, u := range uses {
		if wanted[key(u.Reference)] {
			out = append(out, u)
		}
	}
	return out
}

// layerNotes names the layers that the reference treats in another way than
// one would expect: it looks into gzip only.
func layerNotes(use policygen.ImageUse) []string {
	var out []string
	for _, l := range use.Layers {
		gzip := strings.HasSuffix(l.MediaType, "gzip")
		switch {
		case l.State == "skipped":
			out = append(out, fmt.Sprintf("%s: layer %s (%s) is not looked into, as the reference does", use.Reference, l.Digest, l.MediaType))
		case !gzip && l.State != "not needed":
			out = append(out, fmt.Sprintf("%s: layer %s (%s) is looked into; kata's generator skips it", use.Reference, l.Digest, l.MediaType))
		}
		if l.DiffID == "differs" {
			out = append(out, fmt.Sprintf("%s: layer %s does not have the diffID that the image config claims", use.Reference, l.Digest))
		}
	}
	return out
}

func (a *app) printPolicies(rows []policyRow, out *policygen.Output, set ruleSet, settings []fileID, g *policyGenerate) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	for _, r := range rows {
		line("%s", workloadName(r.Kind, r.Namespace, r.Name))
		line("  initdata     %s", r.InitdataDigest)
		line("  policy       sha256:%s", r.PolicySHA256)
		line("  policy data  sha256:%s", r.DataSHA256)
		if a.verbose {
			for _, i := range r.Images {
				line("  image        %s  %s  %s", i.Reference, i.Digest, i.Source)
			}
		}
	}
	line("%s, profile %s (%s)", show.Plural(len(rows), "policy", "policies"), out.Profile.Name, out.Profile.Label())
	rule := set.Name
	if set.binding != "" {
		rule = "retally's own, image_binding " + set.binding
	}
	line("rules     %s  %s", set.Digest(), rule)
	for _, s := range settings {
		line("settings  %s  %s", s.Digest, s.Name)
	}
	unpinned, layers := 0, map[string]int{}
	for _, u := range out.Images {
		if !u.Pinned {
			unpinned++
		}
		for _, l := range u.Layers {
			layers[l.State]++
		}
	}
	var states []string
	for _, s := range []string{"read", "cached", "shared", "not needed", "skipped"} {
		if layers[s] > 0 {
			states = append(states, fmt.Sprintf("%d %s", layers[s], s))
		}
	}
	line("images    %s, %d of them without digest; layers: %s", show.Plural(len(out.Images), "image", "images"), unpinned, orWord(strings.Join(states, ", "), "none"))
	var notes []string
	for _, u := range out.Images {
		notes = append(notes, layerNotes(u)...)
	}
	for _, n := range out.Notes {
		notes = append(notes, "accepted: "+n.String())
	}
	for _, n := range slices.Concat(notes, out.Warnings) {
		line("note: %s", n)
	}
	if g.out != "" {
		line("written to %s", filepath.ToSlash(g.out))
	}
}
