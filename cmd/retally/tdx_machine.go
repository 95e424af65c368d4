package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/profiles"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// tdMachine is what the flags describe, opened.
type tdMachine struct {
	inputs
	f         tdxFlags // with what metadata filled in
	artifacts tdxmeasure.Artifacts
	config    tdxmeasure.Config
	compose   []byte // the compose file's text, where its file was given

	meta     *tdxmeasure.Metadata
	vmConfig *tdxmeasure.DstackConfig
	// document is vmConfig where its measurement document stands in for files.
	document *tdxmeasure.DstackConfig
	indirect *tdxmeasure.Indirect

	tablesFromFile bool
	devicesKnown   bool
	familyKnown    bool // the QEMU version's tables were compared with
	eventsFromLog  bool
	provider       []byte // nil: not given
	configID       [48]byte
	notes          []string
	problems       []string
}

// tdMachine resolves the flags: metadata first, then profile, QEMU version,
// and the switches last. The caller closes the machine.
func (a *app) tdMachine(op string, f *tdxFlags, defaultProfile string) (*tdMachine, error) {
	m := &tdMachine{inputs: inputs{app: a, op: op}, f: *f, familyKnown: true}
	for _, step := range []func() error{
		m.readMetadata, m.readVMConfig,
		func() error { return m.readProfile(defaultProfile) },
		m.setMachine, m.setBehavior, m.setDevices, m.setTables, m.openArtifacts, m.setRuntime, m.setDiskBoot,
	} {
		if err := step(); err != nil {
			m.close()
			return nil, tdxTrouble(op, err)
		}
	}
	return m, nil
}

func (m *tdMachine) usage(hint, format string, args ...any) error {
	return &userError{op: m.op, msg: fmt.Sprintf(format, args...), hint: hint}
}

// readMetadata fills the files and the machine in that the command line
// leaves open.
func (m *tdMachine) readMetadata() error {
	f := &m.f
	if f.metadata == "" {
		return nil
	}
	data, err := m.small("metadata", f.metadata)
	if err != nil {
		return err
	}
	if m.meta, err = tdxmeasure.ParseMetadata(f.metadata, data); err != nil {
		return err
	}
	dir := filepath.Dir(f.metadata)
	for _, file := range []struct {
		flag, name string
		to         *string
	}{
		{"firmware", m.meta.Firmware, &f.firmware},
		{"kernel", m.meta.Kernel, &f.kernel},
		{"initrd", m.meta.Initrd, &f.initrd},
		{"boot-order", m.meta.BootOrder, &f.bootOrder},
		{"boot-entries", m.meta.BootEntries, &f.bootEntries},
		{"mok-list", m.meta.MokList, &f.mokList},
		{"mok-list-x", m.meta.MokListX, &f.mokListX},
		{"mok-list-trusted", m.meta.MokListTrusted, &f.mokListTrusted},
	} {
		if f.given(file.flag) || file.name == "" {
			continue
		}
		if *file.to = file.name; !filepath.IsAbs(file.name) {
			*file.to = filepath.Join(dir, file.name)
		}
	}
	if !f.given("cmdline") {
		f.cmdline = m.meta.Cmdline
	}
	return nil
}

func (m *tdMachine) readVMConfig() error {
	if m.f.vmConfig == "" {
		return nil
	}
	data, err := m.small("vm-config", m.f.vmConfig)
	if err != nil {
		return err
	}
	if m.vmConfig, err = tdxmeasure.ParseDstackConfig(m.f.vmConfig, embedded(data, "vm_config")); err != nil {
		return err
	}
	m.problems = append(m.problems, m.vmConfig.Problems...)
	return nil
}

// readProfile takes the named one, or the one that metadata is for.
func (m *tdMachine) readProfile(fallback string) error {
	name := m.f.profile
	switch {
	case name != "":
	case m.meta != nil && m.meta.Kind == "tdx-measure":
		name = "tdx-measure"
	case m.meta != nil && (m.meta.Variant == "" || m.meta.Variant == "pre202505"), m.meta == nil && m.vmConfig != nil:
		name = "dstack"
	case m.meta != nil && strings.Contains(m.meta.Variant, "202505"):
		name = "dstack-202505"
	case m.meta != nil:
		return m.usage("name a profile with --profile", "%s: firmware variant %.40q has no profile of its own", m.f.metadata, m.meta.Variant)
	case fallback != "":
		name = fallback
	default:
		return m.usage("--profile takes "+strings.Join(profiles.TDXNames(), ", ")+", or a YAML file", "no profile given")
	}
	var err error
	if _, builtIn := profiles.TDX(name); builtIn {
		m.config.Profile, err = tdxmeasure.LoadProfile(name)
		return err
	}
	if !strings.ContainsAny(name, `./\`) && name != "-" {
		hint := "known: " + strings.Join(profiles.TDXNames(), ", ") + "; or a YAML file"
		if near := yamldoc.Nearest(name, profiles.TDXNames()); near != "" {
			hint = fmt.Sprintf("did you mean --profile %s? %s", near, hint)
		}
		return m.usage(hint, "--profile %.80q: unknown profile", name)
	}
	data, err := m.small("profile", name)
	if err != nil {
		return err
	}
	m.config.Profile, err = tdxmeasure.ParseProfile(name, data)
	return err
}

func (m *tdMachine) setMachine() error {
	f, c := &m.f, &m.config
	var err error
	c.Cmdline, c.VCPUs, c.NoInitrd = f.cmdline, f.cpu, f.noInitrd
	if c.Memory, err = tdxmeasure.ParseMemory(f.memory); err != nil {
		return m.usage("for instance --memory 2G", "--memory %.40q: want a size such as 2G or 2048M, up to 4 PiB", f.memory)
	}
	switch {
	case m.vmConfig != nil:
		m.take(m.vmConfig.VCPUs, m.vmConfig.Memory)
	case m.meta != nil:
		m.take(m.meta.VCPUs, m.meta.Memory)
	}
	if c.VCPUs < 1 || c.VCPUs > acpi.MaxVCPUs {
		return m.usage("for instance --cpu 4", "--cpu %d: want 1 to %d vCPUs", c.VCPUs, acpi.MaxVCPUs)
	}
	if c.Memory < acpi.MinMemory || c.Memory%acpi.MiB != 0 {
		return m.usage("for instance --memory 2G", "--memory %s: %d bytes, want whole MiB", f.memory, c.Memory)
	}
	return nil
}

func (m *tdMachine) take(vCPUs int, memory uint64) {
	if !m.f.given("cpu") {
		m.config.VCPUs = vCPUs
	}
	if !m.f.given("memory") {
		m.config.Memory = memory
	}
}

// setBehavior sets the profile's switches: what the QEMU version implies, then
// what vm_config and the flags say.
func (m *tdMachine) setBehavior() error {
	f, p := &m.f, &m.config.Profile
	version := f.qemuVersion
	if version == "" && m.vmConfig != nil {
		version = m.vmConfig.QEMU
	}
	if version != "" {
		if err := p.SetQEMU(version); err != nil {
			return err
		}
		if v, err := tdxmeasure.ParseQEMUVersion(version); err == nil {
			_, m.familyKnown = acpi.FamilyOf(v.Major, v.Minor)
		}
	}
	if v := m.vmConfig; v != nil {
		if v.TwoPass != nil {
			p.PageOrder = tdxmeasure.SinglePass
			if *v.TwoPass {
				p.PageOrder = tdxmeasure.TwoPass
			}
		}
		if v.PIC != nil {
			p.PIC = *v.PIC
		}
	}
	return m.setSwitches()
}

// setSwitches applies one flag each.
func (m *tdMachine) setSwitches() error {
	f, p := &m.f, &m.config.Profile
	choices := []struct {
		flag, value string
		known       []string
		set         func(value string)
	}{
		{"page-order", f.pageOrder, tdxmeasure.PageOrders(), func(v string) {
			p.PageOrder, _ = tdxmeasure.ParsePageOrder(v) // a word of the list
		}},
		{"header-rule", f.headerRule, []string{"qemu", "dstack"}, func(v string) { p.HeaderRule = tdxmeasure.HeaderRule(v) }},
		{"authenticode", f.authenticode, []string{"uefi", "dstack", "unpadded"}, func(v string) {
			p.Authenticode.PadTo8, p.Authenticode.TailOnlyWithCertificate = v != "unpadded", v == "dstack"
		}},
		{"initrd-argument", f.initrdArgument, []string{"as-given", "suffix", "prefix"}, func(v string) { p.InitrdArgument = tdxmeasure.InitrdArgument(v) }},
		{"acpi-family", f.acpiFamily, families(), func(v string) { p.ACPIFamily, m.familyKnown = acpi.Family(v), true }},
		{"cfv", f.cfv, []string{"firmware", "constant"}, func(v string) { p.ConstantCFV = v == "constant" }},
		{"hob", f.hob, []string{"firmware", "fixed", "first-base"}, func(v string) {
			p.HOB = tdxmeasure.HOBOptions{FixedLayout: v == "fixed", FirstBase: v != "firmware"}
		}},
		{"rtmr3", f.rtmr3, []string{"none", "raw", "secretvm-kms", "events"}, func(v string) { p.RTMR3 = tdxmeasure.RTMR3Scheme(v) }},
	}
	for _, c := range choices {
		if c.value == "" {
			continue
		}
		if err := f.word(m.op, c.flag, c.value, c.known...); err != nil {
			return err
		}
		c.set(c.value)
	}
	for _, c := range []struct {
		flag  string
		value bool
		to    *bool
	}{
		{"patch-kernel", f.patchKernel, &p.PatchKernel},
		{"pic", f.pic, &p.PIC},
		{"read-on", f.readOn, &p.MRTD.ReadOn},
		{"exclude-acpi-tables", f.excludeACPI, &p.ExcludeACPI},
		{"trailing-separator", f.trailingSeparator, &p.TrailingSeparator},
		{"six-table-loader", f.sixTables, &p.SixTableLoader},
	} {
		if f.given(c.flag) {
			*c.to = c.value
		}
	}
	return nil
}

// openArtifacts opens every file that registers are measured from.
func (m *tdMachine) openArtifacts() error {
	f, a := &m.f, &m.artifacts
	for _, file := range []struct {
		flag, path string
		open       func(flag, path string) (tdxmeasure.Input, error)
		to         *tdxmeasure.Input
	}{
		{"firmware", f.firmware, m.artifact, &a.Firmware},
		{"kernel", f.kernel, m.artifact, &a.Kernel},
		{"initrd", f.initrd, m.artifact, &a.Initrd},
		{"docker-compose", f.compose, m.digestOr, &a.Compose},
		{"rootfs", f.rootfs, m.digestOr, &a.Rootfs},
		{"docker-files", f.dockerFiles, m.digestOr, &a.DockerFiles},
	} {
		in, err := file.open(file.flag, file.path)
		if err != nil {
			return err
		}
		*file.to = in
	}
	if a.Compose.R == nil {
		return nil
	}
	if a.Compose.Size > tdxSmallFile {
		return m.usage("", "--docker-compose %s: %d bytes, want at most %d", f.compose, a.Compose.Size, tdxSmallFile)
	}
	m.compose = make([]byte, a.Compose.Size)
	if n, err := a.Compose.R.ReadAt(m.compose, 0); n < len(m.compose) {
		return &userError{op: m.op, path: f.compose, err: reason(err)}
	}
	return nil
}

// setDiskBoot collects what a boot through shim and GRUB measures.
func (m *tdMachine) setDiskBoot() error {
	f := &m.f
	if f.anyGiven("gpt", "shim", "grub", "boot-order", "boot-entries") == "" && (m.meta == nil || !m.meta.Indirect) {
		return nil
	}
	in := &tdxmeasure.Indirect{}
	var err error
	if in.Shim, err = m.artifact("shim", f.shim); err != nil {
		return err
	}
	if in.Grub, err = m.artifact("grub", f.grub); err != nil {
		return err
	}
	for _, file := range []struct {
		flag, path string
		to         *[]byte
	}{
		{"boot-order", f.bootOrder, &in.BootOrder},
		{"mok-list", f.mokList, &in.MokList},
		{"mok-list-x", f.mokListX, &in.MokListX},
		{"mok-list-trusted", f.mokListTrusted, &in.MokListTrusted},
	} {
		if file.path == "" {
			m.notes = append(m.notes, "--"+file.flag+" was not given: measured as empty")
			continue
		}
		if *file.to, err = m.small(file.flag, file.path); err != nil {
			return err
		}
	}
	if in.GPT, err = m.partitionTable(f.gpt); err != nil {
		return err
	}
	if in.Entries, err = m.bootEntries(f.bootEntries); err != nil {
		return err
	}
	m.indirect = in
	return nil
}

// partitionTable reads the head of a disk from LBA 1 on.
func (m *tdMachine) partitionTable(path string) ([]byte, error) {
	if path == "" {
		return nil, nil // MRTD needs none of it
	}
	in, err := m.artifact("gpt", path)
	if err != nil {
		return nil, err
	}
	const block, head = 512, 1 << 20
	b := make([]byte, min(head, in.Size))
	if n, err := in.R.ReadAt(b, 0); n < len(b) {
		return nil, &userError{op: m.op, path: path, err: reason(err)}
	}
	if len(b) > block+8 && string(b[:8]) != "EFI PART" && string(b[block:block+8]) == "EFI PART" {
		b = b[block:]
	}
	return b, nil
}

// bootEntries reads Boot####.bin files, the raw values of boot variables.
func (m *tdMachine) bootEntries(dir string) (map[uint16][]byte, error) {
	if dir == "" {
		return nil, nil
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, &userError{op: m.op, path: dir, err: reason(err), hint: "--boot-entries FOLDER"}
	}
	out := map[uint16][]byte{}
	for _, e := range list {
		hex, ok := strings.CutPrefix(strings.TrimSuffix(e.Name(), ".bin"), "Boot")
		n, err := strconv.ParseUint(hex, 16, 16)
		if !ok || len(hex) != 4 || err != nil {
			continue
		}
		if out[uint16(n)], err = m.small("boot-entries", filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// measure computes the wanted registers side by side; errs are by register.
func (m *tdMachine) measure(ctx context.Context, want [5]bool) (r *tdxmeasure.Result, errs [5]error) {
	whole := func(r *tdxmeasure.Result, err error) (*tdxmeasure.Result, [5]error) {
		if err != nil {
			for i := range errs {
				if want[i] {
					errs[i] = err
				}
			}
			return &tdxmeasure.Result{}, errs
		}
		return r, errs
	}
	measurer := tdxmeasure.New(m.artifacts)
	mrtdOnly := want == [5]bool{true}
	switch {
	case m.document != nil:
		r, err := m.document.Measurement.Measure(ctx, m.document, m.config.ACPI)
		if err == nil {
			tdxmeasure.AppendRuntime(&r.RTMRTrace[3], m.config.Events...)
			r.RTMR[3], err = r.RTMRTrace[3].Compute()
		}
		return whole(r, err)
	case m.indirect != nil && !mrtdOnly && m.f.gpt == "":
		hint := "--gpt takes a raw disk image, or its blocks from the partition table's header on"
		if m.meta != nil && m.meta.Disk != "" {
			hint = "files inside " + m.meta.Disk + " are not looked into: take them out and name them; " + hint
		}
		return whole(nil, m.usage(hint, "a boot from disk needs --gpt, --shim, --grub and --initrd"))
	case m.indirect != nil && !mrtdOnly:
		return whole(measurer.MeasureIndirect(ctx, &m.config, *m.indirect))
	}
	return measureSome(ctx, measurer, &m.config, want)
}

// notExist tells a missing file from other trouble.
func notExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
