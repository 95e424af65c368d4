package erofs

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
)

// ImageError is an image that cannot be walked.
type ImageError struct {
	Offset int64 // in the image, bytes
	Path   string
	What   string
}

func (e *ImageError) Error() string {
	s := fmt.Sprintf("erofs image: offset %d", e.Offset)
	if e.Path != "" {
		s += fmt.Sprintf(" (%q)", e.Path)
	}
	return s + ": " + e.What
}

// An Image is the map of an existing image: which of its bytes belong to what.
// It knows the uncompressed images that this package plans.
type Image struct {
	size  int64
	spans []imageSpan // by start
}

type imageSpan struct {
	start, end int64 // in the image
	place      Place // of start
}

// bounds of what is read of a foreign image
const (
	maxImageInodes = 1 << 24
	maxImageDepth  = 2048
)

// OpenImage walks an image of which r has the first size bytes (more may
// follow, such as a hash tree). Nothing in it is trusted: it may be the damaged
// one that somebody wants explained.
func OpenImage(r io.ReaderAt, size int64) (*Image, error) {
	sb := make([]byte, superSize)
	if err := readFull(r, sb, superOffset); err != nil {
		return nil, &ImageError{superOffset, "", "cannot read the superblock: " + err.Error()}
	}
	le := binary.LittleEndian
	switch {
	case le.Uint32(sb) != superMagic:
		return nil, &ImageError{superOffset, "", fmt.Sprintf("magic is %#x, want %#x", le.Uint32(sb), superMagic)}
	case sb[12] != blockBits:
		return nil, &ImageError{superOffset + 12, "", fmt.Sprintf("block size is 2^%d, want 2^%d", sb[12], blockBits)}
	case le.Uint32(sb[40:]) != 0:
		return nil, &ImageError{superOffset + 40, "", fmt.Sprintf("metadata starts at block %d, want 0", le.Uint32(sb[40:]))}
	case le.Uint32(sb[80:])&^incompatLZ4Pad != 0:
		return nil, &ImageError{superOffset + 80, "", fmt.Sprintf("incompatible features %#x, want none", le.Uint32(sb[80:]))}
	}
	if blocks := int64(le.Uint32(sb[36:])) << blockBits; blocks < size {
		size = blocks
	}
	w := &imageWalk{r: r, size: size, seen: map[uint64]bool{}}
	w.add(0, superOffset+superSize, Place{Kind: SuperblockPlace})
	if err := w.walk(uint64(le.Uint16(sb[14:]))); err != nil {
		return nil, err
	}
	slices.SortStableFunc(w.spans, func(a, b imageSpan) int { return int(min(max(a.start-b.start, -1), 1)) })
	return &Image{size, w.spans}, nil
}

// Size returns the image's size in bytes.
func (m *Image) Size() int64 { return m.size }

// Locate says what the image holds at byte off.
func (m *Image) Locate(off int64) (Place, error) {
	if off < 0 || off >= m.size {
		return Place{}, fmt.Errorf("erofs: offset %d is outside the image of %d bytes", off, m.size)
	}
	k := sort.Search(len(m.spans), func(k int) bool { return m.spans[k].start > off }) - 1
	if k < 0 || off >= m.spans[k].end {
		p := Place{Kind: PaddingPlace}
		// The rest of a file's last block is known by the file.
		if k >= 0 && off < roundUp(m.spans[k].end, blockSize) && m.spans[k].place.Kind != InodePlace && m.spans[k].start%blockSize == 0 {
			p.Path, p.Offset = m.spans[k].place.Path, m.spans[k].place.Offset+off-m.spans[k].start
		}
		return p, nil
	}
	p := m.spans[k].place
	if p.Kind != SuperblockPlace && p.Kind != InodePlace {
		p.Offset += off - m.spans[k].start
	}
	return p, nil
}

type imageWalk struct {
	r     io.ReaderAt
	size  int64
	seen  map[uint64]bool
	spans []imageSpan
}

func (w *imageWalk) add(start, length int64, p Place) {
	if length > 0 {
		w.spans = append(w.spans, imageSpan{start, start + length, p})
	}
}

// imageInode is what the map needs of an inode record.
type imageInode struct {
	mode        uint16
	length      int64 // of the record with its xattrs
	size        int64
	start       int64 // byte of the whole blocks, -1 if none
	inlineStart int64 // byte of the inline tail, -1 if none
}

// full is the length of the content outside the inode's block.
func (i imageInode) full() int64 {
	if i.inlineStart >= 0 {
		return i.size &^ (blockSize - 1)
	}
	return i.size
}

func (w *imageWalk) walk(root uint64) error {
	type job struct {
		nid   uint64
		path  string
		depth int
	}
	pending := []job{{root, ".", 0}}
	if _, err := w.inode(root, "."); err != nil {
		return err
	}
	for len(pending) > 0 {
		j := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		dir, err := w.record(j.nid, j.path)
		if err != nil {
			return err
		}
		if j.depth > maxImageDepth {
			return &ImageError{int64(j.nid << nidBits), j.path, "directories are nested too deeply"}
		}
		var subs []job
		err = w.entries(dir, j.path, func(nid uint64, name string) error {
			if w.seen[nid] {
				return nil
			}
			path := name
			if j.path != "." {
				path = j.path + "/" + name
			}
			i, err := w.inode(nid, path)
			if err != nil {
				return err
			}
			if uint32(i.mode)&ModeType == ModeDir {
				subs = append(subs, job{nid, path, j.depth + 1})
			}
			return nil
		})
		if err != nil {
			return err
		}
		slices.Reverse(subs)
		pending = append(pending, subs...)
	}
	return nil
}

// record reads an inode record without entering it in the map.
func (w *imageWalk) record(nid uint64, path string) (imageInode, error) {
	var i imageInode
	at := int64(nid) << nidBits
	b := make([]byte, extendedSize)
	if nid > uint64(w.size)>>nidBits || at+compactSize > w.size {
		return i, &ImageError{at, path, fmt.Sprintf("inode %d is outside the image of %d bytes", nid, w.size)}
	}
	n := min(int64(len(b)), w.size-at)
	if err := readFull(w.r, b[:n], at); err != nil {
		return i, &ImageError{at, path, "cannot read the inode: " + err.Error()}
	}
	le := binary.LittleEndian
	format := le.Uint16(b)
	length := int64(compactSize)
	i.mode, i.size = le.Uint16(b[4:]), int64(le.Uint32(b[8:]))
	if format&1 != 0 {
		length = extendedSize
		if at+length > w.size || int64(le.Uint64(b[8:])) < 0 {
			return i, &ImageError{at, path, "the extended inode is not complete or its size is out of range"}
		}
		i.size = int64(le.Uint64(b[8:]))
	}
	if x := int64(le.Uint16(b[2:])); x > 0 {
		length += 12 + 4*(x-1)
	}
	i.length = length
	layout := format >> 1 & 7
	i.start, i.inlineStart = -1, -1
	switch typ := uint32(i.mode) & ModeType; {
	case typ != ModeRegular && typ != ModeDir && typ != ModeSymlink:
		i.size = 0
		return i, nil
	case layout == layoutInline:
		i.inlineStart = at + length
	case layout != layoutPlain:
		return i, &ImageError{at, path, fmt.Sprintf("data layout %d, want plain or inline", layout)}
	}
	if full := i.full(); full > 0 {
		i.start = int64(le.Uint32(b[16:])) << blockBits
		if full > w.size || i.start > w.size-full {
			return i, &ImageError{at, path, fmt.Sprintf("%d bytes of content at offset %d are outside the image of %d bytes", full, i.start, w.size)}
		}
	}
	if i.inlineStart >= 0 && i.inlineStart+i.size&(blockSize-1) > w.size {
		return i, &ImageError{at, path, "the inline content is outside the image"}
	}
	return i, nil
}

// inode reads a record and enters it and its content in the map.
func (w *imageWalk) inode(nid uint64, path string) (imageInode, error) {
	i, err := w.record(nid, path)
	if err != nil {
		return i, err
	}
	if len(w.seen) >= maxImageInodes {
		return i, &ImageError{int64(nid) << nidBits, path, "too many inodes"}
	}
	w.seen[nid] = true
	at := int64(nid) << nidBits
	w.add(at, i.length, Place{Kind: InodePlace, Path: path})
	kind := FilePlace
	switch uint32(i.mode) & ModeType {
	case ModeDir:
		kind = DirPlace
	case ModeSymlink:
		kind = SymlinkPlace
	}
	if i.start >= 0 {
		w.add(i.start, i.full(), Place{Kind: kind, Path: path})
	}
	if i.inlineStart >= 0 {
		w.add(i.inlineStart, i.size&(blockSize-1), Place{Kind: kind, Path: path, Offset: i.full()})
	}
	return i, nil
}

// entries reads a directory block by block.
func (w *imageWalk) entries(i imageInode, path string, yield func(nid uint64, name string) error) error {
	block := make([]byte, blockSize)
	for off := int64(0); off < i.size; off += blockSize {
		b := block[:min(blockSize, i.size-off)]
		at := i.start + off
		if off >= i.full() {
			at = i.inlineStart + off - i.full()
		}
		if err := readFull(w.r, b, at); err != nil {
			return &ImageError{at, path, "cannot read the directory: " + err.Error()}
		}
		if err := parseDirBlock(b, yield); err != nil {
			if _, ok := err.(*ImageError); ok {
				return err
			}
			return &ImageError{at, path, err.Error()}
		}
	}
	return nil
}

// parseDirBlock reads the records of one directory block and yields all but
// "." and "..".
func parseDirBlock(b []byte, yield func(nid uint64, name string) error) error {
	le := binary.LittleEndian
	if len(b) < direntSize {
		return fmt.Errorf("directory block of %d bytes", len(b))
	}
	first := int(le.Uint16(b[8:]))
	if first < direntSize || first%direntSize != 0 || first > len(b) {
		return fmt.Errorf("first name at %d of a directory block of %d bytes", first, len(b))
	}
	for at := 0; at < first; at += direntSize {
		start, end := int(le.Uint16(b[at+8:])), len(b)
		if at+direntSize < first {
			end = int(le.Uint16(b[at+direntSize+8:]))
		}
		if start < first || start > end || end > len(b) {
			return fmt.Errorf("entry %d has its name at %d to %d of %d bytes", at/direntSize, start, end, len(b))
		}
		// The last name of a full block ends with the block or a zero byte.
		name, _, _ := strings.Cut(string(b[start:end]), "\x00")
		if name == "." || name == ".." {
			continue
		}
		if bad := badName(name); bad != "" {
			return fmt.Errorf("entry %d is named %.80q (%s)", at/direntSize, name, bad)
		}
		if err := yield(le.Uint64(b[at:]), name); err != nil {
			return err
		}
	}
	return nil
}

func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
