// Package tdxquote reads Intel TDX quotes, versions 4 and 5 with every body
// type, and verifies their signature chain offline on the standard library
// alone. Collateral (TCB info, QE identity, revocation lists) is optional and
// comes from a file.
//
// Sources: Intel, "Intel TDX DCAP Quoting Library API", appendix A.3 (quote
// version 4) and A.4 (version 5, body descriptor); Intel, "Intel Trust Domain
// Extensions Module base specification", TDREPORT_STRUCT.
package tdxquote

import (
	"encoding/binary"
	"fmt"

	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/internal/digest"
)

// MaxSize bounds a quote in bytes. Real ones have about 5 KiB; the certificate
// chain makes most of it.
const MaxSize = 128 << 10

// Sizes and constants of the format, in bytes.
const (
	headerSize     = 48
	descriptorSize = 6 // version 5: u16 body type, u32 body size
	body10Size     = 584
	body15Size     = 648
	body15ExSize   = 885
	reportSize     = 384 // an SGX enclave report
	signatureSize  = 64
	keySize        = 64

	keyTypeECDSAP256 = 2
	teeTDX           = 0x81
	certQEReport     = 6 // certification data: QE report, its signature, auth data, certificates
	certPCKChain     = 5 // certification data: PCK chain in PEM
)

// BodyType numbers the layouts of a body as version 5 does.
type BodyType uint16

// The body types. Version 4 quotes always carry TD 1.0.
const (
	TD10   BodyType = 2 // 584 bytes
	TD15   BodyType = 3 // 648 bytes: TD 1.0, TEE_TCB_SVN_2, MRSERVICETD
	TD15Ex BodyType = 4 // 885 bytes: TD 1.5, identity and service TD history
)

// String names the type as Intel's headers do.
func (t BodyType) String() string {
	switch t {
	case TD10:
		return "TD 1.0"
	case TD15:
		return "TD 1.5"
	case TD15Ex:
		return "TD 1.5 extended"
	}
	return fmt.Sprintf("body type %d", uint16(t))
}

// size is 0 for a type that is not known.
func (t BodyType) size() int {
	switch t {
	case TD10:
		return body10Size
	case TD15:
		return body15Size
	case TD15Ex:
		return body15ExSize
	}
	return 0
}

// Header is the quote's first 48 bytes.
type Header struct {
	Version            uint16
	AttestationKeyType uint16 // 2: ECDSA on P-256
	TEEType            uint32 // 0x81: TDX
	QESVN, PCESVN      uint16 // reserved since version 4, signed all the same
	QEVendorID         [16]byte
	UserData           [20]byte // the first 16 bytes identify the platform to PCCS
}

// Body is the TD's report. The extended fields are meaningful from the body
// type on that has them.
type Body struct {
	TEETCBSVN      [16]byte // security versions of the TDX module and its loader
	MRSEAM         digest.Digest
	MRSIGNERSEAM   digest.Digest // zero: Intel's module
	SEAMAttributes [8]byte
	TDAttributes   [8]byte // byte 0 is the group "TD under debug"
	XFAM           [8]byte
	MRTD           digest.Digest
	MRCONFIGID     [48]byte
	MROWNER        [48]byte
	MROWNERCONFIG  [48]byte
	RTMR           [4]digest.Digest
	ReportData     [64]byte

	// TD 1.5 and extended.
	TEETCBSVN2  [16]byte
	MRSERVICETD digest.Digest

	// Extended only.
	Extended Extended
}

// Extended holds what body type 4 adds.
type Extended struct {
	VMID                  uint8 // 0: no partition
	TDID                  [32]byte
	DeviceInfo            [48]byte
	InitServiceTDHash     [48]byte
	InitServiceTDAttr     [8]byte
	InitCPUSVN            [16]byte
	InitTEETCBSVN         [16]byte
	InitTEEFMSPC          [12]byte
	CurrentServiceTDHash  [48]byte
	CurrentServiceTDAttrs [8]byte
}

// EnclaveReport is the quoting enclave's SGX report.
type EnclaveReport struct {
	CPUSVN     [16]byte
	MiscSelect uint32
	Attributes [16]byte
	MRENCLAVE  digest.Digest
	MRSIGNER   digest.Digest
	ProductID  uint16
	SVN        uint16
	ReportData [64]byte
	raw        [reportSize]byte
}

// Quote is a parsed quote.
type Quote struct {
	Header   Header
	BodyType BodyType
	Body     Body

	Signature      [signatureSize]byte // r || s over header, descriptor and body
	AttestationKey [keySize]byte       // x || y on P-256
	QEReport       EnclaveReport
	QESignature    [signatureSize]byte // r || s over the QE report, by the PCK leaf
	QEAuthData     []byte
	PCKChain       []byte // PEM, leaf first
	Trailing       []byte // bytes after the signature data: allowed, covered by nothing
}

// cursor walks the fields of a quote; after an error every take is empty.
type cursor struct {
	data []byte
	at   int
	err  error
}

func (c *cursor) take(n int, field string) []byte {
	if c.err != nil {
		return make([]byte, min(n, reportSize))
	}
	if n > len(c.data)-c.at {
		c.fail(c.at, field, fmt.Sprintf("%d bytes left", len(c.data)-c.at), fmt.Sprintf("%d bytes", n))
		return make([]byte, min(n, reportSize))
	}
	c.at += n
	return c.data[c.at-n : c.at : c.at]
}

func (c *cursor) fail(at int, field, found, want string) {
	if c.err == nil {
		c.err = &malformed.Error{Input: "TDX quote", Place: malformed.Offset(at), Field: field, Found: found, Want: want}
	}
}

func (c *cursor) u16(field string) uint16 { return binary.LittleEndian.Uint16(c.take(2, field)) }
func (c *cursor) u32(field string) uint32 { return binary.LittleEndian.Uint32(c.take(4, field)) }

func (c *cursor) copy(dst []byte, field string) { copy(dst, c.take(len(dst), field)) }

func (c *cursor) sum(a digest.Algorithm, field string) digest.Digest {
	d, err := digest.FromBytes(a, c.take(a.Size(), field))
	if err != nil {
		c.fail(c.at, field, err.Error(), "")
	}
	return d
}

// Parse reads the bytes of a quote. Nothing is verified: an error means that
// these bytes are no TDX quote of a version and form known here.
func Parse(raw []byte) (*Quote, error) {
	if len(raw) > MaxSize {
		return nil, &malformed.Error{Input: "TDX quote", Field: "size", Found: fmt.Sprintf("%d bytes", len(raw)), Want: fmt.Sprintf("at most %d", MaxSize)}
	}
	q := &Quote{}
	c := &cursor{data: raw}
	q.header(c)
	if q.Header.Version >= 5 {
		q.descriptor(c)
	} else {
		q.BodyType = TD10
	}
	if c.err != nil {
		return nil, c.err
	}
	q.Body.read(c, q.BodyType)
	if c.err != nil {
		return nil, c.err
	}
	at := c.at
	size := int64(c.u32("signature data length"))
	if c.err == nil && size > int64(len(raw)-c.at) {
		c.fail(at, "signature data length", fmt.Sprint(size), fmt.Sprintf("at most %d, what is left", len(raw)-c.at))
	}
	if c.err != nil {
		return nil, c.err
	}
	end := c.at + int(size)
	q.Trailing = append([]byte(nil), raw[end:]...)
	c.data = raw[:end]
	q.signatureData(c)
	if c.err == nil && c.at != end {
		c.fail(c.at, "signature data", fmt.Sprintf("%d bytes more", end-c.at), "the end that its length field states")
	}
	if c.err != nil {
		return nil, c.err
	}
	return q, nil
}

func (q *Quote) header(c *cursor) {
	h := &q.Header
	h.Version = c.u16("version")
	if h.Version != 4 && h.Version != 5 {
		c.fail(0, "version", fmt.Sprint(h.Version), "4 or 5")
	}
	h.AttestationKeyType = c.u16("attestation key type")
	if h.AttestationKeyType != keyTypeECDSAP256 {
		c.fail(2, "attestation key type", fmt.Sprint(h.AttestationKeyType), "2 (ECDSA P-256)")
	}
	h.TEEType = c.u32("TEE type")
	if h.TEEType != teeTDX {
		found := fmt.Sprintf("%#x", h.TEEType)
		if h.TEEType == 0 {
			found = "0 (SGX)"
		}
		c.fail(4, "TEE type", found, "0x81 (TDX)")
	}
	h.QESVN, h.PCESVN = c.u16("QE SVN"), c.u16("PCE SVN")
	c.copy(h.QEVendorID[:], "QE vendor ID")
	c.copy(h.UserData[:], "user data")
}

func (q *Quote) descriptor(c *cursor) {
	q.BodyType = BodyType(c.u16("body type"))
	size := c.u32("body size")
	want := q.BodyType.size()
	if want == 0 {
		c.fail(headerSize, "body type", fmt.Sprint(uint16(q.BodyType)), "2, 3 or 4 (TDX)")
	}
	if int64(size) != int64(want) {
		c.fail(headerSize+2, "body size", fmt.Sprint(size), fmt.Sprintf("%d for %s", want, q.BodyType))
	}
}

func (b *Body) read(c *cursor, t BodyType) {
	c.copy(b.TEETCBSVN[:], "TEE_TCB_SVN")
	b.MRSEAM = c.sum(digest.SHA384, "MRSEAM")
	b.MRSIGNERSEAM = c.sum(digest.SHA384, "MRSIGNERSEAM")
	c.copy(b.SEAMAttributes[:], "SEAM attributes")
	c.copy(b.TDAttributes[:], "TD attributes")
	c.copy(b.XFAM[:], "XFAM")
	b.MRTD = c.sum(digest.SHA384, "MRTD")
	c.copy(b.MRCONFIGID[:], "MRCONFIGID")
	c.copy(b.MROWNER[:], "MROWNER")
	c.copy(b.MROWNERCONFIG[:], "MROWNERCONFIG")
	for i := range b.RTMR {
		b.RTMR[i] = c.sum(digest.SHA384, fmt.Sprintf("RTMR%d", i))
	}
	c.copy(b.ReportData[:], "REPORTDATA")
	if t < TD15 {
		return
	}
	c.copy(b.TEETCBSVN2[:], "TEE_TCB_SVN_2")
	b.MRSERVICETD = c.sum(digest.SHA384, "MRSERVICETD")
	if t < TD15Ex {
		return
	}
	x := &b.Extended
	x.VMID = c.take(1, "VMID")[0]
	c.copy(x.TDID[:], "TD_ID")
	c.copy(x.DeviceInfo[:], "DEVINFO")
	c.copy(x.InitServiceTDHash[:], "INIT_SERVTD_HASH")
	c.copy(x.InitServiceTDAttr[:], "INIT_SERVTD_ATTR")
	c.copy(x.InitCPUSVN[:], "INIT_CPUSVN")
	c.copy(x.InitTEETCBSVN[:], "INIT_TEE_TCB_SVN")
	c.copy(x.InitTEEFMSPC[:], "INIT_TEE_FMSPC")
	c.copy(x.CurrentServiceTDHash[:], "CURR_SERVTD_HASH")
	c.copy(x.CurrentServiceTDAttrs[:], "CURR_SERVTD_ATTR")
}

func (q *Quote) signatureData(c *cursor) {
	c.copy(q.Signature[:], "quote signature")
	c.copy(q.AttestationKey[:], "attestation key")
	at := c.at
	if t := c.u16("certification data type"); t != certQEReport {
		c.fail(at, "certification data type", fmt.Sprint(t), "6 (QE report)")
	}
	at = c.at
	if n := c.u32("certification data size"); int64(n) != int64(len(c.data)-c.at) {
		c.fail(at, "certification data size", fmt.Sprint(n), fmt.Sprintf("%d, the rest of the signature data", len(c.data)-c.at))
	}
	q.QEReport.read(c)
	c.copy(q.QESignature[:], "QE report signature")
	n := c.u16("QE authentication data size")
	q.QEAuthData = append([]byte(nil), c.take(int(n), "QE authentication data")...)
	at = c.at
	if t := c.u16("PCK certificate data type"); t != certPCKChain {
		c.fail(at, "PCK certificate data type", fmt.Sprint(t), "5 (PEM chain)")
	}
	at = c.at
	if n := c.u32("PCK certificate data size"); int64(n) != int64(len(c.data)-c.at) {
		c.fail(at, "PCK certificate data size", fmt.Sprint(n), fmt.Sprintf("%d, the rest of the signature data", len(c.data)-c.at))
	}
	if c.err == nil {
		q.PCKChain = append([]byte(nil), c.take(len(c.data)-c.at, "PCK certificate chain")...)
	}
}

// read takes the fields of an SGX report ("Intel SDM volume 3D", table 38-21);
// the reserved ranges stay in raw, because they are signed.
func (r *EnclaveReport) read(c *cursor) {
	c.copy(r.raw[:], "QE report")
	f := &cursor{data: r.raw[:]}
	f.copy(r.CPUSVN[:], "CPUSVN")
	r.MiscSelect = f.u32("MISCSELECT")
	f.at = 48
	f.copy(r.Attributes[:], "ATTRIBUTES")
	r.MRENCLAVE = f.sum(digest.SHA256, "MRENCLAVE")
	f.at = 128
	r.MRSIGNER = f.sum(digest.SHA256, "MRSIGNER")
	f.at = 256
	r.ProductID, r.SVN = f.u16("ISVPRODID"), f.u16("ISVSVN")
	f.at = 320
	f.copy(r.ReportData[:], "REPORTDATA")
}

// ParseEnclaveReport reads the 384 bytes of an SGX report.
func ParseEnclaveReport(raw []byte) (EnclaveReport, error) {
	var r EnclaveReport
	c := &cursor{data: raw}
	r.read(c)
	return r, c.err
}

// Bytes gives the report as it was read.
func (r *EnclaveReport) Bytes() []byte { return append([]byte(nil), r.raw[:]...) }

// Marshal writes the quote back: Parse and Marshal give the same bytes.
func (q *Quote) Marshal() []byte {
	out := q.SignedBytes()
	sig := append([]byte(nil), q.Signature[:]...)
	sig = append(sig, q.AttestationKey[:]...)
	inner := append(append([]byte(nil), q.QEReport.raw[:]...), q.QESignature[:]...)
	inner = binary.LittleEndian.AppendUint16(inner, uint16(len(q.QEAuthData)))
	inner = append(inner, q.QEAuthData...)
	inner = binary.LittleEndian.AppendUint16(inner, certPCKChain)
	inner = binary.LittleEndian.AppendUint32(inner, uint32(len(q.PCKChain)))
	inner = append(inner, q.PCKChain...)
	sig = binary.LittleEndian.AppendUint16(sig, certQEReport)
	sig = binary.LittleEndian.AppendUint32(sig, uint32(len(inner)))
	sig = append(sig, inner...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(sig)))
	out = append(out, sig...)
	return append(out, q.Trailing...)
}

// SignedBytes writes header, descriptor and body from their fields: what the
// attestation key signs.
func (q *Quote) SignedBytes() []byte {
	le := binary.LittleEndian
	h := q.Header
	out := le.AppendUint16(nil, h.Version)
	out = le.AppendUint16(out, h.AttestationKeyType)
	out = le.AppendUint32(out, h.TEEType)
	out = le.AppendUint16(out, h.QESVN)
	out = le.AppendUint16(out, h.PCESVN)
	out = append(out, h.QEVendorID[:]...)
	out = append(out, h.UserData[:]...)
	if h.Version >= 5 {
		out = le.AppendUint16(out, uint16(q.BodyType))
		out = le.AppendUint32(out, uint32(q.BodyType.size()))
	}
	b := &q.Body
	fields := [][]byte{b.TEETCBSVN[:], b.MRSEAM.Bytes(), b.MRSIGNERSEAM.Bytes(), b.SEAMAttributes[:], b.TDAttributes[:], b.XFAM[:], b.MRTD.Bytes(), b.MRCONFIGID[:], b.MROWNER[:], b.MROWNERCONFIG[:]}
	for _, r := range b.RTMR {
		fields = append(fields, r.Bytes())
	}
	fields = append(fields, b.ReportData[:])
	if q.BodyType >= TD15 {
		fields = append(fields, b.TEETCBSVN2[:], b.MRSERVICETD.Bytes())
	}
	if q.BodyType >= TD15Ex {
		x := &b.Extended
		fields = append(fields, []byte{x.VMID}, x.TDID[:], x.DeviceInfo[:], x.InitServiceTDHash[:], x.InitServiceTDAttr[:], x.InitCPUSVN[:], x.InitTEETCBSVN[:], x.InitTEEFMSPC[:], x.CurrentServiceTDHash[:], x.CurrentServiceTDAttrs[:])
	}
	for _, f := range fields {
		out = append(out, f...)
	}
	return out
}
