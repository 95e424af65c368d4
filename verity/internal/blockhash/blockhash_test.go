package blockhash_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity/internal/blockhash"
)

// Every kernel gives the digests of the standard library, for block lengths,
// salts on both sides and numbers of blocks around the lanes.
func TestKernelsEqual(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	data := make([]byte, 40*4096)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	kernels := blockhash.Kernels(digest.SHA256, 4096)
	t.Logf("kernels here: %v", kernels)
	for _, name := range kernels {
		for _, blockSize := range []int{64, 128, 192, 512, 1024, 4096} {
			for _, salt := range []int{0, 1, 7, 31, 32, 55, 56, 57, 63, 64, 65, 119, 128, 255, 256} {
				for _, last := range []bool{false, true} {
					s := data[7 : 7+salt]
					k := blockhash.NewKernel(name, digest.SHA256, blockSize, s, last)
					for _, n := range []int{0, 1, 2, 3, 15, 16, 17, 33} {
						in := data[1 : 1+n*blockSize] // not aligned
						got, want := make([]byte, n*32), make([]byte, 0, n*32)
						for i := range n {
							msg := bytes.Join([][]byte{s, in[i*blockSize : (i+1)*blockSize]}, nil)
							if last {
								msg = bytes.Join([][]byte{in[i*blockSize : (i+1)*blockSize], s}, nil)
							}
							sum := digest.SHA256.Sum(msg)
							want = append(want, sum.Bytes()...)
						}
						k.Sum(got, in)
						if !bytes.Equal(got, want) {
							t.Fatalf("%s: block size %d, salt of %d bytes (last %v), %d blocks: digests differ", name, blockSize, salt, last, n)
						}
					}
				}
			}
		}
	}
}

// The other algorithms have only the standard library.
func TestGenericAlgorithms(t *testing.T) {
	data := bytes.Repeat([]byte("abcdefgh"), 512)
	for _, a := range []digest.Algorithm{digest.SHA1, digest.SHA224, digest.SHA384, digest.SHA512} {
		h := blockhash.New(a, 512, []byte("salt"), true)
		got := make([]byte, 8*a.Size())
		h.Sum(got, data)
		want := a.Sum(append(bytes.Clone(data[:512]), "salt"...))
		if h.Kernel() != "generic" || !bytes.Equal(got[:a.Size()], want.Bytes()) {
			t.Errorf("%v: %s kernel, digest differs", a, h.Kernel())
		}
	}
}

func TestKernelNames(t *testing.T) {
	if k := blockhash.NewKernel("none", digest.SHA256, 4096, nil, false); k != nil {
		t.Error("got a kernel that does not exist")
	}
	defer func() {
		if recover() == nil {
			t.Error("lengths that do not fit are accepted")
		}
	}()
	blockhash.New(digest.SHA256, 4096, nil, false).Sum(make([]byte, 32), make([]byte, 4095))
}

// BenchmarkLeaf is the leaf hash of a model disk: 4096-byte blocks with a salt
// of one byte, one core.
func BenchmarkLeaf(b *testing.B) {
	for _, name := range blockhash.Kernels(digest.SHA256, 4096) {
		b.Run(fmt.Sprintf("kernel=%s", name), func(b *testing.B) {
			const size = 512 << 10
			data, sums := make([]byte, size), make([]byte, size/4096*32)
			h := blockhash.NewKernel(name, digest.SHA256, 4096, []byte{0}, false)
			b.SetBytes(size)
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			start := threadTime()
			for b.Loop() {
				h.Sum(sums, data)
			}
			// On a shared machine the time on the CPU says more than the clock.
			if used := threadTime() - start; used > 0 {
				b.ReportMetric(float64(size)*float64(b.N)/used.Seconds()/1e6, "MB/cpu-s")
			}
		})
	}
}
