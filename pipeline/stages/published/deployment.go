// Package published makes keys and references of what a deployment or a manifest
// says. Several stages do, and must give one thing one name.
package published

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
)

// Deployment reads the configuration's deployment, with what the user says of
// it.
func Deployment(ctx context.Context, src run.Source, c *config.Config) (*deployment.Deployment, error) {
	return run.Parsed(ctx, src, c.Deployment, config.YAMLLimit, func(file string, data []byte) (*deployment.Deployment, error) {
		return deployment.ParseWith(file, data, DeploymentOptions(c))
	})
}

// DeploymentOptions are the user's own words on the deployment.
func DeploymentOptions(c *config.Config) deployment.Options {
	o := deployment.Options{RuntimeClasses: c.RuntimeClasses}
	for _, e := range c.Exempt {
		if o.Exempt == nil {
			o.Exempt = map[string]string{}
		}
		o.Exempt[e.Workload] = e.Reason
	}
	return o
}

// Opaque lists what runs, or may run, and was not understood: start scripts and
// objects of unknown kinds. Each is a value that nothing here can recount, and
// the leave for files or disks does not cover it.
func Opaque(d *deployment.Deployment) []pipeline.Reference {
	var refs []pipeline.Reference
	seen := map[pipeline.Key]int{}
	add := func(key pipeline.Key, line int, words, note string) {
		if seen[key]++; seen[key] > 1 {
			key += pipeline.Key(fmt.Sprintf(":%d", seen[key]))
		}
		refs = append(refs, pipeline.Reference{
			Key: key, Relation: pipeline.Equal, Want: pipeline.OfText("understood"), Where: pipeline.Where{File: d.File, Line: line}, Words: words, Note: note,
		})
	}
	for _, o := range d.Opaque() {
		add(pipeline.NewKey("script", cmp.Or(o.Object.Namespace, "-"), o.Object.Name, o.Container), o.Line,
			fmt.Sprintf("what container %s of %s starts", o.Container, o.Workload), fmt.Sprintf("not understood: %s [%s:%d]", o.Reason, d.File, o.Line))
	}
	for _, u := range d.Unknown() {
		add(pipeline.NewKey("object", cmp.Or(u.Object.Kind, "-"), cmp.Or(u.Object.Namespace, "-"), cmp.Or(u.Object.Name, "-")), u.Object.Line,
			fmt.Sprintf("%s %s", u.Object.Kind, u.Object.Name), fmt.Sprintf("not understood: %s [%s:%d]", u.Reason, d.File, u.Object.Line))
	}
	return refs
}

// ImageNames gives every pinned repository its name in keys: the last part
// where that is unique, else the whole repository; a second digest of the same
// repository adds the digest, whole: two that begin alike are two images.
func ImageNames(pins []deployment.ImagePin) map[string]string {
	repos := map[string]map[string]bool{} // last part -> repositories
	digests := map[string]map[digest.Digest]bool{}
	full := func(r deployment.ImageRef) string { return r.Registry + "/" + r.Repository }
	for _, p := range pins {
		if !p.Pinned {
			continue
		}
		f := full(p.Ref)
		if repos[p.Ref.Name] == nil {
			repos[p.Ref.Name] = map[string]bool{}
		}
		repos[p.Ref.Name][f] = true
		if digests[f] == nil {
			digests[f] = map[digest.Digest]bool{}
		}
		digests[f][p.Ref.Digest] = true
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
			name += "@" + p.Ref.Digest.Hex()
		}
		names[f+"@"+p.Ref.Digest.String()] = name
	}
	return names
}

// ImageKey is the key of a pinned image; names are those of ImageNames.
func ImageKey(names map[string]string, r deployment.ImageRef) pipeline.Key {
	return pipeline.NewKey("image", names[r.Registry+"/"+r.Repository+"@"+r.Digest.String()], "manifest")
}

// ImageReferences lists every pinned image once, at its first place.
func ImageReferences(d *deployment.Deployment) []pipeline.Reference {
	pins := d.Images()
	names := ImageNames(pins)
	uses := map[pipeline.Key]int{}
	var refs []pipeline.Reference
	for _, p := range pins {
		if !p.Pinned {
			continue
		}
		key := ImageKey(names, p.Ref)
		uses[key]++
		if uses[key] > 1 {
			continue
		}
		refs = append(refs, pipeline.Reference{
			Key: key, Relation: pipeline.Equal, Want: pipeline.OfDigest(p.Ref.Digest), Where: pipeline.Where{File: d.File, Line: p.Ref.Line},
			Words: "image " + p.Ref.Registry + "/" + p.Ref.Repository,
		})
	}
	for i := range refs {
		refs[i].Words += fmt.Sprintf(" (%s)", show.Plural(uses[refs[i].Key], "container", "containers"))
	}
	return refs
}

// VendorRepository is where a repository's siblings live: its path without the
// last part.
func VendorRepository(r deployment.ImageRef) string {
	return r.Registry + "/" + path.Dir(r.Repository)
}

// FileReferences lists the files that start scripts check by their hash. The
// published material does not hold them, so they stay unchecked.
func FileReferences(d *deployment.Deployment) []pipeline.Reference {
	checks := d.FileChecks()
	byFile := map[string][]digest.Digest{}
	for _, c := range checks {
		if base := path.Base(c.File); !c.Expected.IsZero() && !slices.Contains(byFile[base], c.Expected) {
			byFile[base] = append(byFile[base], c.Expected)
		}
	}
	seen := map[pipeline.Key]bool{}
	var refs []pipeline.Reference
	for _, c := range checks {
		if c.Expected.IsZero() {
			continue
		}
		base := path.Base(c.File)
		if len(byFile[base]) > 1 {
			base += "@" + c.Expected.Hex()
		}
		key := pipeline.NewKey("file", base, c.Expected.Algorithm().String())
		if seen[key] {
			continue
		}
		seen[key] = true
		from := ""
		if c.ConfigMap != "" {
			from = ", mounted from ConfigMap " + c.ConfigMap
		}
		refs = append(refs, pipeline.Reference{
			Key: key, Relation: pipeline.Equal, Want: pipeline.OfDigest(c.Expected), Where: pipeline.Where{File: d.File, Line: c.Line},
			Words: fmt.Sprintf("%s checked by %s at start%s", c.File, c.Workload, from),
			Note:  "bound by its hash, but its text is not published",
		})
	}
	return refs
}

// DiskName is how a disk is called where no models file names it.
func DiskName(p deployment.DiskPin) string {
	if p.Model != "" {
		return p.Model
	}
	_, name, _ := strings.Cut(p.Workload, "/")
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		name = name[i+1:]
	}
	return strings.Trim(name+"/"+p.Container, "/")
}

// DiskReferences lists every root hash that the deployment passes to a
// disk-mounter, once. byRoot gives the key of a published model by its root
// hash, nil where no models file is at hand.
func DiskReferences(d *deployment.Deployment, byRoot map[digest.Digest]pipeline.Key) []pipeline.Reference {
	var refs []pipeline.Reference
	seen := map[string]bool{}
	taken := map[pipeline.Key]bool{}
	for _, p := range d.Disks() {
		if p.RootHash.IsZero() || !p.Used {
			continue
		}
		key, known := byRoot[p.RootHash]
		if !known {
			key = pipeline.NewKey("disk", DiskName(p), "root")
			if taken[key] && !seen[string(key)+p.RootHash.String()] {
				key = pipeline.NewKey("disk", DiskName(p)+"@"+p.RootHash.Hex(), "root")
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
		refs = append(refs, pipeline.Reference{
			Key: key, Relation: pipeline.Equal, Want: pipeline.OfDigest(p.RootHash), Where: pipeline.Where{File: d.File, Line: p.Line},
			Words: fmt.Sprintf("disk %s of %s", DiskName(p), p.Workload), Note: note,
		})
	}
	return refs
}
