package imagehash

import (
	"context"
	"hash"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/retally/retally/imagehash/internal/gunzip"
	"github.com/retally/retally/imagehash/internal/zstdframe"
	"github.com/retally/retally/internal/digest"
)

// packing is how a blob is compressed, by its first bytes.
type packing uint8

const (
	packPlain packing = iota
	packGzip
	packZstd
	packXZ
)

func (p packing) String() string { return [...]string{"no compression", "gzip", "zstd", "xz"}[p] }

func detect(prefix []byte) packing {
	switch {
	case len(prefix) >= 2 && prefix[0] == 0x1f && prefix[1] == 0x8b:
		return packGzip
	case zstdframe.Magic(prefix):
		return packZstd
	case len(prefix) >= 6 && string(prefix[:6]) == "\xfd7zXZ\x00":
		return packXZ
	}
	return packPlain
}

// facts is what one reading of a blob gives. It depends on the bytes alone, so
// it is computed once however often the blob is referred to.
type facts struct {
	size    int64
	digests map[digest.Algorithm]digest.Digest // of the blob
	packing packing
	// Of the uncompressed content; only if the blob was read as a layer and
	// could be decompressed to its end.
	diffIDs  map[digest.Algorithm]digest.Digest
	plain    int64
	problems []Problem // places relative to the blob
	notes    []Problem
}

// reading says how to read a blob.
type reading struct {
	size     int64 // expected, -1 if unknown; bounds the expansion
	blob     algs  // hash the blob
	diff     algs  // hash the uncompressed content
	asLayer  bool  // decompress and walk the tar
	limits   Limits
	progress *Progress
	pool     *pool // nil for none
	// large, if not nil, is called before a zstd window is used that is larger
	// than plainWindow.
	large func() error
}

// plainWindow is the largest zstd window, in bytes, for which every pipeline has
// memory: that which RFC 8878, section 3.1.1.1.2, recommends decoders to support.
const plainWindow = 8 << 20

// pool keeps what one blob's pipeline needs for the next one's: without it the
// garbage of windows and buffers would be as large as what is in use.
type pool struct {
	mu       sync.Mutex
	chunks   []*chunk
	decoders []*zstd.Decoder
}

func (p *pool) chunk() *chunk {
	if p != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		if n := len(p.chunks); n > 0 {
			c := p.chunks[n-1]
			p.chunks = p.chunks[:n-1]
			return c
		}
	}
	return &chunk{buf: make([]byte, gunzip.History+chunkSize)}
}

// takeBack returns all buffers of a free list that nobody uses any more.
func (p *pool) takeBack(free chan *chunk) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		select {
		case c := <-free:
			p.chunks = append(p.chunks, c)
		default:
			return
		}
	}
}

func (p *pool) decoder() *zstd.Decoder {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.decoders); n > 0 {
		d := p.decoders[n-1]
		p.decoders = p.decoders[:n-1]
		return d
	}
	return nil
}

func (p *pool) keep(d *zstd.Decoder) {
	if p == nil || d.Reset(nil) != nil {
		d.Close()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decoders = append(p.decoders, d)
}

// close releases the decoders.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.decoders {
		d.Close()
	}
	p.decoders, p.chunks = nil, nil
}

// algs is a set of hash algorithms.
type algs uint8

func setOf(list ...digest.Algorithm) algs {
	var s algs
	for _, a := range list {
		s |= 1 << a
	}
	return s
}

func (s algs) hashers() []namedHash {
	var out []namedHash
	for a := digest.SHA1; a.Valid(); a++ {
		if s&(1<<a) != 0 {
			out = append(out, namedHash{a, a.New()})
		}
	}
	return out
}

type namedHash struct {
	alg digest.Algorithm
	hash.Hash
}

func sums(list []namedHash) map[digest.Algorithm]digest.Digest {
	m := make(map[digest.Algorithm]digest.Digest, len(list))
	for _, h := range list {
		m[h.alg] = digest.FromHash(h.alg, h)
	}
	return m
}

const chunkSize = 256 << 10

// chunks are the buffers of one pipeline: History bytes of scratch for the
// gzip reader, then content.
type chunk struct {
	buf []byte // all of it
	n   int    // content is buf[gunzip.History:][:n]
}

func (c *chunk) content() []byte { return c.buf[gunzip.History : gunzip.History+c.n] }

// read reads a blob once. Three things happen at a time: reading with hashing
// of the blob, decompression, and hashing of the content with the walk over
// the tar. The error is the reader's own or the context's; everything wrong
// with the bytes is in the facts.
func read(ctx context.Context, r io.Reader, how reading) (*facts, error) {
	f := &facts{}
	head := make([]byte, 8)
	n, err := io.ReadFull(r, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, err
	}
	head = head[:n]
	f.packing = detect(head)
	src := &hashingReader{ctx: ctx, r: io.MultiReader(newHead(head), r), hashers: how.blob.hashers(), progress: how.progress}

	if !how.asLayer {
		if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{src}, make([]byte, chunkSize)); err != nil {
			return nil, err
		}
		f.size, f.digests = src.n, sums(src.hashers)
		return f, nil
	}
	if err := readLayer(ctx, src, how, f); err != nil {
		return nil, err
	}
	f.size = src.n
	if f.packing == packPlain {
		// One hash a byte: the blob is the content.
		f.plain = src.n
		f.digests = f.diffIDs
	} else {
		f.digests = sums(src.hashers)
	}
	return f, nil
}

func newHead(b []byte) io.Reader { return &headReader{b} }

type headReader struct{ b []byte }

func (h *headReader) Read(p []byte) (int, error) {
	if len(h.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, h.b)
	h.b = h.b[n:]
	return n, nil
}

// hashingReader counts and hashes what passes.
type hashingReader struct {
	ctx      context.Context
	r        io.Reader
	hashers  []namedHash
	progress *Progress
	n        int64
}

func (h *hashingReader) Read(p []byte) (int, error) {
	if err := h.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := h.r.Read(p)
	h.n += int64(n)
	h.progress.add(int64(n))
	for i := range h.hashers {
		h.hashers[i].Write(p[:n])
	}
	return n, err
}

// readLayer runs the three parts as goroutines joined by channels of buffers.
func readLayer(ctx context.Context, src *hashingReader, how reading, f *facts) error {
	if f.packing == packPlain {
		how.diff |= how.blob
		src.hashers = nil
	}
	var wg sync.WaitGroup
	var readErr error // of the source

	// Part 1: read and hash the blob. It reads to the end even if the
	// content turns out to be broken: the blob's digest is wanted.
	raw, rawFree := buffers(how.pool)
	defer how.pool.takeBack(rawFree)
	wg.Go(func() {
		defer close(raw)
		for {
			c := <-rawFree
			n, err := fill(src, c.buf[gunzip.History:])
			c.n = n
			raw <- c
			if err != nil {
				if err != io.EOF {
					readErr = err
				}
				return
			}
		}
	})

	// Part 3: hash and walk the content.
	w := newLayerWalk(how, f)
	plain := raw
	plainFree := rawFree
	var unpackErr error
	if f.packing != packPlain {
		plain, plainFree = buffers(how.pool)
		defer how.pool.takeBack(plainFree)
		// Part 2: decompress.
		wg.Go(func() {
			defer close(plain)
			in := &chunkReader{in: raw, free: rawFree}
			unpackErr = unpack(f, how, in, plain, plainFree)
			in.drain()
		})
	}
	for c := range plain {
		w.write(c.content())
		plainFree <- c
	}
	wg.Wait()
	if readErr != nil {
		return readErr
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	w.finish(unpackErr)
	return nil
}

// buffers makes the two directions of a connection between parts: full ones
// and free ones.
func buffers(p *pool) (full, free chan *chunk) {
	const n = 4
	full, free = make(chan *chunk, n-1), make(chan *chunk, n)
	for range n {
		free <- p.chunk()
	}
	return full, free
}

// fill reads until p is full or the source ends.
func fill(r io.Reader, p []byte) (int, error) {
	n := 0
	for n < len(p) {
		m, err := r.Read(p[n:])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// chunkReader is the receiving end of a channel of buffers as a reader.
type chunkReader struct {
	in   <-chan *chunk
	free chan<- *chunk
	c    *chunk
	off  int
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for r.c == nil || r.off == r.c.n {
		if r.c != nil {
			r.free <- r.c
			r.c = nil
		}
		c, ok := <-r.in
		if !ok {
			return 0, io.EOF
		}
		r.c, r.off = c, 0
	}
	n := copy(p, r.c.content()[r.off:])
	r.off += n
	return n, nil
}

// drain lets the sender come to its end after the receiver lost interest.
func (r *chunkReader) drain() {
	if r.c != nil {
		r.free <- r.c
		r.c = nil
	}
	for c := range r.in {
		r.free <- c
	}
}
