package recognize

import (
	"testing"

	"gopkg.in/yaml.v3"
	"pgregory.net/rapid"
)

// What init writes of a name is that name, in a flow mapping too.
func TestScalarIsTheText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.StringMatching(`[a-z0-9,\]\[{}:#&*!|>'"%@ ~.-]{1,12}`), rapid.SampledFrom([]string{"1.10", "yes", "null", "~", "0x1f", "a, b", "a: b", "-", "1e3", "2026-01-01", "=", "<<"})).Draw(t, "name")
		var got map[string]map[string]string
		if err := yaml.Unmarshal([]byte("m: {oci: "+scalar(name)+"}\n"), &got); err != nil || got["m"]["oci"] != name || len(got["m"]) != 1 {
			t.Fatalf("%q became %s: %v, %v", name, scalar(name), got, err)
		}
	})
}
