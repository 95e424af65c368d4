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
	return run.Stage{Name: "images", Version: 8, After: []string{"nix"}, Check: check, Run: execute, Plan: plan, Split: split, Piece: piece}
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
	if done, err := r.merged(ctx, key, name, source, c); done || err != nil {
		return err
	}
	var progress imagehash.Progress
	stop := r.in.Progress.Follow(progress.Done, progress.Total)
	defer stop()
	opts := imagehash.Options{Progress: &progress}
	var rep *imagehash.Report
	read := func(path string) (id digest.Digest, n int64, err error) {
		if rep, err = imagehash.VerifyRef(ctx, path, opts); err != nil {
			return id, 0, err
		}
		if len(rep.Images) == 1 {
			id = rep.Images[0].Digest
		}
		return id, rep.Bytes, nil
	}
	input := pipeline.FromFile(source)
	if c.Nix != "" {
		path, made := published.BuiltImage(r.in, name)
		if path == "" {
			// No line of text makes good what was not built.
			r.refused[key] = true
			r.out.Notes[key] = "it was to be built here, and was not: see what was found in the inputs"
			return nil
		}
		id, n, err := read(path)
		if err != nil {
			return &pipeline.InputError{Op: "read image", File: source, Err: err}
		}
		// What was read must be what was built: it is hashed once more.
		if err := published.StillBuilt(ctx, r.in, name, path); err != nil {
			return &pipeline.InputError{Op: "read image", File: source, Err: err}
		}
		r.in.ReadRemote(source, id, n) // a store's word of its files is not trusted: nothing of it is kept
		input = pipeline.FromKey(made)
	} else if c.Registry != "" {
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
	if c.Found {
		return r.found(name, source, input, rep)
	}
	image, err := rep.Choose(c.Image)
	if err != nil {
		r.in.Lack("an OCI layout of "+name, string(key), err.Error()+", as image beside the source")
		return nil
	}
	r.add(key, name, source, input, image, image.Digest)
	return nil
}

// add takes an image's digest as the value of a key, as far as it was recounted.
func (r *stageRun) add(key pipeline.Key, name, source string, input pipeline.InputRef, image *imagehash.Image, d digest.Digest) {
	where := pipeline.Where{File: source}
	if d.IsZero() {
		r.out.Notes[key] = "an archive of the docker save kind holds no manifest, so the image in it has no digest"
		r.in.Lack("an OCI layout of "+name, string(key), r.out.Notes[key])
		return
	}
	rest := imagehash.Unchecked([]imagehash.Image{*image})
	if slices.ContainsFunc(image.Unread, func(u imagehash.Unread) bool { return u.Part == "layer" && !u.Asked }) {
		// What nobody read may be anything: its digest is the image's word alone.
		r.refused[key] = true
		r.out.Notes[key] = rest
		r.out.Problem(pipeline.LevelWarning, "image-unread", where, rest, "give the layers that are missing, as far as their owner hands them out")
		return
	}
	if m := r.measured(key); m != nil {
		if !m.Value.Equal(pipeline.OfDigest(d)) {
			r.out.Problem(pipeline.LevelError, "image-two-values", where, fmt.Sprintf("holds an image that counts as %s, too, with digest %s, but another source gives %s", key.Parts()[1], d, m.Value), "check them one by one")
		}
		return
	}
	note := fmt.Sprintf("%s of %s recounted from %s", show.Plural(len(image.Platforms), "platform", "platforms"), name, source)
	basis := pipeline.Recomputed
	if m, ok := r.in.Get(input.Key); input.Key != "" && ok && m.Basis == pipeline.Rebuilt {
		basis = pipeline.Rebuilt // its bytes are those of a build that ran here
	}
	r.out.Measurements = append(r.out.Measurements, pipeline.Measurement{Key: key, Value: pipeline.OfDigest(d), Basis: basis, Inputs: []pipeline.InputRef{input}, Note: note})
	r.out.Causes[key] = append(r.otherDigests(key, image), pipeline.Cause{
		Path: []string{string(key), source}, Actual: d.String(), Standing: pipeline.Suspected, Hint: "image-digest", Where: where,
		Note: "the image has other content than the one that is pinned: other source, another tag, or a build that does not reproduce; retally image diff tells which, given both",
	})
	if len(r.pins) == 0 && r.in.Config.Images[name].Found {
		r.out.Problem(pipeline.LevelNote, "image-digest", where, fmt.Sprintf("its digest is %s, %s", d, show.Plural(len(image.Platforms), "platform", "platforms")), "")
	}
	if !image.Complete() {
		r.remains(key, source, image, d)
		r.out.Problem(pipeline.LevelWarning, "image-unread", where, rest, "the digest is that of the bytes that are there; what they name was not checked whole")
	}
}

// remains names what the digest of an image binds and nobody has checked here:
// members that are not in the source, and layers that nobody could open. Each is a
// value of its own that stays unchecked.
func (r *stageRun) remains(key pipeline.Key, source string, image *imagehash.Image, d digest.Digest) {
	refer := func(k pipeline.Key, want digest.Digest, place, words, note string) {
		if slices.ContainsFunc(r.out.References, func(ref pipeline.Reference) bool { return ref.Key == k }) {
			return
		}
		value := pipeline.OfDigest(want)
		if want.IsZero() {
			value = pipeline.OfText("what " + d.String() + " names")
		}
		r.out.Refer(k, value, pipeline.Where{File: strings.TrimSuffix(source+"/"+place, "/")}, words)
		r.out.Notes[k] = note
	}
	for _, u := range image.Unread {
		if u.Asked {
			continue
		}
		part := cmp.Or(strings.ReplaceAll(u.Platform, "/", "-"), u.Digest.Hex())
		if u.Part == "attestation" {
			part = "attestation-" + u.Digest.Hex()
		}
		refer(pipeline.NewKey(append(key.Parts(), part)...), u.Digest, u.Place, strings.TrimSpace(u.Part+" "+u.Platform)+" of the index", fmt.Sprintf("%s %s: %s", u.Part, cmp.Or(u.Platform, u.Digest.String()), u.Why))
	}
	for i, u := range image.Unopened {
		refer(pipeline.NewKey(append(key.Parts(), fmt.Sprintf("layer-%d", i+1), u.Digest.Hex())...), u.DiffID, u.Place, "content of layer "+u.Digest.String(), u.Why+" ("+u.MediaType+"); its blob was hashed, its diffID and content were not checked")
	}
}

// found joins the images of a source that nobody named to the pins. Only an equal
// digest makes an image the pinned one. Where no digest fits, the name of the file
// and the names that the images bear lead to the pin that they are held against:
// that can only tell a difference.
func (r *stageRun) found(name, source string, input pipeline.InputRef, rep *imagehash.Report) error {
	joined := map[int]bool{}
	pins := slices.Sorted(maps.Keys(r.wanted))
	for i := range rep.Images {
		image := &rep.Images[i]
		for _, key := range pins {
			ref := r.wanted[key]
			d := image.Digest
			if d != ref.Digest {
				p := slices.IndexFunc(image.Platforms, func(p imagehash.Platform) bool { return p.Digest == ref.Digest })
				if p < 0 || r.pinned[name].Name != "" {
					continue
				}
				d = image.Platforms[p].Digest
			}
			if d.IsZero() {
				continue
			}
			joined[i] = true
			r.rebuilt[published.VendorRepository(ref)] = true
			r.add(key, key.Parts()[1], source, input, image, d)
			if r.pinned[name].Name == "" {
				r.out.Problem(pipeline.LevelNote, "image-joined", pipeline.Where{File: source}, fmt.Sprintf("holds %s, which is the pin of %s", d, key.Parts()[1]), "")
			}
		}
	}
	if len(joined) > 0 {
		return nil
	}
	_, pinned := r.pinned[name]
	for i := range rep.Images {
		image := &rep.Images[i]
		for _, key := range pins {
			if !pinned && bears(image, r.wanted[key]) {
				joined[i] = true
				r.rebuilt[published.VendorRepository(r.wanted[key])] = true
				r.add(key, key.Parts()[1], source, input, image, image.Digest)
			}
		}
	}
	if len(joined) > 0 {
		return nil
	}
	image, err := rep.Choose("")
	if err != nil {
		r.in.Lack("an OCI layout of "+name, string(r.key(name)), err.Error()+", in retally.yaml")
		return nil
	}
	r.add(r.key(name), name, source, input, image, image.Digest)
	return nil
}

// bears reports whether an image says that it is of a pin's repository.
func bears(image *imagehash.Image, ref deployment.ImageRef) bool {
	return slices.ContainsFunc(append([]string{image.FullName, image.Name}, image.Tags...), func(name string) bool {
		if !strings.ContainsAny(name, "/:") {
			return false // a bare tag, all that OCI layouts often have
		}
		r, err := deployment.ParseImageRef(name)
		return err == nil && r.Full() == ref.Full()
	})
}

// otherDigests proves the commonest confusion: the pinned digest is another
// one of the same image, such as that of a platform's manifest in place of the
// index's.
func (r *stageRun) otherDigests(key pipeline.Key, image *imagehash.Image) []pipeline.Cause {
	ref, ok := r.wanted[key]
	if !ok || ref.Digest.IsZero() {
		return nil
	}
	want, where := ref.Digest, pipeline.Where{File: r.in.Config.Deployment, Line: ref.Line}
	for _, p := range image.Platforms {
		kinds := map[digest.Digest]string{p.Digest: "the manifest of platform " + p.Platform, p.Config: "the configuration of platform " + p.Platform}
		for i, l := range p.Layers {
			kinds[l.Digest] = fmt.Sprintf("layer %d", i+1)
			if l.DiffID != l.Digest {
				kinds[l.DiffID] = fmt.Sprintf("the uncompressed layer %d", i+1)
			}
		}
		if kind, ok := kinds[want]; ok {
			return []pipeline.Cause{{
				Path: []string{string(key), kind}, Expected: image.Digest.String(), Actual: want.String(), Standing: pipeline.Proved, Hint: "digest-kinds", Where: where,
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
		if i := c.Images[name]; i.Entry != "" && i.Nix == "" {
			return at("entry without nix: it names an image in what is built", "leave it out", "images", name, "entry")
		}
		if i := c.Images[name]; i.Image != "" && i.Registry != "" {
			return at("image beside registry: the reference names the image already", "leave it out", "images", name, "image")
		}
	}
	return nil
}
