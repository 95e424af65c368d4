package erofs

import "encoding/binary"

// A Form is how an image departs from what the published recipe writes
// (mkfs.erofs(1)). The zero value is the recipe's.
type Form struct {
	Time     uint64 // -T, or SOURCE_DATE_EPOCH: seconds since 1970
	UUID     [16]byte
	Label    string // -L, at most 16 bytes
	UID, GID uint32 // of all files, without --all-root
	Extended bool   // -Eforce-inode-extended
	NoInline bool   // -Enoinline_data
	// Filter: the superblock says that extended attributes have a name filter, as
	// it does without -x-1 although no file has any.
	Filter bool
}

const compatFilter = 4

// extended reports whether an inode needs the long record.
func (f *Form) extended(i *inode) bool {
	return f.Extended || i.size > maxCompact || f.UID > 0xffff || f.GID > 0xffff
}

// owner writes owner and, in a long record, the time.
func (f *Form) owner(b []byte, extended bool) {
	le := binary.LittleEndian
	if !extended {
		le.PutUint16(b[24:], uint16(f.UID))
		le.PutUint16(b[26:], uint16(f.GID))
		return
	}
	le.PutUint32(b[24:], f.UID)
	le.PutUint32(b[28:], f.GID)
	le.PutUint64(b[32:], f.Time)
}

// superblock writes the fields that a form changes.
func (f *Form) superblock(sb []byte) {
	le := binary.LittleEndian
	if f.Filter {
		le.PutUint32(sb[8:], le.Uint32(sb[8:])|compatFilter)
	}
	le.PutUint64(sb[24:], f.Time)
	copy(sb[48:64], f.UUID[:])
	copy(sb[64:80], f.Label)
}

// Super are the fields of a superblock that the recipe fixes.
type Super struct {
	Time             uint64
	UUID             [16]byte
	Label            string
	BlockBits        uint8
	Compat, Incompat uint32
	Inodes           uint64
	Blocks           uint32
}

// ParseSuper reads a superblock from the first block of an image; false if it is
// none.
func ParseSuper(block0 []byte) (Super, bool) {
	le := binary.LittleEndian
	if len(block0) < superOffset+superSize || le.Uint32(block0[superOffset:]) != superMagic {
		return Super{}, false
	}
	sb := block0[superOffset:]
	s := Super{
		Time: le.Uint64(sb[24:]), BlockBits: sb[12], Compat: le.Uint32(sb[8:]), Incompat: le.Uint32(sb[80:]),
		Inodes: le.Uint64(sb[16:]), Blocks: le.Uint32(sb[36:]),
	}
	copy(s.UUID[:], sb[48:64])
	label := sb[64:80]
	for len(label) > 0 && label[len(label)-1] == 0 {
		label = label[:len(label)-1]
	}
	s.Label = string(label)
	return s, true
}

// DataExtents yields the blocks of the image that hold whole blocks of files,
// in order: first block, number of blocks, the file's first name and its node.
func (p *Plan) DataExtents(yield func(block, blocks int64, path string, n *Node) error) error {
	for _, e := range p.extents {
		if e.pieces[0].kind != filePiece {
			continue
		}
		i := e.pieces[0].inode
		if n := i.size >> blockBits; n > 0 && i.node.Is(ModeRegular) {
			if err := yield(e.addr, min(n, e.blocks), i.path(), i.node); err != nil {
				return err
			}
		}
	}
	return nil
}
