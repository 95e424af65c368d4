package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/fleet"
)

func (a *app) fleetCommand() *cobra.Command {
	var (
		flags comparison
		conf  config.Fleet
	)
	cmd := &cobra.Command{
		Use:   "fleet FILE",
		Short: "Hold a provider's whole list against what can be recomputed, and say what each hole lacks",
		Long: `Recompute every row of a provider's list as far as its inputs are at hand. The
result is the coverage in numbers, and for each value that is left the input that
it would take.

FILE is SecretVM's tdx.csv or sev.json, Tinfoil's machines, shapes or signed
measurements, or a Contrast manifest. --inputs names files and folders with
firmware, kernels, disks and ACPI tables: each is found by its digest, whatever
it is called. Without any, RTMR0 of SecretVM's machines still follows from their
sizes; with --compose the launch digests of its AMD machines follow.

The exit code is 0 if every published value was recomputed and is equal, 1 if one
differs, 3 if values are left: --allow-unchecked names which may be.
--report html=FILE writes it as a page.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conf.File = args[0]
			return a.fleet(cmd, &flags, &conf)
		},
	}
	flags.flags(cmd)
	cmd.Flags().StringArrayVar(&conf.Inputs, "inputs", nil, "file or folder with what the rows are made of; may be given several times")
	cmd.Flags().StringVar(&conf.Compose, "compose", "", "compose file of the machines, or its digest as sha256:HEX")
	return cmd
}

func (a *app) fleet(cmd *cobra.Command, f *comparison, conf *config.Fleet) error {
	targets, err := f.targets(append([]string{conf.File, conf.Compose}, conf.Inputs...)...)
	if err != nil {
		return err
	}
	field := func(value string, path ...string) string {
		return strings.TrimSpace("--" + path[len(path)-1] + " " + value)
	}
	if err := fleet.Check(conf, func(msg, hint string, path ...string) error {
		if len(path) > 0 {
			msg = field("", path...) + ": " + msg
		}
		return &userError{op: "fleet", msg: msg, hint: hint}
	}); err != nil {
		return err
	}
	reader := run.NewReader(".", nil)
	if conf.File == "-" {
		data, err := a.readInput("fleet", "-", fleet.ListLimit)
		if err != nil {
			return err
		}
		reader.Hold("-", data)
	}
	o := run.Options{Root: ".", Subject: "fleet " + conf.File, Allow: f.allow, Tool: tool(), Reader: reader, Progress: new(run.Progress), Field: field}
	var list *fleet.List
	stop := a.showProgress(o.Progress)
	res, err := run.Run(cmd.Context(), []run.Stage{fleet.Showing(func(l *fleet.List) { list = l })}, &config.Config{Version: 1, Fleet: conf}, o)
	stop()
	if err != nil {
		return plain(err)
	}
	v := newFleetView(list)
	return a.finish(f, targets, res.Report, view{json: v, text: func(w io.Writer, verbose bool) { v.text(w, res.Report.Summary, verbose) }})
}

// fleetView is the JSON form of fleet.
type fleetView struct {
	File     string         `json:"file"`
	Kind     string         `json:"kind"`
	Coverage fleet.Coverage `json:"coverage"`
	Holes    []fleet.Hole   `json:"holes"`
	Rows     []fleetRow     `json:"rows"`
}

type fleetRow struct {
	Name    string       `json:"name"`
	Line    int          `json:"line,omitempty"`
	Missing []string     `json:"missing,omitempty"`
	Values  []fleetValue `json:"values"`
}

type fleetValue struct {
	Name      string      `json:"name"`
	State     fleet.State `json:"state"`
	Published string      `json:"published,omitempty"`
	Computed  string      `json:"computed,omitempty"`
	Basis     string      `json:"basis,omitempty"`
	Note      string      `json:"note,omitempty"`
	Missing   []string    `json:"missing,omitempty"`
}

func newFleetView(l *fleet.List) *fleetView {
	v := &fleetView{File: l.File, Kind: l.Kind, Coverage: l.Coverage(), Holes: l.Holes(), Rows: []fleetRow{}}
	for _, row := range l.Rows {
		one := fleetRow{Name: row.Name, Line: row.Line, Missing: row.Needs, Values: []fleetValue{}}
		for _, x := range row.Values {
			value := fleetValue{Name: x.Name, State: x.State(), Note: x.Note, Missing: x.Lacks()}
			if !x.Want.IsZero() {
				value.Published = x.Want.String()
			}
			if !x.Got.IsZero() {
				value.Computed, value.Basis = x.Got.String(), x.Basis.String()
			}
			one.Values = append(one.Values, value)
		}
		v.Rows = append(v.Rows, one)
	}
	return v
}

// holesShown is how many missing inputs the text lists without -v.
const holesShown = 20

func (v *fleetView) text(w io.Writer, summary string, verbose bool) {
	c := v.Coverage
	show.Line(w, "%s", summary)
	show.Line(w, "")
	show.Line(w, "%s: %s, %s", v.File, v.Kind, show.Plural(c.Rows, "row", "rows"))
	show.Line(w, "  %d of %s recomputed and equal, %d differ, %d left; %d of %d rows whole", c.Recomputed, show.Plural(c.Published, "published value", "published values"), c.Differs, c.Open, c.WholeRows, c.Rows)
	if c.Follows > 0 {
		show.Line(w, "  %s from the list, with nothing published to compare", show.Plural(c.Follows, "value follows", "values follow"))
	}
	show.Line(w, "")
	for _, row := range v.Rows {
		row.text(w, verbose)
	}
	if len(v.Holes) > 0 {
		show.Line(w, "")
		show.Line(w, "Missing:")
	}
	for i, h := range v.Holes {
		if i == holesShown && !verbose {
			show.Line(w, "  and %d more; -v shows all", len(v.Holes)-holesShown)
			break
		}
		of := ""
		if len(h.Values) > 0 {
			of = ", for " + strings.Join(h.Values, ", ")
		}
		show.Line(w, "  %s: %s%s", show.Plural(h.Rows, "row", "rows"), h.Input, of)
	}
}

func (r fleetRow) text(w io.Writer, verbose bool) {
	words := map[fleet.State][]string{}
	for _, x := range r.Values {
		words[x.State] = append(words[x.State], x.Name)
	}
	var parts []string
	for _, s := range []struct {
		state fleet.State
		word  string
	}{{fleet.Differs, "DIFFERS"}, {fleet.Recomputed, "equal"}, {fleet.Follows, "follows"}, {fleet.Unknown, "left"}} {
		if names := words[s.state]; len(names) > 0 {
			parts = append(parts, s.word+": "+strings.Join(names, ", "))
		}
	}
	if len(r.Missing) > 0 {
		parts = append(parts, "missing: "+strings.Join(r.Missing, ", "))
	}
	line := ""
	if r.Line > 0 {
		line = fmt.Sprint(r.Line)
	}
	show.Line(w, "  %4s  %-26s %s", line, r.Name, strings.Join(parts, "; "))
	if !verbose {
		return
	}
	for _, x := range r.Values {
		switch x.State {
		case fleet.Unknown:
			show.Line(w, "          %-12s missing: %s", x.Name, strings.Join(x.Missing, ", "))
		case fleet.Differs:
			show.Line(w, "          %-12s computed %s, published %s", x.Name, x.Computed, x.Published)
		default:
			show.Line(w, "          %-12s %s (%s) %s", x.Name, x.Computed, x.Basis, x.Note)
		}
	}
}
