package erofs

import "math/bits"

const (
	blockSize = 4096
	blockBits = 12
)

// piece is what a buffer holds at some offset.
type piece struct {
	kind  pieceKind
	off   int64 // in the buffer, bytes
	inode *inode
}

type pieceKind uint8

const (
	superblockPiece pieceKind = iota
	inodePiece                // inode record, with the xattr area if it has one
	tailPiece                 // inline tail of a file, symlink or directory
	dirPiece                  // whole blocks of a directory's content
	filePiece                 // whole blocks of a file's content
)

const unmapped = -1

// buffer is a run of image blocks that is filled from the front. Buffers form
// a list in disk order.
type buffer struct {
	prev, next *buffer
	data       bool  // file content; else metadata
	addr       int64 // first block, or unmapped
	off        int64 // used bytes
	blocks     int64 // spanned so far
	live       int   // pieces not yet released
	pieces     []piece
	first      [2]piece // room for the pieces of nearly all buffers

	// Place in a bucket; set is nil outside.
	set                    *bucketSet
	index                  int
	bucketPrev, bucketNext *buffer
}

func (b *buffer) mapped() bool { return b.addr != unmapped }

// bucketSet holds FIFO queues of metadata buffers by the number of used bytes
// in their last block, with a bitmap of the queues that are not empty.
type bucketSet struct {
	queues [blockSize]struct{ head, tail *buffer }
	used   [blockSize / 64]uint64
}

// next counts down from c to low and returns the first number whose queue
// (modulo the block size) is not empty, -1 if there is none.
func (s *bucketSet) next(c, low int) int {
	for c >= low {
		base := c &^ (blockSize - 1)
		if i := s.highest(c-base, max(low-base, 0)); i >= 0 {
			return base + i
		}
		c = base - 1
	}
	return -1
}

// highest returns the largest non-empty index in [low, i], -1 if there is none.
func (s *bucketSet) highest(i, low int) int {
	for w := i >> 6; w >= 0 && w >= low>>6; w-- {
		word := s.used[w]
		if w == i>>6 {
			word &= ^uint64(0) >> (63 - i&63)
		}
		if word != 0 {
			if n := w<<6 + bits.Len64(word) - 1; n >= low {
				return n
			}
			return -1
		}
	}
	return -1
}

func (s *bucketSet) remove(b *buffer) {
	q := &s.queues[b.index]
	if b.bucketPrev != nil {
		b.bucketPrev.bucketNext = b.bucketNext
	} else {
		q.head = b.bucketNext
	}
	if b.bucketNext != nil {
		b.bucketNext.bucketPrev = b.bucketPrev
	} else {
		q.tail = b.bucketPrev
	}
	if q.head == nil {
		s.used[b.index>>6] &^= 1 << (b.index & 63)
	}
	b.set, b.bucketPrev, b.bucketNext = nil, nil, nil
}

func (s *bucketSet) append(b *buffer, index int) {
	q := &s.queues[index]
	b.set, b.index, b.bucketPrev = s, index, q.tail
	if q.tail != nil {
		q.tail.bucketNext = b
	} else {
		q.head = b
	}
	q.tail = b
	s.used[index>>6] |= 1 << (index & 63)
}

// allocator is the block allocator of erofs-utils since 1.8.6. Which buffer an
// inode lands in is part of the image's bytes, so the search order is kept
// with all its quirks.
type allocator struct {
	list             buffer // sentinel of the circular list; counts as unmapped
	last             *buffer
	tail             int64 // next free block
	unmapped, mapped bucketSet
	all              []*buffer // in order of creation
}

func newAllocator() *allocator {
	a := &allocator{}
	a.list.prev, a.list.next, a.list.addr = &a.list, &a.list, unmapped
	a.last = &a.list
	return a
}

// queue moves b to the end of the bucket for its present state.
func (a *allocator) queue(b *buffer) {
	if b.data {
		return // never searched
	}
	if b.set != nil {
		b.set.remove(b)
	}
	set := &a.unmapped
	if b.mapped() {
		set = &a.mapped
	}
	set.append(b, int(b.off%blockSize))
}

// fit says where size bytes with the given alignment would go in b, and how
// many bytes of its last block would then be used. They may not fit: an inline
// tail of inl bytes behind them must not cross a block border, and b cannot
// grow into a mapped successor or behind other blocks.
func (a *allocator) fit(b *buffer, size, align, inl int64) (at, used int64, grow, ok bool) {
	at = roundUp(b.off, align)
	used = (at + size + blockSize - 1) & (blockSize - 1)
	if used+inl > blockSize-1 {
		return 0, 0, false, false
	}
	end := at + size + inl
	if room := b.blocks << blockBits; end >= room {
		if end > room && b.next.mapped() {
			return 0, 0, false, false
		}
		if b.mapped() {
			grow = a.tail == b.addr+b.blocks
			if end > room && !grow {
				return 0, 0, false, false
			}
		}
	}
	return at, used + 1, grow, true
}

// attach puts a piece of size bytes into b. The inline tail behind it is only
// checked for: it is attached by itself.
func (a *allocator) attach(b *buffer, size, align, inl int64, p piece) bool {
	at, _, grow, ok := a.fit(b, size, align, inl)
	if !ok {
		return false
	}
	p.off = at
	b.pieces = append(b.pieces, p)
	b.live++
	b.off = at + size
	b.blocks = max(b.blocks, ceilBlocks(b.off))
	if grow {
		a.tail = b.addr + b.blocks
	}
	a.queue(b)
	return true
}

// find searches the metadata buffers for the best fit, nil if there is none.
func (a *allocator) find(size, inl, align int64) *buffer {
	used0 := int((blockSize - (size+inl)%blockSize) / align * align)
	skip := size+inl >= blockSize
	var best *buffer
	var bestUsed int64

	// consider returns whether b fits at all.
	consider := func(b *buffer) bool {
		_, used, _, ok := a.fit(b, size, align, inl)
		if ok && used+inl > bestUsed {
			best, bestUsed = b, used+inl
		}
		return ok
	}
	// Pass 1: mapped buffers by used bytes, from used0 down to 1. The last
	// mapped one is passed over for the second in its queue and tried on its
	// own afterwards.
	from, low := used0+blockSize, blockSize+1
	if !skip {
		for c := a.mapped.next(from, low); c >= 0; c = a.mapped.next(c-1, low) {
			b := a.mapped.queues[c%blockSize].head
			if !b.next.mapped() {
				if b = b.bucketNext; b == nil {
					continue
				}
			}
			if consider(b) {
				break
			}
		}
		if a.last != &a.list && !a.last.data {
			consider(a.last)
		}
		// Pass 2 goes on below: 0, and 4095 down to used0+align.
		low = used0 + int(align)
	}
	// Pass 2: unmapped buffers. A full one is worth trying, it can grow.
	for c := a.unmapped.next(from, low); c >= 0; c = a.unmapped.next(c-1, low) {
		if consider(a.unmapped.queues[c%blockSize].head) {
			break
		}
	}
	return best
}

// alloc finds or makes room for size bytes and an inline tail of inl bytes. It
// returns nil if the tail does not fit; the empty buffer that was made for it
// then stays in the list, where it will be mapped without occupying anything.
func (a *allocator) alloc(data bool, size, align, inl int64, p piece) *buffer {
	var b *buffer
	if align < blockSize {
		b = a.find(size, inl, align)
	}
	if b == nil {
		b = &buffer{data: data, addr: unmapped}
		b.pieces = b.first[:0]
		a.all = append(a.all, b)
		if data {
			a.insertAfter(a.last, b)
		} else {
			a.insertAfter(a.list.prev, b)
		}
	}
	if !a.attach(b, size, align, inl, p) {
		return nil
	}
	return b
}

// mapTo gives addresses to all buffers up to and including b; the sentinel
// means all there are.
func (a *allocator) mapTo(b *buffer) {
	if b.mapped() {
		return
	}
	for {
		n := a.last.next
		if n == &a.list {
			return
		}
		n.addr = a.tail
		a.last = n
		a.queue(n)
		a.tail = max(a.tail, n.addr+n.blocks)
		if n == b {
			return
		}
	}
}

// release drops n pieces of b that were written. An empty buffer leaves the
// list, its addresses stay used.
func (a *allocator) release(b *buffer, n int) {
	b.live -= n
	if b.live > 0 {
		return
	}
	if a.last == b {
		a.last = b.prev
	}
	if b.set != nil {
		b.set.remove(b)
	}
	b.prev.next, b.next.prev = b.next, b.prev
}

func (a *allocator) insertAfter(at, b *buffer) {
	b.prev, b.next = at, at.next
	at.next.prev, at.next = b, b
}

// roundUp rounds up to a multiple of a, a power of two.
func roundUp(x, a int64) int64 { return (x + a - 1) &^ (a - 1) }

func ceilBlocks(x int64) int64 { return (x + blockSize - 1) >> blockBits }
