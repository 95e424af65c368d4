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
}

type (
	axis    = search.Axis[candidate]
	variant = search.Variant[candidate]
)

// Find searches for the machine whose launch digest is the wanted one, fewest
// deviations from the described one first.
func Find(ctx context.Context, in Input, want digest.Digest) (search.Answer, error) {
	if in.VCPUs <= 0 {
		in.VCPUs = MaxVCPUs
	}
	s := &searcher{in: in, want: want, groups: map[string]*group{}}
	s.measurers[0] = snpmeasure.New(in.Artifacts)
	bare := in.Artifacts
	bare.Initrd = snpmeasure.Input{}
	s.measurers[1] = snpmeasure.New(bare)
	bare.Kernel = snpmeasure.Input{}
	s.measurers[2] = snpmeasure.New(bare)
	base := candidate{config: in.Config}
	return search.Find(ctx, base, func(c candidate) candidate {
		c.config.Quirks = slices.Clone(c.config.Quirks)
		return c
	}, s.axes(&base), in.Options, s.test)
}

// searcher tries candidates. What machines that differ in their number of vCPUs
// alone share is computed once.
type searcher struct {
	in        Input
	want      digest.Digest
	measurers [3]*snpmeasure.Measurer // as given, without initrd, without kernel

	mu     sync.Mutex
	groups map[string]*group
}

// group are the launch digests of one machine with 1, 2, ... vCPUs.
type group struct {
	once    sync.Once
	digests []digest.Digest
	err     error
}

func (s *searcher) test(ctx context.Context, c *candidate) (bool, error) {
	cfg := c.config
	if cfg.Mode == snpmeasure.SEV || cfg.Mode == snpmeasure.OVMFHash || cfg.VCPUs > s.in.VCPUs || cfg.VCPUs < 1 {
		results, err := s.measure(ctx, c, []int{cfg.VCPUs})
		return err == nil && results[0].Digest == s.want, err
	}
	cfg.VCPUs = 0
	key := fmt.Sprintf("%t %t %s %s %x %x %q %v", c.noKernel, c.noInitrd, cfg.Mode, cfg.VMM, cfg.CPU.Sig, cfg.Features, cfg.Cmdline, cfg.Quirks)
	s.mu.Lock()
	g := s.groups[key]
	if g == nil {
		g = new(group)
		s.groups[key] = g
	}
	s.mu.Unlock()
	g.once.Do(func() { g.digests, g.err = s.column(ctx, c) })
	if g.err != nil {
		return false, g.err
	}
	n := c.config.VCPUs
	return n <= len(g.digests) && g.digests[n-1] == s.want, nil
}

// column computes a machine with every number of vCPUs, or with one where the
// firmware has no start address for a second.
func (s *searcher) column(ctx context.Context, c *candidate) ([]digest.Digest, error) {
	counts := make([]int, s.in.VCPUs)
	for i := range counts {
		counts[i] = i + 1
	}
	results, err := s.measure(ctx, c, counts)
	if err != nil {
		if results, err = s.measure(ctx, c, []int{1}); err != nil {
			return nil, err
		}
	}
	out := make([]digest.Digest, len(results))
	for i, r := range results {
		out[i] = r.Digest
	}
	return out, nil
}

func (s *searcher) measure(ctx context.Context, c *candidate, counts []int) ([]*snpmeasure.Result, error) {
	cfg := c.config
	switch {
	case !s.in.One.IsZero():
		return snpmeasure.Extend(ctx, s.in.One, s.in.APEIP, cfg, counts)
	case c.noKernel:
		cfg.Cmdline, cfg.CmdlineSum = "", digest.Digest{}
		return s.measurers[2].Matrix(ctx, cfg, counts, nil, nil)
	case c.noInitrd:
		return s.measurers[1].Matrix(ctx, cfg, counts, nil, nil)
	}
	return s.measurers[0].Matrix(ctx, cfg, counts, nil, nil)
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
		add("vCPUs", vCPUs(c.VCPUs, s.in.VCPUs)...)
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

func vCPUs(base, most int) []variant {
	var out []variant
	for n := 1; n <= most; n++ {
		if n == base {
			continue
		}
		note := fmt.Sprintf("%d vCPUs", n)
		if n == 1 {
			note = "1 vCPU"
		}
		out = append(out, variant{ID: fmt.Sprintf("vcpus-%d", n), Note: note, Apply: func(c *candidate) { c.config.VCPUs = n }})
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
