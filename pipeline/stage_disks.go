package pipeline

import (
	"context"
	"fmt"
	"math/bits"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/privatemode"
)

// disksStage joins the root hashes that the deployment passes to disk-mounters
// with the published models.
var disksStage = Stage{Name: "disks", Version: 1, Run: runDisks, Plan: planDisks}

func planDisks(c *Config) []PlanLine {
	if c.Models == "" {
		return []PlanLine{{Key: "disk/*/root", Missing: "models.yaml", How: "models: models.yaml, the published root hashes"}}
	}
	return []PlanLine{{Key: "disk/*/root", From: c.Models}}
}

func runDisks(ctx context.Context, in *In) (*Out, error) {
	out := &Out{Causes: map[Key][]Cause{}}
	if in.Config.Models == "" {
		if in.Config.Deployment == "" {
			return out, nil
		}
		d, err := readDeployment(ctx, in)
		if err != nil {
			return nil, err
		}
		if len(d.Disks()) > 0 {
			in.Lack("models.yaml", "disk/*/root", "add models: models.yaml, the published root hashes of the model disks")
		}
		return out, nil
	}
	data, err := in.ReadFile(ctx, in.Config.Models, yamlLimit)
	if err != nil {
		return nil, err
	}
	models, err := privatemode.ParseModels(in.Config.Models, data)
	if err != nil {
		return nil, err
	}
	byRoot := map[digest.Digest]Key{}
	for _, m := range models.Entries {
		key := modelKey(m)
		byRoot[m.RootHash] = key
		out.Measurements = append(out.Measurements, Measurement{
			Key: key, Value: OfDigest(m.RootHash), Basis: Copied, Inputs: []InputRef{FromFile(in.Config.Models)},
			Note: fmt.Sprintf("%s at commit %s", m.Source, m.Commit),
		})
	}
	if in.Config.Deployment == "" {
		return out, nil
	}
	d, err := readDeployment(ctx, in)
	if err != nil {
		return nil, err
	}
	refs := diskReferences(d, byRoot)
	out.References = refs
	// A disk that the deployment mounts and no model explains is a finding,
	// not a gap: models.yaml is the vendor's complete list.
	out.Complete = []string{"disk/**"}
	out.disksUnknown(refs, models, byRoot)
	out.disksUnused(in.Config.Models, d, models)
	joined := 0
	for _, r := range refs {
		if _, ok := byRoot[r.Want.Digest()]; ok {
			joined++
		}
	}
	out.Facts = append(out.Facts, fmt.Sprintf("%s: %s, %d of the deployment's %s found among them", models.File, plural(len(models.Entries), "model", "models"), joined, plural(len(refs), "root hash", "root hashes")))
	return out, nil
}

func modelKey(m privatemode.Model) Key {
	return NewKey("disk", m.Key+"@"+m.Commit[:min(12, len(m.Commit))], "root")
}

// disksUnknown looks for the model that an unknown root hash may stand for.
func (out *Out) disksUnknown(refs []Reference, models *privatemode.Models, byRoot map[digest.Digest]Key) {
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
		c := Cause{
			Path: []string{string(r.Key), models.File}, Actual: want.String(), Hint: "disk-root-hash", Standing: Suspected, Where: r.Where,
			Note: "no published model has this root hash: another model version, other mkfs tools, or a changed deployment",
		}
		// Unrelated hashes differ in about half of their 256 bits; so few
		// differing bits mean that one was edited into the other.
		if best >= 0 && distance <= 64 {
			m := models.Entries[best]
			c.Path = append(c.Path, m.Key)
			c.Expected = m.RootHash.String()
			c.Note = fmt.Sprintf("the root hash of model %s was changed in %s", m.Key, plural(hexDistance(want, m.RootHash), "hex digit", "hex digits"))
			c.Standing = Proved
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
func (out *Out) disksUnused(file string, d *deployment.Deployment, models *privatemode.Models) {
	used := map[digest.Digest]bool{}
	for _, p := range d.Disks() {
		used[p.RootHash] = true
	}
	for _, m := range models.Entries {
		if !used[m.RootHash] {
			out.Problems = append(out.Problems, Problem{
				Level: LevelNote, Code: "model-unused", Where: Where{File: file, Line: m.Line},
				Msg: fmt.Sprintf("model %s is published but no disk of the deployment uses it", m.Key),
			})
		}
	}
	for _, p := range d.Disks() {
		if p.CommandOverride && p.Used {
			out.Problems = append(out.Problems, Problem{
				Level: LevelNote, Code: "disk-command-override", Where: Where{File: d.File, Line: p.Line},
				Msg: fmt.Sprintf("%s: container %s overrides its command; its arguments, root hash included, still reach disk-mounter", p.Workload, strings.TrimSpace(p.Container)),
			})
		}
	}
}
