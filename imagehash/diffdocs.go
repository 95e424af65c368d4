package imagehash

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
)

// config compares two configs and reports whether they differ beyond the
// layers' diffIDs.
func (x *differ) config(object []string, a, b *diffImage, pairs pairing) bool {
	real, _ := x.document(object, a.config, b.config, map[string]pairing{"/rootfs/diff_ids": pairs}, func(e edit) string {
		first, rest, _ := strings.Cut(strings.TrimPrefix(e.pointer, "/"), "/")
		switch first {
		case "rootfs":
			if strings.HasPrefix(rest, "diff_ids") {
				return "" // follows from the layers
			}
			return "rootfs"
		case "config", "container_config":
			second, _, _ := strings.Cut(rest, "/")
			return strings.TrimSuffix(first+"."+second, ".")
		case "history":
			if strings.HasSuffix(rest, "/created") {
				return "created"
			}
			return "history"
		}
		return first
	})
	return real
}

// manifest compares two manifests; digests and sizes follow from what they
// name.
func (x *differ) manifest(object []string, a, b *diffImage, pairs pairing) {
	x.document(object, a.manifest, b.manifest, map[string]pairing{"/layers": pairs}, func(e edit) string {
		parts := strings.Split(strings.TrimPrefix(e.pointer, "/"), "/")
		last := parts[len(parts)-1]
		switch {
		case parts[0] == "layers" && len(parts) == 2:
			return "" // a layer of one side alone, named already
		case parts[0] == "config" && len(parts) == 2 && (last == "digest" || last == "size" || last == "data"):
			return follows(a.configDigest != b.configDigest, parts)
		case parts[0] == "layers" && len(parts) == 3:
			i, _ := strconv.Atoi(parts[1])
			k := pairs.ofA(i)
			if i >= len(a.layers) || k < 0 {
				return strings.Join(parts, ".")
			}
			la, lb := a.layers[i], b.layers[k]
			switch last {
			case "digest", "size", "data":
				return follows(la.digest != lb.digest, parts)
			case "mediaType":
				if la.packing != lb.packing && baseType(e.a.text) == baseType(e.b.text) {
					return "" // follows from the format of compression
				}
				return "mediaType"
			}
			return last
		case last == "mediaType":
			return "mediaType"
		case slices.Contains(parts, "annotations"):
			return "annotations"
		}
		return parts[0]
	})
}

func follows(yes bool, parts []string) string {
	if yes {
		return ""
	}
	return strings.Join(parts, ".")
}

// baseType is a layer's media type without its compression.
func baseType(t string) string {
	for _, suffix := range []string{"+gzip", "+zstd", ".gzip", ".zstd"} {
		t = strings.TrimSuffix(t, suffix)
	}
	return t
}

// indexes compares two indexes member by member.
func (x *differ) indexes(path []string, a, b *node) error {
	object := append(slices.Clone(path), "index")
	ka, kb := memberKeys(a), memberKeys(b)
	pairs := pairByKey(ka, kb)
	several := len(ka) > 1 || len(kb) > 1
	for _, p := range pairs.list {
		kind, place := "platform", ""
		switch {
		case p.b < 0:
			place = ka[p.a]
			if isAttestation(a.doc.manifests[p.a]) {
				kind = "attestation"
			} else {
				x.same = false
			}
			x.add(object, leaf{kind: kind + "-only-in-a", place: place, a: a.doc.manifests[p.a].digest.String()})
			continue
		case p.a < 0:
			place = kb[p.b]
			if isAttestation(b.doc.manifests[p.b]) {
				kind = "attestation"
			} else {
				x.same = false
			}
			x.add(object, leaf{kind: kind + "-only-in-b", place: place, b: b.doc.manifests[p.b].digest.String()})
			continue
		}
		da, db := a.doc.manifests[p.a], b.doc.manifests[p.b]
		if da.digest == db.digest {
			continue
		}
		if isAttestation(da) && isAttestation(db) {
			x.add(object, leaf{kind: "attestation", place: ka[p.a], a: da.digest.String(), b: db.digest.String()})
			continue
		}
		na, nb := x.a.v.nodes[nodeKey{da.digest, da.mediaType}], x.b.v.nodes[nodeKey{db.digest, db.mediaType}]
		if na == nil || nb == nil || na.doc == nil || nb.doc == nil {
			return fmt.Errorf("member %s was not read", ka[p.a])
		}
		below := path
		if several {
			below = append(slices.Clone(path), ka[p.a])
		}
		if err := x.nodes(below, na, nb); err != nil {
			return err
		}
	}
	if !pairs.ordered() {
		x.add(object, leaf{kind: "manifest-order", note: "the same members in another order"})
	}
	x.document(object, a.raw, b.raw, map[string]pairing{"/manifests": pairs}, func(e edit) string {
		parts := strings.Split(strings.TrimPrefix(e.pointer, "/"), "/")
		last := parts[len(parts)-1]
		switch {
		case parts[0] == "manifests" && len(parts) == 2:
			return ""
		case parts[0] == "manifests" && len(parts) == 3 && (last == "digest" || last == "size" || last == "data"):
			return ""
		case last == jsondoc.EscapePointer(annotationReference):
			return "" // the subject of an attestation follows from its image
		case last == "mediaType":
			return "mediaType"
		case slices.Contains(parts, "annotations"):
			return "annotations"
		}
		return last
	})
	return nil
}

// memberKeys names the members of an index by platform and role.
func memberKeys(n *node) []string {
	var out []string
	subjects := map[string]string{}
	for _, d := range n.doc.manifests {
		subjects[d.digest.String()] = d.platform.String()
	}
	for i, d := range n.doc.manifests {
		key := d.platform.String()
		if isAttestation(d) {
			key = "attestation of " + subjects[d.annotations[annotationReference]]
		}
		if key == "" {
			key = fmt.Sprintf("member %d", i)
			if c := n.child(d.digest); c != nil && c.config != nil {
				key = c.config.platform.String()
			}
		}
		out = append(out, key)
	}
	return out
}

func (n *node) child(d digest.Digest) *node {
	for _, c := range n.children {
		if c.digest == d {
			return c
		}
	}
	return nil
}

// pairByKey pairs the first with the first of each key.
func pairByKey(a, b []string) pairing {
	at := map[string][]int{}
	for i, k := range b {
		at[k] = append(at[k], i)
	}
	var p pairing
	for i, k := range a {
		q := pair{i, -1}
		if len(at[k]) > 0 {
			q.b, at[k] = at[k][0], at[k][1:]
		}
		p.list = append(p.list, q)
	}
	for i, k := range b {
		if slices.Contains(at[k], i) {
			p.list = append(p.list, pair{-1, i})
		}
	}
	return p
}
