package pipeline

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/digest"
)

// Limits of small inputs, in bytes.
const (
	yamlLimit = 16 << 20
	jsonLimit = 16 << 20
)

// deploymentStage reads what the deployment pins. It measures nothing: its
// references are what the other stages' measurements are held against.
var deploymentStage = Stage{Name: "deployment", Version: 1, Run: runDeployment, Plan: planDeployment}

func planDeployment(c *Config) []PlanLine {
	switch {
	case c.Deployment == "" && c.machinesOnly():
		return nil
	case c.Deployment == "":
		return []PlanLine{{Key: "image/** disk/** file/**", Missing: "deployment", How: "deployment: deployment.yaml"}}
	}
	return []PlanLine{{Key: "what image/** disk/** file/** must be", From: c.Deployment}}
}

func runDeployment(ctx context.Context, in *In) (*Out, error) {
	out := new(Out)
	file := in.Config.Deployment
	if file == "" {
		return out, nil
	}
	d, err := readDeployment(ctx, in)
	if err != nil {
		return nil, err
	}
	out.Facts = append(out.Facts, deploymentFacts(d))
	for _, p := range d.Problems() {
		out.Problems = append(out.Problems, deploymentProblem(p))
	}
	out.References = append(out.References, imageReferences(d)...)
	out.References = append(out.References, fileReferences(d)...)
	if in.Config.Models == "" {
		out.References = append(out.References, diskReferences(d, nil)...)
	}
	return out, nil
}

// deploymentFacts counts what the deployment pins.
func deploymentFacts(d *deployment.Deployment) string {
	digests := map[digest.Digest]bool{}
	for _, p := range d.Images() {
		if p.Pinned {
			digests[p.Ref.Digest] = true
		}
	}
	return fmt.Sprintf("%s: %s, %s in %s, %s, %s at start", d.File, plural(len(d.Workloads), "workload", "workloads"),
		plural(len(d.Images()), "container reference", "container references"), plural(len(digests), "digest", "digests"),
		plural(len(d.Disks()), "model disk", "model disks"), plural(len(d.FileChecks()), "file check", "file checks"))
}

func readDeployment(ctx context.Context, in *In) (*deployment.Deployment, error) {
	data, err := in.ReadFile(ctx, in.Config.Deployment, yamlLimit)
	if err != nil {
		return nil, err
	}
	return deployment.Parse(in.Config.Deployment, data)
}

// deploymentProblem decides how bad a problem is: what leaves running code
// unbound is an error, what may be meant is a warning.
func deploymentProblem(p deployment.Problem) Problem {
	level := LevelWarning
	switch p.Code.Level() {
	case deployment.Error, deployment.Unchecked:
		level = LevelError
	}
	msg := p.Msg
	if p.Container != "" {
		msg = "container " + p.Container + ": " + msg
	}
	if p.Workload != "" {
		msg = p.Workload + ": " + msg
	}
	return Problem{Level: level, Code: string(p.Code), Where: Where{File: p.File, Line: p.Line}, Msg: msg, Hint: p.Hint}
}

// imageNames gives every pinned repository its name in keys: the last part
// where that is unique, else the whole repository; a second digest of the same
// repository adds the digest's first digits.
func imageNames(pins []deployment.ImagePin) map[string]string {
	repos := map[string][]string{} // last part -> repositories
	digests := map[string][]string{}
	full := func(r deployment.ImageRef) string { return r.Registry + "/" + r.Repository }
	for _, p := range pins {
		if !p.Pinned {
			continue
		}
		if f := full(p.Ref); !slices.Contains(repos[p.Ref.Name], f) {
			repos[p.Ref.Name] = append(repos[p.Ref.Name], f)
		}
		if d := p.Ref.Digest.String(); !slices.Contains(digests[full(p.Ref)], d) {
			digests[full(p.Ref)] = append(digests[full(p.Ref)], d)
		}
	}
	names := map[string]string{}
	for _, p := range pins {
		if !p.Pinned {
			continue
		}
		f := full(p.Ref)
		name := p.Ref.Name
		if len(repos[name]) > 1 {
			name = f
		}
		if len(digests[f]) > 1 {
			name += "@" + p.Ref.Digest.Hex()[:12]
		}
		names[f+"@"+p.Ref.Digest.String()] = name
	}
	return names
}

func imageKey(names map[string]string, r deployment.ImageRef) Key {
	return NewKey("image", names[r.Registry+"/"+r.Repository+"@"+r.Digest.String()], "manifest")
}

// imageReferences lists every pinned image once, at its first place.
func imageReferences(d *deployment.Deployment) []Reference {
	pins := d.Images()
	names := imageNames(pins)
	uses := map[Key]int{}
	var refs []Reference
	for _, p := range pins {
		if !p.Pinned {
			continue
		}
		key := imageKey(names, p.Ref)
		uses[key]++
		if uses[key] > 1 {
			continue
		}
		refs = append(refs, Reference{
			Key: key, Relation: Equal, Want: OfDigest(p.Ref.Digest), Where: Where{File: d.File, Line: p.Ref.Line},
			Words: "image " + p.Ref.Registry + "/" + p.Ref.Repository,
		})
	}
	for i := range refs {
		refs[i].Words += fmt.Sprintf(" (%s)", plural(uses[refs[i].Key], "container", "containers"))
	}
	return refs
}

// vendorRepository is where a repository's siblings live: its path without the
// last part.
func vendorRepository(r deployment.ImageRef) string {
	return r.Registry + "/" + path.Dir(r.Repository)
}

// fileReferences lists the files that start scripts check by their hash. The
// published material does not hold them, so they stay unchecked.
func fileReferences(d *deployment.Deployment) []Reference {
	checks := d.FileChecks()
	byFile := map[string][]digest.Digest{}
	for _, c := range checks {
		if base := path.Base(c.File); !c.Expected.IsZero() && !slices.Contains(byFile[base], c.Expected) {
			byFile[base] = append(byFile[base], c.Expected)
		}
	}
	seen := map[Key]bool{}
	var refs []Reference
	for _, c := range checks {
		if c.Expected.IsZero() {
			continue
		}
		base := path.Base(c.File)
		if len(byFile[base]) > 1 {
			base += "@" + c.Expected.Hex()[:12]
		}
		key := NewKey("file", base, c.Expected.Algorithm().String())
		if seen[key] {
			continue
		}
		seen[key] = true
		from := ""
		if c.ConfigMap != "" {
			from = ", mounted from ConfigMap " + c.ConfigMap
		}
		refs = append(refs, Reference{
			Key: key, Relation: Equal, Want: OfDigest(c.Expected), Where: Where{File: d.File, Line: c.Line},
			Words: fmt.Sprintf("%s checked by %s at start%s", c.File, c.Workload, from),
			Note:  "bound by its hash, but its text is not published",
		})
	}
	return refs
}

// diskName is how a disk is called where no models file names it.
func diskName(p deployment.DiskPin) string {
	if p.Model != "" {
		return p.Model
	}
	_, name, _ := strings.Cut(p.Workload, "/")
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		name = name[i+1:]
	}
	return strings.Trim(name+"/"+p.Container, "/")
}

// diskReferences lists every root hash that the deployment passes to a
// disk-mounter, once. byRoot gives the key of a published model by its root
// hash, nil where no models file is at hand.
func diskReferences(d *deployment.Deployment, byRoot map[digest.Digest]Key) []Reference {
	var refs []Reference
	seen := map[string]bool{}
	taken := map[Key]bool{}
	for _, p := range d.Disks() {
		if p.RootHash.IsZero() || !p.Used {
			continue
		}
		key, known := byRoot[p.RootHash]
		if !known {
			key = NewKey("disk", diskName(p), "root")
			if taken[key] && !seen[string(key)+p.RootHash.String()] {
				key = NewKey("disk", diskName(p)+"@"+p.RootHash.Hex()[:12], "root")
			}
		}
		if id := string(key) + p.RootHash.String(); seen[id] {
			continue
		} else {
			seen[id], taken[key] = true, true
		}
		note := "passed to disk-mounter, but no disk or models file is at hand"
		switch {
		case known:
			note = ""
		case byRoot != nil:
			note = "no entry of the models file has this root hash"
		}
		refs = append(refs, Reference{
			Key: key, Relation: Equal, Want: OfDigest(p.RootHash), Where: Where{File: d.File, Line: p.Line},
			Words: fmt.Sprintf("disk %s of %s", diskName(p), p.Workload), Note: note,
		})
	}
	return refs
}
