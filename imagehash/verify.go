package imagehash

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
)

// blobSource is where the blobs of descriptors come from.
type blobSource interface {
	// stat returns the file that holds a blob, nil if there is none, or the
	// problem with it. Its size is -1 where only reading tells.
	stat(d digest.Digest) (*entry, *Problem)
	// open reads it. errBlobMissing says that there is no such blob after
	// all.
	open(ctx context.Context, e *entry, d descriptor) (io.ReadCloser, error)
}

var errBlobMissing = errors.New("no such blob")

func (f *files) stat(d digest.Digest) (*entry, *Problem) { return f.find(blobName(d)) }

// fileBlobs makes a set of files a blobSource.
type fileBlobs struct{ *files }

func (b fileBlobs) open(ctx context.Context, e *entry, _ descriptor) (io.ReadCloser, error) {
	return b.files.open(ctx, e)
}

// Verify reads every byte of a source and recomputes every digest. The error
// is non-nil only if nothing could be concluded.
func Verify(ctx context.Context, src *Source, opts Options) (*Report, error) {
	v := newVerifier(src, opts)
	if err := v.verify(ctx); err != nil {
		return nil, fmt.Errorf("verify %s: %w", src.name, err)
	}
	return v.report(), nil
}

// VerifyRef opens what ref names, verifies it and closes it.
func VerifyRef(ctx context.Context, ref string, opts Options) (*Report, error) {
	src, err := Open(ctx, ref, opts)
	if err != nil {
		return nil, err
	}
	r, err := Verify(ctx, src, opts)
	return r, errors.Join(err, src.Close())
}

type verifier struct {
	src    *Source
	opts   Options
	limits Limits
	blobs  blobSource
	findings
	indexJSON digest.Digest
	bytes     int64
	documents int64 // bytes of documents read
	pool      *pool
	keepRaw   bool // for callers who look into documents afterwards

	roots  []*root
	nodes  map[nodeKey]*node
	order  []*node
	used   map[digest.Digest]bool // digests that a descriptor names
	jobs   map[string]*job
	queue  []*job
	docker []*dockerImage
	// noIndex: index.json of an archive lists no image, its docker view does.
	noIndex bool
}

type nodeKey struct {
	digest    digest.Digest
	mediaType string
}

// root is one descriptor of index.json, or the registry reference.
type root struct {
	findings
	name   string
	desc   descriptor
	node   *node
	unread []Unread
}

// node is one index or manifest, loaded once however often it is named.
type node struct {
	findings
	digest   digest.Digest // recomputed
	raw      []byte        // the document, if verifier.keepRaw
	size     int64
	place    string
	desc     descriptor // through which it was loaded
	doc      *manifestDoc
	children []*node
	height   int // of the tree of indexes below; 0 for a manifest

	artifact     string // note code; "" for an image or index
	config       *configDoc
	configDigest digest.Digest
	blobs        []*job // of the layers, nil where a blob is absent
	unread       []Unread
	unopened     []Unopened
	configSize   int64
}

func newVerifier(src *Source, opts Options) *verifier {
	v := &verifier{
		src: src, opts: opts, limits: opts.Limits.orDefault(),
		nodes: map[nodeKey]*node{}, used: map[digest.Digest]bool{}, jobs: map[string]*job{}, pool: &pool{},
	}
	if src.reg != nil {
		v.blobs = src.reg
	} else {
		v.blobs = fileBlobs{src.files}
	}
	return v
}

func (v *verifier) verify(ctx context.Context) error {
	if v.src.reg != nil {
		d := v.src.reg.root
		r := &root{name: v.src.reg.name, desc: d}
		for _, n := range v.src.reg.notes {
			r.note(n)
		}
		v.roots = append(v.roots, r)
		if err := v.loadRoot(ctx, r); err != nil {
			return err
		}
		return v.finish(ctx)
	}
	f := v.src.files
	v.problems = append(v.problems, f.problems...)
	v.notes = append(v.notes, f.notes...)
	for _, p := range f.problems {
		if p.Code == "entry-duplicate" {
			return nil // which of the two is meant nobody knows
		}
	}
	if v.src.kind == SkopeoDir {
		if err := v.skopeoDir(ctx); err != nil {
			return err
		}
		return v.finish(ctx)
	}
	oci := f.names["oci-layout"] != nil || f.names["index.json"] != nil
	if oci || v.src.kind != DockerArchive {
		if err := v.layout(ctx); err != nil {
			return err
		}
	}
	if f.names["manifest.json"] != nil && v.src.kind != Layout || v.src.kind == DockerArchive {
		if err := v.dockerView(ctx, oci && !v.noIndex); err != nil {
			return err
		}
	}
	return v.finish(ctx)
}

func (v *verifier) finish(ctx context.Context) error {
	if v.src.files != nil {
		if err := v.leftovers(); err != nil {
			return err
		}
	}
	if err := v.runJobs(ctx); err != nil {
		return err
	}
	for _, n := range v.order {
		v.checkBlobs(n)
	}
	v.checkDocker()
	return nil
}

// layout reads oci-layout and index.json (steps 2 to 4).
func (v *verifier) layout(ctx context.Context) error {
	if err := v.layoutVersion(ctx); err != nil {
		return err
	}
	data, err := v.file(ctx, "index.json", "index-missing", v.limits.Manifest, "limit-manifest-size")
	if err != nil || data == nil {
		return err
	}
	v.indexJSON = digest.SHA256.Sum(data)
	vw := view{"index.json", &v.findings}
	doc := vw.parse(data, v.limits.Manifest)
	if doc == nil {
		return nil
	}
	if doc.Kind == jsondoc.Object && v.src.kind != Layout && v.src.files.names["manifest.json"] != nil {
		if list := doc.Get("manifests"); list.IsNull() || list.Kind == jsondoc.Array && len(list.Elems) == 0 {
			return v.emptyIndex(vw, doc, list)
		}
	}
	index := vw.manifest(doc, "")
	if index == nil {
		return nil
	}
	v.repeated("index.json", index.manifests, &v.findings, true)
	for _, d := range index.manifests {
		r := &root{name: d.annotations[annotationRefName], desc: d}
		v.roots = append(v.roots, r)
		if err := v.loadRoot(ctx, r); err != nil {
			return err
		}
	}
	v.attested(index.manifests, &v.findings)
	return nil
}

// emptyIndex is an index.json without images beside a docker view: docker 25.0.0
// wrote it where an image was saved by its digest. The archive is then one of the
// docker kind.
func (v *verifier) emptyIndex(vw view, doc, list *jsondoc.Value) error {
	var own findings
	view{vw.place, &own}.manifest(doc, "")
	for _, p := range own.problems {
		if p.Code != "index-empty" {
			v.problem(p)
		}
	}
	v.noIndex = true
	v.note(Problem{Code: "index-null", Place: vw.at("/manifests"), Found: describe(list), Expected: "the images of manifest.json", Detail: "a defect of docker save 25.0.0: the OCI side of the archive names no image"})
	return nil
}

func (v *verifier) layoutVersion(ctx context.Context) error {
	data, err := v.file(ctx, "oci-layout", "layout-missing", 64<<10, "json-invalid")
	if err != nil || data == nil {
		return err
	}
	vw := view{"oci-layout", &v.findings}
	doc := vw.parse(data, 64<<10)
	if doc == nil || !vw.object("", doc, "imageLayoutVersion") {
		return nil
	}
	if version := doc.Get("imageLayoutVersion"); version == nil || version.Kind != jsondoc.String || version.Text != "1.0.0" {
		v.problem(Problem{Code: "layout-version", Place: "oci-layout:/imageLayoutVersion", Found: describe(version), Expected: "1.0.0"})
	}
	return nil
}

// file reads a named document whole. Without one it records the problem code
// missing and returns nil.
func (v *verifier) file(ctx context.Context, name, missing string, limit int64, tooBig string) ([]byte, error) {
	e, p := v.src.files.find(name)
	switch {
	case p != nil:
		v.problem(*p)
		return nil, nil
	case e == nil:
		v.problem(Problem{Code: missing, Place: name, Found: "nothing", Expected: "a file"})
		return nil, nil
	case e.size > limit:
		v.problem(Problem{Code: tooBig, Place: name, Found: fmt.Sprintf("%d bytes", e.size), Expected: fmt.Sprintf("at most %d", limit)})
		return nil, nil
	}
	r, err := v.src.files.open(ctx, e)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := readUpTo(r, limit)
	v.bytes += int64(len(data))
	if data == nil {
		data = []byte{}
	}
	return data, err
}

func (v *verifier) loadRoot(ctx context.Context, r *root) (err error) {
	if !v.wanted(r.desc.platform) {
		v.used[r.desc.digest] = true
		r.note(Problem{Code: "platform-skipped", Place: r.desc.place, Found: r.desc.platform.String()})
		r.unread = append(r.unread, skippedPlatform(r.desc))
		return nil
	}
	r.node, err = v.load(ctx, r.desc, 1, &r.findings)
	if r.node != nil {
		v.checkPlatform(r.desc, r.node, &r.findings)
	}
	return err
}
