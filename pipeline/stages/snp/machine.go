package snp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/snpmeasure"
)

// part is a value that a launch digest rests on, by the last part of its key.
type part struct {
	name  string
	value digest.Digest
	basis pipeline.Basis
	from  []pipeline.InputRef
	note  string
}

// Machine is a platform of the configuration with its files read: one machine
// for each number, type and features of vCPUs that it lists.
type Machine struct {
	Name string

	conf      config.Platform
	profile   *snpmeasure.Profile
	shape     *shape
	artifacts snpmeasure.Artifacts
	cmdline   string // the line itself, where it is known
	compose   digest.Digest
	rootfs    digest.Digest
	parts     []part
	lacks     []pipeline.Lack
	problems  []pipeline.Problem
	releases  *snpmeasure.Releases
	release   *snpmeasure.Release // that stands for the artifacts
	alike     []string            // other releases with the expected digest

	// Results are the launch digests, by number of vCPUs, then type, then
	// features.
	Results []*snpmeasure.Result
	// Layout are the tables of the firmware, nil where they were not read.
	Layout *snpmeasure.Layout
}

// Open reads a platform's files. What is not given is a lack; a file that
// cannot be read, or a description that no machine has, is an error.
func Open(ctx context.Context, in *run.In, name string) (*Machine, error) {
	m := &Machine{Name: name, conf: in.Config.Platforms[name]}
	if file := m.conf.Profile; file != "" {
		data, err := in.ReadFile(ctx, profileFile(file), config.MetadataLimit)
		if err != nil {
			return nil, err
		}
		if m.profile, err = snpmeasure.ParseProfile(profileFile(file), data); err != nil {
			return nil, err
		}
	}
	var err error
	plain := func(msg, hint string, field ...string) error {
		return &pipeline.InputError{Op: "read", File: "platforms." + name + "." + strings.Join(field, "."), Err: errors.New(msg), Hint: hint}
	}
	if m.shape, err = describe(&m.conf, m.profile, plain); err != nil {
		return nil, err
	}
	if !m.shape.one.IsZero() {
		m.addPart("one-vcpu", m.shape.one, pipeline.Copied, "the launch digest for one vCPU, as given")
		m.needShape()
		return m, nil
	}
	if err := m.readReleases(ctx, in); err != nil {
		return nil, err
	}
	if err := m.readFiles(ctx, in); err != nil {
		return nil, err
	}
	if config.Or(m.conf.Firmware) == "" {
		if err := m.takeRelease(ctx); err != nil {
			return nil, err
		}
	}
	m.needShape()
	return m, nil
}

func (m *Machine) addPart(name string, value digest.Digest, basis pipeline.Basis, note string, from ...pipeline.InputRef) {
	m.parts = append(m.parts, part{name, value, basis, from, note})
}

// lack notes what is missing for the launch digests.
func (m *Machine) lack(what, how string) {
	m.lacks = append(m.lacks, pipeline.Lack{What: what, For: string(m.key()) + "/**", How: how})
}

func (m *Machine) key(parts ...string) pipeline.Key {
	return pipeline.NewKey(append([]string{"snp", m.Name}, parts...)...)
}

// needShape notes what of the shape is missing.
func (m *Machine) needShape() {
	s := m.shape
	if len(s.counts) == 0 {
		m.lack("number of vCPUs", "vcpus: 4, or [1..8]")
	}
	if s.measuresCPUs() && s.config.VMM == snpmeasure.QEMU && len(s.cpus) == 0 {
		m.lack("type of vCPU", "vcpu_types: [EPYC-Milan]; QEMU's guests start with it in a register")
	}
	if len(s.cpus) == 0 {
		s.cpus = []snpmeasure.CPU{{}}
	}
}

// known reads sha256:HEX, the form in which a hash stands for a file or a text.
func known(text string) (d digest.Digest, ok bool, err error) {
	hex, ok := strings.CutPrefix(text, "sha256:")
	if !ok {
		return d, false, nil
	}
	d, err = digest.ParseHex(digest.SHA256, strings.ToLower(hex))
	return d, true, err
}

// fileOrSum takes a file's SHA-256, or the one that stands for it, and adds it
// as a part.
func (m *Machine) fileOrSum(ctx context.Context, in *run.In, part, what, text string) (snpmeasure.Input, error) {
	if text == "" {
		return snpmeasure.Input{}, nil
	}
	d, given, err := known(text)
	if err != nil {
		return snpmeasure.Input{}, &pipeline.InputError{Op: "read", File: text, Err: err, Hint: "sha256: and 64 hex digits, or a file"}
	}
	if given {
		m.addPart(part, d, pipeline.Copied, what+", by its hash")
		return snpmeasure.Input{Name: text, Known: d}, nil
	}
	s, err := in.Sums(ctx, text, false)
	if err != nil {
		return snpmeasure.Input{}, err
	}
	m.addPart(part, s.SHA256, pipeline.Recomputed, what+" "+text, pipeline.FromFile(text))
	return snpmeasure.Input{Name: text, Size: s.Size, Known: s.SHA256}, nil
}

func (m *Machine) readFiles(ctx context.Context, in *run.In) (err error) {
	c, a := &m.conf, &m.artifacts
	whole := func(file string) (snpmeasure.Input, error) {
		if file == "" {
			return snpmeasure.Input{}, nil
		}
		data, err := in.ReadFile(ctx, file, config.FirmwareLimit)
		return snpmeasure.Bytes(file, data), err
	}
	if a.Firmware, err = whole(config.Or(c.Firmware)); err != nil {
		return err
	}
	if a.SVSM, err = whole(c.SVSM); err != nil {
		return err
	}
	if a.Kernel, err = m.fileOrSum(ctx, in, "kernel", "the kernel", config.Or(c.Kernel)); err != nil {
		return err
	}
	if a.Initrd, err = m.fileOrSum(ctx, in, "initrd", "the initrd", config.Or(c.Initrd)); err != nil {
		return err
	}
	root, err := m.fileOrSum(ctx, in, "rootfs", "the root file system", c.Rootfs)
	if err != nil {
		return err
	}
	m.rootfs = root.Known
	if file := c.Compose; file != "" {
		data, err := in.ReadFile(ctx, file, config.ComposeLimit)
		if err != nil {
			return err
		}
		m.compose = digest.SHA256.Sum(data)
		m.addPart("compose", m.compose, pipeline.Recomputed, "the compose file "+file, pipeline.FromFile(file))
	}
	if config.Or(c.Firmware) != "" {
		return m.readCmdline("")
	}
	return nil
}

// readCmdline takes the command line as it is given, or writes it as the
// profile says.
func (m *Machine) readCmdline(extra string) error {
	c := &m.conf
	switch {
	case c.Cmdline != nil:
		d, given, err := known(*c.Cmdline)
		if err != nil {
			return &pipeline.InputError{Op: "read", File: "cmdline", Err: err, Hint: "sha256: and 64 hex digits, or the line itself"}
		}
		if given {
			m.shape.config.CmdlineSum = d
			m.addPart("cmdline", d, pipeline.Copied, "the hash of the kernel command line, as given")
			return nil
		}
		m.setCmdline(*c.Cmdline)
	case m.profile != nil && len(m.profile.Words) > 0:
		values := map[string]string{"extra": extra}
		if !m.compose.IsZero() {
			values["compose"] = m.compose.Hex()
		}
		if !m.rootfs.IsZero() {
			values["rootfs"] = m.rootfs.Hex()
		}
		line, missing := m.profile.Cmdline(values)
		if missing != "" {
			m.lack(missing, missing+": FILE, whose hash the command line of "+m.profile.Title+" holds")
			return nil
		}
		m.setCmdline(line, pipeline.FromFile(profileFile(c.Profile)), pipeline.FromKey(m.key("compose")), pipeline.FromKey(m.key("rootfs")))
	case m.artifacts.Kernel.Present():
		m.lack("command line", "cmdline: 'console=ttyS0 …', as the vendor gives it; '' for none")
	}
	return nil
}

func (m *Machine) setCmdline(line string, from ...pipeline.InputRef) {
	m.shape.config.Cmdline, m.cmdline = line, line
	if m.artifacts.Kernel.Present() {
		if slices.Contains(m.shape.config.Quirks, snpmeasure.CmdlineTrimmed) {
			line = strings.TrimSpace(line)
		}
		m.addPart("cmdline", snpmeasure.CmdlineSum(line), pipeline.Recomputed, fmt.Sprintf("the kernel command line %.200q and a zero byte", line), from...)
	}
}

// measure computes the launch digests.
func (m *Machine) measure(ctx context.Context) (err error) {
	if len(m.lacks) > 0 {
		return nil
	}
	s := m.shape
	if s.one.IsZero() {
		measurer := snpmeasure.New(m.artifacts)
		if m.Results, err = measurer.Matrix(ctx, s.config, s.counts, s.cpus, s.features); err != nil {
			return err
		}
		return m.firmwareParts(measurer)
	}
	m.Layout = &snpmeasure.Layout{ResetEIP: &s.eip}
	width := len(s.cpus) * len(s.features)
	m.Results = make([]*snpmeasure.Result, len(s.counts)*width)
	for j, cpu := range s.cpus {
		for k, bits := range s.features {
			c := s.config
			c.CPU, c.Features = cpu, bits
			column, err := snpmeasure.Extend(ctx, s.one, s.eip, c, s.counts)
			if err != nil {
				return err
			}
			for i, r := range column {
				m.Results[i*width+j*len(s.features)+k] = r
			}
		}
	}
	return nil
}

// firmwareParts adds what of the firmware alone is known.
func (m *Machine) firmwareParts(measurer *snpmeasure.Measurer) error {
	layout, err := measurer.Tables()
	if err != nil {
		return err
	}
	m.Layout = layout
	s := m.shape
	switch {
	case m.release != nil:
		return nil
	case !s.config.Seed.IsZero():
		m.addPart("ovmf-hash", s.config.Seed, pipeline.Copied, "the launch digest after the firmware's pages, as given")
	case s.config.Mode == snpmeasure.SNP:
		// The first measured range is the firmware.
		m.addPart("ovmf-hash", m.Results[0].Trace.Events[0].Digest, pipeline.Recomputed, "the launch digest after the firmware's pages", pipeline.FromFile(config.Or(m.conf.Firmware)))
	}
	return nil
}

// product is the part of a key that names the processors: the manifest's name
// of the product where the signature has one.
func product(c snpmeasure.CPU) string {
	switch {
	case !c.Given():
		return "-"
	case c.Sig == 0xa00f11:
		return "Milan"
	case c.Sig == 0xa10f10:
		return "Genoa"
	case c.Sig == 0xb00f00:
		return "Turin"
	case c.Type != "":
		return c.Type
	default:
		return fmt.Sprintf("%#x", c.Sig)
	}
}

// place are the parts of a machine's keys below its platform.
func (m *Machine) place(c *snpmeasure.Config) []string {
	if !m.shape.measuresCPUs() {
		return nil
	}
	out := []string{product(c.CPU), fmt.Sprintf("cpus=%d", c.VCPUs)}
	if len(m.shape.features) > 1 {
		out = append(out, fmt.Sprintf("features=%#x", c.Features))
	}
	return out
}

// launchKey is the key of a launch digest.
func (m *Machine) launchKey(c *snpmeasure.Config) pipeline.Key {
	return m.key(append(m.place(c), launchName(c.Mode))...)
}
