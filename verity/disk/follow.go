package disk

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"slices"

	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/internal/pump"
)

// A follower sees all chunks in order on a goroutine of its own.
type follower struct {
	in   chan message
	done chan error
}

// message is a chunk, or a request to say when everything before it is done.
type message struct {
	chunk *pump.Chunk
	ack   chan<- struct{}
}

func follow(feed func(off int64, data []byte) error) *follower {
	f := &follower{make(chan message, 4), make(chan error, 1)}
	go func() {
		var err error
		for m := range f.in {
			if m.ack != nil {
				m.ack <- struct{}{}
				continue
			}
			if err == nil {
				err = feed(m.chunk.Off, m.chunk.Data)
			}
			m.chunk.Release()
		}
		f.done <- err
	}()
	return f
}

// settle waits until all chunks so far are taken in.
func (f *follower) settle() {
	ack := make(chan struct{})
	f.in <- message{ack: ack}
	<-ack
}

// end closes the follower and returns its error.
func (f *follower) end() error {
	close(f.in)
	return <-f.done
}

// fileHash is the SHA-256 over a whole disk file.
type fileHash struct {
	profile erofs.Profile
	h       hash.Hash
}

func newFileHash(p erofs.Profile) *fileHash { return &fileHash{profile: p, h: sha256.New()} }

func (f *fileHash) feed(off int64, data []byte) error {
	if off == 0 && len(data) >= blockSize {
		// The chunk is in the measured profile; setting the same again
		// changes nothing.
		first := slices.Clone(data[:blockSize])
		erofs.SetProfile(first, f.profile)
		f.h.Write(first)
		data = data[blockSize:]
	}
	f.h.Write(data)
	return nil
}

// watch hashes the content of files as it passes by in the image. The last
// partial block of a file may come before or after the rest.
type watch struct {
	name  string
	plan  *erofs.Plan
	files map[uint32]*watched
}

type watched struct {
	hash hash.Hash
	size int64
	fed  int64
	tail []byte // came too early
}

// newWatch asks for a hash for every regular file, by its first path.
func newWatch(p *erofs.Plan, name string, want func(string, *erofs.Node) hash.Hash) *watch {
	w := &watch{name: name, plan: p, files: map[uint32]*watched{}}
	p.Names(func(path string, ino uint32) {
		n := p.Node(ino)
		if !n.Is(erofs.ModeRegular) || w.files[ino] != nil {
			return
		}
		if h := want(path, n); h != nil {
			w.files[ino] = &watched{hash: h, size: n.Size}
		}
	})
	return w
}

func (w *watch) feed(off int64, data []byte) error {
	return w.plan.Spans(off, off+int64(len(data)), func(s erofs.Span) error {
		f := w.files[s.Ino]
		if f == nil {
			return nil
		}
		b := data[s.ImageOff-off:][:s.Len]
		if s.FileOff != f.fed {
			if !s.Tail {
				return fmt.Errorf("hash %q: internal error: content at byte %d after %d", w.plan.Path(s.Ino), s.FileOff, f.fed)
			}
			f.tail = slices.Clone(b)
			return nil
		}
		f.write(b)
		if f.tail != nil && f.fed+int64(len(f.tail)) == f.size {
			f.write(f.tail)
			f.tail = nil
		}
		return nil
	})
}

func (f *watched) write(b []byte) {
	f.hash.Write(b)
	f.fed += int64(len(b))
}

// sums returns the digests by all names of the files.
func (w *watch) sums() (map[string][]byte, error) {
	out := map[string][]byte{}
	var err error
	w.plan.Names(func(path string, ino uint32) {
		f := w.files[ino]
		if f == nil {
			return
		}
		if f.fed != f.size {
			err = fmt.Errorf("hash %q: internal error: %d of %d bytes passed by", path, f.fed, f.size)
		}
		out[path] = f.hash.Sum(nil)
	})
	return out, err
}
