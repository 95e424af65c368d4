package blockhash

import "golang.org/x/sys/cpu"

//go:generate go -C asm run . -out ../lanes_amd64.s -stubs ../lanes_amd64.go -pkg blockhash

// featureSHA is the bit of the SHA extensions in EBX of CPUID leaf 7.
const featureSHA = 1 << 29

// wideKernels names what this CPU has, fastest first.
func wideKernels() []string {
	var names []string
	if cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW {
		names = append(names, "avx512x16")
	}
	if extendedFeatures()&featureSHA != 0 && cpu.X86.HasSSE41 {
		names = append(names, "sha-nix2")
	}
	return names
}

// wideLanes returns a kernel by its name, nil for any other name.
func wideLanes(name string) *lanes {
	switch name {
	case "avx512x16":
		return &lanes{16, compress16}
	case "sha-nix2":
		return &lanes{2, compress2}
	}
	return nil
}
