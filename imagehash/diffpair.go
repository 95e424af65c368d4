package imagehash

import (
	"cmp"
	"hash/maphash"
	"slices"

	"github.com/retally/retally/imagehash/internal/rawtar"
)

// pair joins a layer (or array element) of A with one of B; -1 for none.
type pair struct{ a, b int }

type pairing struct{ list []pair }

// ordered reports whether the paired members come in the same order on both
// sides.
func (p pairing) ordered() bool {
	last := -1
	for _, q := range p.list {
		if q.a < 0 || q.b < 0 {
			continue
		}
		if q.b < last {
			return false
		}
		last = q.b
	}
	return true
}

// ofA returns the partner of A's element, -1 for none.
func (p pairing) ofA(i int) int {
	for _, q := range p.list {
		if q.a == i {
			return q.b
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
	p := pairKeys(ka, kb)
	if len(a) == len(b) {
		return p, nil
	}
	var fixed []pair
	var restA, restB []int
	for _, q := range p.list {
		if q.a >= 0 && q.b >= 0 && ka[q.a] == kb[q.b] {
			fixed = append(fixed, q)
			continue
		}
		if q.a >= 0 {
			restA = append(restA, q.a)
		}
		if q.b >= 0 {
			restB = append(restB, q.b)
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
	slices.SortStableFunc(list, func(q, r pair) int { return cmp.Compare(q.sortKey(), r.sortKey()) })
	return pairing{list}, nil
}

// sortKey puts pairs into A's order, and B's own members behind the place they
// have in B.
func (q pair) sortKey() int {
	if q.a >= 0 {
		return 2 * q.a
	}
	return 2*q.b + 1
}

// pairByPaths joins the layers that share most of their paths.
func (x *differ) pairByPaths(a, b []diffLayer, restA, restB []int) ([]pair, error) {
	limits := x.opts.Limits.orDefault()
	names := func(l diffLayer) (map[uint64]struct{}, error) {
		set := map[uint64]struct{}{}
		err := l.walkPlain(x.ctx, limits, rawtar.Visitor{Member: func(h *rawtar.Header) error {
			if name, _ := cleanPath(h.Name); h.Type != '5' && !h.Global {
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
			out = append(out, pair{restA[s.i], restB[s.j]})
		}
	}
	for i, used := range usedA {
		if !used {
			out = append(out, pair{restA[i], -1})
		}
	}
	for j, used := range usedB {
		if !used {
			out = append(out, pair{-1, restB[j]})
		}
	}
	return out, nil
}

func pairKeys(a, b []string) pairing {
	if p, same := permutation(a, b); same {
		return p
	}
	if len(a) == len(b) {
		var p pairing
		for i := range a {
			p.list = append(p.list, pair{i, i})
		}
		return p
	}
	return alignKeys(a, b)
}

// permutation pairs equal keys if both sides have the same ones.
func permutation(a, b []string) (pairing, bool) {
	if len(a) != len(b) {
		return pairing{}, false
	}
	at := map[string][]int{}
	for i, k := range b {
		at[k] = append(at[k], i)
	}
	var p pairing
	for i, k := range a {
		if len(at[k]) == 0 {
			return pairing{}, false
		}
		p.list = append(p.list, pair{i, at[k][0]})
		at[k] = at[k][1:]
	}
	return p, true
}

// alignKeys keeps the longest common subsequence and pairs what lies between
// two of its members by position.
func alignKeys(a, b []string) pairing {
	const most = 2000
	if len(a) > most || len(b) > most {
		a, b = a[:min(len(a), most)], b[:min(len(b), most)]
	}
	// length[i][j] is that of a[i:], b[j:].
	length := make([][]int, len(a)+1)
	for i := range length {
		length[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	var p pairing
	i, j := 0, 0
	fromA, fromB := 0, 0
	gap := func() {
		for fromA < i || fromB < j {
			q := pair{-1, -1}
			if fromA < i {
				q.a = fromA
				fromA++
			}
			if fromB < j {
				q.b = fromB
				fromB++
			}
			p.list = append(p.list, q)
		}
	}
	for i < len(a) && j < len(b) {
		switch {
		case a[i] == b[j]:
			gap()
			p.list = append(p.list, pair{i, j})
			i, j = i+1, j+1
			fromA, fromB = i, j
		case length[i+1][j] >= length[i][j+1]:
			i++
		default:
			j++
		}
	}
	i, j = len(a), len(b)
	gap()
	return p
}
