package tdx

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// Machine is a platform of the configuration with its files open. It is
// resolved here and nowhere else, whatever described it: what is said later
// wins over what was said before.
//
//  1. the profile: how such machines behave,
//  2. the QEMU version, of the field qemu or of vm_config: what follows from it,
//  3. the metadata file: names of files, and the machine as far as it says,
//  4. vm_config: the machine as its guest states it,
//  5. the fields of the description.
//
// A version stands below the two documents, because these state what was asked
// of that QEMU: "pic=off" on its command line wins over what the version has by
// itself.
//
// What nobody says is not known. Where the vendors' tools take something for it
// (no initrd, 1 vCPU, ...), the register is computed in that way, too, but as
// assumed and under a key of its own (tdx/NAME/assumed/REGISTER), so that nothing
// but the description's own expect is ever compared with it; the lack stays.
type Machine struct {
	name      string
	conf      config.Platform // with what its metadata file adds
	in        *run.In
	config    tdxmeasure.Config
	artifacts tdxmeasure.Artifacts
	compose   []byte
	rootfs    digest.Digest // SHA-256, zero where there is none
	docker    digest.Digest
	others    []tdxmeasure.Input // root file systems of the registry's rows
	want      [5]bool            // the registers that are asked for, MRTD first
	given     [5]digest.Digest   // zero where it is not

	meta     *tdxmeasure.Metadata
	vmConfig *tdxmeasure.DstackConfig
	// document is vmConfig where its measurement document stands in for files.
	document *tdxmeasure.DstackConfig
	indirect *tdxmeasure.Indirect // a boot from disk

	tables      digest.Digest // SHA-256 of the tables file, if there is one
	described   bool          // it is known which devices there are
	provider    []byte        // nil: not given
	configID    [48]byte
	configBasis pipeline.Basis

	// lacks says by the index of Registers what is missing for a register;
	// assumed what is taken for it where something can be.
	lacks   [5]*pipeline.Lack
	assumed [5][]need
	missing [5][]need
	// rests are the values that registers rest on and that a reader must be able
	// to doubt, by their names.
	rests    []foundation
	problems []pipeline.Problem
	kernel   *run.Reopened // for a search; measuring reads it in one pass
	closers  []*run.Reopened
}

// foundation is such a value.
type foundation struct {
	what      string
	value     pipeline.Value
	basis     pipeline.Basis
	note      string
	from      []pipeline.InputRef
	registers []int // that rest on it
}

// Close closes the machine's files.
func (m *Machine) Close() error {
	var errs []error
	for _, k := range append(m.closers, m.kernel) {
		if k != nil {
			errs = append(errs, k.Close())
		}
	}
	m.kernel, m.closers = nil, nil
	return errors.Join(errs...)
}

// Open reads a platform's files. What is not given is a lack of the
// registers that need it; a file that cannot be read is an error.
func Open(ctx context.Context, in *run.In, name string) (*Machine, error) {
	m := &Machine{name: name, conf: in.Config.Platforms[name], in: in}
	for i := range m.want {
		m.want[i] = m.wants(i)
	}
	for _, step := range []func(context.Context) error{
		m.readDocuments, m.behavior, m.devices, m.readACPI, m.readArtifacts, m.readRuntime, m.readDiskBoot, m.useDocument,
	} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(m.explained(err), m.Close())
		}
	}
	m.findLacks()
	return m, nil
}

// wants reports whether a register, or something over it, is asked for.
func (m *Machine) wants(i int) bool {
	ask := func(name string) bool { return m.in.Wants(m.key(name)) }
	return ask(Registers[i]) || ask("mr_aggregated") || i != 1 && ask("mr_image") || i != 4 && ask("mr_system")
}

// say names a field as the user gives it.
func (m *Machine) say(field, value string) string {
	return m.in.Field(value, "platforms", m.name, field)
}

// bad is a fault of the description that its fields show only together, or with
// a file.
func (m *Machine) bad(field, hint, format string, args ...any) error {
	return &run.Fault{Err: fmt.Errorf("%s: "+format, append([]any{m.say(field, "")}, args...)...), Hint: tdxmeasure.NameFields(hint, m.say)}
}

// explained lets a room's hint name fields as the user gives them.
func (m *Machine) explained(err error) error {
	var e *tdxmeasure.Error
	var done *run.Fault
	var shape *acpi.ShapeError
	if errors.As(err, &shape) && !errors.As(err, &done) {
		hint := "tables of such a machine: {acpi}"
		if shape.Field == acpi.RootPortsField {
			hint = "{hotplug_off: true}, where the machine has it off, or " + hint
		}
		return &run.Fault{Err: err, Hint: tdxmeasure.NameFields(hint, m.say)}
	}
	if !errors.As(err, &e) || e.Hint == "" || errors.As(err, &done) {
		return err
	}
	hint := e.Hint
	bare := *e
	bare.Hint = ""
	var of *tdxmeasure.FileError
	if errors.As(err, &of) {
		return &run.Fault{Err: &tdxmeasure.FileError{Name: of.Name, Err: &bare}, Hint: tdxmeasure.NameFields(hint, m.say)}
	}
	return &run.Fault{Err: &bare, Hint: tdxmeasure.NameFields(hint, m.say)}
}

func (m *Machine) readDocuments(ctx context.Context) error {
	var err error
	if file := m.conf.Metadata; file != "" {
		if m.meta, err = run.Parsed(ctx, m.in, file, config.MetadataLimit, tdxmeasure.ParseMetadata); err != nil {
			return err
		}
	}
	if file := m.conf.VMConfig; file != "" {
		parse := func(name string, data []byte) (*tdxmeasure.DstackConfig, error) {
			return tdxmeasure.ParseDstackConfig(name, tdxmeasure.Embedded(data, "vm_config"))
		}
		if m.vmConfig, err = run.Parsed(ctx, m.in, file, config.ReplyLimit, parse); err != nil {
			return err
		}
		for _, p := range m.vmConfig.Problems {
			m.problems = append(m.problems, pipeline.Problem{Level: pipeline.LevelError, Code: "vm-config", Where: pipeline.Where{File: file}, Msg: p})
		}
	}
	if err := m.nameProfile(); err != nil {
		return err
	}
	return m.loadProfile(ctx)
}

// nameProfile takes the profile that the documents are for where none is named.
func (m *Machine) nameProfile() error {
	if m.conf.Profile != "" {
		return nil
	}
	kind, variant, file := "vm_config", "", m.conf.VMConfig
	if m.meta != nil {
		kind, variant, file = m.meta.Kind, m.meta.Variant, m.conf.Metadata
	}
	name, ok := tdxmeasure.ProfileFor(kind, variant)
	if !ok {
		return &run.Fault{
			Err:  fmt.Errorf("%s: firmware variant %.40q has no profile of its own", file, variant),
			Hint: "name a profile: " + m.say("profile", "NAME"),
		}
	}
	m.conf.Profile = name
	return nil
}

// profileFile is the profile as an input.
func (m *Machine) profileFile() string {
	if ownProfile(m.conf.Profile) {
		return m.conf.Profile
	}
	return config.ProfilePrefix + "tdx@" + m.conf.Profile
}

func (m *Machine) loadProfile(ctx context.Context) error {
	p, err := run.Parsed(ctx, m.in, m.profileFile(), config.MetadataLimit, tdxmeasure.ParseProfile)
	if err != nil {
		return err
	}
	p.Notes = slices.Clone(p.Notes) // the document is everybody's
	m.config.Profile = p
	note := ""
	if p.Confirmed == "" {
		note = "no machine and no other tool confirms profile " + p.Name
	}
	if len(p.Notes) > 0 {
		note = strings.TrimPrefix(note+"; "+strings.Join(p.Notes, "; "), "; ")
	}
	if p.Confirmed == "" {
		m.rest("profile", pipeline.OfText(m.conf.Profile), pipeline.Assumed, note, []string{m.profileFile()}, 0, 1, 2, 3, 4)
	}
	return nil
}

// rest adds something that registers rest on.
func (m *Machine) rest(what string, v pipeline.Value, basis pipeline.Basis, note string, files []string, registers ...int) {
	f := foundation{what: what, value: v, basis: basis, note: note, registers: registers}
	for _, file := range files {
		f.from = append(f.from, pipeline.FromFile(file))
	}
	m.rests = append(m.rests, f)
}

// behavior sets what the platform is otherwise than its profile.
func (m *Machine) behavior(context.Context) error {
	p := &m.config.Profile
	version := m.conf.QEMU
	if version == "" && m.vmConfig != nil {
		version = m.vmConfig.QEMU
	}
	if version != "" {
		if err := p.SetQEMU(version); err != nil {
			return err
		}
	}
	if m.meta != nil {
		if err := m.takeMetadata(); err != nil {
			return err
		}
	}
	if v := m.vmConfig; v != nil {
		if v.TwoPass != nil {
			p.PageOrder = tdxmeasure.SinglePass
			if *v.TwoPass {
				p.PageOrder = tdxmeasure.TwoPass
			}
		}
		set(&p.PIC, v.PIC)
		m.config.VCPUs, m.config.Memory = v.VCPUs, v.Memory
	}
	if m.conf.AppID != "" && p.RTMR3 == tdxmeasure.RTMR3Raw {
		p.RTMR3 = tdxmeasure.RTMR3SecretVMKMS // it has a key service
	}
	for _, w := range words(&m.conf) {
		if w.value != "" {
			w.set(p, w.value)
		}
	}
	set(&p.PatchKernel, m.conf.PatchKernel)
	set(&p.PIC, m.conf.PIC)
	set(&p.MRTD.ReadOn, m.conf.ReadOn)
	set(&p.ExcludeACPI, m.conf.ExcludeACPITables)
	set(&p.TrailingSeparator, m.conf.TrailingSeparator)
	set(&p.SixTableLoader, m.conf.SixTableLoader)
	if v, err := tdxmeasure.ParseQEMUVersion(version); err == nil && m.conf.ACPIFamily == "" {
		if family, known := acpi.FamilyOf(v.Major, v.Minor); !known && m.measuresTables() && m.conf.ACPI == "" {
			m.rest("acpi", pipeline.OfText("built-in ACPI templates"), pipeline.Assumed,
				fmt.Sprintf("no tables of QEMU %s were ever compared: those of family %s are taken", version, family), nil, 1)
		}
	}
	return m.size()
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// size takes number of vCPUs, memory and command line.
func (m *Machine) size() (err error) {
	c := &m.config
	if m.conf.VCPUs != nil {
		c.VCPUs = m.conf.VCPUs.One()
	}
	if m.conf.Memory != "" {
		if c.Memory, err = tdxmeasure.ParseMemory(m.conf.Memory); err != nil {
			return err
		}
	}
	switch { // what the documents say was not checked yet
	case c.VCPUs < 0 || c.VCPUs > acpi.MaxVCPUs:
		return m.bad("vcpus", "", "%d: want 1 to %d vCPUs", c.VCPUs, acpi.MaxVCPUs)
	case c.Memory%acpi.MiB != 0 || c.Memory > acpi.MaxMemory:
		return m.bad("memory", "", "%d bytes, want whole MiB", c.Memory)
	}
	c.Cmdline, c.NoInitrd = config.Or(m.conf.Cmdline), m.conf.NoInitrd
	return nil
}

// takeMetadata fills fields that are not given from a metadata file, whose
// names start from its own folder.
func (m *Machine) takeMetadata() error {
	c, meta, file := &m.conf, m.meta, m.conf.Metadata
	beside := func(name string) string {
		if path.IsAbs(name) {
			return name
		}
		return path.Join(path.Dir(file), name)
	}
	for _, f := range []struct {
		to   **string
		name string
	}{
		{&c.Firmware, meta.Firmware},
		{&c.Kernel, meta.Kernel},
		{&c.Initrd, meta.Initrd},
		{&c.BootOrder, meta.BootOrder},
		{&c.BootEntries, meta.BootEntries},
		{&c.MokList, meta.MokList},
		{&c.MokListX, meta.MokListX},
		{&c.MokListTrusted, meta.MokListTrusted},
	} {
		if *f.to == nil && f.name != "" {
			*f.to = new(beside(f.name))
		}
	}
	if c.Rootfs == "" && meta.Rootfs != "" && m.config.Profile.MeasuresCompose() {
		c.Rootfs = beside(meta.Rootfs)
	}
	if c.ACPI == "" && meta.ACPITables != "" && m.conf.ACPISource != "qemu" {
		c.ACPI = beside(meta.ACPITables)
	}
	if c.Cmdline == nil {
		c.Cmdline = &meta.Cmdline
	}
	// A dstack image's metadata say nothing of the machine that it runs on.
	if meta.Describes() {
		m.config.VCPUs, m.config.Memory = meta.VCPUs, meta.Memory
	}
	return nil
}

func (m *Machine) readACPI(ctx context.Context) (err error) {
	if !m.want[1] || !m.measuresTables() {
		return nil
	}
	own := m.in.Config.Platforms[m.name].ACPI != ""
	if file := m.conf.ACPI; file != "" {
		data, err := m.in.ReadFile(ctx, file, config.TablesLimit)
		switch {
		case err == nil:
			m.conf.ACPISource, m.tables = "", digest.SHA256.Sum(data)
			m.rest("acpi", pipeline.OfDigest(m.tables), pipeline.Copied, "ACPI tables taken over from "+file, []string{file}, 1)
			m.config.ACPI, err = tdxmeasure.NewFileSource(file, data)
			return err
		case own || !errors.Is(err, fs.ErrNotExist) || m.meta.Machine == "":
			return err
		}
		m.problems = append(m.problems, pipeline.Problem{
			Level: pipeline.LevelNote, Code: "acpi-tables", Where: pipeline.Where{File: m.conf.Metadata},
			Msg: file + " does not exist: the tables are made from the machine that the metadata describes",
		})
		m.conf.ACPI = ""
	}
	m.config.ACPI, err = tdxmeasure.NewTemplateSource()
	return err
}

// readArtifacts reads what the machine boots, as far as it is asked for.
func (m *Machine) readArtifacts(ctx context.Context) error {
	a := &m.artifacts
	if file := config.Or(m.conf.Firmware); file != "" && (m.want[0] || m.want[1]) {
		data, err := m.in.ReadFile(ctx, file, config.FirmwareLimit)
		if err != nil {
			return err
		}
		a.Firmware = tdxmeasure.Bytes(file, data)
	}
	if file := config.Or(m.conf.Initrd); file != "" && (m.want[2] || m.want[3]) {
		s, err := m.in.Sums(ctx, file, true)
		if err != nil {
			return err
		}
		a.Initrd = tdxmeasure.Input{Name: file, Size: s.Size, Known: s.SHA384}
	}
	return nil
}

// openKernel opens the kernel for reading in pieces.
func (m *Machine) openKernel(ctx context.Context, in *run.In) error {
	file := config.Or(m.conf.Kernel)
	if m.kernel != nil || file == "" {
		return nil
	}
	k, err := in.Reopen(ctx, file)
	if err != nil {
		return err
	}
	m.kernel, m.artifacts.Kernel = k, opened(k.Opened())
	return nil
}

// opened is a file of the run as the room takes it.
func opened(o run.Opened) tdxmeasure.Input {
	return tdxmeasure.Input{Name: o.Name, R: o.R, Size: o.Size}
}

// measures reports whether RTMR0 has one of the events.
func measures(p *tdxmeasure.Profile, names ...tdxmeasure.EventName) bool {
	return slices.ContainsFunc(p.RTMR0, func(e tdxmeasure.EventSpec) bool { return slices.Contains(names, e.Name) })
}

// readsTables reports whether RTMR0 of a profile holds ACPI tables.
func readsTables(p *tdxmeasure.Profile) bool {
	return measures(p, tdxmeasure.EventLoader, tdxmeasure.EventRSDP, tdxmeasure.EventTables)
}

func (m *Machine) measuresTables() bool {
	return !m.config.Profile.ExcludeACPI && readsTables(&m.config.Profile)
}

// need is something that a register is computed from.
type need struct {
	given     bool
	what      string
	field     string // of the description; "" where how stands for itself
	value     string // proposed for it
	more, how string
	// assume says what is taken where it is not given, "" if nothing can be;
	// taken is that as a value.
	assume, taken string
}

// needs lists what each register needs of the description, and whether it is
// there. It reads no file; described says that it is known which devices there
// are.
func needs(c *config.Platform, p *tdxmeasure.Profile, size tdxmeasure.Config, described bool) [5][]need {
	firmware := need{given: config.Or(c.Firmware) != "", what: "firmware", field: "firmware", value: "OVMF.fd", more: ", the image that the hypervisor loads"}
	kernel := need{given: config.Or(c.Kernel) != "", what: "kernel", field: "kernel", value: "bzImage"}
	initrd := need{
		given: c.Initrd != nil || c.NoInitrd, what: "initrd", field: "initrd", value: "initrd.cpio", more: "; an empty file where the machine has none",
		assume: "no initrd: RTMR2 measures an empty one", taken: "none",
	}
	memory := need{given: c.Memory != "" || size.Memory > 0, what: "memory", field: "memory", value: "2G", more: ", the machine's size", assume: "no memory size: 2 GiB are assumed", taken: "2G"}
	vCPUs := need{given: c.VCPUs != nil || size.VCPUs > 0, what: "vcpus", field: "vcpus", value: "4", more: ", the number of virtual processors", assume: "no number of vCPUs: 1 is assumed", taken: "1"}
	out := [5][]need{{firmware}, {firmware}, {kernel}}
	tables := readsTables(p) && !p.ExcludeACPI
	if tables || measures(p, tdxmeasure.EventTDHOB) {
		out[1] = append(out[1], memory)
	}
	if tables && c.ACPI == "" {
		out[1] = append(out[1], vCPUs, need{
			given: described, what: "ACPI tables", field: "acpi", value: "tables.bin", more: ", the tables of such a machine: no built-in ones fit its devices",
			assume: "no devices were given: a machine without any is assumed", taken: "no devices",
		})
	}
	if p.PatchKernel {
		out[2] = append(out[2], initrd, memory)
	}
	out[3] = []need{{
		given: c.Cmdline != nil, what: "cmdline", field: "cmdline", value: "'console=ttyS0 …'", more: ", as the vendor gives it",
		assume: "no command line: RTMR2 measures an empty one", taken: "none",
	}, initrd}
	switch p.RTMR3 {
	case tdxmeasure.RTMR3Raw, tdxmeasure.RTMR3SecretVMKMS:
		out[4] = []need{
			{
				given: c.Compose != "", what: "compose", field: "compose", value: "docker-compose.yaml", more: ", byte for byte as the machine was given it",
				assume: "no compose file: RTMR3 measures an empty one", taken: "none",
			},
			{given: c.Rootfs != "", what: "rootfs", field: "rootfs", value: "rootfs.iso", assume: "no root file system: RTMR3 measures an empty one", taken: "none"},
		}
		if p.RTMR3 == tdxmeasure.RTMR3SecretVMKMS {
			out[4] = append(out[4], need{given: c.AppID != "", what: "app id", field: "app_id", value: "the hex digits that the key service shows"})
		}
	case tdxmeasure.RTMR3Events:
		out[4] = []need{{
			given: len(c.Events) > 0 || c.EventLog != "", what: "events of one boot", how: "evidence.NAME.file: quote.json, which holds them in the event log beside the quote",
			assume: "no events were given: RTMR3 is that of a machine that extended nothing", taken: "none",
		}}
	}
	return out
}

// missing says what of a register's needs is not given, and what to write;
// assumed is false where one of them can only be given.
func missing(say func(field, value string) string, list []need) (what, how string, assumed bool) {
	var whats, hows []string
	assumed = true
	for _, n := range list {
		if n.given {
			continue
		}
		whats = append(whats, n.what)
		if n.field != "" {
			n.how = say(n.field, n.value) + n.more
		}
		hows = append(hows, n.how)
		assumed = assumed && n.assume != ""
	}
	return strings.Join(whats, ", "), strings.Join(hows, "; "), assumed
}

func (m *Machine) findLacks() {
	lists := needs(&m.conf, &m.config.Profile, m.config, m.described)
	switch {
	case m.document != nil:
		lists[0], lists[2], lists[3] = nil, nil, nil
		lists[1] = slices.DeleteFunc(lists[1], func(n need) bool { return n.what == "firmware" })
	case m.indirect != nil:
		lists[2], lists[3], lists[4] = nil, lists[3][:1], nil
		disk := need{
			given: m.conf.GPT != "" && m.conf.Shim != "" && m.conf.Grub != "" && config.Or(m.conf.Initrd) != "", what: "the boot loader's files",
			how: m.diskBootHow(),
		}
		for i := 1; i < len(lists); i++ {
			lists[i] = append(lists[i], disk)
		}
	}
	for i, list := range lists {
		if !m.want[i] || !m.given[i].IsZero() {
			continue
		}
		what, how, assumed := missing(m.say, list)
		if what == "" {
			continue
		}
		m.lacks[i] = &pipeline.Lack{What: what + " of platform " + m.name, For: string(m.key(Registers[i])), How: "add " + how}
		m.missing[i] = slices.DeleteFunc(slices.Clone(list), func(n need) bool { return n.given })
		if assumed {
			m.assumed[i] = m.missing[i]
		}
	}
	if m.config.VCPUs == 0 {
		m.config.VCPUs = 1
	}
	if m.config.Memory == 0 {
		m.config.Memory = 2 << 30
	}
}

// Missing lists what a register that is asked for cannot be computed without,
// and how it is given.
func (m *Machine) Missing(i int) (list []Missing) {
	if ok, _ := m.computes(i); ok || m.lacks[i] == nil {
		return nil
	}
	for _, n := range m.missing[i] {
		if n.assume != "" {
			continue
		}
		if n.field != "" {
			n.how = m.say(n.field, n.value)
		}
		list = append(list, Missing{What: n.what, How: n.how})
	}
	return list
}

// Missing is something that nobody gave.
type Missing struct{ What, How string }

// computes reports whether a register is computed at all, and whether what it
// is computed from was assumed.
func (m *Machine) computes(i int) (ok, assumed bool) {
	assumed = len(m.assumed[i]) > 0
	return m.want[i] && m.given[i].IsZero() && (m.lacks[i] == nil || assumed), assumed
}

// Profile is how the machine behaves.
func (m *Machine) Profile() *tdxmeasure.Profile { return &m.config.Profile }

// Shape describes the machine in a few words.
func (m *Machine) Shape() string {
	s := m.config.Shape()
	return s.String()
}

// deviceCount reads a number of devices.
func deviceCount(text string) (int, bool) {
	n, err := strconv.ParseUint(text, 10, 8)
	return int(n), err == nil && n <= 30
}
