package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/tdxmeasure"
)

func (a *app) tdxCommand() *cobra.Command {
	return group("tdx", "Measurement registers of an Intel TDX machine, from its artifacts or from an event log",
		a.tdxMeasureCommand(), a.tdxReplayCommand(), a.tdxReproduceCommand())
}

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
	asked, err := tdx.ParseAsked(op, f.only)
	if err != nil {
		return plain(err)
	}
	f.td.p.Expect, f.td.p.Given = map[string]string{}, map[string]string{}
	expected, err := tdx.ParseRegisters(op, "expect", f.expect, f.td.p.Expect)
	if err == nil {
		_, err = tdx.ParseRegisters(op, "given", f.given, f.td.p.Given)
	}
	if err != nil {
		return plain(err)
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
	rep, m, err := a.measureMachine(ctx, op, p, run.Options{Allow: f.allow, Reader: reader, Field: f.td.field, Wanted: asked.Keys()})
	if err != nil {
		return err
	}
	v := tdx.NewMeasured(rep, m, asked)
	if text, hint := v.Refused(op, m, f.only); text != "" {
		return &joinedError{&userError{op: op, msg: text, hint: hint}}
	}
	if asked["rtmr0"] {
		a.assumes(m)
	}
	if m.Profile().Name == "secretvm" {
		a.otherReading(ctx, op, p, m.Shape(), "reproduce-mr", "the published tool (retally tdx reproduce-mr)", rep, reader)
	}
	v.Compare(expected)
	if err := v.CompareLog(ctx, reader, p.Log); err != nil {
		return registerTrouble(op, err)
	}
	if c, ok := v.Differing(); ok {
		v.Hint = fmt.Sprintf("retally explain %s --search --want %s%s", c.Register, c.Want, f.td.commandLine())
	}
	if f.trace {
		v.ShowTraces()
	}
	computes := len(f.expect) == 0 && p.Log == "" && len(v.Problems) == 0
	return a.finish(&f.comparison, targets, rep, view{json: v.JSON(), text: v.Text, computes: computes})
}

// assumes tells on stderr which machine the values are of: what no flag gave is
// the profile's.
func (a *app) assumes(m *tdx.Machine) {
	if shape := m.Shape(); shape != "" {
		a.talk("note: the machine that is assumed: %s (profile %s)", shape, m.Profile().Name)
	}
}

// otherReading tells on stderr if the other of two programs takes another machine
// for the same files. It is a note: where that one cannot be computed, none is
// made.
func (a *app) otherReading(ctx context.Context, op string, p config.Platform, shape, profile, who string, rep *pipeline.Report, reader *run.Reader) {
	if a.quiet || p.ACPISource == "qemu" {
		return
	}
	names := []string{"mrtd", "rtmr0", "rtmr1", "rtmr2"} // rtmr3 is of the files alone
	asked, err := tdx.ParseAsked(op, names)
	if err != nil {
		return
	}
	p.Profile, p.Expect, p.Given, p.Log = profile, nil, nil, ""
	p.Compose, p.Rootfs = "", ""
	other, m, err := a.measureMachine(ctx, op, p, run.Options{Reader: reader, Wanted: asked.Keys()})
	if err != nil {
		return
	}
	value := func(r *pipeline.Report, name string) digest.Digest {
		for _, ms := range r.Measurements {
			if tdx.RegisterOf(ms.Key) == name {
				return ms.Value.Digest()
			}
		}
		return digest.Digest{}
	}
	var differ []string
	for _, name := range names {
		if a, b := value(rep, name), value(other, name); !a.IsZero() && !b.IsZero() && a != b {
			differ = append(differ, name)
		}
	}
	if len(differ) > 0 {
		why := "its machine is " + m.Shape()
		if m.Shape() == shape {
			why = "its profile " + profile + " takes another behavior of firmware and hypervisor"
		}
		a.talk("note: %s gives another %s for the same files: %s", who, strings.Join(differ, ", "), why)
	}
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
	m, err := tdx.Open(ctx, run.NewIn(cfg, o.Reader).As(o.Field, o.Wanted), tdx.ByFlags)
	if err == nil {
		err = m.Close()
	}
	if err != nil {
		return nil, nil, registerTrouble(op, err)
	}
	return res.Report, m, nil
}

// registerTrouble gives an error of the stage the form of all others: the
// registers that it kept from being computed, and why, a line each.
func registerTrouble(op string, err error) error {
	var u *userError
	if errors.Is(err, context.Canceled) {
		return err
	} else if errors.As(err, &u) {
		return u
	}
	t := tdx.Explain(op, err)
	if t.Text != "" {
		return &joinedError{&userError{op: op, path: t.Path, msg: t.Text, hint: t.Hint}}
	}
	return plain(&pipeline.InputError{Op: op, File: t.Path, Err: t.Err, Hint: t.Hint})
}

// tdxTrouble gives the rooms' errors the form of all others.
func tdxTrouble(op string, err error) error {
	var u *userError
	if err == nil || errors.As(err, &u) {
		return err
	}
	return &userError{op: op, err: err, hint: tdx.HintOf(err)}
}

// joinedError has its operation in every line of its message already.
type joinedError struct{ *userError }

func (e *joinedError) Error() string { return e.msg }

func (e *joinedError) Unwrap() error { return e.userError }
