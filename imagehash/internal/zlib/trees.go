package zlib

import "math/bits"

// Numbers of symbols (RFC 1951, section 3.2).
const (
	literals     = 256
	endOfBlock   = 256
	litSymbols   = 286
	distSymbols  = 30
	lengthCodes  = 19
	maxBits      = 15
	maxLenBits   = 7
	repeatLast   = 16
	repeatZero   = 17
	repeatZeros  = 18
	heapCapacity = 2*litSymbols + 1
)

var codeOrder = [lengthCodes]int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// lengthCode returns the symbol, extra bits and their value for a length.
func lengthCode(length int) (symbol int, extra uint, value uint32) {
	n := length - minMatch
	switch {
	case length == maxMatch:
		return 285, 0, 0
	case n < 8:
		return 257 + n, 0, 0
	}
	extra = uint(bits.Len(uint(n))) - 3
	symbol = 257 + int(extra)*4 + 4 + (n>>extra)&3
	return symbol, extra, uint32(n) & (1<<extra - 1)
}

func distanceCode(distance int) (symbol int, extra uint, value uint32) {
	d := distance - 1
	if d < 4 {
		return d, 0, 0
	}
	extra = uint(bits.Len(uint(d))) - 2
	symbol = int(extra)*2 + 2 + (d>>extra)&1
	return symbol, extra, uint32(d) & (1<<extra - 1)
}

func lengthExtra(symbol int) uint {
	if symbol < 265 || symbol >= 285 {
		return 0
	}
	return uint(symbol-261) / 4
}

func distanceExtra(symbol int) uint {
	if symbol < 4 {
		return 0
	}
	return uint(symbol-2) / 2
}

func codeExtra(symbol int) uint {
	switch symbol {
	case repeatLast:
		return 2
	case repeatZero:
		return 3
	case repeatZeros:
		return 7
	}
	return 0
}

// staticLength is the length of a literal/length code of the fixed tree.
func staticLength(symbol int) uint {
	switch {
	case symbol < 144:
		return 8
	case symbol < 256:
		return 9
	case symbol < 280:
		return 7
	}
	return 8
}

// symbol is a literal (distance 0) or a match.
type symbol struct {
	distance uint16
	value    uint16 // literal or length
}

// trees holds the symbols of a block and makes its codes.
type trees struct {
	symbols []symbol
	matches int // of them
	lit     tree
	dist    tree
	code    tree
	dynamic int // bits of the block with its own codes
	static  int // and with the fixed ones
}

// tree is one Huffman code.
type tree struct {
	freq  []int
	depth []uint8
	dad   []int
	len   []uint
	bits  []uint32 // reversed codes
	max   int      // largest symbol in use
}

func newTree(n int) tree {
	return tree{freq: make([]int, 2*n+1), depth: make([]uint8, 2*n+1), dad: make([]int, 2*n+1), len: make([]uint, 2*n+2), bits: make([]uint32, n)}
}

func (t *trees) reset() {
	if t.lit.freq == nil {
		t.lit, t.dist, t.code = newTree(litSymbols), newTree(distSymbols), newTree(lengthCodes)
	}
	clear(t.lit.freq)
	clear(t.dist.freq)
	clear(t.code.freq)
	t.lit.freq[endOfBlock] = 1
	t.symbols, t.matches = t.symbols[:0], 0
	t.dynamic, t.static = 0, 0
}

// literal and match record a symbol.
func (t *trees) literal(c byte) {
	t.symbols = append(t.symbols, symbol{0, uint16(c)})
	t.lit.freq[c]++
}

func (t *trees) match(distance, length int) {
	t.matches++
	t.symbols = append(t.symbols, symbol{uint16(distance), uint16(length)})
	s, _, _ := lengthCode(length)
	t.lit.freq[s]++
	s, _, _ = distanceCode(distance)
	t.dist.freq[s]++
}

// distances is the number of bits that distances take, roughly.
func (t *trees) distances() (n int) {
	for s := range distSymbols {
		n += t.dist.freq[s] * int(5+distanceExtra(s))
	}
	return n
}

// flush writes the block in the shortest of its three forms. stored is its
// content if the window still has it.
func (t *trees) flush(out *bitWriter, stored []byte, has bool, size int, last bool) {
	t.build(&t.lit, litSymbols, maxBits, lengthExtra, staticLength)
	t.build(&t.dist, distSymbols, maxBits, distanceExtra, func(int) uint { return 5 })
	t.lit.eachLength(t.lit.max, func(sym int, _ uint32, times int) { t.code.freq[sym] += times })
	t.dist.eachLength(t.dist.max, func(sym int, _ uint32, times int) { t.code.freq[sym] += times })
	t.build(&t.code, lengthCodes, maxLenBits, codeExtra, nil)
	codes := lengthCodes
	for codes > 4 && t.code.len[codeOrder[codes-1]] == 0 {
		codes--
	}
	t.dynamic += 3*codes + 5 + 5 + 4
	dynamic, static := (t.dynamic+3+7)>>3, (t.static+3+7)>>3
	final := uint32(0)
	if last {
		final = 1
	}
	switch {
	case has && size+4 <= min(dynamic, static):
		out.put(final, 3)
		out.align()
		out.put(uint32(size)&0xffff, 16)
		out.put(^uint32(size)&0xffff, 16)
		for _, c := range stored {
			out.put(uint32(c), 8)
		}
	case static <= dynamic:
		out.put(1<<1|final, 3)
		t.write(out, staticCode, func(s int) (uint32, uint) { return reverse(uint32(s), 5), 5 })
	default:
		out.put(2<<1|final, 3)
		out.put(uint32(t.lit.max+1-257), 5)
		out.put(uint32(t.dist.max), 5)
		out.put(uint32(codes-4), 4)
		for _, s := range codeOrder[:codes] {
			out.put(uint32(t.code.len[s]), 3)
		}
		send := func(sym int, value uint32, times int) {
			for range times {
				out.put(t.code.bits[sym], t.code.len[sym])
			}
			out.put(value, codeExtra(sym))
		}
		t.lit.eachLength(t.lit.max, send)
		t.dist.eachLength(t.dist.max, send)
		t.write(out, func(s int) (uint32, uint) { return t.lit.bits[s], t.lit.len[s] }, func(s int) (uint32, uint) { return t.dist.bits[s], t.dist.len[s] })
	}
	t.reset()
}

func staticCode(s int) (uint32, uint) {
	switch {
	case s < 144:
		return reverse(uint32(0x30+s), 8), 8
	case s < 256:
		return reverse(uint32(0x190+s-144), 9), 9
	case s < 280:
		return reverse(uint32(s-256), 7), 7
	}
	return reverse(uint32(0xc0+s-280), 8), 8
}

func reverse(v uint32, n uint) uint32 { return bits.Reverse32(v) >> (32 - n) }

func (t *trees) write(out *bitWriter, lit, dist func(int) (uint32, uint)) {
	for _, s := range t.symbols {
		if s.distance == 0 {
			out.put(lit(int(s.value)))
			continue
		}
		code, extra, value := lengthCode(int(s.value))
		out.put(lit(code))
		out.put(value, extra)
		code, extra, value = distanceCode(int(s.distance))
		out.put(dist(code))
		out.put(value, extra)
	}
	out.put(lit(endOfBlock))
}

// build makes the code of a tree from its frequencies and adds up the bits
// that its symbols take with it and with the fixed code.
func (t *trees) build(tr *tree, n, limit int, extra func(int) uint, static func(int) uint) {
	var heap [heapCapacity + 1]int
	size, top := 0, 2*n+1
	clear(tr.len)
	tr.max = -1
	for s := range n {
		tr.depth[s] = 0
		if tr.freq[s] != 0 {
			size++
			heap[size] = s
			tr.max = s
		}
	}
	// Two codes at least, as old decoders want it.
	for size < 2 {
		s := 0
		if tr.max < 2 {
			tr.max++
			s = tr.max
		}
		size++
		heap[size] = s
		tr.freq[s] = 1
		tr.depth[s] = 0
		t.dynamic--
		if static != nil {
			t.static -= int(static(s))
		}
	}
	less := func(a, b int) bool {
		return tr.freq[a] < tr.freq[b] || tr.freq[a] == tr.freq[b] && tr.depth[a] <= tr.depth[b]
	}
	sift := func(k int) {
		v := heap[k]
		for j := k << 1; j <= size; j <<= 1 {
			if j < size && less(heap[j+1], heap[j]) {
				j++
			}
			if less(v, heap[j]) {
				break
			}
			heap[k] = heap[j]
			k = j
		}
		heap[k] = v
	}
	for k := size / 2; k >= 1; k-- {
		sift(k)
	}
	order := make([]int, top)
	at := top
	node := n
	for size >= 2 {
		a := heap[1]
		heap[1] = heap[size]
		size--
		sift(1)
		b := heap[1]
		at--
		order[at] = a
		at--
		order[at] = b
		tr.freq[node] = tr.freq[a] + tr.freq[b]
		tr.depth[node] = max(tr.depth[a], tr.depth[b]) + 1
		tr.dad[a], tr.dad[b] = node, node
		heap[1] = node
		node++
		sift(1)
	}
	at--
	order[at] = heap[1]
	count := tr.lengths(order[at:], limit)
	for s := 0; s <= tr.max; s++ {
		if tr.freq[s] == 0 || tr.len[s] == 0 {
			continue
		}
		t.dynamic += tr.freq[s] * int(tr.len[s]+extra(s))
		if static != nil {
			t.static += tr.freq[s] * int(static(s)+extra(s))
		}
	}
	var next [maxBits + 2]uint32
	code := uint32(0)
	for l := 1; l <= maxBits; l++ {
		code = (code + uint32(count[l-1])) << 1
		next[l] = code
	}
	for s := 0; s <= tr.max; s++ {
		if l := tr.len[s]; l != 0 {
			tr.bits[s] = reverse(next[l], l)
			next[l]++
		}
	}
}

// lengths gives every node its depth, root first in order, and shortens those
// beyond the limit.
func (tr *tree) lengths(order []int, limit int) (count [maxBits + 1]int) {
	tr.len[order[0]] = 0
	overflow := 0
	for _, s := range order[1:] {
		l := tr.len[tr.dad[s]] + 1
		if l > uint(limit) {
			l = uint(limit)
			overflow++
		}
		tr.len[s] = l
		if s <= tr.max {
			count[l]++
		}
	}
	if overflow == 0 {
		return count
	}
	for overflow > 0 {
		l := limit - 1
		for count[l] == 0 {
			l--
		}
		count[l]--
		count[l+1] += 2
		count[limit]--
		overflow -= 2
	}
	k := len(order)
	for l := limit; l > 0; l-- {
		for n := count[l]; n > 0; {
			k--
			if s := order[k]; s <= tr.max {
				tr.len[s] = uint(l)
				n--
			}
		}
	}
	return count
}

// eachLength runs over the code lengths of a tree in their packed form: a
// length some times, or a repeat code with its value.
func (tr *tree) eachLength(last int, f func(sym int, value uint32, times int)) {
	prev := -1
	next := int(tr.len[0])
	count, most, least := 0, 7, 4
	if next == 0 {
		most, least = 138, 3
	}
	for s := 0; s <= last; s++ {
		cur := next
		next = -2 // none: the end closes every run
		if s < last {
			next = int(tr.len[s+1])
		}
		if count++; count < most && cur == next {
			continue
		}
		switch {
		case count < least:
			f(cur, 0, count)
		case cur != 0:
			if cur != prev {
				f(cur, 0, 1)
				count--
			}
			f(repeatLast, uint32(count-3), 1)
		case count <= 10:
			f(repeatZero, uint32(count-3), 1)
		default:
			f(repeatZeros, uint32(count-11), 1)
		}
		count, prev = 0, cur
		switch {
		case next == 0:
			most, least = 138, 3
		case cur == next:
			most, least = 6, 3
		default:
			most, least = 7, 4
		}
	}
}
