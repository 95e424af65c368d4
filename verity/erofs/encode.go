package erofs

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A Profile says whose bytes an image has. Only the superblock differs.
type Profile string

// The profiles, named by erofs-utils versions.
const (
	// Profile19 is erofs-utils 1.9 alone: it sets the LZ4_0PADDING feature bit
	// although nothing is compressed.
	Profile19 Profile = "1.9"
	// Profile191 is erofs-utils 1.9.1 to 1.9.4, and 1.8.6 to 1.8.10.
	Profile191 Profile = "1.9.1"
)

// Profiles lists them all.
func Profiles() []Profile { return []Profile{Profile19, Profile191} }

// ParseProfile reads a profile's name; "1.9.1+" is the same as "1.9.1".
func ParseProfile(s string) (Profile, error) {
	switch s {
	case "1.9":
		return Profile19, nil
	case "1.9.1", "1.9.1+":
		return Profile191, nil
	}
	return "", fmt.Errorf("unknown mkfs profile %.40q, want 1.9 (erofs-utils 1.9 exactly) or 1.9.1 (1.9.1 and later, 1.8.6 to 1.8.10)", s)
}

// ProfileOf gives the profile that a release of erofs-utils writes by; false for
// one whose bytes are not reproduced. The releases are those that were compared.
func ProfileOf(release string) (Profile, bool) {
	switch release {
	case "1.9":
		return Profile19, true
	case "1.8.6", "1.8.7", "1.8.8", "1.8.9", "1.8.10", "1.9.1", "1.9.2", "1.9.3", "1.9.4":
		return Profile191, true
	}
	return "", false
}

// Fields of the superblock, at byte 1024 of the image.
const (
	superMagic        = 0xe0f5e1e2
	compatChecksum    = 1
	compatMtime       = 2
	compatOrigin      = 4
	incompatLZ4Pad    = 1
	offChecksum       = superOffset + 4
	offFeatureIncompt = superOffset + 80
)

// putSuperblock writes the fields that do not depend on the profile.
func (p *Plan) putSuperblock(block []byte) {
	sb := block[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(sb[0:], superMagic)
	compat := uint32(compatChecksum | compatMtime)
	if p.origins {
		compat |= compatOrigin
	}
	le.PutUint32(sb[8:], compat)
	sb[12] = blockBits
	le.PutUint16(sb[14:], uint16(p.root.nid()))
	le.PutUint64(sb[16:], uint64(len(p.inodes)))
	le.PutUint32(sb[36:], uint32(p.blocks))
	p.form.superblock(sb)
}

// SetProfile rewrites block 0 of an image, the only one that depends on the
// profile: one feature bit and the checksum over the block, which also covers
// the inodes and file tails in it.
func SetProfile(block0 []byte, profile Profile) {
	le := binary.LittleEndian
	var incompat uint32
	if profile == Profile19 {
		incompat = incompatLZ4Pad
	}
	le.PutUint32(block0[offFeatureIncompt:], incompat)
	le.PutUint32(block0[offChecksum:], 0)
	// CRC-32C without the final inversion.
	sum := ^crc32.Checksum(block0[superOffset:blockSize], crc32.MakeTable(crc32.Castagnoli))
	le.PutUint32(block0[offChecksum:], sum)
}

// put writes the inode record, with its xattr area, in i.recordSize() bytes
// that are zero.
func (i *inode) put(b []byte) {
	le := binary.LittleEndian
	format := uint16(i.layout) << 1
	at := compactSize
	if i.form.extended(i) {
		at = extendedSize
		le.PutUint16(b[0:], format|1)
		le.PutUint16(b[4:], uint16(i.node.Mode))
		le.PutUint64(b[8:], uint64(i.size))
		le.PutUint32(b[16:], i.start)
		le.PutUint32(b[20:], i.ino)
		le.PutUint32(b[44:], uint32(i.nlink))
	} else {
		nlink := uint16(i.nlink)
		if i.isDir() && i.nlink > 0xffff {
			nlink = 1
		}
		le.PutUint16(b[0:], format)
		le.PutUint16(b[4:], uint16(i.node.Mode))
		le.PutUint16(b[6:], nlink)
		le.PutUint32(b[8:], uint32(i.size))
		le.PutUint32(b[16:], i.start)
		le.PutUint32(b[20:], i.ino)
	}
	i.form.owner(b, at == extendedSize)
	if i.origin {
		le.PutUint16(b[2:], 6)
		// Name filter, no shared xattrs; then one entry trusted.overlay.origin
		// with an empty value.
		copy(b[at:], "\xff\xff\xfb\xff\x00\x00\x00\x00\x00\x00\x00\x00\x0e\x04\x00\x00overlay.origin")
	}
}

// direntType is the type field of a directory entry.
func direntType(mode uint32) byte {
	switch mode & ModeType {
	case ModeRegular:
		return 1
	case ModeDir:
		return 2
	case ModeChar:
		return 3
	case ModeBlock:
		return 4
	case ModeFIFO:
		return 5
	case ModeSocket:
		return 6
	default:
		return 7
	}
}

// putDirBlock writes block n of a directory's content into b, which is zero
// and long enough.
func (i *inode) putDirBlock(b []byte, n int) {
	from, to := int(i.firsts[n]), len(i.entries)
	if n+1 < len(i.firsts) {
		to = int(i.firsts[n+1])
	}
	entries := i.entries[from:to]
	le := binary.LittleEndian
	name := direntSize * len(entries)
	for k, e := range entries {
		r := b[k*direntSize:]
		le.PutUint64(r, e.to.nid())
		le.PutUint16(r[8:], uint16(name))
		r[10] = direntType(e.to.node.Mode)
		name += copy(b[name:], e.name)
	}
}
