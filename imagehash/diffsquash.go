package imagehash

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/imagehash/internal/tarproof"
)

// mostSquashed bounds the layers that are read to see whether they were put
// into one.
const mostSquashed = 32

// squash looks for layers of one side that are one layer of the other. They
// then pair with none, and the second result says which pairs have their cause.
func (x *differ) squash(in func(string) []string, a, b *diffImage, p pairing) (pairing, map[pair]bool, error) {
	from := 0
	for from < len(a.layers) && from < len(b.layers) && a.layers[from].diffID == b.layers[from].diffID {
		from++
	}
	restA, restB := a.layers[from:], b.layers[from:]
	for len(restA) > 0 && len(restB) > 0 && restA[len(restA)-1].diffID == restB[len(restB)-1].diffID {
		restA, restB = restA[:len(restA)-1], restB[:len(restB)-1]
	}
	many, one := restA, restB
	if len(restB) > 1 {
		many, one = restB, restA
	}
	if len(one) != 1 || len(many) < 2 || len(many) > mostSquashed {
		return p, nil, nil
	}
	limits := x.opts.Limits.orDefault()
	var list []*tarproof.Index
	for _, l := range append(append([]diffLayer{}, many...), one[0]) {
		if l.closed != "" || l.open == nil {
			return p, nil, nil
		}
		t, err := l.index(x.ctx, limits)
		if errors.Is(err, tarproof.ErrTooMany) {
			return p, nil, nil
		}
		if err != nil {
			return p, nil, err
		}
		list = append(list, t)
	}
	if !tarproof.Merged(list[:len(many)], list[len(many)], from > 0) {
		return p, nil, nil
	}
	text := func(i *diffImage, list []diffLayer) string {
		var out []string
		for k, l := range list {
			out = append(out, strings.TrimSpace(fmt.Sprintf("layer %d, %s %s", from+k, l.diffID, i.descriptorText(from+k))))
		}
		return strings.Join(out, "; ")
	}
	l := leaf{kind: "squash", a: text(a, restA), b: text(b, restB), note: fmt.Sprintf("B's layer is A's %d merged (squash): their union, whiteouts applied, has the same members", len(many))}
	if len(restB) > 1 {
		l.note = fmt.Sprintf("A's layer is B's %d merged (squash): their union, whiteouts applied, has the same members", len(many))
	}
	x.same = false
	object := in(fmt.Sprintf("layers %d to %d", from, from+len(many)-1))
	x.add(object, l)
	x.settle(object, true)
	var out []pair
	for _, q := range p.list {
		ofA, ofB := q.A >= from && q.A < from+len(restA), q.B >= from && q.B < from+len(restB)
		if !ofA && !ofB {
			out = append(out, q)
		}
	}
	done := map[pair]bool{}
	for i := range restA {
		done[pair{A: from + i, B: -1}] = true
	}
	for i := range restB {
		done[pair{A: -1, B: from + i}] = true
	}
	return sorted(slices.AppendSeq(out, maps.Keys(done))), done, nil
}
