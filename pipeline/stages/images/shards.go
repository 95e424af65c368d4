package images

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/inputfile"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/published"
	"github.com/retally/retally/shard"
)

// share is one image, which one worker reads whole.
type share struct {
	name   string
	config config.Image
	path   string // "" for a registry's
}

func piece(c *config.Config, name string, recipe []byte) error {
	var i config.Image
	if err := json.Unmarshal(recipe, &i); err != nil {
		return err
	}
	c.Images = map[string]config.Image{name: i}
	return nil
}

func split(_ context.Context, in *run.In) (shares []run.Share, err error) {
	for _, name := range slices.Sorted(maps.Keys(in.Config.Images)) {
		c := in.Config.Images[name]
		if c.Nix != "" {
			continue // built where it is judged: another machine's word is no build of ours
		}
		source, err := c.Source()
		if err != nil {
			return shares, &pipeline.InputError{Op: "plan images", File: name, Err: err}
		}
		s := &share{name: name, config: c}
		if c.Registry == "" {
			s.path = in.Path(source)
		}
		shares = append(shares, s)
	}
	return shares, nil
}

func (s *share) Source() shard.Source {
	return shard.Source{Name: s.name, Kind: shard.Images, Recipe: run.Recipe(s.config)}
}

func (s *share) Close() error { return nil }

// edge is how much of a file's beginning and end its identity looks at, bytes.
const edge = 4096

// mostFiles bounds the files of a layout.
const mostFiles = 200_000

// Identify looks at the files of a layout or archive; a reference with a digest
// is its own identity.
func (s *share) Identify(shard.Part) (digest.Digest, string, error) {
	h := sha256.New()
	if s.path == "" {
		fmt.Fprintf(h, "%q\n", s.config.Registry)
		return digest.FromHash(digest.SHA256, h), s.config.Registry, nil
	}
	n := 0
	err := filepath.WalkDir(s.path, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if n++; n > mostFiles {
			return fmt.Errorf("holds more than %d files", mostFiles)
		}
		rel, err := filepath.Rel(s.path, path)
		if err != nil || d.IsDir() {
			return err
		}
		return identify(h, filepath.ToSlash(rel), path)
	})
	return digest.FromHash(digest.SHA256, h), fmt.Sprintf("the files of %q", s.path), err
}

// identify hashes name, size, time, first and last block of a file.
func identify(w io.Writer, name, path string) error {
	f, err := inputfile.Open(path, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%q %d %d\n", name, info.Size(), info.ModTime().UnixNano())
	buf := make([]byte, edge)
	for _, at := range []int64{0, max(info.Size()-edge, 0)} {
		n, err := f.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

func (s *share) Read(ctx context.Context, _ shard.Part, progress *run.Progress) (shard.Found, error) {
	var count imagehash.Progress
	stop := progress.Follow(count.Done, count.Total)
	defer stop()
	from := s.path
	if from == "" {
		from = s.config.Registry
	}
	rep, err := imagehash.VerifyRef(ctx, from, imagehash.Options{Progress: &count})
	if err != nil {
		return shard.Found{}, err
	}
	image, why := chosen(rep, s.config.Image)
	found := shard.Found{Read: rep.Bytes, Image: &shard.Image{Refused: shard.Clip(why)}}
	if why == "" {
		found.Image.Digest = image.Digest
	}
	return found, nil
}

// chosen is the one image whose digest counts, or why there is none: a worker
// says less about what is odd in an image than reading it here does, so an image
// of which anything is open is refused.
func chosen(rep *imagehash.Report, choice string) (*imagehash.Image, string) {
	for _, p := range rep.AllProblems() {
		return nil, fmt.Sprintf("its bytes do not hold together: %s at %s", p.Code, p.Place)
	}
	image, err := rep.Choose(choice)
	switch {
	case err != nil:
		return nil, err.Error()
	case image.Digest.IsZero():
		return nil, "an archive of the docker save kind holds no manifest, so the image in it has no digest"
	case !image.Complete():
		return nil, imagehash.Unchecked([]imagehash.Image{*image})
	}
	return image, ""
}

// merged takes an image that a worker read elsewhere.
func (r *stageRun) merged(ctx context.Context, key pipeline.Key, name, source string, c config.Image) (bool, error) {
	s, w, err := published.Shards(ctx, r.in, r.in.Config, shard.Images, name)
	if s == nil || err != nil {
		return false, err
	}
	file := r.in.Config.Shards
	if c.Nix != "" {
		return false, &pipeline.InputError{Op: "take merged parts", File: file, Err: fmt.Errorf("image %s is to be built here, which parts read elsewhere are not", name), Hint: "plan and merge again, or take nix away from the image"}
	}
	if want := run.Recipe(c); string(want) != string(s.Recipe) {
		return false, &pipeline.InputError{Op: "take merged parts", File: file, Err: fmt.Errorf("image %s: planned as %s, the configuration says %s", name, s.Recipe, want), Hint: "plan and merge again, or take shards away"}
	}
	if path := r.in.Path(source); c.Registry == "" {
		if _, err := os.Stat(path); err == nil {
			if err := r.sameFiles(name, source, c, w.Files); err != nil {
				return false, err
			}
		}
	}
	if w.Image.Refused != "" {
		r.refused[key] = true
		r.out.Notes[key] = w.Image.Refused
		r.out.Problem(pipeline.LevelError, "image-refused", pipeline.Where{File: source}, name+" was refused where it was read: "+w.Image.Refused, "retally image digest says more, where its bytes are")
		return true, nil
	}
	value := pipeline.OfDigest(w.Image.Digest)
	if m := r.measured(key); m != nil {
		if !m.Value.Equal(value) {
			r.out.Problem(pipeline.LevelError, "image-two-values", pipeline.Where{File: source}, fmt.Sprintf("counts as %s, too, with digest %s, but another source gives %s", key.Parts()[1], value, m.Value), "check them one by one")
		}
		return true, nil
	}
	parts := pipeline.NewKey("image", key.Parts()[1], "parts")
	r.out.Measurements = append(r.out.Measurements, pipeline.Measurement{
		Key: key, Value: value, Basis: pipeline.Recomputed, Inputs: published.MeasureParts(r.out, parts, file, w),
		Note: fmt.Sprintf("%s recounted from %s: %s", name, source, published.PartsText(w)),
	})
	r.out.Causes[key] = append(r.out.Causes[key], pipeline.Cause{
		Path: []string{string(key), source}, Actual: value.String(), Standing: pipeline.Suspected, Hint: "image-digest", Where: pipeline.Where{File: source},
		Note: "the image has other content than the one that is pinned: other source, another tag, or a build that does not reproduce; retally image diff tells which, given both",
	})
	return true, nil
}

// sameFiles holds an image that is at hand against what was planned.
func (r *stageRun) sameFiles(name, source string, c config.Image, planned digest.Digest) error {
	return r.in.ReadTree(source, func(path string) (digest.Digest, int64, error) {
		id, _, err := (&share{name: name, config: c, path: path}).Identify(shard.Part{})
		if err == nil && id != planned {
			err = &pipeline.InputError{Op: "take merged parts", File: r.in.Config.Shards, Err: fmt.Errorf("image %s: %s is not the image that was planned: a name, a size, a time or a block differs", name, source), Hint: "plan and merge again, or take shards away"}
		}
		return id, 0, err
	})
}
