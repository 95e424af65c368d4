package verity

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/retally/retally/internal/digest"
)

// Offsets in the superblock, all integers little-endian (cryptsetup,
// lib/verity/verity.c, struct verity_sb).
const (
	sbMagic         = "verity\x00\x00"
	sbVersion       = 8
	sbHashType      = 12
	sbUUID          = 16
	sbAlgorithm     = 32
	sbAlgorithmSize = 32
	sbDataBlockSize = 64
	sbHashBlockSize = 68
	sbDataBlocks    = 72
	sbSaltSize      = 80
	sbSalt          = 88
)

// SuperblockError is a superblock that cannot be used.
type SuperblockError struct {
	Offset int64 // of the offending field on the hash device, in bytes
	Field  string
	Found  string
	Want   string
}

func (e *SuperblockError) Error() string {
	return fmt.Sprintf("verity superblock: %s at offset %d is %s, want %s", e.Field, e.Offset, e.Found, e.Want)
}

// AppendSuperblock appends the 512 bytes of the superblock for a resolved
// number of data blocks.
func (p Params) AppendSuperblock(dst []byte, dataBlocks uint64) []byte {
	var sb [SuperblockSize]byte
	copy(sb[:], sbMagic)
	le := binary.LittleEndian
	le.PutUint32(sb[sbVersion:], 1)
	le.PutUint32(sb[sbHashType:], p.HashType)
	copy(sb[sbUUID:], p.UUID[:])
	copy(sb[sbAlgorithm:], p.Hash.String())
	le.PutUint32(sb[sbDataBlockSize:], uint32(p.DataBlockSize))
	le.PutUint32(sb[sbHashBlockSize:], uint32(p.HashBlockSize))
	le.PutUint64(sb[sbDataBlocks:], dataBlocks)
	le.PutUint16(sb[sbSaltSize:], uint16(len(p.Salt)))
	copy(sb[sbSalt:], p.Salt)
	return append(dst, sb[:]...)
}

// ParseSuperblock reads the 512 bytes that were found at offset on the hash
// device. Bytes outside the defined fields are ignored, as the tools and the
// kernel ignore them; the root hash does not cover them.
func ParseSuperblock(sb []byte, offset int64) (Params, error) {
	var none Params
	fail := func(at int, field, found, want string) (Params, error) {
		return none, &SuperblockError{offset + int64(at), field, found, want}
	}
	if len(sb) != SuperblockSize {
		return fail(0, "length", fmt.Sprint(len(sb)), fmt.Sprint(SuperblockSize))
	}
	le := binary.LittleEndian
	if string(sb[:len(sbMagic)]) != sbMagic {
		return fail(0, "signature", fmt.Sprintf("%q", sb[:len(sbMagic)]), fmt.Sprintf("%q", sbMagic))
	}
	if v := le.Uint32(sb[sbVersion:]); v != 1 {
		return fail(sbVersion, "version", fmt.Sprint(v), "1")
	}
	p := Params{HashType: le.Uint32(sb[sbHashType:]), HashOffset: offset, DataBlocks: le.Uint64(sb[sbDataBlocks:])}
	if p.HashType > 1 {
		return fail(sbHashType, "hash type", fmt.Sprint(p.HashType), "0 or 1")
	}
	copy(p.UUID[:], sb[sbUUID:])
	name, _, _ := bytes.Cut(sb[sbAlgorithm:sbAlgorithm+sbAlgorithmSize], []byte{0})
	alg, err := digest.ParseAlgorithm(strings.ToLower(string(name)))
	if err != nil {
		return fail(sbAlgorithm, "algorithm", quote(string(name)), "sha1, sha224, sha256, sha384 or sha512")
	}
	p.Hash = alg
	p.DataBlockSize = int(le.Uint32(sb[sbDataBlockSize:]))
	if !validBlockSize(p.DataBlockSize) {
		return fail(sbDataBlockSize, "data block size", fmt.Sprint(p.DataBlockSize), "a power of two from 512 to 524288")
	}
	p.HashBlockSize = int(le.Uint32(sb[sbHashBlockSize:]))
	if !validBlockSize(p.HashBlockSize) {
		return fail(sbHashBlockSize, "hash block size", fmt.Sprint(p.HashBlockSize), "a power of two from 512 to 524288")
	}
	n := int(le.Uint16(sb[sbSaltSize:]))
	if n > MaxSaltSize {
		return fail(sbSaltSize, "salt size", fmt.Sprint(n), fmt.Sprintf("at most %d", MaxSaltSize))
	}
	if n > 0 {
		p.Salt = bytes.Clone(sb[sbSalt : sbSalt+n])
	}
	if _, err := p.Layout(p.DataBlocks); err != nil {
		return fail(sbDataBlocks, "data blocks", fmt.Sprint(p.DataBlocks), "from 1 to what fits in 2^63 bytes")
	}
	return p, nil
}
