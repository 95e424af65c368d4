package verity

import (
	"encoding/hex"
	"fmt"
	"math"
	"math/bits"
	"strings"

	"github.com/retally/retally/internal/digest"
)

// Bounds of the on-disk format (kernel Documentation, device-mapper/verity;
// cryptsetup, docs/on-disk-format of dm-verity).
const (
	MinBlockSize   = 512
	MaxBlockSize   = 512 << 10
	MaxSaltSize    = 256
	SuperblockSize = 512

	// sectorSize is the unit of the hash offset.
	sectorSize = 512
	// maxLevels is what the kernel target accepts (DM_VERITY_MAX_LEVELS).
	maxLevels = 63
)

// UUID is a superblock's identifier, its 16 bytes in the order of the text.
type UUID [16]byte

// ParseUUID reads the 8-4-4-4-12 form in any case.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	digits := strings.ReplaceAll(s, "-", "")
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' || len(digits) != 32 {
		return u, &ParamError{"uuid", quote(s), "the form 00000000-0000-0000-0000-000000000000"}
	}
	if _, err := hex.Decode(u[:], []byte(digits)); err != nil {
		return u, &ParamError{"uuid", quote(s), "hexadecimal digits"}
	}
	return u, nil
}

// String returns the lower-case 8-4-4-4-12 form.
func (u UUID) String() string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// ParseSalt reads a salt as veritysetup takes it: hexadecimal digits, or "-"
// for no salt at all.
func ParseSalt(s string) ([]byte, error) {
	if s == "-" {
		return nil, nil
	}
	if len(s) > 2*MaxSaltSize {
		return nil, &ParamError{"salt", fmt.Sprintf("%d hex digits", len(s)), fmt.Sprintf("at most %d bytes", MaxSaltSize)}
	}
	salt, err := hex.DecodeString(s)
	if err != nil {
		return nil, &ParamError{"salt", quote(s), `an even number of hex digits, or "-" for none`}
	}
	return salt, nil
}

// ParseHash reads a hash name in any case.
func ParseHash(s string) (digest.Algorithm, error) {
	a, err := digest.ParseAlgorithm(strings.ToLower(s))
	if err != nil {
		return 0, &ParamError{"hash", quote(s), "sha1, sha224, sha256, sha384 or sha512"}
	}
	return a, nil
}

// ParamError is a parameter that no dm-verity device can have.
type ParamError struct {
	Field, Found, Want string // Field is named as veritysetup's option
}

func (e *ParamError) Error() string {
	return fmt.Sprintf("verity parameter %s is %s, want %s", e.Field, e.Found, e.Want)
}

// Params are the parameters of a hash tree, named as veritysetup's options.
type Params struct {
	HashType      uint32 // 1 normal (salt first, slots), 0 Chrome OS (salt last, packed)
	Hash          digest.Algorithm
	DataBlockSize int // bytes, power of two
	HashBlockSize int // bytes, power of two
	// DataBlocks counts the data blocks; 0 means all whole blocks of the data
	// device (a partial last block is neither hashed nor protected).
	DataBlocks uint64
	Salt       []byte
	UUID       UUID
	// HashOffset is where the superblock is on the hash device, in bytes, a
	// multiple of 512. Without a superblock the tree starts there.
	HashOffset   int64
	NoSuperblock bool
}

// Defaults returns veritysetup's default parameters with no salt. (Its own
// default salt is random; a measurement has no use for that.)
func Defaults() Params {
	return Params{HashType: 1, Hash: digest.SHA256, DataBlockSize: 4096, HashBlockSize: 4096}
}

// Validate checks everything that does not depend on the devices.
func (p Params) Validate() error {
	switch {
	case p.HashType > 1:
		return &ParamError{"format", fmt.Sprint(p.HashType), "0 or 1"}
	case !p.Hash.Valid():
		return &ParamError{"hash", "not given", "sha1, sha224, sha256, sha384 or sha512"}
	case !validBlockSize(p.DataBlockSize):
		return &ParamError{"data-block-size", fmt.Sprint(p.DataBlockSize), "a power of two from 512 to 524288"}
	case !validBlockSize(p.HashBlockSize):
		return &ParamError{"hash-block-size", fmt.Sprint(p.HashBlockSize), "a power of two from 512 to 524288"}
	case len(p.Salt) > MaxSaltSize:
		return &ParamError{"salt", fmt.Sprintf("%d bytes", len(p.Salt)), fmt.Sprintf("at most %d bytes", MaxSaltSize)}
	case p.HashOffset < 0 || p.HashOffset%sectorSize != 0:
		return &ParamError{"hash-offset", fmt.Sprint(p.HashOffset), "a multiple of 512"}
	}
	return nil
}

func validBlockSize(n int) bool {
	return n >= MinBlockSize && n <= MaxBlockSize && n&(n-1) == 0
}

// perBlock is the number of digests in one hash block: a power of two, so
// that the kernel can shift instead of dividing.
func (p Params) perBlock() int {
	return 1 << (bits.Len(uint(p.HashBlockSize/p.Hash.Size())) - 1)
}

// slot is the distance in bytes from digest to digest in a hash block.
func (p Params) slot() int {
	if p.HashType == 0 {
		return p.Hash.Size()
	}
	return 1 << bits.Len(uint(p.Hash.Size()-1))
}

// Level is one level of the tree on the hash device.
type Level struct {
	Offset int64  // byte position on the hash device
	Blocks uint64 // hash blocks
}

// Layout says where everything is on the hash device.
type Layout struct {
	DataBlocks uint64
	HashBlocks uint64
	// TreeOffset is the byte position of the first hash block, counted from
	// the start of the hash device.
	TreeOffset int64
	// Levels[0] holds the digests of the data blocks and lies last on the
	// device; the last level is a single block and lies first. With one data
	// block there are no levels: the root hash is that block's digest.
	Levels []Level
	// End is the byte position behind the tree.
	End int64
}

// Layout computes the positions for a number of data blocks (which must not
// be zero).
func (p Params) Layout(dataBlocks uint64) (Layout, error) {
	if err := p.Validate(); err != nil {
		return Layout{}, err
	}
	tooLarge := &ParamError{"data-blocks", fmt.Sprint(dataBlocks), "from 1 to what fits in 2^63 bytes"}
	if dataBlocks == 0 || dataBlocks > math.MaxInt64/uint64(p.DataBlockSize) {
		return Layout{}, tooLarge
	}
	hbs := uint64(p.HashBlockSize)
	start := uint64(p.HashOffset) / hbs
	if !p.NoSuperblock {
		start = (uint64(p.HashOffset) + SuperblockSize + hbs - 1) / hbs
	}
	l := Layout{DataBlocks: dataBlocks, TreeOffset: int64(start * hbs)}
	shift := bits.Len(uint(p.perBlock())) - 1
	for n := dataBlocks; n > 1; {
		n = (n + 1<<shift - 1) >> shift
		l.Levels = append(l.Levels, Level{Blocks: n})
		l.HashBlocks += n
	}
	if len(l.Levels) > maxLevels || start > math.MaxInt64/hbs || l.HashBlocks > math.MaxInt64/hbs-start {
		return Layout{}, tooLarge
	}
	at := start
	for i := len(l.Levels) - 1; i >= 0; i-- {
		l.Levels[i].Offset = int64(at * hbs)
		at += l.Levels[i].Blocks
	}
	l.End = int64(at * hbs)
	return l, nil
}

// hashFileSize is how long a hash file of its own becomes. With hash blocks it
// simply ends with the tree. Without (one data block) it holds only the
// superblock, and veritysetup 2.8.4 grows it in two steps, both kept here:
// to the tree's start less the hash offset, and to the end of the block (of at
// most 4096 bytes) that the superblock is in.
func (p Params) hashFileSize(l Layout) int64 {
	if l.HashBlocks > 0 {
		return l.End
	}
	if p.NoSuperblock {
		return 0
	}
	block := min(int64(p.HashBlockSize), 4096)
	return max(l.TreeOffset-p.HashOffset, (p.HashOffset+SuperblockSize+block-1)/block*block)
}

// quote bounds what an error message repeats of foreign input.
func quote(s string) string {
	const limit = 80
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return fmt.Sprintf("%q", s)
}

// DigestsPerBlock is how many digests one hash block holds.
func (p Params) DigestsPerBlock() int { return p.perBlock() }
