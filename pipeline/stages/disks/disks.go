// Package disks is the stage that recounts the disks of models.
package disks

import (
	"context"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/published"
	"github.com/retally/retally/privatemode"
	"github.com/retally/retally/verity"
	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/erofs"
)

// Stage recounts the disks of model directories and joins them with the
// published models and with the root hashes that the deployment passes to
// disk-mounters.
func Stage() run.Stage {
	return run.Stage{Name: "disks", Version: 7, Fill: fill, Check: check, Run: execute, Plan: plan, Split: split, Piece: piece}
}

func plan(c *config.Config) []run.PlanLine {
	var lines []run.PlanLine
	for _, name := range slices.Sorted(maps.Keys(c.Disks)) {
		from := c.Disks[name].Dir
		if c.Shards != "" {
			from += ", or its parts in " + c.Shards
		}
		lines = append(lines, run.PlanLine{Key: string(pipeline.NewKey("disk", name, "root")), From: from})
	}
	switch {
	case len(lines) == 0 && c.MachinesOnly():
	case !c.PublishedDisks() && len(lines) == 0:
		lines = append(lines, run.PlanLine{Key: "disk/*/root", Missing: "models.yaml", How: "models: models.yaml, the published root hashes"})
	case len(lines) == 0:
		from := c.Models
		if from == "" {
			from = strings.Join(c.StorageClasses, ", ")
		}
		lines = append(lines, run.PlanLine{Key: "disk/*/root", From: from + ", taken over as it is"})
	}
	return lines
}

// stageRun collects what the stage finds.
type stageRun struct {
	in     *run.In
	out    *run.Out
	models *privatemode.Models
	// byRoot leads from a published root hash to its key.
	byRoot   map[digest.Digest]pipeline.Key
	measured map[pipeline.Key]bool
	signed   map[pipeline.Key]*Signed // by the key of the root hash
}

func execute(ctx context.Context, in *run.In) (*run.Out, error) {
	r := &stageRun{in: in, out: &run.Out{Causes: map[pipeline.Key][]pipeline.Cause{}, Notes: map[pipeline.Key]string{}}, models: new(privatemode.Models), byRoot: map[digest.Digest]pipeline.Key{}, measured: map[pipeline.Key]bool{}, signed: map[pipeline.Key]*Signed{}}
	if in.Config.PublishedDisks() {
		var err error
		if r.models, err = published.Models(ctx, in, in.Config); err != nil {
			return nil, err
		}
		for _, m := range r.models.Entries {
			if _, known := r.byRoot[m.RootHash]; !known {
				r.byRoot[m.RootHash] = modelKey(m)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(in.Config.Disks)) {
		if err := r.measure(ctx, name, in.Config.Disks[name]); err != nil {
			return nil, err
		}
	}
	for _, m := range r.models.Entries {
		if key := modelKey(m); !r.measured[key] {
			r.out.Measurements = append(r.out.Measurements, pipeline.Measurement{
				Key: key, Value: pipeline.OfDigest(m.RootHash), Basis: pipeline.Copied, Inputs: []pipeline.InputRef{pipeline.FromFile(m.File)},
				Note: fmt.Sprintf("%s at commit %s", m.Source, m.Commit),
			})
		}
	}
	if in.Config.Deployment != "" {
		if err := r.deployed(ctx); err != nil {
			return nil, err
		}
	}
	return r.out, nil
}

// deployed holds the disks against what the deployment mounts.
func (r *stageRun) deployed(ctx context.Context) error {
	d, err := published.Deployment(ctx, r.in, r.in.Config)
	if err != nil {
		return err
	}
	if !r.in.Config.PublishedDisks() {
		if len(d.Disks()) > 0 && len(r.in.Config.Disks) == 0 {
			r.in.Lack("models.yaml", "disk/*/root", "add models: models.yaml, the published root hashes of the model disks")
		}
		return nil
	}
	refs := published.DiskReferences(d, r.byRoot)
	r.out.References = append(r.out.References, refs...)
	for _, ref := range refs {
		if s := r.signed[ref.Key]; s != nil {
			s.Deployed(r.out, ref)
		}
	}
	// A disk that the deployment mounts and no model explains is a finding,
	// not a gap: models.yaml is the vendor's complete list.
	r.out.Complete = []string{"disk/*/root"}
	disksUnknown(r.out, refs, r.models, r.byRoot)
	disksUnused(r.out, d, r.models)
	joined := 0
	for _, ref := range refs {
		if _, ok := r.byRoot[ref.Want.Digest()]; ok {
			joined++
		}
	}
	r.out.Facts = append(r.out.Facts, fmt.Sprintf("%s: %s, %d of the deployment's %s found among them", r.models.File, show.Plural(len(r.models.Entries), "model", "models"), joined, show.Plural(len(refs), "root hash", "root hashes")))
	return nil
}

// measure recounts one disk from its model directory.
func (r *stageRun) measure(ctx context.Context, name string, c config.Disk) error {
	var listed *privatemode.Model
	for i := range r.models.Entries {
		if m := &r.models.Entries[i]; m.Key == name {
			listed = m
		}
	}
	if listed == nil && c.Found && len(r.in.Config.Disks) == 1 && len(r.models.Entries) == 1 {
		// One directory and one entry were given to be compared.
		listed = &r.models.Entries[0]
		r.out.Facts = append(r.out.Facts, fmt.Sprintf("%s is compared with %s, the only model of %s", c.Dir, listed.Key, listed.File))
	}
	opts, err := Resolve(c, listed)
	if err != nil {
		return err
	}
	if done, err := r.merged(ctx, name, c, listed, opts); done || err != nil {
		return err
	}
	signed, err := Bind(func(name string, limit int64) ([]byte, error) { return r.in.ReadFile(ctx, name, limit) }, r.in.Path, c, &opts)
	if err != nil {
		return err
	}
	var count verity.Progress
	opts.Progress = &count
	stop := r.in.Progress.Follow(func() int64 { d, _ := count.Read(); return d }, func() int64 { _, t := count.Read(); return t })
	defer stop()
	var res disk.Result
	var found *disk.Searched
	err = r.in.ReadTree(c.Dir, func(path string) (digest.Digest, int64, error) {
		var err error
		opts.Dir = path
		if res, err = disk.Measure(ctx, opts); err == nil {
			found, err = Search(ctx, opts, res, listed, false)
		}
		return res.RootHash.Digest, res.HashOffset, err
	})
	if err != nil {
		return err
	}
	file := r.models.File
	if listed != nil {
		file = listed.File
	}
	key := Describe(r.out, name, c.Dir, res, file, listed, found)
	r.measured[key] = true
	Compare(r.out, name, c.Dir, res)
	if signed != nil {
		signed.endorsedBy(r.in.Config, key)
		signed.Describe(r.out, key, c.Dir, res)
		r.signed[key] = signed
	}
	return nil
}

func modelKey(m privatemode.Model) pipeline.Key {
	if m.Commit == "" {
		return pipeline.NewKey("disk", m.Key, "root")
	}
	return pipeline.NewKey("disk", m.Key+"@"+m.Commit[:min(12, len(m.Commit))], "root")
}

// disksUnknown looks for the model that an unknown root hash may stand for.
func disksUnknown(out *run.Out, refs []pipeline.Reference, models *privatemode.Models, byRoot map[digest.Digest]pipeline.Key) {
	for _, r := range refs {
		want := r.Want.Digest()
		if _, ok := byRoot[want]; ok {
			continue
		}
		best, distance := -1, 257
		for i, m := range models.Entries {
			if d := hamming(want, m.RootHash); d < distance {
				best, distance = i, d
			}
		}
		c := pipeline.Cause{
			Path: []string{string(r.Key), models.File}, Actual: want.String(), Hint: "disk-root-hash", Standing: pipeline.Suspected, Where: r.Where,
			Note: "no published model has this root hash: another model version, other mkfs tools, or a changed deployment",
		}
		// Unrelated hashes differ in about half of their 256 bits; so few
		// differing bits mean that one was edited into the other.
		if best >= 0 && distance <= 64 {
			m := models.Entries[best]
			c.Path = append(c.Path[:1], m.File, m.Key)
			c.Expected = m.RootHash.String()
			c.Note = fmt.Sprintf("the root hash of model %s was changed in %s", m.Key, show.Plural(hexDistance(want, m.RootHash), "hex digit", "hex digits"))
			c.Standing = pipeline.Proved
		}
		out.Causes[r.Key] = append(out.Causes[r.Key], c)
	}
}

func hamming(a, b digest.Digest) int {
	if a.Algorithm() != b.Algorithm() {
		return 257
	}
	n := 0
	x, y := a.Bytes(), b.Bytes()
	for i := range x {
		n += bits.OnesCount8(x[i] ^ y[i])
	}
	return n
}

func hexDistance(a, b digest.Digest) int {
	n := 0
	x, y := a.Hex(), b.Hex()
	for i := range x {
		if x[i] != y[i] {
			n++
		}
	}
	return n
}

// disksUnused names the models that no disk-mounter uses.
func disksUnused(out *run.Out, d *deployment.Deployment, models *privatemode.Models) {
	used := map[digest.Digest]bool{}
	for _, p := range d.Disks() {
		used[p.RootHash] = true
	}
	for _, m := range models.Entries {
		if !used[m.RootHash] {
			out.Problems = append(out.Problems, pipeline.Problem{
				Level: pipeline.LevelNote, Code: "model-unused", Where: pipeline.Where{File: m.File, Line: m.Line},
				Msg: fmt.Sprintf("model %s is published but no disk of the deployment uses it", m.Key),
			})
		}
	}
	for _, p := range d.Disks() {
		if p.CommandOverride && p.Used {
			out.Problems = append(out.Problems, pipeline.Problem{
				Level: pipeline.LevelNote, Code: "disk-command-override", Where: pipeline.Where{File: d.File, Line: p.Line},
				Msg: fmt.Sprintf("%s: container %s overrides its command; its arguments, root hash included, still reach disk-mounter", p.Workload, strings.TrimSpace(p.Container)),
			})
		}
	}
}

func check(c *config.Config, at config.At) error {
	for _, name := range slices.Sorted(maps.Keys(c.Disks)) {
		if c.Disks[name].Dir == "" {
			return at("dir is missing", "for instance {dir: models/"+name+"}", "disks", name)
		}
		if d := c.Disks[name]; d.ModelSig == "" && len(d.Signers) > 0 {
			return at("signers are given and no signature", "add model_sig: the model's signature", "disks", name, "signers")
		}
		if m := c.Disks[name].MKFS; m != "" {
			if _, err := erofs.ParseProfile(m); err != nil {
				return at(err.Error(), "write mkfs: \"1.9\" for the published disks", "disks", name, "mkfs")
			}
		}
	}
	return nil
}

// fill writes the usual release down; the models file may name another.
func fill(c *config.Config) {
	for name, d := range c.Disks {
		if d.MKFS == "" {
			d.MKFS = string(erofs.Profile19)
			c.Disks[name] = d
		}
	}
}
