package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/search"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/stages/snp"
	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/snpmeasure"
	"github.com/retally/retally/snpmeasure/explain"
)

// isLaunch reports whether a search is for a launch digest.
func isLaunch(key string) bool {
	return strings.EqualFold(key, "launch") || strings.HasPrefix(key, "snp/")
}

// searchLaunchFromFlags searches for the machine behind a launch digest; the
// flags describe the one that it starts from.
func (a *app) searchLaunchFromFlags(ctx context.Context, cmd *cobra.Command, output, wanted string) error {
	const op = "explain"
	if wanted == "" {
		return &userError{op: op, msg: "--search needs the value that is looked for", hint: "--want HEX, with the flags of retally snp measure that describe the machine"}
	}
	alg, err := launchAlgorithm(cmd.Flags().Lookup("mode").Value.String())
	if err != nil {
		return snpTrouble(op, "--mode", err)
	}
	text := strings.ToLower(strings.TrimPrefix(wanted, "0x"))
	want, err := digest.ParseHex(alg, strings.TrimPrefix(text, alg.String()+":"))
	if err != nil {
		return &userError{op: op, msg: fmt.Sprintf("--want %.120q: want %d hex digits", wanted, 2*alg.Size())}
	}
	s, err := a.openLaunchSearch(ctx, op, cmd, want)
	if err != nil {
		return err
	}
	return a.searchLaunch(ctx, output, s)
}

// launchAlgorithm is the hash that a mode's launch digest is of.
func launchAlgorithm(mode string) (digest.Algorithm, error) {
	m, err := snpmeasure.SNP, error(nil)
	if mode != "" {
		m, err = snpmeasure.ParseMode(mode)
	}
	if m == snpmeasure.SEV || m == snpmeasure.SEVES {
		return digest.SHA256, err
	}
	return digest.SHA384, err
}

// openLaunchSearch measures the described machine. A search looks through
// numbers and types of vCPUs anyway: without one it starts from one vCPU of type
// EPYC-Milan, and says so.
func (a *app) openLaunchSearch(ctx context.Context, op string, cmd *cobra.Command, want digest.Digest) (*snp.Search, error) {
	fs := cmd.Flags()
	given := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return fs.Lookup(name).Changed })
	}
	mode := fs.Lookup("mode").Value.String()
	if cpus := mode != "sev" && !strings.HasSuffix(mode, "ovmf-hash"); cpus && !given("profile") {
		if !given("vcpus") {
			if err := fs.Set("vcpus", "1"); err != nil {
				return nil, err
			}
		}
		if !given("vcpu-type", "vcpu-sig", "vcpu-family") {
			if err := fs.Set("vcpu-type", "EPYC-Milan"); err != nil {
				return nil, err
			}
		}
	}
	_, m, err := a.runSNP(ctx, op, fs, nil)
	if err != nil {
		return nil, err
	}
	return m.SearchOf(want)
}

// searchLaunchFromRun searches for a launch digest whose machine a
// configuration describes and whose wanted value stands in a report.
func (a *app) searchLaunchFromRun(ctx context.Context, output, key, config, reportFile string) error {
	cfg, _, root, err := a.loadConfig(config)
	if err != nil {
		return err
	}
	r, err := a.loadReport(reportFile)
	if err != nil {
		return err
	}
	s, err := snp.OpenSearch(ctx, cfg, root, r, pipeline.Key(key))
	if err != nil {
		return err
	}
	return a.searchLaunch(ctx, output, s)
}

// searchLaunch looks for the machine and prints the answer.
func (a *app) searchLaunch(ctx context.Context, output string, s *snp.Search) error {
	in := s.Input
	in.Options.Count = new(atomic.Int64)
	var phase atomic.Pointer[string]
	phase.Store(new("deviations"))
	stop := a.showCount("explain", &phase, in.Options.Count)
	answer, err := explain.Find(ctx, in, s.Want)
	stop()
	if err != nil {
		return snpTrouble("explain", "", err)
	}
	c := &s.Own.Config
	machine := fmt.Sprintf("mode %s, VMM %s", c.Mode, c.VMM)
	if c.VCPUs > 0 {
		machine = fmt.Sprintf("%s, %s, features %#x, VMM %s", show.Plural(c.VCPUs, "vCPU", "vCPUs"), c.CPU, c.Features, c.VMM)
	}
	r := &tdx.Answer{
		Register: "launch", Want: s.Want.Hex(), Machine: machine, Found: answer.Found, Sentence: answer.Sentence(), Deviations: answer.Deviations,
		Tried: answer.Tried, Exhausted: answer.Exhausted,
	}
	return a.answered(output, "launch digest", r.Machine, "docs/why-it-differs.md#amd-sev-snp; another firmware, kernel, initrd or command line is not among the known variants", r, r)
}

// answered shows the answer of a search: r as JSON is shown, title, start and
// next are for people.
func (a *app) answered(output, title, start, next string, r *tdx.Answer, shown any) error {
	if r.Deviations == nil {
		r.Deviations = []search.Deviation{}
	}
	return a.concluded(output, concludes(r.Outcome(), r.Sentence), shown, func(w io.Writer) {
		show.Line(w, "%s  %s", title, r.Sentence)
		show.Line(w, "  start      %s", start)
		for _, d := range r.Deviations {
			show.Line(w, "  deviation  %s (%s): %s", d.ID, d.Axis, d.Note)
		}
		show.Line(w, "  tried      %s", show.Plural(r.Tried, "combination", "combinations"))
		if !r.Found {
			show.Line(w, "  what next  %s", next)
		}
	})
}
