// Package tdx is the stage that computes the registers of TDX machines.
package tdx

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/published"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/trace"
)

// Stage computes the registers of TDX machines from their artifacts and
// holds them against the values that are expected, against a registry of
// releases, and, where the manifest names the machine, against the manifest.
func Stage() run.Stage {
	return run.Stage{Name: "tdx", Version: 2, Fill: fill, Check: check, Run: execute, Plan: plan}
}

func plan(c *config.Config) []run.PlanLine {
	var lines []run.PlanLine
	for _, name := range slices.Sorted(maps.Keys(c.Platforms)) {
		p := c.Platforms[name]
		if p.TEE == "tpm" {
			continue
		}
		if p.Metadata != "" {
			lines = append(lines, run.PlanLine{Key: string(pipeline.NewKey("tdx", name)) + "/**", From: p.Metadata + " and the files that it names"})
			continue
		}
		profile, err := tdxmeasure.LoadProfile(p.Profile)
		if err != nil {
			continue // the configuration was checked
		}
		from := registerInputs(&p, &profile)
		for i, list := range needs(&p, &profile, false) {
			line := run.PlanLine{Key: string(pipeline.NewKey("tdx", name, Registers[i])), From: strings.Join(from[i], ", ")}
			if what, how := missing(name, list); what != "" {
				line.From, line.Missing, line.How = "", what, how
			} else if line.From == "" {
				line.From = "the profile " + p.Profile
			}
			lines = append(lines, line)
		}
	}
	return lines
}

// registerFiles lists the files that each register is computed from.
func registerFiles(c *config.Platform, p *tdxmeasure.Profile) [5][]string {
	out := [5][]string{{c.Firmware}, {c.Firmware}, {c.Kernel}, {c.Initrd}, nil}
	if readsTables(p) && c.ACPI != "" {
		out[1] = append(out[1], c.ACPI)
	}
	if p.PatchKernel {
		out[2] = append(out[2], c.Initrd)
	}
	if p.RTMR3 == tdxmeasure.RTMR3Raw || p.RTMR3 == tdxmeasure.RTMR3SecretVMKMS {
		out[4] = []string{c.Compose, c.Rootfs, c.DockerFiles}
	}
	for i := range out {
		out[i] = slices.DeleteFunc(out[i], func(s string) bool { return s == "" })
	}
	return out
}

// registerInputs adds to the files what the configuration itself says of the
// machine.
func registerInputs(c *config.Platform, p *tdxmeasure.Profile) [5][]string {
	out := registerFiles(c, p)
	if readsTables(p) || measures(p, tdxmeasure.EventTDHOB) {
		out[1] = append(out[1], "memory "+c.Memory)
	}
	if readsTables(p) && c.ACPI == "" {
		out[1] = append(out[1], "vcpus "+strconv.Itoa(c.VCPUs), "built-in ACPI tables")
	}
	if p.PatchKernel {
		out[2] = append(out[2], "memory "+c.Memory)
	}
	out[3] = append(out[3], "cmdline")
	if c.AppID != "" {
		out[4] = append(out[4], "app_id "+c.AppID)
	}
	return out
}

// readsTables reports whether RTMR0 of a profile holds ACPI tables.
func readsTables(p *tdxmeasure.Profile) bool {
	return measures(p, tdxmeasure.EventLoader, tdxmeasure.EventRSDP, tdxmeasure.EventTables)
}

// stageRun collects what the stage finds.
type stageRun struct {
	in        *run.In
	out       *run.Out
	registry  *evidence.Registry
	published *manifest.Manifest
}

func execute(ctx context.Context, in *run.In) (*run.Out, error) {
	r := &stageRun{in: in, out: &run.Out{Causes: map[pipeline.Key][]pipeline.Cause{}, Notes: map[pipeline.Key]string{}}}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(in.Config.Platforms)), func(name string) bool { return in.Config.Platforms[name].TEE == "tpm" })
	if len(names) == 0 {
		return r.out, nil
	}
	var err error
	if file := in.Config.Registry; file != "" {
		if r.registry, err = run.Parsed(ctx, in, file, evidence.MaxRegistry, evidence.ParseRegistry); err != nil {
			return nil, err
		}
	}
	if file := in.Config.Against; file != "" {
		if r.published, err = run.Parsed(ctx, in, file, config.JSONLimit, manifest.Parse); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		if err := r.platform(ctx, name); err != nil {
			return nil, fmt.Errorf("platform %s: %w", name, err)
		}
	}
	return r.out, nil
}

// platform measures one machine and says what it is held against.
func (r *stageRun) platform(ctx context.Context, name string) (err error) {
	m, err := Open(ctx, r.in, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	m.TakeRows(r.registry)
	res, errs, err := m.measure(ctx, r.in)
	if err != nil {
		return err
	}
	var failed []error
	for i, err := range errs {
		switch {
		case m.lacks[i] != nil:
			r.in.Lack(m.lacks[i].What, m.lacks[i].For, m.lacks[i].How)
		case err != nil:
			failed = append(failed, err)
		}
	}
	if err := errors.Join(dedupe(failed)...); err != nil {
		return err
	}
	r.foundations(m)
	r.registers(m, res)
	r.aggregates(m, res)
	if err := r.expected(ctx, m); err != nil {
		return err
	}
	if err := r.rows(ctx, m); err != nil {
		return err
	}
	return r.entries(ctx, m)
}

// dedupe leaves out errors that say the same: several registers depend on one
// file.
func dedupe(errs []error) []error {
	seen := map[string]bool{}
	return slices.DeleteFunc(errs, func(e error) bool {
		was := seen[e.Error()]
		seen[e.Error()] = true
		return was
	})
}

func (m *Machine) key(what string) pipeline.Key { return pipeline.NewKey("tdx", m.name, what) }

func (m *Machine) profileFile() string { return config.ProfilePrefix + "tdx@" + m.conf.Profile }

// foundations are the values that registers rest on and that a reader must be
// able to doubt: what was assumed or taken over is a measurement of its own, so
// that every register's effective basis tells it.
func (r *stageRun) foundations(m *Machine) {
	add := func(what string, v pipeline.Value, basis pipeline.Basis, note string, from ...pipeline.InputRef) {
		r.out.Measurements = append(r.out.Measurements, pipeline.Measurement{Key: m.key(what), Value: v, Basis: basis, Inputs: from, Note: note})
	}
	if m.assumed != "" {
		add("profile", pipeline.OfText(m.conf.Profile), pipeline.Assumed, m.assumed, pipeline.FromFile(m.profileFile()))
	}
	switch {
	case !m.readsTables():
	case !m.tables.IsZero():
		add("acpi", pipeline.OfDigest(m.tables), pipeline.Copied, "ACPI tables taken over from "+m.conf.ACPI, pipeline.FromFile(m.conf.ACPI))
	case m.assumedTables != "":
		add("acpi", pipeline.OfText(m.config.ACPI.Name()), pipeline.Assumed, m.assumedTables)
	}
	if !m.rootfs.IsZero() {
		add("rootfs", pipeline.OfDigest(m.rootfs), pipeline.Recomputed, "the root file system "+m.conf.Rootfs, pipeline.FromFile(m.conf.Rootfs))
	}
	if !m.docker.IsZero() {
		add("docker-files", pipeline.OfDigest(m.docker), pipeline.Recomputed, "the archive "+m.conf.DockerFiles, pipeline.FromFile(m.conf.DockerFiles))
	}
}

func (m *Machine) readsTables() bool {
	return m.lacks[1] == nil && !m.config.Profile.ExcludeACPI && readsTables(&m.config.Profile)
}

// registers adds the computed registers with their traces.
func (r *stageRun) registers(m *Machine, res *tdxmeasure.Result) {
	files := registerFiles(&m.conf, &m.config.Profile)
	for i, name := range Registers {
		if m.lacks[i] != nil {
			continue
		}
		value, folded := res.MRTD, res.MRTDTrace
		if i > 0 {
			value, folded = res.RTMR[i-1], res.RTMRTrace[i-1]
		}
		ms := pipeline.Measurement{Key: m.key(name), Value: pipeline.OfDigest(value), Basis: pipeline.Recomputed, Trace: &folded, Note: m.about(i)}
		for _, f := range files[i] {
			ms.Inputs = append(ms.Inputs, pipeline.FromFile(f))
		}
		ms.Inputs = append(ms.Inputs, pipeline.FromFile(m.profileFile()))
		if m.assumed != "" {
			ms.Inputs = append(ms.Inputs, pipeline.FromKey(m.key("profile")))
		}
		if i == 1 && m.readsTables() && (!m.tables.IsZero() || m.assumedTables != "") {
			ms.Inputs = append(ms.Inputs, pipeline.FromKey(m.key("acpi")))
		}
		r.out.Measurements = append(r.out.Measurements, ms)
	}
}

// about says in words how a register was computed.
func (m *Machine) about(i int) string {
	p := &m.config.Profile
	switch i {
	case 0:
		return fmt.Sprintf("profile %s, page order %s", p.Name, p.PageOrder)
	case 1:
		if !m.readsTables() {
			return "profile " + p.Name
		}
		note := fmt.Sprintf("profile %s, ACPI tables: %s", p.Name, m.config.ACPI.Name())
		if m.conf.ACPI == "" {
			shape := m.config.Shape()
			note += " for " + shape.String()
		}
		return note
	case 2:
		if p.PatchKernel {
			return fmt.Sprintf("profile %s, the kernel's header as QEMU writes it", p.Name)
		}
	}
	return "profile " + p.Name
}

// aggregates adds the digests over registers that the machine's tools print.
func (r *stageRun) aggregates(m *Machine, res *tdxmeasure.Result) {
	add := func(name string, value digest.Digest, parts ...int) {
		ms := pipeline.Measurement{Key: m.key(name), Value: pipeline.OfDigest(value), Basis: pipeline.Recomputed, Trace: &trace.Trace{Fold: trace.Concat, Algorithm: digest.SHA256}}
		for _, i := range parts {
			ms.Inputs = append(ms.Inputs, pipeline.FromKey(m.key(Registers[i])))
			d := res.MRTD
			if i > 0 {
				d = res.RTMR[i-1]
			}
			ms.Trace.Add(Registers[i], d, trace.Origin{Size: -1})
		}
		r.out.Measurements = append(r.out.Measurements, ms)
	}
	last := func() *pipeline.Measurement { return &r.out.Measurements[len(r.out.Measurements)-1] }
	has := func(parts ...int) bool {
		return !slices.ContainsFunc(parts, func(i int) bool { return m.lacks[i] != nil })
	}
	var provider []byte
	if m.conf.KeyProvider != "" {
		provider, _ = tdxmeasure.ParseKeyProvider(m.conf.KeyProvider) // the configuration was checked
	}
	switch {
	case m.conf.Profile == "secretvm" || m.conf.Profile == "reproduce-mr":
		if has(0, 1, 2, 3, 4) {
			add("mr_aggregated", res.MRAggregated(provider), 0, 1, 2, 3, 4)
			if provider == nil {
				provider = make([]byte, digest.SHA256.Size())
			}
			addKeyProvider(last(), provider)
		}
		if has(0, 2, 3, 4) {
			add("mr_image", res.MRImage(), 0, 2, 3, 4)
		}
	case strings.HasPrefix(m.conf.Profile, "dstack") && len(provider) == digest.SHA256.Size():
		if d, err := digest.FromBytes(digest.SHA256, provider); err == nil && has(0, 1, 2, 3) {
			add("mr_system", res.MRSystem(d), 0, 1, 2, 3)
			addKeyProvider(last(), provider)
		}
	}
}

// addKeyProvider ends the trace with the key provider; one that is no digest
// in length has no place in a trace, and the value stands without.
func addKeyProvider(m *pipeline.Measurement, provider []byte) {
	d, err := digest.FromBytes(digest.SHA256, provider)
	if err != nil {
		m.Trace = nil
		return
	}
	m.Trace.Add("key provider", d, trace.Origin{Size: -1})
}

// computed returns the value that the stage gave a key.
func (r *stageRun) computed(k pipeline.Key) (digest.Digest, bool) {
	for i := range r.out.Measurements {
		if r.out.Measurements[i].Key == k {
			return r.out.Measurements[i].Value.Digest(), true
		}
	}
	return digest.Digest{}, false
}

// expected holds a machine against the values that the configuration gives.
func (r *stageRun) expected(ctx context.Context, m *Machine) error {
	set := "expect of " + m.name
	for _, name := range slices.Sorted(maps.Keys(m.conf.Expect)) {
		alg, _ := valueAlgorithm(name)
		want, err := digest.ParseHex(alg, strings.ToLower(m.conf.Expect[name]))
		if err != nil {
			return err
		}
		where := pipeline.Where{File: config.FileName, Pointer: "/platforms/" + m.name + "/expect/" + name}
		r.out.References = append(r.out.References, pipeline.Reference{
			Set: set, Group: set, Key: m.key(name), Relation: pipeline.Equal, Want: pipeline.OfDigest(want), Where: where, Words: registerWords(name) + " of " + m.name,
		})
		if err := r.why(ctx, m, name, m.key(name), want, where); err != nil {
			return err
		}
	}
	return nil
}

// rows holds a machine against the rows of a registry: one of them must fit as
// a whole.
func (r *stageRun) rows(ctx context.Context, m *Machine) error {
	if r.registry == nil || !measuresCompose(m.conf.Profile) {
		return nil
	}
	// Newest first: of several rows that fit, the newest release is named.
	rows := slices.Clone(r.registry.Rows)
	slices.SortStableFunc(rows, func(a, b evidence.Row) int { return evidence.CompareVersions(b.Version, a.Version) })
	var nearest []pipeline.Reference
	most := 0
	for _, row := range rows {
		where := pipeline.Where{File: r.registry.Name, Line: row.Line}
		set := fmt.Sprintf("%s:%d %s for %s", r.registry.Name, row.Line, row.Name(), m.name)
		var refs []pipeline.Reference
		matches := 0
		add := func(name string, want digest.Digest) {
			refs = append(refs, pipeline.Reference{
				Set: set, Group: r.registry.Name + " for " + m.name, Key: m.key(name), Relation: pipeline.Equal, Want: pipeline.OfDigest(want), Where: where,
				Words: registerWords(name) + " of release " + row.Name(),
			})
			if got, ok := r.computed(m.key(name)); ok && got == want {
				matches++
			}
		}
		add("mrtd", row.MRTD)
		for i, d := range row.RTMR {
			add(Registers[1+i], d)
		}
		if !m.rootfs.IsZero() {
			add("rootfs", row.Rootfs)
		}
		r.out.References = append(r.out.References, refs...)
		if matches > most {
			most, nearest = matches, refs
		}
	}
	for _, ref := range nearest {
		if err := r.why(ctx, m, RegisterOf(ref.Key), ref.Key, ref.Want.Digest(), ref.Where); err != nil {
			return err
		}
	}
	return nil
}

// RegisterOf is the last part of a key, where the name of a register stands.
func RegisterOf(k pipeline.Key) string { return string(k)[strings.LastIndexByte(string(k), '/')+1:] }

// entries explains where the published manifest has other registers for the
// machine. The comparison itself is the manifest stage's.
func (r *stageRun) entries(ctx context.Context, m *Machine) error {
	if r.published == nil {
		return nil
	}
	for _, f := range r.published.Fields() {
		platform, name, ok := published.TDXField(f.Path)
		if !ok || !strings.EqualFold(platform, m.name) {
			continue
		}
		want := published.FieldValue(f).Digest()
		if want.Algorithm() != digest.SHA384 {
			continue
		}
		key := pipeline.NewKey("tdx", platform, name)
		if err := r.why(ctx, m, name, key, want, pipeline.Where{File: r.published.File(), Pointer: f.Pointer, Line: f.Line}); err != nil {
			return err
		}
	}
	return nil
}

// why adds the reason where a computed value is not the wanted one.
func (r *stageRun) why(ctx context.Context, m *Machine, name string, key pipeline.Key, want digest.Digest, where pipeline.Where) error {
	got, ok := r.computed(m.key(name))
	i := slices.Index(Registers[:], name)
	if !ok || got == want || i < 0 {
		return nil
	}
	c, err := m.Cause(ctx, r.in, i, key, got, want, where)
	if err == nil {
		r.out.Causes[key] = append(r.out.Causes[key], c)
	}
	return err
}
