package imagehash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/retally/retally/internal/digest"
)

// Entry is an image or index by which a source names what it holds.
type Entry struct {
	// Name is the annotation org.opencontainers.image.ref.name: a tag, a whole
	// reference, or empty. Of a registry it is the reference.
	Name string
	// FullName is the annotation io.containerd.image.name, mostly empty.
	FullName string
	// Digest is what the source claims; nothing was read.
	Digest    digest.Digest
	MediaType string
}

// Selection is one image of a source. Its config is verified up to the digest
// that selected it; its layers are neither read nor verified.
type Selection struct {
	Root         digest.Digest // of the entry: an index or a manifest
	Digest       digest.Digest // of the manifest
	ConfigDigest digest.Digest
	Config       []byte
	Layers       []Layer // bottom first, without DiffID
	Notes        []Problem
}

// SelectOptions say which image is wanted and how it is read.
type SelectOptions struct {
	Options
	// Digest names an entry or a direct member of an index that is one. Zero
	// stands for the only entry.
	Digest digest.Digest
	// Platform is os/architecture: of an index the first such member is taken,
	// whatever its variant.
	Platform string
	// Config, if not nil, is asked for every config in place of reading it; it
	// may keep what read gives.
	Config func(config digest.Digest, read func() ([]byte, error)) ([]byte, error)
}

// ErrNotHeld is wrapped by the error of Select where a source does not hold the
// digest that is asked for.
var ErrNotHeld = errors.New("not held")

// SelectError says what is wrong with the documents of an image.
type SelectError struct{ Problems []Problem }

func (e *SelectError) Error() string {
	p := e.Problems[0]
	s := p.Code + " at " + p.Place
	if p.Found != "" || p.Expected != "" {
		s += ": found " + orNothing(p.Found) + ", expected " + orNothing(p.Expected)
	}
	if p.Detail != "" {
		s += ": " + p.Detail
	}
	if n := len(e.Problems) - 1; n > 0 {
		s += fmt.Sprintf(" (and %d more)", n)
	}
	return s
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// Entries lists what a layout's index.json names, or the one reference of a
// registry. Archives of the docker save kind hold no manifests, so that they
// have none.
func (s *Source) Entries(ctx context.Context, opts Options) ([]Entry, error) {
	roots, _, err := s.roots(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.name, err)
	}
	var out []Entry
	for _, d := range roots {
		name := d.annotations[annotationRefName]
		if s.reg != nil {
			name = s.reg.name
		}
		out = append(out, Entry{Name: name, FullName: d.annotations[annotationImageName], Digest: d.digest, MediaType: d.mediaType})
	}
	return out, nil
}

// roots reads the descriptors of the entries.
func (s *Source) roots(ctx context.Context, opts Options) ([]descriptor, *verifier, error) {
	v := newVerifier(s, opts)
	if s.reg != nil {
		return []descriptor{s.reg.root}, v, nil
	}
	if len(s.files.problems) > 0 {
		return nil, nil, &SelectError{s.files.problems}
	}
	if s.kind == SkopeoDir {
		d, err := v.skopeoRoot(ctx)
		if err != nil {
			return nil, nil, err
		}
		if len(v.problems) > 0 || d == nil {
			return nil, nil, &SelectError{append(v.problems, Problem{Code: "manifest-missing", Place: "manifest.json"})}
		}
		return []descriptor{*d}, v, nil
	}
	data, err := v.file(ctx, "index.json", "index-missing", v.limits.Manifest, "limit-manifest-size")
	if err != nil {
		return nil, nil, err
	}
	if data == nil && s.kind == DockerArchive {
		return nil, nil, errors.New("an archive of the docker save kind holds no manifest; save it as an OCI layout (skopeo copy docker-archive:FILE oci:DIR)")
	}
	var roots []descriptor
	if data != nil {
		vw := view{"index.json", &v.findings}
		if doc := vw.parse(data, v.limits.Manifest); doc != nil {
			if m := vw.manifest(doc, ""); m != nil {
				roots = m.manifests
			}
		}
	}
	if len(v.problems) > 0 {
		return nil, nil, &SelectError{v.problems}
	}
	return roots, v, nil
}

// Select reads the documents of one image. Where they do not hold together the
// error is a *SelectError.
func (s *Source) Select(ctx context.Context, opts SelectOptions) (*Selection, error) {
	sel, err := s.selectImage(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.name, err)
	}
	return sel, nil
}

func (s *Source) selectImage(ctx context.Context, opts SelectOptions) (*Selection, error) {
	roots, v, err := s.roots(ctx, opts.Options)
	if err != nil {
		return nil, err
	}
	d, err := v.start(ctx, roots, opts.Digest)
	if err != nil {
		return nil, err
	}
	sel := &Selection{Root: d.digest}
	m, err := v.pick(ctx, d)
	if err != nil {
		return nil, err
	}
	if m.index {
		d, err = member(m, opts.Platform)
		if err != nil {
			return nil, err
		}
		if m, err = v.pick(ctx, d); err != nil {
			return nil, err
		}
		if m.index {
			return nil, fmt.Errorf("%s: an index inside an index; want the manifest of %s", d.place, opts.Platform)
		}
	}
	sel.Digest, sel.ConfigDigest = d.digest, m.config.digest
	for _, l := range m.layers {
		sel.Layers = append(sel.Layers, Layer{Digest: l.digest, Size: l.size, MediaType: l.mediaType})
	}
	read := func() ([]byte, error) {
		return v.selected(ctx, m.config, v.limits.Config, "limit-config-size")
	}
	if opts.Config != nil {
		sel.Config, err = opts.Config(m.config.digest, read)
	} else {
		sel.Config, err = read()
	}
	if err != nil {
		return nil, err
	}
	if s.reg != nil {
		sel.Notes = append(sel.Notes, s.reg.notes...)
	}
	return sel, nil
}

// start finds the descriptor of a digest.
func (v *verifier) start(ctx context.Context, roots []descriptor, want digest.Digest) (descriptor, error) {
	if v.src.reg != nil {
		return roots[0], nil // what was asked for, or an error when its bytes are hashed
	}
	if want.IsZero() {
		if len(roots) != 1 {
			return descriptor{}, fmt.Errorf("it holds %d images, name one by its digest", len(roots))
		}
		return roots[0], nil
	}
	for _, d := range roots {
		if d.digest == want {
			return d, nil
		}
	}
	for _, d := range roots {
		if !isIndexType(d.mediaType) {
			continue
		}
		m, err := v.pick(ctx, d)
		if err != nil {
			return descriptor{}, err
		}
		for _, inner := range m.manifests {
			if inner.digest == want {
				return inner, nil
			}
		}
	}
	return descriptor{}, fmt.Errorf("%s: %w", want, ErrNotHeld)
}

// pick reads an index or manifest strictly.
func (v *verifier) pick(ctx context.Context, d descriptor) (*manifestDoc, error) {
	if !isIndexType(d.mediaType) && !isManifestType(d.mediaType) {
		return nil, &SelectError{[]Problem{{Code: "mediatype-unknown", Place: d.place + "/mediaType", Found: clip(d.mediaType), Expected: typeManifest + " or " + typeIndex}}}
	}
	data, err := v.selected(ctx, d, v.limits.Manifest, "limit-manifest-size")
	if err != nil {
		return nil, err
	}
	vw := view{blobName(d.digest), &v.findings}
	var m *manifestDoc
	if doc := vw.parse(data, v.limits.Manifest); doc != nil {
		m = vw.manifest(doc, d.mediaType)
	}
	if len(v.problems) > 0 {
		return nil, &SelectError{v.problems}
	}
	return m, nil
}

// selected reads a document; whatever is wrong with it is the error.
func (v *verifier) selected(ctx context.Context, d descriptor, limit int64, tooBig string) ([]byte, error) {
	data, _, _, err := v.document(ctx, d, limit, tooBig, &v.findings)
	if err != nil {
		return nil, err
	}
	if len(v.problems) > 0 {
		return nil, &SelectError{v.problems}
	}
	if data == nil {
		return nil, &SelectError{[]Problem{{Code: "blob-missing", Place: d.place}}}
	}
	return data, nil
}

func member(m *manifestDoc, platform string) (descriptor, error) {
	var seen []string
	for _, d := range m.manifests {
		if n := d.platform.normal(); d.platform.present && n.os+"/"+n.architecture == platform {
			return d, nil
		}
		if p := d.platform.String(); p != "" && len(seen) < 20 {
			seen = append(seen, p)
		}
	}
	return descriptor{}, fmt.Errorf("the index has no entry for %s, only for %s", platform, orNothing(strings.Join(seen, ", ")))
}

// Holds reports whether Select finds a digest in a layout or archive.
func (s *Source) Holds(ctx context.Context, d digest.Digest, opts Options) (bool, error) {
	roots, v, err := s.roots(ctx, opts)
	if err == nil {
		_, err = v.start(ctx, roots, d)
	}
	if errors.Is(err, ErrNotHeld) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", s.name, err)
	}
	return s.reg == nil || roots[0].digest == d, nil
}

// OpenLayer reads a layer's blob as it is stored. Nothing is verified.
func (s *Source) OpenLayer(ctx context.Context, l Layer) (io.ReadCloser, error) {
	d := descriptor{mediaType: l.MediaType, digest: l.Digest, size: l.Size}
	var blobs blobSource = s.reg
	switch {
	case s.kind == SkopeoDir:
		blobs = dirBlobs{fileBlobs: fileBlobs{s.files}}
	case s.reg == nil:
		blobs = fileBlobs{s.files}
	}
	e, p := blobs.stat(l.Digest)
	switch {
	case p != nil:
		return nil, fmt.Errorf("read %s: %w", s.name, &SelectError{[]Problem{*p}})
	case e == nil:
		return nil, fmt.Errorf("read %s: no blob %s", s.name, blobName(l.Digest))
	}
	r, err := blobs.open(ctx, e, d)
	if errors.Is(err, errBlobMissing) {
		return nil, fmt.Errorf("read %s: no blob %s", s.name, l.Digest)
	}
	return r, err
}
