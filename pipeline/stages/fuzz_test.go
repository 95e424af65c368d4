package stages_test

import (
	"encoding/json"
	"testing"

	"github.com/retally/retally/fixtures"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
)

// A configuration that is accepted, written out in full and read again must be
// the same configuration.
func FuzzConfig(f *testing.F) {
	files, err := fixtures.Demo()
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		if file.Name == config.FileName {
			f.Add(file.Data)
		}
	}
	f.Add([]byte("version: 1\nhashes: 'x'\nallow_unchecked: ['a/**']\n"))
	f.Add([]byte("version: 1\nmanifest: {base: m.json, variables: {a: b}}\nagainst: &x y\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := run.ParseConfig(stages.Table(), "retally.yaml", data)
		if err != nil {
			return
		}
		run.Plan(stages.Table(), c)
		out, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := run.ParseConfig(stages.Table(), "retally.yaml", out)
		if err != nil {
			t.Fatalf("own output refused: %v\n%s", err, out)
		}
		a, _ := json.Marshal(c)
		b, _ := json.Marshal(again)
		if string(a) != string(b) {
			t.Fatalf("%s\nbecame\n%s", a, b)
		}
	})
}

// Two manifests that are given to compare end in a report or in an error.
func FuzzCompare(f *testing.F) {
	files, err := fixtures.Demo()
	if err != nil {
		f.Fatal(err)
	}
	var base []byte
	for _, file := range files {
		if file.Name == "manifest.published.json" {
			base = file.Data
		}
	}
	f.Add(base)
	f.Add([]byte(`{"Policies":{"aa":["x"]},"ReferenceValues":{"SNP":{"MinimumTCB":{}},"TrustedMeasurement":"00"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, pair := range [][2][]byte{{base, data}, {data, base}, {data, data}} {
			r, err := stages.CompareFiles(stages.File{Name: "a", Data: pair[0]}, stages.File{Name: "b", Data: pair[1]}, pipeline.Tool{})
			if err != nil {
				continue
			}
			if string(pair[0]) == string(pair[1]) && r.Outcome == pipeline.OutcomeDiffers && r.Meaning.Verdict == pipeline.Differs {
				t.Fatalf("a manifest differs from itself: %s", r.Summary)
			}
		}
	})
}
