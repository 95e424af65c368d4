package imagehash

import (
	"fmt"

	"github.com/retally/retally/internal/digest"
)

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
		if !v.checkBlob(j, l, &n.findings) {
			continue
		}
		if _, _, known := layerType(l.mediaType); !known && n.artifact == "" && l.mediaType != "" {
			u := Unopened{Place: l.place, MediaType: clip(l.mediaType), Digest: l.digest, Why: unopened(l.mediaType)}
			if n.config != nil && i < len(n.config.diffIDs) {
				u.DiffID = n.config.diffIDs[i]
			}
			n.unopened = append(n.unopened, u)
			continue
		}
		if n.artifact != "" || !j.how.asLayer {
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
