// Package imagehash recounts container images: every byte of a layout, an
// archive or a registry answer is read, every digest and size on the way from
// the index to the files in a layer is computed again, and what does not hold
// is named with its place. It also says why two images have different digests.
//
// # Identity
//
// The digest of an image is the hash of the exact bytes of its manifest or
// index (OCI image-spec, descriptor.md), never a value read from a field. An
// archive of the old docker save kind holds no manifest: its images are
// identified by config digest and diffIDs alone, and no digest is invented for
// them, since every tool that repacks them makes another one.
//
// # Verdict
//
// A [Report] is about one [Source]. A refused image is a value: its Problems
// are not empty. An error means that nothing could be concluded: the source
// cannot be read or is no image at all.
//
// # Limits
//
// Input is hostile. Nothing is extracted, memory does not grow with the size
// of layers, and all claims (sizes, counts, depths) are bounded by [Limits].
package imagehash

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/retally/retally/internal/digest"
)

// ErrNotImage is wrapped by errors about sources that are no image at all.
var ErrNotImage = errors.New("not a container image")

// Kind is the form of a source.
type Kind string

// The forms.
const (
	Layout        Kind = "oci-layout"     // folder with oci-layout and index.json
	LayoutArchive Kind = "oci-archive"    // tar of one, perhaps compressed
	DockerArchive Kind = "docker-archive" // what docker save writes
	SkopeoDir     Kind = "skopeo-dir"     // what skopeo copy ... dir:PATH writes
	Registry      Kind = "registry"
)

// Report is what was found in one source.
type Report struct {
	Source string `json:"source"` // as given
	Kind   Kind   `json:"kind"`
	// Images has one element per descriptor of index.json, per entry of a
	// docker manifest.json, or the one image a registry reference names.
	// What lies beside an image and is about it (the members of an index that
	// are listed once more, referrers) is part of that image's element.
	Images []Image `json:"images"`
	// Problems of the source as a whole: any of them refuses every image.
	Problems []Problem `json:"problems"`
	Notes    []Problem `json:"notes,omitempty"`
	// IndexJSON is the hash of a layout's index.json. It is no image digest:
	// it changes with a tag.
	IndexJSON digest.Digest `json:"indexJSON,omitzero"`
	Bytes     int64         `json:"bytes"` // read and hashed
}

// Image is one image or index. Its JSON form is that of "retally image digest".
type Image struct {
	Source string `json:"source"`
	Name   string `json:"name"` // ref.name annotation, tag or reference; may be empty
	// FullName is the annotation io.containerd.image.name: registry, repository
	// and tag, as engines write them into archives.
	FullName  string `json:"full_name,omitempty"`
	MediaType string `json:"mediaType,omitempty"`
	// Digest is recomputed. It is absent for docker archives without an OCI
	// layout, and where the blob is missing.
	Digest    digest.Digest `json:"digest,omitzero"`
	Tags      []string      `json:"tags,omitempty"` // of docker archives
	Platforms []Platform    `json:"platforms"`
	// Artifacts are manifests that are no images: attestations, signatures
	// and other artifacts.
	Artifacts []Artifact `json:"artifacts,omitempty"`
	// Unread is what the image consists of and nobody has read here. Nothing
	// is known of it but what the image claims.
	Unread []Unread `json:"unread,omitempty"`
	// Unopened are layers that were read and hashed and that nobody can unpack
	// here: what is in them is not known, and no diffID was recomputed.
	Unopened []Unopened `json:"unopened,omitempty"`
	Covered  Coverage   `json:"covered"`
	Problems []Problem  `json:"problems"`
	Notes    []Problem  `json:"notes,omitempty"`
}

// Unread is a part of an image whose bytes were not read.
type Unread struct {
	Part     string        `json:"part"`               // "layer", "platform" or "attestation"
	Platform string        `json:"platform,omitempty"` // that it belongs to
	Place    string        `json:"place"`              // of its descriptor
	Digest   digest.Digest `json:"digest,omitzero"`    // claimed
	Size     int64         `json:"size"`               // claimed, bytes; of a platform its manifest alone
	Why      string        `json:"why"`
	// Asked: the caller left it out (Options.Platforms, Options.SkipLayers).
	Asked bool `json:"asked,omitempty"`
}

// Unopened is a layer of a form that is not unpacked: encrypted, or another file
// system than a tar.
type Unopened struct {
	Platform  string        `json:"platform,omitempty"` // that it belongs to
	Place     string        `json:"place"`              // of its descriptor
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`          // of the blob, recomputed
	DiffID    digest.Digest `json:"diffID,omitzero"` // claimed by the config
	Why       string        `json:"why"`
}

// Coverage counts the bytes of an image's manifests, configs and blobs.
type Coverage struct {
	Bytes int64 `json:"bytes"` // read and hashed
	Of    int64 `json:"of"`    // there are, as far as what was read says
}

// Complete reports whether every byte of the image was read and every layer
// opened, but for what the caller left out.
func (i *Image) Complete() bool {
	if len(i.Unopened) > 0 {
		return false
	}
	for _, u := range i.Unread {
		if !u.Asked {
			return false
		}
	}
	return true
}

// Platform is one image manifest.
type Platform struct {
	Platform  string        `json:"platform"` // os/architecture[/variant], of the config
	MediaType string        `json:"mediaType,omitempty"`
	Digest    digest.Digest `json:"digest,omitzero"` // of the manifest
	Size      int64         `json:"size,omitempty"`  // of the manifest, bytes
	Config    digest.Digest `json:"config,omitzero"`
	Layers    []Layer       `json:"layers"`
	// RawConfig is the config document, verified; nil if that failed.
	RawConfig []byte `json:"-"`
}

// Layer is one layer of an image.
type Layer struct {
	Digest    digest.Digest `json:"digest,omitzero"` // of the blob; absent in docker archives
	DiffID    digest.Digest `json:"diffID,omitzero"` // of the uncompressed tar
	Size      int64         `json:"size"`            // of the blob, bytes
	MediaType string        `json:"mediaType,omitempty"`
	// Unread: the bytes were not read. Digest, DiffID and size are claims of
	// the manifest and the config, and nothing was recounted.
	Unread bool `json:"unread,omitempty"`
}

// Artifact is a manifest that is no image.
type Artifact struct {
	Kind      string          `json:"kind"` // the note's code: artifact-manifest, attestation-manifest, cosign-signature-manifest
	MediaType string          `json:"mediaType"`
	Type      string          `json:"artifactType,omitempty"`
	Digest    digest.Digest   `json:"digest"`
	Subject   digest.Digest   `json:"subject,omitzero"`
	Blobs     []digest.Digest `json:"blobs"`
}

// Problem is one finding. The documentation lists the codes (image-codes.md).
type Problem struct {
	Code     string `json:"code"`
	Place    string `json:"place"` // file in the source, then a JSON pointer, tar entry or byte offset
	Found    string `json:"found,omitempty"`
	Expected string `json:"expected,omitempty"`
	Detail   string `json:"detail,omitempty"`
}

// OK reports whether nothing refuses the source or any image in it.
func (r *Report) OK() bool {
	if len(r.Problems) > 0 {
		return false
	}
	for i := range r.Images {
		if len(r.Images[i].Problems) > 0 {
			return false
		}
	}
	return true
}

// Unchecked says in one line how much of images nobody has read; it is empty if
// that is nothing.
func Unchecked(images []Image) string {
	var covered Coverage
	var parts, layers, attestations, size, unopened int64
	for i := range images {
		covered.Bytes += images[i].Covered.Bytes
		covered.Of += images[i].Covered.Of
		for _, u := range images[i].Unread {
			switch parts++; u.Part {
			case "layer":
				layers++
			case "attestation":
				attestations++
			}
			size += u.Size
		}
		unopened += int64(len(images[i].Unopened))
	}
	closed := ""
	if unopened > 0 {
		closed = plural(unopened, "layer") + " read but never opened"
	}
	if parts == 0 {
		return closed
	}
	var what []string
	if layers > 0 {
		what = append(what, plural(layers, "layer"))
	}
	if n := parts - layers - attestations; n > 0 {
		what = append(what, plural(n, "platform"))
	}
	if attestations > 0 {
		what = append(what, plural(attestations, "attestation"))
	}
	s := fmt.Sprintf("%d of %d bytes covered; never read: %s of %d bytes", covered.Bytes, covered.Of, strings.Join(what, " and "), size)
	if closed != "" {
		s += "; " + closed
	}
	return s
}

func plural(n int64, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// Complete reports whether every byte of every image was read and every layer
// opened, but for what the caller left out. A report can be OK and not complete: what is there holds, and
// something is not there.
func (r *Report) Complete() bool {
	for i := range r.Images {
		if !r.Images[i].Complete() {
			return false
		}
	}
	return true
}

// AllProblems returns the problems of the source and of its images, each once.
func (r *Report) AllProblems() []Problem {
	return collect(r, r.Problems, func(i *Image) []Problem { return i.Problems })
}

// AllNotes returns the notes of the source and of its images, each once.
func (r *Report) AllNotes() []Problem {
	return collect(r, r.Notes, func(i *Image) []Problem { return i.Notes })
}

func collect(r *Report, own []Problem, of func(*Image) []Problem) []Problem {
	var out []Problem
	seen := make(map[Problem]bool)
	add := func(list []Problem) {
		for _, p := range list {
			if !seen[p] {
				seen[p] = true
				out = append(out, p)
			}
		}
	}
	add(own)
	for i := range r.Images {
		add(of(&r.Images[i]))
	}
	return out
}

// Rows returns the images in the form that "retally image digest" prints: the
// problems and notes of the source stand in every row, and a source without
// any image still has a row to carry them.
func (r *Report) Rows() []Image {
	if len(r.Images) == 0 {
		return []Image{{Source: r.Source, Platforms: []Platform{}, Problems: append([]Problem{}, r.Problems...), Notes: r.Notes}}
	}
	rows := make([]Image, len(r.Images))
	for i, image := range r.Images {
		image.Problems = append(append([]Problem{}, r.Problems...), image.Problems...)
		image.Notes = append(append([]Problem(nil), r.Notes...), image.Notes...)
		rows[i] = image
	}
	return rows
}

// Limits bound what a source may cost. A zero field means the default.
type Limits struct {
	Manifest  int64  // bytes of an index, manifest or docker manifest.json, default 4 MiB
	Config    int64  // bytes of a config, default 8 MiB
	Depth     int    // nesting of indexes, default 8
	Documents int64  // bytes of all indexes, manifests and configs together, default 32 MiB
	Manifests int    // different manifests in one source, default 10,000
	Entries   int    // files in a layout or archive, default 200,000
	Window    uint64 // zstd window in bytes, default 128 MiB, as libzstd has it
	// Expansion: uncompressed bytes may not pass Ratio times the compressed
	// ones plus Floor, nor Expanded. Defaults 1,100 (deflate itself ends at
	// 1,032; a file of zeros comes near), 64 MiB and 1 TiB.
	Ratio, Floor, Expanded int64
	// Gift is shared evenly by the blobs of a source and takes the place of
	// Floor where a share is more: zstd makes any number of zeros out of a few
	// bytes. Default 32 GiB.
	Gift int64
}

func (l Limits) orDefault() Limits {
	set := func(p *int64, v int64) {
		if *p <= 0 {
			*p = v
		}
	}
	set(&l.Manifest, 4<<20)
	set(&l.Config, 8<<20)
	set(&l.Documents, 32<<20)
	set(&l.Ratio, 1100)
	set(&l.Floor, 64<<20)
	set(&l.Expanded, 1<<40)
	set(&l.Gift, max(32<<30, l.Floor))
	if l.Depth <= 0 {
		l.Depth = 8
	}
	if l.Manifests <= 0 {
		l.Manifests = 10_000
	}
	if l.Entries <= 0 {
		l.Entries = 200_000
	}
	if l.Window == 0 {
		l.Window = 128 << 20
	}
	return l
}

// shared are the limits of each of n blobs.
func (l Limits) shared(n int) Limits {
	l.Floor = max(l.Floor, l.Gift/int64(max(n, 1)))
	return l
}

// expanded is the bound for a blob of size compressed bytes.
func (l Limits) expanded(size int64) int64 {
	if l.Floor >= l.Expanded || size > (l.Expanded-l.Floor)/l.Ratio {
		return l.Expanded
	}
	return min(l.Expanded, size*l.Ratio+l.Floor)
}

// Options steer reading and verifying.
type Options struct {
	Limits Limits
	// Workers is the number of layers read at a time, default the number of
	// processors, at most 8.
	Workers int
	// Platforms restricts which members of an index are verified, as
	// os/architecture[/variant]. Those left out are noted. Empty means all.
	Platforms []string
	// SkipLayers leaves layers unread, for callers who want configs. Every
	// image then has the note "layers-not-read".
	SkipLayers bool
	// Progress is counted up while reading, if not nil.
	Progress *Progress
	// Remote says how to reach registries.
	Remote Remote
}

// Progress counts bytes of blobs. It may be read at any time.
type Progress struct {
	done, total atomic.Int64
}

// Done returns the bytes read so far.
func (p *Progress) Done() int64 { return p.done.Load() }

// Total returns the bytes known to be read in all; it grows while manifests
// are found.
func (p *Progress) Total() int64 { return p.total.Load() }

func (p *Progress) add(n int64) {
	if p != nil {
		p.done.Add(n)
	}
}

func (p *Progress) expect(n int64) {
	if p != nil {
		p.total.Add(n)
	}
}
