package pipeline_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/retally/retally/fixtures"
	"github.com/retally/retally/pipeline"
)

// A configuration that is accepted, written out in full and read again must be
// the same configuration.
func FuzzConfig(f *testing.F) {
	files, err := fixtures.Demo()
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		if file.Name == pipeline.ConfigFile {
			f.Add(file.Data)
		}
	}
	f.Add([]byte("version: 1\nhashes: 'x'\nallow_unchecked: ['a/**']\n"))
	f.Add([]byte("version: 1\nmanifest: {base: m.json, variables: {a: b}}\nagainst: &x y\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := pipeline.ParseConfig(pipeline.Table(), "retally.yaml", data)
		if err != nil {
			return
		}
		pipeline.Plan(pipeline.Table(), c)
		out, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := pipeline.ParseConfig(pipeline.Table(), "retally.yaml", out)
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

// Measured registers that are read are sets with registers of the right size;
// whatever else a file holds is an error.
func FuzzMeasured(f *testing.F) {
	sum := strings.Repeat("0a", 48)
	f.Add([]byte(`{"mrtd":"` + sum + `","rtmr3":"` + sum + `","notes":["no compose file: ` + pipeline.EmptyRTMR3 + `"]}`))
	f.Add([]byte(`[{"rtmr0":"` + sum + `","rtmr1":null},{"mrtd":"00"}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		sets, _, err := pipeline.EvidenceMeasuredSets("f", data)
		if err != nil {
			return
		}
		if len(sets) == 0 {
			t.Fatal("no set and no error")
		}
		for _, s := range sets {
			for r, d := range s.Registers {
				if len(d.Bytes()) != 48 {
					t.Errorf("%s: %s of %d bytes", s, r, len(d.Bytes()))
				}
			}
		}
	})
}

// Whatever a file holds, recognizing it never fails otherwise than by saying
// that it is unknown.
func FuzzRecognize(f *testing.F) {
	files, err := fixtures.Demo()
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		f.Add(file.Data)
	}
	for _, data := range machineFiles(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < 1<<16 {
			pipeline.Recognize("f", data)
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
			r, err := pipeline.CompareFiles(pipeline.File{Name: "a", Data: pair[0]}, pipeline.File{Name: "b", Data: pair[1]}, pipeline.Tool{})
			if err != nil {
				continue
			}
			if string(pair[0]) == string(pair[1]) && r.Outcome == pipeline.OutcomeDiffers && r.Meaning.Verdict == pipeline.Differs {
				t.Fatalf("a manifest differs from itself: %s", r.Summary)
			}
		}
	})
}
