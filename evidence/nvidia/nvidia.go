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
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
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

// File is a parsed evidence file in one of two forms: {"nonce", "arch",
// "evidence_list": [{"certificate", "evidence"}]}, or a list of devices that each
// have nonce and arch of their own. Certificate and evidence are base64. All
// devices answered one nonce.
type File struct {
	Nonce   [nonceSize]byte
	Arch    string // of all devices, "HOPPER", or "HOPPER, LS10" where they differ
	Devices []Device
}

// Switch is the architecture of NVSwitches, which attest as GPUs do.
const Switch = "LS10"

// Device is the evidence of one GPU or switch.
type Device struct {
	Arch            string
	Driver, VBIOS   string // as the file says beside the signed ones; "" where it does not
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
	// Padding counts zero bytes after the signature: NVML hands out a buffer that
	// may be longer than the exchange. Nothing covers them.
	Padding int
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

// IsFile reports whether a document is meant as evidence of NVIDIA devices,
// whatever may be wrong with it.
func IsFile(doc *jsondoc.Value) bool {
	switch {
	case doc == nil:
		return false
	case doc.Kind == jsondoc.Object:
		return doc.Get("evidence_list") != nil
	case doc.Kind == jsondoc.Array && len(doc.Elems) > 0:
		first := doc.Elems[0]
		return first.Get("certificate") != nil && first.Get("evidence") != nil
	}
	return false
}

// ParseFile reads an evidence file. name is the file in errors.
func ParseFile(name string, data []byte) (*File, error) {
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: MaxFile, Depth: 16, Values: 10000})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	r := &fileReader{name: name}
	list, place, single := doc, "", doc.Kind == jsondoc.Array
	if !single {
		list, place = doc.Get("evidence_list"), "/evidence_list"
	}
	if list == nil || list.Kind != jsondoc.Array || len(list.Elems) == 0 || len(list.Elems) > MaxDevices {
		r.fail(place, "no list", fmt.Sprintf("1 to %d devices", MaxDevices))
		return nil, r.err
	}
	var nonce, arch string
	if !single {
		nonce, arch = r.text(doc.Get("nonce"), "/nonce"), r.text(doc.Get("arch"), "/arch")
		r.nonce(nonce, "/nonce")
	}
	f := &File{}
	var arches []string
	for i, e := range list.Elems {
		at := fmt.Sprintf("%s/%d", place, i)
		d := Device{Arch: arch, Driver: r.optional(e, "driver_version", at), VBIOS: r.optional(e, "vbios_version", at)}
		// Each device's own words, which must not contradict those of the file.
		if v := e.Get("arch"); v != nil || single {
			if d.Arch = r.text(v, at+"/arch"); !single && d.Arch != arch {
				r.fail(at+"/arch", fmt.Sprintf("%q", d.Arch), fmt.Sprintf("%q, as /arch", arch))
			}
		}
		if v := e.Get("nonce"); v != nil || single {
			own := r.text(v, at+"/nonce")
			r.nonce(own, at+"/nonce")
			switch {
			case nonce == "":
				nonce = own
			case !strings.EqualFold(own, nonce):
				r.fail(at+"/nonce", fmt.Sprintf("%q", own), fmt.Sprintf("%q, as the devices before: the evidence of one request", nonce))
			}
		}
		d.CertificatesPEM, d.Raw = r.bytes(e, "certificate", at), r.bytes(e, "evidence", at)
		if r.err != nil {
			return nil, r.err
		}
		x, err := ParseExchange(d.Raw)
		if err != nil {
			return nil, fmt.Errorf("read %s: %s: %w", name, at, err)
		}
		d.Exchange = *x
		f.Devices = append(f.Devices, d)
		if !slices.Contains(arches, d.Arch) {
			arches = append(arches, d.Arch)
		}
	}
	f.Nonce, f.Arch = r.nonce(nonce, "/nonce"), strings.Join(arches, ", ")
	return f, r.err
}

// Join puts two evidence files of one machine together: the GPUs' and the switches',
// which NVIDIA's tools write apart. It gives nil where they are not that: two files
// of one kind, or of two requests, do not belong together.
func Join(a, b []byte) []byte {
	x, err := ParseFile("a", a)
	if err != nil {
		return nil
	}
	y, err := ParseFile("b", b)
	if err != nil || x.Nonce != y.Nonce || len(x.Devices)+len(y.Devices) > MaxDevices {
		return nil
	}
	switches := func(f *File) int {
		return len(slices.DeleteFunc(slices.Clone(f.Devices), func(d Device) bool { return d.Arch != Switch }))
	}
	if n, m := switches(x), switches(y); !(n == 0 && m == len(y.Devices) || m == 0 && n == len(x.Devices)) {
		return nil
	}
	if switches(x) > 0 { // the same whatever the order of the files
		x, y = y, x
	}
	list := jsondoc.NewArray()
	for _, d := range slices.Concat(x.Devices, y.Devices) {
		o := jsondoc.NewObject()
		for _, m := range [][2]string{{"arch", d.Arch}, {"certificate", base64.StdEncoding.EncodeToString(d.CertificatesPEM)}, {"evidence", base64.StdEncoding.EncodeToString(d.Raw)}, {"nonce", hex.EncodeToString(x.Nonce[:])}, {"driver_version", d.Driver}, {"vbios_version", d.VBIOS}} {
			if m[1] != "" {
				o.Set(m[0], jsondoc.NewString(m[1]))
			}
		}
		list.Elems = append(list.Elems, o)
	}
	return jsondoc.Style{}.Compact(list)
}

// fileReader takes members; after an error every member is empty.
type fileReader struct {
	name string
	err  error
}

func (r *fileReader) fail(place, found, want string) {
	if r.err == nil {
		r.err = &malformed.Error{Input: r.name, Place: place, Found: found, Want: want}
	}
}

func (r *fileReader) text(v *jsondoc.Value, place string) string {
	switch {
	case v == nil:
		r.fail(place, "nothing", "a string")
	case v.Kind != jsondoc.String:
		r.fail(place, "a value of type "+v.Kind.String(), "a string")
	default:
		return v.Text
	}
	return ""
}

func (r *fileReader) optional(v *jsondoc.Value, key, place string) string {
	if v.Get(key).IsNull() {
		return ""
	}
	return r.text(v.Get(key), place+"/"+key)
}

func (r *fileReader) bytes(v *jsondoc.Value, key, place string) []byte {
	text := r.text(v.Get(key), place+"/"+key)
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		r.fail(place+"/"+key, err.Error(), "canonical base64")
	}
	return b
}

func (r *fileReader) nonce(text, place string) (out [nonceSize]byte) {
	if b, err := hex.DecodeString(text); err != nil || len(b) != nonceSize {
		r.fail(place, fmt.Sprintf("%q", text), "64 hexadecimal digits")
	} else {
		copy(out[:], b)
	}
	return out
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
	if rest := raw[min(c.at, len(raw)):]; c.err == nil {
		if x.Padding = len(rest); len(bytes.Trim(rest, "\x00")) > 0 {
			c.fail(c.at, "end", fmt.Sprintf("%d bytes more", len(rest)), "the end after the signature, or zeros")
		}
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
	return append(append(x.SignedBytes(), x.Signature[:]...), make([]byte, x.Padding)...)
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
