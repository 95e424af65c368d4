package releases

import (
	"bytes"
	"fmt"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/retally/retally/internal/digest"
)

// Against holds the list against a checkpoint that was seen earlier, or by
// others: nil if the list is the same or has grown from it.
func (l *Log) Against(c Checkpoint) *Fault {
	fault := func(code, format string, args ...any) *Fault {
		return &Fault{code, c.Name, -1, fmt.Sprintf(format, args...)}
	}
	switch {
	case c.Origin != l.Origin:
		return fault(Fork, "is of the list %.200q, this is %.200q", c.Origin, l.Origin)
	case c.Size > uint64(len(l.leaves)):
		return fault(Rollback, "the list had %d entries, and has %d: those from entry %d on are gone", c.Size, len(l.leaves), len(l.leaves))
	case c.Size == 0:
		return nil
	}
	size := uint64(len(l.leaves))
	ours, err := l.tree.root(size)
	if err == nil {
		err = l.consistent(c.Size, size, c.Root, ours)
	}
	if err != nil {
		return fault(Fork, "another list of %d entries was shown: %v", c.Size, err)
	}
	return nil
}

// consistent proves that the tree of one size is the begin of that of another.
func (l *Log) consistent(size1, size2 uint64, root1, root2 []byte) error {
	nodes, err := proof.Consistency(size1, size2)
	if err != nil {
		return err
	}
	hashes, err := l.tree.get(nodes.IDs)
	if err != nil {
		return err
	}
	if hashes, err = nodes.Rehash(hashes, rfc6962.DefaultHasher.HashChildren); err != nil {
		return err
	}
	return proof.VerifyConsistency(rfc6962.DefaultHasher, size1, size2, hashes, root1, root2)
}

// AgainstCopy holds the list against another copy of it, and names the first
// entry in which they part.
func (l *Log) AgainstCopy(o *Log) *Fault {
	for i := range min(len(l.leaves), len(o.leaves)) {
		if !bytes.Equal(l.leaves[i], o.leaves[i]) {
			return &Fault{Fork, "", int64(i), fmt.Sprintf("the copies part at entry %d: %s here, %s in %s", i, l.describe(i), o.describe(i), o.Dir)}
		}
	}
	if f := l.Against(o.Checkpoint); f != nil {
		return f
	}
	return nil
}

func (l *Log) describe(i int) string {
	e, err := ParseEntry(l.raw[i])
	if err != nil {
		return "what is no entry"
	}
	return fmt.Sprintf("%s of %s, report %s", e.Release, e.At, e.Report.Hex()[:12])
}

// Included finds the entry with a report, or with a manifest, and proves that it
// is in the list that the checkpoint signs.
func (l *Log) Included(kind string, d digest.Digest) (*Entry, *Fault) {
	for i := len(l.raw) - 1; i >= 0; i-- {
		e, err := ParseEntry(l.raw[i])
		if err != nil || kind == Reports && e.Report != d || kind == Manifests && e.Manifest != d {
			continue
		}
		if err := l.included(uint64(i)); err != nil {
			return nil, &Fault{NotIncluded, "", int64(i), fmt.Sprintf("entry %d is not in the signed list: %v", i, err)}
		}
		return &e, nil
	}
	return nil, &Fault{NotIncluded, "", -1, fmt.Sprintf("%s is in no entry of the list", d)}
}

func (l *Log) included(i uint64) error {
	nodes, err := proof.Inclusion(i, l.Size)
	if err != nil {
		return err
	}
	hashes, err := l.tree.get(nodes.IDs)
	if err != nil {
		return err
	}
	if hashes, err = nodes.Rehash(hashes, rfc6962.DefaultHasher.HashChildren); err != nil {
		return err
	}
	return proof.VerifyInclusion(rfc6962.DefaultHasher, i, l.Size, l.leaves[i], hashes, l.Root)
}

// Last is the newest release that was not found to differ; nil for none.
func (l *Log) Last() *Entry {
	for i := len(l.Entries) - 1; i >= 0; i-- {
		if o := l.Entries[i].Outcome; o == "match" || o == "unchecked" {
			return &l.Entries[i]
		}
	}
	return nil
}
