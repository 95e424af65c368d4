// Package images is the stage that recounts the digests of images.
package images

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/published"
	"github.com/retally/retally/privatemode"
)

// Stage recounts the digests of images from their bytes. Digests out of
// a hashes file are copied: another program printed them, out of an index.json
// that it believed.
func Stage() run.Stage {
	return run.Stage{Name: "images", Version: 6, Check: check, Run: execute, Plan: plan}
}

func plan(c *config.Config) []run.PlanLine {
	var lines []run.PlanLine
	for _, name := range slices.Sorted(maps.Keys(c.Images)) {
		source, _ := c.Images[name].Source()
		lines = append(lines, run.PlanLine{Key: string(pipeline.NewKey("image", name, "manifest")), From: source})
	}
	if c.Proxy != "" {
		lines = append(lines, run.PlanLine{Key: string(proxyKey), From: c.Proxy + ", against the rebuilt image"})
	}
	switch {
	case c.Hashes != "":
		lines = append(lines, run.PlanLine{Key: "image/*/manifest", From: c.Hashes + ", taken over as it is"})
	case len(lines) == 0 && !c.MachinesOnly():
		lines = append(lines, run.PlanLine{Key: "image/*/manifest", Missing: "images", How: "images: {NAME: {oci: result/NAME}}, the layouts of a rebuild"})
	}
	return lines
}

// stageRun collects what the stage finds.
type stageRun struct {
	in      *run.In
	out     *run.Out
	pins    []deployment.ImagePin
	names   map[string]string
	refused map[pipeline.Key]bool
	// reports are those of local sources: two names may have one source.
	reports map[string]*imagehash.Report
	// rebuilt are the repositories that have a sibling among the images.
	rebuilt map[string]bool
	// pinned and wanted lead to the first pin of a name, and to the last of a key.
	pinned map[string]deployment.ImageRef
	wanted map[pipeline.Key]deployment.ImageRef
	// byKey leads from a key to its measurement, counted from 1.
	byKey   map[pipeline.Key]int
	indexed int
}

func execute(ctx context.Context, in *run.In) (*run.Out, error) {
	r := &stageRun{in: in, refused: map[pipeline.Key]bool{}, byKey: map[pipeline.Key]int{}, rebuilt: map[string]bool{}, pinned: map[string]deployment.ImageRef{}, wanted: map[pipeline.Key]deployment.ImageRef{}, reports: map[string]*imagehash.Report{}, out: &run.Out{Causes: map[pipeline.Key][]pipeline.Cause{}, Notes: map[pipeline.Key]string{}}}
	if in.Config.Deployment != "" {
		d, err := published.Deployment(ctx, in, in.Config)
		if err != nil {
			return nil, err
		}
		r.pins = d.Images()
	}
	r.names = published.ImageNames(r.pins)
	for _, p := range r.pins {
		if !p.Pinned {
			continue
		}
		if _, ok := r.pinned[p.Ref.Name]; !ok {
			r.pinned[p.Ref.Name] = p.Ref
		}
		r.wanted[published.ImageKey(r.names, p.Ref)] = p.Ref
	}
	for _, name := range slices.Sorted(maps.Keys(in.Config.Images)) {
		if err := r.recount(ctx, name, in.Config.Images[name]); err != nil {
			return nil, err
		}
	}
	if in.Config.Hashes != "" {
		if err := r.hashes(ctx); err != nil {
			return nil, err
		}
	}
	if in.Config.Proxy != "" {
		if err := r.proxy(ctx); err != nil {
			return nil, err
		}
	}
	if len(r.pins) > 0 && in.Config.Hashes == "" && len(in.Config.Images) == 0 {
		in.Lack("images", "image/*/manifest", "rebuild them (scripts/calculate-image-digests.sh) and give their OCI layouts, or at least hashes-<host>.json")
	}
	r.unreproduced()
	return r.out, nil
}

// key finds the key of an image by the name its reference ends in.
func (r *stageRun) key(name string) pipeline.Key {
	if ref, ok := r.pinned[name]; ok {
		r.rebuilt[published.VendorRepository(ref)] = true
		return published.ImageKey(r.names, ref)
	}
	return pipeline.NewKey("image", name, "manifest")
}

// measured gives the measurement of a key, nil if there is none. What was added
// since the last question is put into the index first.
func (r *stageRun) measured(k pipeline.Key) *pipeline.Measurement {
	for ; r.indexed < len(r.out.Measurements); r.indexed++ {
		if key := r.out.Measurements[r.indexed].Key; r.byKey[key] == 0 {
			r.byKey[key] = r.indexed + 1
		}
	}
	if i := r.byKey[k]; i > 0 {
		return &r.out.Measurements[i-1]
	}
	return nil
}

// recount reads every byte of one image. An image that is refused has no
// digest; its problems are findings of the run.
func (r *stageRun) recount(ctx context.Context, name string, c config.Image) error {
	source, err := c.Source()
	if err != nil {
		return err
	}
	key := r.key(name)
	var progress imagehash.Progress
	stop := r.in.Progress.Follow(progress.Done, progress.Total)
	defer stop()
	opts := imagehash.Options{Progress: &progress}
	var rep *imagehash.Report
	read := func(path string) (digest.Digest, int64, error) {
		if rep, err = imagehash.VerifyRef(ctx, path, opts); err != nil {
			return digest.Digest{}, 0, err
		}
		id, _ := rootDigest(rep)
		return id, rep.Bytes, nil
	}
	input := pipeline.FromFile(source)
	if c.Registry != "" {
		id, n, err := read(c.Registry)
		if err != nil {
			return err
		}
		r.in.ReadRemote(c.Registry, id, n)
	} else if err := r.in.ReadTree(source, read); err != nil {
		return err
	}
	if rep == nil {
		rep = r.reports[source]
	}
	if rep == nil {
		return &pipeline.InputError{Op: "read", File: source, Err: fmt.Errorf("is an input of another kind, and cannot be an image, too"), Hint: "images." + name + " names it"}
	}
	r.reports[source] = rep
	for _, p := range rep.AllProblems() {
		r.out.Problems = append(r.out.Problems, imageProblem(source, p))
	}
	if !rep.OK() {
		r.refused[key] = true
		r.out.Notes[key] = "the image's bytes do not hold together, so it has no digest: see what was found in the inputs"
		return nil
	}
	if !rep.Complete() {
		// What nobody read may be anything: its digest is the image's word alone.
		r.refused[key] = true
		r.out.Notes[key] = imagehash.Unchecked(rep.Images)
		r.out.Problem(pipeline.LevelWarning, "image-unread", pipeline.Where{File: source}, imagehash.Unchecked(rep.Images), "give the layers that are missing, as far as their owner hands them out")
		return nil
	}
	d, err := rootDigest(rep)
	if err != nil {
		r.in.Lack("an OCI layout of "+name, string(key), err.Error())
		return nil
	}
	note := fmt.Sprintf("%s of %s recounted from %s", show.Plural(len(rep.Images[0].Platforms), "platform", "platforms"), name, source)
	r.out.Measurements = append(r.out.Measurements, pipeline.Measurement{Key: key, Value: pipeline.OfDigest(d), Basis: pipeline.Recomputed, Inputs: []pipeline.InputRef{input}, Note: note})
	r.out.Causes[key] = append(r.otherDigests(key, rep), pipeline.Cause{
		Path: []string{string(key), source}, Actual: d.String(), Standing: pipeline.Suspected, Hint: "image-digest", Where: pipeline.Where{File: source},
		Note: "the image has other content than the one that is pinned: other source, another tag, or a build that does not reproduce; retally image diff tells which, given both",
	})
	return nil
}

// rootDigest is the digest by which a registry would know the image.
func rootDigest(rep *imagehash.Report) (digest.Digest, error) {
	switch {
	case len(rep.Images) == 0:
		return digest.Digest{}, fmt.Errorf("it holds no image")
	case len(rep.Images) > 1:
		return digest.Digest{}, fmt.Errorf("it holds %d images, give one", len(rep.Images))
	case rep.Images[0].Digest.IsZero():
		return digest.Digest{}, fmt.Errorf("an archive of the docker save kind holds no manifest, so the image in it has no digest")
	}
	return rep.Images[0].Digest, nil
}

// otherDigests proves the commonest confusion: the pinned digest is another
// one of the same image, such as that of a platform's manifest in place of the
// index's.
func (r *stageRun) otherDigests(key pipeline.Key, rep *imagehash.Report) []pipeline.Cause {
	ref, ok := r.wanted[key]
	if !ok || ref.Digest.IsZero() {
		return nil
	}
	want, where := ref.Digest, pipeline.Where{File: r.in.Config.Deployment, Line: ref.Line}
	for _, p := range rep.Images[0].Platforms {
		kinds := map[digest.Digest]string{p.Digest: "the manifest of platform " + p.Platform, p.Config: "the configuration of platform " + p.Platform}
		for i, l := range p.Layers {
			kinds[l.Digest] = fmt.Sprintf("layer %d", i+1)
			if l.DiffID != l.Digest {
				kinds[l.DiffID] = fmt.Sprintf("the uncompressed layer %d", i+1)
			}
		}
		if kind, ok := kinds[want]; ok {
			return []pipeline.Cause{{
				Path: []string{string(key), kind}, Expected: rep.Images[0].Digest.String(), Actual: want.String(), Standing: pipeline.Proved, Hint: "digest-kinds", Where: where,
				Note: "the pinned digest is that of " + kind + " of the same image, not that of the image as a whole",
			}}
		}
	}
	return nil
}

func imageProblem(source string, p imagehash.Problem) pipeline.Problem {
	msg := p.Detail
	if msg == "" {
		msg = p.Code
	}
	if p.Found != "" || p.Expected != "" {
		msg += fmt.Sprintf(": found %s, expected %s", cmp.Or(p.Found, "nothing"), cmp.Or(p.Expected, "something else"))
	}
	return pipeline.Problem{Level: pipeline.LevelError, Code: "image-" + p.Code, Where: pipeline.Where{File: strings.TrimSuffix(source+"/"+p.Place, "/")}, Msg: msg}
}

// hashes takes over the digests of a hashes file where no bytes are at hand,
// and holds them against the recounted ones where there are.
func (r *stageRun) hashes(ctx context.Context) error {
	file := r.in.Config.Hashes
	hashes, err := run.Parsed(ctx, r.in, file, config.JSONLimit, privatemode.ParseHashes)
	if err != nil {
		return err
	}
	for _, h := range hashes {
		key := r.key(h.Name)
		where := pipeline.Where{File: file, Line: h.Line}
		if r.refused[key] {
			continue // bytes that do not hold are not made good by a line of text
		}
		if m := r.measured(key); m != nil {
			if !m.Value.Equal(pipeline.OfDigest(h.Digest)) {
				r.out.Problems = append(r.out.Problems, pipeline.Problem{
					Level: pipeline.LevelError, Code: "hashes-differ", Where: where,
					Msg:  fmt.Sprintf("says that %s has digest %s, but its bytes give %s", h.Name, h.Digest, m.Value),
					Hint: "the file is of another build, or the script believed an index.json that does not hold",
				})
			}
			continue
		}
		r.out.Measurements = append(r.out.Measurements, pipeline.Measurement{
			Key: key, Value: pipeline.OfDigest(h.Digest), Basis: pipeline.Copied, Inputs: []pipeline.InputRef{pipeline.FromFile(file)}, Note: fmt.Sprintf("%s:%d", file, h.Line),
		})
		r.out.Causes[key] = []pipeline.Cause{{
			Path: []string{string(key), file}, Actual: h.Digest.String(), Standing: pipeline.Suspected, Hint: "image-digest", Where: where,
			Note: "the rebuild gave another image than the deployment pins: other source, another tag, or a build that does not reproduce",
		}}
	}
	return nil
}

// unreproduced says of every pin without a measurement why it has none.
func (r *stageRun) unreproduced() {
	for _, p := range r.pins {
		if !p.Pinned {
			continue
		}
		key := published.ImageKey(r.names, p.Ref)
		switch {
		case r.measured(key) != nil || r.out.Notes[key] != "":
		case len(r.rebuilt) == 0:
			r.out.Notes[key] = "pinned, but not reproduced here"
		case r.rebuilt[published.VendorRepository(p.Ref)]:
			r.out.Notes[key] = "pinned, but not among the rebuilt images"
		default:
			r.out.Notes[key] = "pinned, but not reproduced here (third party)"
		}
	}
}

func check(c *config.Config, at config.At) error {
	for _, name := range slices.Sorted(maps.Keys(c.Images)) {
		if _, err := c.Images[name].Source(); err != nil {
			return at(err.Error(), "for instance {oci: result/"+name+"}", "images", name)
		}
	}
	return nil
}
