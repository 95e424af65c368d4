package erofs

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Sizes of on-disk records in bytes (kernel, fs/erofs/erofs_fs.h).
const (
	compactSize  = 32
	extendedSize = 64
	xattrSize    = 32 // of the one xattr area that can occur, see inode.origin
	direntSize   = 12
	superOffset  = 1024
	superSize    = 128

	maxName       = 255
	maxTarget     = 4095 // PATH_MAX less the terminator
	maxCompact    = math.MaxUint32
	noStartBlock  = math.MaxUint32
	layoutPlain   = 0
	layoutInline  = 2
	maxNodes      = 1 << 26
	maxBlocks     = math.MaxUint32
	nidBits       = 5
	maxTotalBytes = maxBlocks << blockBits
)

// inode is a planned inode.
type inode struct {
	node   *Node
	form   *Form
	parent *inode // directory of the first name
	ino    uint32
	nlink  uint64
	size   int64
	layout uint8
	origin bool   // has the "overlay.origin" xattr area, see dirNeedsOrigin
	start  uint32 // start block field, or rdev

	buf  *buffer // where the record is
	off  int64   // in buf, bytes
	data *buffer // whole blocks of content, nil if none

	entries []dirent // of a directory, in disk order
	firsts  []int32  // index of the first entry of each directory block
}

// dirent is one entry of a directory; node is nil for "." and "..".
type dirent struct {
	name string
	node *Node
	to   *inode
}

func (i *inode) recordSize() int64 {
	n := int64(compactSize)
	if i.form.extended(i) {
		n = extendedSize
	}
	if i.origin {
		n += xattrSize
	}
	return n
}

func (i *inode) nid() uint64 {
	return uint64(i.buf.addr<<blockBits+i.off) >> nidBits
}

func (i *inode) isDir() bool { return i.node.Is(ModeDir) }

// path is the first name of the inode, relative to the root; "." is the root.
func (i *inode) path() string {
	if i.parent == i {
		return "."
	}
	var names []string
	for ; i.parent != i; i = i.parent {
		names = append(names, i.node.Name)
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}

// A Plan is the layout of an image: everything but the content of the files.
type Plan struct {
	root    *inode
	inodes  []*inode // by serial number, from 1
	extents []*buffer
	blocks  int64
	origins bool // some directory has an "overlay.origin" xattr
	form    Form
}

// Size returns the image's size in bytes, the hash offset of the disk.
func (p *Plan) Size() int64 { return p.blocks << blockBits }

// Blocks returns the number of 4096-byte blocks.
func (p *Plan) Blocks() int64 { return p.blocks }

// Inodes returns the number of inodes.
func (p *Plan) Inodes() int { return len(p.inodes) }

// NewPlan lays out the image of a tree. The tree is not modified.
func NewPlan(root *Node) (*Plan, error) { return NewPlanOf(root, Form{}) }

// NewPlanOf lays out the image of a tree in another form.
func NewPlanOf(root *Node, form Form) (*Plan, error) {
	if len(form.Label) > 16 {
		return nil, &TreeError{".", fmt.Sprintf("a label of %d bytes", len(form.Label)), "at most 16"}
	}
	if !root.Is(ModeDir) {
		return nil, &TreeError{".", fmt.Sprintf("mode %#o", root.Mode), "a directory"}
	}
	b := &builder{alloc: newAllocator(), plan: &Plan{form: form}, seen: map[LinkID]*inode{}}
	// Reserved first: the superblock, with the bytes in front of it.
	super := b.alloc.alloc(false, superOffset+superSize, 1, 0, piece{kind: superblockPiece})
	b.alloc.mapTo(super)
	if err := b.build(root); err != nil {
		return nil, err
	}
	b.alloc.mapTo(&b.alloc.list)
	p := b.plan
	p.blocks = b.alloc.tail
	if p.blocks > maxBlocks {
		return nil, &TreeError{".", fmt.Sprintf("%d blocks of image", p.blocks), fmt.Sprintf("at most %d", int64(maxBlocks))}
	}
	return p, p.setExtents(b.alloc.all)
}

// setExtents sorts the buffers by address and makes sure that they tile the
// image.
func (p *Plan) setExtents(all []*buffer) error {
	for _, b := range all {
		if b.blocks > 0 {
			p.extents = append(p.extents, b)
		}
	}
	slices.SortFunc(p.extents, func(a, b *buffer) int { return cmp.Compare(a.addr, b.addr) })
	at := int64(0)
	for _, b := range p.extents {
		if b.addr != at {
			return fmt.Errorf("erofs plan: internal error: an extent begins at block %d, want %d", b.addr, at)
		}
		at += b.blocks
	}
	if at != p.blocks {
		return fmt.Errorf("erofs plan: internal error: extents end at block %d, want %d", at, p.blocks)
	}
	return nil
}

// builder executes the ordered jobs that fix all addresses: create a
// directory's inode, create any other inode with its data, write a directory's
// content.
type builder struct {
	alloc *allocator
	plan  *Plan
	seen  map[LinkID]*inode
	total int64
	slab  []inode
}

func (b *builder) build(rootNode *Node) error {
	root, err := b.createDir(rootNode, nil)
	if err != nil {
		return err
	}
	b.plan.root = root
	b.alloc.mapTo(root.buf) // its number is written into every directory
	pending := []*inode{root}
	for len(pending) > 0 {
		dir := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		var subs []*inode
		for k := range dir.entries {
			e := &dir.entries[k]
			if e.node == nil {
				continue
			}
			if e.to, err = b.create(e.node, dir); err != nil {
				return err
			}
			if e.to.isDir() {
				subs = append(subs, e.to)
			}
		}
		if err := b.writeDir(dir); err != nil {
			return err
		}
		// Sub-directories in name order, each with all that is below it.
		slices.Reverse(subs)
		pending = append(pending, subs...)
	}
	return nil
}

// newInode numbers an inode and checks what the format bounds.
func (b *builder) newInode(n *Node, parent *inode) (*inode, error) {
	if len(b.slab) == 0 {
		b.slab = make([]inode, 256) // all live as long as the plan does
	}
	i := &b.slab[0]
	b.slab = b.slab[1:]
	*i = inode{node: n, form: &b.plan.form, parent: parent, nlink: 1, start: noStartBlock}
	if parent == nil {
		i.parent = i
	}
	if len(b.plan.inodes) == maxNodes {
		return nil, &TreeError{i.path(), "too many inodes", fmt.Sprintf("at most %d", maxNodes)}
	}
	b.plan.inodes = append(b.plan.inodes, i)
	i.ino = uint32(len(b.plan.inodes))
	if n.Is(ModeRegular) || n.Is(ModeSymlink) {
		i.size = n.Size
		if n.Size < 0 || n.Size > maxTotalBytes-b.total {
			return nil, &TreeError{i.path(), fmt.Sprintf("%d bytes", n.Size), "an image of at most 16 TiB"}
		}
		b.total += n.Size
	}
	if n.Is(ModeSymlink) && (int64(len(n.Target)) != n.Size || n.Size == 0 || n.Size > maxTarget) {
		return nil, &TreeError{i.path(), fmt.Sprintf("symlink of size %d to a target of %d bytes", n.Size, len(n.Target)), fmt.Sprintf("equal lengths from 1 to %d", maxTarget)}
	}
	return i, nil
}

// create makes the inode of a node, or finds the one it is a further name of.
func (b *builder) create(n *Node, parent *inode) (*inode, error) {
	if n.Is(ModeDir) {
		return b.createDir(n, parent)
	}
	if n.Link != (LinkID{}) {
		if first := b.seen[n.Link]; first != nil {
			first.nlink++
			return first, nil
		}
	}
	i, err := b.newInode(n, parent)
	if err != nil {
		return nil, err
	}
	if n.Link != (LinkID{}) {
		b.seen[n.Link] = i
	}
	switch n.Mode & ModeType {
	case ModeRegular, ModeSymlink:
		if i.size > 0 {
			return i, b.createData(i)
		}
		i.start = 0
	case ModeChar, ModeBlock:
		// rdev as the kernel's new_encode_dev writes it.
		i.start = n.Minor&0xff | n.Major<<8 | n.Minor&^0xff<<12
	case ModeFIFO, ModeSocket:
		i.start = 0
	default:
		return nil, &TreeError{i.path(), fmt.Sprintf("file type %#o", n.Mode&ModeType), "a type that stat knows"}
	}
	b.place(i, 0)
	return i, nil
}

// createData places content and inode of a file or symlink that has any.
func (b *builder) createData(i *inode) error {
	full, tail := i.size>>blockBits<<blockBits, i.size&(blockSize-1)
	content := piece{kind: filePiece, inode: i}
	if full > 0 {
		i.data = b.alloc.alloc(true, full, blockSize, 0, content)
		b.alloc.mapTo(i.data)
	}
	// Links stay inline in any form.
	inline := !b.plan.form.NoInline || !i.node.Is(ModeRegular)
	if tail > 0 && inline && b.place(i, tail) {
		i.layout = layoutInline
	} else {
		// The tail has no room behind the inode: it gets a block of its own,
		// behind the others at once, or after the inode if there are none.
		if tail > 0 && i.data != nil && !b.alloc.attach(i.data, blockSize, 1, 0, content) {
			return fmt.Errorf("erofs plan: internal error: cannot enlarge the extent of %q", i.path())
		}
		b.place(i, 0)
		if tail > 0 && i.data == nil {
			i.data = b.alloc.alloc(true, blockSize, blockSize, 0, content)
			b.alloc.mapTo(i.data)
		}
	}
	if i.data != nil {
		i.start = uint32(i.data.addr)
		b.alloc.release(i.data, i.data.live)
	}
	return nil
}

// place finds room for the inode record with tail bytes of content inline
// behind it, and reports whether there is any: together they must fit in one
// block.
func (b *builder) place(i *inode, tail int64) bool {
	buf := b.alloc.alloc(false, i.recordSize(), 1<<nidBits, tail, piece{kind: inodePiece, inode: i})
	if buf == nil {
		return false
	}
	i.buf, i.off = buf, buf.pieces[len(buf.pieces)-1].off
	if tail > 0 {
		b.alloc.attach(buf, tail, 1, 0, piece{kind: tailPiece, inode: i})
	}
	return true
}

// createDir makes a directory's inode. Its size follows from the names.
func (b *builder) createDir(n *Node, parent *inode) (*inode, error) {
	i, err := b.newInode(n, parent)
	if err != nil {
		return nil, err
	}
	if err := i.setEntries(); err != nil {
		return nil, err
	}
	b.plan.origins = b.plan.origins || i.origin
	if tail := i.size & (blockSize - 1); tail > 0 && b.place(i, tail) {
		i.layout = layoutInline
	} else {
		b.place(i, 0)
	}
	return i, nil
}

// setEntries sorts the directory's entries and lays them out in blocks.
func (i *inode) setEntries() error {
	n := i.node
	i.nlink = 2
	i.entries = make([]dirent, 0, len(n.Children)+2)
	i.entries = append(i.entries, dirent{name: ".", to: i}, dirent{name: "..", to: i.parent})
	for _, c := range n.Children {
		if bad := badName(c.Name); bad != "" {
			return &TreeError{i.path(), fmt.Sprintf("an entry named %.80q (%s)", c.Name, bad), "a name of 1 to 255 bytes without '/'"}
		}
		i.entries = append(i.entries, dirent{name: c.Name, node: c})
		if c.Is(ModeDir) {
			i.nlink++
		}
		// An overlay whiteout marks the directory that contains it, even
		// though xattrs are not read.
		if c.Is(ModeChar) && c.Major == 0 && c.Minor == 0 {
			i.origin = true
		}
	}
	slices.SortFunc(i.entries, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
	for k, e := range i.entries {
		if k > 0 && e.name == i.entries[k-1].name {
			return &TreeError{i.path(), fmt.Sprintf("two entries named %.80q", e.name), "different names"}
		}
		need := int64(direntSize + len(e.name))
		if room := blockSize - i.size&(blockSize-1); k == 0 || room < need || room == blockSize {
			if room < need {
				i.size += room
			}
			i.firsts = append(i.firsts, int32(k))
		}
		i.size += need
	}
	return nil
}

func badName(name string) string {
	switch {
	case name == "" || name == "." || name == "..":
		return "reserved"
	case len(name) > maxName:
		return fmt.Sprintf("%d bytes", len(name))
	case strings.IndexByte(name, '/') >= 0 || strings.IndexByte(name, 0) >= 0:
		return "has a separator or a zero byte"
	}
	return ""
}

// writeDir gives a directory's content its blocks. Its entries must have their
// numbers by then, which maps the buffers they are in.
func (b *builder) writeDir(i *inode) error {
	full, tail := i.size>>blockBits<<blockBits, i.size&(blockSize-1)
	content := piece{kind: dirPiece, inode: i}
	if full > 0 {
		i.data = b.alloc.alloc(false, full, blockSize, 0, content)
		b.alloc.mapTo(i.data)
	}
	for _, e := range i.entries {
		b.alloc.mapTo(e.to.buf)
	}
	if i.layout == layoutPlain && tail > 0 {
		if i.data == nil {
			i.data = b.alloc.alloc(false, blockSize, blockSize, 0, content)
			b.alloc.mapTo(i.data)
		} else if !b.alloc.attach(i.data, blockSize, 1, 0, content) {
			return fmt.Errorf("erofs plan: internal error: cannot enlarge the extent of directory %q", i.path())
		}
	}
	if i.data != nil {
		i.start = uint32(i.data.addr)
		b.alloc.release(i.data, i.data.live)
	}
	return nil
}
