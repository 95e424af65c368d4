package pipeline

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/tdxmeasure"
)

// fileSums are the digests that one pass over a file gives.
type fileSums struct {
	SHA256, SHA384 digest.Digest
	Size           int64
}

// sums hashes a file of any size in one pass, records it, and remembers what
// it found for the rest of the run.
func (in *In) sums(ctx context.Context, name string) (fileSums, error) {
	r := in.reader
	r.mu.Lock()
	s, known := r.sums[name]
	r.mu.Unlock()
	read := func(path string) (digest.Digest, int64, error) {
		var err error
		s, err = in.hashFile(ctx, name, path)
		known = err == nil
		return s.SHA256, s.Size, err
	}
	if err := in.ReadTree(name, read); err != nil {
		return fileSums{}, err
	}
	if !known {
		// Another room read it before, and recorded it under an identity of its
		// own: hash what is not known of it.
		if _, _, err := read(r.Path(name)); err != nil {
			return fileSums{}, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sums == nil {
		r.sums = map[string]fileSums{}
	}
	r.sums[name] = s
	return s, nil
}

// hashFile is the pass itself.
func (in *In) hashFile(ctx context.Context, name, path string) (fileSums, error) {
	f, size, err := openRegular(name, path)
	if err != nil {
		return fileSums{}, err
	}
	defer f.Close()
	in.Progress.Total.Add(size)
	a, b := sha256.New(), sha512.New384()
	w := io.MultiWriter(a, b)
	buf := make([]byte, 256<<10)
	var n int64
	for {
		if err := ctx.Err(); err != nil {
			return fileSums{}, err
		}
		got, err := f.Read(buf)
		w.Write(buf[:got]) // a hash takes everything
		n += int64(got)
		in.Progress.Done.Add(int64(got))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fileSums{}, inputError("read", name, err)
		}
	}
	if n != size {
		return fileSums{}, &InputError{Op: "read", File: name, Err: fmt.Errorf("changed while it was read"), Hint: "run again when nothing writes to it"}
	}
	return fileSums{SHA256: digest.FromHash(digest.SHA256, a), SHA384: digest.FromHash(digest.SHA384, b), Size: n}, nil
}

// openRegular opens a file, and nothing that could hang or never end.
func openRegular(name, path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, 0, inputError("read", name, err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		err = inputError("read", name, err)
	case !info.Mode().IsRegular():
		err = &InputError{Op: "read", File: name, Err: fmt.Errorf("is not a regular file but %s", kindOf(info.Mode()))}
	default:
		return f, info.Size(), nil
	}
	return nil, 0, errors.Join(err, f.Close())
}

// pieces is a file that a room reads in pieces after it was hashed. It must
// stay what it was: check says so when all is read.
type pieces struct {
	name  string
	file  *os.File
	size  int64
	was   stamp
	count *Counter
}

// pieces opens a file for reading in pieces.
func (in *In) pieces(ctx context.Context, name string) (*pieces, error) {
	sums, err := in.sums(ctx, name)
	if err != nil {
		return nil, err
	}
	f, size, err := openRegular(name, in.reader.Path(name))
	if err != nil {
		return nil, err
	}
	in.reader.mu.Lock()
	was := in.reader.memo[name].stamp
	in.reader.mu.Unlock()
	p := &pieces{name: name, file: f, size: size, was: was, count: in.reader.count}
	if err := p.check(); err != nil || size != sums.Size {
		return nil, errors.Join(p.changed(), f.Close())
	}
	return p, nil
}

// ReadAt counts what is read a second time: it is read, and hashed, again.
func (p *pieces) ReadAt(b []byte, offset int64) (int, error) {
	n, err := p.file.ReadAt(b, offset)
	p.count.BytesRead.Add(int64(n))
	p.count.BytesHashed.Add(int64(n))
	return n, err
}

func (p *pieces) input() tdxmeasure.Input {
	return tdxmeasure.Input{Name: p.name, R: p, Size: p.size}
}

func (p *pieces) changed() error {
	return &InputError{Op: "read", File: p.name, Err: fmt.Errorf("changed while it was read"), Hint: "run again when nothing writes to it"}
}

// check fails if the file is not the one that was hashed.
func (p *pieces) check() error {
	info, err := p.file.Stat()
	if err != nil {
		return inputError("read", p.name, err)
	}
	if stampOf(info) != p.was {
		return p.changed()
	}
	return nil
}
