// Package hcl reads the report of Azure's paravisor (HCL, later OpenHCL): a
// hardware report with the runtime data that it vouches for. The runtime data
// hold the attestation key of the virtual TPM, so that a quote of that TPM is as
// good as the hardware report: H(runtime data) is the report data.
//
// Sources: Microsoft, "Confidential VM guest attestation: virtual TPMs and
// hardware reports" (HCL report, runtime data); the reports of published sets.
package hcl

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"

	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
)

// MaxSize bounds a report in bytes. Real ones have 2048 or 2600, what the NV
// index of the virtual TPM holds.
const MaxSize = 64 << 10

// Sizes and places of the format, in bytes.
const (
	headerSize   = 32
	hardwareSize = 1184
	requestSize  = 20 // before the runtime data
	runtimeAt    = headerSize + hardwareSize + requestSize

	snpReportDataAt = 0x50
	tdxReportDataAt = 128 // TDREPORT: REPORTMACSTRUCT.REPORTDATA
	tdReportSize    = 1024
	reportDataSize  = 64
)

// Signature is what a report begins with.
const Signature = "HCLA"

// Type says which hardware report is inside.
type Type uint32

// The types.
const (
	SNP Type = 2 // an SEV-SNP attestation report
	TDX Type = 4 // a TDREPORT, 1024 bytes and zeros; the quote is beside it
)

// String names the type.
func (t Type) String() string {
	switch t {
	case SNP:
		return "SEV-SNP"
	case TDX:
		return "TDX"
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Report is a parsed HCL report.
type Report struct {
	Version     uint32
	Type        Type
	Hardware    [hardwareSize]byte
	Algorithm   digest.Algorithm // of the runtime data
	RuntimeData []byte           // JSON, exactly the bytes that are hashed

	Runtime Runtime
	size    int // of the whole, with zeros at the end
}

// Runtime is what the runtime data say.
type Runtime struct {
	AK         *rsa.PublicKey // HCLAkPub, the attestation key of the virtual TPM
	EK         *rsa.PublicKey // HCLEkPub; nil where it is left out
	UserData   []byte         // what the guest wrote before the report was made
	SecureBoot *bool          // vm-configuration/secure-boot
	VMID       string         // vm-configuration/vmUniqueId
}

// Parse reads an HCL report. Nothing is verified: an error means that these
// bytes are no HCL report known here.
func Parse(data []byte) (*Report, error) {
	fail := func(at int, field, found, want string) (*Report, error) {
		return nil, &malformed.Error{Input: "HCL report", Place: malformed.Offset(at), Field: field, Found: found, Want: want}
	}
	if len(data) > MaxSize || len(data) < runtimeAt {
		return fail(0, "size", fmt.Sprintf("%d bytes", len(data)), fmt.Sprintf("%d to %d", runtimeAt, MaxSize))
	}
	if string(data[:4]) != Signature {
		return fail(0, "signature", fmt.Sprintf("%q", data[:4]), Signature)
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(data[at:]) }
	r := &Report{Version: u32(4), size: len(data)}
	request := headerSize + hardwareSize
	n := int64(u32(request + 16))
	switch {
	case r.Version != 1 && r.Version != 2:
		return fail(4, "version", fmt.Sprint(r.Version), "1 or 2")
	case u32(12) != 2:
		return fail(12, "request type", fmt.Sprint(u32(12)), "2 (report)")
	case u32(16) != 0:
		return fail(16, "status", fmt.Sprint(u32(16)), "0")
	case !zero(data[20:headerSize]):
		return fail(20, "reserved", hex.EncodeToString(data[20:headerSize]), "zeros")
	case n > int64(len(data)-runtimeAt):
		return fail(request+16, "size of the runtime data", fmt.Sprint(n), fmt.Sprintf("at most %d, what is left", len(data)-runtimeAt))
	case int64(u32(request)) != requestSize+n:
		return fail(request, "size of the request data", fmt.Sprint(u32(request)), fmt.Sprint(requestSize+n))
	case int64(u32(8)) != runtimeAt+n:
		return fail(8, "report size", fmt.Sprint(u32(8)), fmt.Sprint(runtimeAt+n))
	case u32(request+4) != 1:
		return fail(request+4, "version of the request data", fmt.Sprint(u32(request+4)), "1")
	}
	r.Type = Type(u32(request + 8))
	if r.Type != SNP && r.Type != TDX {
		return fail(request+8, "report type", fmt.Sprint(uint32(r.Type)), "2 (SEV-SNP) or 4 (TDX)")
	}
	algorithms := map[uint32]digest.Algorithm{1: digest.SHA256, 2: digest.SHA384, 3: digest.SHA512}
	var ok bool
	if r.Algorithm, ok = algorithms[u32(request+12)]; !ok {
		return fail(request+12, "hash type", fmt.Sprint(u32(request+12)), "1 (SHA-256), 2 (SHA-384) or 3 (SHA-512)")
	}
	copy(r.Hardware[:], data[headerSize:])
	if r.Type == TDX && !zero(r.Hardware[tdReportSize:]) {
		return fail(headerSize+tdReportSize, "after the TD report", "other bytes", "zeros")
	}
	end := runtimeAt + int(n)
	r.RuntimeData = bytes.Clone(data[runtimeAt:end])
	if !zero(data[end:]) {
		return fail(end, "after the runtime data", "other bytes", "zeros")
	}
	return r, r.readRuntime()
}

// Marshal writes the report back: Parse and Marshal give the same bytes.
func (r *Report) Marshal() []byte {
	le := binary.LittleEndian
	n := uint32(len(r.RuntimeData))
	kinds := map[digest.Algorithm]uint32{digest.SHA256: 1, digest.SHA384: 2, digest.SHA512: 3}
	out := append(make([]byte, 0, max(r.size, runtimeAt+int(n))), Signature...)
	for _, v := range []uint32{r.Version, runtimeAt + n, 2, 0, 0, 0, 0} {
		out = le.AppendUint32(out, v)
	}
	out = append(out, r.Hardware[:]...)
	for _, v := range []uint32{requestSize + n, 1, uint32(r.Type), kinds[r.Algorithm], n} {
		out = le.AppendUint32(out, v)
	}
	out = append(out, r.RuntimeData...)
	return append(out, make([]byte, max(0, r.size-len(out)))...)
}

// ReportData is the report data of the hardware report.
func (r *Report) ReportData() [reportDataSize]byte {
	at := snpReportDataAt
	if r.Type == TDX {
		at = tdxReportDataAt
	}
	return [reportDataSize]byte(r.Hardware[at : at+reportDataSize])
}

// RuntimeDigest is H(runtime data) as it must stand in report data: the digest,
// then zeros.
func (r *Report) RuntimeDigest() [reportDataSize]byte {
	var out [reportDataSize]byte
	copy(out[:], r.Algorithm.Sum(r.RuntimeData).Bytes())
	return out
}

// Bound reports whether report data vouch for the runtime data. For a TDX
// machine report data are the quote's: a TDREPORT is signed for nobody else.
func (r *Report) Bound(reportData [reportDataSize]byte) bool { return reportData == r.RuntimeDigest() }

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// readRuntime reads the runtime data. Members that are not known here are left
// alone: they are hashed, and nothing is judged by them.
func (r *Report) readRuntime() error {
	fail := func(place, found, want string) error {
		return &malformed.Error{Input: "HCL report: runtime data", Place: place, Found: found, Want: want}
	}
	doc, err := jsondoc.Parse(r.RuntimeData, jsondoc.Limits{Bytes: MaxSize, Depth: 8, Values: 1000})
	if err != nil {
		return fmt.Errorf("read HCL report: runtime data: %w", err)
	}
	keys := doc.Get("keys")
	if keys == nil || keys.Kind != jsondoc.Array {
		return fail("/keys", "no array", "an array of keys")
	}
	for i, k := range keys.Elems {
		place := fmt.Sprintf("/keys/%d", i)
		var dst **rsa.PublicKey
		switch text(k, "kid") {
		case "HCLAkPub":
			dst = &r.Runtime.AK
		case "HCLEkPub":
			dst = &r.Runtime.EK
		default:
			continue
		}
		if *dst != nil {
			return fail(place, "a second key "+text(k, "kid"), "one")
		}
		key, reason := publicKey(k)
		if key == nil {
			return fail(place, reason, "an RSA key (RFC 7517)")
		}
		*dst = key
	}
	if r.Runtime.AK == nil {
		return fail("/keys", "no key HCLAkPub", "the attestation key of the virtual TPM")
	}
	if v := doc.Get("user-data"); !v.IsNull() {
		if r.Runtime.UserData, err = hex.DecodeString(v.Text); err != nil || v.Kind != jsondoc.String {
			return fail("/user-data", "no hexadecimal bytes", "hexadecimal bytes")
		}
	}
	vm := doc.Get("vm-configuration")
	r.Runtime.VMID = text(vm, "vmUniqueId")
	if v := vm.Get("secure-boot"); v != nil && v.Kind == jsondoc.Bool {
		r.Runtime.SecureBoot = &v.Bool
	}
	return nil
}

func text(v *jsondoc.Value, member string) string {
	if m := v.Get(member); m != nil && m.Kind == jsondoc.String {
		return m.Text
	}
	return ""
}

func publicKey(k *jsondoc.Value) (*rsa.PublicKey, string) {
	const minBits, maxBits, exponent = 2048, 4096, 65537
	if kty := text(k, "kty"); kty != "RSA" {
		return nil, fmt.Sprintf("kty %q", kty)
	}
	var parts [2]*big.Int
	for i, name := range []string{"n", "e"} {
		b, err := base64.RawURLEncoding.Strict().DecodeString(text(k, name))
		if err != nil || len(b) > maxBits/8 {
			return nil, "member " + name + " is no base64url number of at most 4096 bits"
		}
		parts[i] = new(big.Int).SetBytes(b)
	}
	if bits := parts[0].BitLen(); bits < minBits {
		return nil, fmt.Sprintf("a modulus of %d bits", bits)
	}
	if parts[1].Cmp(big.NewInt(exponent)) != 0 {
		return nil, "the exponent " + parts[1].String()
	}
	return &rsa.PublicKey{N: parts[0], E: exponent}, ""
}

// RuntimeJSON writes runtime data in the form that the paravisor writes, with an
// attestation key: for tests and demonstrations.
func RuntimeJSON(ak *rsa.PublicKey, vmID string) []byte {
	e := big.NewInt(int64(ak.E)).Bytes()
	return fmt.Appendf(nil, `{"keys":[{"kid":"HCLAkPub","key_ops":["sign"],"kty":"RSA","e":%q,"n":%q}],"vm-configuration":{"console-enabled":true,"secure-boot":true,"tpm-enabled":true,"vmUniqueId":%q},"user-data":%q}`,
		base64.RawURLEncoding.EncodeToString(e), base64.RawURLEncoding.EncodeToString(ak.N.Bytes()), vmID, hex.EncodeToString(make([]byte, reportDataSize)))
}
