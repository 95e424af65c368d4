package imagehash

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
)

// family is an image with the descriptors of index.json that are no images of
// their own: members of an index that is listed itself (oras copy -r lists them
// once more), and what is about the image (referrers, signatures).
type family struct {
	root   *root
	beside []*root
}

// referrerTag is the name under which registries without the referrers API keep
// what refers to a digest (OCI distribution-spec, "Referrers Tag Schema"), and
// cosign's names, which end in a suffix.
var referrerTag = regexp.MustCompile(`^sha256-([0-9a-f]{64})(\.[a-z]+)?$`)

// families tells which descriptors of index.json are images.
func (v *verifier) families() []family {
	holder := map[digest.Digest]int{} // the first image below which a digest is
	listed := map[digest.Digest]int{}
	seen := map[*node]bool{}
	for i, r := range v.roots {
		r.node.collect(i, holder, seen)
		if _, twice := listed[r.desc.digest]; !twice {
			listed[r.desc.digest] = i
		}
	}
	owner := make([]int, len(v.roots))
	for i, r := range v.roots {
		owner[i] = i
		if k, ok := holder[r.desc.digest]; ok && r.unnamed() {
			owner[i] = k
			continue
		}
		about := r.subject()
		if k, ok := listed[about]; ok && !about.IsZero() {
			owner[i] = k
		} else if k, ok := holder[about]; ok && !about.IsZero() {
			owner[i] = k
		}
	}
	var out []family
	at := map[int]int{}
	top := func(i int) int {
		for range len(owner) { // a referrer of a referrer; a ring ends nowhere
			if owner[i] == i {
				return i
			}
			i = owner[i]
		}
		return -1
	}
	for i, r := range v.roots {
		if t := top(i); t == i || t < 0 {
			at[i] = len(out)
			out = append(out, family{root: r})
		}
	}
	for i, r := range v.roots {
		if t := top(i); t != i && t >= 0 {
			f := &out[at[t]]
			f.beside = append(f.beside, r)
		}
	}
	return out
}

// collect says of what the indexes at and below a node name that it belongs to
// image i, unless it is another's already.
func (n *node) collect(i int, holder map[digest.Digest]int, seen map[*node]bool) {
	if n == nil || n.doc == nil || seen[n] {
		return
	}
	seen[n] = true
	for _, d := range n.doc.manifests {
		if _, taken := holder[d.digest]; !taken {
			holder[d.digest] = i
		}
	}
	for _, c := range n.children {
		c.collect(i, holder, seen)
	}
}

func (r *root) unnamed() bool {
	return r.name == "" && r.desc.annotations[annotationImageName] == ""
}

// subject is the digest that a descriptor of index.json is about, if it is no
// image: that of an artifact's subject, or the one in the name of a signature or
// of a list of referrers.
func (r *root) subject() digest.Digest {
	if r.node == nil || r.node.doc == nil {
		return digest.Digest{}
	}
	if len(r.node.images(nil)) > 0 {
		return digest.Digest{} // whatever it is called, it can run
	}
	if r.node.artifact != "" && !r.node.doc.subject.IsZero() {
		return r.node.doc.subject
	}
	if m := referrerTag.FindStringSubmatch(r.name); m != nil {
		d, _ := parseDigest("sha256:" + m[1])
		return d
	}
	return digest.Digest{}
}

// Choose returns the image of a name, tag or digest; "" stands for the only one.
// Several names of one image are one image, and artifacts are only chosen by
// name or where there is nothing else.
func (r *Report) Choose(name string) (*Image, error) {
	var found []*Image
	for i := range r.Images {
		image := &r.Images[i]
		switch {
		case name != "" && !image.called(name):
		case len(found) > 0 && !image.Digest.IsZero() && found[0].Digest == image.Digest:
		default:
			found = append(found, image)
		}
	}
	if name == "" && len(found) > 1 {
		runs := slices.DeleteFunc(slices.Clone(found), (*Image).onlyArtifacts)
		if len(runs) == 1 {
			found = runs
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(r.Images) == 0:
		return nil, fmt.Errorf("%s holds no image", r.Source)
	case len(found) == 0:
		return nil, fmt.Errorf("%s holds no image %q; it holds %s", r.Source, clip(name), r.listed())
	}
	return nil, fmt.Errorf("%s holds %d images, name one of %s", r.Source, len(found), r.listed())
}

// called reports whether an image is meant by a name, a tag or a digest.
func (i *Image) called(name string) bool {
	return name == i.Name || name == i.FullName || !i.Digest.IsZero() && name == i.Digest.String() || slices.Contains(i.Tags, name) ||
		i.Digest.IsZero() && len(i.Platforms) == 1 && name == i.Platforms[0].Config.String()
}

func (i *Image) onlyArtifacts() bool {
	return len(i.Artifacts) > 0 && len(i.Platforms)+len(i.Unread)+len(i.Problems) == 0
}

// listed names the images of a report, each by what tells it from the others.
func (r *Report) listed() string {
	const most = 20
	var out []string
	for i := range r.Images {
		image := &r.Images[i]
		id := image.Digest
		if id.IsZero() && len(image.Platforms) > 0 {
			id = image.Platforms[0].Config
		}
		out = append(out, strings.TrimSpace(clip(image.Name)+" "+id.String()))
	}
	if n := len(out); n > most {
		out = append(out[:most], fmt.Sprintf("%d more", n-most))
	}
	return strings.Join(out, ", ")
}
