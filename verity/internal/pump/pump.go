// Package pump moves a long byte range through several workers in chunks and
// hands the chunks on in their order. Workers fill and digest a chunk while it
// is in the cache; whatever must see the bytes in sequence comes behind them.
package pump

import (
	"context"
	"sync"
	"sync/atomic"
)

// A Chunk is one piece of the range. Its buffers belong to the pump and are
// used again after Commit, or after the last Release if Commit retained it.
type Chunk struct {
	Off  int64  // of Data in the range, in bytes
	Data []byte // the worker's to fill
	Sums []byte // digests of the blocks in Data, the worker's to fill
	Note any    // what the worker tells Commit

	buf, sums []byte
	err       error
	uses      atomic.Int32
	home      chan<- *Chunk
}

// Retain keeps the buffers until one more Release. Only Commit may call it.
func (c *Chunk) Retain() { c.uses.Add(1) }

// Release gives the buffers back.
func (c *Chunk) Release() {
	if c.uses.Add(-1) == 0 {
		c.home <- c
	}
}

// A Worker is used by one goroutine.
type Worker interface {
	// Process fills c. Chunks come in any order, upwards for one worker.
	Process(ctx context.Context, c *Chunk) error
	// Close is called once, after the last Process, also after an error.
	Close() error
}

// Job describes one run.
type Job struct {
	Start, End int64 // byte range; Start is a multiple of ChunkSize
	ChunkSize  int
	BlockSize  int // divides ChunkSize; a partial block at End has no digest
	SumSize    int // bytes of digest per block
	Workers    int
	Window     int // chunks in flight; at least Workers+1 are used
	NewWorker  func() Worker
	// Commit sees every chunk, in order, from the goroutine that called Run.
	Commit func(c *Chunk) error
}

// Run moves the whole range and returns when all workers have ended. The error
// is the one of the lowest chunk that failed, so that it does not depend on
// timing; all chunks below it were committed.
func Run(ctx context.Context, j Job) error {
	if err := ctx.Err(); err != nil || j.End <= j.Start {
		return err
	}
	first := j.Start / int64(j.ChunkSize)
	count := (j.End+int64(j.ChunkSize)-1)/int64(j.ChunkSize) - first
	window := int(min(int64(max(j.Window, j.Workers+1)), count))
	// An uncommitted chunk owns one of the window's buffers and buffers are
	// taken before indexes, so two chunks never meet in one slot of ready and
	// the lowest chunk always has its buffer.
	ready := make([]chan *Chunk, window)
	free := make(chan *Chunk, window)
	for i := range ready {
		ready[i] = make(chan *Chunk, 1)
		free <- &Chunk{home: free}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var next atomic.Int64
	closeErrs := make(chan error, j.Workers)
	for range min(int64(j.Workers), count) {
		wg.Go(func() {
			w := j.NewWorker()
			defer func() { closeErrs <- w.Close() }()
			for {
				var c *Chunk
				select {
				case c = <-free:
				case <-ctx.Done():
					return
				}
				n := next.Add(1) - 1
				if n >= count {
					free <- c
					return
				}
				j.prepare(c, first+n)
				if c.err = ctx.Err(); c.err == nil {
					c.err = w.Process(ctx, c)
				}
				ready[n%int64(window)] <- c
			}
		})
	}
	err := j.commit(ctx, ready, count)
	cancel()
	wg.Wait()
	close(closeErrs)
	for closeErr := range closeErrs {
		if err == nil {
			err = closeErr
		}
	}
	return err
}

// commit stops at the first chunk in order that failed.
func (j *Job) commit(ctx context.Context, ready []chan *Chunk, count int64) error {
	for n := range count {
		var c *Chunk
		select {
		case c = <-ready[n%int64(len(ready))]:
		case <-ctx.Done():
			return ctx.Err()
		}
		if c.err != nil {
			return c.err
		}
		err := j.Commit(c)
		c.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// prepare cuts the buffers to the chunk, which is short at the end of the
// range. Buffers are made on first use: a short range needs few.
func (j *Job) prepare(c *Chunk, index int64) {
	c.Off = index * int64(j.ChunkSize)
	n := int(min(int64(j.ChunkSize), j.End-c.Off))
	if cap(c.buf) < n {
		c.buf = make([]byte, n)
		c.sums = make([]byte, n/j.BlockSize*j.SumSize)
	}
	c.Data = c.buf[:n]
	c.Sums = c.sums[:n/j.BlockSize*j.SumSize]
	c.Note, c.err = nil, nil
	c.uses.Store(1)
}
