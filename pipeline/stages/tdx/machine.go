package tdx

import (
	"context"
	"errors"
	"fmt"
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

// Machine is a platform of the configuration with its files open.
type Machine struct {
	name      string
	conf      config.Platform // with what its metadata file adds
	config    tdxmeasure.Config
	artifacts tdxmeasure.Artifacts
	compose   []byte
	rootfs    digest.Digest // SHA-256, zero where there is none
	docker    digest.Digest
	others    []tdxmeasure.Input // root file systems of the registry's rows
	// lacks says by the index of registerKeys what is missing for a register.
	lacks [5]*pipeline.Lack
	// assumed says why the machine's behavior rests on nothing, "" if it does
	// not.
	assumed, assumedTables string
	tables                 digest.Digest // SHA-256 of the tables file, if there is one
	shape                  acpi.Shape    // out of metadata
	described              bool          // by shape: the metadata file says which devices there are
	kernel                 *run.Reopened // for a search; measuring reads it in one pass
}

// Close closes the machine's files.
func (m *Machine) Close() error {
	if m.kernel == nil {
		return nil
	}
	k := m.kernel
	m.kernel = nil
	return k.Close()
}

// measure computes the registers, reading the kernel in one pass.
func (m *Machine) measure(ctx context.Context, in *run.In) (res *tdxmeasure.Result, errs [5]error, err error) {
	use := func(kernel tdxmeasure.Input) {
		a := m.artifacts
		a.Kernel = kernel
		res, errs = tdxmeasure.New(a).MeasureEach(ctx, &m.config)
	}
	if m.conf.Kernel == "" {
		use(tdxmeasure.Input{})
		return res, errs, nil
	}
	err = in.ReadOnePass(ctx, m.conf.Kernel, func(o run.Opened) { use(opened(o)) })
	return res, errs, err
}

// opened is a file of the run as the room takes it.
func opened(o run.Opened) tdxmeasure.Input {
	return tdxmeasure.Input{Name: o.Name, R: o.R, Size: o.Size}
}

// openKernel opens the kernel for reading in pieces.
func (m *Machine) openKernel(ctx context.Context, in *run.In) error {
	if m.kernel != nil || m.conf.Kernel == "" {
		return nil
	}
	k, err := in.Reopen(ctx, m.conf.Kernel)
	if err != nil {
		return err
	}
	m.kernel, m.artifacts.Kernel = k, opened(k.Opened())
	return nil
}

// Open reads a platform's files. What is not given is a lack of the
// registers that need it; a file that cannot be read is an error.
func Open(ctx context.Context, in *run.In, name string) (*Machine, error) {
	m := &Machine{name: name, conf: in.Config.Platforms[name]}
	err := m.read(ctx, in)
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	m.findLacks()
	return m, nil
}

func (m *Machine) read(ctx context.Context, in *run.In) error {
	tables := m.conf.ACPI
	if file := m.conf.Metadata; file != "" {
		meta, err := run.Parsed(ctx, in, file, config.MetadataLimit, tdxmeasure.ParseMetadata)
		if err != nil {
			return err
		}
		if tables, err = takeMetadata(&m.conf, file, meta); err != nil {
			return err
		}
		if m.shape, m.described, err = meta.Shape(); err != nil && tables == "" {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	if err := m.behavior(ctx, in); err != nil {
		return err
	}
	if err := m.readACPI(ctx, in, tables); err != nil {
		return err
	}
	a := &m.artifacts
	if file := m.conf.Firmware; file != "" {
		data, err := in.ReadFile(ctx, file, config.FirmwareLimit)
		if err != nil {
			return err
		}
		a.Firmware = tdxmeasure.Bytes(file, data)
	}
	if file := m.conf.Initrd; file != "" {
		s, err := in.Sums(ctx, file, true)
		if err != nil {
			return err
		}
		a.Initrd = tdxmeasure.Input{Name: file, Size: s.Size, Known: s.SHA384}
	}
	return m.readRuntime(ctx, in)
}

// readRuntime reads what the guest's own software measures into RTMR3.
func (m *Machine) readRuntime(ctx context.Context, in *run.In) error {
	a := &m.artifacts
	if file := m.conf.Compose; file != "" {
		data, err := in.ReadFile(ctx, file, config.ComposeLimit)
		if err != nil {
			return err
		}
		m.compose = data
		a.Compose = tdxmeasure.Bytes(file, data)
	}
	if file := m.conf.Rootfs; file != "" {
		s, err := in.Sums(ctx, file, false)
		if err != nil {
			return err
		}
		m.rootfs = s.SHA256
		a.Rootfs = tdxmeasure.Input{Name: file, Size: s.Size, Known: s.SHA256}
	}
	if file := m.conf.DockerFiles; file != "" {
		s, err := in.Sums(ctx, file, false)
		if err != nil {
			return err
		}
		// An empty archive is left out of the register, as reproduce-mr does.
		if s.Size > 0 {
			m.docker = s.SHA256
			a.DockerFiles = tdxmeasure.Input{Name: file, Size: s.Size, Known: s.SHA256}
		}
	}
	return nil
}

// takeMetadata fills fields that are not given from a metadata file, whose
// names start from its own folder, and returns the tables file.
func takeMetadata(c *config.Platform, file string, meta *tdxmeasure.Metadata) (tables string, err error) {
	if meta.Indirect {
		return "", &pipeline.InputError{
			Op: "read", File: file, Err: errors.New("describes a boot from disk, whose registers depend on the boot loader in it"),
			Hint: "only machines that are given a kernel directly can be recounted",
		}
	}
	take := func(to *string, name string) {
		if *to == "" && name != "" {
			*to = path.Join(path.Dir(file), name)
		}
	}
	take(&c.Firmware, meta.Firmware)
	take(&c.Kernel, meta.Kernel)
	take(&c.Initrd, meta.Initrd)
	take(&c.Rootfs, meta.Rootfs)
	tables = c.ACPI
	take(&tables, meta.ACPITables)
	if c.Cmdline == nil {
		c.Cmdline = &meta.Cmdline
	}
	// A dstack image's metadata say nothing of the machine that it runs on.
	if meta.Kind == "tdx-measure" {
		if c.VCPUs.One() == 0 {
			c.VCPUs = config.Counts{meta.VCPUs}
		}
		if c.Memory == "" {
			c.Memory = strconv.FormatUint(meta.Memory, 10)
		}
	}
	return tables, nil
}

// behavior loads the profile and sets what the platform says otherwise.
func (m *Machine) behavior(ctx context.Context, in *run.In) error {
	file := config.ProfilePrefix + "tdx@" + m.conf.Profile
	data, err := in.ReadFile(ctx, file, config.MetadataLimit)
	if err != nil {
		return err
	}
	p, err := tdxmeasure.ParseProfile(file, data)
	if err != nil {
		return err
	}
	if p.Confirmed == "" {
		m.assumed = "no machine and no other tool confirms profile " + p.Name
	}
	c := &m.config
	if m.conf.QEMU != "" {
		if err := p.SetQEMU(m.conf.QEMU); err != nil {
			return err
		}
		if v, err := tdxmeasure.ParseQEMUVersion(m.conf.QEMU); err == nil {
			if family, known := acpi.FamilyOf(v.Major, v.Minor); !known {
				m.assumedTables = "no ACPI tables of QEMU " + m.conf.QEMU + " were ever compared: those of " + string(family) + " are taken"
			}
		}
	}
	if m.conf.PageOrder != "" {
		if p.PageOrder, err = tdxmeasure.ParsePageOrder(m.conf.PageOrder); err != nil {
			return err
		}
	}
	if m.conf.PatchKernel != nil {
		p.PatchKernel = *m.conf.PatchKernel
	}
	if m.conf.PIC != nil {
		p.PIC = *m.conf.PIC
	}
	if m.conf.AppID != "" {
		if c.AppID, err = config.ParseAppID(m.conf.AppID); err != nil {
			return err
		}
		if p.RTMR3 == tdxmeasure.RTMR3Raw {
			p.RTMR3 = tdxmeasure.RTMR3SecretVMKMS
		}
	}
	c.Profile = p
	c.VCPUs = max(1, m.conf.VCPUs.One())
	if m.conf.Memory != "" {
		if c.Memory, err = tdxmeasure.ParseMemory(m.conf.Memory); err != nil {
			return err
		}
	}
	if m.conf.Cmdline != nil {
		c.Cmdline = *m.conf.Cmdline
	}
	c.Devices = m.devices()
	return nil
}

// devices lays the machine's devices out as its vendor does.
func (m *Machine) devices() acpi.Shape {
	var s acpi.Shape
	switch {
	case m.described:
		s = m.shape
	case m.conf.Profile == "secretvm" || m.conf.Profile == "reproduce-mr":
		s = tdxmeasure.SecretVMDevices(&m.config.Profile, m.conf.GPUs > 0)
	default:
		s = tdxmeasure.DstackDevices{NICs: 1, GPUs: m.conf.GPUs, HotplugOff: m.conf.GPUs > 0}.Shape()
	}
	if m.conf.COM1 != nil {
		s.NoCOM1 = !*m.conf.COM1
	}
	return s
}

func (m *Machine) readACPI(ctx context.Context, in *run.In, file string) error {
	if file == "" {
		var err error
		m.config.ACPI, err = tdxmeasure.NewTemplateSource()
		return err
	}
	data, err := in.ReadFile(ctx, file, config.TablesLimit)
	if err != nil {
		return err
	}
	m.conf.ACPI, m.conf.ACPISource = file, ""
	m.tables = digest.SHA256.Sum(data)
	m.config.ACPI, err = tdxmeasure.NewFileSource(file, data)
	return err
}

// measures reports whether RTMR0 has one of the events.
func measures(p *tdxmeasure.Profile, names ...tdxmeasure.EventName) bool {
	return slices.ContainsFunc(p.RTMR0, func(e tdxmeasure.EventSpec) bool { return slices.Contains(names, e.Name) })
}

// needs lists what each register needs of the configuration, and whether it
// is there. It reads no file; described says that a metadata file describes
// the devices.
func needs(c *config.Platform, p *tdxmeasure.Profile, described bool) [5][]need {
	firmware := need{c.Firmware != "", "firmware", "firmware: OVMF.fd, the image that the hypervisor loads"}
	kernel := need{c.Kernel != "", "kernel", "kernel: bzImage"}
	initrd := need{c.Initrd != "", "initrd", "initrd: initrd.cpio; an empty file where the machine has none"}
	memory := need{c.Memory != "", "memory", "memory: 2G, the machine's size"}
	var out [5][]need
	out[0] = []need{firmware}
	out[1] = []need{firmware}
	tables := readsTables(p)
	if tables || measures(p, tdxmeasure.EventTDHOB) {
		out[1] = append(out[1], memory)
	}
	if tables && c.ACPI == "" {
		out[1] = append(out[1], need{c.VCPUs.One() > 0, "vcpus", "vcpus: 4, the number of virtual processors"})
		out[1] = append(out[1], need{described || builtInTables(c), "ACPI tables", "acpi: tables.bin, the tables of such a machine: no built-in ones fit its devices"})
	}
	out[2] = []need{kernel}
	if p.PatchKernel {
		out[2] = append(out[2], initrd, memory)
	}
	out[3] = []need{{c.Cmdline != nil, "cmdline", "cmdline: 'console=ttyS0 …', as the vendor gives it"}, initrd}
	scheme := p.RTMR3
	if c.AppID != "" && scheme == tdxmeasure.RTMR3Raw {
		scheme = tdxmeasure.RTMR3SecretVMKMS
	}
	switch scheme {
	case tdxmeasure.RTMR3Raw, tdxmeasure.RTMR3SecretVMKMS:
		out[4] = []need{
			{c.Compose != "", "compose", "compose: docker-compose.yaml, byte for byte as the machine was given it"},
			{c.Rootfs != "", "rootfs", "rootfs: rootfs.iso"},
		}
		if scheme == tdxmeasure.RTMR3SecretVMKMS {
			out[4] = append(out[4], need{c.AppID != "", "app id", "app_id: the hex digits that the key service shows"})
		}
	case tdxmeasure.RTMR3Events:
		out[4] = []need{{false, "events of one boot", "evidence.NAME.file: quote.json, which holds them in the event log beside the quote"}}
	}
	return out
}

type need struct {
	given     bool
	what, how string
}

// builtInTables reports whether the built-in ACPI tables are those of the
// platform's machines.
func builtInTables(c *config.Platform) bool {
	switch {
	case c.Profile == "secretvm" || c.Profile == "reproduce-mr":
		return c.GPUs <= 1
	default:
		return strings.HasPrefix(c.Profile, "dstack")
	}
}

// missing says what of a register's needs is not given, and what to write.
func missing(platform string, list []need) (what, how string) {
	var whats, hows []string
	for _, n := range list {
		if n.given {
			continue
		}
		whats = append(whats, n.what)
		if !strings.HasPrefix(n.how, "evidence.") {
			n.how = "platforms." + platform + "." + n.how
		}
		hows = append(hows, n.how)
	}
	return strings.Join(whats, ", "), strings.Join(hows, "; ")
}

func (m *Machine) findLacks() {
	for i, list := range needs(&m.conf, &m.config.Profile, m.described) {
		if what, how := missing(m.name, list); what != "" {
			m.lacks[i] = &pipeline.Lack{What: what + " of platform " + m.name, For: string(pipeline.NewKey("tdx", m.name, Registers[i])), How: "add " + how}
		}
	}
}
