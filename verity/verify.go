package verity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity/internal/blockhash"
	"github.com/retally/retally/verity/internal/pump"
)

// MismatchKind says what does not fit.
type MismatchKind string

// The kinds of mismatch, in the order in which a block is checked.
const (
	DataShort    MismatchKind = "data-short"     // the data device ends before the data blocks do
	BlockDigest  MismatchKind = "block-digest"   // a block does not have the digest stored for it
	SpareNotZero MismatchKind = "spare-not-zero" // padding in a hash block is not zero
	RootDigest   MismatchKind = "root-digest"    // all levels fit together, the root hash is another
	OnDataDevice              = "data"
	OnHashDevice              = "hash"
)

// A Mismatch is one place where data, tree and root hash do not fit together.
type Mismatch struct {
	Kind MismatchKind `json:"kind"`
	// Level of the stored digests that were checked: 0 compares data blocks
	// with level 0, i compares blocks of level i-1 with level i. For a root
	// digest it is the number of levels.
	Level  int    `json:"level"`
	Device string `json:"device"` // "data" or "hash": what Position counts on
	// Position in bytes from the start of the device: of the checked block, or
	// of the first byte of the padding that should be zero.
	Position int64         `json:"position"`
	Expected digest.Digest `json:"expected,omitzero"` // as stored, or the root hash given
	Actual   digest.Digest `json:"actual,omitzero"`   // as computed
}

// String says it in one line.
func (m Mismatch) String() string {
	switch m.Kind {
	case DataShort:
		return fmt.Sprintf("data device ends before the block at offset %d", m.Position)
	case SpareNotZero:
		return fmt.Sprintf("level %d: spare bytes at offset %d of the hash device are not zero", m.Level, m.Position)
	case RootDigest:
		return fmt.Sprintf("root hash is %s, want %s", m.Actual.Hex(), m.Expected.Hex())
	}
	return fmt.Sprintf("level %d: block at offset %d of the %s device has digest %s, the tree says %s",
		m.Level, m.Position, m.Device, m.Actual.Hex(), m.Expected.Hex())
}

// A Verdict is the result of a verification.
type Verdict struct {
	Params Params // as read from the superblock or given
	Layout Layout
	// Mismatches in veritysetup's order of work: level 0 first, upwards by
	// position, the root hash last. A level with a mismatch is the last one
	// that was looked at. Empty means that everything fits.
	Mismatches []Mismatch
	// HashDeviceShort is how many bytes the hash device lacks. They count as
	// zeros (veritysetup 2.8 writes them, this never changes a file).
	HashDeviceShort int64
	// Covered is how many bytes of the data device the tree speaks of, and
	// Uncovered how many more lie there of which it says nothing. VerifyFiles
	// fills them; on a device that also holds the tree, superblock and tree are
	// neither.
	Covered   int64
	Uncovered int64
	// Gap is how many of the uncovered bytes lie between the data blocks and
	// the superblock or tree on the same device.
	Gap int64
}

// OK reports whether everything fits.
func (v Verdict) OK() bool { return len(v.Mismatches) == 0 }

// VerifyOptions tune a verification.
type VerifyOptions struct {
	Options
	// Limit is how many mismatches of the first level that has any are
	// collected; 0 means 1, as veritysetup does.
	Limit int
}

// Verify checks data against a tree and a root hash without the kernel, in
// veritysetup's order of work. hashSize is the length of the hash device in
// bytes. An error means that it could not be checked, never a mismatch.
func Verify(ctx context.Context, data, hash io.ReaderAt, hashSize int64, p Params, root digest.Digest, o VerifyOptions) (Verdict, error) {
	layout, err := p.Layout(p.DataBlocks)
	if err != nil {
		return Verdict{}, err
	}
	if root.Algorithm() != p.Hash {
		return Verdict{}, &ParamError{"root hash", root.Algorithm().String(), "a digest of the tree's hash, " + p.Hash.String()}
	}
	v := Verdict{Params: p, Layout: layout, HashDeviceShort: max(layout.End-hashSize, 0)}
	if layout.HashBlocks == 0 {
		v.HashDeviceShort = 0
	}
	o.Progress.Start(int64(p.DataBlocks)*int64(p.DataBlockSize)+int64(layout.HashBlocks)*int64(p.HashBlockSize), 0)
	stored := zeroExtended{hash}
	top := check{p: p, o: o, source: data, device: OnDataDevice, blockSize: p.DataBlockSize, blocks: p.DataBlocks}
	for i, level := range layout.Levels {
		c := top
		c.level, c.hash, c.at = i, stored, level.Offset
		if v.Mismatches, err = c.run(ctx); err != nil || len(v.Mismatches) > 0 {
			return v, err
		}
		top = check{p: p, o: o, source: stored, device: OnHashDevice, base: level.Offset, blockSize: p.HashBlockSize, blocks: level.Blocks}
	}
	m, err := top.root(root, len(layout.Levels))
	if m != nil {
		v.Mismatches = []Mismatch{*m}
	}
	return v, err
}

// check compares the blocks of one area with the digests stored for them.
type check struct {
	p Params
	o VerifyOptions

	source    io.ReaderAt
	device    string
	base      int64 // of the first block on the device
	blockSize int
	blocks    uint64

	level int
	hash  zeroExtended
	at    int64 // of the level's first hash block on the hash device
}

var errEnough = errors.New("enough mismatches")

func (c check) run(ctx context.Context) ([]Mismatch, error) {
	var found []Mismatch
	limit := max(c.o.Limit, 1)
	err := pump.Run(ctx, pump.Job{
		End:       int64(c.blocks) * int64(c.blockSize),
		ChunkSize: c.o.chunkSize(c.blockSize),
		BlockSize: c.blockSize,
		SumSize:   c.p.Hash.Size(),
		Workers:   c.o.workers(),
		NewWorker: func() pump.Worker { return &checker{check: c, hasher: c.p.hasher(c.blockSize), limit: limit} },
		Commit: func(k *pump.Chunk) error {
			c.o.Progress.Add(int64(len(k.Data)))
			more := k.Note.([]Mismatch)
			found = append(found, more[:min(len(more), limit-len(found))]...)
			if len(found) == limit || len(more) > 0 && more[len(more)-1].Kind == DataShort {
				return errEnough
			}
			return nil
		},
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, fmt.Errorf("verify level %d: %w", c.level, err)
	}
	return found, nil
}

// root compares the digest of the single top block with the root hash.
func (c check) root(root digest.Digest, level int) (*Mismatch, error) {
	block := make([]byte, c.blockSize)
	n, err := c.source.ReadAt(block, c.base)
	if n < len(block) {
		if err == io.EOF {
			return &Mismatch{Kind: DataShort, Level: level, Device: c.device, Position: c.base}, nil
		}
		return nil, fmt.Errorf("read top block at offset %d: %w", c.base, err)
	}
	c.o.Progress.Add(int64(n))
	sum := make([]byte, c.p.Hash.Size())
	c.p.hasher(c.blockSize).Sum(sum, block)
	got, err := digest.FromBytes(c.p.Hash, sum)
	if err != nil || got == root {
		return nil, err
	}
	return &Mismatch{Kind: RootDigest, Level: level, Device: c.device, Position: c.base, Expected: root, Actual: got}, nil
}

// checker is check's worker.
type checker struct {
	check
	hasher *blockhash.Hasher
	limit  int
	stored []byte // hash blocks for the chunk
}

func (c *checker) Process(_ context.Context, k *pump.Chunk) error {
	n, err := c.source.ReadAt(k.Data, c.base+k.Off)
	if n < len(k.Data) && err != io.EOF {
		return fmt.Errorf("read %s device at offset %d: %w", c.device, c.base+k.Off+int64(n), err)
	}
	whole := n / c.blockSize
	c.hasher.Sum(k.Sums[:whole*c.p.Hash.Size()], k.Data[:whole*c.blockSize])

	first := uint64(k.Off / int64(c.blockSize))
	per, hbs := uint64(c.p.perBlock()), uint64(c.p.HashBlockSize)
	from, to := first/per, (first+uint64(len(k.Data)/c.blockSize)+per-1)/per
	if need := int((to - from) * hbs); cap(c.stored) < need {
		c.stored = make([]byte, need)
	} else {
		c.stored = c.stored[:need]
	}
	if _, err := c.hash.ReadAt(c.stored, c.at+int64(from*hbs)); err != nil {
		return fmt.Errorf("read hash device: %w", err)
	}
	found, err := c.compare(k, first, from, whole)
	if err == nil && whole < len(k.Data)/c.blockSize && len(found) < c.limit {
		found = append(found, Mismatch{Kind: DataShort, Level: c.level, Device: c.device, Position: c.base + k.Off + int64(whole*c.blockSize)})
	}
	k.Note = found
	return err
}

// compare checks whole blocks, of which the first is block number first of the
// area; c.stored begins with hash block number from of the level.
func (c *checker) compare(k *pump.Chunk, first, from uint64, whole int) ([]Mismatch, error) {
	found := []Mismatch{}
	size, slot := c.p.Hash.Size(), c.p.slot()
	per := uint64(c.p.perBlock())
	storedAt := c.at + int64(from)*int64(c.p.HashBlockSize)
	spare := func(lo, hi int) {
		if !allZero(c.stored[lo:hi]) {
			found = append(found, Mismatch{Kind: SpareNotZero, Level: c.level, Device: OnHashDevice, Position: storedAt + int64(lo)})
		}
	}
	for i := 0; i < whole && len(found) < c.limit; i++ {
		block := first + uint64(i)
		hashBlock := int(block/per-from) * c.p.HashBlockSize
		at := hashBlock + int(block%per)*slot
		want, got := c.stored[at:at+size], k.Sums[i*size:(i+1)*size]
		if !bytes.Equal(want, got) {
			expected, err := digest.FromBytes(c.p.Hash, want)
			if err != nil {
				return nil, err
			}
			actual, err := digest.FromBytes(c.p.Hash, got)
			if err != nil {
				return nil, err
			}
			found = append(found, Mismatch{BlockDigest, c.level, c.device, c.base + k.Off + int64(i*c.blockSize), expected, actual})
		}
		spare(at+size, at+slot)
		if block%per == per-1 || block == c.blocks-1 {
			spare(at+slot, hashBlock+c.p.HashBlockSize)
		}
	}
	return found, nil
}

func (c *checker) Close() error { return nil }

func allZero(b []byte) bool {
	for len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	return len(b) == 0
}

// zeroExtended reads zeros behind the end.
type zeroExtended struct{ r io.ReaderAt }

func (z zeroExtended) ReadAt(b []byte, off int64) (int, error) {
	n, err := z.r.ReadAt(b, off)
	if n == len(b) || err == io.EOF {
		clear(b[n:])
		return len(b), nil
	}
	return n, err
}

// ReadSuperblock reads the superblock at offset of a hash device.
func ReadSuperblock(hash io.ReaderAt, offset int64) (Params, error) {
	var sb [SuperblockSize]byte
	if offset < 0 || offset%sectorSize != 0 {
		return Params{}, &ParamError{"hash-offset", fmt.Sprint(offset), "a multiple of 512"}
	}
	if n, err := hash.ReadAt(sb[:], offset); n < len(sb) {
		if err == io.EOF {
			return Params{}, &SuperblockError{offset, "length", fmt.Sprint(n), fmt.Sprint(SuperblockSize)}
		}
		return Params{}, fmt.Errorf("read verity superblock: %w", err)
	}
	return ParseSuperblock(sb[:], offset)
}

// VerifyFiles verifies a data file against a hash file (which may be the same)
// and a root hash in hex. Both are opened for reading only. Without
// p.NoSuperblock all parameters but p.HashOffset come from the superblock.
func VerifyFiles(ctx context.Context, dataPath, hashPath, root string, p Params, o VerifyOptions) (Verdict, error) {
	data, dataSize, err := openSized(dataPath, os.O_RDONLY)
	if err != nil {
		return Verdict{}, err
	}
	defer data.Close()
	hash, hashSize, err := openSized(hashPath, os.O_RDONLY)
	if err != nil {
		return Verdict{}, err
	}
	defer hash.Close()
	if !p.NoSuperblock {
		if p, err = ReadSuperblock(hash, p.HashOffset); err != nil {
			return Verdict{}, fmt.Errorf("%s: %w", hashPath, err)
		}
	} else if p.DataBlocks == 0 {
		if p.DataBlocks, err = p.DataBlocksOf(dataSize); err != nil {
			return Verdict{}, fmt.Errorf("%s: %w", dataPath, err)
		}
	}
	want, err := digest.ParseHex(p.Hash, root)
	if err != nil {
		return Verdict{}, fmt.Errorf("root hash: %w", err)
	}
	v, err := Verify(ctx, data, hash, hashSize, p, want, o)
	if err != nil {
		return v, err
	}
	v.Covered = min(int64(p.DataBlocks)*int64(p.DataBlockSize), dataSize)
	v.Uncovered = dataSize - v.Covered
	same, err := sameFile(data, hash)
	if err != nil {
		return v, err
	}
	if same {
		// Superblock and tree in the same device, behind the data.
		v.Uncovered -= max(min(v.Layout.End, dataSize)-max(p.HashOffset, v.Covered), 0)
		v.Gap = min(max(min(p.HashOffset, dataSize)-v.Covered, 0), v.Uncovered)
	}
	return v, nil
}

func sameFile(a, b *os.File) (bool, error) {
	x, err := a.Stat()
	if err != nil {
		return false, err
	}
	y, err := b.Stat()
	return err == nil && os.SameFile(x, y), err
}

// DumpFile reads the superblock of a hash file; the result has no root hash.
func DumpFile(path string, offset int64) (Result, error) {
	f, _, err := openSized(path, os.O_RDONLY)
	if err != nil {
		return Result{}, err
	}
	defer f.Close()
	p, err := ReadSuperblock(f, offset)
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", path, err)
	}
	layout, err := p.Layout(p.DataBlocks)
	return Result{Params: p, Layout: layout}, err
}
