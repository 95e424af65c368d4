package tpm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/gpt"
	"github.com/retally/retally/pcrmeasure"
	"github.com/retally/retally/pcrmeasure/disk"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/tdxmeasure"
)

// Machine is a platform of the configuration with its files open.
type Machine struct {
	name      string
	conf      config.Platform
	artifacts pcrmeasure.Artifacts
	machine   pcrmeasure.Machine   // without a bank
	measurer  *pcrmeasure.Measurer // of the artifacts, for all banks
	open      []*run.Reopened
	// untold says why nothing can be predicted: the disk does not tell what the
	// machine starts.
	untold string
	// noCmdline: a kernel is given its command line by the machine, and nobody
	// said which.
	noCmdline bool
}

// Open opens a platform's files. A file that cannot be read is an error; what
// its bytes do not tell is said where it is missing.
func Open(ctx context.Context, in *run.In, name string) (*Machine, error) {
	m := &Machine{name: name, conf: in.Config.Platforms[name]}
	if err := m.read(ctx, in); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	m.measurer = pcrmeasure.New(m.artifacts)
	return m, nil
}

// Close fails if a file was changed since it was read.
func (m *Machine) Close() error {
	var errs []error
	for _, f := range m.open {
		errs = append(errs, f.Close())
	}
	m.open = nil
	return errors.Join(errs...)
}

// Inputs are what a search for a deviation starts from.
func (m *Machine) Inputs() (pcrmeasure.Artifacts, pcrmeasure.Machine) { return m.artifacts, m.machine }

// Untold says why the machine's boot is not known, "" where it is.
func (m *Machine) Untold() string { return m.untold }

func (m *Machine) read(ctx context.Context, in *run.In) error {
	p, a := &m.conf, &m.artifacts
	for _, f := range []struct {
		to   *pcrmeasure.Input
		name string
	}{
		{&a.Firmware, config.Or(p.Firmware)},
		{&a.Variables, p.Vars},
		{&a.Kernel, config.Or(p.Kernel)},
		{&a.Initrd, config.Or(p.Initrd)},
		{&a.UKI, p.UKI},
		{&a.Shim, p.Shim},
		{&a.Loader, p.Loader},
		{&a.LoaderConf, p.LoaderConf},
		{&a.Disk, p.Disk},
	} {
		if f.name == "" {
			continue
		}
		var err error
		if *f.to, err = m.input(ctx, in, f.name); err != nil {
			return err
		}
	}
	for _, name := range p.Chain {
		image, err := m.input(ctx, in, name)
		if err != nil {
			return err
		}
		a.Images = append(a.Images, image)
	}
	a.NoVariables = p.EmptyVars
	m.machine = pcrmeasure.Machine{
		Type: p.MachineType, VCPUs: p.VCPUs.One(), AddressBits: p.AddressBits, Pattern: patternOf(p), SecureBoot: state(p.SecureBoot),
		FailedOptions: p.FailedOptions, Order: pcrmeasure.SectionOrder(p.Systemd), Inner: state(p.InnerKernel), Phases: p.Phases,
		Devices: p.Devices, IMA: pcrmeasure.IMA(p.IMA), IMAPads: state(p.IMAPads), Credentials: p.Credentials,
		InitrdArgument: map[string]pcrmeasure.InitrdArgument{"prefix": pcrmeasure.ArgumentPrefix, "as-given": pcrmeasure.ArgumentNone}[p.InitrdArgument],
	}
	if p.Memory != "" {
		var err error
		if m.machine.Memory, err = tdxmeasure.ParseMemory(p.Memory); err != nil {
			return err
		}
	}
	if p.PatchKernel != nil && !*p.PatchKernel {
		m.machine.Header = pcrmeasure.HeaderAsGiven
	}
	for _, line := range p.SBATLevel {
		m.machine.SBAT += line + "\n"
	}
	if p.Cmdline != nil {
		m.machine.Cmdline = *p.Cmdline
	}
	if m.machine.Pattern == "" {
		return m.readDisk(ctx)
	}
	passed := m.machine.Pattern == pcrmeasure.Direct || m.machine.Pattern == pcrmeasure.LoaderEntry
	m.noCmdline = passed && p.Cmdline == nil
	return nil
}

// keptAtMost is the size of a file in bytes up to which it is read once and kept.
// Larger ones are read again where a measurement goes through them in another order.
const keptAtMost = 4 << 20

func (m *Machine) input(ctx context.Context, in *run.In, name string) (pcrmeasure.Input, error) {
	if info, err := os.Stat(in.Path(name)); err == nil && info.Mode().IsRegular() && info.Size() <= keptAtMost {
		data, err := in.ReadFile(ctx, name, keptAtMost)
		if err != nil {
			return pcrmeasure.Input{}, err
		}
		return pcrmeasure.Bytes(name, data), nil
	}
	f, err := in.Reopen(ctx, name)
	if err != nil {
		return pcrmeasure.Input{}, err
	}
	m.open = append(m.open, f)
	o := f.Opened()
	return pcrmeasure.Input{Name: o.Name, R: o.R, Size: o.Size}, nil
}

// readDisk takes what the machine boots from its disk.
func (m *Machine) readDisk(ctx context.Context) error {
	d, err := disk.Read(ctx, m.artifacts.Disk)
	if err != nil {
		return err
	}
	boot, err := d.Boot()
	switch {
	case disk.IsMissing(err):
		m.untold = err.Error()
		return nil
	case err != nil:
		return err
	}
	a, b := &m.artifacts, &boot.Artifacts
	a.Kernel, a.Initrd, a.UKI, a.Shim, a.Loader, a.LoaderConf, a.Images = b.Kernel, b.Initrd, b.UKI, b.Shim, b.Loader, b.LoaderConf, b.Images
	m.machine.Pattern = boot.Pattern
	m.machine.Credentials = m.machine.Credentials || boot.Credentials
	if m.conf.Cmdline == nil {
		m.machine.Cmdline = boot.Cmdline
	}
	return nil
}

// Predict predicts one bank. What rests on something that nobody said is
// missing, and never taken to be empty.
func (m *Machine) Predict(ctx context.Context, bank digest.Algorithm) (*pcrmeasure.Prediction, error) {
	if m.untold != "" {
		p := &pcrmeasure.Prediction{Bank: bank, PCRs: map[int]*pcrmeasure.PCR{}, Missing: map[int]string{}}
		for i := range pcrmeasure.Count {
			p.Missing[i] = m.untold
		}
		return p, nil
	}
	c := m.machine
	c.Bank = bank
	p, err := m.measurer.Predict(ctx, &c)
	if p == nil || err != nil {
		return nil, err
	}
	if m.noCmdline {
		const reason = "the kernel's command line is not given, and an empty one is not taken for it"
		for _, i := range []int{9, 10} {
			if p.PCRs[i] != nil {
				delete(p.PCRs, i)
				p.Missing[i] = reason
			}
		}
	}
	for i, r := range p.PCRs {
		// Nothing in the boot extends these, but what runs later may; 16 and 23 can
		// be reset by anybody.
		if i >= 15 && len(r.Trace.Events) == 0 {
			r.Basis = pcrmeasure.Assumed
		}
	}
	return p, nil
}

// files are the files that a PCR rests on.
func (m *Machine) files(index int) []string {
	p := &m.conf
	images := append([]string{config.Or(p.Kernel), p.UKI, p.Shim, p.Loader}, p.Chain...)
	fromDisk := ""
	if patternOf(p) == "" {
		fromDisk = p.Disk
	}
	variables := p.Vars
	if variables == "" && !p.EmptyVars {
		variables = config.Or(p.Firmware)
	}
	var list []string
	switch index {
	case 0:
		list = []string{config.Or(p.Firmware)}
	case 4:
		list = append(images, config.Or(p.Initrd), variables, fromDisk)
	case 5:
		list = []string{p.Disk, p.LoaderConf}
	case 7:
		list = append(images, variables, fromDisk)
	case 8:
		list = []string{p.Shim, p.Loader}
	case 9:
		list = append(images, config.Or(p.Initrd), variables, fromDisk)
	case 10:
		list = append(images, config.Or(p.Firmware), config.Or(p.Initrd), p.Disk, p.LoaderConf, variables)
	case 11, 12, 13:
		list = []string{p.UKI, p.Loader, config.Or(p.Kernel), fromDisk}
	case 14:
		list = []string{p.Shim, fromDisk}
	}
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(s string) bool { return s == "" })
}

// key is the name of a PCR's value; its bank is part of it.
func (m *Machine) key(bank digest.Algorithm, index int) pipeline.Key { return Key(m.name, bank, index) }

// Key is the name of a PCR's value.
func Key(platform string, bank digest.Algorithm, index int) pipeline.Key {
	return pipeline.NewKey("tpm", platform, bank.String(), fmt.Sprintf("pcr%d", index))
}

// ParseKey reads a key of this stage.
func ParseKey(k pipeline.Key) (platform string, bank digest.Algorithm, index int, ok bool) {
	parts := k.Parts()
	if len(parts) != 4 || parts[0] != "tpm" {
		return "", bank, 0, false
	}
	bank, err := digest.ParseAlgorithm(parts[2])
	index, ok = registerIndex(parts[3])
	return parts[1], bank, index, ok && err == nil
}

// words names a PCR for people.
func words(index int) string {
	about := map[int]string{
		0: "firmware", 1: "boot options", 2: "option ROMs", 3: "option ROMs' configuration", 4: "boot loader and kernel", 5: "partition table", 6: "platform",
		7: "Secure Boot", 8: "GRUB's commands", 9: "command line and initrd", 10: "IMA", 11: "unified kernel image", 12: "replaced command line", 13: "extensions",
		14: "shim's lists", 15: "application",
	}[index]
	return strings.TrimSuffix(fmt.Sprintf("PCR %d (%s)", index, about), " ()")
}

// section is a partition's bytes.
func section(in pcrmeasure.Input, p gpt.Partition) *io.SectionReader {
	return io.NewSectionReader(in.R, p.Offset, p.Size)
}
