package tdx

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/trace"
)

// ByFlags is the name of the one machine that flags describe, in keys.
const ByFlags = "machine"

// Measured is the one machine that flags describe as it is shown, out of the
// report of its run: each register and aggregate, or why there is none.
type Measured struct {
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
	Compared []RegisterComparison      `json:"compared,omitempty"`
	Log      []LogDifference           `json:"log,omitempty"`
	Hint     string                    `json:"hint,omitempty"`

	order  []string
	traces map[string]trace.Trace
	report *pipeline.Report
	asked  map[string]bool
}

// RegisterComparison is one --expect.
type RegisterComparison struct {
	Register string `json:"register"`
	Got      string `json:"got"`
	Want     string `json:"want"`
	Match    bool   `json:"match"`
	// Zero says what it means where the wanted value is all zero.
	Zero string `json:"zero,omitempty"`
}

// ZeroWords says what it means that a register's value is all zero; "" for
// another value, and for what is no register.
func ZeroWords(register string, value digest.Digest) string {
	return tdxmeasure.ZeroRegister(slices.Index(Registers[:], register), value)
}

func zeroWords(register, value string) string {
	d, err := digest.ParseHex(digest.SHA384, value)
	if err != nil {
		return ""
	}
	return ZeroWords(register, d)
}

// LogDifference says where the computed events of a register leave those of a
// log.
type LogDifference struct {
	Register string `json:"register"`
	Match    bool   `json:"match"`
	Index    int    `json:"index"` // of the first differing event, -1 where equal
	Computed string `json:"computed,omitempty"`
	Logged   string `json:"logged,omitempty"`
}

// NewMeasured takes the described machine's values out of a report. asked are
// the names that were asked for.
func NewMeasured(rep *pipeline.Report, m *Machine, asked map[string]bool) *Measured {
	p := m.Profile()
	r := &Measured{
		Profile: p.Name, Title: p.Title, Machine: m.Shape(), values: map[string]digest.Digest{}, Basis: map[string]pipeline.Basis{},
		traces: map[string]trace.Trace{}, Notes: []string{}, report: rep, asked: asked,
	}
	r.order = append(slices.Clone(Registers[:]), "mr_aggregated", "mr_image")
	if own := p.Aggregates.Names(); slices.Contains(own, "mr_system") {
		r.order = append(r.order, "mr_system")
	}
	r.takeValues()
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

// takeValues takes the values that were asked for, and what is to be said about
// the others.
func (r *Measured) takeValues() {
	standings := pipeline.Standings(r.report.Measurements)
	for _, ms := range r.report.Measurements {
		name := strings.TrimPrefix(string(ms.Key), string(pipeline.NewKey("tdx", ByFlags))+"/")
		name = strings.TrimPrefix(name, AssumedPart+"/")
		register := slices.Contains(Registers[:], name)
		switch {
		case name == "mr_config_id":
			r.ConfigID = ms.Value.String()
		case !register && !slices.Contains(Aggregates, name):
			if ms.Basis != pipeline.Recomputed && ms.Basis != pipeline.Copied || name == "document" {
				r.note(ms.Note)
			}
			continue
		case !r.asked[name] && ms.Trace != nil:
			continue
		default:
			r.values[name], r.Basis[name] = ms.Value.Digest(), standings[ms.Key].Effective
		}
		if ms.Trace != nil && register {
			r.traces[name] = *ms.Trace
		}
	}
}

func (r *Measured) note(text string) {
	if text != "" {
		r.Notes = append(r.Notes, text)
	}
}

// takeTables says where the ACPI tables come from that RTMR0 holds.
func (r *Measured) takeTables() {
	for _, e := range r.traces["rtmr0"].Events {
		if strings.HasPrefix(e.Label, "ACPI ") && e.Origin.Input != "" {
			r.ACPI = e.Origin.Input
		}
	}
}

// why says why a value was not computed.
func (r *Measured) why(name string, p *tdxmeasure.Profile) string {
	switch {
	case !r.asked[name]:
		return "not asked for"
	case slices.Contains(Aggregates, name) && !slices.Contains(p.Aggregates.Names(), name):
		return "the profile " + p.Name + " has none"
	}
	for _, l := range r.report.Lacks {
		if l.For == string(pipeline.NewKey("tdx", ByFlags, name)) {
			return strings.TrimSuffix(l.What, " of platform "+ByFlags) + ": not given"
		}
	}
	return "a register of it was not computed"
}

func (r *Measured) miss(name, why string) {
	if r.Missing == nil {
		r.Missing = map[string]string{}
	}
	r.Missing[name] = why
}

// Refused says why a register that is asked for, or that an asked aggregate is
// made of, cannot be had: all reasons, a line each that begins with op. It is
// empty where nothing is missing. hint names a field as the door does.
func (r *Measured) Refused(op string, m *Machine, only []string) (text, hint string) {
	for _, name := range only {
		name = strings.ToLower(strings.TrimSpace(name))
		if slices.Contains(Aggregates, name) && r.Missing[name] == "the profile "+r.Profile+" has none" || name == "mr_system" && !slices.Contains(r.order, name) {
			return fmt.Sprintf("%s: %s is dstack's, the profile %s has none", op, name, r.Profile), m.say("profile", "dstack")
		}
	}
	registers := map[Missing][]string{}
	var order []Missing
	for i, name := range Registers {
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
	return strings.Join(lines, "\n"), m.say("only", "REGISTERS") + " computes what the inputs allow"
}

// Compare adds what the report says of the registers that were expected.
func (r *Measured) Compare(list []RegisterComparison) {
	for _, c := range list {
		for _, f := range r.report.Findings {
			if RegisterOf(f.Key) == c.Register && f.Set == "expect of "+ByFlags {
				c.Got, c.Match = f.Got.Digest().Hex(), f.Verdict == pipeline.Match
				if !c.Match {
					c.Zero = zeroWords(c.Register, c.Want)
				}
			}
		}
		r.Compared = append(r.Compared, c)
	}
}

// CompareLog says where each computed register leaves the log's events.
func (r *Measured) CompareLog(ctx context.Context, reader *run.Reader, file string) error {
	if file == "" {
		return nil
	}
	log, err := run.Parsed(ctx, reader, file, config.ReplyLimit, ParseLog)
	if err != nil {
		return err
	}
	for i := 1; i < len(Registers); i++ {
		name := Registers[i]
		if _, ok := r.traces[name]; !ok {
			continue
		}
		d := LogDifference{Register: name}
		d.Index, d.Computed, d.Logged = tdxmeasure.FirstDifference(r.traces[name], log.Trace[i-1])
		d.Match = d.Index < 0
		r.Log = append(r.Log, d)
	}
	return nil
}

// Differing is the first register that is not as it was expected.
func (r *Measured) Differing() (RegisterComparison, bool) {
	i := slices.IndexFunc(r.Compared, func(c RegisterComparison) bool { return !c.Match && slices.Contains(Registers[:], c.Register) })
	if i < 0 {
		return RegisterComparison{}, false
	}
	return r.Compared[i], true
}

// ShowTraces puts the labeled events of every register into what is shown.
func (r *Measured) ShowTraces() { r.Trace = r.traces }

// JSON is the form that scripts read: the registers by their names, null where not
// computed.
func (r *Measured) JSON() any {
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
		*Measured
	}{values{of("mrtd"), of("rtmr0"), of("rtmr1"), of("rtmr2"), of("rtmr3"), of("mr_aggregated"), of("mr_image"), of("mr_system")}, r}
}

// Text is the form for people.
func (r *Measured) Text(w io.Writer, _ bool) {
	line := func(format string, args ...any) { show.Line(w, format, args...) }
	for _, name := range r.order {
		d, ok := r.values[name]
		switch {
		case ok:
			line("%-13s  %s  %s", name, d.Hex(), r.Basis[name])
		case r.Missing[name] != "not asked for":
			line("%-13s  none: %s", name, r.Missing[name])
		}
		if t, ok := r.traces[name]; ok && r.Trace != nil {
			t.Text(w)
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
	r.comparisons(line)
	if r.Hint != "" {
		line("%-13s  %s", "to find out", r.Hint)
	}
}

func (r *Measured) comparisons(line func(format string, args ...any)) {
	for _, c := range r.Compared {
		if c.Match {
			line("%-13s  %s agrees", "expected", c.Register)
			continue
		}
		line("%-13s  %s DIFFERS", "expected", c.Register)
		line("%-13s    expected  %s", "", c.Want)
		line("%-13s    computed  %s", "", c.Got)
		if c.Zero != "" {
			line("%-13s    the expected value is %s", "", c.Zero)
		}
	}
	for _, d := range r.Log {
		if d.Match {
			line("%-13s  %s agrees, event by event", "event log", d.Register)
			continue
		}
		line("%-13s  %s DIFFERS from event %d on: computed %s, logged %s", "event log", d.Register, d.Index, orEnd(d.Computed), orEnd(d.Logged))
	}
}

func orEnd(label string) string {
	if label == "" {
		return "no more events"
	}
	return fmt.Sprintf("%q", label)
}
