package manifest

import (
	"testing"

	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
)

// An entry that one side alone has is said, whatever fields it has.
func TestEntriesWithoutAnchor(t *testing.T) {
	parse := func(text string) *manifest.Manifest {
		t.Helper()
		m, err := manifest.Parse("m.json", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	copied := func(manifest.Field) (pipeline.Basis, []pipeline.InputRef) { return pipeline.Copied, nil }
	empty := parse(`{"Policies": {}, "ReferenceValues": {}}`)
	for _, entry := range []string{
		`"snp": [{"Platform": "P", "ProductName": "Genoa"}]`, `"snp": [{"ProductName": "Genoa", "GuestPolicy": {"Debug": true}}]`,
		`"tdx": [{"Platform": "P"}]`, `"tdx": [{"Platform": "P", "MrSeam": "00"}]`,
	} {
		more := parse(`{"Policies": {}, "ReferenceValues": {` + entry + `}}`)
		if _, refs := Sides(empty, more, copied); len(refs) == 0 {
			t.Errorf("only published: %s is not said", entry)
		}
		if ms, _ := Sides(more, empty, copied); len(ms) == 0 {
			t.Errorf("only ours: %s is not said", entry)
		}
	}
}
