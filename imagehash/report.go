package imagehash

import (
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
)

// report assembles the findings by image.
func (v *verifier) report() *Report {
	r := &Report{
		Source: v.src.name, Kind: v.src.kind, Images: []Image{}, IndexJSON: v.indexJSON, Bytes: v.bytes,
		Problems: distinct(v.problems), Notes: distinct(v.notes),
	}
	for _, f := range v.families() {
		r.Images = append(r.Images, v.image(f.root, f.beside))
	}
	for _, d := range v.docker {
		if !d.hybrid {
			r.Images = append(r.Images, d.image(v.src.name))
		}
	}
	return r
}

func distinct(list []Problem) []Problem {
	out := []Problem{}
	seen := map[Problem]bool{}
	for _, p := range list {
		if !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out
}

// image assembles an image of its descriptor and of those that lie beside it and
// belong to it.
func (v *verifier) image(r *root, beside []*root) Image {
	image := Image{Source: v.src.name, Name: r.name, FullName: r.desc.annotations[annotationImageName], MediaType: r.desc.mediaType, Platforms: []Platform{}}
	all := r.findings
	image.Unread = append(image.Unread, r.unread...)
	if r.node != nil {
		image.Digest = r.node.digest
	}
	seen := map[*node]bool{}
	var walk func(n *node)
	walk = func(n *node) {
		if n == nil || seen[n] {
			return
		}
		seen[n] = true
		n.cover(&image)
		all.problems = append(all.problems, n.problems...)
		all.notes = append(all.notes, n.notes...)
		switch {
		case n.doc == nil:
		case n.doc.index:
			for _, c := range n.children {
				walk(c)
			}
		case n.artifact != "":
			image.Artifacts = append(image.Artifacts, n.asArtifact())
		default:
			image.Platforms = append(image.Platforms, n.asPlatform())
		}
	}
	walk(r.node)
	for _, b := range beside {
		all.problems = append(all.problems, b.problems...)
		all.notes = append(all.notes, b.notes...)
		walk(b.node)
	}
	image.Unread = append(image.Unread, v.unlisted(&image)...)
	for _, u := range image.Unread {
		image.Covered.Of += u.Size
	}
	image.Problems, image.Notes = distinct(all.problems), distinct(all.notes)
	return image
}

// cover counts what was read of a node, and lists what was not.
func (n *node) cover(image *Image) {
	read := n.size + n.configSize
	for _, j := range n.blobs {
		if j != nil && j.facts != nil {
			read += j.facts.size
		}
	}
	image.Covered.Bytes += read
	image.Covered.Of += read
	for _, u := range n.unread {
		if u.Platform == "" && n.config != nil {
			u.Platform = n.config.platform.String()
		}
		image.Unread = append(image.Unread, u)
	}
	for _, u := range n.unopened {
		if n.config != nil {
			u.Platform = n.config.platform.String()
		}
		image.Unopened = append(image.Unopened, u)
	}
}

// unlisted are the platforms that were asked for and that an image does not have.
func (v *verifier) unlisted(i *Image) (out []Unread) {
	if len(i.Artifacts) > 0 && len(i.Platforms)+len(i.Unread) == 0 {
		return nil // no image at all
	}
	for _, want := range v.opts.Platforms {
		has := func(name string) bool {
			var p platform
			p.os, p.architecture, _ = strings.Cut(name, "/")
			p.architecture, p.variant, _ = strings.Cut(p.architecture, "/")
			return p.fits(want)
		}
		if !slices.ContainsFunc(i.Platforms, func(p Platform) bool { return has(p.Platform) }) &&
			!slices.ContainsFunc(i.Unread, func(u Unread) bool { return has(u.Platform) }) {
			out = append(out, Unread{Part: "platform", Platform: clip(want), Why: "it was asked for, and the image has no such platform"})
		}
	}
	return out
}

// skippedLayers reports whether the caller left layers out.
func (n *node) skippedLayers() bool {
	return slices.ContainsFunc(n.unread, func(u Unread) bool { return u.Part == "layer" && u.Asked })
}

func (n *node) asArtifact() Artifact {
	a := Artifact{
		Kind: n.artifact, MediaType: n.desc.mediaType, Type: n.doc.artifactType, Digest: n.digest,
		Subject: n.doc.subject, Blobs: []digest.Digest{},
	}
	if ref, code := parseDigest(n.desc.annotations[annotationReference]); code == "" && a.Subject.IsZero() {
		a.Subject = ref
	}
	for _, l := range n.doc.layers {
		a.Blobs = append(a.Blobs, l.digest)
	}
	return a
}

func (n *node) asPlatform() Platform {
	p := Platform{MediaType: n.desc.mediaType, Digest: n.digest, Size: n.size, Config: n.configDigest, Layers: []Layer{}}
	if n.config != nil {
		p.Platform, p.RawConfig = n.config.platform.String(), n.config.raw
	}
	unread := map[string]bool{}
	for _, u := range n.unread {
		unread[u.Place] = true
	}
	for i, l := range n.doc.layers {
		layer := Layer{Digest: l.digest, Size: l.size, MediaType: l.mediaType, Unread: unread[l.place]}
		claimed := digest.Digest{}
		if n.config != nil && i < len(n.config.diffIDs) {
			claimed = n.config.diffIDs[i]
		}
		if j := n.blobs[i]; j != nil && j.facts != nil {
			layer.Digest, layer.Size = j.facts.digests[l.digest.Algorithm()], j.facts.size
			alg := digest.SHA256
			if !claimed.IsZero() {
				alg = claimed.Algorithm()
			}
			layer.DiffID = j.facts.diffIDs[alg]
			if _, _, known := layerType(l.mediaType); !known {
				// Of a form that is not unpacked only a diffID that is the
				// blob's own digest was recomputed.
				if layer.DiffID = (digest.Digest{}); claimed == layer.Digest {
					layer.DiffID = claimed
				}
			}
		} else if layer.Unread && !n.skippedLayers() {
			layer.DiffID = claimed // as unread as the rest
		}
		p.Layers = append(p.Layers, layer)
	}
	return p
}
