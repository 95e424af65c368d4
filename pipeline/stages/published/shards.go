package published

import (
	"context"
	"fmt"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/shard"
)

// Shards finds a source among the merged parts of a configuration; nil, if it
// has none of it.
func Shards(ctx context.Context, in *run.In, c *config.Config, kind, name string) (*shard.Source, *shard.Whole, error) {
	if c.Shards == "" {
		return nil, nil, nil
	}
	m, err := run.Parsed(ctx, in, c.Shards, shard.MaxMerged, func(name string, data []byte) (*shard.Merged, error) {
		m, err := shard.ParseMerged(data)
		if err != nil {
			return nil, &pipeline.InputError{Op: "read", File: name, Err: err, Hint: "retally shard merge writes it"}
		}
		return m, nil
	})
	if err != nil {
		return nil, nil, err
	}
	s, w := m.Find(kind, name)
	return s, w, nil
}

// MeasureParts adds what the parts of a source are: how many, and who vouches
// for them. Where that is the workers alone, it is assumed, and every value that
// rests on it says so. It returns what those values rest on.
func MeasureParts(out *run.Out, key pipeline.Key, file string, w *shard.Whole) []pipeline.InputRef {
	basis := pipeline.Recomputed
	if w.Trusted() {
		basis = pipeline.Assumed
	}
	out.Measurements = append(out.Measurements, pipeline.Measurement{
		Key: key, Value: pipeline.OfText(PartsText(w)), Basis: basis, Inputs: []pipeline.InputRef{pipeline.FromFile(file)},
		Note: fmt.Sprintf("parts %s of %s", shard.Ranges(w.Parts), file),
	})
	out.Facts = append(out.Facts, fmt.Sprintf("%s: %s", w.Name, PartsText(w)))
	return []pipeline.InputRef{pipeline.FromFile(file), pipeline.FromKey(key)}
}

// PartsText says in words who read the parts of a source and who vouches for
// it.
func PartsText(w *shard.Whole) string {
	s := fmt.Sprintf("%s read by %s", show.Plural(len(w.Parts), "part", "parts"), show.Plural(w.Workers, "worker", "workers"))
	who := "who were trusted"
	if w.Workers == 1 {
		who = "who was trusted"
	}
	switch {
	case w.Unvouched == len(w.Parts):
		s += ", " + who + ": each part was read once, and nothing was audited"
	case w.Trusted():
		s += fmt.Sprintf(", %s for %s that no two of them read and nobody audited", who, show.Plural(w.Unvouched, "part", "parts"))
	case w.Alone == 0:
		s += ", each part by two or more of them, who agree"
	}
	if n := len(w.Audited); n > 0 {
		s += fmt.Sprintf("; %d audited, so that one lie escapes with a chance of %s", n, Chance(shard.Escape(len(w.Parts), n, 1)))
	}
	return s
}

// Chance is a probability in words.
func Chance(p float64) string {
	if p == 0 {
		return "0 %"
	}
	return fmt.Sprintf("%.3g %%", 100*p)
}
