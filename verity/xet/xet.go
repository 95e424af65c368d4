// Package xet gives the hash by which a hub with Xet storage names the content
// of a file (draft-denis-xet). The content is cut into chunks where a rolling
// hash says so, the chunks are hashed, and their hashes are merged in a tree.
package xet

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"strconv"

	"lukechampine.com/blake3"
)

// Size is the length of a hash in bytes.
const Size = 32

// Chunk sizes in bytes, and the bits of the rolling hash that are zero at a
// border (draft-denis-xet, "Content-Defined Chunking").
const (
	minChunk = 8 << 10
	maxChunk = 128 << 10
	mask     = 0xffff000000000000
	// window is how many bytes the rolling hash depends on: each is shifted
	// out after so many more.
	window = 64
)

// The keys of chunks and of inner nodes (draft-denis-xet, "Hashing Methods").
var (
	dataKey = [Size]byte{
		0x66, 0x97, 0xf5, 0x77, 0x5b, 0x95, 0x50, 0xde, 0x31, 0x35, 0xcb, 0xac, 0xa5, 0x97, 0x18, 0x1c,
		0x9d, 0xe4, 0x21, 0x10, 0x9b, 0xeb, 0x2b, 0x58, 0xb4, 0xd0, 0xb0, 0x4b, 0x93, 0xad, 0xf2, 0x29,
	}
	nodeKey = [Size]byte{
		0x01, 0x7e, 0xc5, 0xc7, 0xa5, 0x47, 0x29, 0x96, 0xfd, 0x94, 0x66, 0x66, 0xb4, 0x8a, 0x02, 0xe6,
		0x5d, 0xdd, 0x53, 0x6f, 0x37, 0xc7, 0x6d, 0xd2, 0xf8, 0x63, 0x52, 0xe6, 0x4a, 0x53, 0x71, 0x3f,
	}
)

// Hash computes the hash of a file that is written to it. It keeps one chunk
// and a few nodes a level, whatever the length.
type Hash struct {
	chunk   []byte // of the current chunk, what is not hashed yet
	scanned int    // bytes of it that have no border
	chunks  uint64
	levels  []level
	data    *blake3.Hasher
	node    *blake3.Hasher
}

var _ hash.Hash = (*Hash)(nil)

// New returns an empty Hash.
func New() *Hash {
	return &Hash{data: blake3.New(Size, dataKey[:]), node: blake3.New(Size, nodeKey[:])}
}

// Size implements hash.Hash.
func (h *Hash) Size() int { return Size }

// BlockSize implements hash.Hash.
func (h *Hash) BlockSize() int { return window }

// Reset implements hash.Hash.
func (h *Hash) Reset() { h.chunk, h.scanned, h.chunks, h.levels = h.chunk[:0], 0, 0, nil }

// Chunks is how many chunks the bytes so far have.
func (h *Hash) Chunks() uint64 {
	if len(h.chunk) > 0 {
		return h.chunks + 1
	}
	return h.chunks
}

// Write implements io.Writer.
func (h *Hash) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if len(h.chunk) > 0 {
			had := len(h.chunk)
			h.chunk = append(h.chunk, p[:min(len(p), maxChunk-had)]...)
			end := border(h.chunk, h.scanned)
			if end == 0 {
				h.scanned = len(h.chunk)
				return n, nil
			}
			h.take(h.chunk[:end])
			h.chunk, h.scanned = h.chunk[:0], 0
			p = p[end-had:]
			continue
		}
		end := border(p[:min(len(p), maxChunk)], 0)
		if end == 0 {
			h.chunk, h.scanned = append(h.chunk, p...), len(p)
			return n, nil
		}
		h.take(p[:end])
		p = p[end:]
	}
	return n, nil
}

// take hashes a whole chunk.
func (h *Hash) take(chunk []byte) {
	h.chunks++
	n := node{size: uint64(len(chunk))}
	sum(h.data, chunk, &n.hash)
	h.add(0, n)
}

func sum(h *blake3.Hasher, b []byte, out *[Size]byte) {
	h.Reset()
	h.Write(b)
	h.Sum(out[:0])
}

// Sum implements hash.Hash: the bytes behind the hexadecimal form that Text
// writes.
func (h *Hash) Sum(b []byte) []byte {
	if h.Chunks() == 0 {
		return append(b, make([]byte, Size)...)
	}
	// A copy ends here, so that more can be written afterwards.
	c := &Hash{chunks: h.chunks, data: h.data, node: h.node}
	for _, l := range h.levels {
		c.levels = append(c.levels, level{pending: append([]node(nil), l.pending...), merged: l.merged})
	}
	if len(h.chunk) > 0 {
		c.take(h.chunk)
	}
	root := c.root()
	// The salt of a file's hash is zero.
	file := blake3.New(Size, make([]byte, Size))
	file.Write(root[:])
	return file.Sum(b)
}

// border finds the length of the first chunk of b, which is at most maxChunk
// long and has no border in its first bytes, as far as they are scanned. 0
// means that b has none.
func border(b []byte, scanned int) int {
	if s := search(b, max(scanned, minChunk-1)); s > 0 {
		return s
	}
	if len(b) >= maxChunk {
		return maxChunk
	}
	return 0
}

// lane is how many bytes search tests in each of four places at a time.
const lane = 2048

// search finds the lowest length over from at which the rolling hash is zero
// under the mask; 0 means none. The hash depends on the last 64 bytes only, so
// that four places are tested at once.
func search(b []byte, from int) int {
	for from+4*lane <= len(b) {
		h0, h1 := warm(b, from), warm(b, from+lane)
		h2, h3 := warm(b, from+2*lane), warm(b, from+3*lane)
		p0, p1 := (*[lane]byte)(b[from:]), (*[lane]byte)(b[from+lane:])
		p2, p3 := (*[lane]byte)(b[from+2*lane:]), (*[lane]byte)(b[from+3*lane:])
		found := 0
		for i := range lane {
			h0 = h0<<1 + gear[p0[i]]
			h1 = h1<<1 + gear[p1[i]]
			h2 = h2<<1 + gear[p2[i]]
			h3 = h3<<1 + gear[p3[i]]
			if h0&mask == 0 {
				return from + i + 1
			}
			if h1&mask == 0 || h2&mask == 0 || h3&mask == 0 {
				found++
			}
		}
		if found > 0 {
			break // in one of the other three; the loop below says where
		}
		from += 4 * lane
	}
	if from >= len(b) {
		return 0
	}
	h := warm(b, from)
	for i, c := range b[from:] {
		if h = h<<1 + gear[c]; h&mask == 0 {
			return from + i + 1
		}
	}
	return 0
}

// warm is the rolling hash of the 64 bytes before a place.
func warm(b []byte, at int) (h uint64) {
	for _, c := range b[at-window : at] {
		h = h<<1 + gear[c]
	}
	return h
}

// node is a chunk, or some nodes of the level below.
type node struct {
	hash [Size]byte
	size uint64 // bytes of content below it
}

// level has the nodes that no cut is decided for yet.
type level struct {
	pending []node
	merged  bool // nodes of this level were merged before
}

// most is how many nodes are merged at most, from three on.
const most = 9

// add puts a node on a level; as soon as there are enough to know the next
// cut, they are merged.
func (h *Hash) add(at int, n node) {
	if at == len(h.levels) {
		h.levels = append(h.levels, level{})
	}
	l := &h.levels[at]
	l.pending = append(l.pending, n)
	if len(l.pending) < most {
		return
	}
	h.merge(at)
}

// merge makes one node of the first of a level, up to the next cut.
func (h *Hash) merge(at int) {
	l := &h.levels[at]
	n := cut(l.pending)
	up := h.parent(l.pending[:n])
	l.pending = append(l.pending[:0], l.pending[n:]...)
	l.merged = true
	h.add(at+1, up)
}

// cut says how many of the first nodes are merged (draft-denis-xet, "Merkle
// Tree Construction").
func cut(nodes []node) int {
	if len(nodes) <= 2 {
		return len(nodes)
	}
	end := min(most, len(nodes))
	for i := 2; i < end; i++ {
		if binary.LittleEndian.Uint64(nodes[i].hash[24:])%4 == 0 {
			return i + 1
		}
	}
	return end
}

func (h *Hash) parent(nodes []node) (up node) {
	text := make([]byte, 0, most*90)
	for _, n := range nodes {
		text = append(text, Text(n.hash[:])...)
		text = append(text, " : "...)
		text = strconv.AppendUint(text, n.size, 10)
		text = append(text, '\n')
		up.size += n.size
	}
	sum(h.node, text, &up.hash)
	return up
}

// root merges all that is left: the root is the only node of its level.
func (h *Hash) root() [Size]byte {
	for at := 0; ; at++ {
		if l := h.levels[at]; !l.merged && len(l.pending) == 1 {
			return l.pending[0].hash
		}
		for len(h.levels[at].pending) > 0 {
			h.merge(at)
		}
	}
}

// Text writes a hash as hubs do: hexadecimal, each group of eight bytes from
// its last byte to its first.
func Text(sum []byte) string {
	var b [Size]byte
	for i := 0; i < Size; i += 8 {
		binary.BigEndian.PutUint64(b[i:], binary.LittleEndian.Uint64(sum[i:]))
	}
	return hex.EncodeToString(b[:])
}

// Check says what keeps a text from being a hash as Text writes it.
func Check(text string) error {
	if b, err := hex.DecodeString(text); err != nil || len(b) != Size || hex.EncodeToString(b) != text {
		return fmt.Errorf("is %.80q, want a Xet hash of 64 lower-case hex digits", text)
	}
	return nil
}
