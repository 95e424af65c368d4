// Package nvidia reads the attestation evidence of NVIDIA GPUs and verifies
// what can be verified offline: the device certificate chain, the signature
// over the SPDM measurement exchange and the nonce. Golden values of driver and
// VBIOS come from NVIDIA's reference integrity manifests and revocation from
// its OCSP service; both need the network and stay unchecked.
//
// Sources: DMTF DSP0274, "Security Protocol and Data Model", version 1.1,
// GET_MEASUREMENTS and MEASUREMENTS; DSP0274 table "DMTF measurement
// specification format"; field numbers of the opaque data: NVIDIA's open
// attestation tools.
package nvidia

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
)

// Limits of an evidence file. One GPU takes about 12 KiB, a host has up to 16.
const (
	MaxFile    = 8 << 20
	MaxDevices = 64
	// MaxExchange bounds one exchange in bytes; real ones have about 4 KiB.
	MaxExchange = 64 << 10
)

// Sizes and codes of SPDM 1.1, in bytes.
const (
	requestSize   = 37
	nonceSize     = 32
	signatureSize = 96

	spdm11            = 0x11
	codeGet           = 0xe0
	codeMeasurements  = 0x60
	signRequested     = 1
	dmtfSpecification = 1
)

// File is a parsed evidence file: {"nonce", "arch", "evidence_list":
// [{"certificate", "evidence"}]}, certificate and evidence in base64.
type File struct {
	Nonce   [nonceSize]byte
	Arch    string
	Devices []Device
}

// Device is the evidence of one GPU.
type Device struct {
	CertificatesPEM []byte
	Raw             []byte // request and response as they came
	Exchange        Exchange
}

// Exchange is a GET_MEASUREMENTS request and the MEASUREMENTS response.
type Exchange struct {
	RequestParams  [2]byte
	RequestNonce   [nonceSize]byte
	Slot           byte
	ResponseParams [2]byte
	Blocks         []Block
	ResponseNonce  [nonceSize]byte
	Opaque         []Field
	Signature      [signatureSize]byte // r || s by the leaf over everything before
}

// Block is one measurement.
type Block struct {
	Index byte
	Type  byte // DMTF measurement value type; 1: mutable firmware
	Value []byte
}

// Field is one value of the opaque data.
type Field struct {
	Type  uint16
	Value []byte
}

// The opaque fields that are shown.
const (
	FieldDriver  = 3
	FieldVBIOS   = 6
	FieldBoard   = 14
	FieldChip    = 15
	FieldProject = 17
	FieldFWID    = 20
)

// ParseFile reads an evidence file. name is the file in errors.
func ParseFile(name string, data []byte) (*File, error) {
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: MaxFile, Depth: 16, Values: 10000})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	fail := func(place, found, want string) error {
		return &malformed.Error{Input: name, Place: place, Found: found, Want: want}
	}
	text := func(v *jsondoc.Value, place string) (string, error) {
		if v == nil {
			return "", fail(place, "nothing", "a string")
		}
		if v.Kind != jsondoc.String {
			return "", fail(place, "a value of type "+v.Kind.String(), "a string")
		}
		return v.Text, nil
	}
	f := &File{}
	nonce, err := text(doc.Get("nonce"), "/nonce")
	if err != nil {
		return nil, err
	}
	if err := f.readNonce(nonce); err != nil {
		return nil, fail("/nonce", fmt.Sprintf("%q", nonce), "64 hexadecimal digits")
	}
	if f.Arch, err = text(doc.Get("arch"), "/arch"); err != nil {
		return nil, err
	}
	list := doc.Get("evidence_list")
	if list == nil || list.Kind != jsondoc.Array || len(list.Elems) == 0 || len(list.Elems) > MaxDevices {
		return nil, fail("/evidence_list", "no list", fmt.Sprintf("1 to %d devices", MaxDevices))
	}
	for i, e := range list.Elems {
		var d Device
		for _, m := range []struct {
			key string
			dst *[]byte
		}{{"certificate", &d.CertificatesPEM}, {"evidence", &d.Raw}} {
			place := fmt.Sprintf("/evidence_list/%d/%s", i, m.key)
			s, err := text(e.Get(m.key), place)
			if err != nil {
				return nil, err
			}
			if *m.dst, err = base64.StdEncoding.Strict().DecodeString(s); err != nil {
				return nil, fail(place, err.Error(), "canonical base64")
			}
		}
		x, err := ParseExchange(d.Raw)
		if err != nil {
			return nil, fmt.Errorf("read %s: /evidence_list/%d: %w", name, i, err)
		}
		d.Exchange = *x
		f.Devices = append(f.Devices, d)
	}
	return f, nil
}

func (f *File) readNonce(s string) error {
	if len(s) != 2*nonceSize {
		return fmt.Errorf("%d digits", len(s))
	}
	_, err := hex.Decode(f.Nonce[:], []byte(s))
	return err
}

// cursor walks an exchange; after an error every take is nil.
type cursor struct {
	data []byte
	at   int
	err  error
}

func (c *cursor) fail(at int, field, found, want string) {
	if c.err == nil {
		c.err = &malformed.Error{Input: "SPDM exchange", Place: malformed.Offset(at), Field: field, Found: found, Want: want}
	}
}

func (c *cursor) take(n int, field string) []byte {
	if c.err == nil && n > len(c.data)-c.at {
		c.fail(c.at, field, fmt.Sprintf("%d bytes left", len(c.data)-c.at), fmt.Sprintf("%d bytes", n))
	}
	if c.err != nil {
		return nil
	}
	c.at += n
	return c.data[c.at-n : c.at]
}

func (c *cursor) byte(field string) byte {
	if b := c.take(1, field); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) u16(field string) int {
	if b := c.take(2, field); b != nil {
		return int(binary.LittleEndian.Uint16(b))
	}
	return 0
}

func (c *cursor) want(v byte, field string) {
	at := c.at
	if got := c.byte(field); c.err == nil && got != v {
		c.fail(at, field, fmt.Sprintf("%#02x", got), fmt.Sprintf("%#02x", v))
	}
}

// ParseExchange reads request and response. Nothing is verified.
func ParseExchange(raw []byte) (*Exchange, error) {
	c := &cursor{data: raw}
	if len(raw) > MaxExchange {
		c.fail(0, "size", fmt.Sprintf("%d bytes", len(raw)), fmt.Sprintf("at most %d", MaxExchange))
		return nil, c.err
	}
	x := &Exchange{}
	c.want(spdm11, "request SPDM version")
	c.want(codeGet, "request code")
	copy(x.RequestParams[:], c.take(2, "request parameters"))
	if c.err == nil && x.RequestParams[0]&signRequested == 0 {
		c.fail(2, "request attributes", fmt.Sprintf("%#02x", x.RequestParams[0]), "bit 0 set: a signature is asked for")
	}
	copy(x.RequestNonce[:], c.take(nonceSize, "request nonce"))
	x.Slot = c.byte("slot")

	c.want(spdm11, "response SPDM version")
	c.want(codeMeasurements, "response code")
	copy(x.ResponseParams[:], c.take(2, "response parameters"))
	count := int(c.byte("number of blocks"))
	at := c.at
	size := c.take(3, "measurement record length")
	if c.err != nil {
		return nil, c.err
	}
	record := c.take(int(size[0])|int(size[1])<<8|int(size[2])<<16, "measurement record")
	x.blocks(&cursor{data: raw[:at+3+len(record)], at: at + 3, err: c.err}, count, c)
	copy(x.ResponseNonce[:], c.take(nonceSize, "response nonce"))
	at = c.at + 2
	opaque := c.take(c.u16("opaque length"), "opaque data")
	x.opaque(&cursor{data: raw[:min(len(raw), at+len(opaque))], at: at, err: c.err}, c)
	copy(x.Signature[:], c.take(signatureSize, "signature"))
	if c.err == nil && c.at != len(raw) {
		c.fail(c.at, "end", fmt.Sprintf("%d bytes more", len(raw)-c.at), "the end after the signature")
	}
	if c.err != nil {
		return nil, c.err
	}
	return x, nil
}

func (x *Exchange) blocks(r *cursor, count int, outer *cursor) {
	seen := map[byte]bool{}
	for r.err == nil && r.at < len(r.data) {
		at := r.at
		b := Block{Index: r.byte("block index")}
		r.want(dmtfSpecification, "measurement specification")
		size := r.u16("block size")
		b.Type = r.byte("measurement type")
		n := r.u16("measurement size")
		if r.err == nil && size != n+3 {
			r.fail(at+2, "block size", fmt.Sprint(size), fmt.Sprintf("%d, the measurement and its header", n+3))
		}
		if seen[b.Index] {
			r.fail(at, "block index", fmt.Sprintf("%d again", b.Index), "each index once")
		}
		seen[b.Index] = true
		b.Value = append([]byte{}, r.take(n, "measurement")...)
		x.Blocks = append(x.Blocks, b)
	}
	if r.err == nil && len(x.Blocks) != count {
		r.fail(r.at, "measurement record", fmt.Sprintf("%d blocks", len(x.Blocks)), fmt.Sprintf("%d, as the response states", count))
	}
	if outer.err == nil {
		outer.err = r.err
	}
}

func (x *Exchange) opaque(r *cursor, outer *cursor) {
	for r.err == nil && r.at < len(r.data) {
		f := Field{Type: uint16(r.u16("opaque field type"))}
		f.Value = append([]byte{}, r.take(r.u16("opaque field length"), "opaque field")...)
		x.Opaque = append(x.Opaque, f)
	}
	if outer.err == nil {
		outer.err = r.err
	}
}

// Marshal writes the exchange back: ParseExchange and Marshal give the same
// bytes.
func (x *Exchange) Marshal() []byte {
	return append(x.SignedBytes(), x.Signature[:]...)
}

// SignedBytes is everything before the signature.
func (x *Exchange) SignedBytes() []byte {
	le := binary.LittleEndian
	out := []byte{spdm11, codeGet, x.RequestParams[0], x.RequestParams[1]}
	out = append(append(out, x.RequestNonce[:]...), x.Slot)
	out = append(out, spdm11, codeMeasurements, x.ResponseParams[0], x.ResponseParams[1], byte(len(x.Blocks)))
	var record []byte
	for _, b := range x.Blocks {
		record = append(record, b.Index, dmtfSpecification)
		record = le.AppendUint16(record, uint16(len(b.Value)+3))
		record = append(record, b.Type)
		record = le.AppendUint16(record, uint16(len(b.Value)))
		record = append(record, b.Value...)
	}
	out = append(out, byte(len(record)), byte(len(record)>>8), byte(len(record)>>16))
	out = append(append(out, record...), x.ResponseNonce[:]...)
	var opaque []byte
	for _, f := range x.Opaque {
		opaque = le.AppendUint16(opaque, f.Type)
		opaque = le.AppendUint16(opaque, uint16(len(f.Value)))
		opaque = append(opaque, f.Value...)
	}
	out = le.AppendUint16(out, uint16(len(opaque)))
	return append(out, opaque...)
}

// Field returns an opaque field's value, nil if there is none.
func (x *Exchange) Field(t uint16) []byte {
	for _, f := range x.Opaque {
		if f.Type == t {
			return f.Value
		}
	}
	return nil
}

// Driver is the driver version as text.
func (x *Exchange) Driver() string { return strings.TrimRight(string(x.Field(FieldDriver)), "\x00") }

// VBIOS is the VBIOS version in NVIDIA's notation, "96.00.9F.00.02": the four
// bytes of the low word, then the low byte of the high word.
func (x *Exchange) VBIOS() string {
	v := x.Field(FieldVBIOS)
	if len(v) < 5 {
		return ""
	}
	return fmt.Sprintf("%02X.%02X.%02X.%02X.%02X", v[3], v[2], v[1], v[0], v[4])
}

// Root is the SHA-256 of "NVIDIA Device Identity CA", valid from 2021-11-05, the
// root of every GPU's device certificate.
func Root() digest.Digest {
	d, err := digest.Parse("sha256:102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48")
	if err != nil {
		panic("nvidia: constant root: " + err.Error()) // a constant of this file
	}
	return d
}

func rootPin() certs.Anchors { return certs.Anchors{SHA256: []digest.Digest{Root()}} }
