package imagehash

import (
	"cmp"
	"errors"
	"hash/maphash"
	"slices"

	"github.com/retally/retally/imagehash/internal/rawtar"
	"github.com/retally/retally/internal/proof/jsonproof"
)

// pair joins a layer (or array element) of A with one of B; -1 for none.
type pair = jsonproof.Pair

type pairing struct{ list []pair }

// ordered reports whether the paired members come in the same order on both
// sides.
func (p pairing) ordered() bool {
	last := -1
	for _, q := range p.list {
		if q.A < 0 || q.B < 0 {
			continue
		}
		if q.B < last {
			return false
		}
		last = q.B
	}
	return true
}

// ofA returns the partner of A's element, -1 for none.
func (p pairing) ofA(i int) int {
	for _, q := range p.list {
		if q.A == i {
			return q.B
		}
	}
	return -1
}

// pairLayers pairs by diffID where the two sides hold the same layers, by
// position where they hold as many that share their paths, and otherwise by the
// longest common subsequence of diffIDs, and what lies between by the paths in
// the layers.
func (x *differ) pairLayers(a, b []diffLayer) (pairing, error) {
	ka, kb := make([]string, len(a)), make([]string, len(b))
	for i, l := range a {
		ka[i] = l.diffID.String()
	}
	for i, l := range b {
		kb[i] = l.diffID.String()
	}
	p := pairing{jsonproof.PairKeys(ka, kb)}
	if len(a) == len(b) {
		if near, err := x.near(a, b, p); near || err != nil {
			return p, err
		}
	}
	var fixed []pair
	var restA, restB []int
	for _, q := range p.list {
		if q.A >= 0 && q.B >= 0 && ka[q.A] == kb[q.B] {
			fixed = append(fixed, q)
			continue
		}
		if q.A >= 0 {
			restA = append(restA, q.A)
		}
		if q.B >= 0 {
			restB = append(restB, q.B)
		}
	}
	if len(restA) == 0 || len(restB) == 0 || len(restA)*len(restB) > 10_000 {
		return p, nil
	}
	best, err := x.pairByPaths(a, b, restA, restB)
	if err != nil {
		return p, err
	}
	if len(a) == len(b) {
		best = byPlace(best)
	}
	return sorted(append(fixed, best...)), nil
}

// sorted puts pairs into A's order.
func sorted(list []pair) pairing {
	slices.SortStableFunc(list, func(q, r pair) int { return cmp.Compare(sortKey(q), sortKey(r)) })
	return pairing{list}
}

// near reports whether the layers that stand at the same place share most of
// their paths, as far as the beginning of each says.
func (x *differ) near(a, b []diffLayer, p pairing) (bool, error) {
	var rest []pair
	for _, q := range p.list {
		if q.A < 0 || q.B < 0 {
			return false, nil
		}
		if a[q.A].diffID != b[q.B].diffID {
			rest = append(rest, q)
		}
	}
	if len(rest) < 2 {
		return true, nil
	}
	const begin = 4 << 20 // bytes of a tar
	for _, q := range rest {
		sa, err := x.names(a[q.A], begin)
		if err != nil {
			return false, err
		}
		sb, err := x.names(b[q.B], begin)
		if err != nil {
			return false, err
		}
		if len(sa) > 0 && len(sb) > 0 && overlap(sa, sb) < 0.5 {
			return false, nil
		}
	}
	return true, nil
}

// overlap is the share of the paths of two layers that both have.
func overlap(sa, sb map[uint64]struct{}) float64 {
	common := 0
	for k := range sa {
		if _, ok := sb[k]; ok {
			common++
		}
	}
	if common == 0 {
		return 0
	}
	return float64(common) / float64(len(sa)+len(sb)-common)
}

// byPlace pairs what is left over on both sides in order.
func byPlace(list []pair) (out []pair) {
	var onlyA, onlyB []int
	for _, q := range list {
		switch {
		case q.B < 0:
			onlyA = append(onlyA, q.A)
		case q.A < 0:
			onlyB = append(onlyB, q.B)
		default:
			out = append(out, q)
		}
	}
	for i, k := range onlyA {
		out = append(out, pair{A: k, B: onlyB[i]})
	}
	return out
}

var errEnough = errors.New("enough is read")

// names hashes the paths of the files in a layer, those of its first bytes if
// most is not 0.
func (x *differ) names(l diffLayer, most int64) (map[uint64]struct{}, error) {
	set := map[uint64]struct{}{}
	if l.closed != "" {
		return set, nil
	}
	err := l.walkPlain(x.ctx, x.opts.Limits.orDefault(), rawtar.Visitor{Member: func(h *rawtar.Header) error {
		if most > 0 && h.Offset > most {
			return errEnough
		}
		if name, _ := rawtar.CleanPath(h.Name); h.Type != '5' && !h.Global {
			set[maphash.String(x.seed, name)] = struct{}{}
		}
		return nil
	}})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return set, err
}

// sortKey puts pairs into A's order, and B's own members behind the place they
// have in B.
func sortKey(q pair) int {
	if q.A >= 0 {
		return 2 * q.A
	}
	return 2*q.B + 1
}

// pairByPaths joins the layers that share most of their paths.
func (x *differ) pairByPaths(a, b []diffLayer, restA, restB []int) ([]pair, error) {
	read := func(list []diffLayer, rest []int) ([]map[uint64]struct{}, error) {
		var out []map[uint64]struct{}
		for _, i := range rest {
			set, err := x.names(list[i], 0)
			if err != nil {
				return nil, err
			}
			out = append(out, set)
		}
		return out, nil
	}
	setsA, err := read(a, restA)
	if err != nil {
		return nil, err
	}
	setsB, err := read(b, restB)
	if err != nil {
		return nil, err
	}
	type score struct {
		i, j    int
		overlap float64
	}
	var scores []score
	for i, sa := range setsA {
		for j, sb := range setsB {
			if o := overlap(sa, sb); o > 0 {
				scores = append(scores, score{i, j, o})
			}
		}
	}
	slices.SortStableFunc(scores, func(s, t score) int { return cmp.Compare(t.overlap, s.overlap) })
	usedA, usedB := make([]bool, len(restA)), make([]bool, len(restB))
	var out []pair
	for _, s := range scores {
		if !usedA[s.i] && !usedB[s.j] {
			usedA[s.i], usedB[s.j] = true, true
			out = append(out, pair{A: restA[s.i], B: restB[s.j]})
		}
	}
	for i, used := range usedA {
		if !used {
			out = append(out, pair{A: restA[i], B: -1})
		}
	}
	for j, used := range usedB {
		if !used {
			out = append(out, pair{A: -1, B: restB[j]})
		}
	}
	return out, nil
}
