// Package tarproof finds the differences of two tar archives, down to single
// header fields, and makes one of the other from them (see package proof).
package tarproof

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strconv"

	"github.com/retally/retally/imagehash/internal/rawtar"
	"github.com/retally/retally/internal/proof"
)

const (
	// maxMembers bounds the archives that are compared member by member; each
	// member's headers are kept.
	maxMembers = 400_000
	// maxEdits bounds the differences that are kept.
	maxEdits = 1_000_000
	// maxTrailer bounds the bytes behind the last member that are kept if they
	// are not all zeros.
	maxTrailer = 1 << 20
	// record is the unit in which tar programs write (POSIX pax, -b 20).
	record = 10_240
)

// ErrTooMany says that an archive has too many members or differences to be
// compared one by one.
var ErrTooMany = errors.New("too many")

// Member is one member as it stands in an archive.
type Member struct {
	Name    string // cleaned
	Key     string // the name, unique in its archive
	Place   string // the name as it is reported
	H       rawtar.Header
	Content proof.Content
	// sparse is set of members that are stored without their holes, and unpacked
	// is then what they unpack to, nil if that is not known.
	sparse   bool
	unpacked *proof.Content
	padding  []byte // nil if zeros, as it should be
	raw      [rawtar.BlockSize]byte
}

// Index is an archive's members in order.
type Index struct {
	Members []*Member
	size    int64  // bytes up to the trailer
	trailer int64  // bytes from the first zero block on
	rest    []byte // the trailer, if it is not all zeros
	unkept  bool   // the trailer was too long to keep
}

// Indexer makes an Index of a walk over an archive.
type Indexer struct {
	t     *Index
	m     *Member
	h     hash.Hash
	seen  map[string]int
	pad   int // zeros behind the content so far
	zeros bool
	x     *expander // of a sparse member
	holes int64     // bytes that may still be hashed for holes
}

// NewIndexer starts an index.
func NewIndexer() *Indexer {
	return &Indexer{t: &Index{}, h: sha256.New(), seen: map[string]int{}, zeros: true, holes: maxHoles}
}

// Visitor is what walks the archive. Its error is ErrTooMany.
func (x *Indexer) Visitor() rawtar.Visitor {
	return rawtar.Visitor{Member: x.member, Content: x.content, Padding: x.padding, Trailer: x.trailer}
}

// Index ends the walk.
func (x *Indexer) Index() *Index {
	x.finish()
	x.m = nil
	return x.t
}

func (x *Indexer) finish() {
	if x.m != nil {
		x.h.Sum(x.m.Content.Sum[:0])
		x.h.Reset()
		if x.x != nil {
			x.m.unpacked = x.x.result()
		}
	}
}

func (x *Indexer) member(hd *rawtar.Header) error {
	x.finish()
	if len(x.t.Members) >= maxMembers {
		return fmt.Errorf("%w: more than %d members", ErrTooMany, maxMembers)
	}
	m := &Member{H: *hd, raw: *hd.Raw, Content: proof.Content{Size: hd.Size}}
	m.Name, _ = rawtar.CleanPath(hd.Name)
	m.Key, m.Place = m.Name, m.Name
	if hd.Global {
		// No name has a NUL in it.
		m.Key, m.Place, m.Name = "\x00global", "pax global header", "pax global header"
	}
	n := x.seen[m.Key]
	x.seen[m.Key] = n + 1
	if n > 0 {
		m.Place += fmt.Sprintf(" (entry %d of this name)", n+1)
		m.Key += "\x00" + strconv.Itoa(n)
	}
	if x.x = nil; !hd.Global {
		if x.x = newExpander(hd, &x.holes); x.x != nil {
			m.sparse = true
		}
	}
	m.H.Raw = &m.raw
	m.H.Ext, m.H.Sparse, m.H.Records = slices.Clone(hd.Ext), slices.Clone(hd.Sparse), slices.Clone(hd.Records)
	for i := range m.H.Ext {
		x.t.size += rawtar.BlockSize + padded(int64(len(m.H.Ext[i].Data)))
	}
	if !hd.Global {
		x.t.size += rawtar.BlockSize + int64(len(hd.Sparse)) + padded(hd.Size)
	}
	x.t.Members, x.m, x.pad = append(x.t.Members, m), m, 0
	return nil
}

func padded(n int64) int64 { return n + fill(n) }

// fill is the number of bytes up to the end of the last block.
func fill(n int64) int64 { return -n & (rawtar.BlockSize - 1) }

func (x *Indexer) content(p []byte) error {
	x.h.Write(p)
	if x.x != nil {
		x.x.write(p)
	}
	return nil
}

// padding keeps the bytes behind a content, which come in pieces, from the
// first one on that is not zero.
func (x *Indexer) padding(p []byte) error {
	m := x.m
	if m.padding == nil && allZero(p) {
		x.pad += len(p)
		return nil
	}
	if m.padding == nil {
		m.padding = make([]byte, x.pad)
	}
	m.padding = append(m.padding, p...)
	return nil
}

func (x *Indexer) trailer(p []byte) error {
	t := x.t
	x.zeros = x.zeros && allZero(p)
	if !x.zeros && !t.unkept {
		if t.trailer+int64(len(p)) > maxTrailer {
			t.unkept, t.rest = true, nil
		} else {
			if t.rest == nil {
				t.rest = make([]byte, t.trailer)
			}
			t.rest = append(t.rest, p...)
		}
	}
	t.trailer += int64(len(p))
	return nil
}

func allZero(p []byte) bool {
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}
