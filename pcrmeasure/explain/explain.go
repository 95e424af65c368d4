// Package explain finds the known deviation of a machine that turns a predicted
// PCR into the one that a TPM has: another amount of memory or number of vCPUs,
// another initrd, a command line that was written a little differently, Secure
// Boot on or off. Deviations are data with stable names.
package explain

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/internal/search"
	"github.com/retally/retally/pcrmeasure"
)

// Input is what a search starts from.
type Input struct {
	Artifacts pcrmeasure.Artifacts
	Machine   pcrmeasure.Machine
	// Initrds are others that may have been used; those without bytes count by
	// size and digest.
	Initrds []pcrmeasure.Input
	Options search.Options
}

// candidate is one machine of a search.
type candidate struct {
	pcrmeasure.Machine
	artifacts int // index into the searcher's sets
	// keyless drops the variables: Secure Boot is off and nothing is enrolled.
	keyless bool
}

type (
	variant = search.Variant[candidate]
	axis    = search.Axis[candidate]
)

func clone(c candidate) candidate {
	c.Phases = slices.Clone(c.Phases)
	return c
}

type searcher struct {
	sets  [][2]*pcrmeasure.Measurer // with the variables, and without any
	index int
	want  digest.Digest
}

// Find searches one PCR for a value that a TPM has. The bank is that of the
// value.
func Find(ctx context.Context, index int, in Input, want digest.Digest) (search.Answer, error) {
	if index < 0 || index >= pcrmeasure.Count {
		return search.Answer{}, &place.Fault{Op: "explain", Input: "PCR", Found: fmt.Sprint(index), Want: fmt.Sprintf("0 to %d", pcrmeasure.Count-1)}
	}
	base := candidate{Machine: in.Machine}
	base.Bank = want.Algorithm()
	s := &searcher{index: index, want: want}
	add := func(a pcrmeasure.Artifacts) {
		bare := a
		bare.Variables, bare.NoVariables = pcrmeasure.Input{}, true
		s.sets = append(s.sets, [2]*pcrmeasure.Measurer{pcrmeasure.New(a), pcrmeasure.New(bare)})
	}
	add(in.Artifacts)
	initrds := axis{Name: "initrd"}
	other := func(id, note string, i pcrmeasure.Input) {
		a := in.Artifacts
		a.Initrd = i
		n := len(s.sets)
		add(a)
		initrds.Variants = append(initrds.Variants, variant{ID: id, Note: note, Apply: func(c *candidate) { c.artifacts = n }})
	}
	if in.Artifacts.Initrd.Present() {
		other("initrd-none", "no initrd", pcrmeasure.Input{})
	}
	for i, in := range in.Initrds {
		other(fmt.Sprintf("initrd-%d", i+1), "the initrd "+in.Name, in)
	}
	opt := in.Options
	if opt.MaxDeviations == 0 {
		opt.MaxDeviations = 3
	}
	return search.Find(ctx, base, clone, effective(base, axes(index, base, initrds)), opt, s.test)
}

func (s *searcher) test(ctx context.Context, c *candidate) (bool, error) {
	m := s.sets[c.artifacts][0]
	if c.keyless {
		m = s.sets[c.artifacts][1]
		c.SecureBoot = pcrmeasure.Unsaid
	}
	p, err := m.PredictOne(ctx, &c.Machine, s.index)
	if err != nil {
		return false, err
	}
	return p.Value == s.want, nil
}

// effective leaves out the variants that change nothing in the base, or no
// more than one before them on the axis does.
func effective(base candidate, axes []axis) []axis {
	for i := range axes {
		seen := []candidate{base}
		axes[i].Variants = slices.DeleteFunc(axes[i].Variants, func(v variant) bool {
			c := clone(base)
			v.Apply(&c)
			known := slices.ContainsFunc(seen, func(s candidate) bool { return reflect.DeepEqual(c, s) })
			seen = append(seen, c)
			return known
		})
	}
	return slices.DeleteFunc(axes, func(a axis) bool { return len(a.Variants) == 0 })
}

// axes are those that a PCR depends on; the likely ones come first.
func axes(index int, base candidate, initrds axis) []axis {
	switch index {
	case 0:
		return []axis{memory(), vcpus(), machineType()}
	case 1:
		return []axis{devices()}
	case 4:
		return []axis{memory(), initrds, secureBoot(), header(), machineType(), failed()}
	case 7:
		return []axis{secureBoot()}
	case 9:
		return []axis{cmdline(base), argument(), initrds, secureBoot()}
	case 10:
		return []axis{ima(), memory(), vcpus()}
	case 11:
		return []axis{phases(), order()}
	case 12:
		return []axis{cmdline(base)}
	}
	return nil
}

func memory() axis {
	a := axis{Name: "memory"}
	for _, mib := range []uint64{256, 512, 768, 1024, 1536, 2048, 2560, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152, 65536, 98304, 131072, 196608, 262144} {
		a.Variants = append(a.Variants, variant{ID: fmt.Sprintf("memory-%dMiB", mib), Note: fmt.Sprintf("%d MiB of memory", mib), Apply: func(c *candidate) { c.Memory = mib << 20 }})
	}
	return a
}

func vcpus() axis {
	a := axis{Name: "vCPUs"}
	for n := 1; n <= 64; n++ {
		if n > 16 && n%4 != 0 {
			continue
		}
		note := fmt.Sprintf("%d vCPUs", n)
		if n == 1 {
			note = "1 vCPU"
		}
		a.Variants = append(a.Variants, variant{ID: fmt.Sprintf("vcpus-%d", n), Note: note, Apply: func(c *candidate) { c.VCPUs = n }})
	}
	return a
}

func machineType() axis {
	return axis{Name: "machine type", Variants: []variant{
		{ID: "machine-q35", Note: "QEMU's machine type q35", Apply: func(c *candidate) { c.Type = "q35" }},
		{ID: "machine-pc", Note: "QEMU's machine type pc", Apply: func(c *candidate) { c.Type = "pc" }},
	}}
}

func header() axis {
	return axis{Name: "kernel header", Variants: []variant{
		{ID: "header-as-given", Since: "QEMU 10.2", Note: "the kernel's header as it is in the file", Apply: func(c *candidate) { c.Header = pcrmeasure.HeaderAsGiven }},
		{ID: "header-edited", Note: "the kernel's header as QEMU before 10.2 writes it", Apply: func(c *candidate) { c.Header = pcrmeasure.HeaderEdited }},
	}}
}

func failed() axis {
	a := axis{Name: "failed boot options"}
	for n := range 4 {
		a.Variants = append(a.Variants, variant{ID: fmt.Sprintf("failed-%d", n), Note: fmt.Sprintf("%d boot options that came back", n), Apply: func(c *candidate) { c.FailedOptions = n }})
	}
	return a
}

// secureBoot is the machine without any key, or with Secure Boot on where no
// variables are known.
func secureBoot() axis {
	return axis{Name: "Secure Boot", Variants: []variant{
		{ID: "secure-boot-off", Note: "Secure Boot off and no key enrolled", Apply: func(c *candidate) { c.keyless = true }},
		{ID: "secure-boot-on", Note: "Secure Boot on (a kernel of -kernel is then not measured at all)", Apply: func(c *candidate) { c.SecureBoot = pcrmeasure.On }},
	}}
}

func devices() axis {
	a := axis{Name: "devices"}
	list, err := pcrmeasure.DeviceSets()
	if err != nil {
		return a // built in, and read by a test
	}
	for _, d := range list {
		a.Variants = append(a.Variants, variant{ID: "devices-" + d.Name, Note: d.Title, Apply: func(c *candidate) { c.Devices = d.Name }})
	}
	return a
}

func ima() axis {
	return axis{Name: "IMA", Variants: []variant{
		{ID: "ima-off", Note: "a kernel without IMA", Apply: func(c *candidate) { c.IMA = pcrmeasure.IMAOff }},
		{ID: "ima-sig", Note: "IMA's template ima-sig", Apply: func(c *candidate) { c.IMA = pcrmeasure.IMASig }},
		{ID: "ima-ng", Note: "IMA's template ima-ng", Apply: func(c *candidate) { c.IMA = pcrmeasure.IMANG }},
	}}
}

func order() axis {
	return axis{Name: "order of sections", Variants: []variant{
		{ID: "order-252", Note: "the order of sections of systemd 252", Apply: func(c *candidate) { c.Order = pcrmeasure.Order252 }},
		{ID: "order-257", Note: "the order of sections of systemd 257", Apply: func(c *candidate) { c.Order = pcrmeasure.Order257 }},
	}}
}

func phases() axis {
	words := []string{"enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"}
	a := axis{Name: "phase", Variants: []variant{{ID: "phase-none", Note: "no boot phase measured", Apply: func(c *candidate) { c.Phases = nil }}}}
	for n := range words {
		a.Variants = append(a.Variants, variant{ID: "phase-" + words[n], Note: "the boot phase " + words[n] + " reached", Apply: func(c *candidate) { c.Phases = slices.Clone(words[:n+1]) }})
	}
	return a
}

func argument() axis {
	return axis{Name: "initrd argument", Variants: []variant{
		{ID: "argument-suffix", Note: "initrd=initrd behind the command line", Apply: func(c *candidate) { c.InitrdArgument = pcrmeasure.ArgumentSuffix }},
		{ID: "argument-prefix", Note: "initrd=initrd before the command line", Apply: func(c *candidate) { c.InitrdArgument = pcrmeasure.ArgumentPrefix }},
		{ID: "argument-none", Note: "no initrd=initrd in the command line", Apply: func(c *candidate) { c.InitrdArgument = pcrmeasure.ArgumentNone }},
	}}
}

// cmdline is how the same command line is written differently.
func cmdline(base candidate) axis {
	a := axis{Name: "command line"}
	edit := func(id, note, text string) {
		a.Variants = append(a.Variants, variant{ID: id, Note: note, Apply: func(c *candidate) { c.Cmdline = text }})
	}
	s := base.Cmdline
	edit("cmdline-trimmed", "a command line without white space around it", strings.TrimSpace(s))
	edit("cmdline-newline", "a line end behind the command line", s+"\n")
	edit("cmdline-space", "a space behind the command line", s+" ")
	edit("cmdline-leading-space", "a space before the command line", " "+s)
	edit("cmdline-single-spaces", "single spaces in the command line", strings.Join(strings.Fields(s), " "))
	edit("cmdline-unquoted", "a command line without quotation marks", strings.NewReplacer(`"`, "", `'`, "").Replace(s))
	edit("cmdline-empty", "no command line", "")
	return a
}
