package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/retally/retally/verity"
	"github.com/retally/retally/verity/erofs"
)

// ResumeError is a checkpoint that cannot be gone on from.
type ResumeError struct {
	Checkpoint string
	Path       string // of the source file that differs, "" if it is not about one
	What       string
	Found      string
	Want       string
}

func (e *ResumeError) Error() string {
	s := "resume from " + e.Checkpoint + ": "
	if e.Path != "" {
		s += fmt.Sprintf("file %q: ", e.Path)
	}
	s += e.What
	if e.Found != "" {
		s += fmt.Sprintf(" is %s, was %s", e.Found, e.Want)
	}
	return s + " (remove the checkpoint to start again)"
}

// checkpointVersion changes with the meaning of the state.
const checkpointVersion = 2

// maxCheckpoint bounds a state file: upper levels of a 16 TiB image and some
// hundred bytes for every file.
const maxCheckpoint = 1 << 30

// state is what a checkpoint holds. The level 0 digests are in a file beside.
type state struct {
	Version int            `json:"version"`
	Key     string         `json:"key"` // what is measured, and how
	Chunk   int            `json:"chunk"`
	Offset  int64          `json:"offset"` // bytes of the image done
	Fold    verity.State   `json:"fold"`
	Block0  []byte         `json:"block0"`
	Firsts  [][]byte       `json:"firsts"`
	Upper   [][]byte       `json:"upper,omitempty"`
	Table   int64          `json:"table"` // bytes of level 0 in the file beside
	Files   [][]byte       `json:"files,omitempty"`
	Watched []watchedState `json:"watched,omitempty"`
	Read    []readState    `json:"read"` // every file read so far
	Sum     string         `json:"sum,omitempty"`
}

type watchedState struct {
	Of   string `json:"of"` // the name of the watch
	Ino  uint32 `json:"ino"`
	Hash []byte `json:"hash"`
	Fed  int64  `json:"fed"`
	Tail []byte `json:"tail,omitempty"`
}

type readState struct {
	Path  string `json:"path"`
	Size  int64  `json:"size"`
	MTime int64  `json:"mtime"`
	CTime int64  `json:"ctime"`
	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`
}

// keeper saves the state from time to time.
type keeper struct {
	path      string
	key       string
	lastTime  time.Time
	lastBytes int64
}

func (k *keeper) tablePath() string { return k.path + ".digests" }

// claim refuses names at which something else lies than an earlier checkpoint:
// both files are replaced, and removed in the end. No link is followed.
func (k *keeper) claim() error {
	own := false
	for _, path := range []string{k.path, k.tablePath()} {
		info, err := os.Lstat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		refuse := func(what string) error {
			return &ResumeError{Checkpoint: k.path, Path: path, What: what + ", so no checkpoint is kept here"}
		}
		switch {
		case err != nil:
			return err
		case !info.Mode().IsRegular():
			return refuse("it is no regular file")
		case info.Size() == 0:
		case path == k.path:
			if _, err := loadState(path); err != nil {
				return err
			}
			own = true
		case !own:
			return refuse("it is not the table of a checkpoint of this program")
		}
	}
	return nil
}

// openTable opens the digest table that claim has looked at.
func (k *keeper) openTable(flags int) (*os.File, error) {
	path := k.tablePath()
	before, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return os.OpenFile(path, flags|os.O_EXCL, 0o600)
	}
	if err != nil {
		return nil, err
	}
	// Truncated only when it is known to be the file that was looked at.
	f, err := os.OpenFile(path, flags&^os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if now, err := f.Stat(); err != nil || !os.SameFile(before, now) {
		f.Close()
		return nil, errors.Join(err, &ResumeError{Checkpoint: k.path, Path: path, What: "it was exchanged while it was opened"})
	}
	if flags&os.O_TRUNC != 0 {
		if err := f.Truncate(0); err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}

func (k *keeper) remove() {
	os.Remove(k.path)
	os.Remove(k.tablePath())
}

// key digests everything that the state depends on: the layout, the profile and
// what is hashed.
func (r *run) key() string {
	h := sha256.New()
	fmt.Fprintf(h, "%d %s %v %v %d\n", checkpointVersion, r.o.Profile, r.o.RootOnly, r.o.AllFiles, r.plan.Size())
	writeLayout(h, r.plan)
	for _, row := range r.plan.Layout() {
		var watched []string
		for _, w := range r.watches {
			if w.files[row.Ino] != nil {
				watched = append(watched, w.name)
			}
		}
		fmt.Fprintf(h, "%q\n", watched)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// writeLayout writes down everything of an image but the content of the files:
// names, modes, sizes, targets, links.
func writeLayout(w io.Writer, plan *erofs.Plan) {
	for _, row := range plan.Layout() {
		fmt.Fprintf(w, "%d %d %d %v %d %o %q\n", row.NID, row.Start, row.Size, row.Inline, row.NLink, row.Node.Mode, row.Node.Target)
	}
	plan.Names(func(path string, ino uint32) { fmt.Fprintf(w, "%q %d\n", path, ino) })
}

func (r *run) watchedFile(name string, ino uint32) (*watched, bool) {
	for _, w := range r.watches {
		if w.name == name {
			f, ok := w.files[ino]
			return f, ok
		}
	}
	return nil, false
}

// openCheckpoint starts keeping the state, after taking up an earlier one if
// that was asked for and there is one.
func (r *run) openCheckpoint() error {
	r.keeper = &keeper{path: r.o.Checkpoint, key: r.key(), lastTime: time.Now()}
	flags := os.O_RDWR | os.O_CREATE | os.O_TRUNC
	if err := r.keeper.claim(); err != nil {
		return err
	}
	if r.o.Resume {
		s, err := loadState(r.o.Checkpoint)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return err
		default:
			if err := r.resume(s); err != nil {
				return err
			}
			flags &^= os.O_TRUNC
		}
	}
	if r.table == nil {
		return nil
	}
	f, err := r.keeper.openTable(flags)
	if err != nil {
		return err
	}
	if size, err := f.Seek(0, io.SeekEnd); err != nil || size < r.table.size {
		f.Close()
		return errors.Join(err, &ResumeError{Checkpoint: r.o.Checkpoint, What: "length of the digest table", Found: fmt.Sprint(size), Want: fmt.Sprint(r.table.size)})
	}
	r.table.mem = nil
	r.table.limit = 0
	r.table.spoolTo(f)
	if err := f.Truncate(r.table.size); err != nil {
		return err
	}
	_, err = f.Seek(r.table.size, io.SeekStart)
	return err
}

// keep saves the state if it is time to.
func (r *run) keep(done int64) error {
	k := r.keeper
	every := r.o.CheckpointEvery
	if every <= 0 {
		every = 20 * time.Second
	}
	due := r.o.CheckpointBytes > 0 && done-k.lastBytes >= r.o.CheckpointBytes || time.Since(k.lastTime) >= every
	// A state is gone on from at a chunk's border, never at the end.
	if !due || done%int64(r.chunk) != 0 || done >= r.plan.Size() {
		return nil
	}
	if err := r.save(done); err != nil {
		return fmt.Errorf("save checkpoint: %w", err)
	}
	k.lastTime, k.lastBytes = time.Now(), done
	return nil
}

func (r *run) save(done int64) error {
	for _, c := range r.chains {
		c.settle()
	}
	s := state{Version: checkpointVersion, Key: r.keeper.key, Chunk: r.chunk, Offset: done, Block0: r.block0, Firsts: r.firsts}
	var err error
	if s.Fold, err = r.fold.State(); err != nil {
		return err
	}
	for _, f := range r.files {
		b, err := marshalHash(f.h)
		if err != nil {
			return err
		}
		s.Files = append(s.Files, b)
	}
	for _, w := range r.watches {
		for ino, f := range w.files {
			if f.fed == 0 && f.tail == nil {
				continue
			}
			b, err := marshalHash(f.hash)
			if err != nil {
				return err
			}
			s.Watched = append(s.Watched, watchedState{w.name, ino, b, f.fed, f.tail})
		}
	}
	if r.table != nil {
		// The digests must be on the disk before the state that counts on them.
		if err := r.table.buf.Flush(); err != nil {
			return err
		}
		if err := r.table.spool.Sync(); err != nil {
			return err
		}
		s.Upper, s.Table = r.table.upper, r.table.size
	}
	if s.Read, err = r.readSoFar(done); err != nil {
		return err
	}
	return writeState(r.keeper.path, s)
}

// readSoFar lists the files that have content in the first bytes of the image.
func (r *run) readSoFar(done int64) ([]readState, error) {
	seen := map[uint32]bool{}
	list := []readState{}
	err := r.plan.Spans(0, done, func(sp erofs.Span) error {
		if seen[sp.Ino] {
			return nil
		}
		seen[sp.Ino] = true
		st := r.plan.Node(sp.Ino).Stat
		list = append(list, readState{r.plan.Path(sp.Ino), st.Size, st.MTime, st.CTime, st.Dev, st.Ino})
		return nil
	})
	return list, err
}

// writeState replaces the state file in one step.
func writeState(path string, s state) error {
	s.Sum = ""
	body, err := json.Marshal(s)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	s.Sum = hex.EncodeToString(sum[:])
	if body, err = json.Marshal(s); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-")
	if err != nil {
		return err
	}
	_, err = tmp.Write(body)
	if err == nil {
		err = tmp.Sync()
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}

func loadState(path string) (state, error) {
	f, err := os.Open(path)
	if err != nil {
		return state{}, err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, maxCheckpoint+1))
	if err != nil {
		return state{}, err
	}
	return parseState(path, body)
}

func parseState(path string, body []byte) (state, error) {
	damaged := func(what string) (state, error) {
		return state{}, &ResumeError{Checkpoint: path, What: what}
	}
	if len(body) > maxCheckpoint {
		return damaged("the checkpoint is too long")
	}
	var s state
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return damaged("the checkpoint is damaged: " + err.Error())
	}
	if s.Version != checkpointVersion {
		return state{}, &ResumeError{Checkpoint: path, What: "checkpoint version", Found: fmt.Sprint(s.Version), Want: fmt.Sprint(checkpointVersion)}
	}
	want := s.Sum
	s.Sum = ""
	again, err := json.Marshal(s)
	if err != nil {
		return damaged("the checkpoint is damaged: " + err.Error())
	}
	if sum := sha256.Sum256(again); hex.EncodeToString(sum[:]) != want {
		return damaged("the checkpoint is damaged: its own digest does not fit")
	}
	return s, nil
}

// resume takes up a state. Every file that was read for it must still be the
// same one.
func (r *run) resume(s state) error {
	refuse := func(what string) error { return &ResumeError{Checkpoint: r.o.Checkpoint, What: what} }
	// Files first: they say more than a key that differs because of them.
	now := map[string]erofs.Stat{}
	r.plan.Names(func(path string, ino uint32) { now[path] = r.plan.Node(ino).Stat })
	for _, was := range s.Read {
		st, ok := now[was.Path]
		if !ok {
			return &ResumeError{Checkpoint: r.o.Checkpoint, Path: was.Path, What: "it is gone"}
		}
		for _, c := range []struct {
			what     string
			now, was any
		}{
			{"size", st.Size, was.Size},
			{"modification time", st.MTime, was.MTime},
			{"inode", [2]uint64{st.Dev, st.Ino}, [2]uint64{was.Dev, was.Ino}},
			{"change time", st.CTime, was.CTime},
		} {
			if c.now != c.was {
				return &ResumeError{r.o.Checkpoint, was.Path, c.what, fmt.Sprint(c.now), fmt.Sprint(c.was)}
			}
		}
	}
	if s.Key != r.keeper.key {
		return refuse("the directory's layout or the options are not those of the checkpoint")
	}
	if s.Chunk < blockSize || s.Chunk%blockSize != 0 || s.Chunk > 64<<20 || s.Offset <= 0 || s.Offset%int64(s.Chunk) != 0 || s.Offset >= r.plan.Size() ||
		s.Fold.Blocks != uint64(s.Offset/blockSize) || len(s.Files) != len(r.files) || len(s.Firsts) != len(r.firsts) || len(s.Block0) != blockSize {
		return refuse("the checkpoint is not consistent in itself")
	}
	var err error
	if r.fold, err = r.params.Restore(s.Fold, r.sink); err != nil {
		return refuse(err.Error())
	}
	for k, b := range s.Files {
		if err := unmarshalHash(r.files[k].h, b); err != nil {
			return refuse(err.Error())
		}
	}
	for _, w := range s.Watched {
		f, ok := r.watchedFile(w.Of, w.Ino)
		if !ok || w.Fed < 0 || w.Fed > f.size || len(w.Tail) > blockSize {
			return refuse("a hashed file of the checkpoint is not one of this run")
		}
		if err := unmarshalHash(f.hash, w.Hash); err != nil {
			return refuse(err.Error())
		}
		f.fed, f.tail = w.Fed, w.Tail
	}
	if r.table != nil {
		if err := r.table.resume(s, r.layout); err != nil {
			return refuse(err.Error())
		}
	}
	r.block0, r.firsts = s.Block0, s.Firsts
	r.start, r.chunk, r.res.Resumed = s.Offset, s.Chunk, s.Offset
	r.keeper.lastBytes = s.Offset
	return nil
}

// resume sets the table to that of a state; the level 0 file is opened later.
func (t *table) resume(s state, layout verity.Layout) error {
	if len(s.Upper) != len(t.upper) || s.Table < 0 || s.Table%blockSize != 0 {
		return errors.New("the checkpoint's tree is not that of this image")
	}
	nodes := s.Fold.Blocks
	for i := range layout.Levels {
		nodes /= 128
		have := s.Table
		if i > 0 {
			have = int64(len(s.Upper[i-1]))
		}
		if have != int64(nodes)*blockSize {
			return fmt.Errorf("level %d of the checkpoint's tree has %d bytes, want %d", i, have, int64(nodes)*blockSize)
		}
	}
	for i := range s.Upper {
		t.upper[i] = append(t.upper[i], s.Upper[i]...)
	}
	t.size = s.Table
	return nil
}

// checkTable makes sure that the level 0 digests that lay in a file between
// two runs are still those that the root hash was made of.
func (r *run) checkTable() error {
	if len(r.layout.Levels) == 0 {
		return nil
	}
	want := r.res.RootHash.Bytes()
	if len(r.table.upper) > 0 {
		want = r.table.upper[0]
	}
	level, err := r.table.level(0)
	if err != nil {
		return err
	}
	h := r.params.HashHasher()
	size := r.params.Hash.Size()
	buf, sums := make([]byte, 64*blockSize), make([]byte, 64*size)
	for left := int64(r.layout.Levels[0].Blocks); left > 0; {
		n := min(left, 64)
		if _, err := io.ReadFull(level, buf[:n*blockSize]); err != nil {
			return fmt.Errorf("read digest table: %w", err)
		}
		h.Sum(sums[:n*int64(size)], buf[:n*blockSize])
		if !bytes.HasPrefix(want, sums[:n*int64(size)]) {
			return &ResumeError{Checkpoint: r.o.Checkpoint, What: "the digest table beside it is damaged"}
		}
		want = want[n*int64(size):]
		left -= n
	}
	return nil
}

func marshalHash(h hash.Hash) ([]byte, error) {
	m, ok := h.(encoding.BinaryMarshaler)
	if !ok {
		return nil, fmt.Errorf("the state of a %T cannot be kept", h)
	}
	return m.MarshalBinary()
}

func unmarshalHash(h hash.Hash, b []byte) error {
	m, ok := h.(encoding.BinaryUnmarshaler)
	if !ok {
		return fmt.Errorf("the state of a %T cannot be restored", h)
	}
	return m.UnmarshalBinary(b)
}
