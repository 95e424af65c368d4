// Package snp is the stage that computes the launch digests of AMD machines.
package snp

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/published"
	"github.com/retally/retally/snpmeasure"
)

// Stage computes the launch digests of AMD machines from their artifacts and
// holds them against the values that are expected, against a list of releases,
// and, where the manifest names the machine, says why the manifest's differ.
func Stage() run.Stage { return Watched("", nil) }

// Watched is the stage, which also hands each machine to see: a verb shows of a
// result what no key has. from names the place of what is expected, where that
// is not retally.yaml.
func Watched(from string, see func(*Machine)) run.Stage {
	return run.Stage{Name: "snp", Version: 1, Fill: fill, Check: check, Plan: plan, Run: func(ctx context.Context, in *run.In) (*run.Out, error) {
		return execute(ctx, in, from, see)
	}}
}

func plan(c *config.Config) []run.PlanLine {
	var lines []run.PlanLine
	for _, name := range slices.Sorted(maps.Keys(c.Platforms)) {
		p := c.Platforms[name]
		if p.TEE != "snp" {
			continue
		}
		line := run.PlanLine{Key: string(pipeline.NewKey("snp", name)) + "/**"}
		profile, err := loadProfile(p.Profile)
		if err != nil {
			continue // the configuration was checked
		}
		var from []string
		for _, f := range []string{config.Or(p.Firmware), p.SVSM, config.Or(p.Kernel), config.Or(p.Initrd), p.Rootfs, p.Compose, releasesFile(c, &p, profile)} {
			if f != "" {
				from = append(from, f)
			}
		}
		switch {
		case p.OneVCPUDigest != "":
			from = append(from, "the digest for one vCPU")
		case config.Or(p.Firmware) == "" && releasesFile(c, &p, profile) == "":
			line.Missing, line.How = "firmware", "platforms."+name+": {firmware: OVMF.fd}"
		}
		if line.Missing == "" {
			line.From = strings.Join(from, ", ")
		}
		lines = append(lines, line)
	}
	return lines
}

// stageRun collects what the stage finds.
type stageRun struct {
	in        *run.In
	out       *run.Out
	from      string
	published *manifest.Manifest
}

func execute(ctx context.Context, in *run.In, from string, see func(*Machine)) (*run.Out, error) {
	r := &stageRun{in: in, from: from, out: &run.Out{Causes: map[pipeline.Key][]pipeline.Cause{}, Notes: map[pipeline.Key]string{}}}
	for _, name := range slices.Sorted(maps.Keys(in.Config.Platforms)) {
		if in.Config.Platforms[name].TEE != "snp" {
			continue
		}
		if file := in.Config.Against; file != "" && r.published == nil {
			var err error
			if r.published, err = run.Parsed(ctx, in, file, config.JSONLimit, manifest.Parse); err != nil {
				return nil, err
			}
		}
		if err := r.platform(ctx, name, see); err != nil {
			return nil, fmt.Errorf("platform %s: %w", name, err)
		}
	}
	return r.out, nil
}

// platform measures one platform and says what it is held against.
func (r *stageRun) platform(ctx context.Context, name string, see func(*Machine)) error {
	m, err := Open(ctx, r.in, name)
	if err != nil {
		return err
	}
	for _, l := range m.lacks {
		r.in.Lack(l.What, l.For, l.How)
	}
	r.out.Problems = append(r.out.Problems, m.problems...)
	if err := m.measure(ctx); err != nil {
		return err
	}
	if see != nil {
		see(m)
	}
	r.foundations(m)
	if err := r.launches(m); err != nil {
		return err
	}
	if err := r.expected(ctx, m); err != nil {
		return err
	}
	if err := r.rows(ctx, m); err != nil {
		return err
	}
	return r.entries(ctx, m)
}

func (r *stageRun) add(m pipeline.Measurement) { r.out.Measurements = append(r.out.Measurements, m) }

// foundations are the values that launch digests rest on, each with a basis of
// its own.
func (r *stageRun) foundations(m *Machine) {
	for _, p := range m.parts {
		if m.shape.config.Mode == snpmeasure.OVMFHash && p.name == "ovmf-hash" {
			continue // it is the result
		}
		r.add(pipeline.Measurement{Key: m.key(p.name), Value: pipeline.OfDigest(p.value), Basis: p.basis, Inputs: p.from, Note: p.note})
	}
	if len(m.Results) == 0 || m.Layout == nil || m.Layout.ResetEIP == nil || !m.shape.measuresCPUs() {
		return
	}
	basis, from := pipeline.Recomputed, m.firmwareRef()
	if config.Or(m.conf.Firmware) == "" {
		basis = pipeline.Copied
	}
	for _, cpu := range m.shape.cpus {
		r.add(pipeline.Measurement{
			Key: m.key(product(cpu), "apeip"), Value: pipeline.OfText(fmt.Sprintf("%08x", *m.Layout.ResetEIP)), Basis: basis, Inputs: from, Note: "where the firmware lets further vCPUs start",
		})
	}
}

// firmwareRef is where the firmware's tables come from.
func (m *Machine) firmwareRef() []pipeline.InputRef {
	switch {
	case m.conf.SVSM != "":
		return []pipeline.InputRef{pipeline.FromFile(config.Or(m.conf.Firmware)), pipeline.FromFile(m.conf.SVSM)}
	case config.Or(m.conf.Firmware) != "":
		return []pipeline.InputRef{pipeline.FromFile(config.Or(m.conf.Firmware))}
	case m.release != nil:
		return []pipeline.InputRef{pipeline.FromFile(m.releases.Name)}
	default:
		return nil
	}
}

// launches adds the launch digests with their traces, and the ID blocks.
func (r *stageRun) launches(m *Machine) error {
	inputs := m.firmwareRef()
	for _, p := range m.parts {
		inputs = append(inputs, pipeline.FromKey(m.key(p.name)))
	}
	if m.conf.Profile != "" {
		inputs = append(inputs, pipeline.FromFile(profileFile(m.conf.Profile)))
	}
	if m.shape.config.Mode == snpmeasure.OVMFHash {
		inputs = m.firmwareRef()
	}
	for _, res := range m.Results {
		own := inputs
		if !m.shape.one.IsZero() {
			own = append(slices.Clone(inputs), pipeline.FromKey(m.key(product(res.Config.CPU), "apeip")))
		}
		r.add(pipeline.Measurement{Key: m.launchKey(&res.Config), Value: pipeline.OfDigest(res.Digest), Basis: pipeline.Recomputed, Trace: &res.Trace, Inputs: own, Note: m.about(res)})
		if m.shape.id == nil {
			continue
		}
		if err := r.idBlock(m, res); err != nil {
			return err
		}
	}
	if m.release != nil {
		r.released(m)
	}
	return nil
}

// about says in words what was measured.
func (m *Machine) about(res *snpmeasure.Result) string {
	c := &res.Config
	var words []string
	if m.shape.measuresCPUs() {
		words = append(words, fmt.Sprintf("%s, features %#x", c.CPU, c.Features))
	}
	words = append(words, "VMM "+string(c.VMM))
	if m.shape.one.IsZero() && !m.artifacts.Kernel.Present() && c.Mode != snpmeasure.SVSM && c.Mode != snpmeasure.OVMFHash {
		words = append(words, "no kernel is measured")
	}
	if len(res.Quirks) > 0 {
		var names []string
		for _, q := range res.Quirks {
			names = append(names, string(q))
		}
		words = append(words, "quirks "+strings.Join(names, ", "))
	}
	return strings.Join(words, "; ")
}

// idBlock adds the ID block of a machine and, where it follows, the digest of
// the key that signs it.
func (r *stageRun) idBlock(m *Machine, res *snpmeasure.Result) error {
	block := *m.shape.id
	block.LaunchDigest = res.Digest
	from := []pipeline.InputRef{pipeline.FromKey(m.launchKey(&res.Config))}
	if m.shape.form != "" {
		b, auth, err := snpmeasure.ContrastID(m.shape.form, res.Digest, block.Policy)
		if err != nil {
			return err
		}
		block = *b
		r.add(pipeline.Measurement{Key: m.key(append(m.place(&res.Config), "id-key-digest")...), Value: pipeline.OfDigest(auth.IDKey.Digest()), Basis: pipeline.Recomputed, Inputs: from, Note: "the digest of the key that a report shows, of Contrast's form " + string(m.shape.form)})
	}
	raw, err := block.Bytes()
	if err != nil {
		return err
	}
	r.add(pipeline.Measurement{Key: m.key(append(m.place(&res.Config), "id-block")...), Value: pipeline.OfText(base64.StdEncoding.EncodeToString(raw)), Basis: pipeline.Recomputed, Inputs: from, Note: fmt.Sprintf("96 bytes in base64, policy %#x", block.Policy)})
	return nil
}

// released says which release stands for the artifacts, and the ids that its
// machines' reports show.
func (r *stageRun) released(m *Machine) {
	where := pipeline.Where{File: m.releases.Name, Line: m.release.Line}
	also := ""
	if len(m.alike) > 0 {
		also = "; the digest is also that of " + strings.Join(m.alike, ", ")
	}
	r.out.Problems = append(r.out.Problems, pipeline.Problem{
		Level: pipeline.LevelNote, Code: "snp-release", Where: where, Msg: "release " + m.release.Name() + " stands for the artifacts of " + m.Name + ": its hashes are taken over, not recounted" + also,
		Hint: "give firmware, kernel, initrd and rootfs of the release to recount them",
	})
	from := pipeline.FromFile(m.releases.Name)
	for _, res := range m.Results {
		family, image := m.profile.IDs(m.release, res.Config.VCPUs)
		for _, id := range [][2]string{{"family-id", family}, {"image-id", image}} {
			if id[1] != "" {
				r.add(pipeline.Measurement{Key: m.key(append(m.place(&res.Config), id[0])...), Value: pipeline.OfText(id[1]), Basis: pipeline.Copied, Inputs: []pipeline.InputRef{from}, Note: "as the ID block of such a machine has it"})
			}
		}
	}
}

// computed returns the digest that the stage gave a key.
func (r *stageRun) computed(k pipeline.Key) (digest.Digest, bool) {
	for i := range r.out.Measurements {
		if r.out.Measurements[i].Key == k {
			return r.out.Measurements[i].Value.Digest(), true
		}
	}
	return digest.Digest{}, false
}

// expected holds a platform against the values that the configuration gives.
func (r *stageRun) expected(ctx context.Context, m *Machine) error {
	set := "expect of " + m.Name
	for _, name := range slices.Sorted(maps.Keys(m.conf.Expect)) {
		e, err := expectation(name, m.conf.Expect[name], m.shape.config.Mode)
		if err != nil {
			return err
		}
		where := pipeline.Where{File: config.FileName, Pointer: "/platforms/" + m.Name + "/expect/" + name}
		if r.from != "" {
			where = pipeline.Where{File: r.from, Pointer: name}
		}
		key := m.key(e.key...)
		if len(e.key) == 1 && e.key[0] != "ovmf-hash" && m.shape.measuresCPUs() {
			switch {
			case len(m.Results) == 1:
				key = m.key(append(m.place(&m.Results[0].Config), e.key[0])...)
			case len(m.Results) > 1:
				return &pipeline.InputError{
					Op: "compare", File: where.File + " " + where.Pointer, Err: fmt.Errorf("is of one machine, and the platform lists %d", len(m.Results)),
					Hint: "say which: " + strings.Join(m.place(&m.Results[0].Config), "/") + "/" + name,
				}
			}
		}
		r.out.References = append(r.out.References, pipeline.Reference{
			Set: set, Group: set, Key: key, Relation: pipeline.Equal, Want: pipeline.OfDigest(e.want), Where: where, Words: words(e.key[len(e.key)-1]) + " of " + m.Name,
		})
		if err := r.why(ctx, m, key, key, e.want, where); err != nil {
			return err
		}
	}
	return nil
}

func words(name string) string {
	switch name {
	case "ovmf-hash":
		return "launch digest after the firmware"
	case "id-key-digest":
		return "digest of the ID key"
	default:
		return "launch digest"
	}
}

// entries explains where the published manifest has another launch digest for
// the machine. The comparison itself is the manifest stage's.
func (r *stageRun) entries(ctx context.Context, m *Machine) error {
	if r.published == nil {
		return nil
	}
	for _, f := range r.published.Fields() {
		kind, platform, rest, ok := published.MachineField(f.Path)
		if !ok || kind != "snp" || !strings.EqualFold(platform, m.Name) || rest[len(rest)-1] != "launch" {
			continue
		}
		want := published.FieldValue(f).Digest()
		if want.Algorithm() != digest.SHA384 {
			continue
		}
		key := pipeline.NewKey(append([]string{kind, platform}, rest...)...)
		where := pipeline.Where{File: r.published.File(), Pointer: f.Pointer, Line: f.Line}
		if err := r.why(ctx, m, m.key(rest...), key, want, where); err != nil {
			return err
		}
	}
	return nil
}
