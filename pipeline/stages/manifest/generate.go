package manifest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/deployment/contrast"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/published"
	"github.com/retally/retally/profiles"
)

// generated is a base manifest that was made here, and how its values are known.
type generated struct {
	*published.Generation
	in  *run.In
	out *run.Out
	// known says of a hash or measurement, by its hex digits, how it is known. Of
	// two ways the weaker counts.
	known map[string]replaced
	// absent says of reference values that are not there what they lack. A plan
	// may take them out again, so that only what is left is a lack.
	absent map[pipeline.Key]contrast.Missing
	// openPlatform: some workload names no platform, and what stands for it was
	// not said. Which machines the manifest has is then not known.
	openPlatform bool
}

// families are the manifests' families by the releases' words.
var families = map[string]manifest.Version{"1.6": manifest.V16, "1.8": manifest.V18, "1.16": manifest.V116, "1.20": manifest.V120, "newer": manifest.Newer}

// generate makes the manifest as the release's `contrast generate` does. What has
// no input is a placeholder, and a lack that names the input.
func generate(ctx context.Context, in *run.In, out *run.Out) (*manifest.Manifest, *generated, error) {
	own, err := published.Generate(ctx, in)
	if err != nil {
		return nil, nil, err
	}
	g := &generated{Generation: own, in: in, out: out, known: map[string]replaced{}, absent: map[pipeline.Key]contrast.Missing{}}
	if out.Missing == nil {
		out.Missing = map[pipeline.Key][]string{}
	}
	gen := manifest.Generation{Version: families[own.Release.Manifest.Value], Incomplete: true}
	g.policies(&gen)
	if err := g.references(ctx, &gen); err != nil {
		return nil, nil, err
	}
	if v := own.Values; v != nil {
		gen.WorkloadOwnerKeys, gen.SeedshareOwnerKeys = v.WorkloadOwnerKeys, v.SeedshareOwnerKeys
	}
	if gen.SeedshareOwnerKeys == nil {
		out.Missing["keys/SeedshareOwnerPubKeys"] = []string{"the seedshare owner's public key, which every generate makes anew (exempt from the comparison)"}
	}
	made, err := manifest.Generate(gen)
	if err != nil {
		return nil, nil, &pipeline.InputError{Op: "generate", File: in.Config.Deployment, Err: err}
	}
	for _, w := range made.Warnings {
		out.Problem(pipeline.LevelWarning, "generate", pipeline.Where{File: in.Config.Deployment}, w, "Contrast drops one of them without a word")
	}
	g.say()
	m, err := manifest.Parse("manifest.generated.json", made.Bytes())
	if err != nil {
		return nil, nil, fmt.Errorf("the manifest as generated: %w", err)
	}
	return m, g, nil
}

// say reports what was assumed, and which release was taken.
func (g *generated) say() {
	where := pipeline.Where{File: g.Release.File()}
	if why := config.ContrastRemark(g.in.Config.Manifest.Release); why != "" {
		g.out.Problem(pipeline.LevelWarning, "release", where, why, "a release file of your own says what is right")
	}
	for _, a := range g.Assumed {
		g.out.Problem(pipeline.LevelNote, "assumed", where, "assumed for Contrast "+g.Release.Release+": "+a, "")
	}
	for _, p := range g.Unknown {
		g.out.Problem(pipeline.LevelWarning, "platform", where, fmt.Sprintf("has no platform %.80q: the manifest has no reference values for it", p), "list it under platforms of a release file")
		g.lack(pipeline.NewKey("platform", p), fmt.Sprintf("what platform %.80q is", p), "a release file that lists it under platforms")
	}
	if g.Values == nil || g.Values.WorkloadOwnerKeys == nil {
		g.out.Problem(pipeline.LevelNote, "assumed", where, "assumed: generated with --disable-updates, so that no workload owner's key is in it", "values: {workload_owner_keys: [HEX]}")
	}
	if n := len(g.Platforms); n > 2 {
		g.out.Problem(pipeline.LevelNote, "assumed", where, "assumed: platforms of one kind are sorted by name; Contrast's own order is not stable", "")
	}
}

func (g *generated) lack(key pipeline.Key, what, how string) {
	g.in.Lack(what, string(key), how)
	if !slices.Contains(g.out.Missing[key], what) {
		g.out.Missing[key] = append(g.out.Missing[key], what)
	}
}

// knows notes how a digest is known.
func (g *generated) knows(d digest.Digest, basis pipeline.Basis, inputs []pipeline.InputRef) {
	if have, ok := g.known[d.Hex()]; ok && have.Basis >= basis {
		return
	}
	g.known[d.Hex()] = replaced{basis, inputs}
}

// policies takes the hashes that the policies stage computed, and those that the
// file of values says. A workload without either has a placeholder, and that
// stage, which knows why, has said what is missing.
func (g *generated) policies(gen *manifest.Generation) {
	used := map[int]bool{}
	for i := range g.Changed.Workloads {
		w := &g.Changed.Workloads[i]
		own := g.Of(w)
		if own == nil {
			continue
		}
		if own.Role == "coordinator" && gen.Version == manifest.V16 && g.Release.Coordinator.Value == "none" {
			continue
		}
		id := manifest.Workload{Kind: w.Kind, Namespace: w.Namespace, Name: w.Name}
		group, version, ok := strings.Cut(w.APIVersion, "/")
		if id.Group, id.Version = group, version; !ok {
			id.Group, id.Version = "", group
		}
		p := manifest.GeneratedPolicy{Workload: id, SANs: w.SANs, SecretID: w.SecretID, Role: own.Role}
		entry := manifest.Policy{WorkloadSecretID: w.SecretID}
		computed, has := computedHash(g.in, entry)
		alike := slices.ContainsFunc(own.Missing, func(m contrast.Missing) bool { return strings.HasPrefix(m.What, "which of ") })
		v, given := g.Values.FindPolicy(w.Kind, w.Namespace, w.Name)
		if given {
			used[v.Line] = true
		}
		switch {
		case has && !alike && g.in.Config.Policies != nil && computed.Value.Digest().Algorithm() == digest.SHA256:
			p.Hash = computed.Value.Digest()
			if given && v.Hash != p.Hash {
				g.out.Problem(pipeline.LevelWarning, "given-policy", pipeline.Where{File: g.Values.File, Line: v.Line}, fmt.Sprintf("says another policy hash for %s than is computed; the computed one is taken", w.ID()), "it is of other inputs: which, policy diff of the two policies says")
			}
		case given && !alike:
			p.Hash = v.Hash
			g.knows(v.Hash, pipeline.Copied, []pipeline.InputRef{pipeline.FromFile(g.Values.File)})
		}
		gen.Policies = append(gen.Policies, p)
	}
	if g.Values == nil {
		return
	}
	for _, v := range g.Values.Policies {
		if !used[v.Line] {
			g.out.Problem(pipeline.LevelWarning, "given-policy", pipeline.Where{File: g.Values.File, Line: v.Line}, fmt.Sprintf("says a policy hash for %s %s/%s, which the deployment does not have", v.Kind, show.Or(v.Namespace, "default"), v.Name), "")
		}
	}
}

// references makes the reference values of every platform that is used.
func (g *generated) references(ctx context.Context, gen *manifest.Generation) error {
	for _, p := range g.Platforms {
		if p.TEE == "tdx" {
			g.tdx(gen, p)
			continue
		}
		if err := g.snp(ctx, gen, p); err != nil {
			return err
		}
	}
	g.openPlatform = g.in.Config.Manifest.DefaultPlatform == "" && slices.ContainsFunc(g.Workloads, func(w contrast.Workload) bool { return w.Platform.Name == "" })
	if len(g.Platforms) == 0 || g.openPlatform {
		g.lack(pipeline.NewKey("snp"), "the platform that the manifest has reference values for", "default_platform, the one that contrast generate was given as reference values")
	}
	return nil
}

// snp adds entries: the count of vCPUs outside, the product inside; releases
// without counts, and those with an AP reset address, have one for each product.
func (g *generated) snp(ctx context.Context, gen *manifest.Generation, p contrast.Platform) error {
	counts := g.Release.VCPUCounts()
	perCount := gen.Version == manifest.V120 || gen.Version == manifest.V116 && len(counts) > 1
	if !perCount {
		counts = counts[:1]
	}
	policy := g.Release.DefaultPolicy()
	for _, n := range counts {
		for _, product := range g.Products() {
			v := manifest.SNPValues{Platform: p.Name, ProductName: product, GuestPolicy: guestPolicy(policy), PlatformInfo: manifest.PlatformInfo{SMTEnabled: true}}
			parts := []string{"snp", p.Name, product}
			if gen.Version < manifest.V116 {
				parts[1] = "-"
			}
			if perCount {
				v.CPUs, parts = uint64(n), append(parts, fmt.Sprintf("cpus=%d", n))
			}
			key := pipeline.NewKey(append(parts, "launch")...)
			l, ok, err := g.Launch(ctx, p.Name, product, n)
			if err != nil {
				return err
			}
			if ok {
				v.TrustedMeasurement = l.Digest
				g.knows(l.Digest, l.Basis, l.Inputs)
			} else {
				g.absent[key] = contrast.Missing{What: published.LaunchWhat(p.Name, product, n), How: published.LaunchHow(p.Name)}
			}
			if gen.Version == manifest.Newer {
				if v.NoAPEIP = l.APEIP == nil; v.NoAPEIP {
					g.absent[pipeline.NewKey(append(parts, "apeip")...)] = contrast.Missing{What: "the AP reset address of " + p.Name + " for " + product, How: published.LaunchHow(p.Name)}
				} else {
					v.APEIP = *l.APEIP
				}
			}
			gen.SNP = append(gen.SNP, v)
		}
	}
	return nil
}

// guestPolicy takes the bits of a guest policy apart (AMD SEV-SNP ABI
// specification, 4.3 Guest Policy).
func guestPolicy(p uint64) manifest.GuestPolicy {
	bit := func(n uint) bool { return p>>n&1 == 1 }
	return manifest.GuestPolicy{
		ABIMinor: uint8(p), ABIMajor: uint8(p >> 8), SMT: bit(16), MigrateMA: bit(18), Debug: bit(19), SingleSocket: bit(20),
		CXLAllowed: bit(21), MemAES256XTS: bit(22), RAPLDis: bit(23), CipherTextHidingDRAM: bit(24), PageSwapDisable: bit(25),
	}
}

// tdx adds the entry of a platform. RTMR3 is never extended.
func (g *generated) tdx(gen *manifest.Generation, p contrast.Platform) {
	if gen.Version < manifest.V116 {
		g.lack(pipeline.NewKey("tdx", p.Name), "the form of TDX reference values in Contrast "+g.Release.Release, "a release from 1.16 on")
		return
	}
	t := manifest.TDXValues{Platform: p.Name, Xfam: [8]byte{0xe7, 0x02, 0x06}}
	given, ok := g.Values.FindTDX(p.Name)
	own := machinesOf(g.in).of("tdx", p.Name)
	for _, name := range slices.Sorted(maps.Keys(g.in.Config.Platforms)) {
		m := g.in.Config.Platforms[name]
		if want := g.recipe(p); strings.EqualFold(name, p.Name) && m.TEE == "tdx" && m.Profile != want {
			g.out.Problem(pipeline.LevelWarning, "release-profile", pipeline.Where{File: g.Release.File()}, fmt.Sprintf("registers of %s in Contrast %s are taken to follow profile %s, and the platform has %q", p.Name, g.Release.Release, want, m.Profile), "platforms."+name+".profile: "+want)
		}
	}
	for i, name := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"} {
		to := &t.MrTd
		said := given.MrTd
		if i > 0 {
			to, said = &t.Rtmrs[i-1], given.Rtmrs[i-1]
		}
		m, measured := own[name]
		switch {
		case measured && m.Value.Digest().Algorithm() == digest.SHA384:
			*to = m.Value.Digest()
			g.knows(*to, m.Basis, []pipeline.InputRef{pipeline.FromKey(m.Key)})
		case ok:
			*to = said
			g.knows(*to, pipeline.Copied, []pipeline.InputRef{pipeline.FromFile(g.Values.File)})
		case name == "rtmr3":
			*to, _ = digest.ParseHex(digest.SHA384, strings.Repeat("0", 96)) // 48 zero bytes are a digest
		default:
			g.absent[pipeline.NewKey("tdx", p.Name, name)] = contrast.Missing{
				What: name + " of " + p.Name,
				How:  "platforms: {" + strings.ToLower(p.Name) + ": {tee: tdx, profile: " + g.recipe(p) + ", firmware: OVMF.fd, kernel: bzImage, initrd: initrd, cmdline: LINE}} of the release, or manifest.values with the register and its source",
			}
		}
	}
	gen.TDX = append(gen.TDX, t)
}

// recipe names the profile of a platform's registers: with a GPU the firmware
// measures no ACPI tables.
func (g *generated) recipe(p contrast.Platform) string {
	name := g.Release.TDX.Value
	if other := name + "-nogpu"; !strings.Contains(strings.ToLower(p.Name), "gpu") && slices.Contains(profiles.TDXNames(), other) {
		return other
	}
	return name
}

// count says how much of the generated manifest is there.
func (g *generated) count(ms []pipeline.Measurement, missing int) {
	n := 0
	for _, m := range ms {
		if m.Key.MatchAny(manifestKeys) && !holdsPlaceholder(m.Value) {
			n++
		}
	}
	g.out.Facts = append(g.out.Facts, fmt.Sprintf("manifest: generated as Contrast %s does, %d of %s there", g.Release.Release, n, show.Plural(n+missing, "value", "values")))
}

// bases says of every value of the base how it is known: a hash or measurement
// as its source says, what follows from the deployment is said elsewhere, and
// the rest is what the release starts with.
func (g *generated) bases(base *manifest.Manifest, at map[int]replaced) {
	start := replaced{pipeline.Assumed, []pipeline.InputRef{pipeline.FromFile(g.Release.File())}}
	note := func(offset int, text string) {
		if _, ok := at[offset]; ok {
			return
		}
		at[offset] = start
		if k, ok := g.known[strings.ToLower(text)]; ok {
			at[offset] = k
		}
	}
	for _, f := range base.Fields() {
		if f.Value == nil {
			continue
		}
		offset := f.Value.Offset
		if strings.HasPrefix(f.Path, "policy/") && strings.HasSuffix(f.Path, "/hash") {
			for _, m := range base.Tree().Get("Policies").Members {
				if m.Key == f.Value.Text {
					offset = m.Offset
				}
			}
		}
		if owner := strings.HasSuffix(f.Path, "OwnerPubKeys") || strings.HasSuffix(f.Path, "KeyDigests"); owner && g.Values != nil {
			given := replaced{pipeline.Copied, []pipeline.InputRef{pipeline.FromFile(g.Values.File)}}
			at[offset] = given
			for _, e := range f.Value.Elems {
				at[e.Offset] = given
			}
		}
		note(offset, f.Value.Text)
		for _, e := range f.Value.Elems {
			note(e.Offset, e.Text)
		}
	}
}

// lacking says of the values that the finished manifest does not have which
// input each lacks. Of policies the stage that computes them has said it.
func (g *generated) lacking(missing map[pipeline.Key]bool) {
	for _, key := range slices.Sorted(maps.Keys(missing)) {
		m, ok := g.absent[key]
		switch {
		case ok:
			g.lack(key, m.What, m.How)
		case key.Kind() != "policy":
			g.lack(key, "what "+string(key)+" is made of", "")
		}
	}
}

// WithoutPlaceholders takes out what stands for a value that is not there: it is
// no measurement, whatever it is compared with.
func WithoutPlaceholders(ms []pipeline.Measurement) ([]pipeline.Measurement, map[pipeline.Key]bool) {
	missing := map[pipeline.Key]bool{}
	kept := slices.DeleteFunc(slices.Clone(ms), func(m pipeline.Measurement) bool {
		if m.Key == "keys/SeedshareOwnerPubKeys" || !holdsPlaceholder(m.Value) {
			return false
		}
		missing[m.Key] = true
		return true
	})
	return kept, missing
}

func holdsPlaceholder(v pipeline.Value) bool {
	switch v.Kind() {
	case pipeline.TextKind:
		return manifest.IsPlaceholder(v.String())
	case pipeline.ListKind:
		return slices.ContainsFunc(v.List(), manifest.IsPlaceholder)
	}
	return false
}

// openPlaceholders are those that are not of exempt fields.
func openPlaceholders(pointers []string) []string {
	return slices.DeleteFunc(slices.Clone(pointers), func(p string) bool {
		return slices.ContainsFunc(exempt, func(name string) bool { return strings.HasPrefix(p, "/"+name+"/") })
	})
}

// completeKeys are the keys that our side has all values of: without those that
// are missing here, which the published side may have.
func completeKeys(refs []pipeline.Reference, ms []pipeline.Measurement, missing map[pipeline.Key]bool, made *generated) []string {
	open := made != nil && made.openPlatform
	if len(missing) == 0 && !open {
		return manifestKeys
	}
	own := map[pipeline.Key]bool{}
	for _, m := range ms {
		own[m.Key] = true
	}
	keys := map[string]bool{}
	for _, r := range refs {
		machine := r.Key.Kind() == "snp" || r.Key.Kind() == "tdx"
		if r.Key.MatchAny(manifestKeys) && !missing[r.Key] && (!open || !machine || own[r.Key]) {
			keys[string(r.Key)] = true
		}
	}
	return slices.Sorted(maps.Keys(keys))
}

// incompleteBytes compares nothing: there are no whole bytes here.
func incompleteBytes(b *built, theirs *manifest.Manifest) *pipeline.BytesResult {
	return &pipeline.BytesResult{
		Verdict: pipeline.Unchecked, Want: pipeline.OfDigest(digest.SHA256.Sum(theirs.Raw())),
		Note: show.Plural(b.incomplete, "value", "values") + " of the generated manifest could not be reproduced, so its bytes are not compared",
	}
}
