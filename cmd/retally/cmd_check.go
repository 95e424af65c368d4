package main

import (
	"context"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/recognize"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
)

func (a *app) checkCommand() *cobra.Command {
	var flags runFlags
	cmd := &cobra.Command{
		Use:   "check PATH...",
		Short: "Recognize what PATH is, check all that needs no further input, and say what is missing",
		Long: `Point retally at something you have: a checkout of a vendor's repository, a
deployment YAML, a models file, a manifest, image hashes, docker inspect
output, a proxy's workspace; or a machine's evidence: a quote, a saved cpu.html,
GPU evidence, a capture, an event log, with tdx.csv, the compose file, the TLS
certificate and TDX firmware. It recognizes each by its content, checks what can be checked with
these files alone, and names the next command. Several paths are taken together.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := flags.targets()
			if err != nil {
				return err
			}
			if err := flags.checkOnly(); err != nil {
				return err
			}
			count := new(run.Counter)
			s, err := recognize.Look(cmd.Context(), stages.Table(), args, count)
			if err != nil {
				return err
			}
			defer s.Close()
			flags.protect(run.InputPaths(s.Config, s.Root)...)
			for _, f := range s.Found {
				flags.protect(filepath.Join(s.Root, filepath.FromSlash(f.Name)))
			}
			if err := flags.checkTargets(targets); err != nil {
				return err
			}
			o := run.Options{
				Root: s.Root, Subject: s.Title, Only: flags.only, Allow: flags.allow, TestRootOK: flags.testRootOK, Tool: tool(),
				Counter: count, Reader: s.Reader, ConfigInput: s.ConfigInput, Problems: s.Problems, Progress: new(run.Progress),
			}
			if err := s.Prepare(cmd.Context()); err != nil {
				return err
			}
			s.JudgeAt(time.Now())
			stop := a.showProgress(o.Progress)
			res, err := recount(cmd.Context(), s, o)
			stop()
			if err != nil {
				return err
			}
			step, more := nextOfEvidence(s, s.Names(args))
			if step.Command == "" {
				step = s.Next(args, res.Report.Outcome)
			}
			res.Report.Next, res.Report.NextWhy = step.Command, step.Why
			res.Report.More = append(more, s.More(args)...)
			return a.finish(&flags.comparison, targets, res.Report)
		},
	}
	flags.flags(cmd)
	return cmd
}

// recount runs what was recognized. A manifest that cannot be generated is no
// reason to leave the rest unchecked.
func recount(ctx context.Context, s *recognize.Subject, o run.Options) (*run.Result, error) {
	o.Problems, o.Lacks = s.Problems, s.Lacks
	res, err := run.Run(ctx, stages.Table(), s.Config, o)
	if err == nil || ctx.Err() != nil || !s.Ungenerated(err) {
		return res, err
	}
	o.Problems, o.Lacks = s.Problems, s.Lacks
	return run.Run(ctx, stages.Table(), s.Config, o)
}

// quote makes a word that a shell takes as it is.
func quote(s string) string { return show.Word(s) }
