package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/tdxmeasure"
)

func (a *app) tdxCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tdx",
		Short: "Measurement registers of an Intel TDX machine, from its artifacts or from an event log",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.tdxMeasureCommand(), a.tdxReplayCommand(), a.tdxReproduceCommand())
	return cmd
}

// The registers by their names in every form of output; index 0 is MRTD, 1+i
// is RTMR i.
var tdxRegisters = tdx.Registers

// measureFlags are the flags that only `tdx measure` has.
type measureFlags struct {
	comparison
	td            tdxFlags
	only          []string
	expect, given []string
	trace         bool
}

func (a *app) tdxMeasureCommand() *cobra.Command {
	var f measureFlags
	cmd := &cobra.Command{
		Use:   "measure --profile NAME --firmware FILE --kernel FILE [flags]",
		Short: "Compute MRTD, RTMR0 to RTMR3 and their aggregates from firmware, kernel, initrd, command line and the machine's shape",
		Long: `Compute the registers of a TDX machine from its artifacts. How hypervisor and
firmware behave is a profile; each of its switches has a flag. It is a run over
the one machine that the flags describe, as retally run over a platform of
retally.yaml, whose fields have the same names.

Nothing is compared unless --expect or --log asks for it: then the exit code is
that of the comparison, else 0 says that everything asked for was computed.

A register whose artifacts are missing is an error, unless --only names those
that are wanted. For an absent initrd, command line, compose file, root file
system, size or number of vCPUs that of the vendors' tools is taken; it is noted,
and what rests on it is assumed: it agrees with nothing for good (exit code 3).`,
		Example: `  retally tdx measure --profile secretvm --firmware ovmf.fd --kernel bzImage --initrd initramfs.cpio.gz \
    --cmdline "console=ttyS0 loglevel=7 clearcpuid=mtrr,rtmr ro initrd=initrd" --memory 2G --vcpus 1 \
    --compose docker-compose.yaml --rootfs rootfs.iso
  retally tdx measure --profile dstack --metadata dstack-0.5.4/metadata.json --vcpus 4 --memory 8G --only mrtd,rtmr0,rtmr1,rtmr2
  retally tdx measure --metadata metadata.json --trace`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.tdxMeasure(cmd.Context(), &f) },
	}
	f.td.sharedFlags(cmd, func() []string { return a.args })
	cmd.Flags().StringSliceVar(&f.only, "only", nil, "registers wanted: "+strings.Join(tdx.Registers[:], ", ")+", "+strings.Join(tdx.Aggregates, ", ")+" (default: all)")
	cmd.Flags().StringArrayVar(&f.expect, "expect", nil, "compare, as REGISTER=HEX; may be given several times")
	cmd.Flags().StringArrayVar(&f.given, "given", nil, "take a register as given instead of computing it, as REGISTER=HEX, for the aggregates; may be given several times")
	cmd.Flags().StringVar(&f.td.p.Log, "log", "", "compare with an event log of the machine (CCEL or dstack's JSON), event by event")
	cmd.Flags().BoolVar(&f.trace, "trace", false, "show every labeled event of every register")
	f.comparison.flags(cmd)
	return cmd
}

func (a *app) tdxMeasure(ctx context.Context, f *measureFlags) error {
	const op = "tdx measure"
	targets, err := f.targets()
	if err != nil {
		return err
	}
	asked, err := askedRegisters(op, f.only)
	if err != nil {
		return err
	}
	if err := f.registers(op); err != nil {
		return err
	}
	reader := run.NewReader(".", nil)
	p, err := f.td.platform(a, op, reader)
	if err != nil {
		return err
	}
	for name := range p.Expect {
		if !asked[name] {
			return &userError{op: op, msg: fmt.Sprintf("--expect %s: not among the registers of --only", name), hint: "add it to --only"}
		}
	}
	rep, m, err := a.measureMachine(ctx, op, p, run.Options{Allow: f.allow, Reader: reader, Field: f.td.field, Wanted: wantedKeys(asked)})
	if err != nil {
		return err
	}
	v := newTDXView(rep, m, asked)
	if err := v.refuse(op, m, f.only); err != nil {
		return err
	}
	if err := v.compared(f.expected()); err != nil {
		return err
	}
	if err := v.compareLog(ctx, reader, p.Log, asked); err != nil {
		return registerTrouble(op, err)
	}
	v.searchHint(&f.td)
	if f.trace {
		v.Trace = v.traces
	}
	if err := a.writeReports(&f.comparison, targets, rep); err != nil {
		return err
	}
	if f.output == "json" {
		err = writeJSON(a.stdout, v.document())
	} else {
		a.printTDX(v, f.trace)
	}
	switch {
	case err != nil:
		return err
	case len(f.expect) > 0 || p.Log != "" || len(v.Problems) > 0:
		return outcome(rep.Outcome)
	}
	return nil
}

// measureMachine runs the stage over one machine that flags describe.
func (a *app) measureMachine(ctx context.Context, op string, p config.Platform, o run.Options) (*pipeline.Report, *tdx.Machine, error) {
	var qemu tdxmeasure.Source
	if p.ACPISource == "qemu" {
		var err error
		if qemu, err = a.qemuSources(op); err != nil {
			return nil, nil, err
		}
	}
	o.Root, o.Subject, o.Tool, o.Progress = ".", "the machine that the flags describe", tool(), new(run.Progress)
	cfg := configuration(p)
	stop := a.showProgress(o.Progress)
	res, err := run.Run(ctx, []run.Stage{tdx.StageWith(qemu)}, cfg, o)
	stop()
	if err != nil {
		return nil, nil, registerTrouble(op, err)
	}
	m, err := tdx.Open(ctx, run.NewIn(cfg, o.Reader).As(o.Field, o.Wanted), flagMachine)
	if err == nil {
		err = m.Close()
	}
	if err != nil {
		return nil, nil, registerTrouble(op, err)
	}
	return res.Report, m, nil
}

// registers reads --expect and --given.
func (f *measureFlags) registers(op string) error {
	f.td.p.Expect, f.td.p.Given = map[string]string{}, map[string]string{}
	for _, l := range []struct {
		flag string
		list []string
		to   map[string]string
	}{{"expect", f.expect, f.td.p.Expect}, {"given", f.given, f.td.p.Given}} {
		for _, text := range l.list {
			name, value, ok := strings.Cut(text, "=")
			name = strings.ToLower(name)
			if _, twice := l.to[name]; !ok || twice {
				return &userError{op: op, msg: fmt.Sprintf("--%s %.120q: want REGISTER=HEX, each once", l.flag, text), hint: "for instance --" + l.flag + " rtmr0=671800f0..."}
			}
			l.to[name] = strings.ToLower(strings.TrimPrefix(value, "0x"))
		}
	}
	return nil
}

// expected are the registers that --expect names, in its order.
func (f *measureFlags) expected() []registerComparison {
	var out []registerComparison
	for _, text := range f.expect {
		name, _, _ := strings.Cut(text, "=")
		name = strings.ToLower(name)
		out = append(out, registerComparison{Register: name, Want: f.td.p.Expect[name]})
	}
	return out
}

// askedRegisters checks --only; without it everything is asked for.
func askedRegisters(op string, only []string) (map[string]bool, error) {
	asked := map[string]bool{}
	known := append(slices.Clone(tdx.Registers[:]), tdx.Aggregates...)
	if len(only) == 0 {
		for _, k := range known {
			asked[k] = true
		}
	}
	for _, o := range only {
		name := strings.ToLower(strings.TrimSpace(o))
		if err := oneWord(op, "only", name, known...); err != nil {
			return nil, err
		}
		asked[name] = true
	}
	return asked, nil
}

// oneWord checks a flag that takes a word from a list.
func oneWord(op, name, got string, known ...string) error {
	if slices.Contains(known, got) {
		return nil
	}
	e := &userError{op: op, msg: fmt.Sprintf("--%s %.80q: unknown word", name, got), hint: "known: " + strings.Join(known, ", ")}
	if near := yamldoc.Nearest(got, known); near != "" {
		e.hint = fmt.Sprintf("did you mean --%s %s? known: %s", name, near, strings.Join(known, ", "))
	}
	return e
}

// wantedKeys are the asked values as keys.
func wantedKeys(asked map[string]bool) []string {
	var out []string
	for name := range asked {
		out = append(out, string(pipeline.NewKey("tdx", flagMachine, name)))
	}
	slices.Sort(out)
	return out
}

// registerTrouble gives an error of the stage the form of all others: the
// registers that it kept from being computed, and why, a line each.
func registerTrouble(op string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	var list []*tdx.RegisterError
	var collect func(error)
	collect = func(err error) {
		switch e := err.(type) {
		case *tdx.RegisterError:
			list = append(list, e)
		case interface{ Unwrap() []error }:
			for _, sub := range e.Unwrap() {
				collect(sub)
			}
		case interface{ Unwrap() error }:
			collect(e.Unwrap())
		}
	}
	collect(err)
	if len(list) == 0 {
		return machineTrouble(op, err)
	}
	var lines []string
	for _, e := range list {
		_, text, _ := strings.Cut(machineTrouble(op, e.Err).Error(), op)
		lines = append(lines, op+" "+strings.Join(e.Registers, ", ")+": "+strings.TrimPrefix(strings.TrimPrefix(text, ":"), " "))
	}
	first, _ := machineTrouble(op, list[0].Err).(*userError)
	e := &userError{op: op, msg: strings.Join(lines, "\n")}
	if first != nil {
		e.hint, e.path = first.hint, first.path
	}
	var file *tdxmeasure.FileError
	if errors.As(err, &file) {
		e.path = file.Name
	}
	return &joinedError{e}
}

// machineTrouble takes off an error what belongs to a configuration.
func machineTrouble(op string, err error) error {
	var u *userError
	if errors.As(err, &u) {
		return u
	}
	for {
		if all, ok := err.(interface{ Unwrap() []error }); ok && len(all.Unwrap()) == 1 {
			err = all.Unwrap()[0]
			continue
		}
		_, stage := err.(*run.StageError)
		if !stage && !strings.HasPrefix(err.Error(), "platform "+flagMachine+": ") {
			break
		}
		if err = errors.Unwrap(err); err == nil {
			return &userError{op: op, msg: "failed"}
		}
	}
	var in *pipeline.InputError
	if errors.As(err, &in) {
		return &userError{op: op, path: in.File, err: in.Err, hint: in.Hint}
	}
	e := &userError{op: op, err: err}
	var fault *run.Fault
	if errors.As(err, &fault) {
		e.hint = fault.Hint
		if err == error(fault) {
			e.err = fault.Err
		}
		return e
	}
	return tdxTrouble(op, err)
}

// joinedError has its operation in every line of its message already.
type joinedError struct{ *userError }

func (e *joinedError) Error() string { return e.msg }

func (e *joinedError) Unwrap() error { return e.userError }
