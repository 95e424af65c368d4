// Package snpreport reads AMD SEV-SNP attestation reports, versions 2 to 5, and
// verifies them offline up to AMD's roots on the standard library alone. It also
// opens the containers in which reports travel: the certificate table of Linux,
// Azure's HCL report, trustee's and Tinfoil's JSON, go-sev-guest's protobuf.
//
// Who signed (Verify) and what was signed (Expect) are judged apart: a guest
// under debug has an authentic report that is worth nothing.
//
// A signature (R, S) has a twin (R, n-S) that verifies too, and AMD's firmware
// makes both kinds: the bytes of a report are no identity, those under the
// signature are.
//
// Sources: AMD, "SEV Secure Nested Paging Firmware ABI Specification" (56860),
// tables ATTESTATION_REPORT, GUEST_POLICY, PLATFORM_INFO, TCB_VERSION and the
// signature formats; AMD, "Versioned Chip Endorsement Key (VCEK) Certificate and
// KDS Interface Specification" (57230); AMD, "SEV-ES Guest-Hypervisor
// Communication Block Standardization" (56421), SNP extended guest request.
package snpreport

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/internal/digest"
)

// Size is the length of a report in bytes.
const Size = 0x4a0

// Offsets and constants of the format.
const (
	signedSize    = 0x2a0 // bytes under the signature
	componentSize = 72    // of R and of S, little-endian
	valueSize     = 48    // of a number on P-384, the rest is zero

	algorithmECDSAP384 = 1 // ECDSA on P-384 with SHA-384

	// hostRequest is the VMPL of a report that the hypervisor asked for: its
	// REPORT_DATA is not the guest's.
	hostRequest = 0xffffffff
	maxVMPL     = 3
)

// SigningKey says which key signed a report.
type SigningKey uint8

// The signing keys (KEY_INFO bits 4:2).
const (
	KeyVCEK SigningKey = 0 // of the chip
	KeyVLEK SigningKey = 1 // of the cloud provider
	KeyNone SigningKey = 7 // nothing signed it
)

// String gives AMD's name.
func (k SigningKey) String() string {
	switch k {
	case KeyVCEK:
		return "VCEK"
	case KeyVLEK:
		return "VLEK"
	case KeyNone:
		return "none"
	}
	return fmt.Sprintf("signing key %d", uint8(k))
}

// FirmwareVersion is an SNP firmware version.
type FirmwareVersion struct{ Build, Minor, Major uint8 }

// String writes major.minor.build.
func (v FirmwareVersion) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Build) }

// Report is a parsed report, its fields in their order and under AMD's names.
type Report struct {
	Version         uint32 // 2 to 5
	GuestSVN        uint32
	Policy          Policy
	FamilyID        [16]byte
	ImageID         [16]byte
	VMPL            uint32 // 0 to 3, or 0xffffffff: the host asked for the report
	CurrentTCB      TCB
	PlatformInfo    PlatformInfo
	SigningKey      SigningKey
	MaskChipKey     bool // the host forbids the VCEK
	AuthorKeyEn     bool // AuthorKeyDigest is of a key
	ReportData      [64]byte
	Measurement     digest.Digest // SHA-384
	HostData        [32]byte
	IDKeyDigest     digest.Digest // SHA-384; zero bytes: no ID block
	AuthorKeyDigest digest.Digest
	ReportID        [32]byte
	ReportIDMA      [32]byte // of the migration agent; all 0xff: there is none
	ReportedTCB     TCB      // the one that the signing key is derived from
	CPUIDFamily     uint8    // version 3 and later, base and extended family added
	CPUIDModel      uint8
	CPUIDStepping   uint8
	ChipID          [64]byte // zero: masked
	CommittedTCB    TCB
	Current         FirmwareVersion
	Committed       FirmwareVersion
	LaunchTCB       TCB

	// Version 5.
	LaunchMitVector  uint64
	CurrentMitVector uint64

	// R and S of the signature, big-endian.
	R, S [valueSize]byte
}

// cursor walks the fields of a report; the first error stays.
type cursor struct {
	data []byte
	at   int
	err  error
}

func (c *cursor) fail(at int, field, found, want string) {
	if c.err == nil {
		c.err = &malformed.Error{Input: "SNP report", Place: malformed.Offset(at), Field: field, Found: found, Want: want}
	}
}

func (c *cursor) take(n int) []byte {
	c.at += n
	return c.data[c.at-n : c.at : c.at]
}

func (c *cursor) u8() uint8       { return c.take(1)[0] }
func (c *cursor) u32() uint32     { return binary.LittleEndian.Uint32(c.take(4)) }
func (c *cursor) u64() uint64     { return binary.LittleEndian.Uint64(c.take(8)) }
func (c *cursor) copy(dst []byte) { copy(dst, c.take(len(dst))) }

func (c *cursor) sum(field string) digest.Digest {
	d, err := digest.FromBytes(digest.SHA384, c.take(digest.SHA384.Size()))
	if err != nil {
		c.fail(c.at, field, err.Error(), "")
	}
	return d
}

// reserved takes bytes that must be zero: what AMD has not given a meaning yet
// could take something back that the other fields say.
func (c *cursor) reserved(n int, field string) {
	at := c.at
	for i, b := range c.take(n) {
		if b != 0 {
			c.fail(at+i, field, fmt.Sprintf("%#02x", b), "0 (reserved)")
			return
		}
	}
}

func (c *cursor) version() (v FirmwareVersion) {
	v.Build, v.Minor, v.Major = c.u8(), c.u8(), c.u8()
	return v
}

// Parse reads the 1184 bytes of a report. Nothing is verified: an error means
// that these bytes are no report of a version and form known here.
func Parse(raw []byte) (*Report, error) {
	if len(raw) != Size {
		return nil, &malformed.Error{Input: "SNP report", Field: "size", Found: fmt.Sprintf("%d bytes", len(raw)), Want: fmt.Sprintf("%d bytes", Size)}
	}
	r, c := &Report{}, &cursor{data: raw}
	r.Version = c.u32()
	if r.Version < 2 || r.Version > 5 {
		c.fail(0, "VERSION", fmt.Sprint(r.Version), "2 to 5")
		return nil, c.err
	}
	r.GuestSVN = c.u32()
	r.Policy = Policy(c.u64())
	if r.Policy&policyReservedOne == 0 {
		c.fail(8, "POLICY", fmt.Sprintf("%#x", uint64(r.Policy)), "bit 17 set (reserved, must be one)")
	}
	c.copy(r.FamilyID[:])
	c.copy(r.ImageID[:])
	if r.VMPL = c.u32(); r.VMPL > maxVMPL && r.VMPL != hostRequest {
		c.fail(0x30, "VMPL", fmt.Sprint(r.VMPL), "0 to 3, or 0xffffffff for the host's request")
	}
	if a := c.u32(); a != algorithmECDSAP384 {
		c.fail(0x34, "SIGNATURE_ALGO", fmt.Sprint(a), "1 (ECDSA P-384 with SHA-384)")
	}
	c.copy(r.CurrentTCB[:])
	r.PlatformInfo = PlatformInfo(c.u64())
	r.keyInfo(c)
	c.reserved(4, "reserved after the key information")
	c.copy(r.ReportData[:])
	r.Measurement = c.sum("MEASUREMENT")
	c.copy(r.HostData[:])
	r.IDKeyDigest, r.AuthorKeyDigest = c.sum("ID_KEY_DIGEST"), c.sum("AUTHOR_KEY_DIGEST")
	c.copy(r.ReportID[:])
	c.copy(r.ReportIDMA[:])
	c.copy(r.ReportedTCB[:])
	if r.Version < 3 {
		c.reserved(0x18, "reserved after REPORTED_TCB")
	} else {
		r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping = c.u8(), c.u8(), c.u8()
		c.reserved(0x15, "reserved after CPUID_STEP")
	}
	c.copy(r.ChipID[:])
	c.copy(r.CommittedTCB[:])
	r.Current = c.version()
	c.reserved(1, "reserved after CURRENT_MAJOR")
	r.Committed = c.version()
	c.reserved(1, "reserved after COMMITTED_MAJOR")
	c.copy(r.LaunchTCB[:])
	if r.Version < 5 {
		c.reserved(0x10, "reserved after LAUNCH_TCB")
	} else {
		r.LaunchMitVector, r.CurrentMitVector = c.u64(), c.u64()
	}
	c.reserved(signedSize-c.at, "reserved before SIGNATURE")
	r.component(c, r.R[:], "R")
	r.component(c, r.S[:], "S")
	c.reserved(Size-c.at, "reserved in SIGNATURE")
	r.checkProcessor(c)
	if c.err != nil {
		return nil, c.err
	}
	return r, nil
}

func (r *Report) keyInfo(c *cursor) {
	const masked, authored, reserved = 1 << 1, 1 << 0, ^uint32(0x1f)
	info := c.u32()
	r.AuthorKeyEn, r.MaskChipKey, r.SigningKey = info&authored != 0, info&masked != 0, SigningKey(info>>2&7)
	if info&reserved != 0 {
		c.fail(0x48, "KEY_INFO", fmt.Sprintf("%#x", info), "bits 31 to 5 zero (reserved)")
	}
	if r.SigningKey != KeyVCEK && r.SigningKey != KeyVLEK && r.SigningKey != KeyNone {
		c.fail(0x48, "SIGNING_KEY", fmt.Sprint(uint8(r.SigningKey)), "0 (VCEK), 1 (VLEK) or 7 (none)")
	}
}

// component takes a number of the signature: 72 bytes little-endian, of which 48
// may be used.
func (r *Report) component(c *cursor, dst []byte, name string) {
	for i, b := range c.take(valueSize) {
		dst[valueSize-1-i] = b
	}
	c.reserved(componentSize-valueSize, "SIGNATURE "+name+" beyond 384 bits")
}

// checkProcessor: without the processor's family the TCB cannot be read, and
// what cannot be read cannot be compared.
func (r *Report) checkProcessor(c *cursor) {
	if r.Version >= 3 && r.Product() == "" {
		c.fail(0x188, "CPUID_FAM_ID, CPUID_MOD_ID", fmt.Sprintf("family %#x, model %#x", r.CPUIDFamily, r.CPUIDModel),
			"Milan (19h, 00h to 0fh), Genoa (19h, 10h to 1fh, a0h to afh) or Turin (1ah, 00h to 1fh)")
	}
	for _, t := range []struct {
		at   int
		name string
		tcb  TCB
	}{{0x38, "CURRENT_TCB", r.CurrentTCB}, {0x180, "REPORTED_TCB", r.ReportedTCB}, {0x1e0, "COMMITTED_TCB", r.CommittedTCB}, {0x1f0, "LAUNCH_TCB", r.LaunchTCB}} {
		if i := t.tcb.reservedByte(r.turin()); i >= 0 {
			c.fail(t.at+i, t.name, fmt.Sprintf("%#02x", t.tcb[i]), "0 (reserved)")
		}
	}
}

// Marshal writes the report back: Parse and Marshal give the same bytes.
func (r *Report) Marshal() []byte {
	out := r.SignedBytes()
	for _, v := range [][valueSize]byte{r.R, r.S} {
		at := len(out)
		out = append(out, make([]byte, componentSize)...)
		for i, b := range v {
			out[at+valueSize-1-i] = b
		}
	}
	return append(out, make([]byte, Size-len(out))...)
}

// SignedBytes writes the 672 bytes under the signature from their fields.
func (r *Report) SignedBytes() []byte {
	le := binary.LittleEndian
	out := make([]byte, 0, Size)
	out = le.AppendUint32(out, r.Version)
	out = le.AppendUint32(out, r.GuestSVN)
	out = le.AppendUint64(out, uint64(r.Policy))
	out = append(append(out, r.FamilyID[:]...), r.ImageID[:]...)
	out = le.AppendUint32(out, r.VMPL)
	out = le.AppendUint32(out, algorithmECDSAP384)
	out = append(out, r.CurrentTCB[:]...)
	out = le.AppendUint64(out, uint64(r.PlatformInfo))
	info := uint32(r.SigningKey) << 2
	if r.AuthorKeyEn {
		info |= 1
	}
	if r.MaskChipKey {
		info |= 2
	}
	out = le.AppendUint32(out, info)
	out = append(out, 0, 0, 0, 0)
	out = append(out, r.ReportData[:]...)
	out = append(out, r.Measurement.Bytes()...)
	out = append(out, r.HostData[:]...)
	out = append(append(out, r.IDKeyDigest.Bytes()...), r.AuthorKeyDigest.Bytes()...)
	out = append(append(out, r.ReportID[:]...), r.ReportIDMA[:]...)
	out = append(out, r.ReportedTCB[:]...)
	out = append(out, r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping)
	out = append(out, make([]byte, 0x15)...)
	out = append(out, r.ChipID[:]...)
	out = append(out, r.CommittedTCB[:]...)
	out = append(out, r.Current.Build, r.Current.Minor, r.Current.Major, 0)
	out = append(out, r.Committed.Build, r.Committed.Minor, r.Committed.Major, 0)
	out = append(out, r.LaunchTCB[:]...)
	out = le.AppendUint64(out, r.LaunchMitVector)
	out = le.AppendUint64(out, r.CurrentMitVector)
	return append(out, make([]byte, signedSize-len(out))...)
}

// chip is the chip's id as certificates and AMD's key service write it: 64
// bytes, on Turin the first 8 of them.
func (r *Report) chip() []byte {
	if r.turin() {
		return r.ChipID[:turinChipIDSize]
	}
	return r.ChipID[:]
}

// ChipIDMasked reports whether the host hides the chip's id (MaskChipId).
func (r *Report) ChipIDMasked() bool { return r.ChipID == [64]byte{} }

// ChipIDHex writes the chip's id in the length that its product uses.
func (r *Report) ChipIDHex() string { return hex.EncodeToString(r.chip()) }

// HostRequested reports whether the hypervisor asked for this report, and not
// the guest: REPORT_DATA then binds nothing of the guest's.
func (r *Report) HostRequested() bool { return r.VMPL == hostRequest }
