package verity

import (
	"runtime"
	"sync/atomic"
)

// Progress counts bytes. Whoever shows it polls it; computing never waits for
// it. The zero value is ready, and a nil *Progress counts nothing.
type Progress struct {
	total, done atomic.Int64
}

// Start sets the number of bytes of the whole work and of what is already done.
func (p *Progress) Start(total, done int64) {
	if p != nil {
		p.total.Store(total)
		p.done.Store(done)
	}
}

// Add counts n more bytes.
func (p *Progress) Add(n int64) {
	if p != nil {
		p.done.Add(n)
	}
}

// Read returns the counters in bytes; total is 0 until it is known.
func (p *Progress) Read() (done, total int64) {
	if p == nil {
		return 0, 0
	}
	return p.done.Load(), p.total.Load()
}

// Options tune a computation without changing its result.
type Options struct {
	Workers   int // goroutines that read and hash; 0 means one per core
	ChunkSize int // bytes read at once, a power of two; 0 means a fitting default
	Progress  *Progress
}

func (o Options) workers() int {
	if o.Workers > 0 {
		return o.Workers
	}
	return runtime.GOMAXPROCS(0)
}

// chunkSize is a multiple of the block size (both are powers of two).
func (o Options) chunkSize(blockSize int) int {
	if o.ChunkSize > 0 {
		return max(o.ChunkSize/blockSize*blockSize, blockSize)
	}
	return max(256<<10, blockSize)
}
