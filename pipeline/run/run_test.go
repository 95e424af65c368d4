package run

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/retally/retally/internal/cache"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/trace"
)

// chained are two stages: the first measures a file, the second a value that
// rests on the first one's.
func chained(runs map[string]int) []Stage {
	return []Stage{
		{Name: "first", Version: 1, Run: func(ctx context.Context, in *In) (*Out, error) {
			runs["first"]++
			data, err := in.ReadFile(ctx, "a", 1<<10)
			if err != nil {
				return nil, err
			}
			return &Out{Measurements: []pipeline.Measurement{{Key: "x/a", Value: pipeline.OfDigest(digest.SHA256.Sum(data)), Basis: pipeline.Copied, Inputs: []pipeline.InputRef{pipeline.FromFile("a")}}}}, nil
		}},
		{Name: "second", Version: 1, Run: func(ctx context.Context, in *In) (*Out, error) {
			runs["second"]++
			out := new(Out)
			m, ok := in.Get("x/a")
			if !ok {
				in.Lack("x/a", "y/b", "measure x/a")
				return out, nil
			}
			if got := in.All("x/**"); len(got) != 1 || !got[0].Value.Equal(m.Value) {
				return nil, errors.New("All does not see what Get sees")
			}
			tr := &trace.Trace{Fold: trace.Extend, Algorithm: digest.SHA256}
			tr.Add("a", m.Value.Digest(), trace.Origin{Input: "a", Size: -1})
			d, err := tr.Compute()
			if err != nil {
				return nil, err
			}
			out.Measurements = append(out.Measurements, pipeline.Measurement{Key: "y/b", Value: pipeline.OfDigest(d), Basis: pipeline.Recomputed, Inputs: []pipeline.InputRef{pipeline.FromKey("x/a")}, Trace: tr})
			out.References = append(out.References, pipeline.Reference{Key: "y/b", Relation: pipeline.Equal, Want: pipeline.OfDigest(d)})
			return out, nil
		}},
	}
}

func TestStagesAskEachOther(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "a"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	store, err := cache.Open(filepath.Join(dir, "cache"), 0)
	if err != nil {
		t.Fatal(err)
	}
	runs := map[string]int{}
	once := func(table []Stage, fresh bool) *Result {
		t.Helper()
		res, err := Run(context.Background(), table, &config.Config{}, Options{Root: dir, Cache: store, Fresh: fresh})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	first := once(chained(runs), false)
	if got := first.Report.Findings[0].Standing.String(); got != "recomputed, resting on copied: 1" {
		t.Errorf("got %q", got)
	}
	if first.Report.Outcome != pipeline.OutcomeUnchecked {
		t.Errorf("got %s: what rests on a copied value was passed", first.Report.Outcome)
	}
	if again := once(chained(runs), false); !slices.Equal(again.Reused, []string{"first"}) {
		t.Errorf("reused %v, runs %v", again.Reused, runs)
	}
	if runs["first"] != 1 || runs["second"] != 1 {
		t.Errorf("second run executed stages again: %v", runs)
	}
	write("two")
	changed := once(chained(runs), false)
	if runs["first"] != 2 || runs["second"] != 2 {
		t.Errorf("a changed file, and the changed answer that follows, must run both stages: %v", runs)
	}
	if changed.Report.Measurements[0].Value.Equal(first.Report.Measurements[0].Value) {
		t.Error("the changed file was not seen")
	}
	once(chained(runs), true)
	if runs["first"] != 3 || runs["second"] != 3 {
		t.Errorf("--fresh must run everything: %v", runs)
	}
	// Another version of a stage never uses the older one's result.
	table := chained(runs)
	table[1].Version = 2
	once(table, false)
	if runs["first"] != 3 || runs["second"] != 4 {
		t.Errorf("a raised version must run the stage: %v", runs)
	}
}

func TestRunRefusesBrokenStages(t *testing.T) {
	measure := func(ms ...pipeline.Measurement) []Stage {
		return []Stage{{Name: "s", Version: 1, Run: func(context.Context, *In) (*Out, error) { return &Out{Measurements: ms}, nil }}}
	}
	v := pipeline.OfDigest(digest.SHA256.Sum([]byte("v")))
	wrong := &trace.Trace{Fold: trace.Extend, Algorithm: digest.SHA256}
	wrong.Add("e", v.Digest(), trace.Origin{Size: -1})
	for name, table := range map[string][]Stage{
		"measured twice": measure(pipeline.Measurement{Key: "a", Value: v, Basis: pipeline.Recomputed}, pipeline.Measurement{Key: "a", Value: v, Basis: pipeline.Recomputed}),
		"no basis":       measure(pipeline.Measurement{Key: "a", Value: v}),
		"no value":       measure(pipeline.Measurement{Key: "a", Basis: pipeline.Recomputed}),
		"not the fold":   measure(pipeline.Measurement{Key: "a", Value: v, Basis: pipeline.Recomputed, Trace: wrong}),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Run(context.Background(), table, &config.Config{}, Options{Root: t.TempDir()})
			var se *StageError
			if !errors.As(err, &se) || se.Stage != "s" {
				t.Errorf("got %v, want an error of stage s", err)
			}
		})
	}
}

// A file that is not there, a folder, a fifo and one that is too large are
// errors with the file's name, and the fifo does not hang.
func TestReaderRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 100), 0o644); err != nil {
		t.Fatal(err)
	}
	makeFifo(t, filepath.Join(dir, "fifo"))
	r := NewReader(dir, nil)
	for _, name := range []string{"gone", ".", "fifo", "big"} {
		_, _, err := r.ReadFile(context.Background(), name, 99)
		var in *pipeline.InputError
		if !errors.As(err, &in) || in.File != name {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, _, err := r.ReadFile(context.Background(), "big", 100); err != nil {
		t.Errorf("a file of exactly the limit: %v", err)
	}
}
