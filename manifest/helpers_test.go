package manifest_test

import (
	"testing"

	"github.com/retally/retally/internal/jsondoc"
)

// compact prints JSON on one line with yq's escapes, for short comparisons.
func compact(t testing.TB, data []byte) string {
	t.Helper()
	v, err := jsondoc.Parse(data, jsondoc.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return string(jsondoc.YQ.Compact(v))
}
