package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/report"
)

func (a *app) explainCommand() *cobra.Command {
	var output, file, configFile string
	var search searchFlags
	cmd := &cobra.Command{
		Use:   "explain KEY",
		Short: "Follow one value of a report down to its cause and its inputs",
		Long: `Follow one value of a report down to its cause and its inputs.

With --search and --want, KEY is a register of a TDX machine (mrtd, rtmr0 to
rtmr3, or tdx/PLATFORM/REGISTER). The machine is described by the flags of
"retally tdx measure"; known deviations of hypervisors, firmware and tools are
tried on it until one of them, or a pair, gives the wanted value. Given only an
RTMR0 and a firmware, the machine's whole shape is searched.

With --search and without --want, KEY is tdx/PLATFORM/REGISTER or
evidence/NAME/REGISTER of the report: the machine comes from the
configuration, and the wanted value is what the report compared it with, or what
the evidence says.

With --search, KEY may also be a PCR, as tpm/PLATFORM/BANK/pcrN: the machine
comes from the configuration, and the wanted value is that of --want, or what the
report compared the PCR with.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if search.on && isPCR(args[0]) {
				return a.searchPCR(cmd.Context(), output, args[0], search.want, configFile, file)
			}
			if search.on && search.fromRun(args[0]) {
				return a.searchFromRun(cmd.Context(), output, args[0], configFile, file)
			}
			if search.on {
				return a.searchFromFlags(cmd.Context(), output, args[0], &search)
			}
			r, err := a.loadReport(file)
			if err != nil {
				return err
			}
			e, err := pipeline.Explain(r, pipeline.Key(args[0]))
			if err != nil {
				return err
			}
			if output == "json" {
				return writeJSON(a.stdout, e)
			}
			_, err = a.stdout.Write([]byte(explanation(e)))
			return err
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			r, err := a.loadReport(file)
			if err != nil || len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var keys []string
			for _, f := range r.Findings {
				keys = append(keys, string(f.Key))
			}
			return keys, cobra.ShellCompDirectiveNoFileComp
		},
	}
	outputFlag(cmd, &output)
	cmd.Flags().StringVar(&file, "report", "retally-out/report.json", "report to read, - for stdin")
	cmd.Flags().StringVarP(&configFile, "file", "f", config.FileName, "with --search and without --want: the configuration that the report was made with, - for stdin")
	search.flags(cmd)
	return cmd
}

func (a *app) loadReport(file string) (*pipeline.Report, error) {
	data, err := a.readInput("read report", file, 256<<20)
	if err != nil {
		return nil, err
	}
	return pipeline.ReadReport(file, data)
}

func explanation(e *pipeline.Explanation) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(show.Text(fmt.Sprintf(format, args...)) + "\n") }
	line("%s", e.Key)
	if f := e.Finding; f != nil {
		if f.Words != "" {
			line("  what       %s", f.Words)
		}
		line("  verdict    %s (%s)", f.Verdict, f.Class)
		line("  here       %s", orNone(f.Got))
		line("  published  %s", orNone(f.Want))
		if f.Relation != pipeline.Equal {
			line("  relation   %s", f.Relation)
		}
		if f.Where.File != "" {
			line("  stands in  %s", report.Place(f.Where))
		}
		if f.Note != "" {
			line("  note       %s", f.Note)
		}
	} else {
		line("  value      %s", orNone(e.Measurement.Value))
	}
	if e.Measurement != nil {
		line("  how known  %s", e.Standing)
		for _, k := range e.Standing.RestsOn {
			line("             rests on %s", k)
		}
		if e.Measurement.Note != "" {
			line("  about      %s", e.Measurement.Note)
		}
	}
	if e.Finding != nil {
		for _, c := range e.Finding.Why {
			line("  %s", report.CauseWords(c))
			if len(c.Path) > 0 {
				line("    at %s", strings.Join(c.Path, " > "))
			}
		}
	}
	if len(e.Tree) > 0 {
		line("  computed from")
		for _, t := range e.Tree {
			basis := ""
			if t.Basis != 0 {
				basis = " (" + t.Basis.String() + ")"
			}
			line("%s%s%s  %s", strings.Repeat("  ", t.Depth+2), t.Name, basis, t.Value)
		}
	}
	if m := e.Measurement; m != nil && m.Trace != nil {
		line("  trace, folded by %s with %s", m.Trace.Fold, m.Trace.Algorithm)
		for _, ev := range m.Trace.Events {
			line("    %3d  %s  %s", ev.Index, ev.Digest.Hex(), ev.Label)
		}
	}
	for _, s := range e.Sets {
		line("  set %s: %d match, %d differ, %d unchecked, of %s", s.Set, s.Match, s.Differs, s.Unchecked, show.Plural(s.Alternatives, "set", "sets"))
	}
	return b.String()
}

func orNone(v pipeline.Value) string {
	if v.IsNone() {
		return "(none)"
	}
	return v.String()
}
