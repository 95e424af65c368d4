package published

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/deployment/contrast"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/snpmeasure"
)

// Generation is the deployment as a release of Contrast changes it, with what
// the manifest generated from it needs.
type Generation struct {
	*contrast.Result
	Release *contrast.Release
	Changed *deployment.Deployment // the changed deployment
	Values  *manifest.Values       // nil where no file of values is given

	in      *run.In
	given   *deployment.Deployment // as it was given
	options contrast.Options
	byLine  map[int]*contrast.Workload
	uses    map[string][]Launch // launch digests of ID blocks, by platform and vCPUs
}

// Launch is a launch digest and how it is known.
type Launch struct {
	Digest digest.Digest
	Basis  pipeline.Basis
	Inputs []pipeline.InputRef
	APEIP  *uint32
}

// Generate changes the configuration's deployment; nil where the configuration
// does not ask for it.
func Generate(ctx context.Context, in *run.In) (*Generation, error) {
	c := in.Config.Manifest
	if c == nil || c.Release == "" {
		return nil, nil
	}
	g := &Generation{in: in}
	d, err := Deployment(ctx, in, in.Config)
	if err != nil {
		return nil, err
	}
	if g.Release, err = run.Parsed(ctx, in, c.Release, contrast.MaxReleaseFile, contrast.ParseRelease); err != nil {
		return nil, err
	}
	if c.Values != "" {
		if g.Values, err = run.Parsed(ctx, in, c.Values, manifest.MaxValuesFile, manifest.ParseValues); err != nil {
			return nil, err
		}
	}
	g.given = d
	g.options = contrast.Options{DefaultPlatform: c.DefaultPlatform, SkipInitializer: slices.Contains(c.Skip, "initializer"), SkipServiceMesh: slices.Contains(c.Skip, "service-mesh")}
	switch {
	case slices.Contains(c.Skip, "image-store"):
		g.options.ImageStore = "off"
	case c.ImageStore:
		g.options.ImageStore = "on"
	}
	return g, g.change(ctx)
}

// change fills in what follows from deployment, release and options.
func (g *Generation) change(ctx context.Context) error {
	g.byLine, g.uses = map[int]*contrast.Workload{}, map[string][]Launch{}
	// Finding a key takes milliseconds, and a deployment may have thousands of
	// pods of one size.
	type blocks struct {
		annotations map[string]string
		missing     []contrast.Missing
	}
	made := map[string]blocks{}
	o := g.options
	o.Blocks = func(p contrast.Platform, n int) (map[string]string, []contrast.Missing) {
		key := useKey(p.Name, n)
		b, ok := made[key]
		if !ok {
			b.annotations, b.missing = g.blocks(ctx, p, n)
			made[key] = b
		}
		return b.annotations, b.missing
	}
	var err error
	if g.Result, err = contrast.Change(g.given, g.Release, o); err != nil {
		return &pipeline.InputError{Op: "generate", File: g.given.File, Err: err}
	}
	if g.Changed, err = deployment.ParseWith(g.File, g.YAML, DeploymentOptions(g.in.Config)); err != nil {
		return fmt.Errorf("read the changed deployment: %w", err)
	}
	for i := range g.Workloads {
		g.byLine[g.Workloads[i].Line] = &g.Workloads[i]
	}
	return nil
}

// With is the generation with other choices: change is given copies.
func (g *Generation) With(ctx context.Context, change func(*contrast.Release, *contrast.Options)) (*Generation, error) {
	other, release := *g, *g.Release
	other.Release = &release
	change(other.Release, &other.options)
	return &other, other.change(ctx)
}

// Of is the workload that a workload of the changed deployment came from: they
// are joined by the line on which the changed one was written.
func (g *Generation) Of(w *deployment.Workload) *contrast.Workload {
	own := g.byLine[w.Line]
	if own == nil || own.ID() != w.ID() {
		return nil
	}
	return own
}

// products are those that Contrast has SNP values for, in its order.
func products() []string { return []string{"Milan", "Genoa"} }

// Products are the products of SNP entries, in their order.
func (g *Generation) Products() []string { return products() }

// Launch finds a launch digest: computed from the platform's artifacts, or as
// the file of values says; of one vCPU and an AP reset address others follow.
func (g *Generation) Launch(ctx context.Context, platform, product string, cpus int) (l Launch, ok bool, err error) {
	if l, ok = g.measured(platform, product, cpus); ok {
		return l, true, nil
	}
	for _, name := range g.names(platform) {
		for _, n := range []int{cpus, 0} {
			if v, found := g.Values.FindSNP(name, product, n); found && (n == cpus || g.Release.Manifest.Value == "1.6") {
				return Launch{Digest: v.Launch, Basis: pipeline.Copied, Inputs: g.from(), APEIP: v.APEIP}, true, nil
			}
		}
		one, found := g.Values.FindSNP(name, product, 1)
		if !found || one.APEIP == nil {
			continue
		}
		cpu, err := snpmeasure.CPUOfType("EPYC-" + product)
		if err != nil {
			return l, false, err
		}
		got, err := snpmeasure.Extend(ctx, one.Launch, *one.APEIP, snpmeasure.Config{VMM: snpmeasure.QEMU, CPU: cpu, Features: 1}, []int{cpus})
		if err != nil {
			return l, false, err
		}
		return Launch{Digest: got[0].Digest, Basis: pipeline.Copied, Inputs: g.from(), APEIP: one.APEIP}, true, nil
	}
	return l, false, nil
}

// names are those that values of a platform may stand under: releases before
// 1.16 name none.
func (g *Generation) names(platform string) []string {
	if g.Release.Manifest.Value == "1.6" || g.Release.Manifest.Value == "1.8" {
		return []string{platform, ""}
	}
	return []string{platform}
}

func (g *Generation) from() []pipeline.InputRef {
	return []pipeline.InputRef{pipeline.FromFile(g.Values.File)}
}

// measured is what the stage of such machines computed. Two platforms that are
// called alike but for case are none.
func (g *Generation) measured(platform, product string, cpus int) (l Launch, ok bool) {
	for _, m := range g.in.All("snp/*/" + product + "/cpus=" + strconv.Itoa(cpus) + "/launch") {
		if !strings.EqualFold(m.Key.Parts()[1], platform) || m.Value.Digest().Algorithm() != digest.SHA384 {
			continue
		}
		if ok {
			return Launch{}, false
		}
		l, ok = Launch{Digest: m.Value.Digest(), Basis: m.Basis, Inputs: []pipeline.InputRef{pipeline.FromKey(m.Key)}}, true
		if e, found := g.in.Get(pipeline.NewKey("snp", m.Key.Parts()[1], product, "apeip")); found {
			if n, err := strconv.ParseUint(e.Value.String(), 16, 32); err == nil {
				eip := uint32(n)
				l.APEIP = &eip
			}
		}
	}
	return l, ok
}

func useKey(platform string, n int) string { return platform + " " + strconv.Itoa(n) }

// blocks makes the annotations with the ID blocks of both products.
func (g *Generation) blocks(ctx context.Context, p contrast.Platform, n int) (annotations map[string]string, missing []contrast.Missing) {
	const prefix = "io.katacontainers.config.hypervisor.snp_"
	annotations = map[string]string{}
	var used []Launch
	counts := g.Release.VCPUCounts()
	if n > counts[len(counts)-1] {
		return nil, []contrast.Missing{{What: fmt.Sprintf("a launch digest for %d vCPUs: Contrast %s has some for %s", n, g.Release.Release, g.Release.Counts.Value), How: "fewer CPUs"}}
	}
	policy := g.Release.DefaultPolicy()
	for _, product := range products() {
		l, ok, err := g.Launch(ctx, p.Name, product, n)
		switch {
		case err != nil:
			missing = append(missing, contrast.Missing{What: "the launch digest of " + p.Name + " for " + product + ": " + err.Error()})
			continue
		case !ok:
			missing = append(missing, contrast.Missing{What: LaunchWhat(p.Name, product, n), How: LaunchHow(p.Name)})
			continue
		}
		block, auth, err := snpmeasure.ContrastID(snpmeasure.ContrastForm(g.Release.IDBlock.Value), l.Digest, policy)
		if err == nil {
			var raw []byte
			if raw, err = block.Bytes(); err == nil {
				annotations[prefix+"id_block_"+product] = base64.StdEncoding.EncodeToString(raw)
				annotations[prefix+"id_auth_"+product] = base64.StdEncoding.EncodeToString(auth.Bytes())
				annotations[prefix+"guest_policy_"+product] = strconv.FormatUint(policy, 10)
			}
		}
		if err != nil {
			missing = append(missing, contrast.Missing{What: "the ID block of " + p.Name + " for " + product + ": " + err.Error()})
			continue
		}
		used = append(used, l)
	}
	g.uses[useKey(p.Name, n)] = used
	return annotations, missing
}

// LaunchWhat names a launch digest that is missing.
func LaunchWhat(platform, product string, cpus int) string {
	return fmt.Sprintf("the launch digest of %s for %s with %d vCPUs", cmp.Or(platform, "the platform"), product, cpus)
}

// LaunchHow says what would give one.
func LaunchHow(platform string) string {
	return "platforms: {" + strings.ToLower(platform) + ": {tee: snp, firmware: OVMF.fd, kernel: bzImage, initrd: initrd, cmdline: LINE, vcpus: 1..8, vcpu_types: [EPYC-Milan, EPYC-Genoa]}} of the release, or manifest.values with the digest and its source"
}

// Basis is how the inputs of a workload's policy are known that its deployment
// does not hold, and which they are.
func (g *Generation) Basis(w *contrast.Workload) (pipeline.Basis, []pipeline.InputRef) {
	basis, refs := pipeline.Recomputed, []pipeline.InputRef{pipeline.FromFile(g.Release.File())}
	if len(g.Assumed) > 0 {
		basis = pipeline.Assumed
	}
	if w.Platform.TEE == "snp" {
		for _, l := range g.uses[useKey(w.Platform.Name, w.VCPUs)] {
			basis = max(basis, l.Basis)
			refs = append(refs, l.Inputs...)
		}
	}
	slices.SortFunc(refs, func(a, b pipeline.InputRef) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.File, b.File))
	})
	return basis, slices.Compact(refs)
}

// CheckGenerate finds what is wrong with the description of a generation.
func CheckGenerate(c *config.Config, at config.At) error {
	m := c.Manifest
	given := m.DefaultPlatform != "" || m.Values != "" || len(m.Skip) > 0 || m.ImageStore
	switch {
	case m.Release == "" && given:
		return at("default_platform, values, skip and image_store are for a manifest that is generated here", "release: profile:contrast@v1.20.0", "manifest")
	case m.Release == "":
		return nil
	case m.Base != "":
		return at("base and release exclude each other: a manifest is read or generated", "leave out one of the two", "manifest", "release")
	case c.Deployment == "":
		return at("a manifest is generated from a deployment, and none is given", "add deployment: deployment.yaml", "manifest", "release")
	}
	if p := c.Policies; p != nil && p.Rules == "" && p.ImageBinding == "" {
		return at("rules are missing: Contrast's policies hold its own rules, with others the hashes are others", "rules: rules.rego, as contrast generate writes it; image_binding, where the vendor took retally's rules; or leave out policies", "policies")
	}
	for _, s := range m.Skip {
		if !slices.Contains([]string{"initializer", "service-mesh", "image-store"}, s) {
			return at(fmt.Sprintf("%q cannot be skipped", s), "known: initializer, service-mesh, image-store", "manifest", "skip")
		}
	}
	if m.ImageStore && slices.Contains(m.Skip, "image-store") {
		return at("the image store is asked for and skipped", "leave out one of the two", "manifest", "image_store")
	}
	if strings.HasPrefix(m.Release, config.ProfilePrefix) {
		if _, err := config.BuiltIn(m.Release); err != nil {
			var in *pipeline.InputError
			if errors.As(err, &in) {
				return at(in.Err.Error(), in.Hint, "manifest", "release")
			}
			return at(err.Error(), "", "manifest", "release")
		}
		if !strings.HasPrefix(m.Release, config.ProfilePrefix+"contrast@") {
			return at(fmt.Sprintf("%q is no release of Contrast", m.Release), "profile:contrast@v1.20.0", "manifest", "release")
		}
	}
	return nil
}

// Placeholder reports whether an image is one that the release replaces by
// something that is not known.
func (g *Generation) Placeholder(image string) bool {
	return g != nil && contrast.IsPlaceholder(image)
}
