package stages_test

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/evidence"
	"github.com/retally/retally/internal/testrun"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline/recognize"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
	"github.com/retally/retally/privatemode"
)

// parsedOnce fails for every document that was parsed more than once, and for
// those of want that were not parsed at all.
func parsedOnce(t *testing.T, count *run.Counter, want ...string) {
	t.Helper()
	parses := count.Parses()
	for name, n := range parses {
		if n != 1 {
			t.Errorf("%s was parsed %d times, want once", name, n)
		}
	}
	for _, name := range want {
		if parses[name] == 0 {
			t.Errorf("%s was not parsed through run.Parsed: %v", name, parses)
		}
	}
}

// TestDemoParsesOnce: seven stages ask for the demo's documents, and each is
// parsed once.
func TestDemoParsesOnce(t *testing.T) {
	dir := testrun.Demo(t, nil)
	c := testrun.Config(t, testrun.Read(t, dir, "retally.yaml"))
	ctx, count := context.Background(), new(run.Counter)
	reader := run.NewReader(dir, count)
	if _, err := run.Run(ctx, stages.Table(), c, run.Options{Root: dir, Reader: reader}); err != nil {
		t.Fatal(err)
	}
	parsedOnce(t, count, c.Deployment, c.Models, c.Against, c.Manifest.Release, c.Manifest.Values, c.Manifest.Adjust, c.Registry, "vm/cpu.html")
	unchanged(t, reader, c.Deployment, deployment.Parse)
	unchanged(t, reader, c.Models, privatemode.ParseModels)
	unchanged(t, reader, c.Against, manifest.Parse)
	unchanged(t, reader, c.Registry, evidence.ParseRegistry)
	unchanged(t, reader, "vm/cpu.html", evidence.Read)
}

// unchanged fails if a stage changed a document that all of them have.
func unchanged[T any](t *testing.T, r *run.Reader, name string, parse func(string, []byte) (T, error)) {
	t.Helper()
	ctx := context.Background()
	shared, err := run.Parsed(ctx, r, name, 1<<24, parse)
	if err != nil {
		t.Fatal(err)
	}
	data, _, err := r.ReadFile(ctx, name, 1<<24)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := parse(name, data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(shared, fresh) {
		t.Errorf("%s is not what it was when it was parsed", name)
	}
}

// TestCheckParsesOnce: what was parsed to recognize it is not parsed again by
// the run.
func TestCheckParsesOnce(t *testing.T) {
	dir := testrun.Demo(t, nil)
	for _, name := range []string{"retally.yaml", "manifest.generated.json"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, folder := range []string{dir, filepath.Join(dir, "vm")} {
		ctx, count := context.Background(), new(run.Counter)
		s, err := recognize.Look(ctx, stages.Table(), []string{folder}, count)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Prepare(ctx); err != nil {
			t.Fatal(err)
		}
		want := []string{"deployment.yaml", "manifest.published.json"}
		if folder != dir {
			s.JudgeAt(time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC))
			want = []string{"cpu.html", "tdx.csv"}
		}
		if _, err := run.Run(ctx, stages.Table(), s.Config, run.Options{Root: s.Root, Counter: count, Reader: s.Reader}); err != nil {
			t.Fatal(err)
		}
		parsedOnce(t, count, want...)
	}
}
