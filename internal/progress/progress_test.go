package progress

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/retally/retally/internal/testenv"
)

// TestLines: every line of mode json is an object of the published form, also
// where a name holds what JSON must escape, and where rates are not numbers.
func TestLines(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile(filepath.Join(testenv.ModuleRoot(t), "docs", "schema", "progress.json"))
	if err != nil {
		t.Fatal(err)
	}
	const name = "images \x1b[31m\xff\a\"\n of a\\b"
	done := make(chan struct{})
	close(done)
	var b bytes.Buffer
	for _, n := range [][2]int64{{0, 0}, {5, 0}, {5, 10}, {10, 5}, {1 << 50, 1 << 51}} {
		tellLines(&b, Source{Stage: func() string { return name }, Done: func() int64 { return n[0] }, Total: func() int64 { return n[1] }}, done, time.Now().Add(-After), true)
	}
	stop := Count(&b, true, name, func() string { return "pairs" }, func() int64 { return 7 })
	time.Sleep(After + 200*time.Millisecond)
	stop()
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != 6 {
		t.Fatalf("%d lines, want 6:\n%s", len(lines), b.String())
	}
	for _, l := range lines {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(l))
		if err != nil {
			t.Fatalf("%v\n%s", err, l)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%s: %v", l, err)
		}
	}
	if err := schema.Validate(map[string]any{"schema": Schema, "stage": "x"}); err == nil {
		t.Error("the schema takes a line without figures")
	}
}
