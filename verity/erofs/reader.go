package erofs

import (
	"errors"
	"fmt"
	"io"
	"sort"
)

// A Reader yields the blocks of a planned image. It keeps one source file open
// and belongs to one goroutine; several Readers of one Plan may run at once.
type Reader struct {
	plan    *Plan
	profile Profile
	content Content

	open *inode
	file File
}

// NewReader returns a reader of the image in the given profile.
func (p *Plan) NewReader(profile Profile, content Content) *Reader {
	return &Reader{plan: p, profile: profile, content: content}
}

// Fill writes the image's bytes from off on to b. Both off and len(b) are
// multiples of 4096 and lie in the image.
func (r *Reader) Fill(b []byte, off int64) error {
	if off%blockSize != 0 || len(b)%blockSize != 0 || off < 0 || off+int64(len(b)) > r.plan.Size() {
		return fmt.Errorf("erofs reader: %d bytes at offset %d are not whole blocks of an image of %d bytes", len(b), off, r.plan.Size())
	}
	image := b
	at := off >> blockBits
	for k := r.plan.extentAt(at); len(b) > 0; k++ {
		e := r.plan.extents[k]
		first := at - e.addr
		n := min(e.blocks-first, int64(len(b)>>blockBits))
		if err := r.fillExtent(e, b[:n<<blockBits], first); err != nil {
			return err
		}
		b = b[n<<blockBits:]
		at += n
	}
	if off == 0 && len(image) > 0 {
		SetProfile(image[:blockSize], r.profile)
	}
	return nil
}

// Close closes the file that is still open. Its error matters: it says if the
// file changed.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.open, r.file = nil, nil
	return err
}

// extentAt returns the index of the extent that has a block.
func (p *Plan) extentAt(block int64) int {
	return sort.Search(len(p.extents), func(k int) bool { return p.extents[k].addr+p.extents[k].blocks > block })
}

// firstPiece returns the index of the first piece that starts at off or later.
func firstPiece(e *buffer, off int64) int {
	return sort.Search(len(e.pieces), func(k int) bool { return e.pieces[k].off >= off })
}

// fillExtent writes whole blocks of an extent from block first of it on.
func (r *Reader) fillExtent(e *buffer, b []byte, first int64) error {
	i := e.pieces[0].inode
	switch e.pieces[0].kind {
	case filePiece:
		return r.fillFile(i, b, first<<blockBits)
	case dirPiece:
		clear(b)
		for ; len(b) > 0; b, first = b[blockSize:], first+1 {
			i.putDirBlock(b[:blockSize], int(first))
		}
		return nil
	}
	return r.fillMeta(e, b, first<<blockBits)
}

// fillFile writes content from off on, zeros behind its end.
func (r *Reader) fillFile(i *inode, b []byte, off int64) error {
	n := min(int64(len(b)), i.size-off)
	clear(b[n:])
	return r.read(i, b[:n], off)
}

// fillMeta writes the part of a metadata buffer that begins at off.
func (r *Reader) fillMeta(e *buffer, b []byte, off int64) error {
	clear(b)
	end := off + int64(len(b))
	// Pieces are in order and only the one before the first that starts in b
	// can reach into it.
	var scratch [extendedSize + xattrSize]byte
	for k := max(firstPiece(e, off)-1, 0); k < len(e.pieces) && e.pieces[k].off < end; k++ {
		p := e.pieces[k]
		switch p.kind {
		case superblockPiece:
			if off == 0 {
				r.plan.putSuperblock(b)
			}
		case inodePiece:
			// An inode record may cross a block border.
			record := scratch[:p.inode.recordSize()]
			clear(record)
			p.inode.put(record)
			if p.off < off {
				if skip := off - p.off; skip < int64(len(record)) {
					copy(b, record[skip:])
				}
			} else {
				copy(b[p.off-off:], record)
			}
		case tailPiece:
			if p.off < off {
				continue // tails never cross a block border
			}
			i := p.inode
			tail := b[p.off-off:][:i.size&(blockSize-1)]
			if i.isDir() {
				i.putDirBlock(tail, len(i.firsts)-1)
			} else if err := r.read(i, tail, i.size-int64(len(tail))); err != nil {
				return err
			}
		}
	}
	return nil
}

// read reads content that must be there.
func (r *Reader) read(i *inode, b []byte, off int64) error {
	if i.node.Is(ModeSymlink) {
		copy(b, i.node.Target[off:])
		return nil
	}
	if len(b) == 0 {
		return nil
	}
	if r.open != i {
		if err := r.Close(); err != nil {
			return err
		}
		f, err := r.content.Open(i.path(), i.node)
		if err != nil {
			return err
		}
		r.open, r.file = i, f
	}
	n, err := r.file.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	var changed *ChangedError
	if errors.As(err, &changed) {
		return err
	}
	if err == nil || err == io.EOF {
		return &ChangedError{Path: i.path(), What: fmt.Sprintf("content ends at byte %d of %d", off+int64(n), i.size)}
	}
	return fmt.Errorf("read %q at byte %d: %w", i.path(), off+int64(n), err)
}

// PlaceKind says what part of an image a byte belongs to.
type PlaceKind string

// The parts of an image.
const (
	SuperblockPlace PlaceKind = "superblock"
	InodePlace      PlaceKind = "inode"
	FilePlace       PlaceKind = "file"
	SymlinkPlace    PlaceKind = "symlink"
	DirPlace        PlaceKind = "directory"
	PaddingPlace    PlaceKind = "padding"
)

// A Place is what an image holds at some byte.
type Place struct {
	Kind   PlaceKind `json:"kind"`
	Path   string    `json:"path,omitempty"`   // of the inode, relative to the root
	Offset int64     `json:"offset,omitempty"` // in the file or directory content, bytes
}

// String names the place for people.
func (p Place) String() string {
	switch p.Kind {
	case SuperblockPlace, PaddingPlace:
		return string(p.Kind)
	case InodePlace:
		return fmt.Sprintf("inode of %q", p.Path)
	}
	return fmt.Sprintf("%s %q at byte %d", p.Kind, p.Path, p.Offset)
}

// Locate says what the image holds at byte off.
func (p *Plan) Locate(off int64) (Place, error) {
	if off < 0 || off >= p.Size() {
		return Place{}, fmt.Errorf("erofs: offset %d is outside the image of %d bytes", off, p.Size())
	}
	e := p.extents[p.extentAt(off>>blockBits)]
	in := off - e.addr<<blockBits
	if k := e.pieces[0].kind; k == filePiece || k == dirPiece {
		return contentPlace(e.pieces[0].inode, in), nil
	}
	k := sort.Search(len(e.pieces), func(k int) bool { return e.pieces[k].off > in }) - 1
	if k < 0 {
		return Place{Kind: PaddingPlace}, nil
	}
	pc := e.pieces[k]
	switch at := in - pc.off; {
	case pc.kind == superblockPiece && at < superOffset+superSize:
		return Place{Kind: SuperblockPlace}, nil
	case pc.kind == inodePiece && at < pc.inode.recordSize():
		return Place{Kind: InodePlace, Path: pc.inode.path()}, nil
	case pc.kind == tailPiece && at < pc.inode.size&(blockSize-1):
		return contentPlace(pc.inode, pc.inode.size&^(blockSize-1)+at), nil
	}
	return Place{Kind: PaddingPlace}, nil
}

func contentPlace(i *inode, off int64) Place {
	if off >= i.size {
		return Place{Kind: PaddingPlace, Path: i.path(), Offset: off}
	}
	kind := FilePlace
	switch {
	case i.isDir():
		kind = DirPlace
	case i.node.Is(ModeSymlink):
		kind = SymlinkPlace
	}
	return Place{kind, i.path(), off}
}

// InodeLayout is one inode's place in the image.
type InodeLayout struct {
	Path   string
	Ino    uint32
	NID    uint64
	Inline bool   // the last part of the content is inline behind the record
	Start  uint32 // start block; rdev of a device
	Size   int64
	NLink  uint64
	Node   *Node
}

// Layout lists the inodes by serial number.
func (p *Plan) Layout() []InodeLayout {
	rows := make([]InodeLayout, len(p.inodes))
	for k, i := range p.inodes {
		rows[k] = InodeLayout{i.path(), i.ino, i.nid(), i.layout == layoutInline, i.start, i.size, i.nlink, i.node}
	}
	return rows
}
