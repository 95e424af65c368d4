package imagehash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

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
	pool      *pool
	keepRaw   bool // for callers who look into documents afterwards

	roots  []*root
	nodes  map[nodeKey]*node
	order  []*node
	used   map[digest.Digest]bool // digests that a descriptor names
	jobs   map[string]*job
	queue  []*job
	docker []*dockerImage
}

type nodeKey struct {
	digest    digest.Digest
	mediaType string
}

// root is one descriptor of index.json, or the registry reference.
type root struct {
	findings
	name string
	desc descriptor
	node *node
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
	absent       []bool // foreign layers that are not here
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
	oci := f.names["oci-layout"] != nil || f.names["index.json"] != nil
	if oci || v.src.kind != DockerArchive {
		if err := v.layout(ctx); err != nil {
			return err
		}
	}
	if f.names["manifest.json"] != nil && v.src.kind != Layout || v.src.kind == DockerArchive {
		if err := v.dockerView(ctx, oci); err != nil {
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

// readUpTo reads at most limit bytes, and one more to show that there is more.
func readUpTo(r io.Reader, limit int64) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, limit+1))
}

// repeated looks for descriptors that name the same twice.
func (v *verifier) repeated(place string, list []descriptor, out *findings, refs bool) {
	seen := map[digest.Digest]string{}
	names := map[string]digest.Digest{}
	for _, d := range list {
		if d.digest.IsZero() {
			continue
		}
		if text, twice := seen[d.digest]; twice {
			code := "descriptor-repeated"
			if text == d.text {
				code = "descriptor-duplicate"
			}
			out.note(Problem{Code: code, Place: d.place, Found: d.digest.String()})
		} else {
			seen[d.digest] = d.text
		}
		name := d.annotations[annotationRefName]
		if !refs || name == "" {
			continue
		}
		if other, taken := names[name]; taken && other != d.digest {
			out.problem(Problem{Code: "ref-ambiguous", Place: place, Found: fmt.Sprintf("%q for %s and %s", clip(name), other, d.digest), Expected: "one digest for a name"})
		}
		names[name] = d.digest
	}
}

// attested checks that the attestations in an index are about its members.
func (v *verifier) attested(list []descriptor, out *findings) {
	members := map[string]bool{}
	for _, d := range list {
		members[d.digest.String()] = true
	}
	for _, d := range list {
		if !isAttestation(d) {
			continue
		}
		if subject := d.annotations[annotationReference]; !members[subject] {
			out.problem(Problem{Code: "attestation-orphan", Place: d.place, Found: clip(subject), Expected: "the digest of a member of the same index"})
		}
	}
}

func isAttestation(d descriptor) bool {
	return d.platform.unknown() && d.annotations[annotationReferenceType] == "attestation-manifest"
}

func (v *verifier) loadRoot(ctx context.Context, r *root) (err error) {
	if !v.wanted(r.desc.platform) {
		v.used[r.desc.digest] = true
		r.note(Problem{Code: "platform-skipped", Place: r.desc.place, Found: r.desc.platform.String()})
		return nil
	}
	r.node, err = v.load(ctx, r.desc, 1, &r.findings)
	if r.node != nil {
		v.checkPlatform(r.desc, r.node, &r.findings)
	}
	return err
}

// document reads the blob of a descriptor whole and checks it against the
// descriptor before anything looks into it (step 5). It returns the digest that
// the bytes really have, and the bytes only if that is the one wanted.
func (v *verifier) document(ctx context.Context, d descriptor, limit int64, tooBig string, out *findings) (data []byte, got digest.Digest, e *entry, err error) {
	if d.digest.IsZero() || d.size < 0 {
		return nil, got, nil, nil
	}
	v.used[d.digest] = true
	e, p := v.blobs.stat(d.digest)
	if p != nil {
		out.problem(*p)
		return nil, got, nil, nil
	}
	missing := Problem{Code: "blob-missing", Place: d.place, Found: "no " + blobName(d.digest), Expected: fmt.Sprintf("%d bytes", d.size)}
	if e == nil {
		out.problem(missing)
		return nil, got, nil, nil
	}
	if size := max(e.size, d.size); e.size > limit || e.size < 0 && size > limit {
		out.problem(Problem{Code: tooBig, Place: e.name, Found: fmt.Sprintf("%d bytes", size), Expected: fmt.Sprintf("at most %d", limit)})
		return nil, got, e, nil
	}
	r, err := v.blobs.open(ctx, e, d)
	if errors.Is(err, errBlobMissing) {
		out.problem(missing)
		return nil, got, e, nil
	}
	if err != nil {
		return nil, got, e, err
	}
	bound := limit
	if e.size < 0 {
		bound = d.size
	}
	data, err = readUpTo(r, bound)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, got, e, err
	}
	v.bytes += int64(len(data))
	got = d.digest.Algorithm().Sum(data)
	v.checkSize(d, int64(len(data)), e.size < 0, out)
	if got != d.digest {
		out.problem(Problem{Code: "digest-mismatch", Place: e.name, Found: got.String(), Expected: d.digest.String()})
		return nil, got, e, nil
	}
	if d.hasData && !bytes.Equal(d.data, data) {
		out.problem(Problem{Code: "data-mismatch", Place: d.place + "/data", Found: fmt.Sprintf("%d other bytes", len(d.data)), Expected: "the bytes of the blob"})
	}
	return data, got, e, nil
}

// checkSize compares a blob's length with the descriptor's. Of a stream that
// was cut off one byte behind the claim only that is known.
func (v *verifier) checkSize(d descriptor, got int64, cut bool, out *findings) {
	if got == d.size {
		return
	}
	found := fmt.Sprintf("%d bytes", got)
	if cut && got > d.size {
		found = fmt.Sprintf("more than %d bytes", d.size)
	}
	out.problem(Problem{Code: "size-mismatch", Place: d.place + "/size", Found: found, Expected: fmt.Sprintf("%d as the descriptor says", d.size)})
}

// load reads the index or manifest that a descriptor names, and all below it.
// Findings about the descriptor go to out, those about the document to the
// node. It returns nil if there is nothing to show for it.
func (v *verifier) load(ctx context.Context, d descriptor, depth int, out *findings) (*node, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !isIndexType(d.mediaType) && !isManifestType(d.mediaType) {
		out.problem(Problem{Code: "mediatype-unknown", Place: d.place + "/mediaType", Found: clip(d.mediaType), Expected: typeManifest + " or " + typeIndex})
		return nil, v.hashOnly(ctx, d, out)
	}
	if depth > v.limits.Depth {
		out.problem(Problem{Code: "limit-depth", Place: d.place, Found: "an index inside more indexes", Expected: fmt.Sprintf("at most %d levels", v.limits.Depth)})
		return nil, nil
	}
	key := nodeKey{d.digest, d.mediaType}
	if n := v.nodes[key]; n != nil {
		if n.digest == d.digest && d.size != n.size {
			v.checkSize(d, n.size, false, out)
		}
		if depth+n.height > v.limits.Depth {
			out.problem(Problem{Code: "limit-depth", Place: d.place, Found: fmt.Sprintf("%d levels of indexes", depth+n.height), Expected: fmt.Sprintf("at most %d", v.limits.Depth)})
		}
		return n, nil
	}
	if len(v.nodes) >= v.limits.Manifests {
		out.problem(Problem{Code: "limit-manifests", Place: d.place, Expected: fmt.Sprintf("at most %d different manifests", v.limits.Manifests)})
		return nil, nil
	}
	data, got, e, err := v.document(ctx, d, v.limits.Manifest, "limit-manifest-size", out)
	if err != nil || e == nil || got.IsZero() {
		return nil, err
	}
	n := &node{digest: got, size: int64(len(data)), place: e.name, desc: d}
	if data == nil {
		return n, nil
	}
	if v.keepRaw {
		n.raw = data
	}
	v.nodes[key] = n
	v.order = append(v.order, n)
	vw := view{e.name, &n.findings}
	doc := vw.parse(data, v.limits.Manifest)
	if doc == nil {
		return n, nil
	}
	if n.doc = vw.manifest(doc, d.mediaType); n.doc == nil {
		return n, nil
	}
	if strings.HasPrefix(d.mediaType, "application/vnd.docker.") {
		n.note(Problem{Code: "docker-mediatype", Place: e.name, Found: d.mediaType})
	}
	if n.doc.index {
		return n, v.loadMembers(ctx, n, depth)
	}
	return n, v.loadImage(ctx, n)
}

func (v *verifier) loadMembers(ctx context.Context, n *node, depth int) error {
	v.repeated(n.place, n.doc.manifests, &n.findings, false)
	v.attested(n.doc.manifests, &n.findings)
	skipped := map[string]bool{}
	for _, d := range n.doc.manifests {
		if !v.wanted(d.platform) {
			skipped[d.digest.String()] = true
		}
	}
	for _, d := range n.doc.manifests {
		if skipped[d.digest.String()] || isAttestation(d) && skipped[d.annotations[annotationReference]] {
			n.note(Problem{Code: "platform-skipped", Place: d.place, Found: d.platform.String()})
			v.used[d.digest] = true
			continue
		}
		child, err := v.load(ctx, d, depth+1, &n.findings)
		if err != nil {
			return err
		}
		if child == nil {
			continue
		}
		n.children = append(n.children, child)
		if child.doc != nil && child.doc.index {
			n.height = max(n.height, child.height+1)
		}
		v.checkPlatform(d, child, &n.findings)
	}
	return nil
}

// wanted applies Options.Platforms to a member of an index.
func (v *verifier) wanted(p platform) bool {
	if len(v.opts.Platforms) == 0 || !p.present || p.unknown() {
		return true
	}
	for _, want := range v.opts.Platforms {
		if want == p.String() || want == p.os+"/"+p.architecture {
			return true
		}
	}
	return false
}

// checkPlatform compares what a descriptor says with the config (step 8).
func (v *verifier) checkPlatform(d descriptor, n *node, out *findings) {
	c := n.config
	if c == nil || !d.platform.present || d.platform.unknown() || n.artifact != "" {
		return
	}
	p := d.platform
	same := p.os == c.platform.os && p.architecture == c.platform.architecture &&
		(p.variant == "" || c.platform.variant == "" || p.variant == c.platform.variant)
	if !same {
		out.problem(Problem{Code: "platform-mismatch", Place: d.place + "/platform", Found: p.String(), Expected: c.platform.String() + " as the config says"})
	}
}

var cosignTag = regexp.MustCompile(`^sha256-[0-9a-f]{64}\.(sig|att|sbom)$`)

// loadImage reads a manifest's config and queues its blobs (steps 8 and 9).
func (v *verifier) loadImage(ctx context.Context, n *node) error {
	m := n.doc
	tars := true
	cosign := cosignTag.MatchString(n.desc.annotations[annotationRefName])
	for _, l := range m.layers {
		if _, _, ok := layerType(l.mediaType); !ok {
			tars = false
		}
		cosign = cosign || l.mediaType == typeCosign
	}
	attestation := isAttestation(n.desc)
	// What can run as an image is checked as one, whatever it is called: a
	// label must not switch the check of the layers off.
	image := isConfigType(m.config.mediaType) && tars && (len(m.layers) > 0 || !attestation)
	switch {
	case attestation:
		n.artifact = "attestation-manifest"
	case cosign:
		n.artifact = "cosign-signature-manifest"
	case m.artifactType != "", !isConfigType(m.config.mediaType):
		n.artifact = "artifact-manifest"
	}
	if n.artifact != "" {
		n.note(Problem{Code: n.artifact, Place: n.place, Found: clip(m.artifactType)})
	}
	if image {
		n.artifact = ""
	}
	if n.artifact != "" {
		if err := v.hashOnly(ctx, m.config, &n.findings); err != nil {
			return err
		}
	} else if err := v.loadConfig(ctx, n); err != nil {
		return err
	}
	for i, l := range m.layers {
		if err := v.loadLayer(ctx, n, i, l); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) loadConfig(ctx context.Context, n *node) error {
	data, got, e, err := v.document(ctx, n.doc.config, v.limits.Config, "limit-config-size", &n.findings)
	n.configDigest = got
	if err != nil || data == nil {
		return err
	}
	vw := view{e.name, &n.findings}
	doc := vw.parse(data, v.limits.Config)
	if doc == nil {
		return nil
	}
	if n.config = vw.config(doc); n.config == nil {
		return nil
	}
	n.config.raw = data
	if got, want := len(n.config.diffIDs), len(n.doc.layers); got != want {
		n.problem(Problem{Code: "rootfs-count", Place: vw.at("/rootfs/diff_ids"), Found: fmt.Sprintf("%d diffIDs", got), Expected: fmt.Sprintf("%d, one for each layer", want)})
	}
	v.checkHistory(n.config, len(n.doc.layers), vw, &n.findings)
	return nil
}

func (v *verifier) checkHistory(c *configDoc, layers int, vw view, out *findings) {
	if c.hasHist && c.history != layers {
		out.note(Problem{Code: "history-count", Place: vw.at("/history"), Found: fmt.Sprintf("%d entries with a layer", c.history), Expected: fmt.Sprint(layers)})
	}
}

func (v *verifier) loadLayer(_ context.Context, n *node, i int, l descriptor) error {
	n.blobs = append(n.blobs, nil)
	n.absent = append(n.absent, false)
	pack, foreign, known := layerType(l.mediaType)
	asLayer := known && n.artifact == ""
	if n.artifact == "" {
		switch {
		case !known:
			n.problem(Problem{Code: "mediatype-unknown", Place: l.place + "/mediaType", Found: clip(l.mediaType), Expected: "a layer type of OCI or Docker"})
		case pack == packPlain:
			n.note(Problem{Code: "layer-uncompressed", Place: l.place})
		}
	}
	if l.digest.IsZero() || l.size < 0 {
		return nil
	}
	v.used[l.digest] = true
	e, p := v.blobs.stat(l.digest)
	if p != nil {
		n.problem(*p)
		return nil
	}
	if e == nil || foreign && v.src.reg != nil {
		if foreign && l.urls > 0 {
			n.absent[i] = true
			n.note(Problem{Code: "nondistributable-absent", Place: l.place, Found: "no " + blobName(l.digest), Detail: "its digest and diffID were not recomputed"})
			return nil
		}
		if e == nil {
			n.problem(Problem{Code: "blob-missing", Place: l.place, Found: "no " + blobName(l.digest), Expected: fmt.Sprintf("%d bytes", l.size)})
			return nil
		}
	}
	diff := digest.SHA256
	if n.config != nil && i < len(n.config.diffIDs) && !n.config.diffIDs[i].IsZero() {
		diff = n.config.diffIDs[i].Algorithm()
	}
	if v.opts.SkipLayers {
		if i == 0 {
			n.note(Problem{Code: "layers-not-read", Place: n.place})
		}
		return nil
	}
	j := v.want(e, l, setOf(l.digest.Algorithm()))
	if asLayer {
		j.how.asLayer = true
		j.how.diff |= setOf(diff)
	}
	n.blobs[i] = j
	return nil
}

// hashOnly checks a blob whose content means nothing here.
func (v *verifier) hashOnly(_ context.Context, d descriptor, out *findings) error {
	if d.digest.IsZero() || d.size < 0 {
		return nil
	}
	v.used[d.digest] = true
	e, p := v.blobs.stat(d.digest)
	switch {
	case p != nil:
		out.problem(*p)
	case e == nil:
		out.problem(Problem{Code: "blob-missing", Place: d.place, Found: "no " + blobName(d.digest), Expected: fmt.Sprintf("%d bytes", d.size)})
	default:
		j := v.want(e, d, setOf(d.digest.Algorithm()))
		j.then = append(j.then, func() { v.checkBlob(j, d, out) })
	}
	return nil
}

// checkBlob compares what was read with a descriptor and reports whether it is
// the blob that is meant.
func (v *verifier) checkBlob(j *job, d descriptor, out *findings) bool {
	if j.facts == nil {
		out.problem(Problem{Code: "blob-missing", Place: d.place, Found: "no " + blobName(d.digest), Expected: fmt.Sprintf("%d bytes", d.size)})
		return false
	}
	v.checkSize(d, j.facts.size, j.entry.size < 0, out)
	got := j.facts.digests[d.digest.Algorithm()]
	if d.hasData && d.digest.Algorithm().Sum(d.data) != got {
		out.problem(Problem{Code: "data-mismatch", Place: d.place + "/data", Found: d.digest.Algorithm().Sum(d.data).String(), Expected: got.String()})
	}
	if got != d.digest {
		out.problem(Problem{Code: "digest-mismatch", Place: j.entry.name, Found: got.String(), Expected: d.digest.String()})
		return false
	}
	return true
}

// checkBlobs judges the layers of a manifest once they are read.
func (v *verifier) checkBlobs(n *node) {
	for i, j := range n.blobs {
		if j == nil {
			continue
		}
		l := n.doc.layers[i]
		if !v.checkBlob(j, l, &n.findings) || !j.how.asLayer {
			continue
		}
		if want, _, _ := layerType(l.mediaType); j.facts.size > 0 && j.facts.packing != want {
			n.problem(Problem{Code: "layer-compression-mismatch", Place: j.entry.name, Found: j.facts.packing.String(), Expected: want.String() + " as the media type says"})
			continue
		}
		diffID := digest.Digest{}
		if n.config != nil && i < len(n.config.diffIDs) {
			diffID = n.config.diffIDs[i]
		}
		v.checkContent(j, diffID, &n.findings)
	}
}

// checkContent adds the findings of a layer's content and compares its diffID.
func (v *verifier) checkContent(j *job, want digest.Digest, out *findings) {
	for _, p := range j.facts.problems {
		p.Place = j.entry.name + p.Place
		out.problem(p)
	}
	for _, p := range j.facts.notes {
		p.Place = j.entry.name + p.Place
		out.note(p)
	}
	if want.IsZero() || j.facts.diffIDs == nil {
		return
	}
	if got := j.facts.diffIDs[want.Algorithm()]; got != want {
		out.problem(Problem{Code: "diffid-mismatch", Place: j.entry.name, Found: got.String(), Expected: want.String() + " as the config says"})
	}
}
