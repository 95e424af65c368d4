package snp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/snpmeasure"
)

// releasesFile is the list that a platform is held against: its own, or the
// top-level registry where the platform's command line is one that such a list
// gives the values for.
func releasesFile(c *config.Config, p *config.Platform, profile *snpmeasure.Profile) string {
	switch {
	case p.Releases != "":
		return p.Releases
	case profile != nil && slices.Contains(profile.Needs(), "rootfs") && !anyTDX(c):
		return c.Registry
	default:
		return ""
	}
}

// anyTDX reports whether the top-level registry is one of TDX registers.
func anyTDX(c *config.Config) bool {
	for _, p := range c.Platforms {
		if p.TEE == "tdx" {
			return true
		}
	}
	return false
}

// maxLaunches bounds how many launch digests of releases are computed for one
// platform.
const maxLaunches = 50_000

func (m *Machine) readReleases(ctx context.Context, in *run.In) (err error) {
	file := releasesFile(in.Config, &m.conf, m.profile)
	if file == "" {
		if m.conf.Release != "" {
			return &pipeline.InputError{Op: "read", File: "platforms." + m.Name + ".release", Err: errors.New("names a row of no list"), Hint: "releases: sev.json, the published list"}
		}
		return nil
	}
	if m.profile == nil {
		return &pipeline.InputError{Op: "read", File: file, Err: errors.New("says nothing of the command line"), Hint: "profile: secretvm, whose machines the list is of"}
	}
	if m.releases, err = run.Parsed(ctx, in, file, snpmeasure.MaxReleaseFile, snpmeasure.ParseReleases); err != nil {
		return err
	}
	if n := max(1, len(m.shape.counts)) * len(m.shape.features); len(m.releases.Rows) > maxLaunches/n {
		return &pipeline.InputError{Op: "compare", File: file, Err: fmt.Errorf("%d releases for %d machines: at most %d launch digests are computed", len(m.releases.Rows), n, maxLaunches), Hint: "list fewer machines"}
	}
	return nil
}

// takeRelease lets a row of the list stand for the artifacts, where there is no
// firmware: the named one, or the one that gives the expected digest.
func (m *Machine) takeRelease(ctx context.Context) error {
	if m.releases == nil {
		if m.shape.config.Mode == snpmeasure.SNP && config.Or(m.conf.Firmware) == "" {
			m.lack("firmware", "firmware: OVMF.fd, whole; or one_vcpu_digest and ap_eip")
		} else if config.Or(m.conf.Firmware) == "" {
			m.lack("firmware", "firmware: OVMF.fd, whole")
		}
		return nil
	}
	for _, f := range config.FieldsGiven(m.conf) {
		if slices.Contains([]string{"kernel", "initrd", "cmdline", "rootfs", "ovmf_hash", "svsm", "vars_size"}, f) {
			m.lack("firmware", "firmware: OVMF.fd beside "+f+", or leave both to a release of "+m.releases.Name)
			return nil
		}
	}
	if m.compose.IsZero() && slices.Contains(m.profile.Needs(), "compose") {
		m.lack("compose", "compose: docker-compose.yaml, byte for byte as the machine was given it")
		return nil
	}
	row, err := m.chooseRelease(ctx)
	if err != nil || row == nil {
		return err
	}
	m.release = row
	m.artifacts = row.Artifacts()
	m.shape.config = m.configOf(row)
	if len(m.conf.VCPUTypes) == 0 && m.conf.VCPUSig == "" && m.conf.VCPUFamily == nil {
		m.shape.cpus = []snpmeasure.CPU{row.CPU}
	}
	from := pipeline.FromFile(m.releases.Name)
	of := " of release " + row.Name() + ", as the list says"
	m.addPart("ovmf-hash", row.Seed, pipeline.Copied, "the launch digest after the firmware's pages"+of, from)
	m.addPart("kernel", row.Kernel, pipeline.Copied, "the kernel"+of, from)
	m.addPart("initrd", row.Initrd, pipeline.Copied, "the initrd"+of, from)
	m.addPart("rootfs", row.Rootfs, pipeline.Copied, "the root file system"+of, from)
	m.cmdline = m.shape.config.Cmdline
	m.addPart("cmdline", snpmeasure.CmdlineSum(m.cmdline), pipeline.Recomputed, fmt.Sprintf("the kernel command line %.200q and a zero byte", m.cmdline), pipeline.FromKey(m.key("compose")), pipeline.FromKey(m.key("rootfs")), from)
	return nil
}

// chooseRelease finds the row; nil with a lack where none is known.
func (m *Machine) chooseRelease(ctx context.Context) (*snpmeasure.Release, error) {
	fail := func(msg, hint string) error {
		return &pipeline.InputError{Op: "choose release", File: m.releases.Name, Err: errors.New(msg), Hint: hint}
	}
	if name := m.conf.Release; name != "" {
		var found *snpmeasure.Release
		for i := range m.releases.Rows {
			if r := &m.releases.Rows[i]; r.Name() == name {
				if found != nil {
					return nil, fail(fmt.Sprintf("has two rows %.80q, lines %d and %d", name, found.Line, r.Line), "")
				}
				found = r
			}
		}
		switch {
		case found == nil:
			return nil, fail(fmt.Sprintf("has no row %.80q", name), config.NearestHint(name, m.rowNames()))
		case found.Unknown != "":
			return nil, fail(fmt.Sprintf("line %d has a %s, which is not understood", found.Line, found.Unknown), "what such a release measures is not known")
		}
		return found, nil
	}
	want, ok := m.wantedLaunch()
	if !ok {
		m.lack("release", "release: \"prod v0.0.25\", a row of "+m.releases.Name+"; or expect: {launch: HEX}, and the row is found")
		return nil, nil
	}
	if len(m.shape.counts) == 0 {
		// Every size that the vendor offers.
		m.shape.counts = slices.Sorted(maps.Values(m.profile.Sizes))
	}
	if len(m.shape.counts) == 0 {
		return nil, nil // the number of vCPUs is a lack of its own
	}
	unknown := 0
	var fits *snpmeasure.Release
	var fit *snpmeasure.Result
	for i := range m.releases.Rows {
		r := &m.releases.Rows[i]
		if r.Unknown != "" {
			unknown++
			continue
		}
		results, err := m.launchesOf(ctx, r)
		if err != nil {
			return nil, err
		}
		for _, got := range results {
			switch {
			case got.Digest != want:
			case fits != nil:
				m.alike = append(m.alike, r.Name())
			default:
				// Of several machines that are listed it is this one.
				fits, fit = r, got
			}
		}
	}
	if fits != nil {
		m.shape.counts, m.shape.features = []int{fit.Config.VCPUs}, []uint64{fit.Config.Features}
		return fits, nil
	}
	if unknown == 0 {
		m.problems = append(m.problems, pipeline.Problem{
			Level: pipeline.LevelError, Code: "snp-release", Where: pipeline.Where{File: m.releases.Name}, Msg: "no release gives the launch digest that is expected of " + m.Name,
		})
	}
	m.lack("release with the expected launch digest", "no release of "+m.releases.Name+" gives it with this compose file and these vCPUs: is the list the newest, and the compose file the machine's?")
	return nil, nil
}

func (m *Machine) rowNames() []string {
	var names []string
	for i := range m.releases.Rows {
		names = append(names, m.releases.Rows[i].Name())
	}
	return names
}

// wantedLaunch is the one launch digest that is expected.
func (m *Machine) wantedLaunch() (d digest.Digest, ok bool) {
	n := 0
	for name, text := range m.conf.Expect {
		if e, err := expectation(name, text, m.shape.config.Mode); err == nil && e.key[len(e.key)-1] == "launch" {
			d = e.want
			n++
		}
	}
	return d, n == 1
}

// configOf is the machine that runs a release.
func (m *Machine) configOf(r *snpmeasure.Release) snpmeasure.Config {
	c := m.shape.config
	values := map[string]string{"extra": r.Extra, "rootfs": r.Rootfs.Hex()}
	if !m.compose.IsZero() {
		values["compose"] = m.compose.Hex()
	}
	c.Cmdline, _ = m.profile.Cmdline(values) // checked: the profile needs no other value
	c.CmdlineSum, c.Seed = digest.Digest{}, r.Seed
	return c
}

// launchesOf computes what a release's machines of the platform's sizes measure.
func (m *Machine) launchesOf(ctx context.Context, r *snpmeasure.Release) ([]*snpmeasure.Result, error) {
	return snpmeasure.New(r.Artifacts()).Matrix(ctx, m.configOf(r), m.shape.counts, []snpmeasure.CPU{r.CPU}, m.shape.features)
}

// rows holds a machine whose artifacts are at hand against every release of the
// list: one of them must fit as a whole.
func (r *stageRun) rows(ctx context.Context, m *Machine) error {
	if m.releases == nil || m.release != nil || len(m.Results) == 0 {
		return nil
	}
	if m.shape.config.Mode != snpmeasure.SNP || m.compose.IsZero() {
		r.in.Lack("compose", string(m.key())+"/**", "compose: docker-compose.yaml, in mode snp: without it no release of "+m.releases.Name+" is compared")
		return nil
	}
	var nearest []pipeline.Reference
	most := 0
	for i := range m.releases.Rows {
		row := &m.releases.Rows[i]
		where := pipeline.Where{File: m.releases.Name, Line: row.Line}
		if row.Unknown != "" {
			r.out.Problems = append(r.out.Problems, pipeline.Problem{
				Level: pipeline.LevelWarning, Code: "snp-release", Where: where, Msg: "has a " + row.Unknown + ", which is not understood: this release is not compared",
			})
			continue
		}
		refs, err := m.references(ctx, row, where)
		if err != nil {
			return err
		}
		matches := 0
		for _, ref := range refs {
			if got, ok := r.computed(ref.Key); ok && got == ref.Want.Digest() {
				matches++
			}
		}
		r.out.References = append(r.out.References, refs...)
		if matches > most {
			most, nearest = matches, refs
		}
	}
	r.nearest(m, nearest)
	return nil
}

// references are the values of a release that a machine must have all of.
func (m *Machine) references(ctx context.Context, row *snpmeasure.Release, where pipeline.Where) ([]pipeline.Reference, error) {
	var refs []pipeline.Reference
	set := fmt.Sprintf("%s:%d %s for %s", m.releases.Name, row.Line, row.Name(), m.Name)
	add := func(key pipeline.Key, want digest.Digest, words string) {
		refs = append(refs, pipeline.Reference{
			Set: set, Group: m.releases.Name + " for " + m.Name, Key: key, Relation: pipeline.Equal, Want: pipeline.OfDigest(want), Where: where, Words: words + " of release " + row.Name(),
		})
	}
	add(m.key("ovmf-hash"), row.Seed, "firmware")
	add(m.key("kernel"), row.Kernel, "kernel")
	add(m.key("initrd"), row.Initrd, "initrd")
	if !m.rootfs.IsZero() {
		add(m.key("rootfs"), row.Rootfs, "root file system")
	}
	results, err := m.launchesOf(ctx, row)
	if err != nil {
		return nil, fmt.Errorf("%s:%d: %w", m.releases.Name, row.Line, err)
	}
	for i, got := range results {
		// Of several types that the platform lists, the release has one.
		for j := range m.shape.cpus {
			own := m.Results[(i/len(m.shape.features))*len(m.shape.cpus)*len(m.shape.features)+j*len(m.shape.features)+i%len(m.shape.features)]
			if len(m.shape.cpus) == 1 || own.Config.CPU.Sig == row.CPU.Sig {
				add(m.launchKey(&own.Config), got.Digest, "launch digest")
			}
		}
	}
	return refs, nil
}

// nearest says of the release that most values are of why the launch digest is
// another: the digest is made of nothing but the parts.
func (r *stageRun) nearest(m *Machine, refs []pipeline.Reference) {
	var parts []string
	for _, ref := range refs {
		if got, ok := r.computed(ref.Key); ok && got != ref.Want.Digest() && !strings.Contains(ref.Words, "launch digest") {
			parts = append(parts, strings.TrimSuffix(ref.Words, ref.Words[strings.Index(ref.Words, " of release"):]))
		}
	}
	for _, ref := range refs {
		got, ok := r.computed(ref.Key)
		if !ok || got == ref.Want.Digest() || !strings.Contains(ref.Words, "launch digest") {
			continue
		}
		c := pipeline.Cause{
			Path: []string{string(ref.Key)}, Expected: got.String(), Actual: ref.Want.String(), Where: ref.Where, Standing: pipeline.Proved, Hint: "snp-release",
			Note: "with the release's " + strings.Join(parts, ", ") + " the digest is the release's",
		}
		if len(parts) == 0 {
			c.Standing, c.Note = pipeline.Suspected, "firmware, kernel, initrd and root file system are the release's: the command line, the firmware's tables or the type of the vCPUs is another"
		}
		r.out.Causes[ref.Key] = append(r.out.Causes[ref.Key], c)
	}
}
