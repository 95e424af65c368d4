// Package proof is the kernel that decides whether a list of differences
// explains why two values differ ("Why two values differ", section 1).
//
// A list is proved only if A is made again from B and the list alone. The
// kernel has no other way to A than what the edits say: the bytes at a place,
// or their hash. What no edit names can therefore not be carried over, and a
// digest that comes out equal says that the list is complete and true.
//
// A format (tar, JSON, an event log, a disk) supplies a function that applies
// edits to its B. The kernel compares what comes out.
package proof

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"

	"github.com/retally/retally/internal/digest"
)

// Content is what stands for bytes that are too many to hold: their SHA-256
// and their number.
type Content struct {
	Sum  [sha256.Size]byte
	Size int64
}

// Value is what stands at a place on one side. The zero Value says that there
// is nothing; an empty slice that is not nil is a value of no bytes.
type Value struct {
	Bytes   []byte
	Content *Content
}

// Text makes a literal value.
func Text(s string) Value { return Value{Bytes: []byte(s)} }

// Absent reports whether there is nothing at the place.
func (v Value) Absent() bool { return v.Bytes == nil && v.Content == nil }

// Equal compares two values.
func (v Value) Equal(w Value) bool {
	switch {
	case v.Content != nil || w.Content != nil:
		return v.Content != nil && w.Content != nil && *v.Content == *w.Content
	case v.Absent() || w.Absent():
		return v.Absent() && w.Absent()
	}
	return string(v.Bytes) == string(w.Bytes)
}

// mostShown is how many bytes of a value are shown; of a longer one the hash
// says the rest.
const mostShown = 320

// String names the value whole: by itself, or by its beginning and its hash.
func (v Value) String() string {
	switch {
	case v.Content != nil:
		return fmt.Sprintf("%d bytes, sha256:%x", v.Content.Size, v.Content.Sum)
	case v.Absent():
		return "absent"
	}
	return Clip(string(v.Bytes))
}

// Clip shortens a text; the hash of the whole stands for what is left out.
func Clip(s string) string {
	if len(s) <= mostShown {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes, sha256:%x)", s[:mostShown-80], len(s), sha256.Sum256([]byte(s)))
}

// Op is what an edit does to B.
type Op uint8

// The operations.
const (
	Set    Op = iota + 1 // the value at a place is A in place of B
	Insert               // a part that B does not have stands at position At
	Remove               // a part of B is not there
	Order                // the parts that both have stand in the order of Perm
	Derive               // the format's rule gives the value; nothing of A is in the edit
)

// Edit is one difference as it is reported, in the places of B.
type Edit struct {
	Place string // of the part, in the words of the format
	Field string // in it, "" for all of it
	Op    Op
	At    int   // of Insert: the position among A's parts
	Perm  []int // of Order: which of B's common parts comes at each position
	A, B  Value
}

// String names place and both values.
func (e Edit) String() string {
	where := e.Place
	if e.Field != "" {
		where += " " + e.Field
	}
	switch e.Op {
	case Insert:
		return fmt.Sprintf("%s: %s at position %d, absent in B", where, e.A, e.At)
	case Order:
		return where + ": another order"
	case Derive:
		return where + ": follows"
	}
	return fmt.Sprintf("%s: %s -> %s", where, e.A, e.B)
}

// whole reports whether an edit says on both sides what its operation needs, and
// no more: a value that is not looked at could say anything.
func (e *Edit) whole() bool {
	a, b := !e.A.Absent(), !e.B.Absent()
	switch e.Op {
	case Set:
		return a && b && !e.A.Equal(e.B) && e.Perm == nil
	case Insert:
		return a && !b && e.At >= 0 && e.Perm == nil
	case Remove:
		return !a && b && e.Perm == nil
	case Order:
		return a == b && len(e.Perm) > 1
	case Derive:
		return !a && !b && e.Perm == nil
	}
	return false
}

// Unfit is why edits could not be applied: they are not about this B, or a
// content that they name by its hash is not at hand. A list with such an edit
// proves nothing.
type Unfit struct{ Msg string }

func (e *Unfit) Error() string { return e.Msg }

// Unfitf makes an Unfit.
func Unfitf(format string, args ...any) error { return &Unfit{fmt.Sprintf(format, args...)} }

// Verdict is what came of a list.
type Verdict struct {
	Proved bool
	Got    digest.Digest // what came out; zero if nothing did
	Why    string        // it is not proved
}

// Rebuild applies edits to B and returns the digest of what comes out. It must
// know B and the edits, and nothing of A.
type Rebuild func(edits []Edit) (digest.Digest, error)

// Check applies edits and compares the outcome with A's digest. The error is
// one of reading; edits that do not fit are a verdict.
func Check(want digest.Digest, edits []Edit, rebuild Rebuild) (Verdict, error) {
	if want.IsZero() {
		return Verdict{Why: "A has no digest"}, nil
	}
	for i := range edits {
		if !edits[i].whole() {
			return Verdict{Why: edits[i].Place + ": an edit whose values do not belong to what it does"}, nil
		}
	}
	got, err := rebuild(edits)
	var unfit *Unfit
	switch {
	case errors.As(err, &unfit):
		return Verdict{Why: unfit.Msg}, nil
	case err != nil:
		return Verdict{}, err
	case got != want:
		return Verdict{Got: got, Why: fmt.Sprintf("with the named differences undone %s comes out", got)}, nil
	}
	return Verdict{Proved: true, Got: got}, nil
}

// Spare returns the edits without which the digest comes out as well: a list
// that has any is not minimal. It rebuilds once for each edit.
func Spare(want digest.Digest, edits []Edit, rebuild Rebuild) ([]int, error) {
	var spare []int
	for i := range edits {
		rest := append(append([]Edit{}, edits[:i]...), edits[i+1:]...)
		v, err := Check(want, rest, rebuild)
		if err != nil {
			return nil, err
		}
		if v.Proved {
			spare = append(spare, i)
		}
	}
	return spare, nil
}

// Fetch writes content that is known by its hash. Where it comes from does not
// matter: Out believes nothing but the hash.
type Fetch func(w io.Writer, c Content) error

// Out takes the rebuilt bytes and hashes them.
type Out struct {
	alg   digest.Algorithm
	h     hash.Hash
	fetch Fetch
	n     int64
}

// NewOut makes an Out that hashes with an algorithm. fetch may be nil where no
// value is known by its hash alone.
func NewOut(alg digest.Algorithm, fetch Fetch) *Out {
	return &Out{alg: alg, h: alg.New(), fetch: fetch}
}

// Write takes literal bytes. It does not fail.
func (o *Out) Write(p []byte) (int, error) {
	o.n += int64(len(p))
	return o.h.Write(p)
}

// Len returns the number of bytes so far.
func (o *Out) Len() int64 { return o.n }

// Digest returns the digest of all bytes so far.
func (o *Out) Digest() digest.Digest { return digest.FromHash(o.alg, o.h) }

// Put takes a value. Content must have the hash and the number of bytes that
// name it.
func (o *Out) Put(v Value) error {
	if v.Content == nil {
		_, err := o.Write(v.Bytes)
		return err
	}
	if v.Content.Size == 0 && v.Content.Sum == sha256.Sum256(nil) {
		return nil
	}
	if o.fetch == nil {
		return Unfitf("content of %s is not at hand", v)
	}
	check := &checked{o: o, h: sha256.New()}
	if err := o.fetch(check, *v.Content); err != nil {
		return err
	}
	if check.n != v.Content.Size || [sha256.Size]byte(check.h.Sum(nil)) != v.Content.Sum {
		return Unfitf("content of %s is not at hand", v)
	}
	return nil
}

type checked struct {
	o *Out
	h hash.Hash
	n int64
}

func (c *checked) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	c.h.Write(p)
	return c.o.Write(p)
}

// Permute orders parts: the i-th of the outcome is parts[perm[i]]. perm must be
// a permutation.
func Permute[T any](parts []T, perm []int) ([]T, error) {
	if len(perm) != len(parts) {
		return nil, Unfitf("an order of %d parts, B has %d", len(perm), len(parts))
	}
	out, taken := make([]T, len(parts)), make([]bool, len(parts))
	for i, k := range perm {
		if k < 0 || k >= len(parts) || taken[k] {
			return nil, Unfitf("position %s twice or out of bounds in an order", strconv.Itoa(k))
		}
		taken[k], out[i] = true, parts[k]
	}
	return out, nil
}

// Place puts parts at positions of the outcome, in any order of theirs.
func Place[T any](parts []T, at []int, more []T) ([]T, error) {
	order := make([]int, len(more))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, k int) int { return cmp.Compare(at[i], at[k]) })
	out := make([]T, 0, len(parts)+len(more))
	next := 0
	for i, k := range order {
		if i > 0 && at[k] == at[order[i-1]] {
			return nil, Unfitf("two parts at position %d", at[k])
		}
		n := at[k] - len(out)
		if n < 0 || next+n > len(parts) {
			return nil, Unfitf("position %d is behind the end", at[k])
		}
		out = append(append(out, parts[next:next+n]...), more[k])
		next += n
	}
	return append(out, parts[next:]...), nil
}

// Ranks turns the indexes in B of the common parts, in A's order, into a
// permutation of those parts in B's order. ascending says that the order is the
// same.
func Ranks(inB []int) (perm []int, ascending bool) {
	ascending = true
	highest := -1
	for i, k := range inB {
		highest = max(highest, k)
		if i > 0 && k < inB[i-1] {
			ascending = false
		}
	}
	if ascending {
		return nil, true
	}
	rank := make([]int, highest+1)
	for _, k := range inB {
		rank[k] = 1
	}
	n := 0
	for k := range rank {
		if rank[k] == 1 {
			rank[k] = n
			n++
		}
	}
	perm = make([]int, len(inB))
	for i, k := range inB {
		perm[i] = rank[k]
	}
	return perm, false
}
