package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/retally/retally/pipeline"
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
			o.Problems, o.Lacks = s.Problems, s.Lacks
			stop := a.showProgress(o.Progress)
			res, err := run.Run(cmd.Context(), stages.Table(), s.Config, o)
			stop()
			if err != nil {
				return err
			}
			res.Report.Next = nextCommand(s, args, res.Report)
			return a.finish(&flags.comparison, targets, res.Report)
		},
	}
	flags.flags(cmd)
	return cmd
}

// nextCommand proposes the one thing to do now, with the real names.
func nextCommand(s *recognize.Subject, args []string, r *pipeline.Report) string {
	quoted := make([]string, len(args))
	for i, p := range args {
		quoted[i] = quote(p)
	}
	at := strings.Join(quoted, " ")
	c := s.Config
	if next := nextOfEvidence(s, filesOf(s, args)); next != "" {
		return next
	}
	switch {
	case s.ConfigInput != nil:
		return "retally run -f " + quote(filepath.ToSlash(filepath.Join(s.Root, s.ConfigInput.File))) + ", which also writes the manifest"
	case s.Checkout != nil && c.Hashes == "":
		return fmt.Sprintf("(cd %s && scripts/calculate-image-digests.sh), then retally check %s", quote(s.Root), at)
	case s.Checkout != nil && c.Against == "":
		return fmt.Sprintf("retally init --profile privatemode %s", quote(s.Root))
	case len(c.Disks) > 0 && c.Models == "":
		return fmt.Sprintf("retally check %s models.yaml, with the published root hashes; or retally disk %s --normalize", at, at)
	case len(c.Images) > 0 && c.Deployment == "":
		return fmt.Sprintf("retally check %s DEPLOYMENT.yaml, with the deployment that pins the image", at)
	case c.Deployment != "" && c.Hashes == "" && len(c.Images) == 0:
		return fmt.Sprintf("retally check %s hashes-HOST.json, with the digests of your own rebuild", filesOf(s, args))
	case c.Deployment != "" && c.Against == "":
		return fmt.Sprintf("retally check %s MANIFEST, with the published manifest", filesOf(s, args))
	case c.Against != "" && c.Deployment == "":
		return fmt.Sprintf("retally check %s DEPLOYMENT.yaml, with the deployment that the manifest was generated from", filesOf(s, args))
	case c.Models != "" && c.Deployment == "":
		return fmt.Sprintf("retally check %s DEPLOYMENT.yaml, with the deployment that mounts these disks", filesOf(s, args))
	case c.Hashes != "" && c.Deployment == "":
		return fmt.Sprintf("retally check %s DEPLOYMENT.yaml, with the deployment that pins these images", filesOf(s, args))
	case r.Outcome != pipeline.OutcomeMatch && c.Deployment != "":
		return fmt.Sprintf("retally init %s, to describe a full run", quote(s.Root))
	}
	return ""
}

// filesOf names the files that were found so that more can be added: a folder
// cannot be combined with single files that live elsewhere.
func filesOf(s *recognize.Subject, args []string) string {
	if len(args) > 1 || len(s.Found) == 0 {
		quoted := make([]string, len(args))
		for i, p := range args {
			quoted[i] = quote(p)
		}
		return strings.Join(quoted, " ")
	}
	var names []string
	for _, f := range s.Found {
		names = append(names, quote(filepath.ToSlash(filepath.Join(s.Root, filepath.FromSlash(f.Name)))))
	}
	return strings.Join(names, " ")
}

// quote makes a word that a shell takes as it is.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/:@%+=,") == "" && !strings.HasPrefix(s, "-") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
