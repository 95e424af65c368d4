package verity

import (
	"fmt"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity/internal/blockhash"
)

// A Fold is the part of a hash tree over a contiguous run of data blocks. It
// takes leaf digests in order and keeps, per level, only the digests whose
// hash block is not complete inside the run: at most two hash blocks' worth,
// whatever the length. Folds of neighboring runs merge, so leaves can be
// hashed in shards, in other processes or before an interruption.
//
// A Fold has scratch space and belongs to one goroutine at a time.
type Fold struct {
	alg      digest.Algorithm
	size     int // of a digest
	perBlock uint64
	slot     int
	hasher   *blockhash.Hasher
	block    []byte
	sink     func(level int, index uint64, block []byte) error

	begin, end uint64 // data blocks
	levels     []foldLevel
}

// foldLevel holds digests of the nodes of one level: data blocks at level 0,
// hash blocks of level i-1 at level i.
type foldLevel struct {
	// left are the nodes from the run's first one up to the first multiple of
	// perBlock; their parent begins outside the run.
	left      []byte
	leftStart uint64
	// right are the nodes of the parent that is not complete yet.
	right      []byte
	rightStart uint64 // a multiple of perBlock
}

// NewFold returns an empty fold of the run that begins with data block begin.
// Every completed hash block goes to sink (if it is not nil) with its level and
// its index in the level. Where the run does not begin at block 0 or is not
// taken to a root, the blocks at its borders are not completed by it.
func (p Params) NewFold(begin uint64, sink func(level int, index uint64, block []byte) error) (*Fold, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	f := &Fold{
		alg:      p.Hash,
		size:     p.Hash.Size(),
		perBlock: uint64(p.perBlock()),
		slot:     p.slot(),
		hasher:   blockhash.New(p.Hash, p.HashBlockSize, p.Salt, p.HashType == 0),
		block:    make([]byte, p.HashBlockSize),
		sink:     sink,
		begin:    begin,
		end:      begin,
	}
	return f, nil
}

// End returns the number of the data block that Add expects next.
func (f *Fold) End() uint64 { return f.end }

// Add appends the digests of the next data blocks, one behind the other.
func (f *Fold) Add(digests []byte) error {
	if len(digests)%f.size != 0 {
		return fmt.Errorf("verity fold: %d bytes are no whole number of %s digests", len(digests), f.alg)
	}
	n := uint64(len(digests) / f.size)
	if err := f.push(0, f.end, digests); err != nil {
		return err
	}
	f.end += n
	return nil
}

// level makes sure that levels 0..i exist.
func (f *Fold) level(i int) *foldLevel {
	for len(f.levels) <= i {
		start := f.begin
		for range len(f.levels) {
			start = ceilDiv(start, f.perBlock)
		}
		f.levels = append(f.levels, foldLevel{leftStart: start, rightStart: ceilDiv(start, f.perBlock) * f.perBlock})
	}
	return &f.levels[i]
}

// push appends nodes at a level, the first of which has the given index, and
// folds what is complete.
func (f *Fold) push(i int, index uint64, digests []byte) error {
	l := f.level(i)
	if border := ceilDiv(l.leftStart, f.perBlock) * f.perBlock; index < border {
		n := min(border-index, uint64(len(digests)/f.size))
		l.left = append(l.left, digests[:n*uint64(f.size)]...)
		digests = digests[n*uint64(f.size):]
		index += n
	}
	full := int(f.perBlock) * f.size
	for len(digests) > 0 {
		if len(l.right) == 0 {
			l.rightStart = index
		}
		n := min(full-len(l.right), len(digests))
		l.right = append(l.right, digests[:n]...)
		digests = digests[n:]
		index += uint64(n / f.size)
		if len(l.right) < full {
			return nil
		}
		parent := l.rightStart / f.perBlock
		sum, err := f.fold(i, parent, l.right)
		if err != nil {
			return err
		}
		l.right = l.right[:0]
		l.rightStart = index
		if err := f.push(i+1, parent, sum); err != nil {
			return err
		}
		l = &f.levels[i] // push may have moved the levels
	}
	return nil
}

// fold makes a hash block of digests, hands it to the sink and digests it.
func (f *Fold) fold(level int, index uint64, digests []byte) ([]byte, error) {
	packBlock(f.block, digests, f.size, f.slot)
	if f.sink != nil {
		if err := f.sink(level, index, f.block); err != nil {
			return nil, err
		}
	}
	sum := make([]byte, f.size)
	f.hasher.Sum(sum, f.block)
	return sum, nil
}

// packBlock lays digests out in a hash block, the rest of it zero.
func packBlock(block, digests []byte, size, slot int) {
	clear(block)
	for at := 0; len(digests) > 0; at += slot {
		copy(block[at:], digests[:size])
		digests = digests[size:]
	}
}

// Merge appends the run of g, which must begin where f ends. g stays as it is.
func (f *Fold) Merge(g *Fold) error {
	if g.begin != f.end || g.size != f.size || g.perBlock != f.perBlock {
		return fmt.Errorf("verity fold: run from block %d does not continue the run up to block %d", g.begin, f.end)
	}
	// Left parts from the bottom up complete f's open hash blocks; right parts
	// then come behind all that is higher.
	for i := range g.levels {
		if err := f.push(i, g.levels[i].leftStart, g.levels[i].left); err != nil {
			return err
		}
	}
	for i := len(g.levels) - 1; i >= 0; i-- {
		if err := f.push(i, g.levels[i].rightStart, g.levels[i].right); err != nil {
			return err
		}
	}
	f.end = g.end
	return nil
}

// Root completes the tree of a run that began at data block 0 and returns the
// root hash. The fold cannot be used afterwards.
func (f *Fold) Root() (digest.Digest, error) {
	if f.begin != 0 || f.end == 0 {
		return digest.Digest{}, fmt.Errorf("verity fold: a root needs the blocks from 0 on, this run is %d to %d", f.begin, f.end)
	}
	for i, nodes := 0, f.end; ; i, nodes = i+1, ceilDiv(nodes, f.perBlock) {
		l := f.level(i)
		if nodes == 1 {
			return digest.FromBytes(f.alg, l.right)
		}
		if len(l.right) == 0 {
			continue
		}
		parent := l.rightStart / f.perBlock
		sum, err := f.fold(i, parent, l.right)
		if err != nil {
			return digest.Digest{}, err
		}
		l.right = l.right[:0]
		if err := f.push(i+1, parent, sum); err != nil {
			return digest.Digest{}, err
		}
	}
}

func ceilDiv(a, b uint64) uint64 { return (a + b - 1) / b }

// State is a fold's content between two Adds, to be kept and continued from.
type State struct {
	Blocks uint64   `json:"blocks"` // data blocks taken so far
	Open   [][]byte `json:"open"`   // per level, the digests of the open hash block
}

// State returns a copy of the state of a fold that began at data block 0.
func (f *Fold) State() (State, error) {
	if f.begin != 0 {
		return State{}, fmt.Errorf("verity fold: the run begins at block %d, only runs from 0 can be kept", f.begin)
	}
	s := State{Blocks: f.end}
	for i := range f.levels {
		s.Open = append(s.Open, append([]byte{}, f.levels[i].right...))
	}
	return s, nil
}

// Restore returns a fold that continues from a state.
func (p Params) Restore(s State, sink func(level int, index uint64, block []byte) error) (*Fold, error) {
	f, err := p.NewFold(0, sink)
	if err != nil {
		return nil, err
	}
	f.end = s.Blocks
	nodes := s.Blocks
	for i, open := range s.Open {
		// Exactly the nodes behind the last complete hash block are open.
		if want := int(nodes%f.perBlock) * f.size; len(open) != want {
			return nil, fmt.Errorf("verity fold: state of level %d has %d bytes after %d blocks, want %d", i, len(open), s.Blocks, want)
		}
		l := f.level(i)
		l.right = append(l.right, open...)
		l.rightStart = nodes / f.perBlock * f.perBlock
		nodes /= f.perBlock
	}
	if nodes > 0 {
		return nil, fmt.Errorf("verity fold: state of %d levels is not that of %d blocks", len(s.Open), s.Blocks)
	}
	return f, nil
}
