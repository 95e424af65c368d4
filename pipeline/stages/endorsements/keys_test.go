package endorsements_test

import (
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	"github.com/retally/retally/fixtures"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/endorsements"
)

// TestKeys: a value of the run that an endorsement covers is compared with what
// was endorsed when all four questions pass, and its basis stays its own; where
// one does not pass, nothing is published of it.
func TestKeys(t *testing.T) {
	files, err := fixtures.Demo()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var endorsed digest.Digest
	for _, f := range files {
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
		if f.Name == "vm/tdx.csv" {
			sum := sha256.Sum256(f.Data)
			if endorsed, err = digest.FromBytes(digest.SHA256, sum[:]); err != nil {
				t.Fatal(err)
			}
		}
	}
	other, err := digest.FromBytes(digest.SHA256, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	const key = pipeline.Key("image/x/manifest")
	whole := config.Endorsement{
		File: "endorsement/statement.json", Signature: "endorsement/statement.json.sig", LogEntry: "endorsement/log-entry.json",
		Key: config.Files{"endorsement/endorser.pem"}, LogKey: config.Files{"endorsement/log.pem"}, Keys: []string{"image/**"}, At: "2026-06-01T00:00:00Z",
	}
	with := func(edit func(*config.Endorsement)) config.Endorsement {
		e := whole
		edit(&e)
		return e
	}
	for _, tt := range []struct {
		name     string
		value    digest.Digest
		basis    pipeline.Basis
		entry    config.Endorsement
		verdict  pipeline.Verdict // of the value
		covers   pipeline.Verdict
		standing pipeline.Basis
	}{
		{"covered", endorsed, pipeline.Recomputed, whole, pipeline.Match, pipeline.Match, pipeline.Recomputed},
		{"covered, copied", endorsed, pipeline.Copied, whole, pipeline.Match, pipeline.Match, pipeline.Copied},
		{"another value", other, pipeline.Recomputed, whole, "", pipeline.Differs, 0},
		{"expired", endorsed, pipeline.Recomputed, with(func(e *config.Endorsement) { e.At = "2028-01-01T00:00:00Z" }), "", pipeline.Match, 0},
		{"not all asked", endorsed, pipeline.Recomputed, with(func(e *config.Endorsement) { e.Only = []string{"covers"} }), "", pipeline.Match, 0},
		{"another key", endorsed, pipeline.Recomputed, with(func(e *config.Endorsement) { e.Key = config.Files{"endorsement/log.pem"} }), "", pipeline.Match, 0},
		{"no log", endorsed, pipeline.Recomputed, with(func(e *config.Endorsement) { e.LogEntry = "" }), "", pipeline.Match, 0},
		{"fits nothing", endorsed, pipeline.Recomputed, with(func(e *config.Endorsement) { e.Keys = []string{"disk/**"} }), "", pipeline.Unchecked, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := []run.Stage{{Name: "images", Version: 1, Run: func(context.Context, *run.In) (*run.Out, error) {
				out := run.NewOut()
				out.Measurements = append(out.Measurements, pipeline.Measurement{Key: key, Value: pipeline.OfDigest(tt.value), Basis: tt.basis, Inputs: []pipeline.InputRef{pipeline.FromFile("vm/tdx.csv")}})
				return out, nil
			}}, endorsements.Stage()}
			res, err := run.Run(context.Background(), table, &config.Config{Version: 1, Endorsements: map[string]config.Endorsement{"e": tt.entry}}, run.Options{Root: dir})
			if err != nil {
				t.Fatal(err)
			}
			got := map[pipeline.Key]pipeline.Finding{}
			for _, f := range res.Report.Findings {
				got[f.Key] = f
			}
			if f := got[key]; f.Verdict != tt.verdict || f.Standing.Effective != tt.standing {
				t.Errorf("%s: %v, known as %v; want %v, %v", key, f.Verdict, f.Standing.Effective, tt.verdict, tt.standing)
			}
			if f := got["endorsement/e/covers"]; f.Verdict != tt.covers {
				t.Errorf("covers: %v, want %v: %s", f.Verdict, tt.covers, f.Note)
			}
			if res.Report.Outcome == pipeline.OutcomeMatch && (tt.verdict != pipeline.Match || tt.basis != pipeline.Recomputed) {
				t.Errorf("the outcome is %s", res.Report.Outcome)
			}
		})
	}
}
