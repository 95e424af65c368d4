// Package run executes a table of stages: it opens inputs once, parses documents
// once, keeps results that nothing has changed, and hands what came out to the
// judge in package pipeline. It knows no stage by name.
package run

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/retally/retally/internal/cache"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
)

// Options of a run.
type Options struct {
	Root    string   // folder that the configuration's names start from
	Subject string   // what is recounted, for the report's first line
	Only    []string // globs: compare and report these keys only
	// Wanted are globs of the keys that are asked for: a stage may leave out
	// the others, and with them what only they need. None: all.
	Wanted []string
	// Field says how the user gives a field of the configuration, where it is
	// not by its name in retally.yaml. See In.Field.
	Field func(value string, path ...string) string
	Allow []string // globs of --allow-unchecked
	// NothingRecounted: the run only asks who vouches, so that nothing recounted is
	// no lack. See pipeline.Case.
	NothingRecounted bool
	// TestRootOK lets a run under a test root end in a match.
	TestRootOK bool
	Tool       pipeline.Tool
	Build      string       // identity of this very program, part of cache keys
	Cache      *cache.Store // nil: no result is reused or kept
	Fresh      bool         // reread everything; results are still kept
	Progress   *Progress
	Counter    *Counter
	// Reader, if set, holds files that were read while recognizing them.
	Reader *Reader
	// Problems were found before the run and belong in its report.
	Problems []pipeline.Problem
	Lacks    []pipeline.Lack
	Next     string // the command to propose in the report: one that runs as it stands
	NextWhy  string // what it is for
	// ConfigInput is the configuration file as it was read, if it was a file.
	ConfigInput *pipeline.Input
}

// Result is a report with what a run made and the circumstances that the
// report, which depends on the inputs only, does not tell.
type Result struct {
	Report    *pipeline.Report
	Artifacts []Artifact
	Reused    []string                  // stages whose result was taken from the cache
	Trusted   []string                  // inputs that were not reread, trusted by their stat identity
	Missing   map[pipeline.Key][]string // of values that were not computed, which inputs there were not
	Warnings  []string                  // trouble that changes no result, such as an unwritable cache
}

// StageError says which stage could not compute.
type StageError struct {
	Stage string
	Err   error
}

func (e *StageError) Error() string { return e.Stage + ": " + e.Err.Error() }
func (e *StageError) Unwrap() error { return e.Err }

// Run executes every stage of the table in order, compares, and reports.
func Run(ctx context.Context, table []Stage, cfg *config.Config, o Options) (*Result, error) {
	if err := CheckTable(table); err != nil {
		return nil, err
	}
	if o.Progress == nil {
		o.Progress = new(Progress)
	}
	Fill(table, cfg)
	reader := o.Reader
	if reader == nil {
		reader = NewReader(o.Root, o.Counter)
	}
	r := &runner{
		cfg: cfg, o: o, reader: reader,
		ms: map[pipeline.Key]pipeline.Measurement{}, inputs: map[string]pipeline.Input{}, result: new(Result),
	}
	if o.Cache != nil && len(o.Wanted) == 0 {
		r.cached = &cached{store: o.Cache, salt: fmt.Sprintf("%s %s %q %s", o.Tool.Version, o.Build, o.Root, cfg.Identity())}
	}
	for i := range table {
		if err := r.stage(ctx, &table[i]); err != nil {
			if errors.Is(err, context.Canceled) {
				return nil, err
			}
			return nil, &StageError{table[i].Name, err}
		}
	}
	return r.finish(), nil
}

type runner struct {
	cfg    *config.Config
	o      Options
	reader *Reader
	cached *cached
	ms     map[pipeline.Key]pipeline.Measurement
	outs   []*Out
	inputs map[string]pipeline.Input
	result *Result
}

func (r *runner) stage(ctx context.Context, s *Stage) error {
	r.o.Progress.begin(s.Name)
	if r.cached != nil && !r.o.Fresh {
		if rec, ok := r.cached.lookup(s, r.reader, r.ms); ok {
			for _, f := range rec.Files {
				r.inputs[f.Input.File] = f.Input
				r.result.Trusted = append(r.result.Trusted, f.Input.File)
			}
			if len(rec.Files) > 0 {
				r.result.Reused = append(r.result.Reused, s.Name)
			}
			return r.take(s, &rec.Out)
		}
	}
	in := &In{Config: r.cfg, Progress: r.o.Progress, reader: r.reader, ms: r.ms, wanted: r.o.Wanted, field: r.o.Field}
	out, err := s.Run(ctx, in)
	if err != nil {
		return err
	}
	out.Lacks = append(out.Lacks, in.lacks...)
	for _, f := range in.files {
		r.inputs[f.input.File] = f.input
	}
	if r.cached != nil {
		if err := r.cached.save(s, in, out); err != nil {
			r.result.Warnings = append(r.result.Warnings, err.Error())
		}
	}
	return r.take(s, out)
}

// take checks a stage's output against the rules that every value keeps and
// adds it to the run.
func (r *runner) take(s *Stage, out *Out) error {
	for _, m := range out.Measurements {
		if _, dup := r.ms[m.Key]; dup {
			return fmt.Errorf("key %s was measured twice", m.Key)
		}
		if m.Basis == 0 || m.Value.IsNone() {
			return fmt.Errorf("measurement %s has no basis or no value", m.Key)
		}
		if m.Trace != nil {
			d, err := m.Trace.Compute()
			if err != nil {
				return fmt.Errorf("%s: %w", m.Key, err)
			}
			if !pipeline.OfDigest(d).Equal(m.Value) {
				return fmt.Errorf("%s is not the fold of its trace: value %s, fold %s", m.Key, m.Value, d)
			}
		}
		r.ms[m.Key] = m
	}
	r.outs = append(r.outs, out)
	return nil
}

// absence adds what a stage's absent values mean. A stage speaks of what it
// compares itself: that a manifest lists all its machines says nothing of the
// machines of another file.
func (out *Out) absence(o *pipeline.CompareOptions) {
	for _, ref := range out.References {
		if ref.Key.MatchAny(out.Complete) {
			o.CompleteKeys[ref.Key] = true
		}
	}
	for _, m := range out.Measurements {
		if m.Key.MatchAny(out.Published) {
			o.PublishedKeys[m.Key] = true
		}
	}
}

func (r *runner) finish() *Result {
	rep := NewReport(r.o.Tool, r.o.Subject)
	rep.Next, rep.NextWhy, rep.Problems, rep.Lacks = r.o.Next, r.o.NextWhy, slices.Clone(r.o.Problems), slices.Clone(r.o.Lacks)
	for _, e := range r.cfg.Evidence {
		if e.At != "" && !slices.Contains(rep.JudgedAt, e.At) {
			rep.JudgedAt = append(rep.JudgedAt, e.At)
		}
	}
	for _, e := range r.cfg.Endorsements {
		if e.At != "" && !slices.Contains(rep.JudgedAt, e.At) {
			rep.JudgedAt = append(rep.JudgedAt, e.At)
		}
	}
	slices.Sort(rep.JudgedAt)
	for _, out := range r.outs {
		r.result.Artifacts = append(r.result.Artifacts, out.Artifacts...)
		for key, list := range out.Missing {
			if r.result.Missing == nil {
				r.result.Missing = map[pipeline.Key][]string{}
			}
			r.result.Missing[key] = append(r.result.Missing[key], list...)
		}
	}
	for _, in := range r.inputs {
		rep.Inputs = append(rep.Inputs, in)
	}
	if r.o.ConfigInput != nil {
		rep.Inputs = append(rep.Inputs, *r.o.ConfigInput)
	}
	Judge(rep, pipeline.Case{Only: r.o.Only, Allow: slices.Concat(r.cfg.AllowUnchecked, r.o.Allow), TestRootOK: r.o.TestRootOK, NothingRecounted: r.o.NothingRecounted}, r.outs...)
	slices.Sort(r.result.Trusted)
	r.result.Trusted = slices.Compact(r.result.Trusted)
	r.result.Report = rep
	return r.result
}
