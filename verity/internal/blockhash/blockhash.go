// Package blockhash digests many blocks of one size, each with the same salt
// before or behind it, as a dm-verity tree asks for. Blocks are independent of
// each other, which a wide CPU can use and one sequential hash cannot.
package blockhash

import (
	"hash"

	"github.com/retally/retally/internal/digest"
)

// A Hasher digests blocks. It has scratch space: one Hasher per goroutine.
type Hasher struct {
	kernel    string
	blockSize int
	size      int
	sum       func(dst, data []byte)
}

// New returns the fastest hasher that this CPU has for the algorithm. The salt
// goes behind the block if saltLast is set (dm-verity hash type 0).
func New(alg digest.Algorithm, blockSize int, salt []byte, saltLast bool) *Hasher {
	names := Kernels(alg, blockSize)
	return newKernel(names[0], alg, blockSize, salt, saltLast)
}

// Kernels names the kernels that can run here, fastest first. The last one is
// always "generic", the standard library one block after the other.
func Kernels(alg digest.Algorithm, blockSize int) []string {
	var names []string
	if alg == digest.SHA256 && blockSize%64 == 0 {
		names = wideKernels()
	}
	return append(names, "generic")
}

// Kernel names the kernel in use.
func (h *Hasher) Kernel() string { return h.kernel }

// Sum digests len(data)/blockSize blocks and writes the digests one behind the
// other to dst. It panics if the lengths do not fit: they are computed by the
// caller, never read from input.
func (h *Hasher) Sum(dst, data []byte) {
	if len(data)%h.blockSize != 0 || len(dst) != len(data)/h.blockSize*h.size {
		panic("blockhash: lengths of data and digests do not fit")
	}
	h.sum(dst, data)
}

func newKernel(name string, alg digest.Algorithm, blockSize int, salt []byte, saltLast bool) *Hasher {
	h := &Hasher{kernel: name, blockSize: blockSize, size: alg.Size()}
	g := &generic{h: alg.New(), blockSize: blockSize, size: alg.Size()}
	if saltLast {
		g.suffix = salt
	} else {
		g.prefix = salt
	}
	h.sum = g.sum
	if lanes := wideLanes(name); lanes != nil {
		w := newWide(lanes, blockSize, g.prefix, g.suffix)
		h.sum = func(dst, data []byte) {
			n := w.sum(dst, data)
			g.sum(dst[n*g.size:], data[n*blockSize:])
		}
	}
	return h
}

// generic is the standard library, one block after the other.
type generic struct {
	h               hash.Hash
	blockSize, size int
	prefix, suffix  []byte
}

func (g *generic) sum(dst, data []byte) {
	for ; len(data) > 0; dst, data = dst[g.size:], data[g.blockSize:] {
		g.h.Reset()
		g.h.Write(g.prefix)
		g.h.Write(data[:g.blockSize])
		g.h.Write(g.suffix)
		g.h.Sum(dst[:0])
	}
}
