package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity"
	"github.com/retally/retally/verity/erofs"
)

// Want is what is published of a disk that a directory does not give.
type Want struct {
	Root       digest.Digest
	File       digest.Digest // zero if not published
	HashOffset int64         // 0 if not published
	Names      []string      // the model's, for labels
}

// A Reason is why a directory does not give the published disk.
type Reason struct {
	Anchor string // in why-it-differs.md
	Text   string
	// Proved: with it undone the published value came out. The root hash is over
	// every block, so nothing else can differ.
	Proved bool
}

// Searched is the outcome of a search.
type Searched struct {
	Reasons []Reason
	Tried   int // variants whose length fitted, and whose root was computed
}

// AutoSearch is the size in bytes of the largest image for which a search runs
// unasked. It reads the files some ten times.
const AutoSearch = 1 << 30

// mostVariants bounds a search.
const mostVariants = 5000

// Search looks for the one or two deviations from the recipe that make the
// published root hash of a directory ("Why two values differ", section 5). res
// is what the directory gives by the recipe. Digests of whole blocks of files are
// kept, so that a variant costs the metadata and the upper levels alone.
func Search(ctx context.Context, o Options, res Result, want Want) (*Searched, error) {
	dir, err := erofs.OpenDir(o.Dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if o.Profile == "" {
		o.Profile = erofs.Profile19
	}
	tree, err := readTree(o, nil)
	if err != nil {
		return nil, err
	}
	s := &searcher{ctx: ctx, o: o, dir: dir, res: res, want: want, base: tree.Root, cache: map[cacheKey][]byte{}, found: &Searched{}}
	if err := s.search(); err != nil {
		return nil, err
	}
	if len(s.found.Reasons) == 0 {
		s.form()
	}
	return s.found, nil
}

type searcher struct {
	ctx   context.Context
	o     Options
	dir   *erofs.DirContent
	res   Result
	want  Want
	base  *erofs.Node
	cache map[cacheKey][]byte
	found *Searched
	// costly counts the variants that were planned; those of one block are not
	// among them.
	costly int
}

// cacheKey is a file's content under the parameters of a tree.
type cacheKey struct {
	params   string
	dev, ino uint64
	replaced *erofs.Node
}

// attempt is one deviation from the recipe.
type attempt struct {
	anchor, text string
	root         *erofs.Node // nil: the directory's
	form         erofs.Form
	params       func(*verity.Params)
	padded       bool // with zeros up to the published hash_offset
	content      map[*erofs.Node][]byte
}

// overlay opens what an attempt has in place of files.
type overlay struct {
	erofs.Content
	content map[*erofs.Node][]byte
}

func (c overlay) Open(path string, n *erofs.Node) (erofs.File, error) {
	if b, ok := c.content[n]; ok {
		return pointerFile{bytes.NewReader(b)}, nil
	}
	return c.Content.Open(path, n)
}

// errFound ends a search.
var errFound = fmt.Errorf("found")

// tree is what an attempt gives.
type measured struct {
	params verity.Params
	root   digest.Digest
	block0 []byte
	firsts [][]byte
}

// with is the root with another block 0.
func (m *measured) with(block0 []byte) (digest.Digest, error) {
	per := m.params.DataBlockSize
	sum := make([]byte, blockSize/per*m.params.Hash.Size())
	m.params.DataHasher().Sum(sum, block0)
	if per != blockSize {
		return digest.Digest{}, nil
	}
	h := m.params.HashHasher()
	for _, first := range m.firsts {
		first = bytes.Clone(first)
		copy(first, sum)
		h.Sum(sum, first)
	}
	return digest.FromBytes(m.params.Hash, sum)
}

// try computes the root of an attempt and reports whether it is the published
// one.
func (s *searcher) try(a *attempt) (bool, error) {
	if s.costly >= mostVariants {
		return false, nil
	}
	s.costly++
	if err := s.ctx.Err(); err != nil {
		return false, err
	}
	m, err := s.measure(a)
	if err != nil || m == nil {
		return false, err
	}
	s.found.Tried++
	if m.root == s.want.Root {
		return true, nil
	}
	for _, p := range erofs.Profiles() {
		if p == s.o.Profile {
			continue
		}
		block0 := bytes.Clone(m.block0)
		erofs.SetProfile(block0, p)
		got, err := m.with(block0)
		if err != nil {
			return false, err
		}
		if got == s.want.Root {
			a.text += fmt.Sprintf(" (by mkfs.erofs %s)", p)
			return true, nil
		}
	}
	return false, nil
}

// prove tries an attempt and keeps it if it gives the published root hash.
func (s *searcher) prove(a *attempt) error {
	ok, err := s.try(a)
	if err != nil {
		return err
	}
	if ok {
		s.found.Reasons = []Reason{{a.anchor, a.text, true}}
		return errFound
	}
	return nil
}

// measure computes the tree of an attempt; nil if the image is of another length
// than the published one.
func (s *searcher) measure(a *attempt) (*measured, error) {
	root := a.root
	if root == nil {
		root = s.base
	}
	plan, err := erofs.NewPlanOf(root, a.form)
	if err != nil {
		return nil, nil // a tree that cannot be an image is not the published one
	}
	size := plan.Size()
	if a.padded && s.want.HashOffset > size {
		size = s.want.HashOffset
	}
	if s.want.HashOffset > 0 && size != s.want.HashOffset {
		return nil, nil
	}
	p := Params(size)
	if a.params != nil {
		a.params(&p)
	}
	p.DataBlocks = uint64(size / int64(p.DataBlockSize))
	if p.Hash != s.want.Root.Algorithm() {
		return nil, nil
	}
	layout, err := p.Layout(p.DataBlocks)
	if err != nil {
		return nil, err
	}
	m := &measured{params: p, firsts: make([][]byte, len(layout.Levels))}
	fold, err := p.NewFold(0, func(level int, index uint64, block []byte) error {
		if index == 0 && level < len(m.firsts) {
			m.firsts[level] = bytes.Clone(block)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	reader := plan.NewReader(s.o.Profile, overlay{s.dir, a.content})
	defer reader.Close()
	f := &filler{s: s, m: m, reader: reader, add: fold.Add, hasher: p.DataHasher()}
	at := int64(0)
	err = plan.DataExtents(func(block, blocks int64, _ string, n *erofs.Node) error {
		if err := f.blocks(at, block, nil); err != nil {
			return err
		}
		at = block + blocks
		return f.file(block, blocks, n, a.content[n] != nil)
	})
	if err == nil {
		err = f.blocks(at, plan.Blocks(), nil)
	}
	if err == nil {
		err = f.zeros((size - plan.Size()) / blockSize)
	}
	if err != nil {
		return nil, err
	}
	m.root, err = fold.Root()
	return m, err
}

// filler hashes an image in order.
type filler struct {
	s      *searcher
	m      *measured
	reader *erofs.Reader
	add    func([]byte) error
	hasher verity.BlockHasher
	buf    []byte
}

func (f *filler) sums(blocks int64) []byte {
	return make([]byte, blocks*int64(blockSize/f.m.params.DataBlockSize*f.m.params.Hash.Size()))
}

// blocks reads and hashes blocks from one to the one before another.
func (f *filler) blocks(from, to int64, keep *[]byte) error {
	const most = 64
	if f.buf == nil {
		f.buf = make([]byte, most*blockSize)
	}
	for ; from < to; from += most {
		if err := f.s.ctx.Err(); err != nil {
			return err
		}
		n := min(most, to-from)
		b := f.buf[:n*blockSize]
		if err := f.reader.Fill(b, from*blockSize); err != nil {
			return err
		}
		if from == 0 {
			f.m.block0 = bytes.Clone(b[:blockSize])
		}
		sums := f.sums(n)
		f.hasher.Sum(sums, b)
		if keep != nil {
			*keep = append(*keep, sums...)
		}
		if err := f.add(sums); err != nil {
			return err
		}
	}
	return nil
}

// file takes the digests of a file's blocks from the cache.
func (f *filler) file(block, blocks int64, n *erofs.Node, replaced bool) error {
	p := f.m.params
	key := cacheKey{params: fmt.Sprintf("%d %s %d %x", p.HashType, p.Hash, p.DataBlockSize, p.Salt), dev: n.Stat.Dev, ino: n.Stat.Ino}
	if replaced {
		key = cacheKey{params: key.params, replaced: n}
	}
	if sums, ok := f.s.cache[key]; ok && int64(len(sums)) == int64(len(f.sums(blocks))) {
		return f.add(sums)
	}
	var sums []byte
	if err := f.blocks(block, block+blocks, &sums); err != nil {
		return err
	}
	f.s.cache[key] = sums
	return nil
}

// zeros are the blocks of a padded image.
func (f *filler) zeros(blocks int64) error {
	if blocks <= 0 {
		return nil
	}
	one := f.sums(1)
	f.hasher.Sum(one, make([]byte, blockSize))
	return f.add(bytes.Repeat(one, int(blocks)))
}

// search tries one group of deviations after another.
func (s *searcher) search() error {
	if s.published() {
		return nil
	}
	if s.want.Root == s.res.RootHash.Digest {
		return s.fileOnly()
	}
	for _, group := range []func() error{s.disk, s.modes, s.strays, s.recipe, s.lines, s.names, s.forms, s.trees, s.oneMode, s.leftOut, s.block0} {
		if err := group(); err == errFound {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// published looks at the published values alone: a file hash that agrees while
// the root differs proves the root wrong, since the file holds the tree.
func (s *searcher) published() bool {
	r := &s.res
	add := func(anchor, text string) bool {
		s.found.Reasons = []Reason{{anchor, text, true}}
		return true
	}
	if s.want.Root == r.ErofsSHA.Digest && !s.want.Root.IsZero() {
		return add("flat-hash", "the published root hash is the SHA-256 of the image, not of its tree")
	}
	if s.want.Root == r.FileSHA256.Digest && !s.want.Root.IsZero() {
		return add("flat-hash", "the published root hash is the SHA-256 of the disk file")
	}
	if s.want.Root != r.RootHash.Digest && !s.want.File.IsZero() && s.want.File == r.FileSHA256.Digest {
		what := "another root hash is published"
		if n := hexDistance(s.want.Root, r.RootHash.Digest); n == 1 {
			what = "one hex digit differs from the computed root, and file_hash_sha256 agrees: the published root hash was mistyped"
		} else {
			what = fmt.Sprintf("file_hash_sha256 agrees, which is over image and tree, and the published root hash differs in %d hex digits: %s than the published file has", n, what)
		}
		return add("disk-root-mistyped", what)
	}
	return false
}

func hexDistance(a, b digest.Digest) int {
	x, y, n := a.Hex(), b.Hex(), 0
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			n++
		}
	}
	return n + max(len(x), len(y)) - min(len(x), len(y))
}

// fileOnly explains a file hash that differs while the root hash agrees.
func (s *searcher) fileOnly() error {
	if s.want.File.IsZero() || s.want.File == s.res.FileSHA256.Digest {
		return nil
	}
	add := func(text string, proved bool) {
		s.found.Reasons = []Reason{{"disk-file-hash", "the root hash agrees and the file hash differs: " + text, proved}}
	}
	if s.want.File == s.res.ErofsSHA.Digest {
		add("the published file_hash_sha256 is that of the image alone (erofs_sha256): the tree is in a file of its own", true)
		return nil
	}
	tree, image, err := s.fileHashes()
	if err != nil {
		return err
	}
	switch s.want.File {
	case image:
		add("the published file_hash_sha256 is that of a tree without superblock behind the image", true)
	case tree:
		add("the published file_hash_sha256 is that of the tree alone", true)
	default:
		add("another UUID in the verity superblock, which is in the file and not under the root hash (veritysetup makes a random one unless {uuid} is given)", false)
	}
	return nil
}

// fileHashes computes the SHA-256 of the tree alone, with its superblock, and
// that of the image with the tree behind it and no superblock.
func (s *searcher) fileHashes() (tree, bare digest.Digest, err error) {
	plan, err := erofs.NewPlan(s.base)
	if err != nil {
		return tree, bare, err
	}
	reader := plan.NewReader(s.o.Profile, s.dir)
	defer reader.Close()
	p := Params(plan.Size())
	layout, err := p.Layout(uint64(plan.Blocks()))
	if err != nil {
		return tree, bare, err
	}
	levels := make([][]byte, len(layout.Levels))
	fold, err := p.NewFold(0, func(level int, _ uint64, block []byte) error {
		levels[level] = append(levels[level], block...)
		return nil
	})
	if err != nil {
		return tree, bare, err
	}
	h := sha256.New()
	buf := make([]byte, blockSize)
	sum := make([]byte, p.Hash.Size())
	hasher := p.DataHasher()
	for at := int64(0); at < plan.Size(); at += blockSize {
		if err := s.ctx.Err(); err != nil {
			return tree, bare, err
		}
		if err := reader.Fill(buf, at); err != nil {
			return tree, bare, err
		}
		h.Write(buf)
		hasher.Sum(sum, buf)
		if err := fold.Add(sum); err != nil {
			return tree, bare, err
		}
	}
	if _, err := fold.Root(); err != nil {
		return tree, bare, err
	}
	alone := sha256.New()
	alone.Write(append(p.AppendSuperblock(nil, layout.DataBlocks), make([]byte, blockSize-verity.SuperblockSize)...))
	for _, w := range []io.Writer{h, alone} {
		for i := len(levels) - 1; i >= 0; i-- {
			w.Write(levels[i])
		}
	}
	return digest.FromHash(digest.SHA256, alone), digest.FromHash(digest.SHA256, h), nil
}

// disk takes the fields of an existing disk file's superblocks.
func (s *searcher) disk() error {
	if s.o.AgainstImage == "" {
		return nil
	}
	f, err := os.Open(s.o.AgainstImage)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, blockSize)
	if _, err := io.ReadFull(f, head); err != nil {
		return nil // too short for a superblock
	}
	super, ok := erofs.ParseSuper(head)
	if !ok {
		return nil
	}
	form := erofs.Form{Time: super.Time, UUID: super.UUID, Label: super.Label}
	var said []string
	if super.Time != 0 {
		said = append(said, fmt.Sprintf("build time %d (-T%d)", super.Time, super.Time))
	}
	if super.UUID != [16]byte{} {
		said = append(said, "superblock UUID "+verity.UUID(super.UUID).String())
	}
	if super.Label != "" {
		said = append(said, fmt.Sprintf("volume label %q", super.Label))
	}
	params := Params(s.res.HashOffset)
	sb := make([]byte, verity.SuperblockSize)
	var found *verity.Params
	if off := s.want.HashOffset; off > 0 {
		if _, err := f.ReadAt(sb, off); err == nil {
			if p, err := verity.ParseSuperblock(sb, off); err == nil {
				found = &p
			}
		}
	}
	if found != nil {
		if !bytes.Equal(found.Salt, params.Salt) {
			said = append(said, fmt.Sprintf("verity salt %x", found.Salt))
		}
		if found.HashType != params.HashType {
			said = append(said, fmt.Sprintf("a tree of format %d", found.HashType))
		}
		if found.Hash != params.Hash {
			said = append(said, "a tree of "+found.Hash.String())
		}
		if found.DataBlockSize != params.DataBlockSize || found.HashBlockSize != params.HashBlockSize {
			said = append(said, fmt.Sprintf("data and hash blocks of %d and %d bytes", found.DataBlockSize, found.HashBlockSize))
		}
		if found.UUID != params.UUID {
			said = append(said, "UUID "+found.UUID.String()+" in the verity superblock")
		}
	}
	if len(said) > 0 {
		a := &attempt{anchor: "disk-superblock", text: "the disk file has " + strings.Join(said, ", ") + ": with it the root hash is the published one", form: form}
		if found != nil {
			a.params = func(p *verity.Params) {
				p.Salt, p.HashType, p.Hash, p.DataBlockSize, p.HashBlockSize = found.Salt, found.HashType, found.Hash, found.DataBlockSize, found.HashBlockSize
			}
		}
		if err := s.prove(a); err != nil {
			return err
		}
		s.found.Reasons = append(s.found.Reasons, Reason{"disk-superblock", "the disk file has " + strings.Join(said, ", "), false})
	}
	return s.tails(f)
}

// tails names the files whose inline content differs in an existing image of
// the same layout.
func (s *searcher) tails(f *os.File) error {
	a := s.res.Against
	if a == nil || s.res.Plan == nil || s.want.HashOffset != s.res.Plan.Size() {
		return nil
	}
	reader := s.res.Plan.NewReader(s.o.Profile, s.dir)
	defer reader.Close()
	mine, theirs := make([]byte, blockSize), make([]byte, blockSize)
	var names []string
	for _, d := range a.Differences {
		at := d.Block * blockSize
		if at >= s.res.Plan.Size() {
			continue
		}
		if err := reader.Fill(mine, at); err != nil {
			return err
		}
		if _, err := f.ReadAt(theirs, at); err != nil {
			continue
		}
		err := s.res.Plan.Spans(at, at+blockSize, func(sp erofs.Span) error {
			from, to := sp.ImageOff-at, min(sp.ImageOff-at+sp.Len, blockSize)
			if from >= 0 && !bytes.Equal(mine[from:to], theirs[from:to]) {
				if name := s.res.Plan.Path(sp.Ino); len(names) == 0 || names[len(names)-1] != name {
					names = append(names, name)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if len(names) == 0 {
		return nil
	}
	// What the disk file has in their place must give the root hash, else they
	// are not all.
	content := map[*erofs.Node][]byte{}
	root := clone("", s.base, func(string, *erofs.Node) bool { return true })
	each("", root, func(p string, n *erofs.Node) {
		if slices.Contains(names, p) && n.Size <= largest {
			content[n] = s.fromImage(f, p, n)
		}
	})
	a0 := &attempt{anchor: "disk-content", text: "the content of " + some(names) + " differs: with what the disk file has " + isPublished, root: root, content: content}
	if len(content) == len(names) {
		if err := s.prove(a0); err != nil {
			return err
		}
	}
	s.found.Reasons = append(s.found.Reasons, Reason{"disk-content", "the content of " + some(names) + " differs from that of the disk file", false})
	return nil
}

// largest bounds the files whose content is taken from a disk file.
const largest = 32 << 20

// fromImage reads a file's content out of an image of the same layout.
func (s *searcher) fromImage(f *os.File, name string, n *erofs.Node) []byte {
	out := make([]byte, n.Size)
	plan := s.res.Plan
	err := plan.Spans(0, plan.Size(), func(sp erofs.Span) error {
		if plan.Path(sp.Ino) == name {
			_, err := f.ReadAt(out[sp.FileOff:sp.FileOff+sp.Len], sp.ImageOff)
			return err
		}
		return nil
	})
	if err != nil {
		return nil
	}
	return out
}

// some lists names, the first few of them.
func some(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
