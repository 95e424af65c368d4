package published

import (
	"context"
	"fmt"

	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/privatemode"
)

// Models reads the published root hashes of disks that the configuration names:
// a models file, and storage classes. File is the models file, else the only or
// a summary of the others; each entry has its own. Two entries of one name with
// different root hashes are an error.
func Models(ctx context.Context, src run.Source, c *config.Config) (*privatemode.Models, error) {
	all := &privatemode.Models{File: c.Models}
	type name struct{ key, commit string }
	seen := map[name]privatemode.Model{}
	add := func(m *privatemode.Models) error {
		for _, e := range m.Entries {
			n := name{e.Key, e.Commit}
			if other, ok := seen[n]; ok && other.RootHash != e.RootHash {
				return &pipeline.InputError{Op: "read models", File: e.File, Err: fmt.Errorf("line %d: %s has another root hash than on line %d of %s", e.RootLine, e.Key, other.RootLine, other.File), Hint: "name the one that was published for this release"}
			} else if ok {
				continue
			}
			seen[n] = e
			all.Entries = append(all.Entries, e)
		}
		return nil
	}
	if c.Models != "" {
		m, err := run.Parsed(ctx, src, c.Models, config.YAMLLimit, privatemode.ParseModels)
		if err != nil {
			return nil, err
		}
		all.Namespace = m.Namespace
		if err := add(m); err != nil {
			return nil, err
		}
	}
	for _, file := range c.StorageClasses {
		m, err := run.Parsed(ctx, src, file, config.YAMLLimit, privatemode.ParseStorageClasses)
		if err != nil {
			return nil, err
		}
		if err := add(m); err != nil {
			return nil, err
		}
	}
	switch {
	case all.File != "":
	case len(c.StorageClasses) == 1:
		all.File = c.StorageClasses[0]
	case len(c.StorageClasses) > 1:
		all.File = fmt.Sprintf("%d files of storage classes", len(c.StorageClasses))
	}
	return all, nil
}
