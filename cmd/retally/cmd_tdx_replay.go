package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/tdx"
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
			expected, err := expectations(op, expect)
			if err != nil {
				return err
			}
			data, err := a.readInput(op, args[0], pipeLimit)
			if err != nil {
				return err
			}
			log, format, err := tdxmeasure.ReplayLog(args[0], tdxmeasure.Embedded(data, "event_log"))
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

// expectations reads REGISTER=HEX of a log's registers.
func expectations(op string, list []string) ([]registerComparison, error) {
	var out []registerComparison
	for _, text := range list {
		name, want, ok := strings.Cut(text, "=")
		name = strings.ToLower(name)
		b, err := hex.DecodeString(strings.ToLower(strings.TrimPrefix(want, "0x")))
		switch {
		case !ok || !slices.Contains(tdxRegisters[1:], name):
			return nil, &userError{op: op, msg: fmt.Sprintf("--expect %.120q: want REGISTER=HEX", text), hint: "for instance --expect rtmr0=671800f0..., of " + strings.Join(tdxRegisters[1:], ", ")}
		case err != nil || len(b) != digest.SHA384.Size():
			return nil, &userError{op: op, msg: fmt.Sprintf("--expect %.120q: want 96 hex digits", text)}
		}
		out = append(out, registerComparison{Register: name, Want: hex.EncodeToString(b)})
	}
	return out, nil
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
			out, err := a.reproduce(cmd.Context(), op, o)
			if err != nil {
				return err
			}
			return out.Write(a.stdout, o.JSON || asJSON)
		},
	}
}

// reproduce measures the machine that the tool's flags describe.
func (a *app) reproduce(ctx context.Context, op string, o *reproducemr.Options) (*reproducemr.Output, error) {
	order, err := o.PageOrder()
	if err != nil {
		return nil, tdxTrouble(op, err)
	}
	p := config.Platform{
		TEE: "tdx", Profile: "reproduce-mr", Firmware: &o.Firmware, Kernel: &o.Kernel, Initrd: &o.Initrd, Cmdline: &o.Cmdline, Memory: strconv.FormatUint(o.Memory, 10),
		VCPUs: config.Counts{o.VCPUs}, Rootfs: o.Rootfs, Compose: o.Compose, DockerFiles: o.DockerFiles, KeyProvider: o.KeyProvider, PageOrder: string(order), ACPI: o.ACPI, ACPIFamily: o.QEMUFamily,
	}
	if o.PIC {
		p.PIC = &o.PIC
	}
	if o.NoCOM1 {
		p.COM1 = new(false)
	}
	field := func(_ string, path ...string) string { return "-" + reproduceNames[path[len(path)-1]] }
	at := func(msg, hint string, path ...string) error {
		return &userError{op: op, msg: field("", path...) + " " + msg, hint: hint}
	}
	if err := tdx.Check(&p, at, func(name, _ string) string { return field("", name) }); err != nil {
		return nil, err
	}
	reader := run.NewReader(".", nil)
	var f tdxFlags
	if err := a.holdPipes(op, reader, f.files(&p)); err != nil {
		return nil, err
	}
	rep, _, err := a.measureMachine(ctx, op, p, run.Options{Reader: reader, Field: field})
	if err != nil {
		return nil, err
	}
	out := new(reproducemr.Output)
	to := map[string]*string{
		"mrtd": &out.MRTD, "rtmr0": &out.RTMR0, "rtmr1": &out.RTMR1, "rtmr2": &out.RTMR2, "rtmr3": &out.RTMR3, "mr_aggregated": &out.Aggregated, "mr_image": &out.Image,
	}
	for _, m := range rep.Measurements {
		if value, ok := to[tdx.RegisterOf(m.Key)]; ok {
			*value = m.Value.Digest().Hex()
		}
	}
	for name, value := range to {
		if *value == "" {
			return nil, &userError{op: op, msg: name + " could not be computed"}
		}
	}
	return out, nil
}

// reproduceNames are the tool's names of the fields.
var reproduceNames = map[string]string{
	"firmware": "fw", "kernel": "kernel", "initrd": "initrd", "cmdline": "cmdline", "memory": "memory", "vcpus": "cpu", "rootfs": "rootfs", "compose": "dockercompose",
	"docker_files": "dockerfiles", "key_provider": "mrkp", "page_order": "tcbver", "acpi": "acpi", "acpi_family": "acpi-family", "pic": "pic", "com1": "no-com1",
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
