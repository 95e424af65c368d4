package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/cache"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/recognize"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
	manifeststage "github.com/retally/retally/pipeline/stages/manifest"
	"github.com/retally/retally/report"
)

// runFlags are the flags of verbs that execute the pipeline.
type runFlags struct {
	comparison
	only       []string
	fresh      bool
	noCache    bool
	testRootOK bool
	next       recognize.Step     // command to propose
	said       []pipeline.Problem // before the run
}

func (r *runFlags) flags(cmd *cobra.Command) {
	r.comparison.flags(cmd)
	cmd.Flags().StringArrayVar(&r.only, "only", nil, "glob of keys to compare and report; may be given several times")
	cmd.Flags().BoolVar(&r.fresh, "fresh", false, "reread every input instead of trusting the stat identity of earlier reads")
	cmd.Flags().BoolVar(&r.testRootOK, "test-root-ok", false, "let a run under a test root (intel_root) end in a match, exit code 0")
	cmd.Flags().BoolVar(&r.noCache, "no-cache", false, "neither use nor keep results of other runs")
}

func (r *runFlags) checkOnly() error {
	for _, g := range r.only {
		if err := pipeline.ValidGlob(g); err != nil {
			return &userError{msg: "--only: " + err.Error()}
		}
	}
	return nil
}

func (a *app) runCommand() *cobra.Command {
	var (
		flags   runFlags
		file    string
		out     string
		against string
	)
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Recount everything that retally.yaml describes, write manifest.json and report.json, compare",
		Long: `Run every stage that retally.yaml describes. DIR/manifest.json is the manifest
as recounted, DIR/report.json the whole report, DIR/run.json the circumstances
of this run (what was reread, what was trusted). The reports depend on the
inputs only; run.json does not.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			targets, err := flags.targets(file)
			if err != nil {
				return err
			}
			if err := flags.checkOnly(); err != nil {
				return err
			}
			cfg, input, root, err := a.loadConfig(file)
			if err != nil {
				return err
			}
			if against != "" {
				if cfg.Against, err = run.Relative(root, against); err != nil {
					return plain(err)
				}
			}
			if cfg.Against, flags.said, err = manifeststage.Latest(root, cfg.Against); err != nil {
				return plain(err)
			}
			flags.protect(run.InputPaths(cfg, root)...)
			if err := errors.Join(flags.checkTargets(targets), run.CheckOut(&flags.guard, out, "manifest.json", "report.json", "run.json")); err != nil {
				return err
			}
			res, err := a.runAll(cmd.Context(), cfg, root, "what "+filepath.ToSlash(file)+" describes", input, &flags)
			if err != nil {
				return err
			}
			if err := a.writeOut(&flags.outputs, out, res); err != nil {
				return err
			}
			return a.finish(&flags.comparison, targets, res.Report)
		},
	}
	flags.flags(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", config.FileName, "configuration file, - for stdin")
	cmd.Flags().StringVar(&out, "out", "retally-out", "folder for manifest.json, report.json and run.json")
	cmd.Flags().StringVar(&against, "against", "", "published manifest to compare with, or a proxy's workspace, of which the latest entry counts; in place of the configuration's")
	return cmd
}

// loadConfig reads retally.yaml. Its names start from its own folder.
func (a *app) loadConfig(file string) (cfg *config.Config, input *pipeline.Input, root string, err error) {
	if file == "-" {
		data, err := a.readInput("read", "-", 1<<20)
		if err != nil {
			return nil, nil, "", err
		}
		cfg, err := run.ParseConfig(stages.Table(), "stdin", data)
		return cfg, nil, ".", err
	}
	root = filepath.Dir(file)
	data, in, err := run.NewReader(root, nil).ReadFile(context.Background(), filepath.Base(file), 1<<20)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, "", &userError{
				op: "read", path: file, msg: "no such file",
				hint: "retally init writes one; retally check PATH needs none",
			}
		}
		return nil, nil, "", err
	}
	cfg, err = run.ParseConfig(stages.Table(), file, data)
	return cfg, &in, root, err
}

// runAll runs the pipeline with the program's identity, cache and progress.
func (a *app) runAll(ctx context.Context, cfg *config.Config, root, subject string, input *pipeline.Input, f *runFlags) (*run.Result, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, &userError{op: "find", path: root, err: err}
	}
	o := run.Options{
		Root: abs, Subject: subject, Only: f.only, Allow: f.allow, TestRootOK: f.testRootOK, Tool: tool(), Build: run.BuildIdentity(),
		Problems: f.said, Next: f.next.Command, NextWhy: f.next.Why, Fresh: f.fresh, Progress: new(run.Progress), Counter: new(run.Counter), ConfigInput: input,
	}
	if !f.noCache {
		if store, err := a.openCache(); err != nil {
			a.talk("retally: without cache: %v", err)
		} else {
			o.Cache = store
		}
	}
	stop := a.showProgress(o.Progress)
	res, err := run.Run(ctx, stages.Table(), cfg, o)
	stop()
	if err != nil {
		return nil, err
	}
	for _, w := range res.Warnings {
		a.talk("retally: %s", w)
	}
	if n := len(res.Trusted); n > 0 {
		a.talk("retally: %s not reread: cached by stat (size, times, inode unchanged); --fresh rereads", show.Plural(n, "input was", "inputs were"))
	}
	return res, nil
}

// writeOut writes what a run made, each file whole.
func (a *app) writeOut(o *outputs, dir string, res *run.Result) error {
	var rep, circum bytes.Buffer
	if err := report.JSON(&rep, res.Report); err != nil {
		return err
	}
	if err := writeJSON(&circum, res.Circumstances()); err != nil {
		return err
	}
	o.guard.Stdout = a.stdout
	return run.WriteOut(&o.guard, dir, slices.Concat(res.Artifacts, []run.Artifact{{Name: "report.json", Data: rep.Bytes()}, {Name: "run.json", Data: circum.Bytes()}}))
}

// openCache opens the cache where the environment says: RETALLY_CACHE, or
// retally's folder among the user's caches.
func (a *app) openCache() (*cache.Store, error) {
	dir, err := a.cacheDir()
	if err != nil {
		return nil, err
	}
	return cache.Open(dir, cache.DefaultLimit)
}

func (a *app) cacheDir() (string, error) { return cache.Dir(a.env) }

// version is set by the linker for releases; VERSION holds the same.
var version = "0.1.0-dev"

// versionDay is the day that the man pages bear. It changes with VERSION and never
// by itself, so that the pages depend on the source only.
const versionDay = "2026-11-30"

func tool() pipeline.Tool { return pipeline.Tool{Name: "retally", Version: version} }
