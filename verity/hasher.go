package verity

import "github.com/retally/retally/verity/internal/blockhash"

// A BlockHasher digests blocks of one size with a tree's hash and salt, on the
// fastest path that the CPU has. It belongs to one goroutine.
type BlockHasher struct{ h *blockhash.Hasher }

// DataHasher returns a hasher of data blocks.
func (p Params) DataHasher() BlockHasher { return BlockHasher{p.hasher(p.DataBlockSize)} }

// HashHasher returns a hasher of hash blocks.
func (p Params) HashHasher() BlockHasher { return BlockHasher{p.hasher(p.HashBlockSize)} }

// Sum writes the digests of the blocks in data, one behind the other, to dst,
// which must have exactly the room.
func (b BlockHasher) Sum(dst, data []byte) { b.h.Sum(dst, data) }

// Kernel names the code path, for reports about speed.
func (b BlockHasher) Kernel() string { return b.h.Kernel() }
