package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/shard"
)

// A Share is one source of a stage's work, of which parts can be read by
// themselves, here or on another machine.
type Share interface {
	// Source describes it, before any content is read.
	Source() shard.Source
	// Identify returns one digest over the files of a part (names, sizes, times,
	// first and last blocks), and what they are for people.
	Identify(p shard.Part) (id digest.Digest, files string, err error)
	Read(ctx context.Context, p shard.Part, progress *Progress) (shard.Found, error)
	Close() error
}

// PlanShards cuts what the stages of a table read into about so many parts in
// all, or into one for each size bytes where parts is 0.
func PlanShards(ctx context.Context, table []Stage, in *In, version string, parts int, size int64, redundancy int) (_ *shard.Plan, err error) {
	Fill(table, in.Config)
	p := &shard.Plan{Format: shard.PlanFormat, Version: version, Redundancy: redundancy}
	var shares []Share
	defer func() {
		for _, s := range shares {
			err = errors.Join(err, s.Close())
		}
	}()
	for i := range table {
		if table[i].Split == nil {
			continue
		}
		more, err := table[i].Split(ctx, in)
		shares = append(shares, more...)
		if err != nil {
			return nil, err
		}
	}
	for _, s := range shares {
		p.Sources = append(p.Sources, s.Source())
	}
	p.Parts = shard.Cut(p.Sources, parts, size)
	for i := range p.Parts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if p.Parts[i].Files, _, err = shares[p.Parts[i].Source].Identify(p.Parts[i]); err != nil {
			return nil, err
		}
	}
	return p.Seal()
}

// NotPlannedError is a directory or an image that is not the one that a plan was
// made of: trying again does not help.
type NotPlannedError struct {
	Part string // as Plan.Title names it
	What string
}

func (e *NotPlannedError) Error() string { return e.Part + ": " + e.What }

// openShare opens the source of a part as the plan describes it.
func openShare(ctx context.Context, table []Stage, root string, p *shard.Plan, part int) (Share, error) {
	want := p.Sources[p.Parts[part].Source]
	for i := range table {
		if table[i].Split == nil || table[i].Name != want.Kind {
			continue
		}
		c := new(config.Config)
		if err := table[i].Piece(c, want.Name, want.Recipe); err != nil {
			return nil, &NotPlannedError{p.Title(part), fmt.Sprintf("the recipe of %s is not understood: %v", want.Name, err)}
		}
		shares, err := table[i].Split(ctx, NewIn(c, NewReader(root, nil)))
		if err != nil {
			return nil, err
		}
		return shares[0], nil
	}
	return nil, &NotPlannedError{p.Title(part), "no stage reads " + want.Kind}
}

// ReadShard reads one part of a plan, whose names start from root. What lies
// there must be what was planned, before and after.
func ReadShard(ctx context.Context, table []Stage, root string, p *shard.Plan, part int, progress *Progress) (_ shard.Found, err error) {
	s, err := openShare(ctx, table, root, p, part)
	if err != nil {
		return shard.Found{}, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := planned(p, part, s); err != nil {
		return shard.Found{}, err
	}
	found, err := s.Read(ctx, p.Parts[part], progress)
	if err != nil {
		return shard.Found{}, err
	}
	return found, planned(p, part, s)
}

// ShardPaths are the files and folders that a plan reads.
func ShardPaths(table []Stage, p *shard.Plan, root string) []string {
	var out []string
	reader := NewReader(root, nil)
	for _, s := range p.Sources {
		for i := range table {
			c := new(config.Config)
			if table[i].Piece == nil || table[i].Name != s.Kind || table[i].Piece(c, s.Name, s.Recipe) != nil {
				continue
			}
			for _, name := range c.Files() {
				out = append(out, reader.Path(name))
			}
		}
	}
	return out
}

// planned holds what lies there against the plan.
func planned(p *shard.Plan, part int, s Share) error {
	want, got := p.Sources[p.Parts[part].Source], s.Source()
	if got.Layout != want.Layout {
		return &NotPlannedError{p.Title(part), fmt.Sprintf("the directory is not the one that was planned: names, modes, sizes or links differ (layout %s, planned %s)", got.Layout, want.Layout)}
	}
	id, files, err := s.Identify(p.Parts[part])
	if err != nil {
		return err
	}
	if id != p.Parts[part].Files {
		return &NotPlannedError{p.Title(part), "a file changed after the plan was made, or has another time here: one of " + files}
	}
	return nil
}

// Recipe writes down how a source is found and read.
func Recipe(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return data
}
