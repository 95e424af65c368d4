package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

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

KEY may also be a launch digest of an AMD machine: launch with --want and the
flags of "retally snp measure", or snp/PLATFORM/PRODUCT/cpus=N/launch of the
report. Numbers, types and features of vCPUs, VMMs, and ways in which a kernel
or a command line is measured otherwise are tried. And it may be a PCR, as
tpm/PLATFORM/BANK/pcrN: the machine comes from the configuration, and the wanted
value is that of --want, or what the report compared the PCR with.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case search.on && isPCR(args[0]):
				return a.searchPCR(cmd.Context(), output, args[0], search.want, configFile, file)
			case !search.on || !isLaunch(args[0]):
			case search.fromRun(args[0]):
				return a.searchLaunchFromRun(cmd.Context(), output, args[0], configFile, file)
			default:
				return a.searchLaunchFromFlags(cmd.Context(), cmd, output, search.want)
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
			return a.result(output, e, func(w io.Writer) { fmt.Fprint(w, report.Explanation(e)) })
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			r, err := a.loadReport(file)
			if err != nil || len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var keys []string
			for _, f := range r.Findings {
				keys = append(keys, string(f.Key))
			}
			for _, m := range r.Measurements {
				keys = append(keys, string(m.Key))
			}
			slices.Sort(keys)
			keys = slices.DeleteFunc(slices.Compact(keys), func(key string) bool { return !strings.HasPrefix(key, begun) })
			return keys, cobra.ShellCompDirectiveNoFileComp
		},
	}
	outputFlag(cmd, &output)
	cmd.Flags().StringVar(&file, "report", "retally-out/report.json", "report to read, - for stdin")
	cmd.Flags().StringVarP(&configFile, "file", "f", config.FileName, "with --search and without --want: the configuration that the report was made with, - for stdin")
	search.flags(cmd, func() []string { return a.args })
	return cmd
}

func (a *app) loadReport(file string) (*pipeline.Report, error) {
	data, err := a.readInput("read report", file, 256<<20)
	if err != nil {
		return nil, err
	}
	return pipeline.ReadReport(file, data)
}
