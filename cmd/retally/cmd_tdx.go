package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/trace"
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
var tdxRegisters = tdxmeasure.RegisterNames()

var tdxAggregates = tdxmeasure.AggregateNames()

// measureFlags are the flags that only `tdx measure` has.
type measureFlags struct {
	td           tdxFlags
	output, log  string
	only, expect []string
	given        []string
	trace        bool
}

func (a *app) tdxMeasureCommand() *cobra.Command {
	var f measureFlags
	cmd := &cobra.Command{
		Use:   "measure --profile NAME --firmware FILE --kernel FILE [flags]",
		Short: "Compute MRTD, RTMR0 to RTMR3 and their aggregates from firmware, kernel, initrd, command line and the machine's shape",
		Long: `Compute the registers of a TDX machine from its artifacts. How hypervisor and
firmware behave is a profile; each of its switches has a flag. Nothing is
compared unless --expect or --log asks for it.

A register whose artifacts are missing is an error, unless --only names those
that are wanted. An absent initrd, compose file or root file system counts as
empty, as in the vendors' tools, and is noted.`,
		Example: `  retally tdx measure --profile secretvm --firmware ovmf.fd --kernel bzImage --initrd initramfs.cpio.gz \
    --cmdline "console=ttyS0 loglevel=7 clearcpuid=mtrr,rtmr ro initrd=initrd" --memory 2G --cpu 1 \
    --docker-compose docker-compose.yaml --rootfs rootfs.iso
  retally tdx measure --profile dstack --metadata dstack-0.5.4/metadata.json --cpu 4 --memory 8G --only mrtd,rtmr0,rtmr1,rtmr2
  retally tdx measure --metadata metadata.json --trace`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.tdxMeasure(cmd.Context(), &f) },
	}
	f.td.sharedFlags(cmd)
	cmd.Flags().StringSliceVar(&f.only, "only", nil, "registers wanted: "+strings.Join(tdxRegisters[:], ", ")+", "+strings.Join(tdxAggregates, ", ")+" (default: all)")
	cmd.Flags().StringArrayVar(&f.expect, "expect", nil, "compare, as REGISTER=HEX; may be given several times")
	cmd.Flags().StringArrayVar(&f.given, "given", nil, "take a register as given instead of computing it, as REGISTER=HEX, for the aggregates; may be given several times")
	cmd.Flags().StringVar(&f.log, "log", "", "compare with an event log of the machine (CCEL or dstack's JSON), event by event")
	cmd.Flags().BoolVar(&f.trace, "trace", false, "show every labeled event of every register")
	outputFlag(cmd, &f.output)
	return cmd
}

// tdxReport is the result of tdx measure.
type tdxReport struct {
	Profile string `json:"profile"`
	Title   string `json:"title"`

	values map[string]digest.Digest // by name; absent where not computed

	Basis    map[string]pipeline.Basis `json:"basis"`
	Machine  string                    `json:"machine"`
	ACPI     string                    `json:"acpi,omitempty"`
	ConfigID string                    `json:"mr_config_id,omitempty"`
	Missing  map[string]string         `json:"missing,omitempty"`
	Notes    []string                  `json:"notes"`
	Problems []string                  `json:"problems,omitempty"`
	Trace    map[string]trace.Trace    `json:"trace,omitempty"`
	Compared []registerComparison      `json:"compared,omitempty"`
	Log      []logDifference           `json:"log,omitempty"`
	Hint     string                    `json:"hint,omitempty"`

	order  []string
	traces map[string]trace.Trace
}

// registerComparison is one --expect.
type registerComparison struct {
	Register string `json:"register"`
	Got      string `json:"got"`
	Want     string `json:"want"`
	Match    bool   `json:"match"`
}

// logDifference says where the computed events of a register leave those of a
// log.
type logDifference struct {
	Register string `json:"register"`
	Match    bool   `json:"match"`
	Index    int    `json:"index"` // of the first differing event, -1 where equal
	Computed string `json:"computed,omitempty"`
	Logged   string `json:"logged,omitempty"`
}

func (a *app) tdxMeasure(ctx context.Context, f *measureFlags) error {
	const op = "tdx measure"
	asked, err := askedRegisters(op, f.only)
	if err != nil {
		return err
	}
	expected, err := expectations(op, "expect", f.expect, asked)
	if err != nil {
		return err
	}
	given, err := givenRegisters(op, f.given)
	if err != nil {
		return err
	}
	m, err := a.tdMachine(op, &f.td, "")
	if err != nil {
		return err
	}
	defer m.close()
	if len(f.only) > 0 && asked["mr_system"] && !m.isDstack() || !m.isDstack() && slices.ContainsFunc(expected, func(c registerComparison) bool { return c.Register == "mr_system" }) {
		return m.usage("--profile dstack", "mr_system is dstack's, the profile %s has none", m.config.Profile.Name)
	}
	var logged *tdxmeasure.Replayed
	if f.log != "" {
		data, err := m.small("log", f.log)
		if err != nil {
			return err
		}
		if logged, _, err = tdxmeasure.ReplayLog(f.log, embedded(data, "event_log")); err != nil {
			return tdxTrouble(op, err)
		}
	}
	want := wantedRegisters(asked)
	for i, d := range given {
		want[i] = want[i] && d.IsZero()
	}
	var res *tdxmeasure.Result
	var errs [5]error
	if err := m.counted(func() error {
		res, errs = m.measure(ctx, want)
		return ctx.Err()
	}); err != nil {
		return err
	}
	if err := missingRegisters(op, errs); err != nil {
		return err
	}
	r := m.report(asked, want, given, res)
	if f.trace {
		r.Trace = r.traces
	}
	bad := r.compare(expected) || r.compareLog(logged, want) || len(r.Problems) > 0
	if len(r.Compared) > 0 && bad {
		r.Hint = r.searchHint(&f.td)
	}
	if f.output == "json" {
		err = writeJSON(a.stdout, r.document())
	} else {
		a.printTDX(r, f.trace)
	}
	if err == nil && bad {
		err = outcomeError{exitDiffers}
	}
	return err
}

// askedRegisters checks --only; without it everything is asked for.
func askedRegisters(op string, only []string) (map[string]bool, error) {
	asked := map[string]bool{}
	known := append(slices.Clone(tdxRegisters[:]), tdxAggregates...)
	if len(only) == 0 {
		for _, k := range known {
			asked[k] = true
		}
	}
	var words tdxFlags
	for _, o := range only {
		name := strings.ToLower(strings.TrimSpace(o))
		if err := words.word(op, "only", name, known...); err != nil {
			return nil, err
		}
		asked[name] = true
	}
	return asked, nil
}

// wantedRegisters are those that the asked values are made of.
func wantedRegisters(asked map[string]bool) (want [5]bool) {
	for i, name := range tdxRegisters {
		want[i] = asked[name] || asked["mr_aggregated"] ||
			asked["mr_image"] && i != 1 || asked["mr_system"] && i != 4
	}
	return want
}

// expectations reads REGISTER=HEX.
func expectations(op, flag string, list []string, asked map[string]bool) ([]registerComparison, error) {
	var out []registerComparison
	for _, text := range list {
		name, want, ok := strings.Cut(text, "=")
		name = strings.ToLower(name)
		size := 48
		if slices.Contains(tdxAggregates, name) {
			size = 32
		}
		b, err := hex.DecodeString(strings.ToLower(strings.TrimPrefix(want, "0x")))
		switch {
		case !ok || !slices.Contains(tdxRegisters[:], name) && size == 48:
			return nil, &userError{op: op, msg: fmt.Sprintf("--%s %.120q: want REGISTER=HEX", flag, text), hint: "for instance --" + flag + " rtmr0=671800f0..., of " + strings.Join(tdxRegisters[:], ", ") + ", " + strings.Join(tdxAggregates, ", ")}
		case err != nil || len(b) != size:
			return nil, &userError{op: op, msg: fmt.Sprintf("--%s %.120q: want %d hex digits", flag, text, 2*size)}
		case !asked[name]:
			return nil, &userError{op: op, msg: fmt.Sprintf("--%s %s: not among the registers of --only", flag, name), hint: "add it to --only"}
		}
		out = append(out, registerComparison{Register: name, Want: hex.EncodeToString(b)})
	}
	return out, nil
}

// givenRegisters are those that --given takes as they are; zero where not.
func givenRegisters(op string, list []string) (given [5]digest.Digest, err error) {
	registers := map[string]bool{}
	for _, name := range tdxRegisters {
		registers[name] = true
	}
	rows, err := expectations(op, "given", list, registers)
	if err != nil {
		return given, err
	}
	for _, r := range rows {
		if given[slices.Index(tdxRegisters[:], r.Register)], err = digest.ParseHex(digest.SHA384, r.Want); err != nil {
			return given, err
		}
	}
	return given, nil
}

// measureSome computes single registers side by side.
func measureSome(ctx context.Context, m *tdxmeasure.Measurer, c *tdxmeasure.Config, want [5]bool) (*tdxmeasure.Result, [5]error) {
	if want == [5]bool{true, true, true, true, true} {
		return m.MeasureEach(ctx, c)
	}
	r := &tdxmeasure.Result{Notes: c.Profile.Notes}
	var errs [5]error
	var wg sync.WaitGroup
	for i := range want {
		if !want[i] {
			continue
		}
		wg.Go(func() {
			t, err := m.Register(ctx, c, i)
			var d digest.Digest
			if err == nil {
				d, err = t.Compute()
			}
			errs[i] = err
			if i == 0 {
				r.MRTDTrace, r.MRTD = t, d
			} else {
				r.RTMRTrace[i-1], r.RTMR[i-1] = t, d
			}
		})
	}
	wg.Wait()
	return r, errs
}

// missingRegisters joins what kept registers from being computed: one line
// for each reason.
func missingRegisters(op string, errs [5]error) error {
	names := map[string][]string{}
	var first error
	var order []string
	for i, err := range errs {
		if err == nil {
			continue
		}
		if first == nil {
			first = err
		}
		text := err.Error()
		var u *userError
		if errors.As(err, &u) && u.op == op && u.msg != "" {
			text = u.msg // the operation stands at the line's start
		}
		if names[text] == nil {
			order = append(order, text)
		}
		names[text] = append(names[text], tdxRegisters[i])
	}
	if first == nil {
		return nil
	}
	var lines []string
	failed := 0
	for _, text := range order {
		failed += len(names[text])
		lines = append(lines, fmt.Sprintf("%s %s: %s", op, strings.Join(names[text], ", "), text))
	}
	e := &userError{op: op, msg: strings.Join(lines, "\n")}
	if u, ok := tdxTrouble(op, first).(*userError); ok {
		e.hint = u.hint
	}
	var file *tdxmeasure.FileError
	if errors.As(first, &file) {
		e.path = file.Name
	}
	if strings.Contains(e.msg, "not given") {
		e.hint = "--only REGISTERS computes what the inputs allow"
	}
	return &joinedError{e}
}

// joinedError has its operation in every line of its message already.
type joinedError struct{ *userError }

func (e *joinedError) Error() string { return e.msg }

func (e *joinedError) Unwrap() error { return e.userError }
