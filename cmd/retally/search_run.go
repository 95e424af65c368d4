package main

import (
	"context"
	"strings"

	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/stages/tdx"
)

// fromRun reports whether a search is for a key of a report: its machine and
// its wanted value are then those of a run.
func (f *searchFlags) fromRun(key string) bool {
	return f.want == "" && (strings.Count(key, "/") == 2 || strings.HasPrefix(key, "snp/") || strings.Contains(key, "/"+tdx.AssumedPart+"/"))
}

// searchFromRun searches for a register whose machine a configuration
// describes and whose wanted value stands in a report.
func (a *app) searchFromRun(ctx context.Context, output, key, config, reportFile string) (err error) {
	cfg, _, root, err := a.loadConfig(config)
	if err != nil {
		return err
	}
	r, err := a.loadReport(reportFile)
	if err != nil {
		return err
	}
	s, err := tdx.OpenSearch(ctx, cfg, root, r, pipeline.Key(key))
	if err != nil {
		return err
	}
	defer func() {
		if e := s.Close(); err == nil {
			err = e
		}
	}()
	return a.searchRegister(ctx, output, s, false)
}
