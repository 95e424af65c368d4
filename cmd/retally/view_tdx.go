package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/trace"
)

// tdxReport is the result of tdx measure, out of the report of its run.
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
	report *pipeline.Report
	asked  map[string]bool
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

// newTDXView takes the described machine's values out of a report.
func newTDXView(rep *pipeline.Report, m *tdx.Machine, asked map[string]bool) *tdxReport {
	p := m.Profile()
	r := &tdxReport{
		Profile: p.Name, Title: p.Title, Machine: m.Shape(), values: map[string]digest.Digest{}, Basis: map[string]pipeline.Basis{},
		traces: map[string]trace.Trace{}, Notes: []string{}, report: rep, asked: asked,
	}
	r.order = append(slices.Clone(tdx.Registers[:]), "mr_aggregated", "mr_image")
	if own := p.Aggregates.Names(); slices.Contains(own, "mr_system") {
		r.order = append(r.order, "mr_system")
	}
	standings := pipeline.Standings(rep.Measurements)
	for _, ms := range rep.Measurements {
		name := strings.TrimPrefix(string(ms.Key), string(pipeline.NewKey("tdx", flagMachine))+"/")
		name = strings.TrimPrefix(name, tdx.AssumedPart+"/")
		register := slices.Contains(tdx.Registers[:], name)
		switch {
		case name == "mr_config_id":
			r.ConfigID = ms.Value.String()
		case !register && !slices.Contains(tdx.Aggregates, name):
			if ms.Basis != pipeline.Recomputed && ms.Basis != pipeline.Copied || name == "document" {
				r.note(ms.Note)
			}
			continue
		case !asked[name] && ms.Trace != nil:
			continue
		default:
			r.values[name], r.Basis[name] = ms.Value.Digest(), standings[ms.Key].Effective
		}
		if ms.Trace != nil && register {
			r.traces[name] = *ms.Trace
		}
	}
	for _, p := range rep.Problems {
		if p.Level == pipeline.LevelNote {
			r.note(p.Msg)
		} else {
			r.Problems = append(r.Problems, p.Msg)
		}
	}
	r.takeTables()
	for _, name := range r.order {
		if _, ok := r.values[name]; !ok {
			r.miss(name, r.why(name, p))
		}
	}
	return r
}

func (r *tdxReport) note(text string) {
	if text != "" {
		r.Notes = append(r.Notes, text)
	}
}

// takeTables says where the ACPI tables come from that RTMR0 holds.
func (r *tdxReport) takeTables() {
	for _, e := range r.traces["rtmr0"].Events {
		if strings.HasPrefix(e.Label, "ACPI ") && e.Origin.Input != "" {
			r.ACPI = e.Origin.Input
		}
	}
}

// why says why a value was not computed.
func (r *tdxReport) why(name string, p *tdxmeasure.Profile) string {
	switch {
	case !r.asked[name]:
		return "not asked for"
	case slices.Contains(tdx.Aggregates, name) && !slices.Contains(p.Aggregates.Names(), name):
		return "the profile " + p.Name + " has none"
	}
	for _, l := range r.report.Lacks {
		if l.For == string(pipeline.NewKey("tdx", flagMachine, name)) {
			return strings.TrimSuffix(l.What, " of platform "+flagMachine) + ": not given"
		}
	}
	return "a register of it was not computed"
}

func (r *tdxReport) miss(name, why string) {
	if r.Missing == nil {
		r.Missing = map[string]string{}
	}
	r.Missing[name] = why
}

// refuse is the error where a register that is asked for, or that an asked
// aggregate is made of, lacks an input; all reasons are named.
func (r *tdxReport) refuse(op string, m *tdx.Machine, only []string) error {
	for _, name := range only {
		name = strings.ToLower(strings.TrimSpace(name))
		if slices.Contains(tdx.Aggregates, name) && r.Missing[name] == "the profile "+r.Profile+" has none" || name == "mr_system" && !slices.Contains(r.order, name) {
			return &userError{op: op, msg: fmt.Sprintf("%s is dstack's, the profile %s has none", name, r.Profile), hint: "--profile dstack"}
		}
	}
	registers := map[tdx.Missing][]string{}
	var order []tdx.Missing
	for i, name := range tdx.Registers {
		for _, what := range m.Missing(i) {
			if registers[what] == nil {
				order = append(order, what)
			}
			registers[what] = append(registers[what], name)
		}
	}
	var lines []string
	for _, what := range order {
		want := ""
		if strings.HasSuffix(what.How, " FILE") {
			want = ", want a file"
		}
		lines = append(lines, fmt.Sprintf("%s %s: %s: not given%s (%s)", op, strings.Join(registers[what], ", "), what.What, want, what.How))
	}
	if len(lines) == 0 {
		return nil
	}
	return &joinedError{&userError{op: op, msg: strings.Join(lines, "\n"), hint: "--only REGISTERS computes what the inputs allow"}}
}

// compared fills --expect in.
func (r *tdxReport) compared(list []registerComparison) error {
	for _, c := range list {
		for _, f := range r.report.Findings {
			if tdx.RegisterOf(f.Key) == c.Register && f.Set == "expect of "+flagMachine {
				c.Got, c.Match = f.Got.Digest().Hex(), f.Verdict == pipeline.Match
			}
		}
		r.Compared = append(r.Compared, c)
	}
	return nil
}

// compareLog says where each computed register leaves the log's events.
func (r *tdxReport) compareLog(ctx context.Context, reader *run.Reader, file string, asked map[string]bool) error {
	if file == "" {
		return nil
	}
	log, err := run.Parsed(ctx, reader, file, config.ReplyLimit, tdx.ParseLog)
	if err != nil {
		return err
	}
	for i := 1; i < len(tdx.Registers); i++ {
		name := tdx.Registers[i]
		if _, ok := r.traces[name]; !ok {
			continue
		}
		d := logDifference{Register: name}
		d.Index, d.Computed, d.Logged = tdxmeasure.FirstDifference(r.traces[name], log.Trace[i-1])
		d.Match = d.Index < 0
		r.Log = append(r.Log, d)
	}
	return nil
}

// searchHint is the command that looks for the reason of the first difference.
func (r *tdxReport) searchHint(f *tdxFlags) {
	for _, c := range r.Compared {
		if !c.Match && slices.Contains(tdx.Registers[:], c.Register) {
			r.Hint = fmt.Sprintf("retally explain %s --search --want %s%s", c.Register, c.Want, f.commandLine())
			return
		}
	}
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
func (a *app) printTrace(t trace.Trace) {
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
