package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/fixtures"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/recognize"
	"github.com/retally/retally/pipeline/run"
)

func (a *app) demoCommand() *cobra.Command {
	var (
		flags  runFlags
		dir    string
		tamper string
	)
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Recount an example deployment that is built in, and compare it with its published manifest",
		Long: `Write the built-in example deployment into a folder, run the whole pipeline on
it and compare with its published manifest. It needs no network, no root and no
other program. --tamper changes one input first, to show how a difference is
found and explained:

` + tamperText(),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			targets, err := flags.targets()
			if err != nil {
				return err
			}
			if err := flags.checkOnly(); err != nil {
				return err
			}
			// Said before the work: a slow disk must not look like a program that hangs.
			a.talk("retally: writing the example deployment: images, a model, two guests, a VM")
			files, what, err := demoFiles(tamper)
			if err != nil {
				return err
			}
			if dir, err = fixtures.Lay(dir, files); err != nil {
				return &userError{op: "make demo folder", path: dir, err: err, hint: "name another folder with --dir"}
			}
			a.talk("retally: the example deployment is in %s", dir)
			if what != "" {
				a.talk("retally: tampered with: %s", what)
			}
			cfg, input, root, err := a.loadConfig(filepath.Join(dir, config.FileName))
			if err != nil {
				return err
			}
			flags.testRootOK = true // the example brings its own root, and the first line says so
			flags.protect(run.InputPaths(cfg, root)...)
			if err := flags.checkTargets(targets); err != nil {
				return err
			}
			flags.next = recognize.Step{Command: "retally demo --tamper policy", Why: "shows a difference and its cause; retally check PATH takes something of your own"}
			if tamper != "" {
				flags.next = recognize.Step{Command: "retally demo", Why: "the same without --tamper: it agrees again"}
			}
			res, err := a.runAll(cmd.Context(), cfg, root, "the built-in example deployment, against its published manifest", input, &flags)
			if err != nil {
				return err
			}
			if err := a.writeOut(&flags.outputs, filepath.Join(dir, "retally-out"), res); err != nil {
				return err
			}
			if err := a.finish(&flags.comparison, targets, res.Report); err != nil {
				return err
			}
			return nil
		},
	}
	flags.flags(cmd)
	cmd.Flags().StringVar(&dir, "dir", "", "folder to write the example into (default: a new temporary folder)")
	cmd.Flags().StringVar(&tamper, "tamper", "", "change one input: "+strings.Join(tamperNames(), ", "))
	_ = cmd.RegisterFlagCompletionFunc("tamper", cobra.FixedCompletions(tamperNames(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func tamperNames() []string {
	var names []string
	for _, t := range fixtures.Tampers() {
		names = append(names, t.Name)
	}
	return names
}

func tamperText() string {
	var b strings.Builder
	for _, t := range fixtures.Tampers() {
		fmt.Fprintf(&b, "  %-11s %s\n", t.Name, t.What)
	}
	return strings.TrimRight(b.String(), "\n")
}

// demoFiles returns the example's files with the change that was asked for.
func demoFiles(tamper string) (files []fixtures.File, what string, err error) {
	if files, err = fixtures.Demo(); err != nil || tamper == "" {
		return files, "", err
	}
	if err := oneOf("--tamper", tamper, tamperNames()...); err != nil {
		return nil, "", err
	}
	for _, t := range fixtures.Tampers() {
		if t.Name == tamper {
			what = t.What
			files, err = t.Apply(files)
		}
	}
	return files, what, err
}
