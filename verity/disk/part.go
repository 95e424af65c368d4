package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/internal/pump"
)

// A Layout is a directory that was listed and laid out, of which parts can be
// read. No image is written, and no content is read but what is asked for.
type Layout struct {
	plan *erofs.Plan
	tree *Tree
	dir  content
	o    Options
}

// content is where files are opened, and given back.
type content interface {
	erofs.Content
	io.Closer
}

// OpenLayout lists a directory and lays out its disk. The options that ask for
// hashes of the whole file mean nothing here: a part gives digests of the tree
// alone.
func OpenLayout(o Options) (*Layout, error) {
	if o.Profile == "" {
		o.Profile = erofs.Profile19
	}
	o.RootOnly = true
	tree, err := ReadTree(o)
	if err != nil {
		return nil, fmt.Errorf("read model directory: %w", err)
	}
	plan, err := erofs.NewPlan(tree.Root)
	if err != nil {
		return nil, err
	}
	dir, err := erofs.OpenDir(o.Dir)
	if err != nil {
		return nil, err
	}
	return &Layout{plan, tree, dir, o}, nil
}

// Close gives the directory back.
func (l *Layout) Close() error { return l.dir.Close() }

// Planned is what is known of the disk before any content is read.
func (l *Layout) Planned() (Result, error) {
	res, err := Planned(l.plan, l.o.Profile)
	res.Warnings, res.Changes, res.Excluded = l.tree.Warnings, l.tree.Changes, l.tree.Excluded
	return res, err
}

// Digest identifies the layout: names, modes, sizes, targets and links of
// everything in the directory, and nothing of the content.
func (l *Layout) Digest() digest.Digest {
	h := sha256.New()
	writeLayout(h, l.plan)
	return digest.FromHash(digest.SHA256, h)
}

// edge is how much of a file's beginning and end its identity looks at, bytes.
const edge = blockSize

// Identity is one digest over the files with content in image bytes [off, end):
// path, size, modification time, first and last block of each. A change in the
// middle of a file that keeps size and time escapes it. names are the files'
// first few, n is how many there are.
func (l *Layout) Identity(off, end int64) (id digest.Digest, names []string, n int, err error) {
	h := sha256.New()
	seen := map[uint32]bool{}
	buf := make([]byte, edge)
	err = l.plan.Spans(off, end, func(sp erofs.Span) error {
		if seen[sp.Ino] {
			return nil
		}
		seen[sp.Ino] = true
		path, node := l.plan.Path(sp.Ino), l.plan.Node(sp.Ino)
		if n++; len(names) < maxPaths {
			names = append(names, path)
		}
		fmt.Fprintf(h, "%q %d %d\n", path, node.Size, node.Stat.MTime)
		return readEdges(h, l.dir, path, node, buf)
	})
	return digest.FromHash(digest.SHA256, h), names, n, err
}

// readEdges hashes the first and the last block of a file.
func readEdges(w io.Writer, content erofs.Content, path string, n *erofs.Node, buf []byte) (err error) {
	f, err := content.Open(path, n)
	if err != nil {
		return err
	}
	// Closing says whether the file changed since the directory was listed.
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, at := range []int64{0, max(n.Size-edge, 0)} {
		b := buf[:min(n.Size-at, edge)]
		if k, err := f.ReadAt(b, at); k < len(b) {
			if err == nil || err == io.EOF {
				err = &erofs.ChangedError{Path: path, What: fmt.Sprintf("content ends at byte %d of %d", at+int64(k), n.Size)}
			}
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// PartSums is what a part of a disk comes to.
type PartSums struct {
	// Sums are the subtree digests of the part's level, one behind the other.
	Sums []byte
	// Others has, in the part that begins with block 0, the first of these
	// digests as the other releases of mkfs.erofs make it.
	Others map[erofs.Profile]digest.Digest
}

// Part reads the image's bytes [off, off+length) and folds them into digests of
// one level. off is a multiple of the bytes below one digest; only the image's
// end may cut a subtree.
func (l *Layout) Part(ctx context.Context, off, length int64, level int) (PartSums, error) {
	params := Params(l.plan.Size())
	unit, err := params.SubtreeBlocks(level)
	if err != nil {
		return PartSums{}, err
	}
	bytesOf := int64(unit) * blockSize
	if off < 0 || length <= 0 || off > l.plan.Size()-length || off%bytesOf != 0 || off+length != l.plan.Size() && length%bytesOf != 0 {
		return PartSums{}, fmt.Errorf("part of %d bytes at offset %d does not fit an image of %d bytes in subtrees of %d", length, off, l.plan.Size(), bytesOf)
	}
	firsts := make([][]byte, level)
	var block0 []byte
	fold, err := params.NewSubtrees(level, func(level int, block []byte) { firsts[level] = bytes.Clone(block) })
	if err != nil {
		return PartSums{}, err
	}
	window := l.o.workers()*2 + 4
	chunk := int64(l.o.chunk(window))
	for off%chunk != 0 {
		chunk /= 2
	}
	l.o.Progress.Start(length, 0)
	err = pump.Run(ctx, pump.Job{
		Start: off, End: off + length,
		ChunkSize: int(chunk), BlockSize: blockSize, SumSize: params.Hash.Size(),
		Workers: l.o.workers(), Window: window,
		NewWorker: func() pump.Worker {
			return &partWorker{l.plan.NewReader(l.o.Profile, l.dir), params.DataHasher().Sum}
		},
		Commit: func(c *pump.Chunk) error {
			if c.Off == 0 {
				block0 = bytes.Clone(c.Data[:blockSize])
			}
			l.o.Progress.Add(int64(len(c.Data)))
			return fold.Add(c.Sums)
		},
	})
	if err != nil {
		return PartSums{}, err
	}
	var res PartSums
	if res.Sums, err = fold.Sums(); err != nil || off > 0 {
		return res, err
	}
	res.Others = map[erofs.Profile]digest.Digest{}
	for _, p := range erofs.Profiles() {
		if p == l.o.Profile {
			continue
		}
		_, _, sum := otherFirst(params, p, block0, firsts)
		if res.Others[p], err = digest.FromBytes(params.Hash, sum); err != nil {
			return PartSums{}, err
		}
	}
	return res, nil
}

// partWorker fills and hashes chunks.
type partWorker struct {
	reader *erofs.Reader
	sum    func(dst, data []byte)
}

func (w *partWorker) Process(_ context.Context, c *pump.Chunk) error {
	if err := w.reader.Fill(c.Data, c.Off); err != nil {
		return err
	}
	w.sum(c.Sums, c.Data)
	return nil
}

func (w *partWorker) Close() error { return w.reader.Close() }
