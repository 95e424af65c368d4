package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/snpmeasure"
	"github.com/retally/retally/trace"
)

func (a *app) snpCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snp",
		Short: "Launch digests of AMD SEV, SEV-ES and SEV-SNP machines, and ID blocks",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.snpMeasureCommand(), a.snpIDBlockCommand())
	return cmd
}

// snpFlags describe a machine.
type snpFlags struct {
	cmd                               *cobra.Command
	mode, vmm                         string
	firmware, kernel, initrd, cmdline string
	svsm, seed, vcpus, features       string
	types, quirks                     []string
	sig                               string
	family, model, stepping           int
	vars                              int64
	one, apEIP                        string
	trace                             bool
	output                            string
}

func (a *app) snpMeasureCommand() *cobra.Command {
	f := &snpFlags{}
	cmd := &cobra.Command{
		Use:   "measure --firmware FILE --vcpus N --vcpu-type TYPE [flags]",
		Short: "Compute a launch digest from firmware, kernel, initrd, command line and the machine's shape",
		Long: `Compute the launch digest of an AMD machine from its artifacts. Nothing is
compared.

Kernel, initrd and command line may be given as sha256:HEX where only their
hashes are known; that of a command line is of the line and a zero byte.

--vcpus, --vcpu-type and --guest-features take lists, --vcpus also ranges; then
every combination is computed, and the JSON form is an array.

Where programs that others rely on disagree, the behavior is a quirk. The
default is that of sev-snp-measure; --quirk chooses another. The result names
every quirk that had a part in it.

With --one-vcpu-digest and --ap-eip, which a Contrast manifest has, the digests
for more CPUs follow without firmware and kernel.`,
		Example: `  retally snp measure --firmware OVMF.fd --kernel bzImage --initrd initrd.img --cmdline "console=ttyS0" \
    --vcpus 1..8 --vcpu-type EPYC-Milan,EPYC-Genoa -o json
  retally snp measure --mode ovmf-hash --firmware OVMF.fd
  retally snp measure --one-vcpu-digest HEX --ap-eip 0080b004 --vcpus 1..8 --vcpu-type EPYC-Genoa`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.snpMeasure(cmd.Context(), f) },
	}
	f.cmd = cmd
	f.flags()
	return cmd
}

func (f *snpFlags) flags() {
	fs := f.cmd.Flags()
	fs.SortFlags = false // by subject
	fs.StringVar(&f.mode, "mode", "snp", "what is measured: snp, seves, sev, ovmf-hash (the firmware's pages alone) or svsm (a Coconut SVSM below the firmware)")
	fs.StringVar(&f.vmm, "vmm", "qemu", "what starts the machine: qemu, ec2, gce or krun")
	fs.StringVar(&f.firmware, "firmware", "", "firmware file, whole (OVMF.fd)")
	fs.StringVar(&f.kernel, "kernel", "", "kernel file, or its digest as sha256:HEX (default: none)")
	fs.StringVar(&f.initrd, "initrd", "", "initrd file, or its digest as sha256:HEX (default: none)")
	fs.StringVar(&f.cmdline, "cmdline", "", "kernel command line, or its digest as sha256:HEX")
	fs.StringVar(&f.vcpus, "vcpus", "", "number of vCPUs, a range as 1..8, or a list; not for the modes sev and ovmf-hash")
	fs.StringSliceVar(&f.types, "vcpu-type", nil, "type of the vCPUs by QEMU's name: "+strings.Join(snpmeasure.CPUTypes(), ", "))
	fs.StringVar(&f.sig, "vcpu-sig", "", "type of the vCPUs by their signature, a number such as 0xa00f11")
	fs.IntVar(&f.family, "vcpu-family", 0, "type of the vCPUs by family, with --vcpu-model and --vcpu-stepping")
	fs.IntVar(&f.model, "vcpu-model", 0, "model, with --vcpu-family")
	fs.IntVar(&f.stepping, "vcpu-stepping", 0, "stepping, with --vcpu-family")
	fs.StringVar(&f.features, "guest-features", "0x1", "SEV_FEATURES, or a list; host kernels from 6.6 on may set 0x21")
	fs.StringVar(&f.seed, "ovmf-hash", "", "launch digest after the firmware's pages (96 hex digits), in place of hashing them; --firmware then gives the tables only")
	fs.StringVar(&f.svsm, "svsm", "", "SVSM file, for mode svsm")
	fs.Int64Var(&f.vars, "vars-size", 0, "size in bytes of the firmware's variable store, for mode svsm")
	fs.StringVar(&f.one, "one-vcpu-digest", "", "launch digest for one vCPU, in place of the artifacts")
	fs.StringVar(&f.apEIP, "ap-eip", "", "where further vCPUs start, 8 hex digits (a Contrast manifest's APEIP), with --one-vcpu-digest")
	var choices []string
	for _, q := range snpmeasure.Choices() {
		choices = append(choices, string(q))
	}
	fs.StringSliceVar(&f.quirks, "quirk", nil, "behavior on which programs disagree: "+strings.Join(choices, ", "))
	fs.BoolVar(&f.trace, "trace", false, "show every measured range")
	fixed := func(name string, words ...string) {
		_ = f.cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
	fixed("mode", "snp", "seves", "sev", "ovmf-hash", "svsm")
	fixed("vmm", "qemu", "ec2", "gce", "krun")
	fixed("vcpu-type", snpmeasure.CPUTypes()...)
	fixed("quirk", choices...)
	outputFlag(f.cmd, &f.output)
}

// snpShape is what the flags describe: one machine or several.
type snpShape struct {
	config   snpmeasure.Config
	counts   []int
	cpus     []snpmeasure.CPU
	features []uint64
	many     bool // a list was given: the result is one too
}

// shape reads the flags about the machine.
func (f *snpFlags) shape(op string) (*snpShape, error) {
	s := &snpShape{}
	var err error
	if s.config.Mode, err = snpmeasure.ParseMode(f.mode); err != nil {
		return nil, snpTrouble(op, "--mode", err)
	}
	if s.config.VMM, err = snpmeasure.ParseVMM(f.vmm); err != nil {
		return nil, snpTrouble(op, "--vmm", err)
	}
	needsCPUs := s.config.Mode != snpmeasure.SEV && s.config.Mode != snpmeasure.OVMFHash
	switch {
	case needsCPUs && f.vcpus == "":
		return nil, &userError{op: op, msg: "no number of vCPUs", hint: "--vcpus N"}
	case !needsCPUs && f.vcpus != "":
		return nil, &userError{op: op, msg: "--vcpus: mode " + f.mode + " measures no vCPU", hint: "leave --vcpus out"}
	case !needsCPUs:
		s.counts = []int{0}
	default:
		if s.counts, s.many, err = parseCounts(op, f.vcpus); err != nil {
			return nil, err
		}
	}
	if err := f.cpu(op, s); err != nil {
		return nil, err
	}
	list := strings.Split(f.features, ",")
	for _, text := range list {
		n, err := strconv.ParseUint(strings.TrimSpace(text), 0, 64)
		if err != nil {
			return nil, &userError{op: op, msg: fmt.Sprintf("--guest-features %.40q: want a number of 64 bits", text), hint: "for instance --guest-features 0x21"}
		}
		s.features = append(s.features, n)
	}
	s.many = s.many || len(list) > 1 || len(s.cpus) > 1
	for _, q := range f.quirks {
		s.config.Quirks = append(s.config.Quirks, snpmeasure.Quirk(q))
	}
	return s, nil
}

// cpu reads the flags that name the type of the CPUs. Two ways that say
// different things are refused.
func (f *snpFlags) cpu(op string, s *snpShape) error {
	given := func(name string) bool { return f.cmd.Flags().Changed(name) }
	var cpus []snpmeasure.CPU
	if given("vcpu-family") || given("vcpu-model") || given("vcpu-stepping") {
		if !given("vcpu-family") || !given("vcpu-model") || !given("vcpu-stepping") {
			return &userError{op: op, msg: "--vcpu-family, --vcpu-model and --vcpu-stepping belong together", hint: "give all three"}
		}
		c, err := snpmeasure.CPUOfFamily(f.family, f.model, f.stepping)
		if err != nil {
			return snpTrouble(op, "--vcpu-family", err)
		}
		cpus = append(cpus, c)
	}
	if f.sig != "" {
		n, err := strconv.ParseUint(f.sig, 0, 32)
		if err != nil {
			return &userError{op: op, msg: fmt.Sprintf("--vcpu-sig %.40q: want a number of 32 bits", f.sig), hint: "for instance --vcpu-sig 0xa00f11"}
		}
		cpus = append(cpus, snpmeasure.CPUOfSignature(uint32(n)))
	}
	if len(f.types) > 0 {
		s.cpus = nil
		for _, name := range f.types {
			c, err := snpmeasure.CPUOfType(name)
			if err != nil {
				return snpTrouble(op, "--vcpu-type", err)
			}
			s.cpus = append(s.cpus, c)
		}
		for _, c := range cpus {
			if len(s.cpus) > 1 || s.cpus[0].Sig != c.Sig {
				return &userError{op: op, msg: fmt.Sprintf("--vcpu-type %s and %s are not the same", strings.Join(f.types, ","), c), hint: "name the type in one way"}
			}
		}
		return nil
	}
	for _, c := range cpus {
		if c.Sig != cpus[0].Sig {
			return &userError{op: op, msg: fmt.Sprintf("%s and %s are not the same", cpus[0], c), hint: "name the type in one way"}
		}
		s.cpus = []snpmeasure.CPU{c}
	}
	return nil
}

// maxCounts bounds a list of numbers of CPUs.
const maxCounts = 1 << 16

// parseCounts reads "4", "1..8" and "1,2,4..6". many tells a list from one
// number.
func parseCounts(op, text string) (counts []int, many bool, err error) {
	bad := func(what string) error {
		return &userError{op: op, msg: fmt.Sprintf("--vcpus %.40q: %s", text, what), hint: "for instance --vcpus 4, --vcpus 1..8 or --vcpus 1,2,4"}
	}
	parts := strings.Split(text, ",")
	for _, part := range parts {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "..")
		if !isRange {
			to = from
		}
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		switch {
		case err1 != nil || err2 != nil || first < 0 || last < first:
			return nil, false, bad("want a number, a range or a list")
		case last > snpmeasure.MaxVCPUs || len(counts)+last-first >= maxCounts:
			return nil, false, bad(fmt.Sprintf("at most %d", snpmeasure.MaxVCPUs))
		}
		for n := first; n <= last; n++ {
			counts = append(counts, n)
		}
		many = many || isRange
	}
	return counts, many || len(parts) > 1, nil
}

func (a *app) snpMeasure(ctx context.Context, f *snpFlags) error {
	const op = "snp measure"
	s, err := f.shape(op)
	if err != nil {
		return err
	}
	in := &inputs{app: a, op: op}
	defer in.close()
	var results []*snpmeasure.Result
	if f.one != "" || f.apEIP != "" {
		results, err = f.extend(ctx, op, s)
	} else {
		var artifacts snpmeasure.Artifacts
		if artifacts, err = f.artifacts(in, s); err != nil {
			return err
		}
		err = in.counted(func() error {
			results, err = snpmeasure.New(artifacts).Matrix(ctx, s.config, s.counts, s.cpus, s.features)
			return err
		})
	}
	if err != nil {
		return snpTrouble(op, "", err)
	}
	if f.output == "json" {
		return writeJSON(a.stdout, snpDocument(results, s.many, f.trace))
	}
	for _, r := range results {
		a.printSNP(r, s.many, f.trace)
	}
	return nil
}

// oneSum is the form in which a digest stands for a file or a text.
var oneSum = regexp.MustCompile(`^sha256:[0-9a-fA-F]{64}$`)

// artifacts opens the files.
func (f *snpFlags) artifacts(in *inputs, s *snpShape) (a snpmeasure.Artifacts, err error) {
	if f.firmware == "" {
		return a, &userError{op: in.op, msg: "no firmware", hint: "--firmware FILE"}
	}
	for _, x := range []struct {
		to         *snpmeasure.Input
		flag, path string
		sum        bool
	}{{&a.Firmware, "firmware", f.firmware, false}, {&a.Kernel, "kernel", f.kernel, true}, {&a.Initrd, "initrd", f.initrd, true}, {&a.SVSM, "svsm", f.svsm, false}} {
		if x.sum && oneSum.MatchString(x.path) {
			sum, err := digest.Parse(strings.ToLower(x.path))
			if err != nil {
				return a, err
			}
			*x.to = snpmeasure.Input{Name: x.path, Known: sum}
			continue
		}
		file, err := in.artifact(x.flag, x.path)
		if err != nil {
			return a, err
		}
		*x.to = snpmeasure.Input{Name: file.Name, R: file.R, Size: file.Size, Known: file.Known}
	}
	if s.config.VarsSize = f.vars; oneSum.MatchString(f.cmdline) {
		s.config.CmdlineSum, err = digest.Parse(strings.ToLower(f.cmdline))
	} else {
		s.config.Cmdline = f.cmdline
	}
	if err == nil && f.seed != "" {
		if s.config.Seed, err = digest.ParseHex(digest.SHA384, strings.ToLower(f.seed)); err != nil {
			return a, &userError{op: in.op, msg: "--ovmf-hash: " + err.Error(), hint: "the launch digest after the firmware's pages: 96 hex digits"}
		}
	}
	return a, err
}

// extend computes the digests for more CPUs from that for one.
func (f *snpFlags) extend(ctx context.Context, op string, s *snpShape) ([]*snpmeasure.Result, error) {
	for _, name := range []string{"firmware", "kernel", "initrd", "cmdline", "ovmf-hash", "svsm", "vars-size"} {
		if f.cmd.Flags().Changed(name) {
			return nil, &userError{op: op, msg: "--" + name + " and --one-vcpu-digest exclude each other", hint: "the digest for one vCPU stands for all artifacts"}
		}
	}
	if s.config.Mode != snpmeasure.SNP {
		return nil, &userError{op: op, msg: "--one-vcpu-digest is for mode snp", hint: "--mode snp"}
	}
	one, err := digest.ParseHex(digest.SHA384, strings.ToLower(f.one))
	if err != nil {
		return nil, &userError{op: op, msg: "--one-vcpu-digest: " + err.Error(), hint: "96 hex digits"}
	}
	eip, err := hex.DecodeString(strings.TrimPrefix(f.apEIP, "0x"))
	if err != nil || len(eip) != 4 {
		return nil, &userError{op: op, msg: fmt.Sprintf("--ap-eip %.40q: want 8 hex digits", f.apEIP), hint: "the APEIP of a Contrast manifest, or the address of the firmware's SEV-ES reset block (retally inspect firmware)"}
	}
	address := uint32(eip[0])<<24 | uint32(eip[1])<<16 | uint32(eip[2])<<8 | uint32(eip[3])
	if len(s.cpus) == 0 {
		s.cpus = []snpmeasure.CPU{{}}
	}
	width := len(s.cpus) * len(s.features)
	if len(s.counts)*width > snpmeasure.MaxShapes {
		return nil, &userError{op: op, msg: fmt.Sprintf("more than %d machines", snpmeasure.MaxShapes)}
	}
	out := make([]*snpmeasure.Result, len(s.counts)*width)
	for j, cpu := range s.cpus {
		for k, bits := range s.features {
			c := s.config
			c.CPU, c.Features = cpu, bits
			column, err := snpmeasure.Extend(ctx, one, address, c, s.counts)
			if err != nil {
				return nil, err
			}
			for i, r := range column {
				out[i*width+j*len(s.features)+k] = r
			}
		}
	}
	return out, nil
}

// snpJSON is the result of snp measure.
type snpJSON struct {
	Digest string             `json:"launch_digest"`
	Sig    uint32             `json:"vcpu_sig"`
	VMSA   []string           `json:"vmsa_sha256"`
	Quirks []snpmeasure.Quirk `json:"quirks"`
	VCPUs  *int               `json:"vcpus,omitempty"`          // in a list
	Type   string             `json:"vcpu_type,omitempty"`      // in a list
	Bits   string             `json:"guest_features,omitempty"` // in a list
	Events *trace.Trace       `json:"trace,omitempty"`
}

func snpDocument(results []*snpmeasure.Result, many, withTrace bool) any {
	docs := []snpJSON{}
	for _, r := range results {
		d := snpJSON{Digest: r.Digest.Hex(), Sig: r.Config.CPU.Sig, VMSA: []string{}, Quirks: []snpmeasure.Quirk{}}
		for _, p := range r.VMSA {
			d.VMSA = append(d.VMSA, p.Hex())
		}
		d.Quirks = append(d.Quirks, r.Quirks...)
		if many {
			n := r.Config.VCPUs
			d.VCPUs, d.Type, d.Bits = &n, r.Config.CPU.Type, fmt.Sprintf("%#x", r.Config.Features)
		}
		if withTrace {
			d.Events = &r.Trace
		}
		docs = append(docs, d)
	}
	if !many {
		return docs[0]
	}
	return docs
}

func (a *app) printSNP(r *snpmeasure.Result, many, withTrace bool) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	if many {
		line("%4d vCPUs, %s, features %#x  %s", r.Config.VCPUs, r.Config.CPU, r.Config.Features, r.Digest.Hex())
	} else {
		line("launch digest  %s", r.Digest.Hex())
		for _, p := range r.VMSA {
			line("registers      sha256:%s", p.Hex())
		}
	}
	for _, q := range r.Quirks {
		line("quirk          %s", q)
	}
	if withTrace {
		a.printTrace(r.Trace)
	}
}

// snpTrouble gives the rooms' errors the form of all others: the operation is
// the verb, and the firmware's own hint is not lost.
func snpTrouble(op, flag string, err error) error {
	var f *place.Fault
	if !errors.As(err, &f) {
		return err
	}
	copied := *f
	copied.Op = op
	if flag != "" {
		copied.Field = flag
	}
	var o *ovmf.Error
	if errors.As(err, &o) && copied.Hint == "" {
		copied.Hint = o.Hint
	}
	return &copied
}
