package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/outfile"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/recognize"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
)

func (a *app) initCommand() *cobra.Command {
	var profile, output string
	cmd := &cobra.Command{
		Use:   "init [DIR]",
		Short: "Write a commented retally.yaml for what is found in DIR",
		Long: `Look at DIR (default: the working folder) and write DIR/retally.yaml, with a
comment for everything that is missing. With --profile privatemode, DIR is a
checkout of that vendor's public repository; with --profile secretvm, a folder
with a release's artifacts, the compose file, tdx.csv and what a machine showed.
An existing retally.yaml is never overwritten.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("--profile", profile, "", "privatemode", "secretvm"); err != nil {
				return err
			}
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			if info, err := os.Stat(dir); err != nil {
				return &userError{op: "init", path: dir, err: reason(err)}
			} else if !info.IsDir() {
				return &userError{op: "init", path: dir, msg: "is not a folder", hint: "give the folder that holds the files"}
			}
			target := filepath.Join(dir, config.FileName)
			if _, err := os.Lstat(target); err == nil {
				// Somebody's own words: not even --force could be meant.
				return &userError{op: "init", path: target, msg: "exists already", hint: "edit it, or move it away first; retally plan shows what it does"}
			}
			data, found, title, err := recognize.InitFolder(cmd.Context(), stages.Table(), dir, profile, time.Now())
			if err != nil {
				return err
			}
			if err := a.write(new(outputs), target, outfile.Kind{}, data); err != nil {
				return err
			}
			if output == "json" {
				return a.result(output, initView{target, found}, nil)
			}
			fmt.Fprintln(a.stdout, show.Text("wrote "+target))
			a.talk("retally: %s", title)
			a.talk("retally: next: retally plan -f %s", quote(target))
			return nil
		},
	}
	cmd.Flags().StringVar(&profile, "profile", "", "whose files DIR holds: privatemode or secretvm")
	_ = cmd.RegisterFlagCompletionFunc("profile", cobra.FixedCompletions([]string{"privatemode", "secretvm"}, cobra.ShellCompDirectiveNoFileComp))
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) planCommand() *cobra.Command {
	var file, output string
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what would be recounted from which input, and what is missing",
		Long: `Show what retally run would do: every key with the input it comes from or what
is missing for it, and the configuration with every default written out. No
input is read but the configuration.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, _, _, err := a.loadConfig(file)
			if err != nil {
				return err
			}
			lines := run.Plan(stages.Table(), cfg)
			expanded, err := cfg.Encode()
			if err != nil {
				return err
			}
			return a.result(output, planView{cfg, lines}, func(w io.Writer) {
				run.PlanText(w, lines)
				fmt.Fprintf(w, "\n# the configuration with every default\n%s", expanded)
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", config.FileName, "configuration file, - for stdin")
	outputFlag(cmd, &output)
	return cmd
}

// initView is the result of init.
type initView struct {
	Written    string            `json:"written"`
	Recognized []recognize.Found `json:"recognized"`
}

// planView is the result of plan.
type planView struct {
	Config *config.Config `json:"config"`
	Plan   []run.PlanLine `json:"plan"`
}
