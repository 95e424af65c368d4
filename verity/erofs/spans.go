package erofs

// A Span is a run of a regular file's content in the image.
type Span struct {
	Ino      uint32 // serial number of the inode
	FileOff  int64  // in the file, bytes
	ImageOff int64  // in the image, bytes
	Len      int64
	Tail     bool // the part that is inline behind the inode
}

// Spans calls yield for the file content in image bytes [off, end), which are
// multiples of 4096, in image order. Content of symlinks and directories is
// passed over.
func (p *Plan) Spans(off, end int64, yield func(Span) error) error {
	for k := p.extentAt(off >> blockBits); off < end && k < len(p.extents); k++ {
		e := p.extents[k]
		start := e.addr << blockBits
		to := min(end, start+e.blocks<<blockBits)
		switch e.pieces[0].kind {
		case filePiece:
			i := e.pieces[0].inode
			if n := min(to-start, i.size) - (off - start); n > 0 && i.node.Is(ModeRegular) {
				if err := yield(Span{i.ino, off - start, off, n, false}); err != nil {
					return err
				}
			}
		case dirPiece:
		default:
			if err := p.tailSpans(e, off, to, yield); err != nil {
				return err
			}
		}
		off = to
	}
	return nil
}

func (p *Plan) tailSpans(e *buffer, off, end int64, yield func(Span) error) error {
	start := e.addr << blockBits
	for k := firstPiece(e, off-start); k < len(e.pieces); k++ {
		pc := e.pieces[k]
		at := start + pc.off
		if at >= end {
			break
		}
		i := pc.inode
		if at < off || pc.kind != tailPiece || !i.node.Is(ModeRegular) {
			continue
		}
		n := i.size & (blockSize - 1)
		if err := yield(Span{i.ino, i.size - n, at, n, true}); err != nil {
			return err
		}
	}
	return nil
}

// Node returns the node of an inode by its serial number, from 1.
func (p *Plan) Node(ino uint32) *Node { return p.inodes[ino-1].node }

// Path returns the first path of an inode by its serial number.
func (p *Plan) Path(ino uint32) string { return p.inodes[ino-1].path() }

// Inline reports whether an inode's last partial block is inline.
func (p *Plan) Inline(ino uint32) bool { return p.inodes[ino-1].layout == layoutInline }

// Names calls yield for every name in the image with its inode, directories
// before what is in them. The root is ".".
func (p *Plan) Names(yield func(path string, ino uint32)) {
	type dir struct {
		path string
		i    *inode
	}
	yield(".", p.root.ino)
	pending := []dir{{"", p.root}}
	for len(pending) > 0 {
		d := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		for _, e := range d.i.entries {
			if e.node == nil {
				continue
			}
			path := d.path + e.name
			yield(path, e.to.ino)
			if e.to.isDir() {
				pending = append(pending, dir{path + "/", e.to})
			}
		}
	}
}
