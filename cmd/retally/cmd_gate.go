package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/gate"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
	"github.com/retally/retally/releases"
	"github.com/retally/retally/report"
)

func (a *app) gateCommand() *cobra.Command {
	var (
		flags                                                runFlags
		file, out, against, policyFile, previous, at, logKey string
	)
	cmd := &cobra.Command{
		Use:   "gate",
		Short: "Recount before a release, and judge what came out by a written policy",
		Long: `Run every stage that retally.yaml describes, reread everything (no cache is
trusted), compare with what is to be published, and hold the result against a
policy: which values must be known and how, what may be looser than in the
release before, how old evidence may be, and which differences are acknowledged,
by whom and until when. Without a policy everything must match and be recounted.

Exit code 0: nothing stands against the release. 1: denied, each reason with its
file and line. 3: something published was not recounted.
allow_unchecked of retally.yaml does not count here: leaves stand in the policy.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			targets, err := flags.targets(file, policyFile)
			if err != nil {
				return err
			}
			now := time.Now().UTC().Truncate(time.Second)
			if at != "" {
				if now, err = time.Parse(time.RFC3339, at); err != nil {
					return &userError{op: "gate", msg: "--at " + at + ": is no time", hint: "write RFC 3339: 2026-11-30T00:00:00Z"}
				}
			}
			policy, policyInput, err := a.gatePolicy(policyFile)
			if err != nil {
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
			if len(cfg.AllowUnchecked) > 0 {
				a.talk("retally: allow_unchecked of %s does not count in a gate: leaves stand in its policy", file)
				cfg.AllowUnchecked = nil
			}
			flags.protect(run.InputPaths(cfg, root)...)
			checks := []error{flags.checkTargets(targets)}
			if out != "" {
				checks = append(checks, run.CheckOut(&flags.guard, out, "manifest.json", "report.json", "run.json"))
			}
			if err := errors.Join(checks...); err != nil {
				return err
			}
			flags.fresh, flags.noCache = true, true
			res, err := a.runAll(cmd.Context(), cfg, root, "what "+filepath.ToSlash(file)+" describes, before a release", input, &flags)
			if err != nil {
				return err
			}
			c := gate.Case{At: now, Against: cfg.Against, Judged: pipeline.Case{Allow: flags.allow, TestRootOK: flags.testRootOK}, Evidence: shownEvidence(cfg, root, now)}
			if previous != "" {
				if err := a.previousRelease(cmd.Context(), previous, logKey, root, cfg, res, &c); err != nil {
					return err
				}
			}
			if policyInput != nil {
				res.Report.Inputs = append(res.Report.Inputs, *policyInput)
			}
			gate.Judge(res.Report, policy, c)
			if out != "" {
				if err := a.writeOut(&flags.outputs, out, res); err != nil {
					return err
				}
			}
			return a.finish(&flags.comparison, targets, res.Report)
		},
	}
	flags.comparison.flags(cmd)
	cmd.Flags().BoolVar(&flags.testRootOK, "test-root-ok", false, "let the gate open under a test root, as a policy's rule test-root does")
	cmd.Flags().StringVarP(&file, "file", "f", config.FileName, "configuration file, - for stdin")
	cmd.Flags().StringVar(&against, "against", "", "what is to be published, in place of the configuration's")
	cmd.Flags().StringVar(&policyFile, "policy", "", "policy file (docs/gate.md); without one everything must match")
	cmd.Flags().StringVar(&previous, "previous", "", "the release before: a manifest, a report.json, a deployment, a folder with them, or a list of releases, whose last one it is")
	cmd.Flags().StringVar(&logKey, "log-key", "", "file with the public key that must have signed the list of releases that --previous names")
	cmd.Flags().StringVar(&at, "at", "", "day that terms and ages are counted from, RFC 3339 (default now)")
	cmd.Flags().StringVar(&out, "out", "", "folder for manifest.json, report.json and run.json; the next gate's --previous")
	return cmd
}

func (a *app) gatePolicy(file string) (*gate.Policy, *pipeline.Input, error) {
	if file == "" {
		return gate.Strict(), nil, nil
	}
	data, in, err := run.NewReader(filepath.Dir(file), nil).ReadFile(context.Background(), filepath.Base(file), gate.Limit)
	if err != nil {
		return nil, nil, err
	}
	p, err := gate.Parse(filepath.ToSlash(file), data)
	in.File = filepath.ToSlash(file)
	return p, &in, err
}

// shownEvidence lists the evidence with its time: when it was captured where
// that is in its folder, else the time that it is judged at.
func shownEvidence(cfg *config.Config, root string, now time.Time) []gate.Shown {
	var out []gate.Shown
	for name, e := range cfg.Evidence {
		s := gate.Shown{Name: name, File: e.File}
		if t, err := time.Parse(time.RFC3339, e.At); err == nil {
			s.Taken = t
		}
		var captured struct {
			At time.Time `json:"captured_at"`
		}
		if data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(e.File), "capture.json")); err == nil && json.Unmarshal(data, &captured) == nil && !captured.At.IsZero() {
			s.Taken = captured.At
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b gate.Shown) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return out
}

func (a *app) previousRelease(ctx context.Context, previous, logKey, root string, cfg *config.Config, res *run.Result, c *gate.Case) error {
	var js bytes.Buffer
	if err := report.JSON(&js, res.Report); err != nil {
		return err
	}
	now := stages.Now{Report: res.Report, JSON: js.Bytes()}
	for _, art := range res.Artifacts {
		if art.Name == "manifest.json" {
			now.Manifest = art.Data
		}
	}
	if cfg.Deployment != "" {
		now.Deployment = filepath.Join(root, filepath.FromSlash(cfg.Deployment))
	}
	var rep *pipeline.Report
	var before map[string]pipeline.Input
	var err error
	name := filepath.ToSlash(previous)
	if logKey != "" || releases.IsLog(previous) {
		rep, before, name, err = a.remembered(previous, logKey, now)
	} else {
		rep, before, err = stages.ComparePrevious(ctx, previous, now, tool())
	}
	if err != nil {
		return err
	}
	c.Previous, c.Before, c.PreviousName = rep, before, name
	a.talk("retally: %s compared with %s", show.Plural(len(rep.Findings), "value", "values"), name)
	return nil
}

// remembered compares with the last release of a list. A list that does not
// hold, or that anybody can have made, is no release before.
func (a *app) remembered(dir, key string, now stages.Now) (*pipeline.Report, map[string]pipeline.Input, string, error) {
	fail := func(err error, hint string) (*pipeline.Report, map[string]pipeline.Input, string, error) {
		return nil, nil, "", &userError{op: "compare with the release before", path: dir, err: err, hint: hint}
	}
	if key == "" {
		return fail(errors.New("is a list of releases, and nothing says who signed it"), "--log-key FILE, the public key of the list")
	}
	l, err := a.openLog(dir, key)
	if err != nil {
		return nil, nil, "", err
	}
	if len(l.Faults) > 0 {
		return fail(errors.New("the list does not hold: "+l.Faults[0].String()), "retally releases check says all of it")
	}
	e := l.Last()
	if e == nil {
		return fail(errors.New("the list has no release that was recounted without a difference"), "")
	}
	report := stages.File{Name: filepath.ToSlash(filepath.Join(dir, releases.Kept(releases.Reports, e.Report)))}
	if report.Data, err = l.Read(releases.Reports, e.Report); err != nil {
		return fail(err, "the list keeps the report of each release beside it: copy the folder reports along")
	}
	manifest := stages.File{Name: filepath.ToSlash(filepath.Join(dir, releases.Kept(releases.Manifests, e.Manifest)))}
	if !e.Manifest.IsZero() {
		if manifest.Data, err = l.Read(releases.Manifests, e.Manifest); err != nil {
			return fail(err, "the list keeps the manifest of each release beside it: copy the folder manifests along")
		}
	}
	rep, before, err := stages.CompareRemembered(report, manifest, now, tool())
	return rep, before, fmt.Sprintf("%s, entry %d of %s", e.Release, e.Index, filepath.ToSlash(dir)), err
}
