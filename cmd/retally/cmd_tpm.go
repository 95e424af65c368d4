package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/atomicfile"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pcrmeasure"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/tpm"
	"github.com/retally/retally/trace"
)

func (a *app) tpmCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tpm",
		Short: "PCRs of a machine with a TPM, predicted from its artifacts or replayed from an event log",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.tpmPredictCommand(), a.tpmReplayCommand(), a.tpmPcrlockCommand())
	return cmd
}

// tpmMachine is the platform that flags describe, as keys have it.
const tpmMachine = "machine"

// tpmFlags describe a machine with a TPM by the fields of retally.yaml.
type tpmFlags struct {
	p                     config.Platform
	cmdline               string
	cpu                   int
	secureBoot, inner     string
	headerAsGiven         bool
	expect                []string
	imaPads               bool
	firmware, kernel, ram string
	initrd                string
}

func (f *tpmFlags) flags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.SortFlags = false // by subject
	fs.StringVar(&f.firmware, "firmware", "", "firmware's code, with or without variables (OVMF_CODE.fd, OVMF.fd)")
	fs.StringVar(&f.p.Vars, "vars", "", "flash image of the firmware's variables")
	fs.BoolVar(&f.p.EmptyVars, "empty-vars", false, "the machine starts with an empty store of variables")
	fs.StringVar(&f.secureBoot, "secure-boot", "", "on or off, where no variables are given")
	fs.StringVar(&f.kernel, "kernel", "", "kernel file, as QEMU's -kernel gets it, or behind a loader")
	fs.StringVar(&f.initrd, "initrd", "", "initrd file (default: none)")
	fs.StringVar(&f.cmdline, "cmdline", "", "kernel command line as given to the hypervisor, without what the firmware adds; --cmdline= for an empty one")
	fs.StringVar(&f.p.UKI, "uki", "", "unified kernel image that the firmware starts")
	fs.StringVar(&f.p.Disk, "disk", "", "image of the disk that is booted; alone, what it starts is read from it")
	fs.StringVar(&f.p.Shim, "shim", "", "shim that the firmware starts")
	fs.StringVar(&f.p.Loader, "loader", "", "systemd-boot, or GRUB behind a shim")
	fs.StringVar(&f.p.LoaderConf, "loader-conf", "", "systemd-boot's loader.conf, which it measures since version 255")
	fs.StringArrayVar(&f.p.Chain, "chain", nil, "an image that is started, whatever it is; may be given several times, in order")
	fs.StringVar(&f.p.Pattern, "pattern", "", "how the machine gets to its kernel: direct, uki, sdboot-uki, sdboot-entry, shim-grub, chain (default: as the files say)")
	fs.StringVar(&f.ram, "memory", "", "memory size, with the unit M or G")
	fs.IntVar(&f.cpu, "cpu", 0, "number of vCPUs")
	fs.StringVar(&f.p.MachineType, "machine-type", "", "QEMU's machine type: q35 (default) or pc")
	fs.IntVar(&f.p.AddressBits, "address-bits", 0, "bits of a physical address (default: 40)")
	fs.StringVar(&f.p.Devices, "devices", "", "device set whose observed constant PCR 1 is taken to be; assumed, and never counted")
	fs.IntVar(&f.p.FailedOptions, "failed-options", 0, "boot options that came back before the one that booted")
	fs.BoolVar(&f.headerAsGiven, "kernel-as-given", false, "the hypervisor leaves the kernel's header alone (QEMU from 10.2, SEV)")
	fs.StringVar(&f.p.InitrdArgument, "initrd-argument", "", "where the firmware puts initrd=initrd: suffix (default), prefix (edk2 after 2025.02), as-given")
	fs.StringVar(&f.p.Systemd, "systemd", "", "version of systemd-boot and its stub: 252 (default) or 257")
	fs.StringVar(&f.inner, "inner-kernel", "", "on or off: whether firmware measures the kernel inside a unified kernel image")
	fs.StringSliceVar(&f.p.Phases, "phases", nil, "boot phases in PCR 11: enter-initrd, leave-initrd, sysinit, ready")
	fs.BoolVar(&f.p.Credentials, "credentials", false, "there are credentials or extensions beside the image")
	fs.StringVar(&f.p.IMA, "ima", "", "what the kernel records in PCR 10: off, ima-sig, ima-ng")
	fs.BoolVar(&f.imaPads, "ima-pads", false, "the kernel starts without SHA-384 and SHA-512, and pads a SHA-1 digest in their banks")
	fs.StringArrayVar(&f.p.SBATLevel, "sbat-level", nil, "a line of the SbatLevel that shim has in force; may be given several times, in order")
	fs.StringSliceVar(&f.p.Banks, "bank", []string{"sha256"}, "banks: sha1, sha256, sha384, sha512")
	fs.StringVar(&f.p.AppDisk, "app-disk", "", "image of the disk with the application, whose partitions app and app-verity PCR 15 has (BlindLlama)")
	fs.StringVar(&f.p.AppRoot, "app-root", "", "dm-verity root hash of that disk in hex; compared with --app-disk, copied without")
	fs.StringVar(&f.p.AppCA, "app-ca", "", "certificate of the web server's CA as PEM, which PCR 15 has too")
	fs.StringVar(&f.p.Golden, "golden", "", "compare with a file of golden measurements (BlindLlama's form)")
	fs.StringArrayVar(&f.expect, "expect", nil, "compare, as pcrN=HEX; may be given several times")
	fixed := func(name string, words ...string) {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
	fixed("pattern", "direct", "uki", "sdboot-uki", "sdboot-entry", "shim-grub", "chain")
	fixed("ima", "off", "ima-sig", "ima-ng")
	fixed("bank", "sha1", "sha256", "sha384", "sha512")
	fixed("secure-boot", "on", "off")
	fixed("inner-kernel", "on", "off")
}

// platform makes the description of the machine.
func (f *tpmFlags) platform(op string, cmd *cobra.Command) (*config.Platform, error) {
	p := f.p
	p.TEE, p.Memory = "tpm", f.ram
	for _, x := range []struct {
		given string
		to    **string
	}{{f.firmware, &p.Firmware}, {f.kernel, &p.Kernel}, {f.initrd, &p.Initrd}} {
		if x.given != "" {
			*x.to = &x.given
		}
	}
	if f.cpu != 0 {
		p.VCPUs = config.Counts{f.cpu}
	}
	changed := func(name string) bool { return cmd.Flags().Changed(name) }
	if changed("cmdline") {
		p.Cmdline = &f.cmdline
	}
	if f.headerAsGiven {
		p.PatchKernel = new(bool)
	}
	if changed("ima-pads") {
		p.IMAPads = &f.imaPads
	}
	for _, s := range []struct {
		flag, value string
		to          **bool
	}{{"secure-boot", f.secureBoot, &p.SecureBoot}, {"inner-kernel", f.inner, &p.InnerKernel}} {
		switch s.value {
		case "":
		case "on", "off":
			on := s.value == "on"
			*s.to = &on
		default:
			return nil, &userError{op: op, msg: fmt.Sprintf("--%s %.40q: want on or off", s.flag, s.value)}
		}
	}
	p.Expect = map[string]string{}
	for _, text := range f.expect {
		name, value, ok := strings.Cut(text, "=")
		name = strings.ToLower(name)
		if _, twice := p.Expect[name]; !ok || twice {
			return nil, &userError{op: op, msg: fmt.Sprintf("--expect %.120q: want pcrN=HEX, each once", text), hint: "for instance --expect pcr4=671800f0..."}
		}
		p.Expect[name] = value
	}
	err := tpm.Check(&p, func(msg, hint string, field ...string) error {
		if len(field) > 0 {
			msg = tpmFlagOf(field) + ": " + msg
		}
		return &userError{op: op, msg: msg, hint: hint}
	})
	return &p, err
}

// tpmFlagOf names a field as the flag that gives it.
func tpmFlagOf(field []string) string {
	name := field[0]
	switch name {
	case "vcpus":
		name = "cpu"
	case "banks":
		name = "bank"
	}
	text := "--" + strings.ReplaceAll(name, "_", "-")
	if len(field) > 1 {
		text += " " + strings.Join(field[1:], " ")
	}
	return text
}

func (a *app) tpmPredictCommand() *cobra.Command {
	var (
		f       tpmFlags
		c       comparison
		pcrs    string
		pcrlock string
		tracing bool
	)
	cmd := &cobra.Command{
		Use:   "predict [--firmware FILE] [--vars FILE] [--kernel FILE | --uki FILE | --disk FILE] [flags]",
		Short: "Predict PCRs from firmware, variables, kernel, initrd, command line and the machine's shape",
		Long: `Predict the PCRs of a machine that need not exist yet. What the artifacts do not
fix is missing, with the reason, and never guessed; PCRs that are a constant
observed on such machines, or that nothing known extends, are assumed. It is a
run over the one machine that the flags describe, as retally run over a platform
of retally.yaml with "tee: tpm", whose fields have the same names.

Nothing is compared unless --expect or --golden asks for it: then the exit code
is that of the comparison. Else 0 says that everything asked for was predicted:
with --pcr, 3 says that one of these is missing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			const op = "tpm predict"
			targets, err := c.targets()
			if err != nil {
				return err
			}
			asked, err := pcrList(op, pcrs)
			if err != nil {
				return err
			}
			p, err := f.platform(op, cmd)
			if err != nil {
				return err
			}
			return a.tpmPredict(cmd.Context(), op, p, asked, &c, targets, pcrlock, tracing)
		},
	}
	f.flags(cmd)
	cmd.Flags().StringVar(&pcrs, "pcr", "", "PCRs wanted, as 4,7,9-12 (default: all)")
	cmd.Flags().StringVar(&pcrlock, "pcrlock", "", "write the prediction as a .pcrlock file of systemd-pcrlock; assumed PCRs are left out")
	cmd.Flags().BoolVar(&tracing, "trace", false, "show every labeled event")
	c.flags(cmd)
	return cmd
}

// pcrList reads 4,7,9-12; nil is all.
func pcrList(op, text string) ([]int, error) {
	if text == "" {
		return nil, nil
	}
	var out []int
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || first < 0 || last < first || last >= pcrmeasure.Count {
			return nil, &userError{op: op, msg: fmt.Sprintf("--pcr %.80q: want PCRs 0 to %d", text, pcrmeasure.Count-1), hint: "for instance --pcr 4,7,9-12"}
		}
		for n := first; n <= last; n++ {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// tpmPrediction is the result of tpm predict.
type tpmPrediction struct {
	PCRs     map[string]map[string]string      `json:"pcrs"`
	Missing  map[string]string                 `json:"missing"`
	Assumed  []string                          `json:"assumed,omitempty"`
	Findings []pcrmeasure.Finding              `json:"findings"`
	Traces   map[string]map[string]trace.Trace `json:"trace,omitempty"`
	Outcome  pipeline.Outcome                  `json:"outcome,omitempty"`
	Compared []pcrComparison                   `json:"compared,omitempty"`
}

func (a *app) tpmPredict(ctx context.Context, op string, p *config.Platform, asked []int, c *comparison, targets []target, pcrlock string, tracing bool) error {
	v := tpmPrediction{PCRs: map[string]map[string]string{}, Missing: map[string]string{}, Findings: []pcrmeasure.Finding{}}
	wanted := func(i int) bool { return asked == nil || slices.Contains(asked, i) }
	var list []*pcrmeasure.Prediction
	stage := tpm.StageSeeing(func(_ string, p *pcrmeasure.Prediction) { list = append(list, p) })
	progress := new(run.Progress)
	stop := a.showProgress(progress)
	res, err := run.Run(ctx, []run.Stage{stage}, &config.Config{Version: 1, Platforms: map[string]config.Platform{tpmMachine: *p}}, run.Options{
		Root: ".", Subject: "the machine that the flags describe", Tool: tool(), Allow: c.allow, Progress: progress,
	})
	stop()
	if err != nil {
		return tpmTrouble(op, err)
	}
	if tracing {
		v.Traces = map[string]map[string]trace.Trace{}
	}
	assumed := map[int]bool{}
	for _, q := range list {
		v.add(q, wanted, tracing, assumed)
	}
	for _, i := range slices.Sorted(maps.Keys(assumed)) {
		v.Assumed = append(v.Assumed, strconv.Itoa(i))
	}
	compared := len(p.Expect) > 0 || p.Golden != "" || p.AppRoot != "" && p.AppDisk != ""
	if compared {
		v.Outcome = res.Report.Outcome
		v.compare(res.Report)
	}
	for _, t := range targets {
		var b bytes.Buffer
		if err := t.format.Render(&b, res.Report); err != nil {
			return &userError{op: "write report", path: t.path, err: err}
		}
		if err := atomicfile.Write(t.path, b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	if pcrlock != "" {
		if err := a.writePcrlock(op, pcrlock, p, list); err != nil {
			return err
		}
	}
	end := computes()
	switch {
	case compared:
		end = reported(res.Report)
	case asked != nil && len(v.Missing) > 0:
		end = concludes(pipeline.OutcomeUnchecked)
		for _, i := range asked {
			if why, ok := v.Missing[strconv.Itoa(i)]; ok {
				end.reasons = append(end.reasons, fmt.Sprintf("PCR %d is missing: %s", i, why))
			}
		}
	}
	return a.concluded(c.output, end, &v, func(io.Writer) { a.printPrediction(&v, list, wanted, tracing) })
}

// pcrComparison is an expected value and what came out.
type pcrComparison struct {
	Bank    string           `json:"bank"`
	PCR     int              `json:"pcr"`
	Got     string           `json:"got"`
	Want    string           `json:"want"`
	Verdict pipeline.Verdict `json:"verdict"`
	Why     string           `json:"why,omitempty"`
}

func (v *tpmPrediction) assumes(pcr int) bool { return slices.Contains(v.Assumed, strconv.Itoa(pcr)) }

// add takes one bank's prediction in.
func (v *tpmPrediction) add(q *pcrmeasure.Prediction, wanted func(int) bool, tracing bool, assumed map[int]bool) {
	bank := q.Bank.String()
	v.PCRs[bank] = map[string]string{}
	if tracing {
		v.Traces[bank] = map[string]trace.Trace{}
	}
	for i := range pcrmeasure.Count {
		n := strconv.Itoa(i)
		switch got := q.PCRs[i]; {
		case !wanted(i):
		case got == nil:
			v.Missing[n] = q.Missing[i]
		default:
			v.PCRs[bank][n] = got.Value.Hex()
			if got.Basis == pcrmeasure.Assumed {
				assumed[i] = true
			}
			if tracing {
				v.Traces[bank][n] = got.Trace
			}
		}
	}
	for _, f := range q.Findings {
		if !slices.Contains(v.Findings, f) {
			v.Findings = append(v.Findings, f)
		}
	}
}

// compare takes over what the report says of each expected value.
func (v *tpmPrediction) compare(r *pipeline.Report) {
	for _, f := range r.Findings {
		_, bank, index, ok := tpm.ParseKey(f.Key)
		if !ok {
			continue
		}
		c := pcrComparison{Bank: bank.String(), PCR: index, Want: f.Want.Digest().Hex(), Verdict: f.Verdict}
		if f.Got.Kind() == pipeline.DigestKind {
			c.Got = f.Got.Digest().Hex()
		}
		var why []string
		for _, cause := range f.Why {
			why = append(why, fmt.Sprintf("%s (%s)", cause.Note, cause.Standing))
		}
		c.Why = strings.Join(why, "; ")
		v.Compared = append(v.Compared, c)
	}
}

func (a *app) printPrediction(v *tpmPrediction, list []*pcrmeasure.Prediction, wanted func(int) bool, tracing bool) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	for _, q := range list {
		for i := range pcrmeasure.Count {
			got := q.PCRs[i]
			switch {
			case !wanted(i):
				continue
			case got == nil:
				line("%s pcr%-2d  missing: %s", q.Bank, i, q.Missing[i])
				continue
			}
			line("%s pcr%-2d  %s  %s", q.Bank, i, got.Value.Hex(), got.Basis)
			for _, n := range got.Notes {
				line("  %s", n)
			}
			if tracing {
				a.printTrace(got.Trace)
			}
		}
	}
	for _, f := range v.Findings {
		line("finding   %s: %s", f.Code, f.Text)
	}
	for _, c := range v.Compared {
		switch {
		case c.Verdict == pipeline.Match && v.assumes(c.PCR):
			line("expected  %s pcr%d is equal, but assumed", c.Bank, c.PCR)
		case c.Verdict == pipeline.Match:
			line("expected  %s pcr%d agrees", c.Bank, c.PCR)
		case c.Got == "":
			line("expected  %s pcr%d was not predicted: expected %s", c.Bank, c.PCR, c.Want)
		default:
			line("expected  %s pcr%d DIFFERS: expected %s", c.Bank, c.PCR, c.Want)
			if c.Why != "" {
				line("  %s", c.Why)
			}
		}
	}
	if v.Outcome != "" {
		line("outcome   %s", v.Outcome)
	}
}

// tpmTrouble takes off an error what belongs to a configuration.
func tpmTrouble(op string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	var in *pipeline.InputError
	if errors.As(err, &in) {
		return &userError{op: op, path: in.File, err: in.Err, hint: in.Hint}
	}
	for {
		_, ofStage := err.(*run.StageError)
		if !ofStage && !strings.HasPrefix(err.Error(), "platform "+tpmMachine+": ") {
			break
		}
		inner := errors.Unwrap(err)
		if inner == nil {
			break
		}
		err = inner
	}
	e := &userError{op: op, err: err}
	var fault *place.Fault
	if errors.As(err, &fault) {
		e.hint = fault.Hint
	}
	return e
}
