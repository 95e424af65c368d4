package imagehash

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/proof"
	"github.com/retally/retally/internal/proof/jsonproof"
)

// naming says what the cause of a change in a document is called. Without a
// kind the change is none of its own: it follows from what is compared below,
// and follows is then the value that A must have.
type naming func(c jsonproof.Change) (kind, follows string)

// document compares two documents and makes A's again of B and what is
// reported. It reports whether more than the writing differs.
func (x *differ) document(object []string, a, b []byte, want digest.Digest, pairs map[string]pairing, name naming) (real bool) {
	da, err := jsonproof.Parse(a)
	db, err2 := jsonproof.Parse(b)
	if err != nil || err2 != nil {
		x.add(object, leaf{kind: "bytes", note: "not comparable as JSON"})
		x.settle(object, false)
		return true
	}
	opts := jsonproof.Options{Pairs: map[string][]jsonproof.Pair{}}
	for pointer, p := range pairs {
		opts.Pairs[pointer] = p.list
	}
	changes := jsonproof.Compare(da, db, opts)
	var edits []proof.Edit
	for _, c := range changes {
		edits = append(edits, c.Edit)
		l := leaf{place: c.Pointer, a: nodeText(c.NodeA), b: nodeText(c.NodeB)}
		if c.Form != "" {
			l.kind, l.a, l.b, l.note = "json-formatting", c.A.String(), c.B.String(), c.Form
			x.add(object, l)
			continue
		}
		kind, follows := name(c)
		if kind == "" && (c.A.Absent() || string(c.A.Bytes) == follows) {
			continue
		}
		if kind == "" {
			// It should follow and does not: it has a cause of its own.
			kind = memberKind(lastPart(c.Pointer))
		}
		if c.Op == proof.Insert && c.NodeA != nil && c.Field != "" {
			l.note = fmt.Sprintf("member %d of the object", c.At+1)
		}
		if c.Reorder || shuffled(c.NodeA, c.NodeB) {
			l.note = "the same elements in another order"
		}
		if l.note != "" && kind == "config.Env" {
			l.note = "the same variables in another order"
		}
		l.kind, real = kind, true
		x.add(object, l)
	}
	v, err := jsonproof.Prove(want, db, edits)
	if err != nil {
		v = proof.Verdict{Why: err.Error()}
	}
	if !v.Proved && len(changes) == 0 {
		x.add(object, leaf{kind: "json-formatting", a: da.Layout(), b: db.Layout(), note: "written differently, by no writer that is known"})
	}
	x.settle(object, v.Proved)
	if !v.Proved {
		x.unproved(object, v)
	}
	return real
}

// shuffled reports whether two arrays have the same elements, each as often.
func shuffled(a, b *jsonproof.Node) bool {
	if a == nil || b == nil || a.Kind != jsondoc.Array || b.Kind != jsondoc.Array || len(a.Members) != len(b.Members) {
		return false
	}
	texts := func(n *jsonproof.Node) (out []string) {
		for _, m := range n.Members {
			out = append(out, m.Compact())
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(texts(a), texts(b))
}

// nodeText is a value as it is printed in a report: whole, or with its hash.
func nodeText(n *jsonproof.Node) string {
	if n == nil {
		return "absent"
	}
	return proof.Clip(n.Compact())
}

func pointerParts(pointer string) []string {
	return strings.Split(strings.TrimPrefix(pointer, "/"), "/")
}

func lastPart(pointer string) string {
	parts := pointerParts(pointer)
	return parts[len(parts)-1]
}

// config compares two configs and reports whether they differ beyond the
// layers' diffIDs.
func (x *differ) config(object []string, a, b *diffImage, pairs pairing) bool {
	return x.document(object, a.config, b.config, a.configDigest, map[string]pairing{"/rootfs/diff_ids": pairs}, func(c jsonproof.Change) (string, string) {
		first, rest, _ := strings.Cut(strings.TrimPrefix(c.Pointer, "/"), "/")
		if c.Pointer == "/" {
			return memberKind(""), ""
		}
		switch first {
		case "rootfs":
			if index, ok := strings.CutPrefix(rest, "diff_ids"); ok {
				return "", follow(index, a.layers, func(l diffLayer) string { return strconv.Quote(l.diffID.String()) })
			}
			return "rootfs", ""
		case "config", "container_config":
			second, _, _ := strings.Cut(rest, "/")
			return strings.TrimSuffix(first+"."+second, "."), ""
		case "history":
			if strings.HasSuffix(rest, "/created") {
				return "created", ""
			}
			return "history", ""
		case "":
			return "document", ""
		}
		return memberKind(first), ""
	})
}

// memberKind is the kind of a member that has no kind of its own. A name that is
// not known must not pass for another kind, which could be ignored.
func memberKind(name string) string {
	switch name {
	case "architecture", "os", "variant", "os.version", "os.features", "schemaVersion", "artifactType", "subject", "urls", "platform", "config", "layers", "manifests", "digest", "size", "data":
		return name
	}
	if noteOfBuild(name) && name != "json-formatting" && name != "bytes" {
		return name
	}
	return "member"
}

// follow returns what the element of a pointer's last part must be.
func follow[T any](index string, list []T, value func(T) string) string {
	i, err := strconv.Atoi(strings.TrimPrefix(index, "/"))
	if err != nil || i < 0 || i >= len(list) {
		return ""
	}
	return value(list[i])
}

// manifest compares two manifests; digests and sizes follow from what they
// name.
func (x *differ) manifest(object []string, a, b *diffImage, pairs pairing) {
	x.document(object, a.manifest, b.manifest, a.digest, map[string]pairing{"/layers": pairs}, func(c jsonproof.Change) (string, string) {
		parts := pointerParts(c.Pointer)
		last := parts[len(parts)-1]
		switch {
		case parts[0] == "":
			return "document", ""
		case parts[0] == "layers" && len(parts) <= 2:
			// Layers of one side alone, whose descriptors are named with
			// them, and the order of layers.
			return "", string(c.A.Bytes)
		case parts[0] == "config" && len(parts) == 2 && a.configDigest != b.configDigest:
			switch last {
			case "digest":
				return "", strconv.Quote(a.configDigest.String())
			case "size":
				return "", strconv.Itoa(len(a.config))
			case "data":
				return "", strconv.Quote(base64.StdEncoding.EncodeToString(a.config))
			case "mediaType":
				return "mediaType", ""
			}
		case parts[0] == "layers" && len(parts) == 3:
			i, err := strconv.Atoi(parts[1])
			k := -1
			if err == nil {
				k = pairs.ofA(i)
			}
			if i >= len(a.layers) || k < 0 || k >= len(b.layers) {
				return memberKind(last), ""
			}
			la, lb := a.layers[i], b.layers[k]
			switch {
			case last == "digest" && la.digest != lb.digest:
				return "", strconv.Quote(la.digest.String())
			case last == "size" && la.digest != lb.digest:
				return "", strconv.FormatInt(la.size, 10)
			case last == "mediaType" && c.NodeB != nil && la.packing != lb.packing && strconv.Quote(repacked(c.NodeB.Text, la.packing)) == string(c.A.Bytes):
				return "", string(c.A.Bytes)
			}
			if last == "mediaType" {
				return "mediaType", ""
			}
			return memberKind(last), ""
		case last == "mediaType":
			return "mediaType", ""
		}
		if slices.Contains(parts, "annotations") {
			return "annotations", ""
		}
		return memberKind(parts[0]), ""
	})
}

// repacked is a layer's media type for another format of compression.
func repacked(mediaType string, p packing) string {
	base, joint := mediaType, "+"
	if strings.HasPrefix(mediaType, "application/vnd.docker.") {
		joint = "."
	}
	for _, suffix := range []string{"+gzip", "+zstd", ".gzip", ".zstd"} {
		base = strings.TrimSuffix(base, suffix)
	}
	switch p {
	case packGzip:
		return base + joint + "gzip"
	case packZstd:
		return base + joint + "zstd"
	}
	return base
}

// element is the text of an array's element in a document, "" if there is none.
func element(data []byte, array string, i int) string {
	d, err := jsonproof.Parse(data)
	if err != nil {
		return ""
	}
	list := d.Root.Get(array)
	if list == nil || i >= len(list.Members) {
		return ""
	}
	return proof.Clip(list.Members[i].Compact())
}

// indexes compares two indexes member by member.
func (x *differ) indexes(path []string, a, b *node) error {
	object := append(slices.Clone(path), "index")
	ka, kb := memberKeys(a), memberKeys(b)
	pairs := rejoined(pairByKey(ka, kb), a, b)
	several := len(ka) > 1 || len(kb) > 1
	subjects := map[string]string{} // of A, by the paired one of B
	for _, p := range pairs.list {
		kind, place := "platform", ""
		switch {
		case p.B < 0:
			place = ka[p.A]
			if isAttestation(a.doc.manifests[p.A]) {
				kind = "attestation"
			} else {
				x.same = false
			}
			x.add(object, leaf{kind: kind + "-only-in-a", place: place, a: a.doc.manifests[p.A].digest.String(), note: "descriptor " + element(a.raw, "manifests", p.A)})
			continue
		case p.A < 0:
			place = kb[p.B]
			if isAttestation(b.doc.manifests[p.B]) {
				kind = "attestation"
			} else {
				x.same = false
			}
			x.add(object, leaf{kind: kind + "-only-in-b", place: place, b: b.doc.manifests[p.B].digest.String(), note: "descriptor " + element(b.raw, "manifests", p.B)})
			continue
		}
		da, db := a.doc.manifests[p.A], b.doc.manifests[p.B]
		subjects[db.digest.String()] = da.digest.String()
		if da.digest == db.digest {
			continue
		}
		if isAttestation(da) && isAttestation(db) {
			x.add(object, leaf{kind: "attestation", place: ka[p.A], a: da.digest.String(), b: db.digest.String()})
			continue
		}
		na, nb := x.a.v.nodes[nodeKey{da.digest, da.mediaType}], x.b.v.nodes[nodeKey{db.digest, db.mediaType}]
		if na == nil || nb == nil || na.doc == nil || nb.doc == nil {
			x.same = false
			x.add(append(slices.Clone(path), ka[p.A]), leaf{kind: "platform-unread", a: da.digest.String(), b: db.digest.String(), note: "it is not there to be read on at least one side"})
			x.settle(append(slices.Clone(path), ka[p.A]), false)
			continue
		}
		below := path
		if several {
			below = append(slices.Clone(path), ka[p.A])
		}
		if err := x.nodes(below, na, nb); err != nil {
			return err
		}
	}
	if !pairs.ordered() {
		x.add(object, leaf{kind: "manifest-order", a: proof.Clip(strings.Join(ka, ", ")), b: proof.Clip(strings.Join(kb, ", ")), note: "the same members in another order"})
	}
	x.document(object, a.raw, b.raw, a.digest, map[string]pairing{"/manifests": pairs}, func(c jsonproof.Change) (string, string) {
		parts := pointerParts(c.Pointer)
		last := parts[len(parts)-1]
		switch {
		case parts[0] == "":
			return "document", ""
		case parts[0] == "manifests" && len(parts) <= 2:
			return "", string(c.A.Bytes) // named above, with the descriptor
		case parts[0] == "manifests" && len(parts) == 3 && (last == "digest" || last == "size"):
			return "", follow(parts[1], a.doc.manifests, func(d descriptor) string {
				if last == "size" {
					return strconv.FormatInt(d.size, 10)
				}
				return strconv.Quote(d.digest.String())
			})
		case last == jsondoc.EscapePointer(annotationReference) && c.NodeB != nil && subjects[c.NodeB.Text] != "":
			// The subject of an attestation follows from its image.
			if s := strconv.Quote(subjects[c.NodeB.Text]); s == string(c.A.Bytes) {
				return "", s
			}
			return "annotations", ""
		case last == "mediaType":
			return "mediaType", ""
		case slices.Contains(parts, "annotations"):
			return "annotations", ""
		}
		return memberKind(last), ""
	})
	x.remarkSame(object, a, b, pairs)
	return nil
}

// remarkSame says of descriptors that differ and name one manifest that they do.
func (x *differ) remarkSame(object []string, a, b *node, pairs pairing) {
	for i := range x.leaves {
		l := &x.leaves[i]
		parts := pointerParts(l.place)
		if !slices.Equal(l.object, object) || len(parts) < 3 || parts[0] != "manifests" {
			continue
		}
		k, err := strconv.Atoi(parts[1])
		if err != nil || k < 0 || k >= len(a.doc.manifests) {
			continue
		}
		if j := pairs.ofA(k); j >= 0 && a.doc.manifests[k].digest == b.doc.manifests[j].digest {
			l.note = strings.TrimPrefix(l.note+"; the member is the same manifest (same digest)", "; ")
			if l.kind == "variant" && l.b == "absent" {
				l.note = "the variant is missing in B's index; " + l.note
			}
		}
	}
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

// rejoined pairs members that go by other names on the two sides and are the
// same manifest.
func rejoined(p pairing, a, b *node) pairing {
	var out, onlyB []pair
	for _, q := range p.list {
		if q.A < 0 {
			onlyB = append(onlyB, q)
		}
	}
	for _, q := range p.list {
		if q.A < 0 {
			continue
		}
		if q.B < 0 {
			same := func(r pair) bool {
				return b.doc.manifests[r.B].digest == a.doc.manifests[q.A].digest
			}
			if i := slices.IndexFunc(onlyB, same); i >= 0 {
				q.B = onlyB[i].B
				onlyB = slices.Delete(onlyB, i, i+1)
			}
		}
		out = append(out, q)
	}
	return pairing{append(out, onlyB...)}
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
		q := pair{A: i, B: -1}
		if len(at[k]) > 0 {
			q.B, at[k] = at[k][0], at[k][1:]
		}
		p.list = append(p.list, q)
	}
	for i, k := range b {
		if slices.Contains(at[k], i) {
			p.list = append(p.list, pair{A: -1, B: i})
		}
	}
	return p
}

// artifacts compares two manifests that are no images: their documents whole, and
// what they name by digest.
func (x *differ) artifacts(path []string, a, b *node) {
	object := append(slices.Clone(path), "manifest")
	keys := func(n *node) (out []string) {
		for _, l := range n.doc.layers {
			// The same part of another version: by its title, as oras and its
			// kin write it, or by its place.
			key := l.mediaType + " " + l.annotations["org.opencontainers.image.title"] + l.annotations["org.cncf.model.filepath"]
			out = append(out, key)
		}
		return out
	}
	pairs := pairByKey(keys(a), keys(b))
	x.document(object, a.raw, b.raw, a.digest, map[string]pairing{"/layers": pairs}, func(c jsonproof.Change) (string, string) {
		parts := pointerParts(c.Pointer)
		last := parts[len(parts)-1]
		switch {
		case parts[0] == "":
			return "document", ""
		case slices.Contains(parts, "annotations"):
			return "annotations", ""
		case last == "mediaType":
			return "mediaType", ""
		case parts[0] == "layers":
			x.same = false
			return "artifact-blob", ""
		case parts[0] == "config":
			x.same = false
			return "artifact-config", ""
		}
		x.same = false
		return memberKind(parts[0]), ""
	})
}
