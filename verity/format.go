package verity

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/inputfile"
	"github.com/retally/retally/verity/internal/blockhash"
	"github.com/retally/retally/verity/internal/pump"
)

// Result is a computed tree. The JSON form has bare hex, as veritysetup prints.
type Result struct {
	Params Params        // as given, DataBlocks resolved
	Layout Layout        // on the hash device
	Root   digest.Digest // the root hash
}

// DataBlocksOf resolves the number of data blocks against the size in bytes of
// the data device.
func (p Params) DataBlocksOf(size int64) (uint64, error) {
	if err := p.Validate(); err != nil {
		return 0, err
	}
	if size < SuperblockSize {
		return 0, fmt.Errorf("data device has %d bytes, want at least %d", size, SuperblockSize)
	}
	all := uint64(size) / uint64(p.DataBlockSize)
	switch {
	case p.DataBlocks == 0 && all == 0:
		return 0, fmt.Errorf("data device has %d bytes, less than one data block of %d", size, p.DataBlockSize)
	case p.DataBlocks == 0:
		return all, nil
	case p.DataBlocks > all:
		return 0, fmt.Errorf("data device has %d blocks of %d bytes, want %d (--data-blocks)", all, p.DataBlockSize, p.DataBlocks)
	}
	return p.DataBlocks, nil
}

// RootOf computes the root hash of size bytes of data in one pass, with memory
// for the tree of two hash blocks per level. Every hash block goes to sink if
// it is not nil, in the order in which blocks become complete.
func RootOf(ctx context.Context, data io.ReaderAt, size int64, p Params, o Options,
	sink func(level int, index uint64, block []byte) error,
) (Result, error) {
	n, err := p.DataBlocksOf(size)
	if err != nil {
		return Result{}, err
	}
	layout, err := p.Layout(n)
	if err != nil {
		return Result{}, err
	}
	fold, err := p.NewFold(0, sink)
	if err != nil {
		return Result{}, err
	}
	p.DataBlocks = n
	o.Progress.Start(int64(n)*int64(p.DataBlockSize), 0)
	err = pump.Run(ctx, pump.Job{
		End:       int64(n) * int64(p.DataBlockSize),
		ChunkSize: o.chunkSize(p.DataBlockSize),
		BlockSize: p.DataBlockSize,
		SumSize:   p.Hash.Size(),
		Workers:   o.workers(),
		NewWorker: func() pump.Worker { return &reader{data, p.hasher(p.DataBlockSize)} },
		Commit: func(c *pump.Chunk) error {
			o.Progress.Add(int64(len(c.Data)))
			return fold.Add(c.Sums)
		},
	})
	if err != nil {
		return Result{}, fmt.Errorf("compute verity tree: %w", err)
	}
	root, err := fold.Root()
	if err != nil {
		return Result{}, err
	}
	return Result{Params: p, Layout: layout, Root: root}, nil
}

func (p Params) hasher(blockSize int) *blockhash.Hasher {
	return blockhash.New(p.Hash, blockSize, p.Salt, p.HashType == 0)
}

// reader digests what it reads.
type reader struct {
	data io.ReaderAt
	hash *blockhash.Hasher
}

func (r *reader) Process(_ context.Context, c *pump.Chunk) error {
	if n, err := r.data.ReadAt(c.Data, c.Off); n < len(c.Data) {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read data at offset %d: %w", c.Off+int64(n), err)
	}
	r.hash.Sum(c.Sums, c.Data)
	return nil
}

func (r *reader) Close() error { return nil }

// FormatFiles does what `veritysetup format` does: it computes the tree of the
// data file and writes tree and superblock to the hash file, which may be the
// data file itself and is created if it does not exist. Bytes of the hash file
// outside tree and superblock stay as they are. An empty hash path computes
// only. An empty fec.Path writes no FEC data.
func FormatFiles(ctx context.Context, data, hash string, p Params, fec FEC, o Options) (Result, error) {
	if err := p.Validate(); err != nil {
		return Result{}, err
	}
	if err := fec.validate(p); err != nil {
		return Result{}, err
	}
	in, size, err := openSized(data, os.O_RDONLY)
	if err != nil {
		return Result{}, err
	}
	defer in.Close()
	if hash == "" {
		if fec.Path != "" {
			return Result{}, &ParamError{"fec-device", "given without a hash device", "a hash device to read the tree from"}
		}
		return RootOf(ctx, in, size, p, o, nil)
	}
	// What can be refused is refused before the hash file exists.
	n, err := p.DataBlocksOf(size)
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", data, err)
	}
	layout, err := p.Layout(n)
	if err != nil {
		return Result{}, err
	}
	if err := checkOverlap(in, hash, p, n); err != nil {
		return Result{}, err
	}
	out, oldSize, err := openSized(hash, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return Result{}, err
	}
	res, err := formatTo(ctx, in, size, out, oldSize, p, layout, o)
	if err == nil && fec.Path != "" {
		err = fec.writeFile(ctx, in, out, res)
	}
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	return res, err
}

// checkOverlap refuses a tree that would be written over the data.
func checkOverlap(data *os.File, hash string, p Params, dataBlocks uint64) error {
	a, err := data.Stat()
	if err != nil {
		return err
	}
	b, err := os.Stat(hash)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if end := int64(dataBlocks) * int64(p.DataBlockSize); os.SameFile(a, b) && end > p.HashOffset {
		return &ParamError{"hash-offset", fmt.Sprint(p.HashOffset), fmt.Sprintf("at least %d: the data area ends there on the same device", end)}
	}
	return nil
}

func formatTo(ctx context.Context, in *os.File, size int64, out *os.File, oldSize int64, p Params, layout Layout, o Options) (Result, error) {
	hbs := int64(p.HashBlockSize)
	res, err := RootOf(ctx, in, size, p, o, func(level int, index uint64, block []byte) error {
		_, err := out.WriteAt(block, layout.Levels[level].Offset+int64(index)*hbs)
		return err
	})
	if err != nil {
		return Result{}, err
	}
	if want := p.hashFileSize(layout); want > oldSize && layout.HashBlocks == 0 {
		if err := out.Truncate(want); err != nil {
			return Result{}, err
		}
	}
	// The superblock comes last: a tree that was not finished has none.
	if !p.NoSuperblock {
		if _, err := out.WriteAt(p.AppendSuperblock(nil, layout.DataBlocks), p.HashOffset); err != nil {
			return Result{}, err
		}
	}
	return res, nil
}

// openSized opens a file or block device and finds its size in bytes.
func openSized(path string, flag int) (*os.File, int64, error) {
	f, err := inputfile.OpenFlag(path, flag, inputfile.BlockDevices)
	if err != nil {
		return nil, 0, err
	}
	// Devices have no size in stat, but an end.
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("%s: find the size: %w", path, err)
	}
	return f, size, nil
}

// saltText is the salt as veritysetup prints it.
func saltText(salt []byte) string {
	if len(salt) == 0 {
		return "-"
	}
	return hex.EncodeToString(salt)
}
