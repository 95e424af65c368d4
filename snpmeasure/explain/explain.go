// Package explain finds the known deviation of an AMD machine that turns a
// computed launch digest into the published one. Deviations are data with
// stable names.
package explain

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/search"
	"github.com/retally/retally/snpmeasure"
)

// MaxVCPUs is the number of vCPUs up to which a search looks: what Contrast's
// verifier tries.
const MaxVCPUs = 220

// Input is what a search starts from. The machine as described must be
// measurable: a variant that is not counts as one that does not match.
type Input struct {
	Artifacts snpmeasure.Artifacts
	Config    snpmeasure.Config
	// One and APEIP are the launch digest for one vCPU and the address at which
	// further ones start, in place of the artifacts.
	One   digest.Digest
	APEIP uint32
	// VCPUs is up to how many the search looks; 0: MaxVCPUs.
	VCPUs   int
	Options search.Options
}

// candidate is one machine of a search.
type candidate struct {
	config   snpmeasure.Config
	noKernel bool
	noInitrd bool
	// otherVCPUs stands for every number of vCPUs but the described one: they
	// are computed together, each from the next smaller one.
	otherVCPUs bool
}

type (
	axis    = search.Axis[candidate]
	variant = search.Variant[candidate]
)

// Find searches for the machine whose launch digest is the wanted one, fewest
// deviations from the described one first. All numbers of vCPUs of a machine
// count as one combination.
func Find(ctx context.Context, in Input, want digest.Digest) (search.Answer, error) {
	if in.VCPUs <= 0 {
		in.VCPUs = MaxVCPUs
	}
	s := &searcher{in: in, want: want, groups: map[groupKey]*group{}}
	s.measurers[0] = snpmeasure.New(in.Artifacts)
	bare := in.Artifacts
	bare.Initrd = snpmeasure.Input{}
	s.measurers[1] = snpmeasure.New(bare)
	bare.Kernel = snpmeasure.Input{}
	s.measurers[2] = snpmeasure.New(bare)
	base := candidate{config: in.Config}
	axes := s.axes(&base)
	a, err := search.Find(ctx, base, clone, axes, in.Options, s.test)
	if err != nil {
		return a, err
	}
	return a, s.number(ctx, clone(base), axes, &a)
}

func clone(c candidate) candidate {
	c.config.Quirks = slices.Clone(c.config.Quirks)
	return c
}

// number puts the number of vCPUs that matched into the answer.
func (s *searcher) number(ctx context.Context, c candidate, axes []axis, a *search.Answer) error {
	which := -1
	for i, d := range a.Deviations {
		for _, x := range axes {
			for _, v := range x.Variants {
				if x.Name == d.Axis && v.ID == d.ID {
					v.Apply(&c)
				}
			}
		}
		if d.ID == otherVCPUs {
			which = i
		}
	}
	if which < 0 {
		return nil
	}
	digests, err := s.group(ctx, &c)
	if err != nil {
		return err
	}
	n := 1 + slices.Index(digests, s.want)
	d := &a.Deviations[which]
	d.ID, d.Note = fmt.Sprintf("vcpus-%d", n), fmt.Sprintf("%d vCPUs", n)
	if n == 1 {
		d.Note = "1 vCPU"
	}
	return nil
}

// otherVCPUs is the variant that stands for every other number.
const otherVCPUs = "vcpus"

// searcher tries candidates. What machines that differ in their number of vCPUs
// alone share is computed once.
type searcher struct {
	in        Input
	want      digest.Digest
	measurers [3]*snpmeasure.Measurer // as given, without initrd, without kernel

	mu     sync.Mutex
	groups map[groupKey]*group
}

// groupKey is a candidate without its number of vCPUs.
type groupKey struct {
	noKernel, noInitrd bool
	mode               snpmeasure.Mode
	vmm                snpmeasure.VMM
	sig                uint32
	given              bool
	features           uint64
	cmdline            string
	quirks             int // the variants add one at most
}

// group are the launch digests of one machine with 1, 2, ... vCPUs.
type group struct {
	once    sync.Once
	digests []digest.Digest
	err     error
}

func (s *searcher) test(ctx context.Context, c *candidate) (bool, error) {
	if c.otherVCPUs {
		digests, err := s.group(ctx, c)
		return slices.Contains(digests, s.want), err
	}
	n := c.config.VCPUs
	if n >= 1 && n <= s.in.VCPUs {
		digests, err := s.group(ctx, c)
		return n <= len(digests) && digests[n-1] == s.want, err
	}
	got, err := s.measure(ctx, c)
	return err == nil && got == s.want, err
}

// group gives the launch digests of a machine with 1, 2, ... vCPUs.
func (s *searcher) group(ctx context.Context, c *candidate) ([]digest.Digest, error) {
	cfg := &c.config
	key := groupKey{c.noKernel, c.noInitrd, cfg.Mode, cfg.VMM, cfg.CPU.Sig, cfg.CPU.Given(), cfg.Features, cfg.Cmdline, len(cfg.Quirks)}
	s.mu.Lock()
	g := s.groups[key]
	if g == nil {
		g = new(group)
		s.groups[key] = g
	}
	s.mu.Unlock()
	g.once.Do(func() { g.digests, g.err = s.column(ctx, c) })
	return g.digests, g.err
}

// column computes a machine with every number of vCPUs, or with one where the
// firmware has no start address for a second.
func (s *searcher) column(ctx context.Context, c *candidate) ([]digest.Digest, error) {
	cfg, m := s.machine(c)
	ladder := func(most int) ([]digest.Digest, error) {
		if !s.in.One.IsZero() {
			return snpmeasure.ExtendLadder(ctx, s.in.One, s.in.APEIP, cfg, most)
		}
		return m.Ladder(ctx, cfg, most)
	}
	digests, err := ladder(s.in.VCPUs)
	if err != nil {
		digests, err = ladder(1)
	}
	return digests, err
}

// machine is a candidate's machine with what measures it.
func (s *searcher) machine(c *candidate) (snpmeasure.Config, *snpmeasure.Measurer) {
	cfg := c.config
	switch {
	case c.noKernel:
		cfg.Cmdline, cfg.CmdlineSum = "", digest.Digest{}
		return cfg, s.measurers[2]
	case c.noInitrd:
		return cfg, s.measurers[1]
	default:
		return cfg, s.measurers[0]
	}
}

// measure computes a machine whose number of vCPUs is none of the searched.
func (s *searcher) measure(ctx context.Context, c *candidate) (digest.Digest, error) {
	cfg, m := s.machine(c)
	if !s.in.One.IsZero() {
		r, err := snpmeasure.Extend(ctx, s.in.One, s.in.APEIP, cfg, []int{cfg.VCPUs})
		if err != nil {
			return digest.Digest{}, err
		}
		return r[0].Digest, nil
	}
	r, err := m.Measure(ctx, cfg)
	if err != nil {
		return digest.Digest{}, err
	}
	return r.Digest, nil
}

// axes are what may deviate from a described machine, the likeliest first.
func (s *searcher) axes(base *candidate) []axis {
	var out []axis
	add := func(name string, variants ...variant) {
		if len(variants) > 0 {
			out = append(out, axis{Name: name, Variants: variants})
		}
	}
	c := &base.config
	if c.Mode != snpmeasure.SEV && c.Mode != snpmeasure.OVMFHash {
		add("vCPUs", variant{ID: otherVCPUs, Note: "another number of vCPUs", Apply: func(c *candidate) { c.otherVCPUs = true }})
		if c.Mode != snpmeasure.SVSM {
			add("features", features(c.Features)...)
			add("VMM", vmms(c)...)
		}
		add("type", types(c.CPU)...)
	}
	if s.in.One.IsZero() && s.in.Artifacts.Kernel.Present() {
		if c.CmdlineSum.IsZero() {
			add("command line", lines(c.Cmdline)...)
		}
		add("hashes", variant{ID: "no-kernel-hashes", Note: "no hashes of kernel, initrd and command line: the machine was started without a measured kernel", Apply: func(c *candidate) { c.noKernel = true }})
		if s.in.Artifacts.Initrd.Present() {
			add("initrd", variant{ID: "no-initrd", Note: "no initrd", Apply: func(c *candidate) { c.noInitrd = true }})
		}
	}
	return out
}

// types are QEMU's types of vCPU, each signature once, the newest first.
func types(base snpmeasure.CPU) []variant {
	var out []variant
	seen := []uint32{base.Sig}
	names := snpmeasure.CPUTypes()
	for _, name := range []string{"EPYC-Milan", "EPYC-Genoa", "EPYC-Turin", "EPYC-Rome", "EPYC"} {
		cpu, err := snpmeasure.CPUOfType(name)
		if err != nil || !slices.Contains(names, name) || base.Given() && slices.Contains(seen, cpu.Sig) {
			continue
		}
		seen = append(seen, cpu.Sig)
		out = append(out, variant{ID: "type-" + name, Note: "vCPUs of type " + name, Apply: func(c *candidate) { c.config.CPU = cpu }})
	}
	return out
}

func features(base uint64) []variant {
	var out []variant
	for _, f := range []uint64{0x1, 0x21} {
		if f == base {
			continue
		}
		note := fmt.Sprintf("guest features %#x", f)
		if f == 0x21 {
			note += " (debug swap, which host kernels from 6.6 on may set)"
		}
		out = append(out, variant{ID: fmt.Sprintf("features-%#x", f), Note: note, Apply: func(c *candidate) { c.config.Features = f }})
	}
	return out
}

func vmms(base *snpmeasure.Config) []variant {
	var out []variant
	for _, v := range []snpmeasure.VMM{snpmeasure.QEMU, snpmeasure.EC2, snpmeasure.GCE, snpmeasure.Krun} {
		if v != base.VMM {
			out = append(out, variant{ID: "vmm-" + string(v), Note: "the VMM " + string(v), Apply: func(c *candidate) { c.config.VMM = v }})
		}
	}
	if !slices.Contains(base.Quirks, snpmeasure.EC2RDXZero) && !slices.Contains(base.Quirks, snpmeasure.EC2RDX600) {
		out = append(out, variant{ID: "vmm-ec2-rdx-0", Note: "the VMM ec2 as the Rust crate sev computes it (quirk ec2-rdx-0)", Apply: func(c *candidate) {
			c.config.VMM = snpmeasure.EC2
			c.config.Quirks = append(c.config.Quirks, snpmeasure.EC2RDXZero)
		}})
	}
	return out
}

// lines are the ways in which a command line is copied wrongly, each that gives
// another line.
func lines(base string) []variant {
	var out []variant
	seen := []string{base}
	add := func(id, note, line string) {
		if slices.Contains(seen, line) {
			return
		}
		seen = append(seen, line)
		out = append(out, variant{ID: "cmdline-" + id, Note: note, Apply: func(c *candidate) { c.config.Cmdline = line }})
	}
	add("newline", "a line break at the end of the command line", base+"\n")
	add("blank", "a blank at the end of the command line", base+" ")
	add("trimmed", "the command line without white space at its ends", strings.TrimSpace(base))
	add("crlf", "a Windows line break at the end of the command line", base+"\r\n")
	add("leading-blank", "a blank before the command line", " "+base)
	add("empty", "an empty command line", "")
	return out
}
