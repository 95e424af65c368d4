package imagehash

import (
	"cmp"
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
// position where they hold as many, and otherwise by the longest common
// subsequence of diffIDs, and what lies between by the paths in the layers.
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
		return p, nil
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
	list := append(fixed, best...)
	slices.SortStableFunc(list, func(q, r pair) int { return cmp.Compare(sortKey(q), sortKey(r)) })
	return pairing{list}, nil
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
	limits := x.opts.Limits.orDefault()
	names := func(l diffLayer) (map[uint64]struct{}, error) {
		set := map[uint64]struct{}{}
		if l.closed != "" {
			return set, nil
		}
		err := l.walkPlain(x.ctx, limits, rawtar.Visitor{Member: func(h *rawtar.Header) error {
			if name, _ := rawtar.CleanPath(h.Name); h.Type != '5' && !h.Global {
				set[maphash.String(x.seed, name)] = struct{}{}
			}
			return nil
		}})
		return set, err
	}
	read := func(list []diffLayer, rest []int) ([]map[uint64]struct{}, error) {
		var out []map[uint64]struct{}
		for _, i := range rest {
			set, err := names(list[i])
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
			common := 0
			for k := range sa {
				if _, ok := sb[k]; ok {
					common++
				}
			}
			if common > 0 {
				scores = append(scores, score{i, j, float64(common) / float64(len(sa)+len(sb)-common)})
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
