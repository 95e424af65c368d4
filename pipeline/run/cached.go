package run

import (
	"encoding/json"
	"fmt"

	"github.com/retally/retally/internal/cache"
	"github.com/retally/retally/pipeline"
)

// cached decorates the running of stages: a result is used again while the
// stat identity of every file it read, and every answer it got from earlier
// stages, is what it was. That trusts the file system's change times; --fresh
// does not.
type cached struct {
	store *cache.Store
	salt  string // program, folder and configuration
}

type cacheRecord struct {
	Files []cachedFile `json:"files"`
	Edges []edge       `json:"edges"`
	Out   Out          `json:"out"`
}

type cachedFile struct {
	Name  string         `json:"name"` // as asked for
	Input pipeline.Input `json:"input"`
	Stamp stamp          `json:"stamp"`
}

func (c *cached) key(s *Stage) string {
	return fmt.Sprintf("stage %s %d %s", s.Name, s.Version, c.salt)
}

// lookup returns the stored result if nothing it depended on has changed.
func (c *cached) lookup(s *Stage, r *Reader, ms map[pipeline.Key]pipeline.Measurement) (*cacheRecord, bool) {
	data, ok := c.store.Get(c.key(s))
	if !ok {
		return nil, false
	}
	var rec cacheRecord
	if err := json.Unmarshal(data, &rec); err != nil {
		return nil, false
	}
	for _, f := range rec.Files {
		if now, ok := r.stampNow(f.Name); !ok || now != f.Stamp {
			return nil, false
		}
	}
	for _, e := range rec.Edges {
		answer := []pipeline.Measurement{ms[pipeline.Key(e.Ask)]}
		if e.Glob {
			answer = selectKeys(ms, e.Ask)
		}
		if answerHash(answer) != e.Answer {
			return nil, false
		}
	}
	return &rec, true
}

// save stores a result. It is left out where a file has no stat identity.
func (c *cached) save(s *Stage, in *In, out *Out) error {
	rec := cacheRecord{Edges: in.edges, Out: *out}
	for name, f := range in.reader.memo {
		for _, used := range in.files {
			if used == f {
				if (f.stamp == stamp{}) {
					return nil
				}
				rec.Files = append(rec.Files, cachedFile{name, f.input, f.stamp})
			}
		}
	}
	data, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("cache stage %s: %w", s.Name, err)
	}
	return c.store.Put(c.key(s), data)
}
