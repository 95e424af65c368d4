package privatemode

import (
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
)

// DigestKind says what an image digest is the hash of. The three are easily
// taken for each other, and only equal kinds may be compared.
type DigestKind string

// The kinds of digest that inspect prints.
const (
	KindConfig   DigestKind = "config"            // the image configuration
	KindManifest DigestKind = "manifest"          // the manifest of one platform
	KindIndex    DigestKind = "index"             // the index of several platforms
	KindTarget   DigestKind = "index or manifest" // what a registry was asked for: one of the two, not told which
	// KindUntold is that of an Id which stands alone: the digest of the index or
	// manifest in one image store, of the configuration in another.
	KindUntold DigestKind = "index, manifest or config"
)

// ImageDigest is a digest with its kind and place.
type ImageDigest struct {
	Kind   DigestKind
	Digest digest.Digest
	Field  string // where it stands: Id, Digest, Descriptor.digest, RepoDigests[0], …
	Line   int
}

// RepoDigest is one entry of RepoDigests: REPOSITORY@DIGEST.
type RepoDigest struct {
	Repository string
	ImageDigest
}

// InspectedImage is one image as docker or podman describes it.
type InspectedImage struct {
	Tool string // "docker" or "podman", by the shape; "" for the text form
	// ID is the configuration's digest in Docker's own image store and in
	// Podman; in Docker's containerd image store it is that of the index or
	// manifest.
	ID           ImageDigest
	RepoDigests  []RepoDigest
	RepoTags     []string
	DiffIDs      []digest.Digest // RootFS.Layers: uncompressed layers
	Architecture string
	OS           string
	Variant      string
	// Descriptor is the target of the image's name in the containerd image
	// store, with its media type; nil elsewhere.
	Descriptor *Descriptor
	// Digest is Podman's digest of the platform's manifest (or of the index
	// for a manifest list); zero elsewhere.
	Digest ImageDigest
	// Manifests are the platforms of an index, where docker was asked for them.
	Manifests []PlatformManifest
	// Untold: the digests stood in lines of their own, and whether these are of
	// one image nobody says.
	Untold bool
	Line   int
}

// Descriptor is an OCI content descriptor (image-spec, descriptor.md).
type Descriptor struct {
	MediaType string
	Digest    digest.Digest
	Size      uint64
	Line      int
}

// PlatformManifest is one manifest of an index.
type PlatformManifest struct {
	Descriptor Descriptor
	Kind       string // "image", "attestation", "unknown"
	Platform   string // os/architecture[/variant]
}

// Digests lists every digest of the image with its kind, once each.
func (i InspectedImage) Digests() []ImageDigest {
	var out []ImageDigest
	seen := map[digest.Digest]bool{}
	add := func(d ImageDigest) {
		if !d.Digest.IsZero() && !seen[d.Digest] {
			seen[d.Digest] = true
			out = append(out, d)
		}
	}
	if i.Descriptor != nil {
		add(ImageDigest{KindOf(i.Descriptor.MediaType), i.Descriptor.Digest, "Descriptor.digest", i.Descriptor.Line})
	}
	add(i.Digest)
	add(i.ID)
	for _, m := range i.Manifests {
		if m.Kind != "attestation" {
			add(ImageDigest{KindOf(m.Descriptor.MediaType), m.Descriptor.Digest, "Manifests.Descriptor.digest", m.Descriptor.Line})
		}
	}
	for _, r := range i.RepoDigests {
		add(r.ImageDigest)
	}
	return out
}

// KindOf names what a media type describes (image-spec, media-types.md, and
// Docker's schema 2).
func KindOf(mediaType string) DigestKind {
	switch mediaType {
	case "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json":
		return KindIndex
	case "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json":
		return KindManifest
	case "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json":
		return KindConfig
	}
	return KindTarget
}

const maxInspected = 10_000

// ParseInspect reads what `docker inspect IMAGE` or `podman inspect IMAGE`
// prints: an array of images, or one image. What --format prints of RepoDigests and
// of Id, as text or as JSON, the table of `docker images --digests` and the end of
// `docker pull` are read too. The error is Problems; images without fault are
// returned beside it.
func ParseInspect(file string, data []byte) ([]InspectedImage, error) {
	r := &inspectReader{file: file, data: data, lines: newLineIndex(data)}
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: 16 << 20})
	if err != nil {
		if images := r.textForms(); images != nil {
			return images, r.faults.err()
		}
		r.faults.add(jsonProblem(file, err))
		return nil, r.faults
	}
	if doc.Kind == jsondoc.String || doc.Kind == jsondoc.Array && len(doc.Elems) > 0 && doc.Elems[0].Kind == jsondoc.String {
		img, ok := r.value(doc, textLine{r.line(doc), ""})
		if !ok {
			if len(r.faults) == 0 {
				r.at(doc, "", "holds something else than REPOSITORY@sha256:<64 hex digits>")
			}
			return nil, r.faults
		}
		return []InspectedImage{img}, nil
	}
	elems := doc.Elems
	if doc.IsNull() {
		r.at(doc, "", "no digest: the image was built or loaded here, not pulled")
		return nil, r.faults
	}
	if doc.Kind == jsondoc.Object {
		elems = []*jsondoc.Value{doc}
	} else if doc.Kind != jsondoc.Array {
		r.at(doc, "", "is %s, want the array that docker inspect prints", doc.Kind)
		return nil, r.faults
	}
	if len(elems) == 0 {
		r.at(doc, "", "no image: docker inspect found none, or the image was built here and has no RepoDigests")
	}
	if len(elems) > maxInspected {
		r.at(doc, "", "%d images, the limit is %d", len(elems), maxInspected)
		return nil, r.faults
	}
	var out []InspectedImage
	for _, e := range elems {
		before := len(r.faults)
		if img, ok := r.image(e); ok && len(r.faults) == before {
			out = append(out, img)
		}
	}
	return out, r.faults.err()
}

type inspectReader struct {
	file   string
	data   []byte
	lines  lineIndex
	faults Problems
}

func (r *inspectReader) at(v *jsondoc.Value, path, format string, args ...any) {
	line, col := r.lines.at(v.Offset)
	r.faults.add(Problem{File: r.file, Line: line, Column: col, Path: path, Msg: fmt.Sprintf(format, args...)})
}

func (r *inspectReader) line(v *jsondoc.Value) int {
	line, _ := r.lines.at(v.Offset)
	return line
}

// text reads an optional string.
func (r *inspectReader) text(v *jsondoc.Value, key string) string {
	m := v.Get(key)
	if m.IsNull() {
		return ""
	}
	if m.Kind != jsondoc.String {
		r.at(m, key, "is %s, want a string", m.Kind)
		return ""
	}
	return m.Text
}

// list reads an optional array of strings.
func (r *inspectReader) list(v *jsondoc.Value, key string) []*jsondoc.Value {
	m := v.Get(key)
	if m.IsNull() {
		return nil
	}
	if m.Kind != jsondoc.Array {
		r.at(m, key, "is %s, want an array", m.Kind)
		return nil
	}
	var out []*jsondoc.Value
	for _, e := range m.Elems {
		if e.Kind != jsondoc.String {
			r.at(e, key, "has %s, want strings", e.Kind)
			continue
		}
		out = append(out, e)
	}
	return out
}

func (r *inspectReader) digest(v *jsondoc.Value, path, text string) digest.Digest {
	d, err := digest.Parse(text)
	if err == nil && d.String() != text {
		err = fmt.Errorf("digest %q has upper-case digits", clip(text))
	}
	if err != nil {
		r.at(v, path, "%v", err)
	}
	return d
}

func (r *inspectReader) image(v *jsondoc.Value) (InspectedImage, bool) {
	var img InspectedImage
	if v.Kind != jsondoc.Object {
		r.at(v, "", "is %s, want an image object", v.Kind)
		return img, false
	}
	if v.Get("RootFS") == nil && v.Get("State") != nil {
		name := r.text(v, "ImageName") // podman
		if c := v.Get("Config"); name == "" && !c.IsNull() && c.Kind == jsondoc.Object {
			name = r.text(c, "Image")
		}
		r.at(v, "", "is a container, not an image: it was made of %s (field Image: %s); its digests are those of docker image inspect %s", orUnnamed(clip(name)), orUnnamed(clip(r.text(v, "Image"))), orUnnamed(clip(name)))
		return img, false
	}
	id := v.Get("Id")
	if id.IsNull() || id.Kind != jsondoc.String {
		r.at(v, "Id", "missing: this is not what docker inspect prints for an image")
		return img, false
	}
	img = InspectedImage{
		Tool: "docker", Architecture: r.text(v, "Architecture"), OS: r.text(v, "Os"), Variant: r.text(v, "Variant"),
		Line: r.line(v),
	}
	idText := id.Text
	if !strings.Contains(idText, ":") {
		// Podman leaves the algorithm away.
		img.Tool, idText = "podman", "sha256:"+idText
	}
	img.ID = ImageDigest{KindConfig, r.digest(id, "Id", idText), "Id", r.line(id)}
	if !img.ID.Digest.IsZero() && !slices.ContainsFunc([]string{"RootFS", "RepoDigests", "RepoTags", "Digest", "Descriptor", "Architecture"}, func(key string) bool { return v.Get(key) != nil }) {
		r.at(v, "", "has nothing of an image: docker inspect prints networks, volumes and the like, too; want docker image inspect IMAGE")
		return img, false
	}
	if d := v.Get("Digest"); !d.IsNull() && r.text(v, "Digest") != "" {
		img.Tool = "podman"
		kind := KindTarget
		if mt := r.text(v, "ManifestType"); mt != "" {
			kind = KindOf(mt)
		}
		img.Digest = ImageDigest{kind, r.digest(d, "Digest", d.Text), "Digest", r.line(d)}
	}
	for _, t := range r.list(v, "RepoTags") {
		img.RepoTags = append(img.RepoTags, t.Text)
	}
	if fs := v.Get("RootFS"); !fs.IsNull() && fs.Kind == jsondoc.Object {
		for _, l := range r.list(fs, "Layers") {
			img.DiffIDs = append(img.DiffIDs, r.digest(l, "RootFS.Layers", l.Text))
		}
	}
	if d := v.Get("Descriptor"); !d.IsNull() {
		desc := r.descriptor(d, "Descriptor")
		img.Descriptor = &desc
	}
	r.manifests(v, &img)
	for i, e := range r.list(v, "RepoDigests") {
		field := fmt.Sprintf("RepoDigests[%d]", i)
		if rd, ok := r.repoDigest(e, field, e.Text); ok {
			rd.Line = r.line(e)
			img.RepoDigests = append(img.RepoDigests, rd)
		}
	}
	img.settleKinds()
	return img, true
}

func (r *inspectReader) descriptor(v *jsondoc.Value, path string) Descriptor {
	d := Descriptor{MediaType: r.text(v, "mediaType"), Line: r.line(v)}
	text := r.text(v, "digest")
	if m := v.Get("digest"); m != nil {
		d.Line = r.line(m)
	}
	d.Digest = r.digest(v, path+".digest", text)
	if size := v.Get("size"); !size.IsNull() {
		n, ok := size.Uint64()
		if !ok {
			r.at(size, path+".size", "is not a number of bytes")
		}
		d.Size = n
	}
	return d
}

func (r *inspectReader) manifests(v *jsondoc.Value, img *InspectedImage) {
	list := v.Get("Manifests")
	if list.IsNull() || list.Kind != jsondoc.Array {
		return
	}
	for _, e := range list.Elems {
		d := e.Get("Descriptor")
		if d.IsNull() {
			continue
		}
		m := PlatformManifest{Descriptor: r.descriptor(d, "Manifests.Descriptor"), Kind: r.text(e, "Kind")}
		p := d.Get("platform")
		if data := e.Get("ImageData"); !data.IsNull() && data.Get("Platform") != nil {
			p = data.Get("Platform")
		}
		if !p.IsNull() {
			m.Platform = r.text(p, "os") + "/" + r.text(p, "architecture")
			if variant := r.text(p, "variant"); variant != "" {
				m.Platform += "/" + variant
			}
		}
		img.Manifests = append(img.Manifests, m)
	}
}

func (r *inspectReader) repoDigest(at *jsondoc.Value, field, text string) (RepoDigest, bool) {
	repo, dig, ok := strings.Cut(text, "@")
	if !ok || repo == "" {
		r.at(at, field, "%q is not of the form REPOSITORY@sha256:<64 hex digits>", clip(text))
		return RepoDigest{}, false
	}
	d := r.digest(at, field, dig)
	return RepoDigest{repo, ImageDigest{Kind: KindTarget, Digest: d, Field: field}}, !d.IsZero()
}

// settleKinds tells the kinds apart by what else names the same digest.
func (i *InspectedImage) settleKinds() {
	kinds := map[digest.Digest]DigestKind{}
	if i.Descriptor != nil {
		kinds[i.Descriptor.Digest] = KindOf(i.Descriptor.MediaType)
	}
	if !i.Digest.Digest.IsZero() {
		kinds[i.Digest.Digest] = i.Digest.Kind
	}
	for _, m := range i.Manifests {
		kinds[m.Descriptor.Digest] = KindOf(m.Descriptor.MediaType)
	}
	if k, ok := kinds[i.ID.Digest]; ok {
		i.ID.Kind = k
	}
	for n, r := range i.RepoDigests {
		if k, ok := kinds[r.Digest]; ok {
			i.RepoDigests[n].Kind = k
		}
		if r.Digest == i.ID.Digest && i.ID.Kind == KindConfig {
			// No registry serves a configuration under a repository's digest:
			// this is the containerd image store without a descriptor.
			i.ID.Kind = KindTarget
		}
	}
}

// orUnnamed stands for an image whose name is not told.
func orUnnamed(name string) string {
	if name == "" {
		return "IMAGE"
	}
	return name
}
