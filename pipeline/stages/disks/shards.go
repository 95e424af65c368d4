package disks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/published"
	"github.com/retally/retally/privatemode"
	"github.com/retally/retally/shard"
	"github.com/retally/retally/verity"
	"github.com/retally/retally/verity/disk"
)

// share is one model directory, laid out.
type share struct {
	source shard.Source
	layout *disk.Layout
	count  *verity.Progress
}

// recipe is all that a worker needs to lay the directory out alike: it has no
// models file.
func recipe(dir string, o disk.Options) json.RawMessage {
	exclude := []string{}
	for _, g := range o.Exclude {
		exclude = append(exclude, g.String())
	}
	return run.Recipe(config.Disk{Dir: dir, MKFS: string(o.Profile), Exclude: &exclude, Normalize: o.Normalize})
}

func piece(c *config.Config, name string, recipe []byte) error {
	var d config.Disk
	if err := json.Unmarshal(recipe, &d); err != nil {
		return err
	}
	c.Disks = map[string]config.Disk{name: d}
	return nil
}

// split lays out every model directory. No content is read.
func split(ctx context.Context, in *run.In) (shares []run.Share, err error) {
	models := new(privatemode.Models)
	if in.Config.PublishedDisks() {
		if models, err = published.Models(ctx, in, in.Config); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(in.Config.Disks)) {
		c := in.Config.Disks[name]
		opts, err := Resolve(c, entryOf(models, name))
		if err != nil {
			return shares, err
		}
		opts.Dir = in.Path(c.Dir)
		s, err := open(name, recipe(c.Dir, opts), opts)
		if err != nil {
			return shares, err
		}
		shares = append(shares, s)
	}
	return shares, nil
}

func entryOf(models *privatemode.Models, name string) (listed *privatemode.Model) {
	for i := range models.Entries {
		if m := &models.Entries[i]; m.Key == name {
			listed = m
		}
	}
	return listed
}

func open(name string, recipe json.RawMessage, o disk.Options) (*share, error) {
	s := &share{count: new(verity.Progress)}
	o.Progress = s.count
	var err error
	if s.layout, err = disk.OpenLayout(o); err != nil {
		return nil, err
	}
	res, err := s.layout.Planned()
	if err != nil {
		return nil, errors.Join(err, s.layout.Close())
	}
	s.source = shard.Source{Name: name, Kind: shard.Disks, Recipe: recipe, Layout: s.layout.Digest(), Disk: &shard.Disk{
		Mkfs: res.Mkfs, Size: res.HashOffset, FileSize: res.FileSize, Inodes: res.Inodes, Warnings: res.Warnings, Changes: res.Changes, Excluded: res.Excluded,
	}}
	return s, nil
}

func (s *share) Source() shard.Source { return s.source }
func (s *share) Close() error         { return s.layout.Close() }

func (s *share) Identify(p shard.Part) (digest.Digest, string, error) {
	id, names, n, err := s.layout.Identity(p.Offset, p.Offset+p.Length)
	files := "no file"
	if n > 0 {
		files = fmt.Sprintf("%q", names)
		if n > len(names) {
			files += fmt.Sprintf(" and %d more", n-len(names))
		}
	}
	return id, files, err
}

func (s *share) Read(ctx context.Context, p shard.Part, progress *run.Progress) (shard.Found, error) {
	stop := progress.Follow(func() int64 { d, _ := s.count.Read(); return d }, func() int64 { return p.Length })
	defer stop()
	sums, err := s.layout.Part(ctx, p.Offset, p.Length, p.Level)
	if err != nil {
		return shard.Found{}, err
	}
	found := shard.Found{Read: p.Length, Sums: sums.Sums}
	for profile, d := range sums.Others {
		if found.Others == nil {
			found.Others = map[string]digest.Digest{}
		}
		found.Others[string(profile)] = d
	}
	return found, nil
}

// merged takes a disk whose parts were read elsewhere. Where the directory is at
// hand, it must still be the one that they are of.
func (r *stageRun) merged(ctx context.Context, name string, c config.Disk, listed *privatemode.Model, opts disk.Options) (bool, error) {
	s, w, err := published.Shards(ctx, r.in, r.in.Config, shard.Disks, name)
	if s == nil || err != nil {
		return false, err
	}
	file := r.in.Config.Shards
	refuse := func(err error) (bool, error) {
		return false, &pipeline.InputError{Op: "take merged parts", File: file, Err: fmt.Errorf("disk %s: %w", name, err), Hint: "plan and merge again, or take shards away"}
	}
	// What is read of the files beside the root goes through whole files.
	if c.ModelSig != "" || c.Listing != "" {
		return refuse(fmt.Errorf("parts give the root hash alone, and listing or model_sig want every file read whole"))
	}
	if want := recipe(c.Dir, opts); string(want) != string(s.Recipe) {
		return refuse(fmt.Errorf("the parts were planned as %s, the configuration says %s", s.Recipe, want))
	}
	opts.Dir = r.in.Path(c.Dir)
	if _, err := os.Stat(opts.Dir); err == nil {
		if err := r.in.ReadTree(c.Dir, func(path string) (digest.Digest, int64, error) {
			opts.Dir = path
			l, err := disk.OpenLayout(opts)
			if err != nil {
				return digest.Digest{}, 0, err
			}
			defer l.Close()
			if got := l.Digest(); got != s.Layout {
				return got, 0, fmt.Errorf("the directory is not the one that was planned: names, modes, sizes or links differ")
			}
			return w.Root, 0, nil
		}); err != nil {
			return refuse(err)
		}
	}
	res := Merged(s, w)
	from := r.models.File
	if listed != nil {
		from = listed.File
	}
	key := Describe(r.out, name, c.Dir, res, from, listed, nil)
	of := func(what string) pipeline.Key { return pipeline.Key(strings.TrimSuffix(string(key), "root") + what) }
	inputs := published.MeasureParts(r.out, of("parts"), file, w)
	for i := range r.out.Measurements {
		if m := &r.out.Measurements[i]; m.Key == key {
			m.Inputs, m.Note = inputs, fmt.Sprintf("%s: %s", m.Note, published.PartsText(w))
		} else if m.Key == of("hash-offset") {
			m.Inputs = []pipeline.InputRef{pipeline.FromFile(file)}
		}
	}
	// The hash of the whole file runs through all bytes in their order: no part
	// of it can be computed without the part before.
	if listed != nil && !listed.FileHash.IsZero() {
		where := pipeline.Where{File: from, Line: listed.RootLine}
		r.out.Refer(of("file"), pipeline.OfDigest(listed.FileHash), where, "published file of "+name)
		r.out.Notes[of("file")] = FileUnchecked
	}
	r.measured[key] = true
	return true, nil
}

// FileUnchecked says what parts do not give.
const FileUnchecked = "parts give the root hash alone: the SHA-256 of the whole file runs through its bytes one after the other, so the published file_hash_sha256 stays unchecked (retally disk on one machine computes it)"

// Merged is the disk that parts come to, without a hash of the whole file.
func Merged(s *shard.Source, w *shard.Whole) disk.Result {
	res := disk.Result{
		Mkfs: s.Disk.Mkfs, HashOffset: s.Disk.Size, FileSize: s.Disk.FileSize, Blocks: s.Disk.Size / 4096, Inodes: s.Disk.Inodes,
		Warnings: s.Disk.Warnings, Changes: s.Disk.Changes, Excluded: s.Disk.Excluded, RootHash: disk.Hex{Digest: w.Root},
	}
	for _, p := range slices.Sorted(maps.Keys(w.Others)) {
		res.Others = append(res.Others, disk.Other{Mkfs: p, RootHash: disk.Hex{Digest: w.Others[p]}})
	}
	return res
}
