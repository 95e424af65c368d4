package blockhash

import "github.com/retally/retally/internal/digest"

// NewKernel returns the hasher of a kernel out of Kernels; nil if this CPU does not have it.
func NewKernel(name string, alg digest.Algorithm, blockSize int, salt []byte, saltLast bool) *Hasher {
	for _, k := range Kernels(alg, blockSize) {
		if k == name {
			return newKernel(name, alg, blockSize, salt, saltLast)
		}
	}
	return nil
}
