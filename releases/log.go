package releases

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"

	"github.com/retally/retally/internal/digest"
)

// MaxEntries bounds a list; one of a release an hour is full after 7 years.
const MaxEntries = 1 << 16

// maxCheckpoint bounds a checkpoint with the signatures of witnesses, in bytes.
const maxCheckpoint = 64 << 10

const checkpointName = "checkpoint"

// A Fault is one thing that is not as it must be.
type Fault struct {
	Code string `json:"code"`
	File string `json:"file,omitempty"` // below the list's folder
	// Entry is the place of the entry that it is about, -1 for none.
	Entry int64  `json:"entry"`
	Msg   string `json:"message"`
}

// The kinds of faults.
const (
	BadSignature = "signature"   // the checkpoint is not signed by the given key
	BadFile      = "file"        // a file is missing, or is no tile or bundle
	BadEntry     = "entry"       // an entry cannot be read
	BadChain     = "chain"       // an entry does not follow the one before
	BadTile      = "tile"        // a tile has other hashes than the entries give
	BadRoot      = "root"        // the entries give another root than was signed
	Doubled      = "doubled"     // a report is in the list twice
	Rollback     = "rollback"    // entries that were seen are gone
	Fork         = "fork"        // others were shown another list
	NotIncluded  = "not-in-list" // a report is not in the list
)

func (f Fault) String() string {
	s := f.Msg
	if f.File != "" {
		s = f.File + ": " + s
	}
	return s
}

// A Checkpoint is the signed state of a list.
type Checkpoint struct {
	Name   string `json:"-"`
	Origin string `json:"origin"`
	Size   uint64 `json:"size"`
	Root   []byte `json:"-"`
	// Signed says that the given key signed it; without a key nothing is known.
	Signed bool     `json:"signed"`
	Others []string `json:"others,omitempty"` // names of further signers, unchecked
}

// ParseCheckpoint reads a checkpoint (C2SP tlog-checkpoint). Without a verifier
// its signatures are not checked.
func ParseCheckpoint(name string, data []byte, v note.Verifier) (Checkpoint, error) {
	c := Checkpoint{Name: name}
	fail := func(err error) (Checkpoint, error) { return Checkpoint{}, fmt.Errorf("%s: %w", name, err) }
	if len(data) > maxCheckpoint {
		return fail(fmt.Errorf("has %d bytes, at most %d", len(data), maxCheckpoint))
	}
	var verifiers note.Verifiers = note.VerifierList()
	if v != nil {
		verifiers = note.VerifierList(v)
	}
	n, err := note.Open(data, verifiers)
	var unverified *note.UnverifiedNoteError
	switch {
	case errors.As(err, &unverified) && v == nil:
		n = unverified.Note
	case errors.As(err, &unverified):
		return fail(fmt.Errorf("is not signed by the given key %s", v.Name()))
	case err != nil:
		return fail(err)
	}
	var cp log.Checkpoint
	if _, err := cp.Unmarshal([]byte(n.Text)); err != nil {
		return fail(err)
	}
	if len(cp.Hash) != hashSize {
		return fail(fmt.Errorf("has a root of %d bytes, want %d", len(cp.Hash), hashSize))
	}
	if v != nil && cp.Origin != v.Name() {
		return fail(fmt.Errorf("is of the list %.200q, and the given key is of %q", cp.Origin, v.Name()))
	}
	c.Origin, c.Size, c.Root, c.Signed = cp.Origin, cp.Size, cp.Hash, v != nil
	for _, s := range n.UnverifiedSigs {
		if s.Name != cp.Origin {
			c.Others = append(c.Others, s.Name)
		}
	}
	return c, nil
}

// A Log is a list that was read, with all faults that it has in itself.
type Log struct {
	Checkpoint
	Dir     string
	Entries []Entry // as far as they could be read
	Faults  []Fault

	raw    [][]byte
	leaves [][]byte
	tree   *tree
}

// IsLog reports whether a folder looks like a list.
func IsLog(dir string) bool {
	for _, name := range []string{checkpointName, "tile/entries"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// Open reads a list whole and computes all of it again: an error means that it
// could not be read as one; what does not hold are its Faults. A bad signature
// is a fault, so that the rest is looked at.
func Open(dir string, v note.Verifier) (*Log, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	l := &Log{Dir: dir}
	data, err := readFile(root, checkpointName, maxCheckpoint)
	if err != nil {
		return nil, fmt.Errorf("%s is no list of releases: %w", dir, err)
	}
	if l.Checkpoint, err = ParseCheckpoint(checkpointName, data, v); err != nil && v != nil {
		l.fault(BadSignature, "", -1, "%v", err)
		l.Checkpoint, err = ParseCheckpoint(checkpointName, data, nil)
	}
	if err != nil {
		return nil, err
	}
	if l.Size > MaxEntries {
		return nil, fmt.Errorf("%s: has %d entries, at most %d are read", checkpointName, l.Size, MaxEntries)
	}
	l.readEntries(root)
	l.tree = newTree(l.leaves)
	l.checkTiles(root)
	l.checkRoot()
	l.checkChain()
	return l, nil
}

func (l *Log) fault(code, file string, entry int64, format string, args ...any) {
	l.Faults = append(l.Faults, Fault{code, file, entry, fmt.Sprintf(format, args...)})
}

// readFile reads a regular file below the list's folder.
func readFile(root *os.Root, name string, limit int64) ([]byte, error) {
	info, err := root.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return data, err
}

// tile reads a tile or bundle: an incomplete one, or in its place the complete
// one that it became part of.
func tile(root *os.Root, at func(n, w uint64) string, n, w uint64, limit int64) (data []byte, name string, err error) {
	name = at(n, w)
	data, err = readFile(root, name, limit)
	if errors.Is(err, fs.ErrNotExist) && w < width {
		if whole, wholeErr := readFile(root, at(n, width), limit); wholeErr == nil {
			return whole, at(n, width), nil
		}
	}
	return data, name, err
}

func (l *Log) readEntries(root *os.Root) {
	for n := uint64(0); n*width < l.Size; n++ {
		w := min(width, l.Size-n*width)
		data, name, err := tile(root, bundlePath, n, w, width*(maxEntry+2))
		if err != nil {
			l.fault(BadFile, name, -1, "%v", reason(err))
			return
		}
		entries, err := parseBundle(data)
		if err != nil {
			l.fault(BadFile, name, int64(n*width)+int64(len(entries)), "%v", err)
		}
		if name == bundlePath(n, w) && uint64(len(entries)) != w && err == nil {
			l.fault(BadFile, name, int64(n*width+min(uint64(len(entries)), w)), "has %d entries, want %d", len(entries), w)
		}
		entries = entries[:min(uint64(len(entries)), w)]
		for _, e := range entries {
			l.raw = append(l.raw, e)
			l.leaves = append(l.leaves, leaf(e))
		}
		if uint64(len(entries)) < w {
			return // what follows has other places
		}
	}
}

// reason is an error of a file without its name.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

func (l *Log) checkTiles(root *os.Root) {
	for _, want := range l.tree.tiles() {
		at := func(n, w uint64) string { return tilePath(want.level, n, w) }
		data, name, err := tile(root, at, want.n, want.w, width*hashSize)
		if err != nil {
			l.fault(BadFile, name, -1, "%v", reason(err))
			continue
		}
		if name != at(want.n, want.w) {
			data = data[:min(len(data), len(want.data))]
		}
		if bytes.Equal(data, want.data) {
			continue
		}
		same := 0
		for same < len(data) && same < len(want.data) && data[same] == want.data[same] {
			same++
		}
		k := int64(same / hashSize)
		if want.level > 0 {
			l.fault(BadTile, name, -1, "hash %d is another than the entries give", k)
			continue
		}
		k += int64(want.n * width)
		l.fault(BadTile, name, k, "entry %d is another than when its hash was written", k)
	}
}

func (l *Log) checkRoot() {
	if uint64(len(l.leaves)) < l.Size {
		l.fault(BadRoot, checkpointName, -1, "is of %d entries, and %d are there", l.Size, len(l.leaves))
		return
	}
	got, err := l.tree.root(l.Size)
	if err != nil || !bytes.Equal(got, l.Root) {
		l.fault(BadRoot, checkpointName, -1, "has root %x, and the entries give %x", l.Root, got)
	}
}

// checkChain reads the entries and follows what each says of the one before.
func (l *Log) checkChain() {
	seen := map[digest.Digest]uint64{}
	previous, at := hex.EncodeToString(make([]byte, hashSize)), ""
	for i, raw := range l.raw {
		e, err := ParseEntry(raw)
		if err != nil {
			l.fault(BadEntry, "", int64(i), "entry %d: %v", i, err)
			previous = hex.EncodeToString(l.leaves[i])
			continue
		}
		l.Entries = append(l.Entries, e)
		switch first, doubled := seen[e.Report]; {
		case e.Index != uint64(i):
			l.fault(BadChain, "", int64(i), "at place %d is entry %d (%s)", i, e.Index, e.Release)
		case e.Previous != previous:
			l.fault(BadChain, "", int64(i), "entry %d (%s) follows another entry than the one before it", i, e.Release)
		case e.At < at:
			l.fault(BadChain, "", int64(i), "entry %d (%s) is of %s, before the one before it", i, e.Release, e.At)
		case doubled:
			l.fault(Doubled, "", int64(i), "entry %d (%s) has the report of entry %d again", i, e.Release, first)
		}
		if _, doubled := seen[e.Report]; !doubled {
			seen[e.Report] = uint64(i)
		}
		previous, at = hex.EncodeToString(l.leaves[i]), e.At
	}
}

// Kept is the path below the list's folder at which a file of a release is kept.
func Kept(kind string, d digest.Digest) string { return path.Join(kind, d.Hex()+".json") }

// The kinds of files that are kept beside the list.
const (
	Reports   = "reports"
	Manifests = "manifests"
)

// Read returns a file that was kept with an entry; its digest must be that of
// the entry.
func (l *Log) Read(kind string, d digest.Digest) ([]byte, error) {
	root, err := os.OpenRoot(l.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	name := Kept(kind, d)
	data, err := readFile(root, name, 256<<20)
	if err != nil {
		return nil, err
	}
	if got := digest.SHA256.Sum(data); got != d {
		return nil, fmt.Errorf("%s has digest %s", name, got)
	}
	return data, nil
}
