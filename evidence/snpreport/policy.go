package snpreport

import (
	"fmt"
	"strings"
)

// Policy is a GUEST_POLICY: what the guest's owner allows and demands, part of
// the launch.
type Policy uint64

// The policy's bits. The low 16 are the least ABI version that the guest needs.
const (
	PolicySMT                  Policy = 1 << 16 // allows simultaneous multithreading
	policyReservedOne          Policy = 1 << 17
	PolicyMigrateMA            Policy = 1 << 18 // allows a migration agent
	PolicyDebug                Policy = 1 << 19 // allows the host to read and change the guest
	PolicySingleSocket         Policy = 1 << 20 // demands one socket
	PolicyCXLAllow             Policy = 1 << 21 // allows CXL devices and memory
	PolicyMemAES256XTS         Policy = 1 << 22 // demands AES-256-XTS
	PolicyRAPLDis              Policy = 1 << 23 // demands that power metering is off
	PolicyCiphertextHidingDRAM Policy = 1 << 24 // demands ciphertext hiding
	PolicyPageSwapDisable      Policy = 1 << 25 // forbids page moves and swaps

	policyKnown = 1<<26 - 1
)

// PlatformInfo is what the firmware says about its platform.
type PlatformInfo uint64

// The platform's bits.
const (
	PlatformSMTEn                  PlatformInfo = 1 << 0
	PlatformTSMEEn                 PlatformInfo = 1 << 1
	PlatformECCEn                  PlatformInfo = 1 << 2
	PlatformRAPLDis                PlatformInfo = 1 << 3
	PlatformCiphertextHidingDRAMEn PlatformInfo = 1 << 4
	PlatformAliasCheckComplete     PlatformInfo = 1 << 5 // against CVE-2024-21944
	PlatformIOMMUWriteSafe         PlatformInfo = 1 << 6
	PlatformTIOEn                  PlatformInfo = 1 << 7

	platformKnown = 1<<8 - 1
)

type bit struct {
	mask   uint64
	name   string
	allows bool // set: more is allowed; else: more is demanded or protected
}

func policyBits() []bit {
	return []bit{
		{uint64(PolicySMT), "SMT", true},
		{uint64(PolicyMigrateMA), "MIGRATE_MA", true},
		{uint64(PolicyDebug), "DEBUG", true},
		{uint64(PolicySingleSocket), "SINGLE_SOCKET", false},
		{uint64(PolicyCXLAllow), "CXL_ALLOW", true},
		{uint64(PolicyMemAES256XTS), "MEM_AES_256_XTS", false},
		{uint64(PolicyRAPLDis), "RAPL_DIS", false},
		{uint64(PolicyCiphertextHidingDRAM), "CIPHERTEXT_HIDING_DRAM", false},
		{uint64(PolicyPageSwapDisable), "PAGE_SWAP_DISABLE", false},
	}
}

func platformBits() []bit {
	return []bit{
		{uint64(PlatformSMTEn), "SMT_EN", true},
		{uint64(PlatformTSMEEn), "TSME_EN", false},
		{uint64(PlatformECCEn), "ECC_EN", false},
		{uint64(PlatformRAPLDis), "RAPL_DIS", false},
		{uint64(PlatformCiphertextHidingDRAMEn), "CIPHERTEXT_HIDING_DRAM_EN", false},
		{uint64(PlatformAliasCheckComplete), "ALIAS_CHECK_COMPLETE", false},
		{uint64(PlatformIOMMUWriteSafe), "IOMMU_WRITE_SAFE", false},
		{uint64(PlatformTIOEn), "TIO_EN", true},
	}
}

// names writes the set bits that are known, and the rest as a number.
func names(value uint64, bits []bit, known uint64) string {
	var out []string
	for _, b := range bits {
		if value&b.mask != 0 {
			out = append(out, b.name)
		}
	}
	if rest := value &^ known; rest != 0 {
		out = append(out, fmt.Sprintf("unknown %#x", rest))
	}
	if out == nil {
		return "none"
	}
	return strings.Join(out, ", ")
}

// looser names every bit by which value is less strict than limit: an allowance
// that limit has not, a demand of limit's that is missing.
func looser(value, limit uint64, bits []bit) string {
	var out []string
	for _, b := range bits {
		switch got, want := value&b.mask != 0, limit&b.mask != 0; {
		case b.allows && got && !want:
			out = append(out, b.name+" is set")
		case !b.allows && !got && want:
			out = append(out, b.name+" is not set")
		}
	}
	return strings.Join(out, ", ")
}

// ABIMajor and ABIMinor are the least firmware ABI that the guest needs.
func (p Policy) ABIMajor() uint8 { return uint8(p >> 8) }

// ABIMinor is the second part of the least ABI.
func (p Policy) ABIMinor() uint8 { return uint8(p) }

// String writes the policy as a number and its bits by name.
func (p Policy) String() string {
	return fmt.Sprintf("%#x (ABI %d.%d, %s)", uint64(p), p.ABIMajor(), p.ABIMinor(), names(uint64(p&^policyReservedOne), policyBits(), policyKnown))
}

// Unknown are the bits that have no meaning here.
func (p Policy) Unknown() Policy { return p &^ policyKnown }

// String writes the information as a number and its bits by name.
func (p PlatformInfo) String() string {
	return fmt.Sprintf("%#x (%s)", uint64(p), names(uint64(p), platformBits(), platformKnown))
}

// Unknown are the bits that have no meaning here.
func (p PlatformInfo) Unknown() PlatformInfo { return p &^ platformKnown }
