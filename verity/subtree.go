package verity

import (
	"fmt"

	"github.com/retally/retally/internal/digest"
)

// Subtrees folds a run of data blocks into the digests of one level of the
// tree: each covers DigestsPerBlock^level data blocks, the last one perhaps
// fewer. A run that begins at such a border gives the same digests wherever in
// the tree it lies, so that parts of a device can be read by others, in any
// order, and only these digests come back.
type Subtrees struct {
	params Params
	level  int
	unit   uint64 // data blocks below one digest
	sink   func(level int, block []byte)
	fold   *Fold
	sums   []byte
}

// maxSubtreeLevel keeps the blocks below a subtree far from overflow: with the
// most digests in a block (2^14), four levels are 2^56 blocks.
const maxSubtreeLevel = 4

// NewSubtrees returns the fold of a run that begins at a multiple of the blocks
// below one digest of the level. The first hash block of every level below goes
// to first, if that is not nil.
func (p Params) NewSubtrees(level int, first func(level int, block []byte)) (*Subtrees, error) {
	unit, err := p.SubtreeBlocks(level)
	if err != nil {
		return nil, err
	}
	s := &Subtrees{params: p, level: level, unit: unit, sink: first}
	return s, s.open()
}

// SubtreeBlocks is how many data blocks lie below one digest of a level.
func (p Params) SubtreeBlocks(level int) (uint64, error) {
	if err := p.Validate(); err != nil {
		return 0, err
	}
	if level < 0 || level > maxSubtreeLevel {
		return 0, fmt.Errorf("verity subtree: level %d, want 0 to %d", level, maxSubtreeLevel)
	}
	unit := uint64(1)
	for range level {
		unit *= uint64(p.perBlock())
	}
	return unit, nil
}

// open starts the next subtree: it is folded as if it were the whole tree.
func (s *Subtrees) open() (err error) {
	if s.fold != nil {
		s.fold.reset()
		return nil
	}
	var sink func(int, uint64, []byte) error
	if s.sink != nil {
		sink = func(level int, index uint64, block []byte) error {
			if index == 0 && level < s.level {
				s.sink(level, block)
			}
			return nil
		}
	}
	s.fold, err = s.params.NewFold(0, sink)
	return err
}

// reset empties a fold that began at block 0. Nothing looks at its hash blocks
// any more.
func (f *Fold) reset() {
	f.sink, f.end = nil, 0
	for i := range f.levels {
		l := &f.levels[i]
		l.right, l.rightStart = l.right[:0], 0
	}
}

// Add appends the digests of the next data blocks.
func (s *Subtrees) Add(digests []byte) error {
	size := s.params.Hash.Size()
	if len(digests)%size != 0 {
		return fmt.Errorf("verity subtree: %d bytes are no whole number of %s digests", len(digests), s.params.Hash)
	}
	if s.level == 0 {
		s.sums = append(s.sums, digests...)
		return nil
	}
	for len(digests) > 0 {
		n := min((s.unit-s.fold.End())*uint64(size), uint64(len(digests)))
		if err := s.fold.Add(digests[:n]); err != nil {
			return err
		}
		digests = digests[n:]
		if s.fold.End() == s.unit {
			if err := s.shut(); err != nil {
				return err
			}
		}
	}
	return nil
}

// shut takes the digest of the subtree that is open and begins the next.
func (s *Subtrees) shut() error {
	sum, err := s.fold.node(s.level)
	if err != nil {
		return err
	}
	s.sums = append(s.sums, sum...)
	return s.open()
}

// node completes the fold up to the one node of a level that it lies below.
func (f *Fold) node(level int) ([]byte, error) {
	for i := range level {
		l := f.level(i)
		if len(l.right) == 0 {
			continue
		}
		parent := l.rightStart / f.perBlock
		sum, err := f.fold(i, parent, l.right)
		if err != nil {
			return nil, err
		}
		l.right = l.right[:0]
		if err := f.push(i+1, parent, sum); err != nil {
			return nil, err
		}
	}
	l := f.level(level)
	if len(l.right) != f.size {
		return nil, fmt.Errorf("verity subtree: %d bytes of digests at level %d, want one digest", len(l.right), level)
	}
	return l.right, nil
}

// Sums completes the run and returns the digests, one behind the other. The
// last is that of a subtree that is not full, where the run ends within one:
// only the end of the device may be there.
func (s *Subtrees) Sums() ([]byte, error) {
	if s.fold.End() > 0 {
		if err := s.shut(); err != nil {
			return nil, err
		}
	}
	return s.sums, nil
}

// RootOfSubtrees folds all digests of a level into the root hash of a device of
// so many data blocks.
func (p Params) RootOfSubtrees(level int, sums []byte, dataBlocks uint64) (digest.Digest, error) {
	layout, err := p.Layout(dataBlocks)
	if err != nil {
		return digest.Digest{}, err
	}
	unit, err := p.SubtreeBlocks(level)
	if err != nil {
		return digest.Digest{}, err
	}
	want := ceilDiv(dataBlocks, unit) * uint64(p.Hash.Size())
	if level > len(layout.Levels) || uint64(len(sums)) != want {
		return digest.Digest{}, fmt.Errorf("verity subtree: %d bytes of digests of level %d, a tree of %d blocks has %d levels and %d bytes there", len(sums), level, dataBlocks, len(layout.Levels), want)
	}
	f, err := p.NewFold(0, nil)
	if err != nil {
		return digest.Digest{}, err
	}
	if err := f.push(level, 0, sums); err != nil {
		return digest.Digest{}, err
	}
	f.end = dataBlocks
	return f.Root()
}
