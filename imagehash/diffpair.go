package imagehash

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
// subsequence of diffIDs, the rest in between by position.
func pairLayers(a, b []diffLayer) pairing {
	ka, kb := make([]string, len(a)), make([]string, len(b))
	for i, l := range a {
		ka[i] = l.diffID.String()
	}
	for i, l := range b {
		kb[i] = l.diffID.String()
	}
	return pairKeys(ka, kb)
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
