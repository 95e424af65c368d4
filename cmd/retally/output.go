package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/internal/outfile"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/report"
	"github.com/retally/retally/trace"
)

// outputs are the files that a verb writes. What may be written over is decided
// in internal/outfile: never an input of the run, a file of another kind only
// with --force.
type outputs struct{ guard outfile.Guard }

func (o *outputs) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.guard.Force, "force", false, "let an output file replace a file of another kind; never an input of the run")
}

// protect names the inputs of the run.
func (o *outputs) protect(inputs ...string) {
	for _, name := range inputs {
		o.guard.Protect(name)
	}
}

// check finds what stands against an output before any work is done. No path is
// no output.
func (o *outputs) check(path string, k outfile.Kind) error {
	if path == "" {
		return nil
	}
	return o.guard.Check(path, k)
}

func (a *app) write(o *outputs, path string, k outfile.Kind, data []byte) error {
	if path == "" {
		return nil
	}
	o.guard.Stdout = a.stdout
	return o.guard.Write(path, k, data, 0o644)
}

// comparison holds the flags of every verb that ends in a report.
type comparison struct {
	outputs
	output  string
	reports []string
	allow   []string
}

func (c *comparison) flags(cmd *cobra.Command) {
	outputFlag(cmd, &c.output)
	c.outputs.flags(cmd)
	cmd.Flags().StringArrayVar(&c.reports, "report", nil, "also write the report, as FORMAT=FILE ("+strings.Join(report.FormatNames(), ", ")+"); may be given several times")
	cmd.Flags().StringArrayVar(&c.allow, "allow-unchecked", nil, "glob of keys that may stay unchecked or rest on copied values; may be given several times")
	_ = cmd.RegisterFlagCompletionFunc("report", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var out []string
		for _, name := range report.FormatNames() {
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

func (t target) kind() outfile.Kind {
	return outfile.Kind{Name: "a retally report in " + t.format.Name, Is: t.format.Is}
}

// targets checks the flags before any work is done. The inputs of the run are
// never written over; a verb that learns of more of them later says so by
// protect and asks checkTargets again.
func (c *comparison) targets(inputs ...string) ([]target, error) {
	c.protect(inputs...)
	var out []target
	for _, r := range c.reports {
		format, path, err := report.ParseTarget(r)
		if err != nil {
			return nil, plain(err)
		}
		if slices.ContainsFunc(out, func(t target) bool { return t.path == path }) {
			return nil, &userError{msg: fmt.Sprintf("--report %s: another report goes there already", r), hint: "name another file"}
		}
		out = append(out, target{format, path})
	}
	for _, g := range c.allow {
		if err := pipeline.ValidGlob(g); err != nil {
			return nil, &userError{msg: "--allow-unchecked: " + err.Error()}
		}
	}
	return out, c.checkTargets(out)
}

func (c *comparison) checkTargets(targets []target) error {
	for _, t := range targets {
		if err := c.check(t.path, t.kind()); err != nil {
			return err
		}
	}
	return nil
}

// view is how a verb shows its result in place of the report's own forms.
type view struct {
	json any
	text func(w io.Writer, verbose bool)
	// differs is the word for an outcome "differs": denied, invalid.
	differs string
	// computes is set where nothing was asked to be compared: that nothing was
	// is then no lack.
	computes bool
	// taken: both sides are as they were found, nobody here computed one. got and
	// want are what they are called.
	taken     bool
	got, want string
}

// judged compares what a verb found with what it must be, and finishes.
func (a *app) judged(c *comparison, targets []target, subject string, out *run.Out, v view) error {
	rep := run.NewReport(tool(), subject)
	rep.GotName, rep.WantName = v.got, v.want
	if v.taken {
		run.JudgeTaken(rep, pipeline.Case{Allow: c.allow}, out)
	} else {
		run.Judge(rep, pipeline.Case{Allow: c.allow}, out)
	}
	return a.finish(c, targets, rep, v)
}

// writeReports writes the files of --report.
func (a *app) writeReports(c *comparison, targets []target, rep *pipeline.Report) error {
	for _, t := range targets {
		var b bytes.Buffer
		if err := t.format.Render(&b, rep); err != nil {
			return &userError{op: "write report", path: t.path, err: err}
		}
		if err := a.write(&c.outputs, t.path, t.kind(), b.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// finish writes the files, prints the report or the verb's view of it, and turns
// the outcome into the exit code.
func (a *app) finish(c *comparison, targets []target, rep *pipeline.Report, views ...view) error {
	if err := a.writeReports(c, targets, rep); err != nil {
		return err
	}
	end := reported(rep)
	if len(views) == 0 {
		if err := a.print(c.output, rep); err != nil {
			return &userError{op: "write result", err: err}
		}
		return end.end()
	}
	v := views[0]
	if v.computes && len(rep.Findings) == 0 && rep.Outcome == pipeline.OutcomeUnchecked {
		end = computes()
	}
	if rep.Outcome == pipeline.OutcomeDiffers && v.differs != "" {
		end.word = v.differs
	}
	doc := v.json
	if images, ok := doc.([]imagehash.Image); ok && c.output == "json" {
		if err := writeJSON(a.stdout, a.rows(end, images)); err != nil {
			return &userError{op: "write result", err: err}
		}
		return end.end()
	}
	return a.concluded(c.output, end, doc, func(w io.Writer) { v.text(w, a.verbose) })
}

func (a *app) print(output string, rep *pipeline.Report) error {
	if output == "json" {
		return writeJSON(a.stdout, a.document(reported(rep), rep))
	}
	return report.Text(a.stdout, rep, report.TextOptions{Color: a.colored(a.stdout), Width: a.width(a.stdout), Verbose: a.verbose})
}

// printTrace shows the events that a value is folded from.
func (a *app) printTrace(t trace.Trace) { t.Text(a.stdout) }

// plain gives a floor's error about an input the form of all others. The inputs
// that it names in braces are flags here.
func plain(err error) error {
	var in *pipeline.InputError
	if !errors.As(err, &in) {
		return err
	}
	e := &userError{op: in.Op, path: in.File, hint: asFlag.ReplaceAllString(in.Hint, "--$1")}
	if text := in.Err.Error(); in.File == "" && asFlag.MatchString(text) {
		e.msg = asFlag.ReplaceAllString(text, "--$1")
	} else {
		e.err = in.Err
	}
	return e
}

var asFlag = regexp.MustCompile(`\{([a-z][a-z-]*)\}`)
