//go:build !amd64

package blockhash

// Only amd64 has kernels of its own so far.
func wideKernels() []string { return nil }

func wideLanes(string) *lanes { return nil }
