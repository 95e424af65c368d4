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
	"github.com/retally/retally/internal/search"
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
func Stage() run.Stage { return StageWith(nil) }

// StageWith is the stage with a source of ACPI tables for machines whose
// acpi_source is "qemu", for whoever lets a program be run.
func StageWith(qemu tdxmeasure.Source) run.Stage {
	return run.Stage{Name: "tdx", Version: 3, Fill: fill, Check: check, Plan: plan, Run: func(ctx context.Context, in *run.In) (*run.Out, error) {
		return execute(ctx, in, qemu)
	}}
}

func plan(c *config.Config) []run.PlanLine {
	var lines []run.PlanLine
	for _, name := range slices.Sorted(maps.Keys(c.Platforms)) {
		p := c.Platforms[name]
		if p.TEE != "tdx" {
			continue
		}
		if described := strings.Join(slices.DeleteFunc([]string{p.Metadata, p.VMConfig}, func(s string) bool { return s == "" }), " and "); described != "" {
			lines = append(lines, run.PlanLine{Key: string(pipeline.NewKey("tdx", name)) + "/**", From: described + " and the files that it names"})
			continue
		}
		profile, err := tdxmeasure.LoadProfile(p.Profile)
		if err != nil { // one of the user's own: a plan reads no file
			lines = append(lines, run.PlanLine{Key: string(pipeline.NewKey("tdx", name)) + "/**", From: "the files of platform " + name + ", as " + p.Profile + " says"})
			continue
		}
		if p.AppID != "" && profile.RTMR3 == tdxmeasure.RTMR3Raw {
			profile.RTMR3 = tdxmeasure.RTMR3SecretVMKMS
		}
		from := registerInputs(&p, &profile)
		say := func(field, value string) string { return "platforms." + name + "." + field + ": " + value }
		for i, list := range needs(&p, &profile, tdxmeasure.Config{}, builtInTables(&p, &profile)) {
			line := run.PlanLine{Key: string(pipeline.NewKey("tdx", name, Registers[i])), From: strings.Join(from[i], ", ")}
			if what, how, _ := missing(say, list); what != "" {
				line.From, line.Missing, line.How = "", what, how
			} else if line.From == "" {
				line.From = "the profile " + p.Profile
			}
			lines = append(lines, line)
		}
	}
	return lines
}

// builtInTables reports whether the built-in ACPI tables are those of the
// platform's machines.
func builtInTables(c *config.Platform, p *tdxmeasure.Profile) bool {
	return p.Layout != "" || c.Devices != "" || len(c.Slots)+len(c.RootPorts) > 0 || config.Or(c.GPUs) > 0
}

// registerFiles lists the files that each register is computed from.
func registerFiles(c *config.Platform, p *tdxmeasure.Profile) [5][]string {
	firmware, kernel, initrd := config.Or(c.Firmware), config.Or(c.Kernel), config.Or(c.Initrd)
	out := [5][]string{{firmware}, {firmware}, {kernel}, {initrd}, nil}
	if readsTables(p) && c.ACPI != "" {
		out[1] = append(out[1], c.ACPI)
	}
	if p.PatchKernel {
		out[2] = append(out[2], initrd)
	}
	if p.MeasuresCompose() {
		out[4] = []string{c.Compose, c.Rootfs, c.DockerFiles}
	}
	for i := range out {
		out[i] = slices.DeleteFunc(out[i], func(s string) bool { return s == "" || strings.HasPrefix(s, "sha256:") })
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
		out[1] = append(out[1], "vcpus "+strconv.Itoa(c.VCPUs.One()), "built-in ACPI tables")
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

// stageRun collects what the stage finds.
type stageRun struct {
	in        *run.In
	out       *run.Out
	qemu      tdxmeasure.Source
	registry  *evidence.Registry
	published *manifest.Manifest
}

func execute(ctx context.Context, in *run.In, qemu tdxmeasure.Source) (*run.Out, error) {
	r := &stageRun{in: in, qemu: qemu, out: &run.Out{Causes: map[pipeline.Key][]pipeline.Cause{}, Notes: map[pipeline.Key]string{}}}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(in.Config.Platforms)), func(name string) bool { return in.Config.Platforms[name].TEE != "tdx" })
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
	if m.conf.ACPISource == "qemu" && r.qemu != nil {
		m.config.ACPI = r.qemu
	}
	m.TakeRows(r.registry)
	res, errs, err := m.measure(ctx)
	if err != nil {
		return err
	}
	if err := m.failures(errs); err != nil {
		return err
	}
	for _, l := range m.lacks {
		if l != nil {
			r.in.Lack(l.What, l.For, l.How)
		}
	}
	r.out.Problems = append(r.out.Problems, m.problems...)
	r.registers(m, res)
	r.aggregates(m, res)
	r.foundations(m)
	if err := r.expected(ctx, m); err != nil {
		return err
	}
	if err := r.logged(ctx, m, res); err != nil {
		return err
	}
	if err := r.rows(ctx, m); err != nil {
		return err
	}
	return r.entries(ctx, m)
}

// A RegisterError is what kept registers from being computed.
type RegisterError struct {
	Registers []string
	Err       error
}

// Error implements error.
func (e *RegisterError) Error() string { return e.Err.Error() }

// Unwrap gives the error itself.
func (e *RegisterError) Unwrap() error { return e.Err }

// failures joins the errors of registers; several depend on one file.
func (m *Machine) failures(errs [5]error) error {
	var out []error
	for i, err := range errs {
		if err == nil {
			continue
		}
		err = m.explained(err)
		at := slices.IndexFunc(out, func(e error) bool { return e.Error() == err.Error() })
		if at < 0 {
			at = len(out)
			out = append(out, &RegisterError{Err: err})
		}
		if e, ok := out[at].(*RegisterError); ok {
			e.Registers = append(e.Registers, Registers[i])
		}
	}
	return errors.Join(out...)
}

// key is the key of one of the machine's values.
func (m *Machine) key(what ...string) pipeline.Key {
	return pipeline.NewKey(append([]string{"tdx", m.name}, what...)...)
}

// AssumedPart is the part of a key that stands before the name of a value which
// rests on what nobody said: tdx/NAME/assumed/rtmr2.
const AssumedPart = "assumed"

// foundations are the values that registers rest on and that a reader must be
// able to doubt: what was assumed or taken over is a measurement of its own, so
// that every register's effective basis tells it.
func (r *stageRun) foundations(m *Machine) {
	for _, f := range m.rests {
		used := f.basis == pipeline.Recomputed || len(f.registers) == 0
		for _, i := range f.registers {
			ok, _ := m.computes(i)
			used = used || ok
		}
		if used {
			r.out.Measurements = append(r.out.Measurements, pipeline.Measurement{Key: m.key(f.what), Value: f.value, Basis: f.basis, Inputs: f.from, Note: f.note})
		}
	}
	seen := map[string]bool{}
	for i := range Registers {
		if ok, _ := m.computes(i); !ok {
			continue
		}
		for _, n := range m.assumed[i] {
			if !seen[n.what] {
				seen[n.what] = true
				r.out.Measurements = append(r.out.Measurements, pipeline.Measurement{Key: m.assumption(n), Value: pipeline.OfText(n.taken), Basis: pipeline.Assumed, Note: n.assume})
			}
		}
	}
}

func (m *Machine) assumption(n need) pipeline.Key {
	return m.key(AssumedPart, strings.ReplaceAll(strings.ToLower(n.what), " ", "-"))
}

// registers adds the computed registers with their traces.
func (r *stageRun) registers(m *Machine, res *tdxmeasure.Result) {
	files := registerFiles(&m.conf, &m.config.Profile)
	for i, name := range Registers {
		if !m.given[i].IsZero() {
			r.out.Measurements = append(r.out.Measurements, pipeline.Measurement{Key: m.key(name), Value: pipeline.OfDigest(m.given[i]), Basis: pipeline.Copied, Note: "taken as it was given"})
			continue
		}
		ok, assumed := m.computes(i)
		if !ok {
			continue
		}
		value, folded := result(res, i)
		ms := pipeline.Measurement{Key: m.key(name), Value: pipeline.OfDigest(value), Basis: pipeline.Recomputed, Trace: &folded, Note: m.about(i)}
		if assumed {
			ms.Key = m.key(AssumedPart, name)
		}
		if m.document == nil && m.indirect == nil {
			for _, f := range files[i] {
				ms.Inputs = append(ms.Inputs, pipeline.FromFile(f))
			}
		}
		ms.Inputs = append(ms.Inputs, pipeline.FromFile(m.profileFile()))
		for _, f := range m.rests {
			if f.basis != pipeline.Recomputed && slices.Contains(f.registers, i) {
				ms.Inputs = append(ms.Inputs, pipeline.FromKey(m.key(f.what)))
			}
		}
		for _, n := range m.assumed[i] {
			ms.Inputs = append(ms.Inputs, pipeline.FromKey(m.assumption(n)))
		}
		r.out.Measurements = append(r.out.Measurements, ms)
	}
}

// result takes one register out of them.
func result(res *tdxmeasure.Result, i int) (digest.Digest, trace.Trace) {
	value, folded := res.MRTD, res.MRTDTrace
	if i > 0 {
		value, folded = res.RTMR[i-1], res.RTMRTrace[i-1]
	}
	if folded.Events == nil {
		folded.Events = []trace.Event{}
	}
	return value, folded
}

// about says in words how a register was computed.
func (m *Machine) about(i int) string {
	p := &m.config.Profile
	switch i {
	case 0:
		return fmt.Sprintf("profile %s, page order %s", p.Name, p.PageOrder)
	case 1:
		if !m.measuresTables() {
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
	regs := res.Registers
	for i, d := range m.given {
		switch {
		case d.IsZero():
		case i == 0:
			regs.MRTD = d
		default:
			regs.RTMR[i-1] = d
		}
	}
	provider, known := m.keyProvider()
	add := func(name string, value digest.Digest, providerToo bool, parts ...int) {
		if !r.in.Wants(m.key(name)) {
			return
		}
		assumed := providerToo && !known
		ms := pipeline.Measurement{Value: pipeline.OfDigest(value), Basis: pipeline.Recomputed, Trace: &trace.Trace{Fold: trace.Concat, Algorithm: digest.SHA256}}
		for _, i := range parts {
			ok, guessed := m.computes(i)
			if !ok && m.given[i].IsZero() {
				return
			}
			key := m.key(Registers[i])
			if guessed {
				key = m.key(AssumedPart, Registers[i])
			}
			assumed = assumed || guessed
			ms.Inputs = append(ms.Inputs, pipeline.FromKey(key))
			d := regs.MRTD
			if i > 0 {
				d = regs.RTMR[i-1]
			}
			ms.Trace.Add(Registers[i], d, trace.Origin{Size: -1})
		}
		ms.Key = m.key(name)
		if assumed {
			ms.Key = m.key(AssumedPart, name)
		}
		if providerToo {
			addKeyProvider(&ms, provider)
			if !known {
				n := need{what: "key provider", assume: "no key provider was given: mr_system holds zeros in its place", taken: "none"}
				r.out.Measurements = append(r.out.Measurements, pipeline.Measurement{Key: m.assumption(n), Value: pipeline.OfText(n.taken), Basis: pipeline.Assumed, Note: n.assume})
				ms.Inputs = append(ms.Inputs, pipeline.FromKey(m.assumption(n)))
			}
		}
		r.out.Measurements = append(r.out.Measurements, ms)
	}
	switch m.config.Profile.Aggregates {
	case tdxmeasure.ReproduceMRAggregates:
		add("mr_aggregated", regs.MRAggregated(provider), true, 0, 1, 2, 3, 4)
		add("mr_image", regs.MRImage(), false, 0, 2, 3, 4)
	case tdxmeasure.DstackAggregates:
		before := len(r.out.Measurements)
		add("mr_aggregated", regs.DstackAggregated(m.configID, [48]byte{}, [48]byte{}), false, 0, 1, 2, 3, 4)
		if len(r.out.Measurements) > before {
			r.configID(m, &r.out.Measurements[before])
		}
		add("mr_image", regs.MRImage(), false, 0, 2, 3, 4)
		if d, err := digest.FromBytes(digest.SHA256, provider); err == nil { // its length was checked
			add("mr_system", regs.MRSystem(d), true, 0, 1, 2, 3)
		}
	}
}

// configID adds MRCONFIGID, which dstack's aggregate ends in where it is given.
func (r *stageRun) configID(m *Machine, aggregate *pipeline.Measurement) {
	id, err := digest.FromBytes(digest.SHA384, m.configID[:])
	if m.configID == [48]byte{} || err != nil {
		return
	}
	var zero [48]byte
	none, err := digest.FromBytes(digest.SHA384, zero[:])
	if err != nil {
		return
	}
	aggregate.Inputs = append(aggregate.Inputs, pipeline.FromKey(m.key("mr_config_id")))
	for _, e := range []struct {
		label string
		value digest.Digest
	}{{"MRCONFIGID", id}, {"MROWNER", none}, {"MROWNERCONFIG", none}} {
		aggregate.Trace.Add(e.label, e.value, trace.Origin{Size: -1})
	}
	r.out.Measurements = append(r.out.Measurements, pipeline.Measurement{Key: m.key("mr_config_id"), Value: pipeline.OfText(id.Hex()), Basis: m.configBasis})
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

// measured is the key under which the stage has a value of the machine: its
// own, or that of what was assumed.
func (r *stageRun) measured(m *Machine, name string) pipeline.Key {
	if _, ok := r.computed(m.key(AssumedPart, name)); ok {
		return m.key(AssumedPart, name)
	}
	return m.key(name)
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
		key := r.measured(m, name)
		where := r.in.Where("platforms", m.name, "expect", name)
		r.out.References = append(r.out.References, pipeline.Reference{
			Set: set, Group: set, Key: key, Relation: pipeline.Equal, Want: pipeline.OfDigest(want), Where: where, Words: registerWords(name) + " of " + m.name,
		})
		if err := r.why(ctx, m, name, key, want, where); err != nil {
			return err
		}
	}
	return nil
}

// logged holds the computed registers against an event log of the machine.
func (r *stageRun) logged(ctx context.Context, m *Machine, res *tdxmeasure.Result) error {
	if m.conf.Log == "" {
		return nil
	}
	log, err := m.readLog(ctx)
	if err != nil {
		return err
	}
	where := pipeline.Where{File: m.conf.Log}
	for _, p := range log.Problems {
		r.out.Problems = append(r.out.Problems, pipeline.Problem{Level: pipeline.LevelError, Code: "event-log", Where: where, Msg: "event log: " + p})
	}
	set := m.conf.Log + " of " + m.name
	for i := 1; i < len(Registers); i++ {
		if !m.want[i] {
			continue
		}
		key := r.measured(m, Registers[i])
		r.out.References = append(r.out.References, pipeline.Reference{
			Set: set, Group: set, Key: key, Relation: pipeline.Equal, Want: pipeline.OfDigest(log.RTMR[i-1]), Where: where, Words: registerWords(Registers[i]) + " of the event log",
		})
		got, ok := r.computed(key)
		if !ok || got == log.RTMR[i-1] || !m.given[i].IsZero() {
			continue
		}
		_, folded := result(res, i)
		at, computed, logged := tdxmeasure.FirstDifference(folded, log.Trace[i-1])
		c := tdxCause(i, search.Answer{})
		c.Path, c.Expected, c.Actual, c.Where = []string{string(key), "event " + strconv.Itoa(at)}, got.String(), log.RTMR[i-1].String(), where
		c.Standing, c.Note = pipeline.Suspected, fmt.Sprintf("the events differ from number %d on: computed %q, logged %q", at, computed, logged)
		r.out.Causes[key] = append(r.out.Causes[key], c)
	}
	return nil
}

// rows holds a machine against the rows of a registry: one of them must fit as
// a whole.
func (r *stageRun) rows(ctx context.Context, m *Machine) error {
	if r.registry == nil || !m.config.Profile.MeasuresCompose() {
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
	own := m.key(name)
	if key == m.key(AssumedPart, name) {
		own = key
	}
	got, ok := r.computed(own)
	i := slices.Index(Registers[:], name)
	if !ok || got == want || i < 0 || !m.given[i].IsZero() {
		return nil
	}
	c, err := m.Cause(ctx, r.in, i, key, got, want, where)
	if err == nil {
		r.out.Causes[key] = append(r.out.Causes[key], c)
	}
	return err
}
