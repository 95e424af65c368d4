// Package zlib compresses as the C library of that name does, bit by bit, at
// its default memory level and window (levels 1 to 9, raw deflate). It is no
// compressor to use: it exists to find out whether a layer was made by that
// library, which Python, bsdtar and many others link, and at which level.
//
// The choices that RFC 1951 leaves open (hash chains, lazy matching, where
// blocks end, ties between code lengths) are those of zlib's
// doc/algorithm.txt and of its tables of parameters, which are facts of the
// format of its output.
package zlib

import (
	"fmt"
	"io"
)

const (
	windowSize   = 32 << 10
	windowMask   = windowSize - 1
	minMatch     = 3
	maxMatch     = 258
	minLookahead = maxMatch + minMatch + 1
	maxDistance  = windowSize - minLookahead
	tooFar       = 4096 // matches of three bytes beyond are given up
	hashBits     = 15
	hashMask     = 1<<hashBits - 1
	blockSymbols = 16<<10 - 1 // a block ends after so many symbols
)

// parameters of a level: shorten the search from good on, no lazy match from
// lazy on, stop at nice, and the length of the search.
type parameters struct{ good, lazy, nice, chain int }

var levels = [10]parameters{
	1: {4, 4, 8, 4}, 2: {4, 5, 16, 8}, 3: {4, 6, 32, 32}, // greedy
	4: {4, 4, 16, 16}, 5: {8, 16, 32, 32}, 6: {8, 16, 128, 128}, // lazy
	7: {8, 32, 128, 256}, 8: {32, 128, 258, 1024}, 9: {32, 258, 258, 4096},
}

// Writer makes one deflate stream.
type Writer struct {
	parameters
	lazyMatching bool
	window       [2 * windowSize]byte
	head         [1 << hashBits]uint16 // 0 is none: position 0 is never found
	prev         [windowSize]uint16

	start     int // of the string to code now
	lookahead int // bytes behind it
	block     int // where the block began; negative if it left the window

	length, from int // current match
	pending      bool
	prevLength   int
	prevFrom     int

	t   trees
	out bitWriter

	gnu   bool // blocks end where GNU gzip ends them
	level int
	owed  int // strings at the end of the dictionary that are not in the table yet
}

// NewWriter returns a writer for a level from 1 to 9.
func NewWriter(w io.Writer, level int) (*Writer, error) {
	if level < 1 || level > 9 {
		return nil, fmt.Errorf("level %d is not reproduced, only 1 to 9 are", level)
	}
	z := &Writer{parameters: levels[level], level: level, lazyMatching: level >= 4, length: minMatch - 1, prevLength: minMatch - 1}
	z.out.w = w
	z.t.reset()
	return z, nil
}

// NewGNUWriter returns a writer that ends blocks as GNU gzip 1.12 does, which
// otherwise makes the same choices.
func NewGNUWriter(w io.Writer, level int) (*Writer, error) {
	z, err := NewWriter(w, level)
	if err == nil {
		z.gnu = true
	}
	return z, err
}

// NewWriterDict returns a writer whose stream follows content that the reader
// has already, of which the last 32 KiB count.
func NewWriterDict(w io.Writer, level int, dict []byte) (*Writer, error) {
	z, err := NewWriter(w, level)
	if err != nil || len(dict) < minMatch {
		return z, err
	}
	dict = dict[max(0, len(dict)-windowSize):]
	z.start = copy(z.window[:], dict)
	z.block = z.start
	for pos := 0; pos <= z.start-minMatch; pos++ {
		z.insert(pos)
	}
	z.owed = minMatch - 1
	return z, nil
}

// settle enters the last strings of the dictionary once what follows is known.
func (z *Writer) settle() {
	for z.owed > 0 && z.lookahead+z.owed >= minMatch {
		z.insert(z.start - z.owed)
		z.owed--
	}
}

// CloseBlock ends the stream at a byte, so that another may follow: as pigz does,
// with empty fixed blocks of ten bits, or with an empty stored block where an odd
// bit is left.
func (z *Writer) CloseBlock() error {
	z.rest()
	if len(z.t.symbols) > 0 {
		z.flush(false)
	}
	if z.out.n&1 == 1 {
		z.out.put(0, 3)
		z.out.align()
		z.out.put(0, 16)
		z.out.put(0xffff, 16)
	}
	for z.out.n != 0 {
		z.out.put(1<<1, 10)
	}
	z.out.drain()
	return z.out.err
}

// rest codes all that is left.
func (z *Writer) rest() {
	if z.start+z.lookahead == len(z.window) {
		z.run(false)
		z.slide()
	}
	z.run(true)
}

// Write takes content. Like the library it codes only what has a full
// lookahead behind it, so that the output does not depend on the pieces.
func (z *Writer) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if z.start+z.lookahead == len(z.window) {
			z.run(false)
			z.slide()
		}
		k := copy(z.window[z.start+z.lookahead:], p)
		z.lookahead += k
		z.settle()
		p = p[k:]
		if z.out.err != nil {
			return n - len(p), z.out.err
		}
	}
	return n, nil
}

// Close ends the stream.
func (z *Writer) Close() error {
	z.rest()
	z.flush(true)
	z.out.align()
	z.out.drain()
	return z.out.err
}

// slide moves the upper half of the window down when the lower is out of reach.
func (z *Writer) slide() {
	if z.start < windowSize+maxDistance {
		return
	}
	copy(z.window[:windowSize], z.window[windowSize:])
	z.start -= windowSize
	z.from -= windowSize
	z.prevFrom -= windowSize
	z.block -= windowSize
	down := func(table []uint16) {
		for i, v := range table {
			table[i] = uint16(max(int(v)-windowSize, 0))
		}
	}
	down(z.head[:])
	down(z.prev[:])
}

// insert enters the string at pos into the table and returns the one before
// with the same hash of three bytes.
func (z *Writer) insert(pos int) int {
	w := z.window[pos:]
	h := (int(w[0])<<10 ^ int(w[1])<<5 ^ int(w[2])) & hashMask
	found := z.head[h]
	z.prev[pos&windowMask] = found
	z.head[h] = uint16(pos)
	return int(found)
}

// run codes strings while there is enough behind them, or all at the end.
func (z *Writer) run(end bool) {
	for z.lookahead >= minLookahead || end && z.lookahead > 0 {
		if z.out.err != nil {
			return
		}
		if z.lazyMatching {
			z.lazyStep()
		} else {
			z.greedyStep()
		}
	}
	if end && z.pending {
		z.t.literal(z.window[z.start-1])
		z.pending = false
	}
}

func (z *Writer) greedyStep() {
	found := 0
	if z.lookahead >= minMatch {
		found = z.insert(z.start)
	}
	if found != 0 && z.start-found <= maxDistance {
		z.length = z.longest(found)
	}
	full := false
	if z.length >= minMatch {
		z.t.match(z.start-z.from, z.length)
		full = z.full()
		z.lookahead -= z.length
		if z.length <= z.lazy && z.lookahead >= minMatch {
			for z.length--; z.length > 0; z.length-- {
				z.start++
				z.insert(z.start)
			}
			z.start++
		} else {
			z.start += z.length
			z.length = 0
		}
	} else {
		z.t.literal(z.window[z.start])
		full = z.full()
		z.lookahead--
		z.start++
	}
	if full {
		z.flush(false)
	}
}

func (z *Writer) lazyStep() {
	found := 0
	if z.lookahead >= minMatch {
		found = z.insert(z.start)
	}
	z.prevLength, z.prevFrom = z.length, z.from
	z.length = minMatch - 1
	if found != 0 && z.prevLength < z.lazy && z.start-found <= maxDistance {
		z.length = z.longest(found)
		if z.length == minMatch && z.start-z.from > tooFar {
			z.length = minMatch - 1
		}
	}
	switch {
	case z.prevLength >= minMatch && z.length <= z.prevLength:
		last := z.start + z.lookahead - minMatch
		z.t.match(z.start-1-z.prevFrom, z.prevLength)
		full := z.full()
		z.lookahead -= z.prevLength - 1
		for z.prevLength -= 2; z.prevLength > 0; z.prevLength-- {
			if z.start++; z.start <= last {
				z.insert(z.start)
			}
		}
		z.pending, z.length = false, minMatch-1
		z.start++
		if full {
			z.flush(false)
		}
	case z.pending:
		if z.t.literal(z.window[z.start-1]); z.full() {
			z.flush(false)
		}
		z.start++
		z.lookahead--
	default:
		z.pending = true
		z.start++
		z.lookahead--
	}
}

// longest follows the chain from found and returns the length of the best
// match, whose place it leaves in z.from.
func (z *Writer) longest(found int) int {
	chain, best, nice := z.chain, z.prevLength, min(z.nice, z.lookahead)
	if z.prevLength >= z.good {
		chain >>= 2
	}
	limit := max(z.start-maxDistance, 0)
	scan := z.window[z.start:min(z.start+maxMatch, len(z.window))]
	for {
		match := z.window[found:]
		if best < len(scan) && match[best] == scan[best] && match[best-1] == scan[best-1] && match[0] == scan[0] && match[1] == scan[1] {
			n := 2
			for n < len(scan) && match[n] == scan[n] {
				n++
			}
			if n > best {
				z.from, best = found, n
				if n >= nice {
					break
				}
			}
		}
		found = int(z.prev[found&windowMask])
		chain--
		if found <= limit || chain == 0 {
			break
		}
	}
	return min(best, z.lookahead)
}

// Limits of a block in GNU gzip (deflate.c and trees.c of gzip 1.12).
const (
	gnuSymbols = 32<<10 - 1
	gnuMatches = 32 << 10
	gnuLook    = 4096 // symbols between two looks at how well it goes
)

// full reports whether the block ends with the last symbol. GNU gzip also ends
// one that compresses well with few matches.
func (z *Writer) full() bool {
	n := len(z.t.symbols)
	if !z.gnu {
		return n == blockSymbols
	}
	if z.level > 2 && n%gnuLook == 0 && z.t.matches < n/2 {
		if out := (8*n + z.t.distances()) / 8; out < (z.start-z.block)/2 {
			return true
		}
	}
	return n == gnuSymbols || z.t.matches == gnuMatches
}

func (z *Writer) flush(last bool) {
	var stored []byte
	if z.block >= 0 {
		stored = z.window[z.block:z.start]
	}
	z.t.flush(&z.out, stored, z.block >= 0, z.start-z.block, last)
	z.block = z.start
}

// bitWriter writes bits from the least significant on.
type bitWriter struct {
	w    io.Writer
	buf  []byte
	bits uint64
	n    uint
	err  error
}

func (b *bitWriter) put(v uint32, n uint) {
	b.bits |= uint64(v) << b.n
	b.n += n
	for b.n >= 8 {
		b.buf = append(b.buf, byte(b.bits))
		b.bits >>= 8
		b.n -= 8
	}
	if len(b.buf) >= 32<<10 {
		b.drain()
	}
}

func (b *bitWriter) align() {
	if b.n > 0 {
		b.buf = append(b.buf, byte(b.bits))
		b.bits, b.n = 0, 0
	}
}

func (b *bitWriter) drain() {
	if b.err == nil && len(b.buf) > 0 {
		_, b.err = b.w.Write(b.buf)
	}
	b.buf = b.buf[:0]
}
