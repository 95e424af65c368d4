package run

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
)

// Counter counts what a run read. It may be polled while the run goes on.
type Counter struct {
	FilesRead   atomic.Int64
	BytesRead   atomic.Int64
	BytesHashed atomic.Int64

	mu     sync.Mutex
	parses map[string]int
}

func (c *Counter) parsed(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parses == nil {
		c.parses = map[string]int{}
	}
	c.parses[name]++
}

// Parses returns how often each document was parsed, by its name.
func (c *Counter) Parses() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.parses)
}

// Reader opens inputs. The identity of an input is a result of the one time it
// is read, so that nothing is read that the report does not list, and nothing
// is read twice: small files stay in memory for the run.
type Reader struct {
	root  string
	count *Counter

	mu   sync.Mutex
	memo map[string]*readFile
	sums map[string]Sums
	// parsed are the documents that were parsed.
	parsed map[parsedKey]*parsedDocument
}

type readFile struct {
	data  []byte
	input pipeline.Input
	stamp stamp
	held  bool // by Hold: there is no file to read again
}

// NewReader returns a reader whose relative names start at root.
func NewReader(root string, count *Counter) *Reader {
	if count == nil {
		count = new(Counter)
	}
	return &Reader{root: root, count: count, memo: map[string]*readFile{}}
}

// Path returns where a name leads on this machine.
func (r *Reader) Path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(r.root, filepath.FromSlash(name))
}

// ReadFile returns the whole content of a file of at most limit bytes.
func (r *Reader) ReadFile(ctx context.Context, name string, limit int64) ([]byte, pipeline.Input, error) {
	f, err := r.read(ctx, name, limit)
	if err != nil {
		return nil, pipeline.Input{}, err
	}
	return f.data, f.input, nil
}

// Hold gives a name to bytes that come from no file, such as a pipe's: whoever
// reads that name gets them.
func (r *Reader) Hold(name string, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.memo[name] = &readFile{data: data, held: true, input: pipeline.Input{File: name, Digest: digest.SHA256.Sum(data), Size: int64(len(data))}}
}

// held returns the bytes that Hold gave a name.
func (r *Reader) held(name string) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.memo[name]
	if f == nil || !f.held {
		return nil, false
	}
	return f.data, true
}

func (r *Reader) read(ctx context.Context, name string, limit int64) (*readFile, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.memo[name]; f != nil {
		if f.held && int64(len(f.data)) > limit {
			return nil, &pipeline.InputError{Op: "read", File: name, Err: fmt.Errorf("has %d bytes, the limit for this kind of file is %d", len(f.data), limit)}
		}
		return f, nil
	}
	f, err := r.readOnce(name, limit)
	if err != nil {
		return nil, err
	}
	r.memo[name] = f
	return f, nil
}

// settle is how old a file's last change must be before its stat identity is
// trusted: a change within one tick of the clock that stamps files would leave
// the stamp as it is.
const settle = 20 * time.Millisecond

func (r *Reader) readOnce(name string, limit int64) (*readFile, error) {
	if strings.HasPrefix(name, config.ProfilePrefix) {
		return readBuiltIn(name)
	}
	// O_NONBLOCK: a fifo in place of a file must not hang the run.
	f, err := os.OpenFile(r.Path(name), os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, pipeline.NewInputError("read", name, err)
	}
	defer f.Close()
	seen := hold(f)
	before, err := f.Stat()
	if err != nil {
		return nil, pipeline.NewInputError("read", name, err)
	}
	if !before.Mode().IsRegular() {
		return nil, &pipeline.InputError{Op: "read", File: name, Err: fmt.Errorf("is not a regular file but %s", kindOf(before.Mode()))}
	}
	if before.Size() > limit {
		return nil, &pipeline.InputError{Op: "read", File: name, Err: fmt.Errorf("has %d bytes, the limit for this kind of file is %d", before.Size(), limit)}
	}
	if wait := settle - time.Since(before.ModTime()); wait > 0 && wait <= settle {
		time.Sleep(wait)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, pipeline.NewInputError("read", name, err)
	}
	after, err := f.Stat()
	if err != nil {
		return nil, pipeline.NewInputError("read", name, err)
	}
	if int64(len(data)) != before.Size() || stampOf(before) != stampOf(after) {
		return nil, &pipeline.InputError{Op: "read", File: name, Err: fmt.Errorf("changed while it was read"), Hint: "run again when nothing writes to it"}
	}
	r.count.FilesRead.Add(1)
	r.count.BytesRead.Add(int64(len(data)))
	r.count.BytesHashed.Add(int64(len(data)))
	return &readFile{
		data:  data,
		input: pipeline.Input{File: filepath.ToSlash(name), Digest: digest.SHA256.Sum(data), Size: int64(len(data))},
		stamp: stampIf(seen, after),
	}, nil
}

func kindOf(m os.FileMode) string {
	switch {
	case m.IsDir():
		return "a folder"
	case m&os.ModeNamedPipe != 0:
		return "a named pipe"
	case m&os.ModeSocket != 0:
		return "a socket"
	case m&os.ModeDevice != 0:
		return "a device"
	default:
		return "something else"
	}
}

// readBuiltIn is a file that is part of the program: it changes with it only.
func readBuiltIn(name string) (*readFile, error) {
	data, err := config.BuiltIn(name)
	if err != nil {
		return nil, err
	}
	return &readFile{
		data:  data,
		input: pipeline.Input{File: name, Digest: digest.SHA256.Sum(data), Size: int64(len(data))},
		stamp: stamp{Size: int64(len(data)), Ino: 1},
	}, nil
}

// stamp is what a file's stat says of its identity. The zero stamp never
// matches: where the system does not tell, nothing is cached.
type stamp struct {
	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`
	Size  int64  `json:"size"`
	MTime int64  `json:"mtime"` // ns
	CTime int64  `json:"ctime"` // ns
	// Tree is a hash over the stamps of all files below a folder.
	Tree string `json:"tree,omitempty"`
}

func (r *Reader) stampNow(name string) (stamp, bool) {
	if strings.HasPrefix(name, config.ProfilePrefix) {
		// A profile is part of the program, whose identity is in the cache key.
		f, err := readBuiltIn(name)
		if err != nil {
			return stamp{}, false
		}
		return f.stamp, true
	}
	info, err := os.Stat(r.Path(name))
	if err != nil {
		return stamp{}, false
	}
	if info.IsDir() {
		s, err := r.treeStamp(name)
		return s, err == nil && s != stamp{}
	}
	if !info.Mode().IsRegular() {
		return stamp{}, false
	}
	s := stampOf(info)
	return s, s != stamp{}
}

// treeFilesAtMost bounds the walk over a folder.
const treeFilesAtMost = 500_000

// treeStamp folds the names and stamps of everything below a folder into one
// stamp, links followed: what is read through a link is what it leads to.
// Without stamps of its files it is the zero stamp.
func (r *Reader) treeStamp(name string) (stamp, error) {
	var out stamp
	known := true
	h := sha256.New()
	err := walkThrough(r.Path(name), func(rel, path string, info fs.FileInfo) error {
		s := stampOf(info)
		known = known && s != stamp{}
		out.Size += info.Size()
		fmt.Fprintf(h, "%q %v %+v\n", rel, info.Mode(), s)
		if info.Mode()&fs.ModeSymlink != 0 {
			to, err := os.Readlink(path)
			fmt.Fprintf(h, "-> %q %v\n", to, err)
		}
		return nil
	})
	if err != nil {
		return stamp{}, pipeline.NewInputError("list", name, err)
	}
	if !known {
		return stamp{}, nil
	}
	out.Tree = hex.EncodeToString(h.Sum(nil))
	return out, nil
}

// walkThrough visits everything below a folder, each link and then what it
// leads to. A folder that was reached before is not entered again.
func walkThrough(root string, visit func(rel, path string, info fs.FileInfo) error) error {
	files := 0
	entered := map[[2]uint64]bool{}
	var walk func(rel, path string) error
	walk = func(rel, path string) error {
		if files++; files > treeFilesAtMost {
			return fmt.Errorf("holds more than %d files", treeFilesAtMost)
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if err := visit(rel, path, info); err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			if info, err = os.Stat(path); err != nil {
				return nil // leads nowhere; where to stands in the link
			}
			if err := visit(rel+" ->", path, info); err != nil {
				return err
			}
		}
		if !info.IsDir() {
			return nil
		}
		s := stampOf(info)
		id := [2]uint64{s.Dev, s.Ino}
		if entered[id] && s != (stamp{}) {
			return nil
		}
		entered[id] = true
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := walk(rel+"/"+e.Name(), filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
		return nil
	}
	return walk(".", root)
}

// holdTree makes later writes to anything below a file or folder visible in its
// stamp, and reports whether that is possible here.
func holdTree(path string) bool {
	all := true
	err := walkThrough(path, func(_, path string, info fs.FileInfo) error {
		if !info.Mode().IsRegular() {
			return nil
		}
		f, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		all = all && hold(f)
		return nil
	})
	return err == nil && all
}

// ReadTree records a file or folder that a room reads by itself: read is
// called once, and what lies there must be the same before and after. It
// returns the identity that its one reading gave and the bytes it read.
func (r *Reader) ReadTree(name string, read func(path string) (digest.Digest, int64, error)) (*readFile, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.memo[name]; f != nil {
		return f, nil
	}
	seen := holdTree(r.Path(name))
	before, _ := r.stampNow(name)
	id, n, err := read(r.Path(name))
	if err != nil {
		return nil, err
	}
	after, _ := r.stampNow(name)
	if before != after {
		return nil, &pipeline.InputError{Op: "read", File: name, Err: fmt.Errorf("changed while it was read"), Hint: "run again when nothing writes to it"}
	}
	r.count.FilesRead.Add(1)
	r.count.BytesRead.Add(n)
	r.count.BytesHashed.Add(n)
	if !seen {
		after = stamp{} // nothing would tell of a later change: never reused
	}
	f := &readFile{input: pipeline.Input{File: filepath.ToSlash(name), Digest: id, Size: n}, stamp: after}
	r.memo[name] = f
	return f, nil
}

// stampIf is the stamp of a file whose later changes would be seen in it.
func stampIf(seen bool, info os.FileInfo) stamp {
	if !seen {
		return stamp{}
	}
	return stampOf(info)
}
