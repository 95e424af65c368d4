package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
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
var tdxRegisters = [5]string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"}

var tdxAggregates = []string{"mr_aggregated", "mr_image", "mr_system"}

// measureFlags are the flags that only `tdx measure` has.
type measureFlags struct {
	td           tdxFlags
	output, log  string
	only, expect []string
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

	Basis    map[string]pipeline.Basis   `json:"basis"`
	Machine  string                      `json:"machine"`
	ACPI     string                      `json:"acpi,omitempty"`
	ConfigID string                      `json:"mr_config_id,omitempty"`
	Missing  map[string]string           `json:"missing,omitempty"`
	Notes    []string                    `json:"notes"`
	Problems []string                    `json:"problems,omitempty"`
	Trace    map[string]tdxmeasure.Trace `json:"trace,omitempty"`
	Compared []registerComparison        `json:"compared,omitempty"`
	Log      []logDifference             `json:"log,omitempty"`
	Hint     string                      `json:"hint,omitempty"`

	order  []string
	traces map[string]tdxmeasure.Trace
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
	expected, err := expectations(op, f.expect, asked)
	if err != nil {
		return err
	}
	m, err := a.tdMachine(op, &f.td, "")
	if err != nil {
		return err
	}
	defer m.close()
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
	r := m.report(asked, res)
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

func expectations(op string, list []string, asked map[string]bool) ([]registerComparison, error) {
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
			return nil, &userError{op: op, msg: fmt.Sprintf("--expect %.120q: want REGISTER=HEX", text), hint: "for instance --expect rtmr0=671800f0..., of " + strings.Join(tdxRegisters[:], ", ") + ", " + strings.Join(tdxAggregates, ", ")}
		case err != nil || len(b) != size:
			return nil, &userError{op: op, msg: fmt.Sprintf("--expect %.120q: want %d hex digits", text, 2*size)}
		case !asked[name]:
			return nil, &userError{op: op, msg: fmt.Sprintf("--expect %s: not among the registers of --only", name), hint: "add it to --only"}
		}
		out = append(out, registerComparison{Register: name, Want: hex.EncodeToString(b)})
	}
	return out, nil
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
	if failed < len(errs) && e.hint == "" || strings.Contains(e.msg, "not given") {
		e.hint = "--only REGISTERS computes what the inputs allow"
	}
	return &joinedError{e}
}

// joinedError has its operation in every line of its message already.
type joinedError struct{ *userError }

func (e *joinedError) Error() string { return e.msg }

func (e *joinedError) Unwrap() error { return e.userError }

// report names the values and says how each is known.
func (m *tdMachine) report(asked map[string]bool, res *tdxmeasure.Result) *tdxReport {
	p := &m.config.Profile
	r := &tdxReport{
		Profile: p.Name, Title: p.Title, Machine: m.config.Shape().String(), values: map[string]digest.Digest{}, Basis: map[string]pipeline.Basis{},
		traces: map[string]tdxmeasure.Trace{}, Notes: append(slices.Clone(res.Notes), m.notes...), Problems: m.problems,
	}
	want := wantedRegisters(asked)
	traces := [5]tdxmeasure.Trace{res.MRTDTrace, res.RTMRTrace[0], res.RTMRTrace[1], res.RTMRTrace[2], res.RTMRTrace[3]}
	digests := [5]digest.Digest{res.MRTD, res.RTMR[0], res.RTMR[1], res.RTMR[2], res.RTMR[3]}
	for i, name := range tdxRegisters {
		if !want[i] {
			r.miss(name, "not asked for")
			continue
		}
		if m.usesTables(traces[i]) {
			r.ACPI = m.config.ACPI.Name()
		}
		if traces[i].Events == nil {
			traces[i].Events = []tdxmeasure.Event{}
		}
		r.values[name], r.traces[name] = digests[i], traces[i]
		r.Basis[name] = m.basis(i, traces[i])
	}
	m.addNotes(r, want)
	m.aggregate(r, asked, &res.Registers)
	r.order = append(slices.Clone(tdxRegisters[:]), "mr_aggregated", "mr_image")
	if m.isDstack() {
		r.order = append(r.order, "mr_system")
	} else {
		delete(r.Missing, "mr_system")
	}
	return r
}

func (r *tdxReport) miss(name, why string) {
	if r.Missing == nil {
		r.Missing = map[string]string{}
	}
	r.Missing[name] = why
}

func (m *tdMachine) isDstack() bool { return strings.HasPrefix(m.config.Profile.Name, "dstack") }

func (m *tdMachine) usesTables(t tdxmeasure.Trace) bool {
	return m.config.ACPI != nil && slices.ContainsFunc(t.Events, func(e tdxmeasure.Event) bool {
		return e.Origin.Input == m.config.ACPI.Name() && strings.HasPrefix(e.Label, "ACPI ")
	})
}

// basis is the weakest way in which something that the register rests on is
// known.
func (m *tdMachine) basis(register int, t tdxmeasure.Trace) pipeline.Basis {
	b := pipeline.Recomputed
	weaken := func(on bool, to pipeline.Basis) {
		if on {
			b = max(b, to)
		}
	}
	weaken(m.config.Profile.Confirmed == "" || m.indirect != nil, pipeline.Assumed)
	if m.usesTables(t) {
		weaken(!m.familyKnown || !m.devicesKnown && !m.tablesFromFile, pipeline.Assumed)
		weaken(m.tablesFromFile, pipeline.Copied)
	}
	if register == 4 {
		for _, in := range []tdxmeasure.Input{m.artifacts.Compose, m.artifacts.Rootfs, m.artifacts.DockerFiles} {
			weaken(in.R == nil && in.Present() && len(t.Events) > 0 && m.config.Profile.RTMR3 != tdxmeasure.RTMR3Events, pipeline.Copied)
		}
		weaken(m.eventsFromLog, pipeline.Replayed)
	} else {
		weaken(m.document != nil, pipeline.Copied)
	}
	return b
}

// addNotes says what was measured as absent, or taken for granted.
func (m *tdMachine) addNotes(r *tdxReport, want [5]bool) {
	note := func(on bool, format string, args ...any) {
		if on {
			r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
		}
	}
	p, a := &m.config.Profile, &m.artifacts
	note(p.Confirmed == "", "nothing confirms the profile %s: its values are assumed", p.Name)
	tables := r.ACPI != "" && want[1]
	note(tables && !m.devicesKnown && !m.tablesFromFile, "no devices were given: a machine without any is assumed (--devices, or --acpi FILE)")
	secretVM := p.RTMR3 == tdxmeasure.RTMR3Raw || p.RTMR3 == tdxmeasure.RTMR3SecretVMKMS
	note(want[4] && secretVM && !a.Compose.Present(), "no compose file: RTMR3 measures an empty one")
	note(want[4] && secretVM && !a.Rootfs.Present(), "no root file system: RTMR3 measures an empty one")
	note(want[3] && m.document == nil && m.indirect == nil && !a.Initrd.Present() && !m.config.NoInitrd, "no initrd: RTMR2 measures an empty one")
	note(want[4] && p.RTMR3 == tdxmeasure.RTMR3Events && len(m.config.Events) == 0, "no events were given (--event, --event-log): RTMR3 is that of a machine that extended nothing")
	note(m.indirect != nil && want[4], "a boot from disk extends nothing into RTMR3 here")
}

// aggregate computes the sums over registers that are asked for.
func (m *tdMachine) aggregate(r *tdxReport, asked map[string]bool, regs *tdxmeasure.Registers) {
	weakest := func(indices ...int) pipeline.Basis {
		b := pipeline.Rebuilt
		for _, i := range indices {
			b = max(b, r.Basis[tdxRegisters[i]])
		}
		return b
	}
	set := func(name string, value digest.Digest, over ...int) {
		if !asked[name] {
			r.miss(name, "not asked for")
			return
		}
		r.values[name], r.Basis[name] = value, weakest(over...)
	}
	set("mr_image", regs.MRImage(), 0, 2, 3, 4)
	if !m.isDstack() {
		set("mr_aggregated", regs.MRAggregated(m.provider), 0, 1, 2, 3, 4)
		return
	}
	set("mr_aggregated", regs.DstackAggregated(m.configID, [48]byte{}, [48]byte{}), 0, 1, 2, 3, 4)
	provider := tdxmeasure.KeyProviderDigest(nil)
	for _, e := range m.config.Events {
		if e.Name == "key-provider" {
			provider = tdxmeasure.KeyProviderDigest(e.Payload)
		}
	}
	if m.provider != nil {
		d, err := digest.FromBytes(digest.SHA256, m.provider)
		if err != nil {
			r.miss("mr_system", "--key-provider has not 32 bytes, as dstack's has")
			return
		}
		provider = d
	}
	set("mr_system", regs.MRSystem(provider), 0, 1, 2, 3)
	if m.configID != [48]byte{} {
		r.ConfigID = hex.EncodeToString(m.configID[:])
	}
}

// compare fills --expect in and reports whether something differs.
func (r *tdxReport) compare(list []registerComparison) (bad bool) {
	for _, c := range list {
		c.Got = r.values[c.Register].Hex()
		c.Match = c.Got == c.Want
		bad = bad || !c.Match
		r.Compared = append(r.Compared, c)
	}
	return bad
}

// compareLog holds each computed register against the log's events.
func (r *tdxReport) compareLog(log *tdxmeasure.Replayed, want [5]bool) (bad bool) {
	if log == nil {
		return false
	}
	for _, p := range log.Problems {
		r.Problems = append(r.Problems, "event log: "+p)
	}
	for i := 1; i < len(want); i++ {
		if !want[i] {
			continue
		}
		name := tdxRegisters[i]
		d := logDifference{Register: name}
		d.Index, d.Computed, d.Logged = tdxmeasure.FirstDifference(r.traces[name], log.Trace[i-1])
		d.Match = d.Index < 0
		bad = bad || !d.Match
		r.Log = append(r.Log, d)
	}
	return bad
}

// searchHint is the command that looks for the reason of the first difference.
func (r *tdxReport) searchHint(f *tdxFlags) string {
	for _, c := range r.Compared {
		if !c.Match && slices.Contains(tdxRegisters[:], c.Register) {
			return fmt.Sprintf("retally explain %s --search --want %s%s", c.Register, c.Want, f.commandLine())
		}
	}
	return ""
}

// document is the JSON form: the registers by their names, null where not
// computed.
func (r *tdxReport) document() any {
	type values struct {
		MRTD       *string `json:"mrtd"`
		RTMR0      *string `json:"rtmr0"`
		RTMR1      *string `json:"rtmr1"`
		RTMR2      *string `json:"rtmr2"`
		RTMR3      *string `json:"rtmr3"`
		Aggregated *string `json:"mr_aggregated"`
		Image      *string `json:"mr_image"`
		System     *string `json:"mr_system,omitempty"`
	}
	of := func(name string) *string {
		d, ok := r.values[name]
		if !ok {
			return nil
		}
		text := d.Hex()
		return &text
	}
	if r.Notes == nil {
		r.Notes = []string{}
	}
	return struct {
		values
		*tdxReport
	}{values{of("mrtd"), of("rtmr0"), of("rtmr1"), of("rtmr2"), of("rtmr3"), of("mr_aggregated"), of("mr_image"), of("mr_system")}, r}
}

func (a *app) printTDX(r *tdxReport, trace bool) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	for _, name := range r.order {
		d, ok := r.values[name]
		switch {
		case ok:
			line("%-13s  %s  %s", name, d.Hex(), r.Basis[name])
		case r.Missing[name] != "not asked for":
			line("%-13s  none: %s", name, r.Missing[name])
		}
		if t, ok := r.traces[name]; ok && trace {
			a.printTrace(t)
		}
	}
	line("%-13s  %s: %s", "profile", r.Profile, r.Title)
	if _, ok := r.values["rtmr0"]; ok {
		line("%-13s  %s", "machine", r.Machine)
	}
	if r.ACPI != "" {
		line("%-13s  %s", "ACPI tables", r.ACPI)
	}
	if r.ConfigID != "" {
		line("%-13s  %s", "mr_config_id", r.ConfigID)
	}
	for _, n := range r.Notes {
		line("%-13s  %s", "note", n)
	}
	for _, p := range r.Problems {
		line("%-13s  %s", "CONTRADICTION", p)
	}
	for _, c := range r.Compared {
		if c.Match {
			line("%-13s  %s agrees", "expected", c.Register)
			continue
		}
		line("%-13s  %s DIFFERS", "expected", c.Register)
		line("%-13s    expected  %s", "", c.Want)
		line("%-13s    computed  %s", "", c.Got)
	}
	for _, d := range r.Log {
		if d.Match {
			line("%-13s  %s agrees, event by event", "event log", d.Register)
			continue
		}
		line("%-13s  %s DIFFERS from event %d on: computed %s, logged %s", "event log", d.Register, d.Index, orEnd(d.Computed), orEnd(d.Logged))
	}
	if r.Hint != "" {
		line("%-13s  %s", "to find out", r.Hint)
	}
}

func orEnd(label string) string {
	if label == "" {
		return "no more events"
	}
	return fmt.Sprintf("%q", label)
}

// printTrace shows the events that a register is folded from.
func (a *app) printTrace(t tdxmeasure.Trace) {
	for i, e := range t.Events {
		from := ""
		switch {
		case e.Origin.Input != "" && e.Origin.Size >= 0:
			from = fmt.Sprintf("  (%s, %d bytes at %#x)", e.Origin.Input, e.Origin.Size, e.Origin.Offset)
		case e.Origin.Input != "":
			from = "  (" + e.Origin.Input + ")"
		}
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf("  %3d  %-96s  %s%s", i, e.Digest.Hex(), e.Label, from)))
	}
}
