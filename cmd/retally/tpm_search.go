package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/search"
	"github.com/retally/retally/pcrmeasure/explain"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/pipeline/stages/tpm"
)

// isPCR reports whether a search is for a PCR of a platform.
func isPCR(key string) bool {
	_, _, _, ok := tpm.ParseKey(pipeline.Key(key))
	return ok
}

// pcrSearch is the answer of a search for a PCR.
type pcrSearch struct {
	Key        string             `json:"key"`
	Want       string             `json:"want"`
	Found      bool               `json:"found"`
	Sentence   string             `json:"sentence"`
	Deviations []search.Deviation `json:"deviations"`
	Tried      int                `json:"tried"`
	Exhausted  bool               `json:"exhausted"`
}

// searchPCR searches for a PCR whose machine a configuration describes. The
// wanted value is given, or what a report compared the PCR with.
func (a *app) searchPCR(ctx context.Context, output, key, wanted, configFile, reportFile string) (err error) {
	const op = "explain"
	platform, bank, index, _ := tpm.ParseKey(pipeline.Key(key))
	cfg, _, root, err := a.loadConfig(configFile)
	if err != nil {
		return err
	}
	if p, ok := cfg.Platforms[platform]; !ok || p.TEE != "tpm" {
		return &userError{op: op, path: configFile, msg: fmt.Sprintf("has no platform %.80q with tee: tpm", platform), hint: "the key is tpm/PLATFORM/BANK/pcrN"}
	}
	want, err := a.wantedPCR(op, key, wanted, bank, reportFile)
	if err != nil {
		return err
	}
	m, err := tpm.Open(ctx, run.NewIn(cfg, run.NewReader(root, nil)), platform)
	if err != nil {
		return tpmTrouble(op, err)
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	// The base itself must be predictable: else every variant fails, and "no known
	// variant" would be a lie.
	p, err := m.Predict(ctx, bank)
	if err != nil {
		return tpmTrouble(op, err)
	}
	if p.PCRs[index] == nil {
		return &userError{op: op, msg: fmt.Sprintf("%s is not predicted: %s", key, p.Missing[index])}
	}
	artifacts, machine := m.Inputs()
	in := explain.Input{Artifacts: artifacts, Machine: machine, Options: search.Options{Count: new(atomic.Int64)}}
	var phase atomic.Pointer[string]
	phase.Store(new("deviations"))
	stop := a.showCount("explain", &phase, in.Options.Count)
	answer, err := explain.Find(ctx, index, in, want)
	stop()
	if err != nil {
		return tpmTrouble(op, err)
	}
	r := &tdx.Answer{Found: answer.Found, Sentence: answer.Sentence(), Deviations: answer.Deviations, Tried: answer.Tried}
	if r.Deviations == nil {
		r.Deviations = []search.Deviation{}
	}
	doc := pcrSearch{Key: key, Want: want.Hex(), Found: r.Found, Sentence: r.Sentence, Deviations: r.Deviations, Tried: r.Tried, Exhausted: answer.Exhausted}
	return a.answered(output, key, "as "+configFile+" has the machine", "another firmware, kernel or file is not among the known variants", r, doc)
}

// wantedPCR is the value that is looked for.
func (a *app) wantedPCR(op, key, wanted string, bank digest.Algorithm, reportFile string) (digest.Digest, error) {
	if wanted != "" {
		list, err := expectedPCRs(op, []string{"pcr0=" + wanted})
		if err != nil {
			return digest.Digest{}, &userError{op: op, msg: fmt.Sprintf("--want %.120q: want %d hex digits", wanted, 2*bank.Size())}
		}
		if list[0].want.Algorithm() != bank {
			return digest.Digest{}, &userError{op: op, msg: fmt.Sprintf("--want is a value of the bank %s, and %s of %s", list[0].want.Algorithm(), key, bank)}
		}
		return list[0].want, nil
	}
	r, err := a.loadReport(reportFile)
	if err != nil {
		return digest.Digest{}, err
	}
	for _, f := range r.Findings {
		if string(f.Key) == key && f.Want.Kind() == pipeline.DigestKind && f.Want.Digest().Algorithm() == bank && f.Verdict != pipeline.Match {
			return f.Want.Digest(), nil
		}
	}
	return digest.Digest{}, &userError{op: op, path: reportFile, msg: "compared " + key + " with no other value", hint: "--want HEX names one"}
}
