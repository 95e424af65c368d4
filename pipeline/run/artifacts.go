package run

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
)

// Sums are the digests that one pass over a file gives.
type Sums struct {
	SHA256, SHA384 digest.Digest
	Size           int64
}

// Sums hashes a file of any size in one pass, records it, and remembers what
// it found for the rest of the run. Its SHA-384 is there if it was asked for.
func (in *In) Sums(ctx context.Context, name string, want384 bool) (Sums, error) {
	r := in.reader
	if data, ok := r.held(name); ok {
		_, err := in.ReadFile(ctx, name, int64(len(data)))
		return Sums{SHA256: digest.SHA256.Sum(data), SHA384: digest.SHA384.Sum(data), Size: int64(len(data))}, err
	}
	r.mu.Lock()
	s, known := r.sums[name]
	r.mu.Unlock()
	known = known && (!want384 || !s.SHA384.IsZero())
	read := func(path string) (digest.Digest, int64, error) {
		var err error
		s, err = in.hashFile(ctx, name, path, want384)
		known = err == nil
		return s.SHA256, s.Size, err
	}
	if err := in.ReadTree(name, read); err != nil {
		return Sums{}, err
	}
	if !known {
		// Another room read it before, and recorded it under an identity of its
		// own: hash what is not known of it.
		if _, _, err := read(r.Path(name)); err != nil {
			return Sums{}, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sums == nil {
		r.sums = map[string]Sums{}
	}
	r.sums[name] = s
	return s, nil
}

// hashFile is the pass itself.
func (in *In) hashFile(ctx context.Context, name, path string, want384 bool) (Sums, error) {
	f, size, err := OpenRegular(name, path)
	if err != nil {
		return Sums{}, err
	}
	defer f.Close()
	in.Progress.Total.Add(size)
	a, b := sha256.New(), sha512.New384()
	w := io.Writer(a)
	if want384 {
		w = io.MultiWriter(a, b)
	}
	buf := make([]byte, 256<<10)
	var n int64
	for {
		if err := ctx.Err(); err != nil {
			return Sums{}, err
		}
		got, err := f.Read(buf)
		w.Write(buf[:got]) // a hash takes everything
		n += int64(got)
		in.Progress.Done.Add(int64(got))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Sums{}, pipeline.NewInputError("read", name, err)
		}
	}
	if n != size {
		return Sums{}, &pipeline.InputError{Op: "read", File: name, Err: fmt.Errorf("changed while it was read"), Hint: "run again when nothing writes to it"}
	}
	s := Sums{SHA256: digest.FromHash(digest.SHA256, a), Size: n}
	if want384 {
		s.SHA384 = digest.FromHash(digest.SHA384, b)
	}
	return s, nil
}

// OpenRegular opens a file, and nothing that could hang or never end.
func OpenRegular(name, path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, 0, pipeline.NewInputError("read", name, err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		err = pipeline.NewInputError("read", name, err)
	case !info.Mode().IsRegular():
		err = &pipeline.InputError{Op: "read", File: name, Err: fmt.Errorf("is not a regular file but %s", kindOf(info.Mode()))}
	default:
		return f, info.Size(), nil
	}
	return nil, 0, errors.Join(err, f.Close())
}

// keptHead is how much of a file's beginning onePass keeps: headers are read
// more than once.
const keptHead = 64 << 10

// onePass reads a file for a room that goes through it from front to end, with
// looks back at its headers, and hashes it by the way: such a file is read
// once, however large. What lies between the room's reads is read for the hash
// alone.
type onePass struct {
	name  string
	file  *os.File
	size  int64
	count *Counter

	mu   sync.Mutex
	sum  hash.Hash
	pos  int64  // everything before it is hashed
	head []byte // the file's first bytes, as far as they are hashed
}

// ReadAt implements io.ReaderAt.
func (p *onePass) ReadAt(b []byte, offset int64) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if offset < 0 || offset >= p.size {
		return 0, io.EOF
	}
	n := 0
	if offset < int64(len(p.head)) {
		n = copy(b, p.head[offset:])
	}
	for p.pos < offset+int64(n) {
		if err := p.skip(offset + int64(n) - p.pos); err != nil {
			return n, err
		}
	}
	if n == len(b) {
		return n, nil
	}
	from := offset + int64(n)
	got, err := p.file.ReadAt(b[n:], from)
	if again := min(int64(got), p.pos-from); again > 0 {
		p.count.BytesRead.Add(again) // read before, and not kept
	}
	p.hash(b[n:n+got], from)
	return n + got, err
}

// skip hashes at least one byte, and at most n, of what comes next.
func (p *onePass) skip(n int64) error {
	buf := make([]byte, min(n, 256<<10))
	got, err := p.file.ReadAt(buf, p.pos)
	if got == 0 {
		return pipeline.NewInputError("read", p.name, err)
	}
	p.hash(buf[:got], p.pos)
	return nil
}

// hash takes in the bytes that are new.
func (p *onePass) hash(b []byte, at int64) {
	if at+int64(len(b)) <= p.pos {
		return
	}
	b = b[p.pos-at:]
	p.sum.Write(b)
	if room := keptHead - len(p.head); room > 0 && p.pos == int64(len(p.head)) {
		p.head = append(p.head, b[:min(room, len(b))]...)
	}
	p.pos += int64(len(b))
}

// finish reads what the room left out and returns the file's SHA-256.
func (p *onePass) finish(ctx context.Context) (digest.Digest, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.pos < p.size {
		if err := ctx.Err(); err != nil {
			return digest.Digest{}, err
		}
		if err := p.skip(p.size - p.pos); err != nil {
			return digest.Digest{}, err
		}
	}
	return digest.FromHash(digest.SHA256, p.sum), nil
}

// Opened is a file that a room reads by itself.
type Opened struct {
	Name string
	R    io.ReaderAt
	Size int64 // bytes
}

// ReadOnePass records a file that use reads by itself. Where the file is
// recorded already, it is opened for use all the same.
func (in *In) ReadOnePass(ctx context.Context, name string, use func(Opened)) error {
	done := false
	read := func(path string) (id digest.Digest, n int64, err error) {
		f, size, err := OpenRegular(name, path)
		if err != nil {
			return id, 0, err
		}
		defer f.Close()
		in.Progress.Total.Add(size)
		p := &onePass{name: name, file: f, size: size, count: in.reader.count, sum: sha256.New()}
		use(Opened{Name: name, R: p, Size: size})
		done = true
		id, err = p.finish(ctx)
		in.Progress.Done.Add(size)
		return id, size, err
	}
	if err := in.ReadTree(name, read); err != nil || done {
		return err
	}
	f, err := in.Reopen(ctx, name)
	if err != nil {
		return err
	}
	use(f.Opened())
	return f.Close()
}

// Reopened is a file of this run that is read again, in pieces.
type Reopened struct {
	name  string
	held  *bytes.Reader // in place of a file
	file  *os.File
	size  int64
	was   stamp
	count *Counter
}

// Reopen opens a file for reading in pieces. It is recorded as a whole before,
// unless it was.
func (in *In) Reopen(ctx context.Context, name string) (*Reopened, error) {
	if data, ok := in.reader.held(name); ok {
		_, err := in.ReadFile(ctx, name, int64(len(data)))
		return &Reopened{name: name, held: bytes.NewReader(data), size: int64(len(data))}, err
	}
	in.reader.mu.Lock()
	recorded := in.reader.memo[name] != nil
	in.reader.mu.Unlock()
	if !recorded {
		if _, err := in.Sums(ctx, name, false); err != nil {
			return nil, err
		}
	}
	f, size, err := OpenRegular(name, in.reader.Path(name))
	if err != nil {
		return nil, err
	}
	in.reader.mu.Lock()
	was := in.reader.memo[name].stamp
	in.reader.mu.Unlock()
	p := &Reopened{name: name, file: f, size: size, was: was, count: in.reader.count}
	if err := p.check(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return p, nil
}

// ReadAt counts what is read again.
func (p *Reopened) ReadAt(b []byte, offset int64) (int, error) {
	if p.held != nil {
		return p.held.ReadAt(b, offset)
	}
	n, err := p.file.ReadAt(b, offset)
	p.count.BytesRead.Add(int64(n))
	return n, err
}

// Opened is the file for a room.
func (p *Reopened) Opened() Opened { return Opened{Name: p.name, R: p, Size: p.size} }

// Close fails if the file was changed since it was recorded.
func (p *Reopened) Close() error {
	if p.held != nil {
		return nil
	}
	return errors.Join(p.check(), p.file.Close())
}

// check fails if the file is not the one that was recorded.
func (p *Reopened) check() error {
	info, err := p.file.Stat()
	if err != nil {
		return pipeline.NewInputError("read", p.name, err)
	}
	if stampOf(info) != p.was {
		return &pipeline.InputError{Op: "read", File: p.name, Err: fmt.Errorf("changed while it was read"), Hint: "run again when nothing writes to it"}
	}
	return nil
}
