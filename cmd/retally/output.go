package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/atomicfile"
	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/report"
)

// comparison holds the flags of every verb that ends in a report.
type comparison struct {
	output  string
	reports []string
	allow   []string
}

func (c *comparison) flags(cmd *cobra.Command) {
	outputFlag(cmd, &c.output)
	cmd.Flags().StringArrayVar(&c.reports, "report", nil, "also write the report, as FORMAT=FILE ("+strings.Join(formatNames(), ", ")+"); may be given several times")
	cmd.Flags().StringArrayVar(&c.allow, "allow-unchecked", nil, "glob of keys that may stay unchecked or rest on copied values; may be given several times")
	_ = cmd.RegisterFlagCompletionFunc("report", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var out []string
		for _, name := range formatNames() {
			out = append(out, name+"=")
		}
		return out, cobra.ShellCompDirectiveNoSpace
	})
}

// target is one --report.
type target struct {
	format report.Format
	path   string
}

func formatNames() []string {
	var names []string
	for _, f := range report.Formats() {
		names = append(names, f.Name)
	}
	return names
}

// targets checks the flags before any work is done.
func (c *comparison) targets() ([]target, error) {
	known := formatNames()
	var out []target
	for _, r := range c.reports {
		name, path, ok := strings.Cut(r, "=")
		if !ok || path == "" {
			return nil, &userError{op: "retally", msg: fmt.Sprintf("--report %s: want FORMAT=FILE", r), hint: "for instance --report " + known[0] + "=report" + report.Formats()[0].Ext}
		}
		i := slices.Index(known, name)
		if i < 0 {
			e := &userError{op: "retally", msg: fmt.Sprintf("--report %s: unknown format %q", r, name), hint: "known: " + strings.Join(known, ", ")}
			if near := yamldoc.Nearest(name, known); near != "" {
				e.hint = fmt.Sprintf("did you mean --report %s=%s?", near, path)
			}
			return nil, e
		}
		if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
			return nil, &userError{op: "write report", path: path, msg: "its folder does not exist", hint: "make the folder first: mkdir -p " + filepath.Dir(path)}
		}
		out = append(out, target{report.Formats()[i], path})
	}
	for _, g := range c.allow {
		if err := pipeline.ValidGlob(g); err != nil {
			return nil, &userError{op: "retally", msg: "--allow-unchecked: " + err.Error()}
		}
	}
	return out, nil
}

// finish prints the report, writes the files and turns the outcome into the
// exit code.
func (a *app) finish(c *comparison, targets []target, rep *pipeline.Report) error {
	if err := writeTargets(targets, rep); err != nil {
		return err
	}
	if err := a.print(c.output, rep); err != nil {
		return &userError{op: "write result", err: err}
	}
	return outcome(rep.Outcome)
}

// writeTargets writes the reports that --report asked for.
func writeTargets(targets []target, rep *pipeline.Report) error {
	for _, t := range targets {
		var b bytes.Buffer
		if err := t.format.Render(&b, rep); err != nil {
			return &userError{op: "write report", path: t.path, err: err}
		}
		if err := atomicfile.Write(t.path, b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) print(output string, rep *pipeline.Report) error {
	if output == "json" {
		return report.JSON(a.stdout, rep)
	}
	return report.Text(a.stdout, rep, report.TextOptions{Color: a.colored(a.stdout), Width: a.width(a.stdout), Verbose: a.verbose})
}
