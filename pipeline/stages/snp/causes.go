package snp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/search"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/snpmeasure"
	"github.com/retally/retally/snpmeasure/explain"
)

// searchedInRun bounds the search for a deviation within a run.
const searchedInRun = 100_000

// searchInput is what a search for a machine's deviation starts from.
func (m *Machine) searchInput(c snpmeasure.Config) explain.Input {
	return explain.Input{Artifacts: m.artifacts, Config: c, One: m.shape.one, APEIP: m.shape.eip}
}

// result is the machine that a key is the launch digest of.
func (m *Machine) result(key pipeline.Key) *snpmeasure.Result {
	for _, r := range m.Results {
		if m.launchKey(&r.Config) == key {
			return r
		}
	}
	return nil
}

// why adds the reason where a computed launch digest, under the key own, is not
// the wanted one of a finding.
func (r *stageRun) why(ctx context.Context, m *Machine, own, finding pipeline.Key, want digest.Digest, where pipeline.Where) error {
	res := m.result(own)
	if res == nil || res.Digest == want {
		return nil
	}
	input := m.searchInput(res.Config)
	input.Options = search.Options{MaxDeviations: 2, MaxTried: searchedInRun}
	answer, err := explain.Find(ctx, input, want)
	if err != nil {
		return err
	}
	c := cause(answer)
	c.Path, c.Expected, c.Actual, c.Where = []string{string(finding)}, res.Digest.String(), want.String(), where
	if answer.Found {
		for _, d := range answer.Deviations {
			c.Path = append(c.Path, d.ID)
		}
		c.Standing, c.Note = pipeline.Proved, "the other value "+answer.Sentence()
	} else {
		c.Standing = pipeline.Suspected
		c.Note = answer.Sentence() + ": firmware, kernel, initrd or command line is another"
	}
	r.out.Causes[finding] = append(r.out.Causes[finding], c)
	return nil
}

// cause begins a cause with the section of docs/why-it-differs.md that the
// first deviation belongs to.
func cause(a search.Answer) pipeline.Cause {
	first := ""
	if a.Found && len(a.Deviations) > 0 {
		first = a.Deviations[0].ID
	}
	has := func(prefix string) bool { return strings.HasPrefix(first, prefix) }
	switch {
	case has("vcpus-"):
		return pipeline.Cause{Hint: "snp-vcpu-count"}
	case has("type-"):
		return pipeline.Cause{Hint: "snp-vcpu-type"}
	case has("features-"):
		return pipeline.Cause{Hint: "snp-guest-features"}
	case has("vmm-"):
		return pipeline.Cause{Hint: "snp-vmm"}
	case has("cmdline-"):
		return pipeline.Cause{Hint: "snp-command-line"}
	case has("no-"):
		return pipeline.Cause{Hint: "snp-kernel-hashes"}
	default:
		return pipeline.Cause{Hint: "snp-artifacts"}
	}
}

// Search is a launch digest with everything that a search for its deviation
// needs.
type Search struct {
	Key   pipeline.Key
	Input explain.Input
	Want  digest.Digest
	// Own is the launch digest of the machine as described.
	Own *snpmeasure.Result
}

// OpenSearch prepares the search for a launch digest of a report, whose wanted
// value is the one that its finding was compared with. The configuration has its
// defaults filled in; its names start from root.
func OpenSearch(ctx context.Context, cfg *config.Config, root string, r *pipeline.Report, key pipeline.Key) (*Search, error) {
	fail := func(hint, format string, args ...any) error {
		return &pipeline.InputError{Op: "search", File: string(key), Err: fmt.Errorf(format, args...), Hint: hint}
	}
	parts := key.Parts()
	if len(parts) < 4 || parts[0] != "snp" || !strings.HasPrefix(parts[len(parts)-1], "launch") {
		return nil, fail("", "is no launch digest, want snp/PLATFORM/PRODUCT/cpus=N/launch")
	}
	name := ""
	for p := range cfg.Platforms {
		if strings.EqualFold(p, parts[1]) && cfg.Platforms[p].TEE == "snp" {
			name = p
		}
	}
	if name == "" {
		return nil, fail(config.NearestHint(parts[1], slices.Sorted(maps.Keys(cfg.Platforms))), "the configuration has no SNP platform %q", parts[1])
	}
	want, ok := wanted(r, key)
	if !ok {
		return nil, fail("run retally run first, or name its report with --report FILE", "the report has no other value of it to search for")
	}
	m, err := Open(ctx, run.NewIn(cfg, run.NewReader(root, nil)), name)
	if err != nil {
		return nil, err
	}
	if len(m.lacks) > 0 {
		return nil, &pipeline.InputError{Op: "search", File: string(key), Err: errors.New("no " + m.lacks[0].What + " is given"), Hint: m.lacks[0].How}
	}
	if err := m.measure(ctx); err != nil {
		return nil, err
	}
	own := m.result(m.key(parts[2:]...))
	if own == nil {
		return nil, fail("add it to the platform's vcpus and vcpu_types", "platform %s has no such machine", name)
	}
	return &Search{Key: key, Input: m.searchInput(own.Config), Want: want, Own: own}, nil
}

// SearchOf prepares the search for a value of a platform that a verb describes:
// of its first machine.
func (m *Machine) SearchOf(want digest.Digest) (*Search, error) {
	if len(m.Results) == 0 {
		return nil, errors.New("the machine as described cannot be measured")
	}
	own := m.Results[0]
	return &Search{Key: m.launchKey(&own.Config), Input: m.searchInput(own.Config), Want: want, Own: own}, nil
}

// wanted is the value that a search looks for: of several findings the first
// that differs.
func wanted(r *pipeline.Report, key pipeline.Key) (want digest.Digest, found bool) {
	for _, f := range r.Findings {
		if f.Key != key || f.Want.Kind() != pipeline.DigestKind {
			continue
		}
		if f.Verdict == pipeline.Differs {
			return f.Want.Digest(), true
		}
		if !found {
			want, found = f.Want.Digest(), true
		}
	}
	return want, found
}
