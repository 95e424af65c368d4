package snpreport

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/retally/retally/evidence/malformed"
)

// protobufReport is the first byte of an Attestation of go-sev-guest
// (proto/sevsnp.proto): field 1, length-delimited.
const protobufReport = 1<<3 | byte(protowire.BytesType)

// message reads the fields of a protobuf message. A field twice is an error:
// the format lets the last one win, and two readers need not agree.
type message struct {
	name, at string
	numbers  map[protowire.Number]uint64
	blobs    map[protowire.Number][]byte
}

func readMessage(name, at string, data []byte, last protowire.Number) (*message, error) {
	m := &message{name, at, map[protowire.Number]uint64{}, map[protowire.Number][]byte{}}
	seen := map[protowire.Number]bool{}
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return nil, m.fail("tag", protowire.ParseError(n).Error(), "a field")
		}
		data = data[n:]
		field := fmt.Sprintf("field %d", num)
		switch {
		case num > last:
			return nil, m.fail(field, "an unknown field", fmt.Sprintf("at most field %d", last))
		case seen[num]:
			return nil, m.fail(field, "it a second time", "each field once")
		}
		seen[num] = true
		switch typ {
		case protowire.VarintType:
			m.numbers[num], n = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			m.blobs[num], n = protowire.ConsumeBytes(data)
		default:
			return nil, m.fail(field, fmt.Sprintf("wire type %d", typ), "a varint or bytes")
		}
		if n < 0 {
			return nil, m.fail(field, protowire.ParseError(n).Error(), "a value")
		}
		data = data[n:]
	}
	return m, nil
}

func (m *message) fail(field, found, want string) error {
	return &malformed.Error{Input: m.name, Place: m.at, Field: field, Found: found, Want: want}
}

// openProtobuf reads an Attestation: report, certificate chain, and the product,
// which is the sender's word and not used.
func openProtobuf(name string, data []byte) (*Evidence, error) {
	a, err := readMessage(name, "Attestation", data, 3)
	if err != nil {
		return nil, err
	}
	raw, err := protobufFields(name, a.blobs[1])
	if err != nil {
		return nil, err
	}
	e := &Evidence{Form: FormProtobuf}
	if e.Report, err = Parse(raw); err != nil {
		return nil, err
	}
	chain, err := readMessage(name, "CertificateChain", dropExtras(a.blobs[2]), 7)
	if err != nil {
		return nil, err
	}
	for _, c := range []struct {
		n    protowire.Number
		guid string
	}{{1, guidVCEK}, {6, guidVLEK}, {2, guidASK}, {3, guidARK}} {
		if len(chain.blobs[c.n]) == 0 {
			continue
		}
		if err := e.Certificates.addEntry(name+" CertificateChain", c.guid, chain.blobs[c.n]); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// dropExtras leaves out the entries of the map "extras" (field 7), the one field
// that may come more than once; nothing is judged by them.
func dropExtras(data []byte) []byte {
	const extras = 7
	var out []byte
	for rest := data; len(rest) > 0; {
		num, _, n := protowire.ConsumeField(rest)
		if n < 0 {
			return data // readMessage says what is wrong
		}
		if num != extras {
			out = append(out, rest[:n]...)
		}
		rest = rest[n:]
	}
	return out
}

// protobufFields puts the report's bytes together.
func protobufFields(name string, data []byte) ([]byte, error) {
	const cpuid = 29
	m, err := readMessage(name, "Report", data, 31)
	if err != nil {
		return nil, err
	}
	raw := make([]byte, Size)
	numbers := map[protowire.Number]field{
		1: {0, 4}, 2: {4, 4}, 3: {8, 8}, 6: {0x30, 4}, 7: {0x34, 4}, 8: {0x38, 8}, 9: {0x40, 8}, 10: {0x48, 4}, 18: {0x180, 8}, 20: {0x1e0, 8},
		21: {0x1e8, 1}, 22: {0x1e9, 1}, 23: {0x1ea, 1}, 24: {0x1ec, 1}, 25: {0x1ed, 1}, 26: {0x1ee, 1}, 27: {0x1f0, 8}, 30: {0x1f8, 8}, 31: {0x200, 8},
	}
	blobs := map[protowire.Number]field{
		4: {0x10, 16}, 5: {0x20, 16}, 11: {0x50, 64}, 12: {0x90, 48}, 13: {0xc0, 32}, 14: {0xe0, 48}, 15: {0x110, 48}, 16: {0x140, 32}, 17: {0x160, 32},
		19: {0x1a0, 64}, 28: {signedSize, Size - signedSize},
	}
	for _, n := range slices.Sorted(maps.Keys(m.numbers)) {
		v := m.numbers[n]
		f, ok := numbers[n]
		switch {
		case n == cpuid:
			err = m.processor(raw[0x188:0x18b], v)
		case !ok:
			err = m.fail(fmt.Sprintf("field %d", n), "a varint", "bytes")
		case f.size < 8 && v>>(8*f.size) != 0:
			err = m.fail(fmt.Sprintf("field %d", n), fmt.Sprint(v), fmt.Sprintf("a number of %d bytes", f.size))
		default:
			var b [8]byte
			binary.LittleEndian.PutUint64(b[:], v)
			copy(raw[f.at:f.at+f.size], b[:])
		}
		if err != nil {
			return nil, err
		}
	}
	for _, n := range slices.Sorted(maps.Keys(m.blobs)) {
		v := m.blobs[n]
		f, ok := blobs[n]
		if !ok || len(v) != f.size {
			return nil, m.fail(fmt.Sprintf("field %d", n), fmt.Sprintf("%d bytes", len(v)), fmt.Sprintf("%d bytes", f.size))
		}
		copy(raw[f.at:], v)
	}
	return raw, nil
}

// processor turns CPUID(1).EAX into the report's three bytes (AMD64 Architecture
// Programmer's Manual, volume 3, Fn0000_0001_EAX).
func (m *message) processor(dst []byte, eax uint64) error {
	family, extended := eax>>8&15, eax>>20&255
	if eax&^0x0fff0fff != 0 || family != 15 && extended != 0 || family+extended > 255 {
		return m.fail("cpuid1eax_fms", fmt.Sprintf("%#x", eax), "family, model and stepping of CPUID(1).EAX")
	}
	dst[0], dst[1], dst[2] = byte(family+extended), byte(eax>>12&0xf0|eax>>4&15), byte(eax&15)
	return nil
}
