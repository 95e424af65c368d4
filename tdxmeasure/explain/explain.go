// Package explain finds the known deviation of a TDX machine that turns a
// computed register into the published one. Deviations are data with stable
// names; registers are searched one by one, because each depends on few of
// them.
package explain

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/search"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
	"github.com/retally/retally/trace"
)

// Register names a measurement register.
type Register int

// The registers.
const (
	MRTD Register = iota
	RTMR0
	RTMR1
	RTMR2
	RTMR3
)

// String names the register as quotes do.
func (r Register) String() string {
	return [...]string{"MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3"}[r]
}

// candidate is one machine of a search.
type candidate struct {
	tdxmeasure.Config
	artifacts int    // index into the searcher's sets
	tail      string // what stands behind the measured command line
	noNUL     bool
	edit      string // of the compose file
	// serialFixed: the serial port is as somebody said, else it comes with the
	// host and the devices.
	serialFixed bool
}

// usualSerial gives a machine the serial port that its host and devices come
// with, as the flags of tdx measure do.
func (c *candidate) usualSerial() {
	if !c.serialFixed {
		c.Devices.NoCOM1 = usualNoCOM1(c)
	}
}

func usualNoCOM1(c *candidate) bool {
	return c.Devices.Base == acpi.SecretVM && c.Profile.SecretVMDevices(false).NoCOM1
}

// start is the candidate that a search's machine is.
func start(c tdxmeasure.Config) candidate {
	base := candidate{Config: c}
	base.serialFixed = c.Devices.NoCOM1 != usualNoCOM1(&base)
	return base
}

// noteSerial completes the notes of variants that change the serial port too.
func noteSerial(a axis, base candidate) axis {
	for i, v := range a.Variants {
		c := clone(base)
		v.Apply(&c)
		switch {
		case c.Devices.NoCOM1 == base.Devices.NoCOM1:
		case c.Devices.NoCOM1:
			a.Variants[i].Note += " (and so no serial port)"
		default:
			a.Variants[i].Note += " (and so a serial port)"
		}
	}
	return a
}

// Input is what a search starts from.
type Input struct {
	Artifacts tdxmeasure.Artifacts
	Config    tdxmeasure.Config
	// Rootfs are other root file systems that may have been used, such as
	// those of a registry's rows, and Initrds other initrds.
	Rootfs []tdxmeasure.Input
	// Compose is the compose file's text; without it only the bytes as given
	// are tried.
	Compose []byte
	Options search.Options
}

// Find searches one register for a published value.
func Find(ctx context.Context, r Register, in Input, want digest.Digest) (search.Answer, error) {
	s := &searcher{in: in, register: r, want: want, measurer: tdxmeasure.New(in.Artifacts)}
	base := start(in.Config)
	opt := in.Options
	if opt.MaxDeviations == 0 {
		opt.MaxDeviations = 2
	}
	return search.Find(ctx, base, clone, effective(base, s.axes(base)), opt, s.test)
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

// FindUsual searches for the machine behind an RTMR0 among those that people
// rent: sizes of 1 to 16 GiB a vCPU, and the few device layouts of SecretVM and
// dstack. It takes about a second where FindShape takes minutes.
func FindUsual(ctx context.Context, in Input, want digest.Digest) (search.Answer, error) {
	s := &searcher{in: in, register: RTMR0, want: want, measurer: tdxmeasure.New(in.Artifacts)}
	base := start(in.Config)
	axes := []axis{serial()}
	if s.storeMatters(ctx, base) {
		axes = append(axes, variableStore())
	}
	layouts := devices()
	layouts.Variants = slices.DeleteFunc(layouts.Variants, func(v variant) bool {
		return !slices.Contains([]string{"devices-secretvm", "devices-secretvm-gpu", "devices-4", "devices-5", "devices-6"}, v.ID)
	})
	sizes, parts := usualSizes(base)
	axes = append(axes, pic(), noteSerial(family(), base), sizes, noteSerial(layouts, base))
	a, err := search.Find(ctx, base, clone, effective(base, axes), in.Options, s.test)
	// A size is one choice here, but two deviations for the reader.
	var deviations []search.Deviation
	for _, d := range a.Deviations {
		if both, ok := parts[d.ID]; ok {
			deviations = append(deviations, both...)
			continue
		}
		deviations = append(deviations, d)
	}
	a.Deviations = deviations
	return a, err
}

// usualSizes are pairs of vCPUs and memory that clouds offer, and the
// deviations that each one is.
func usualSizes(base candidate) (axis, map[string][]search.Deviation) {
	a := axis{Name: "size"}
	parts := map[string][]search.Deviation{}
	for _, n := range []int{1, 2, 4, 8, 16, 32, 64} {
		for _, ratio := range []uint64{2, 4, 1, 8, 16} {
			mib := uint64(n) * ratio << 10
			id := fmt.Sprintf("size-%d-%dM", n, mib)
			a.Variants = append(a.Variants, variant{ID: id, Apply: func(c *candidate) { c.VCPUs, c.Memory = n, mib<<20 }})
			if n != base.VCPUs {
				parts[id] = append(parts[id], search.Deviation{Axis: "vCPUs", ID: fmt.Sprintf("vcpus-%d", n), Note: vCPUNote(n)})
			}
			if mib<<20 != base.Memory {
				parts[id] = append(parts[id], search.Deviation{Axis: "memory", ID: fmt.Sprintf("memory-%dM", mib), Note: memoryNote(mib)})
			}
		}
	}
	return a, parts
}

// FindShape searches for the machine behind an RTMR0 when only the firmware
// is known: all combinations of what a machine's shape may be.
func FindShape(ctx context.Context, in Input, want digest.Digest) (search.Answer, error) {
	s := &searcher{in: in, register: RTMR0, want: want, measurer: tdxmeasure.New(in.Artifacts)}
	base := start(in.Config)
	// Small axes first, and devices last: machines differ in size more often.
	axes := []axis{serial()}
	if s.storeMatters(ctx, base) {
		axes = append(axes, variableStore())
	}
	axes = append(axes, pic(), noteSerial(family(), base), vCPUs(), memory(), noteSerial(devices(), base))
	return search.Find(ctx, base, clone, effective(base, axes), in.Options, s.test)
}

// storeMatters reports whether the firmware at hand has another variable
// store than the empty one that most machines have: then either may be the
// machine's.
func (s *searcher) storeMatters(ctx context.Context, base candidate) bool {
	other := base
	other.Profile.ConstantCFV = !base.Profile.ConstantCFV
	var values [2]digest.Digest
	for i, c := range []*candidate{&base, &other} {
		t, err := s.measurer.Register(ctx, &c.Config, int(RTMR0))
		if err != nil {
			return true
		}
		if values[i], err = t.Compute(); err != nil {
			return true
		}
	}
	return values[0] != values[1]
}

// clone copies what variants change; slices are replaced whole, never written
// to.
func clone(c candidate) candidate { return c }

type searcher struct {
	in       Input
	register Register
	want     digest.Digest
	measurer *tdxmeasure.Measurer
}

// test measures one candidate's register.
func (s *searcher) test(ctx context.Context, c *candidate) (bool, error) {
	m := s.measurer
	var t trace.Trace
	var err error
	switch s.register {
	case RTMR2:
		t, err = s.rtmr2(ctx, c)
	case RTMR3:
		t, err = s.rtmr3(ctx, c)
	default:
		t, err = m.Register(ctx, &c.Config, int(s.register))
	}
	if err != nil {
		return false, err
	}
	d, err := t.Compute()
	return d == s.want, err
}

// rtmr2 measures the command line as a candidate has it.
func (s *searcher) rtmr2(ctx context.Context, c *candidate) (trace.Trace, error) {
	t, err := s.measurer.Register(ctx, &c.Config, int(RTMR2))
	if err != nil || (c.tail == "" && !c.noNUL) {
		return t, err
	}
	line := tdxmeasure.MeasuredCmdline(c.Cmdline, c.Profile.InitrdArgument) + c.tail
	units, err := tdxmeasure.UTF16("command line", line)
	if err != nil {
		return t, err
	}
	if !c.noNUL {
		units = append(units, 0, 0)
	}
	t.Events = slices.Clone(t.Events)
	t.Events[0].Digest = digest.SHA384.Sum(units)
	return t, nil
}

// rtmr3 measures with the compose file and the root file system that a
// candidate has.
func (s *searcher) rtmr3(ctx context.Context, c *candidate) (trace.Trace, error) {
	if c.artifacts == 0 && c.edit == "" {
		return s.measurer.Register(ctx, &c.Config, int(RTMR3))
	}
	a := s.in.Artifacts
	switch {
	case c.artifacts == withoutFiles:
		a.DockerFiles = tdxmeasure.Input{}
	case c.artifacts > 0:
		a.Rootfs = s.in.Rootfs[c.artifacts-1]
	}
	if c.artifacts != 0 && a.Rootfs.Known.IsZero() && a.Rootfs.R != nil {
		// Another measurer would read the file again: take the digest.
		d, err := a.Rootfs.Sum(ctx, digest.SHA256)
		if err != nil {
			return trace.Trace{}, err
		}
		a.Rootfs.Known = d
	}
	if c.edit != "" {
		a.Compose = tdxmeasure.Bytes(a.Compose.Name, composeEdits[c.edit](s.in.Compose))
	}
	return tdxmeasure.New(a).Register(ctx, &c.Config, int(RTMR3))
}

const withoutFiles = -1

// composeEdits are the ways in which a compose file is changed on its way.
var composeEdits = map[string]func([]byte) []byte{
	"final-newline":    func(b []byte) []byte { return append(bytes.Clone(b), '\n') },
	"no-final-newline": func(b []byte) []byte { return bytes.TrimRight(b, "\r\n") },
	"crlf":             func(b []byte) []byte { return bytes.ReplaceAll(lf(b), []byte("\n"), []byte("\r\n")) },
	"lf":               lf,
	"bom":              func(b []byte) []byte { return append([]byte("\xef\xbb\xbf"), b...) },
	"no-bom":           func(b []byte) []byte { return bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")) },
}

func lf(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) }
