package blockhash

import "encoding/binary"

// lanes is a kernel that advances several SHA-256 states at once.
type lanes struct {
	width int // states
	// compress feeds n 64-byte message blocks to every state. Lane i reads
	// from data[i*stride:]. The states are transposed: word j of lane i is
	// state[j*width+i].
	compress func(state *uint32, data *byte, stride, n int)
}

// initial is the SHA-256 initial hash value (FIPS 180-4, section 5.3.3).
var initial = [8]uint32{
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
	0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
}

// wide cuts salted blocks into what a lanes kernel can read. A message is
// prefix ‖ block ‖ suffix ‖ padding; its 64-byte pieces are of three kinds:
//
//	head  the last bytes of the prefix and the first bytes of the block
//	body  pieces that lie whole in the block, read in place
//	tail  the rest of the block, the suffix and the padding
//
// Pieces made of the prefix alone are the same for all blocks: their state is
// computed once.
type wide struct {
	*lanes
	blockSize int
	start     []uint32 // transposed states after the whole pieces of the prefix
	state     []uint32

	prefixRest int // bytes of the prefix in the head
	skip       int // bytes of the block in the head
	body       int // pieces in the body
	rest       int // bytes of the block in the tail
	head, tail []byte
	headSize   int // 0 or 64
	tailSize   int // a multiple of 64
}

func newWide(l *lanes, blockSize int, prefix, suffix []byte) *wide {
	w := &wide{lanes: l, blockSize: blockSize, start: make([]uint32, 8*l.width), state: make([]uint32, 8*l.width)}
	for j, v := range initial {
		for i := range l.width {
			w.start[j*l.width+i] = v
		}
	}
	if whole := len(prefix) / 64; whole > 0 {
		l.compress(&w.start[0], &prefix[0], 0, whole)
	}
	w.prefixRest = len(prefix) % 64
	if w.prefixRest > 0 {
		w.headSize = 64
		w.skip = 64 - w.prefixRest
		w.head = make([]byte, 64*l.width)
		for i := range l.width {
			copy(w.head[64*i:], prefix[len(prefix)-w.prefixRest:])
		}
	}
	w.body = (blockSize - w.skip) / 64
	w.rest = blockSize - w.skip - 64*w.body
	// 0x80 and the length in bits behind the message, FIPS 180-4 section 5.1.1.
	w.tailSize = (w.rest + len(suffix) + 1 + 8 + 63) / 64 * 64
	w.tail = make([]byte, w.tailSize*l.width)
	for i := range l.width {
		t := w.tail[w.tailSize*i:][:w.tailSize]
		t[w.rest+copy(t[w.rest:], suffix)] = 0x80
		binary.BigEndian.PutUint64(t[w.tailSize-8:], 8*uint64(len(prefix)+blockSize+len(suffix)))
	}
	return w
}

// sum digests as many blocks as fill the lanes and returns their number. The
// rest, fewer than the lanes, is the caller's.
func (w *wide) sum(dst, data []byte) int {
	n := len(data) / w.blockSize / w.width * w.width
	for k := 0; k < n; k += w.width {
		group := data[k*w.blockSize:][:w.width*w.blockSize]
		copy(w.state, w.start)
		if w.headSize > 0 {
			for i := range w.width {
				copy(w.head[64*i+w.prefixRest:64*i+64], group[i*w.blockSize:])
			}
			w.compress(&w.state[0], &w.head[0], 64, 1)
		}
		if w.body > 0 {
			w.compress(&w.state[0], &group[w.skip], w.blockSize, w.body)
		}
		for i := range w.width {
			copy(w.tail[i*w.tailSize:][:w.rest], group[(i+1)*w.blockSize-w.rest:])
		}
		w.compress(&w.state[0], &w.tail[0], w.tailSize, w.tailSize/64)
		for i := range w.width {
			out := dst[(k+i)*32:]
			for j := range 8 {
				binary.BigEndian.PutUint32(out[4*j:], w.state[j*w.width+i])
			}
		}
	}
	return n
}
