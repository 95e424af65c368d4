package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/reproducemr"
)

func (a *app) tdxReplayCommand() *cobra.Command {
	var (
		output string
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
			asked, err := askedRegisters(op, tdxRegisters[1:])
			if err != nil {
				return err
			}
			expected, err := expectations(op, "expect", expect, asked)
			if err != nil {
				return err
			}
			data, err := a.readInput(op, args[0], tdxPipe)
			if err != nil {
				return err
			}
			log, format, err := tdxmeasure.ReplayLog(args[0], embedded(data, "event_log"))
			if err != nil {
				return tdxTrouble(op, err)
			}
			r := replayReport(log, format)
			bad := len(r.Problems) > 0
			for _, c := range expected {
				c.Got = log.RTMR[c.Register[len("rtmr")]-'0'].Hex()
				c.Match = c.Got == c.Want
				bad = bad || !c.Match
				r.Compared = append(r.Compared, c)
			}
			if output == "json" {
				err = writeJSON(a.stdout, r)
			} else {
				a.printReplay(r)
			}
			if err == nil && bad {
				err = outcomeError{exitDiffers}
			}
			return err
		},
	}
	cmd.Flags().StringArrayVar(&expect, "expect", nil, "compare, as rtmr0=HEX; may be given several times")
	outputFlag(cmd, &output)
	return cmd
}

// tdxReplay is the result of tdx replay.
type tdxReplay struct {
	Format   tdxmeasure.LogFormat `json:"format"`
	RTMR0    string               `json:"rtmr0"`
	RTMR1    string               `json:"rtmr1"`
	RTMR2    string               `json:"rtmr2"`
	RTMR3    string               `json:"rtmr3"`
	Events   []replayedEvent      `json:"events"`
	Problems []string             `json:"problems"`
	Compared []registerComparison `json:"compared,omitempty"`
}

type replayedEvent struct {
	Register string        `json:"register"`
	Index    int           `json:"index"` // within the register
	Label    string        `json:"label"`
	Digest   digest.Digest `json:"digest"`
	Offset   int64         `json:"offset"` // in the log
}

func replayReport(log *tdxmeasure.Replayed, format tdxmeasure.LogFormat) *tdxReplay {
	r := &tdxReplay{
		Format: format, RTMR0: log.RTMR[0].Hex(), RTMR1: log.RTMR[1].Hex(), RTMR2: log.RTMR[2].Hex(), RTMR3: log.RTMR[3].Hex(),
		Events: []replayedEvent{}, Problems: append([]string{}, log.Problems...),
	}
	for i, t := range log.Trace {
		for n, e := range t.Events {
			r.Events = append(r.Events, replayedEvent{tdxRegisters[i+1], n, e.Label, e.Digest, e.Origin.Offset})
		}
	}
	return r
}

func (a *app) printReplay(r *tdxReplay) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	for i, value := range []string{r.RTMR0, r.RTMR1, r.RTMR2, r.RTMR3} {
		name := tdxRegisters[i+1]
		line("%s  %s  replayed", name, value)
		for _, e := range r.Events {
			if e.Register == name {
				line("  %3d  %s  %s", e.Index, e.Digest.Hex(), e.Label)
			}
		}
	}
	for _, p := range r.Problems {
		line("CONTRADICTION  %s", p)
	}
	for _, c := range r.Compared {
		if c.Match {
			line("expected  %s agrees", c.Register)
		} else {
			line("expected  %s DIFFERS: expected %s", c.Register, c.Want)
		}
	}
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
-json or -o json prints one object. Usage and errors go to stderr.

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
				fmt.Fprintln(a.stdout, cmd.Long)
				fmt.Fprintln(a.stdout)
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
			in := &inputs{app: a, op: op}
			defer in.close()
			var out *reproducemr.Output
			err = in.counted(func() error {
				out, _, err = o.Measure(cmd.Context(), in.opener(), func(name string) ([]byte, error) { return in.small("acpi", name) })
				return err
			})
			if err != nil {
				return tdxTrouble(op, err)
			}
			return out.Write(a.stdout, o.JSON || asJSON)
		},
	}
}

// opener opens files for a room; all are closed with the inputs.
func (in *inputs) opener() reproducemr.Open {
	return func(name string) (tdxmeasure.Input, io.Closer, error) {
		i, err := in.artifact("file", name)
		var u *userError
		if errors.As(err, &u) {
			u.hint = "" // one file of several; the name in the message tells which
		}
		return i, io.NopCloser(nil), err
	}
}

// reproduceValues are reproduce-mr's flags that the next argument belongs to.
var reproduceValues = []string{
	"fw", "kernel", "initrd", "rootfs", "dockercompose", "dockerfiles", "memory", "cpu", "cmdline", "mrkp", "tcbver", "acpi", "acpi-family",
}

// foreignArgs takes retally's own flags out of another program's arguments.
func (a *app) foreignArgs(args []string) (rest []string, asJSON bool, err error) {
	output := "text"
	for i := 0; i < len(args); i++ {
		name, value, attached := strings.Cut(args[i], "=")
		var to *string
		switch name {
		case "-o", "--output":
			to = &output
		case "--color":
			to = &a.color
		case "--progress":
			to = &a.progress
		case "-q", "--quiet":
			a.quiet = true
			continue
		case "-v", "--verbose":
			a.verbose = true
			continue
		case "-ojson":
			output = "json"
			continue
		default:
			rest = append(rest, args[i])
			// A value may look like one of ours.
			if !attached && i+1 < len(args) && slices.Contains(reproduceValues, strings.TrimLeft(name, "-")) {
				i++
				rest = append(rest, args[i])
			}
			continue
		}
		if !attached {
			if i++; i == len(args) {
				return nil, false, &userError{op: "tdx reproduce-mr", msg: name + " needs a value"}
			}
			value = args[i]
		}
		*to = value
	}
	if err := oneOf("--output", output, "text", "json"); err != nil {
		return nil, false, err
	}
	return rest, output == "json", a.checkGlobals()
}
