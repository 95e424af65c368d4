package main

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	evidencestage "github.com/retally/retally/pipeline/stages/evidence"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/trace"
)

// report names the values and says how each is known.
func (m *tdMachine) report(asked map[string]bool, want [5]bool, given [5]digest.Digest, res *tdxmeasure.Result) *tdxReport {
	p := &m.config.Profile
	r := &tdxReport{
		Profile: p.Name, Title: p.Title, Machine: m.config.Shape().String(), values: map[string]digest.Digest{}, Basis: map[string]pipeline.Basis{},
		traces: map[string]trace.Trace{}, Notes: append(slices.Clone(res.Notes), m.notes...), Problems: m.problems,
	}
	traces := [5]trace.Trace{res.MRTDTrace, res.RTMRTrace[0], res.RTMRTrace[1], res.RTMRTrace[2], res.RTMRTrace[3]}
	digests := [5]digest.Digest{res.MRTD, res.RTMR[0], res.RTMR[1], res.RTMR[2], res.RTMR[3]}
	for i, name := range tdxRegisters {
		if !given[i].IsZero() {
			r.values[name], r.Basis[name], digests[i] = given[i], pipeline.Copied, given[i]
			continue
		}
		if !want[i] {
			r.miss(name, "not asked for")
			continue
		}
		if m.usesTables(traces[i]) {
			r.ACPI = m.config.ACPI.Name()
		}
		if traces[i].Events == nil {
			traces[i].Events = []trace.Event{}
		}
		r.values[name], r.traces[name] = digests[i], traces[i]
		r.Basis[name] = m.basis(i, traces[i])
	}
	m.addNotes(r, want)
	m.aggregate(r, asked, &tdxmeasure.Registers{MRTD: digests[0], RTMR: [4]digest.Digest(digests[1:])})
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

func (m *tdMachine) usesTables(t trace.Trace) bool {
	return m.config.ACPI != nil && slices.ContainsFunc(t.Events, func(e trace.Event) bool {
		return e.Origin.Input == m.config.ACPI.Name() && strings.HasPrefix(e.Label, "ACPI ")
	})
}

// basis is the weakest way in which something that the register rests on is
// known.
func (m *tdMachine) basis(register int, t trace.Trace) pipeline.Basis {
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
	note(want[4] && secretVM && !a.Compose.Present(), "no compose file: "+evidencestage.EmptyRTMR3)
	note(want[4] && secretVM && !a.Rootfs.Present(), "no root file system: "+evidencestage.EmptyRTMR3)
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
	if d, err := digest.FromBytes(digest.SHA256, m.provider); err == nil {
		provider = d // its length was checked with the flag
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
