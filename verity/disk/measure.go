package disk

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity"
	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/internal/pump"
	"github.com/retally/retally/verity/source"
)

// Measure computes the disk of a directory.
func Measure(ctx context.Context, o Options) (Result, error) {
	var pointers map[string][]byte
	if o.Source != nil {
		o.Source, pointers = o.Source.WithPointers(o.unfetched)
	}
	tree, err := readTree(o, pointers)
	if err != nil {
		return Result{}, fmt.Errorf("read model directory: %w", err)
	}
	plan, err := erofs.NewPlan(tree.Root)
	if err != nil {
		return Result{}, err
	}
	dir, err := erofs.OpenDir(o.Dir)
	if err != nil {
		return Result{}, err
	}
	defer dir.Close()
	content := erofs.Content(dir)
	if len(pointers) > 0 {
		content = &pointerContent{dir, pointers}
	}
	if o.Source != nil {
		o.Watch = o.Source.Watch
	}
	o.also = o.watches()
	res, err := MeasurePlan(ctx, plan, content, o)
	if err != nil {
		return Result{}, fmt.Errorf("measure disk of %s: %w", o.Dir, err)
	}
	res.Warnings, res.Changes, res.Excluded = tree.Warnings, tree.Changes, tree.Excluded
	if o.Source != nil {
		report := o.Source.Check(plan, res.Files, res.sums[watchXet], o.excluded)
		res.Source = &report
	}
	o.content(plan, &res)
	return res, nil
}

// PlanList lays out the disk of a list of files that need not be there: sizes
// and numbers, no hashes.
func PlanList(list *source.Tree, o Options) (Result, error) {
	if o.Profile == "" {
		o.Profile = erofs.Profile19
	}
	list, pointers := list.WithPointers(o.unfetched)
	root, err := list.Nodes()
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", list.Name, err)
	}
	var out []string
	prune("", root, func(path string, dir bool) bool {
		if !o.excluded(path, dir) {
			return false
		}
		out = append(out, path)
		return true
	})
	plan, err := erofs.NewPlan(root)
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", list.Name, err)
	}
	res, err := Planned(plan, o.Profile)
	slices.Sort(out)
	res.Excluded = out
	var changed notes
	if list.Suspect != "" {
		res.Warnings = append(res.Warnings, Warning{Code: WarnListing, Message: list.Suspect, Count: 1})
	}
	for _, p := range slices.Sorted(maps.Keys(pointers)) {
		changed.change(WarnLFSExcluded, p)
	}
	res.Changes = changed.sorted()
	return res, err
}

// pointerContent has Git LFS pointers in place of some files.
type pointerContent struct {
	erofs.Content
	pointers map[string][]byte
}

// Open implements erofs.Content.
func (c *pointerContent) Open(path string, n *erofs.Node) (erofs.File, error) {
	if b, ok := c.pointers[path]; ok {
		return pointerFile{bytes.NewReader(b)}, nil
	}
	return c.Content.Open(path, n)
}

type pointerFile struct{ io.ReaderAt }

// Close implements erofs.File.
func (pointerFile) Close() error { return nil }

// prune takes excluded nodes out of a tree.
func prune(dir string, n *erofs.Node, excluded func(string, bool) bool) {
	n.Children = slices.DeleteFunc(n.Children, func(c *erofs.Node) bool {
		return excluded(path.Join(dir, c.Name), c.Is(erofs.ModeDir))
	})
	for _, c := range n.Children {
		prune(path.Join(dir, c.Name), c, excluded)
	}
}

// Planned returns what is known of a disk before any content is read: sizes
// and numbers, no hashes.
func Planned(plan *erofs.Plan, profile erofs.Profile) (Result, error) {
	layout, err := Params(plan.Size()).Layout(uint64(plan.Blocks()))
	if err != nil {
		return Result{}, err
	}
	return Result{
		Mkfs: profile, HashOffset: plan.Size(), Blocks: plan.Blocks(), Inodes: plan.Inodes(),
		// The superblock is written as one whole block.
		FileSize: plan.Size() + blockSize + int64(layout.HashBlocks)*blockSize,
		Plan:     plan,
	}, nil
}

// MeasurePlan computes the disk of a planned image whose files content opens.
func MeasurePlan(ctx context.Context, plan *erofs.Plan, content erofs.Content, o Options) (_ Result, err error) {
	if o.Profile == "" {
		o.Profile = erofs.Profile19
	}
	if o.Write != "" && o.Checkpoint != "" {
		return Result{}, fmt.Errorf("a disk file is written whole or not at all and cannot be resumed: leave out --write or --resume")
	}
	r := &run{o: o, plan: plan, content: content, params: Params(plan.Size())}
	if r.res, err = Planned(plan, o.Profile); err != nil {
		return Result{}, err
	}
	if r.layout, err = r.params.Layout(uint64(plan.Blocks())); err != nil {
		return Result{}, err
	}
	defer r.close()
	if err := r.open(); err != nil {
		return Result{}, err
	}
	if err := r.pass(ctx); err != nil {
		return Result{}, err
	}
	if err := r.finish(ctx); err != nil {
		return Result{}, err
	}
	return r.res, nil
}

// run is one measurement.
type run struct {
	o       Options
	plan    *erofs.Plan
	content erofs.Content
	params  verity.Params
	layout  verity.Layout
	res     Result

	chunk, window int
	start         int64 // byte of the image to begin with

	fold   *verity.Fold
	block0 []byte   // block 0 in the measured profile
	firsts [][]byte // first hash block of every level, for the other profiles
	table  *table   // nil if only the root hash is wanted

	files   []*fileHash
	watches []*watch
	chains  []*follower
	disk    *diskFile
	against *against
	keeper  *keeper
}

// open prepares everything that the pass feeds, from a checkpoint if there is
// one to go on from.
func (r *run) open() (err error) {
	r.window = r.o.workers()*2 + 4
	r.chunk = r.o.chunk(r.window)
	r.firsts = make([][]byte, len(r.layout.Levels))
	if !r.o.RootOnly {
		r.files = append(r.files, newFileHash(r.o.Profile))
		for _, p := range r.others() {
			if r.o.AllFiles {
				r.files = append(r.files, newFileHash(p))
			}
		}
	}
	if !r.o.RootOnly || r.o.Write != "" || r.o.AgainstImage != "" {
		limit := r.o.Mem
		if limit <= 0 {
			limit = defaultMem
		}
		r.table = newTable(r.layout, limit, r.o.TempDir)
	}
	if err := r.openWatches(); err != nil {
		return err
	}
	if r.fold, err = r.params.NewFold(0, r.sink); err != nil {
		return err
	}
	if r.o.Checkpoint != "" {
		if err := r.openCheckpoint(); err != nil {
			return err
		}
	}
	if r.o.Write != "" {
		if r.disk, err = createDisk(r.o.Write); err != nil {
			return err
		}
	}
	if r.o.AgainstImage != "" {
		if r.against, err = openAgainst(r.o.AgainstImage); err != nil {
			return err
		}
		r.res.Against = &Against{Path: r.o.AgainstImage, Size: r.against.size, WantSize: r.res.FileSize}
		r.res.Against.HasTree = r.against.size != r.plan.Size()
	}
	return nil
}

// others lists the profiles beside the measured one.
func (r *run) others() []erofs.Profile {
	var out []erofs.Profile
	for _, p := range erofs.Profiles() {
		if p != r.o.Profile {
			out = append(out, p)
		}
	}
	return out
}

// sink keeps completed hash blocks.
func (r *run) sink(level int, index uint64, block []byte) error {
	if index == 0 {
		r.firsts[level] = bytes.Clone(block)
	}
	if r.table != nil {
		return r.table.add(level, block)
	}
	return nil
}

// pass reads every byte once. Workers fill, hash, write and compare chunks;
// behind them the tree grows in order, and what hashes bytes in sequence runs
// beside it.
func (r *run) pass(ctx context.Context) error {
	for _, f := range r.files {
		r.chains = append(r.chains, follow(f.feed))
	}
	for _, w := range r.watches {
		r.chains = append(r.chains, follow(w.feed))
	}
	r.o.Progress.Start(r.plan.Size(), r.start)
	err := pump.Run(ctx, pump.Job{
		Start: r.start, End: r.plan.Size(),
		ChunkSize: r.chunk, BlockSize: blockSize, SumSize: r.params.Hash.Size(),
		Workers: r.o.workers(), Window: r.window,
		NewWorker: func() pump.Worker {
			return &worker{run: r, reader: r.plan.NewReader(r.o.Profile, r.content), hash: r.params.DataHasher()}
		},
		Commit: r.commit,
	})
	for _, c := range r.chains {
		if chainErr := c.end(); err == nil {
			err = chainErr
		}
	}
	r.chains = nil
	return err
}

func (r *run) commit(c *pump.Chunk) error {
	if c.Off == 0 {
		r.block0 = bytes.Clone(c.Data[:blockSize])
	}
	for _, f := range r.chains {
		c.Retain()
		f.in <- message{chunk: c}
	}
	if err := r.fold.Add(c.Sums); err != nil {
		return err
	}
	if n, ok := c.Note.(*compared); ok {
		a := r.res.Against
		a.Blocks += n.blocks
		a.Differences = append(a.Differences, n.found[:min(len(n.found), maxDifferences-len(a.Differences))]...)
	}
	r.o.Progress.Add(int64(len(c.Data)))
	if r.keeper != nil {
		return r.keep(c.Off + int64(len(c.Data)))
	}
	return nil
}

// worker fills, hashes, writes and compares chunks.
type worker struct {
	run    *run
	reader *erofs.Reader
	hash   verity.BlockHasher
	buf    []byte
}

// compared is what a worker found different in a chunk.
type compared struct {
	blocks int64
	found  []Difference
}

func (w *worker) Process(_ context.Context, c *pump.Chunk) error {
	if err := w.reader.Fill(c.Data, c.Off); err != nil {
		return err
	}
	w.hash.Sum(c.Sums, c.Data)
	if w.run.disk != nil {
		if _, err := w.run.disk.WriteAt(c.Data, c.Off); err != nil {
			return err
		}
	}
	if w.run.against != nil {
		if len(w.buf) < len(c.Data) {
			w.buf = make([]byte, len(c.Data))
		}
		n := &compared{}
		var err error
		if n.blocks, err = w.run.against.compare(w.buf, c.Data, c.Off, &n.found); err != nil {
			return fmt.Errorf("compare with %s: %w", w.run.o.AgainstImage, err)
		}
		c.Note = n
	}
	return nil
}

func (w *worker) Close() error { return w.reader.Close() }

// finish completes the tree and everything that comes behind the data.
func (r *run) finish(ctx context.Context) error {
	root, err := r.fold.Root()
	if err != nil {
		return err
	}
	r.res.RootHash = Hex{root}
	if r.start > 0 && r.table != nil {
		if err := r.checkTable(); err != nil {
			return err
		}
	}
	others := map[erofs.Profile]*variant{}
	for _, p := range r.others() {
		v, err := r.variant(p)
		if err != nil {
			return err
		}
		others[p] = v
		r.res.Others = append(r.res.Others, Other{Mkfs: p, RootHash: Hex{v.root}})
	}
	for _, f := range r.files {
		image, whole, err := r.finishFile(ctx, f, others[f.profile])
		if err != nil {
			return err
		}
		if f.profile == r.o.Profile {
			r.res.ErofsSHA, r.res.FileSHA256 = Hex{image}, Hex{whole}
			continue
		}
		for k := range r.res.Others {
			if r.res.Others[k].Mkfs == f.profile {
				r.res.Others[k].ErofsSHA, r.res.Others[k].FileSHA256 = Hex{image}, Hex{whole}
			}
		}
	}
	if err := r.finishWatches(); err != nil {
		return err
	}
	if err := r.finishDisk(ctx); err != nil {
		return err
	}
	if r.keeper != nil {
		r.keeper.remove()
	}
	return nil
}

// variant is a disk that differs in block 0 alone: only the first hash block
// of every level and the root hash differ with it.
type variant struct {
	block0 []byte
	firsts [][]byte
	root   digest.Digest
}

func (r *run) variant(p erofs.Profile) (*variant, error) {
	block0, firsts, sum := otherFirst(r.params, p, r.block0, r.firsts)
	root, err := digest.FromBytes(r.params.Hash, sum)
	return &variant{block0, firsts, root}, err
}

// otherFirst changes block 0 to a profile and gives the first hash block of each
// level that changes with it, and the digest of the last of them.
func otherFirst(params verity.Params, p erofs.Profile, block0 []byte, firsts [][]byte) (changed []byte, blocks [][]byte, sum []byte) {
	changed = bytes.Clone(block0)
	erofs.SetProfile(changed, p)
	sum = make([]byte, params.Hash.Size())
	params.DataHasher().Sum(sum, changed)
	h := params.HashHasher()
	for _, first := range firsts {
		first = bytes.Clone(first)
		copy(first, sum)
		blocks = append(blocks, first)
		h.Sum(sum, first)
	}
	return changed, blocks, sum
}

// writeTree writes what lies behind the image: the superblock, padded to a
// block, and the levels from the top down.
func (r *run) writeTree(ctx context.Context, w io.Writer, v *variant) error {
	sb := append(r.params.AppendSuperblock(nil, r.layout.DataBlocks), make([]byte, blockSize-verity.SuperblockSize)...)
	if _, err := w.Write(sb); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	for i := len(r.layout.Levels) - 1; i >= 0; i-- {
		level, err := r.table.level(i)
		if err != nil {
			return err
		}
		if v != nil {
			if _, err := io.CopyN(io.Discard, level, blockSize); err != nil {
				return err
			}
			level = io.MultiReader(bytes.NewReader(v.firsts[i]), level)
		}
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := io.ReadFull(level, buf)
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				break
			}
			if err != nil {
				return fmt.Errorf("read digest table: %w", err)
			}
		}
	}
	return nil
}

func (r *run) finishFile(ctx context.Context, f *fileHash, v *variant) (image, whole digest.Digest, err error) {
	image = digest.FromHash(digest.SHA256, f.h)
	err = r.writeTree(ctx, f.h, v)
	return image, digest.FromHash(digest.SHA256, f.h), err
}

// finishDisk writes the tree of a disk that is made, and compares that of a
// disk that exists.
func (r *run) finishDisk(ctx context.Context) error {
	if r.disk != nil {
		if err := r.writeTree(ctx, &offsetWriter{r.disk, r.plan.Size()}, nil); err != nil {
			return err
		}
		if err := r.disk.commit(r.res.FileSize); err != nil {
			return err
		}
		r.disk = nil
	}
	if a := r.res.Against; a != nil {
		if a.HasTree {
			w := &compareWriter{a: r.against, off: r.plan.Size(), res: a}
			if err := r.writeTree(ctx, w, nil); err != nil {
				return err
			}
		}
		a.explain(r.plan)
	}
	return nil
}

// compareWriter compares what is written to it with the existing file.
type compareWriter struct {
	a   *against
	off int64
	res *Against
	buf []byte
}

func (w *compareWriter) Write(b []byte) (int, error) {
	if len(w.buf) < len(b) {
		w.buf = make([]byte, len(b))
	}
	n, err := w.a.compare(w.buf, b, w.off, &w.res.Differences)
	w.res.Blocks += n
	w.off += int64(len(b))
	return len(b), err
}

// close gives everything back; what finish completed is already gone.
func (r *run) close() {
	if r.disk != nil {
		r.disk.abort()
	}
	if r.against != nil {
		r.against.f.Close()
	}
	if r.table != nil {
		r.table.close()
	}
}
