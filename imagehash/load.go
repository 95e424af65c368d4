package imagehash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
)

// readUpTo reads at most limit bytes, and one more to show that there is more.
func readUpTo(r io.Reader, limit int64) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, limit+1))
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
	if v.documents += max(e.size, d.size); v.documents > v.limits.Documents {
		out.problem(Problem{Code: "limit-documents", Place: e.name, Found: fmt.Sprintf("%d bytes of manifests and configs", v.documents), Expected: fmt.Sprintf("at most %d", v.limits.Documents)})
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
			n.unread = append(n.unread, skippedPlatform(d))
			v.used[d.digest] = true
			continue
		}
		if v.absent(d) {
			n.absent(d, v.src.kind, len(v.opts.Platforms) > 0)
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

func skippedPlatform(d descriptor) Unread {
	u := Unread{Part: "platform", Platform: d.platform.String(), Place: d.place, Digest: d.digest, Size: max(d.size, 0), Why: "left out by choice of platforms", Asked: true}
	if isAttestation(d) {
		u.Part, u.Platform = "attestation", ""
	}
	return u
}

// absent reports whether a member of an index is not in a layout or archive.
// Engines keep the whole index and the blobs of the platform that they pulled, and
// save just these. Nobody lies there: the bytes of the index are what its digest
// says, and the rest is not known.
func (v *verifier) absent(d descriptor) bool {
	if v.src.files == nil || d.digest.IsZero() || d.size < 0 || !isIndexType(d.mediaType) && !isManifestType(d.mediaType) {
		return false
	}
	e, p := v.blobs.stat(d.digest)
	return e == nil && p == nil
}

// absent records a member that is not there. Of an attestation nobody asked who
// asked for platforms.
func (n *node) absent(d descriptor, kind Kind, platforms bool) {
	where := "archive"
	if kind == Layout || kind == SkopeoDir {
		where = "folder"
	}
	u := Unread{Part: "platform", Platform: d.platform.String(), Place: d.place, Digest: d.digest, Size: d.size, Why: "not in this " + where}
	if isAttestation(d) {
		u.Part, u.Platform, u.Asked = "attestation", "", platforms
	}
	n.note(Problem{Code: "member-absent", Place: d.place, Found: "no " + blobName(d.digest), Detail: "the index names it and it is not in this " + where})
	n.unread = append(n.unread, u)
}

// wanted applies Options.Platforms to a member of an index.
func (v *verifier) wanted(p platform) bool {
	if len(v.opts.Platforms) == 0 || !p.present || p.unknown() {
		return true
	}
	return slices.ContainsFunc(v.opts.Platforms, p.fits)
}

// checkPlatform compares what a descriptor says with the config (step 8).
func (v *verifier) checkPlatform(d descriptor, n *node, out *findings) {
	c := n.config
	if c == nil || !d.platform.present || d.platform.unknown() || n.artifact != "" {
		return
	}
	p := d.platform
	switch {
	case p.same(c.platform):
	case p.normal().same(c.platform.normal()):
		out.note(Problem{Code: "platform-spelling", Place: d.place + "/platform", Found: p.String(), Expected: c.platform.String() + " as the config says", Detail: "two spellings of one platform"})
	default:
		out.problem(Problem{Code: "platform-mismatch", Place: d.place + "/platform", Found: p.String(), Expected: c.platform.String() + " as the config says"})
	}
}

var cosignTag = regexp.MustCompile(`^sha256-[0-9a-f]{64}\.(sig|att|sbom)$`)

// loadImage reads a manifest's config and queues its blobs (steps 8 and 9).
func (v *verifier) loadImage(ctx context.Context, n *node) error {
	m := n.doc
	runs := len(m.layers) == 0
	cosign := cosignTag.MatchString(n.desc.annotations[annotationRefName])
	for _, l := range m.layers {
		runs = runs || ofImage(l.mediaType)
		cosign = cosign || l.mediaType == typeCosign
	}
	attestation := isAttestation(n.desc)
	// What can run as an image is checked as one, whatever it is called: a
	// label must not switch the check of the layers off.
	image := isConfigType(m.config.mediaType) && runs && (len(m.layers) > 0 || !attestation)
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
	n.config.raw, n.configSize = data, int64(len(data))
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
	pack, foreign, known := layerType(l.mediaType)
	asLayer := known && n.artifact == ""
	if n.artifact == "" {
		switch {
		case l.mediaType == "":
			n.problem(Problem{Code: "mediatype-unknown", Place: l.place + "/mediaType", Found: "nothing", Expected: "a layer type of OCI or Docker"})
		case !known:
			n.note(Problem{Code: "layer-unopened", Place: l.place, Found: clip(l.mediaType), Detail: unopened(l.mediaType)})
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
			n.note(Problem{Code: "nondistributable-absent", Place: l.place, Found: "no " + blobName(l.digest), Detail: "its digest and diffID were not recomputed"})
			n.unread = append(n.unread, Unread{Part: "layer", Place: l.place, Digest: l.digest, Size: l.size, Why: "a layer that only its owner hands out, and it is not in the source"})
			if l.hasData && l.digest.Algorithm().Sum(l.data) != l.digest {
				n.problem(Problem{Code: "data-mismatch", Place: l.place + "/data", Found: l.digest.Algorithm().Sum(l.data).String(), Expected: l.digest.String()})
			}
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
		n.unread = append(n.unread, Unread{Part: "layer", Place: l.place, Digest: l.digest, Size: l.size, Why: "layers were left out", Asked: true})
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
