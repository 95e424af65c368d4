// Package gctx extends the launch digest of an SEV-SNP guest page by page, as
// the firmware of the AMD secure processor does (SEV-SNP Firmware ABI, section
// 8.17.2, PAGE_INFO).
package gctx

import (
	"crypto/sha512"
	"encoding/binary"
)

// PageType is what a page is added as.
type PageType uint8

// The page types (SEV-SNP Firmware ABI, section 8.17, table of PAGE_TYPE).
const (
	Normal     PageType = 1
	VMSA       PageType = 2 // the registers that a virtual CPU starts with
	Zero       PageType = 3
	Unmeasured PageType = 4
	Secrets    PageType = 5
	CPUID      PageType = 6
)

// PageSize is the unit of the launch digest.
const PageSize = 4096

// VMSAAddress is the guest address under which every VMSA page is measured:
// the last page below 2^48, whatever the guest.
const VMSAAddress = 0x0000_FFFF_FFFF_F000

// State is the launch digest. It starts as zeros.
type State [sha512.Size384]byte

// Update extends the digest by one page. contents is the SHA-384 of a normal
// or VMSA page, zeros for every other type.
func (s *State) Update(t PageType, contents *[sha512.Size384]byte, address uint64) {
	var info [0x70]byte
	copy(info[:], s[:])
	copy(info[0x30:], contents[:])
	info[0x60] = byte(len(info))
	info[0x62] = byte(t)
	// 0x63 is_imi and 0x65 to 0x67, the rights of VMPL 1 to 3, are zero at launch.
	binary.LittleEndian.PutUint64(info[0x68:], address)
	*s = sha512.Sum384(info[:])
}

// Data extends the digest by pages of type Normal. The length of data is a
// multiple of PageSize.
func (s *State) Data(data []byte, address uint64) {
	for len(data) >= PageSize {
		sum := sha512.Sum384(data[:PageSize])
		s.Update(Normal, &sum, address)
		data, address = data[PageSize:], address+PageSize
	}
}

// Empty extends the digest by n pages without contents: of a type other than
// Normal and VMSA.
func (s *State) Empty(t PageType, address, n uint64) {
	var none [sha512.Size384]byte
	for range n {
		s.Update(t, &none, address)
		address += PageSize
	}
}
