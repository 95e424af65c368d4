package jsonproof

import (
	"strconv"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/proof"
)

// Pair joins an element of A's array with one of B's; -1 stands for none.
type Pair struct{ A, B int }

// Change is one difference of two documents.
type Change struct {
	proof.Edit
	// Pointer is the place in A, or in B for what A does not have.
	Pointer string
	NodeA   *Node // nil for absent
	NodeB   *Node
	// Form is not empty where the values are the same and only written
	// differently: "escapes", "key order" or "layout".
	Form string
	// Reorder: NodeA and NodeB are arrays of the same elements in another
	// order.
	Reorder bool
}

// Options steer Compare.
type Options struct {
	// Pairs says how the elements of the arrays at these pointers are paired,
	// in A's order. Others are paired by equal elements, by position where
	// there are as many, and else by their longest common subsequence.
	Pairs map[string][]Pair
}

// Compare lists what makes A of B.
func Compare(a, b *Doc, opts Options) []Change {
	c := &comparer{opts: opts}
	c.walk("", "", a.Root, b.Root)
	switch {
	case b.known && b.style.format(a.Root) == string(a.data):
		// A short document looks the same in several layouts.
	case a.known && b.known:
		c.add(Change{Edit: proof.Edit{Field: fieldLayout, Op: proof.Set, A: proof.Text(a.style.String()), B: proof.Text(b.style.String())}, Form: "layout"})
	case a.known != b.known:
		// No edit says how to write it, so nothing can be proved.
		c.add(Change{Edit: proof.Edit{Field: fieldLayout, Op: proof.Set, A: proof.Text(a.Layout()), B: proof.Text(b.Layout())}, Form: "layout"})
	}
	return c.out
}

type comparer struct {
	opts Options
	out  []Change
}

func (c *comparer) add(x Change) { c.out = append(c.out, x) }

func literal(n *Node) proof.Value { return proof.Text(n.Compact()) }

// walk compares two values; pa and pb are their places.
func (c *comparer) walk(pa, pb string, a, b *Node) {
	set := func(form string) {
		c.add(Change{Edit: proof.Edit{Place: pb, Op: proof.Set, A: literal(a), B: literal(b)}, Pointer: pa, NodeA: a, NodeB: b, Form: form})
	}
	switch {
	case a.Kind != b.Kind:
		set("")
	case a.Kind == jsondoc.Object:
		c.object(pa, pb, a, b)
	case a.Kind == jsondoc.Array:
		c.array(pa, pb, a, b)
	case !a.same(b):
		set("")
	case a.Raw != b.Raw:
		set("escapes")
	}
}

func (c *comparer) object(pa, pb string, a, b *Node) {
	var common []int // in B
	for i, k := range a.keys {
		inA := at(pa, escaped(k.text))
		j := b.find(k.text)
		if j < 0 {
			c.add(Change{
				Edit:    proof.Edit{Place: pb, Field: memberField(k.raw), Op: proof.Insert, At: i, A: literal(a.Members[i])},
				Pointer: inA, NodeA: a.Members[i],
			})
			continue
		}
		common = append(common, j)
		inB := at(pb, escaped(k.text))
		if raw := b.keys[j].raw; raw != k.raw {
			c.add(Change{
				Edit:    proof.Edit{Place: inB, Field: fieldKey, Op: proof.Set, A: proof.Text(k.raw), B: proof.Text(raw)},
				Pointer: inA, NodeA: a.Members[i], NodeB: b.Members[j], Form: "escapes",
			})
		}
		c.walk(inA, inB, a.Members[i], b.Members[j])
	}
	for j, k := range b.keys {
		if a.find(k.text) < 0 {
			inB := at(pb, escaped(k.text))
			c.add(Change{Edit: proof.Edit{Place: inB, Op: proof.Remove, B: literal(b.Members[j])}, Pointer: at(pa, escaped(k.text)), NodeB: b.Members[j]})
		}
	}
	if perm, same := proof.Ranks(common); !same {
		c.add(Change{
			Edit:    proof.Edit{Place: pb, Op: proof.Order, Perm: perm, A: proof.Text(keyList(a)), B: proof.Text(keyList(b))},
			Pointer: pa, NodeA: a, NodeB: b, Form: "key order",
		})
	}
}

// keyList is the names of an object in their order.
func keyList(n *Node) string {
	var b strings.Builder
	for i, k := range n.keys {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(k.raw)
	}
	return b.String()
}

// words reports whether a list is one value, as Env and Cmd are.
func words(n *Node) bool {
	for _, m := range n.Members {
		if !m.scalar() {
			return false
		}
	}
	return true
}

func sameWords(a, b *Node) bool {
	if len(a.Members) != len(b.Members) {
		return false
	}
	for i, m := range a.Members {
		if m.Kind != b.Members[i].Kind || !m.same(b.Members[i]) {
			return false
		}
	}
	return true
}

func (c *comparer) array(pa, pb string, a, b *Node) {
	pairs, given := c.opts.Pairs[pa]
	if given {
		given = fits(pairs, len(a.Members), len(b.Members))
	}
	if !given {
		if words(a) && words(b) && !sameWords(a, b) {
			c.add(Change{Edit: proof.Edit{Place: pb, Op: proof.Set, A: literal(a), B: literal(b)}, Pointer: pa, NodeA: a, NodeB: b})
			return
		}
		pairs = PairKeys(compacts(a), compacts(b))
	}
	var common []int
	for _, q := range pairs {
		switch {
		case q.A < 0:
			c.add(Change{Edit: proof.Edit{Place: at(pb, strconv.Itoa(q.B)), Op: proof.Remove, B: literal(b.Members[q.B])}, Pointer: at(pa, strconv.Itoa(q.B)), NodeB: b.Members[q.B]})
		case q.B < 0:
			c.add(Change{Edit: proof.Edit{Place: pb, Op: proof.Insert, At: q.A, A: literal(a.Members[q.A])}, Pointer: at(pa, strconv.Itoa(q.A)), NodeA: a.Members[q.A]})
		default:
			common = append(common, q.B)
			c.walk(at(pa, strconv.Itoa(q.A)), at(pb, strconv.Itoa(q.B)), a.Members[q.A], b.Members[q.B])
		}
	}
	if perm, same := proof.Ranks(common); !same {
		c.add(Change{Edit: proof.Edit{Place: pb, Op: proof.Order, Perm: perm}, Pointer: pa, NodeA: a, NodeB: b, Reorder: true})
	}
}

func compacts(n *Node) []string {
	out := make([]string, len(n.Members))
	for i, m := range n.Members {
		out[i] = m.Compact()
	}
	return out
}

// fits reports whether a pairing names every element of both sides once, A's in
// their order.
func fits(pairs []Pair, na, nb int) bool {
	next, seen := 0, make([]bool, nb)
	for _, q := range pairs {
		if q.A >= 0 {
			if q.A != next {
				return false
			}
			next++
		}
		if q.B >= 0 {
			if q.B >= nb || seen[q.B] {
				return false
			}
			seen[q.B] = true
		}
		if q.A < 0 && q.B < 0 {
			return false
		}
	}
	for _, s := range seen {
		if !s {
			return false
		}
	}
	return next == na
}

// PairKeys joins the elements of two lists: equal ones if both have the same,
// by position if there are as many, else along the longest common subsequence,
// what lies between two of its members by position. A's elements come in their
// order.
func PairKeys(a, b []string) []Pair {
	if p, same := permutation(a, b); same {
		return p
	}
	if len(a) == len(b) {
		p := make([]Pair, len(a))
		for i := range a {
			p[i] = Pair{i, i}
		}
		return p
	}
	return align(a, b)
}

// permutation pairs equal keys if both sides have the same ones.
func permutation(a, b []string) ([]Pair, bool) {
	if len(a) != len(b) {
		return nil, false
	}
	where := map[string][]int{}
	for i, k := range b {
		where[k] = append(where[k], i)
	}
	var p []Pair
	for i, k := range a {
		if len(where[k]) == 0 {
			return nil, false
		}
		p = append(p, Pair{i, where[k][0]})
		where[k] = where[k][1:]
	}
	return p, true
}

// maxAligned bounds the elements that are aligned; the table has the square of
// it. What lies behind is of one side alone.
const maxAligned = 2000

func align(a, b []string) []Pair {
	na, nb := min(len(a), maxAligned), min(len(b), maxAligned)
	// length[i][j] is that of the subsequence of a[i:na], b[j:nb].
	length := make([][]int16, na+1)
	for i := range length {
		length[i] = make([]int16, nb+1)
	}
	for i := na - 1; i >= 0; i-- {
		for j := nb - 1; j >= 0; j-- {
			if a[i] == b[j] {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	var p []Pair
	fromA, fromB := 0, 0
	gap := func(i, j int) {
		for fromA < i || fromB < j {
			q := Pair{-1, -1}
			if fromA < i {
				q.A = fromA
				fromA++
			}
			if fromB < j {
				q.B = fromB
				fromB++
			}
			p = append(p, q)
		}
	}
	i, j := 0, 0
	for i < na && j < nb {
		switch {
		case a[i] == b[j]:
			gap(i, j)
			p = append(p, Pair{i, j})
			i, j = i+1, j+1
			fromA, fromB = i, j
		case length[i+1][j] >= length[i][j+1]:
			i++
		default:
			j++
		}
	}
	gap(na, nb)
	for ; fromA < len(a); fromA++ {
		p = append(p, Pair{fromA, -1})
	}
	for ; fromB < len(b); fromB++ {
		p = append(p, Pair{-1, fromB})
	}
	return p
}
