package pcrmeasure_test

import (
	"strings"
	"testing"

	"github.com/retally/retally/pcrmeasure"
)

var (
	goldenOne = strings.Repeat("ab", 32)
	goldenBad = map[string]string{
		"empty":             ``,
		"no list":           `{}`,
		"nothing in it":     `{"measurements": {}}`,
		"another member":    `{"measurements": {"0": "` + goldenOne + `"}, "ignore": true}`,
		"a PCR twice":       `{"measurements": {"0": "` + goldenOne + `", "0": "` + goldenOne + `"}}`,
		"a PCR in disguise": `{"measurements": {"00": "` + goldenOne + `"}}`,
		"no PCR":            `{"measurements": {"24": "` + goldenOne + `"}}`,
		"short":             `{"measurements": {"0": "abab"}}`,
		"null":              `{"measurements": {"0": null}}`,
		"a list":            `[{"measurements": {}}]`,
	}
)

// TestGolden: what is not understood is refused, and an empty list agrees with
// nothing.
func TestGolden(t *testing.T) {
	g, err := pcrmeasure.ParseGolden("g.json", []byte(`{"measurements": {"4": "`+goldenOne+`", "13": "`+goldenOne+`"}}`))
	if err != nil || len(g) != 2 || g[4].Hex() != goldenOne {
		t.Errorf("%v, %v", g, err)
	}
	for name, text := range goldenBad {
		if g, err := pcrmeasure.ParseGolden("g.json", []byte(text)); err == nil || !strings.Contains(err.Error(), "g.json") {
			t.Errorf("%s: %v, %v", name, g, err)
		}
	}
}

func FuzzGolden(f *testing.F) {
	f.Add([]byte(`{"measurements": {"4": "` + goldenOne + `"}}`))
	for _, text := range goldenBad {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := pcrmeasure.ParseGolden("g", data)
		if err == nil && len(g) == 0 {
			t.Error("an empty list was taken")
		}
		for n, d := range g {
			if n < 0 || n >= pcrmeasure.Count || d.IsZero() {
				t.Errorf("PCR %d = %s", n, d)
			}
		}
	})
}
