package jsonproof

import (
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/proof"
)

// Prove checks a list of edits against the digest of A.
func Prove(want digest.Digest, b *Doc, edits []proof.Edit) (proof.Verdict, error) {
	return proof.Check(want, edits, func(edits []proof.Edit) (digest.Digest, error) {
		out, err := Rebuild(b, edits)
		if err != nil {
			return digest.Digest{}, err
		}
		return want.Algorithm().Sum(out), nil
	})
}

// Rebuild applies edits to B. The error is a *proof.Unfit.
func Rebuild(b *Doc, edits []proof.Edit) ([]byte, error) {
	layout, known := b.style, b.known
	var inside []proof.Edit
	for _, e := range edits {
		if e.Field != fieldLayout || e.Place != "" {
			inside = append(inside, e)
			continue
		}
		if e.B.String() != b.Layout() {
			return nil, unfit(&e, "B is %s", b.Layout())
		}
		i := slices.IndexFunc(styles(), func(s style) bool { return s.String() == e.A.String() })
		if known = i >= 0; !known {
			return nil, unfit(&e, "no writer is known that lays a document out so")
		}
		layout = styles()[i]
	}
	if !known {
		return splice(b, inside)
	}
	root := b.Root.clone()
	r := &rebuilder{root: root, byNode: map[*Node]*change{}}
	for i := range inside {
		if err := r.note(&inside[i]); err != nil {
			return nil, err
		}
	}
	for _, c := range r.order {
		if err := c.apply(); err != nil {
			return nil, err
		}
	}
	return []byte(layout.format(root)), nil
}

func (n *Node) clone() *Node {
	c := *n
	c.index = nil
	c.keys = slices.Clone(n.keys)
	c.Members = make([]*Node, len(n.Members))
	for i, m := range n.Members {
		c.Members[i] = m.clone()
	}
	return &c
}

// rebuilder finds the places of all edits before the first one is applied:
// places are those of B.
type rebuilder struct {
	root   *Node
	byNode map[*Node]*change
	order  []*change
}

// change is what happens to one container or value.
type change struct {
	n       *Node
	set     *Node // its new content
	renamed map[int]string
	removed map[int]bool
	perm    []int
	names   proof.Value // in the order of perm, with what is inserted
	insert  []*proof.Edit
	made    []*Node
}

func (r *rebuilder) of(n *Node) *change {
	c := r.byNode[n]
	if c == nil {
		c = &change{n: n, renamed: map[int]string{}, removed: map[int]bool{}}
		r.byNode[n] = c
		r.order = append(r.order, c)
	}
	return c
}

// locate finds a value, the container that it is in, and its number there.
func (r *rebuilder) locate(e *proof.Edit) (n, in *Node, i int, err error) {
	n, i = r.root, -1
	if e.Place == "" {
		return n, nil, i, nil
	}
	if !strings.HasPrefix(e.Place, "/") {
		return nil, nil, 0, unfit(e, "no JSON pointer")
	}
	for part := range strings.SplitSeq(e.Place[1:], "/") {
		in, i = n, -1
		switch in.Kind {
		case jsondoc.Object:
			i = in.find(jsondoc.UnescapePointer(part))
		case jsondoc.Array:
			if k, err := strconv.Atoi(part); err == nil && k >= 0 && k < len(in.Members) {
				i = k
			}
		}
		if i < 0 {
			return nil, nil, 0, unfit(e, "B has no such place")
		}
		n = in.Members[i]
	}
	return n, in, i, nil
}

func (r *rebuilder) note(e *proof.Edit) error {
	n, in, i, err := r.locate(e)
	if err != nil {
		return err
	}
	switch {
	case e.Op == proof.Set && e.Field == fieldKey:
		if in == nil || in.Kind != jsondoc.Object || in.keys[i].raw != string(e.B.Bytes) {
			return unfit(e, "the name is not written so in B")
		}
		k, err := Parse(e.A.Bytes)
		if err != nil || k.Root.Kind != jsondoc.String || k.Root.Raw != string(e.A.Bytes) {
			return unfit(e, "no name of a member")
		}
		if _, twice := r.of(in).renamed[i]; twice {
			return unfit(e, "two edits of one place")
		}
		r.of(in).renamed[i] = k.Root.Raw
	case e.Op == proof.Set && e.Field == "":
		if n.Compact() != string(e.B.Bytes) {
			return unfit(e, "B has another value")
		}
		v, err := Parse(e.A.Bytes)
		if err != nil || v.Root.Compact() != string(e.A.Bytes) {
			return unfit(e, "no JSON value on one line")
		}
		if r.of(n).set != nil {
			return unfit(e, "two edits of one place")
		}
		r.of(n).set = v.Root
	case e.Op == proof.Remove && e.Field == "":
		if in == nil || n.Compact() != string(e.B.Bytes) {
			return unfit(e, "B has another value")
		}
		if r.of(in).removed[i] {
			return unfit(e, "two edits of one place")
		}
		r.of(in).removed[i] = true
	case e.Op == proof.Order && e.Field == "":
		if r.of(n).perm != nil || n.Kind == jsondoc.Object && keyList(n) != string(e.B.Bytes) {
			return unfit(e, "the names of B have another order")
		}
		r.of(n).perm, r.of(n).names = e.Perm, e.A
	case e.Op == proof.Insert:
		v, err := Parse(e.A.Bytes)
		if err != nil || v.Root.Compact() != string(e.A.Bytes) {
			return unfit(e, "no JSON value on one line")
		}
		c := r.of(n)
		c.insert, c.made = append(c.insert, e), append(c.made, v.Root)
	default:
		return unfit(e, "an edit that this format does not know")
	}
	return nil
}

type part struct {
	k key
	n *Node
}

func (c *change) apply() error {
	n := c.n
	if c.set != nil {
		if len(c.renamed)+len(c.removed)+len(c.insert)+len(c.perm) > 0 {
			return proof.Unfitf("a value is replaced and changed")
		}
		n.Kind, n.Raw, n.Text, n.keys, n.Members, n.index = c.set.Kind, c.set.Raw, c.set.Text, c.set.keys, c.set.Members, nil
		return nil
	}
	if n.scalar() {
		return proof.Unfitf("a part of what has no parts")
	}
	var parts, more []part
	for i, m := range n.Members {
		p := part{n: m}
		if n.Kind == jsondoc.Object {
			p.k = n.keys[i]
			if raw, ok := c.renamed[i]; ok {
				p.k.raw = raw
			}
		}
		if !c.removed[i] {
			parts = append(parts, p)
		}
	}
	var err error
	if c.perm != nil {
		if parts, err = proof.Permute(parts, c.perm); err != nil {
			return err
		}
	}
	var places []int
	for i, e := range c.insert {
		p := part{n: c.made[i]}
		if n.Kind == jsondoc.Object {
			raw, ok := strings.CutPrefix(e.Field, memberField(""))
			if !ok {
				return unfit(e, "a member without a name")
			}
			name, err := Parse([]byte(raw))
			if err != nil || name.Root.Kind != jsondoc.String || name.Root.Raw != raw {
				return unfit(e, "no name of a member")
			}
			p.k = key{raw, name.Root.Text}
		} else if e.Field != "" {
			return unfit(e, "an element with a name")
		}
		more, places = append(more, p), append(places, e.At)
	}
	if parts, err = proof.Place(parts, places, more); err != nil {
		return err
	}
	n.keys, n.Members, n.index = nil, nil, nil
	for _, p := range parts {
		if n.Kind == jsondoc.Object {
			n.keys = append(n.keys, p.k)
		}
		n.Members = append(n.Members, p.n)
	}
	if c.perm != nil && n.Kind == jsondoc.Object && keyList(n) != string(c.names.Bytes) {
		return proof.Unfitf("the names come out in another order than the edit says")
	}
	return nil
}

// splice replaces the texts of scalars in place, where B's layout is none that
// is known.
func splice(b *Doc, edits []proof.Edit) ([]byte, error) {
	type span struct {
		at, n int
		by    string
	}
	r := &rebuilder{root: b.Root}
	var spans []span
	for i := range edits {
		e := &edits[i]
		n, _, _, err := r.locate(e)
		if err != nil {
			return nil, err
		}
		if e.Op != proof.Set || e.Field != "" || !n.scalar() || n.Raw != string(e.B.Bytes) {
			return nil, unfit(e, "only single values can be exchanged in %s", b.Layout())
		}
		spans = append(spans, span{n.offset, len(n.Raw), string(e.A.Bytes)})
	}
	slices.SortFunc(spans, func(s, t span) int { return s.at - t.at })
	var out []byte
	from := 0
	for _, s := range spans {
		if s.at < from {
			return nil, proof.Unfitf("one value is exchanged twice")
		}
		out = append(append(out, b.data[from:s.at]...), s.by...)
		from = s.at + s.n
	}
	return append(out, b.data[from:]...), nil
}
