package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/tdxmeasure/reproducemr"
)

func (a *app) tdxReplayCommand() *cobra.Command {
	var (
		flags  comparison
		expect []string
	)
	cmd := &cobra.Command{
		Use:   "replay LOG",
		Short: "Fold an event log into RTMR0 to RTMR3 and check that its events fit their own data",
		Long: `Fold an event log into RTMR0 to RTMR3. LOG is the binary log of a guest
(/sys/firmware/acpi/tables/data/CCEL), dstack's JSON list, or a reply that
holds it in event_log; - is stdin. A log proves nothing by itself: its
registers must be those of a verified quote. An event whose digest contradicts
its own data is a problem and ends with exit code 1.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			const op = "tdx replay"
			targets, err := flags.targets(args...)
			if err != nil {
				return err
			}
			expected, err := tdx.ParseExpected(op, expect)
			if err != nil {
				return plain(err)
			}
			data, err := a.readInput(op, args[0], pipeLimit)
			if err != nil {
				return err
			}
			r, err := tdx.ReplayLog(args[0], data, expected)
			if err != nil {
				return tdxTrouble(op, err)
			}
			out, err := r.Out()
			if err != nil {
				return err
			}
			v := view{json: r, text: r.Text, computes: len(expected)+len(r.Problems) == 0}
			if !slices.ContainsFunc(r.Compared, func(c tdx.RegisterComparison) bool { return !c.Match }) {
				v.differs = wordInvalid // the log contradicts itself
			}
			return a.judged(&flags, targets, "the registers that "+args[0]+" folds to", out, v)
		},
	}
	cmd.Flags().StringArrayVar(&expect, "expect", nil, "compare, as rtmr0=HEX; may be given several times")
	flags.flags(cmd)
	return cmd
}

// tdxReproduceCommand takes another program's flags, so cobra must leave them
// alone. Our own global flags and -o are taken out first.
func (a *app) tdxReproduceCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reproduce-mr -fw FILE -kernel FILE [flags]",
		Short: "The published tool reproduce-mr: its single-dash flags, its output lines",
		Long: `Take the flags of SecretVM's reproduce-mr and print its lines, so that published
instructions work with the program's name changed. Its files
template_qemu_cpu<N>.hex are not needed: the tables are built in, those of the
guide's sample (QEMU 8.2, no PIC, with COM1); -acpi takes a file instead.
-json or -o json prints one object. Usage and errors go to stderr, and so does
which machine is assumed, and whether "retally tdx measure --profile secretvm",
which describes the hosts of today, takes another one for the same files.

Flags: -fw -kernel -initrd -rootfs -dockercompose -dockerfiles -memory -cpu
-cmdline -mrkp -tcbver -json, and ours: -acpi -acpi-family -pic -no-com1.
"retally tdx reproduce-mr --help" explains each.`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			const op = "tdx reproduce-mr"
			args, asJSON, err := a.foreignArgs(args)
			if err != nil {
				return err
			}
			o, err := reproducemr.Parse(args, io.Discard)
			var usage *reproducemr.UsageError
			switch {
			case errors.Is(err, flag.ErrHelp):
				fmt.Fprintf(a.stdout, "%s\n\nExamples:\n%s\n\n", cmd.Long, cmd.Example)
				_, _ = reproducemr.Parse([]string{"-h"}, a.stdout)
				return nil
			case errors.As(err, &usage):
				if len(args) == 0 && !asJSON {
					_, _ = reproducemr.Parse([]string{"-h"}, a.stderr)
				}
				return &userError{op: op, err: err, hint: "retally tdx reproduce-mr --help lists the flags"}
			case err != nil:
				return tdxTrouble(op, err)
			}
			out, err := a.reproduce(cmd.Context(), op, o)
			if err != nil {
				return err
			}
			if o.JSON || asJSON {
				return a.result("json", out, nil)
			}
			return out.Write(a.stdout)
		},
	}
}

// reproduce measures the machine that the tool's flags describe.
func (a *app) reproduce(ctx context.Context, op string, o *reproducemr.Options) (*reproducemr.Output, error) {
	p, err := tdx.Reproduced(o)
	if err != nil {
		return nil, tdxTrouble(op, err)
	}
	field := func(_ string, path ...string) string { return "-" + tdx.ReproduceName(path[len(path)-1]) }
	at := func(msg, hint string, path ...string) error {
		return &userError{op: op, msg: field("", path...) + " " + msg, hint: hint}
	}
	if err := tdx.Check(&p, at, func(name, _ string) string { return field("", name) }); err != nil {
		return nil, err
	}
	reader := run.NewReader(".", nil)
	if err := a.holdPipes(op, reader, tdx.Files(&p)); err != nil {
		return nil, err
	}
	rep, m, err := a.measureMachine(ctx, op, p, run.Options{Reader: reader, Field: field})
	if err != nil {
		return nil, err
	}
	a.assumes(m)
	a.otherReading(ctx, op, p, m.Shape(), "secretvm", "retally tdx measure --profile secretvm", rep, reader)
	out, err := tdx.ReproduceOutput(rep)
	if err != nil {
		return nil, &userError{op: op, err: err}
	}
	return out, nil
}

// foreignArgs takes retally's own flags out of another program's arguments.
func (a *app) foreignArgs(args []string) (rest []string, asJSON bool, err error) {
	output := "text"
	rest, err = reproducemr.Own(args,
		map[string]*string{"-o": &output, "--output": &output, "--color": &a.color, "--progress": &a.progress},
		map[string]*bool{"-q": &a.quiet, "--quiet": &a.quiet, "-v": &a.verbose, "--verbose": &a.verbose})
	if err != nil {
		return nil, false, &userError{op: "tdx reproduce-mr", err: err}
	}
	if err := oneOf("--output", output, "text", "json"); err != nil {
		return nil, false, err
	}
	return rest, output == "json", a.checkGlobals()
}
