package published

import (
	"fmt"
	"slices"

	"github.com/retally/retally/deployment/contrast"
	"github.com/retally/retally/manifest"
)

// Alternative is one other choice where a release is assumed, or where the one
// who ran generate chose.
type Alternative struct {
	Words  string // "with ..."
	Change func(*contrast.Release, *contrast.Options)
}

// Alternatives are the single choices that another generation may have made:
// those that are not confirmed for the release, the user's own, and the guest
// policies of the published manifest, which a second run in one folder finds.
func (g *Generation) Alternatives(listed *manifest.Manifest) []Alternative {
	var out []Alternative
	r := g.Release
	add := func(words string, change func(*contrast.Release, *contrast.Options)) {
		out = append(out, Alternative{words, change})
	}
	var policies []uint64
	for _, e := range listed.SNP() {
		if p, ok := policyWord(e); ok && p != r.DefaultPolicy() && !slices.Contains(policies, p) {
			policies = append(policies, p)
			add(fmt.Sprintf("with the published guest policy %#x in its ID blocks: generate found the edited manifest", p), func(r *contrast.Release, _ *contrast.Options) { r.GuestPolicy.Value = fmt.Sprintf("%#x", p) })
		}
	}
	choice := func(name string, of func(*contrast.Release) *contrast.Choice, values ...string) {
		for _, v := range values {
			if c := of(r); c.Value != v && !c.Confirmed {
				add(fmt.Sprintf("with %s = %s, not %s, which is assumed of %s", name, v, c.Value, r.Release), func(r *contrast.Release, _ *contrast.Options) { of(r).Value = v })
			}
		}
	}
	choice("id_block", func(r *contrast.Release) *contrast.Choice { return &r.IDBlock }, "current", "early", "none")
	choice("vcpus", func(r *contrast.Release) *contrast.Choice { return &r.VCPUs }, "max", "limits")
	choice("mutations", func(r *contrast.Release) *contrast.Choice { return &r.Mutations }, "current", "early")
	choice("coordinator_host", func(r *contrast.Release) *contrast.Choice { return &r.CoordinatorHost }, "coordinator-ready.${namespace}", "coordinator-ready", "coordinator")
	choice("pod_role", func(r *contrast.Release) *contrast.Choice { return &r.PodRole }, "annotation", "label")
	if g.options.ImageStore == "on" || g.options.ImageStore == "" && r.ImageStore.Value == "on" {
		add("without the image store", func(_ *contrast.Release, o *contrast.Options) { o.ImageStore = "off" })
	} else {
		add("with the image store", func(_ *contrast.Release, o *contrast.Options) { o.ImageStore = "on" })
	}
	if g.options.SkipInitializer {
		add("with the initializer", func(_ *contrast.Release, o *contrast.Options) { o.SkipInitializer = false })
	} else {
		add("without the initializer", func(_ *contrast.Release, o *contrast.Options) { o.SkipInitializer = true })
	}
	if g.options.SkipServiceMesh {
		add("with the service mesh", func(_ *contrast.Release, o *contrast.Options) { o.SkipServiceMesh = false })
	} else {
		add("without the service mesh", func(_ *contrast.Release, o *contrast.Options) { o.SkipServiceMesh = true })
	}
	for _, p := range r.Platforms {
		if p.Name != g.options.DefaultPlatform {
			add("with the default platform "+p.Name, func(_ *contrast.Release, o *contrast.Options) { o.DefaultPlatform = p.Name })
		}
	}
	return out
}

// policyWord puts the guest policy of an entry together (AMD SEV-SNP ABI
// specification, 4.3 Guest Policy). A flag that is not known makes none.
func policyWord(e manifest.SNPEntry) (uint64, bool) {
	bits := map[string]uint{
		"SMT": 16, "MigrateMA": 18, "Debug": 19, "SingleSocket": 20, "CXLAllowed": 21, "MemAES256XTS": 22, "RAPLDis": 23, "CipherTextHidingDRAM": 24, "PageSwapDisable": 25,
	}
	p := uint64(1) << 17 // always one
	for name, on := range e.GuestPolicy {
		bit, known := bits[name]
		if !known {
			return 0, false
		}
		if on {
			p |= 1 << bit
		}
	}
	for shift, n := range map[uint]*uint64{0: e.ABIMinor, 8: e.ABIMajor} {
		if n != nil {
			if *n > 255 {
				return 0, false
			}
			p |= *n << shift
		}
	}
	return p, e.GuestPolicy != nil
}
