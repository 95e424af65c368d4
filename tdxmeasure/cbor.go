package tdxmeasure

import (
	"encoding/binary"
	"fmt"
)

// A reader of the small part of CBOR (RFC 8949) that dstack's measurement
// document uses: unsigned integers, byte and text strings and maps with text
// keys, all of definite length.
type cborValue struct {
	kind  byte // 0 uint, 2 bytes, 3 text, 5 map
	num   uint64
	bytes []byte
	vals  map[string]cborValue
}

const (
	maxCBORDepth   = 8
	maxCBORMembers = 64
)

func parseCBOR(b []byte) (cborValue, error) {
	v, rest, err := readCBOR(b, 0)
	if err != nil {
		return v, fmt.Errorf("offset %#x: %w", len(b)-len(rest), err)
	}
	if len(rest) > 0 {
		return v, fmt.Errorf("offset %#x: %d bytes behind the document", len(b)-len(rest), len(rest))
	}
	return v, nil
}

func readCBOR(b []byte, depth int) (cborValue, []byte, error) {
	if depth > maxCBORDepth {
		return cborValue{}, b, fmt.Errorf("nested deeper than %d", maxCBORDepth)
	}
	major, n, rest, err := cborHead(b)
	if err != nil {
		return cborValue{}, b, err
	}
	v := cborValue{kind: major, num: n}
	switch major {
	case 0:
		return v, rest, nil
	case 2, 3:
		if n > uint64(len(rest)) {
			return v, b, fmt.Errorf("string of %d bytes, %d are left", n, len(rest))
		}
		v.bytes = rest[:n]
		return v, rest[n:], nil
	case 5:
		if n > maxCBORMembers {
			return v, b, fmt.Errorf("map of %d members, want at most %d", n, maxCBORMembers)
		}
		v.vals = map[string]cborValue{}
		for range n {
			key, after, err := readCBOR(rest, depth+1)
			if err != nil {
				return v, after, err
			}
			if key.kind != 3 {
				return v, rest, fmt.Errorf("map key of kind %d, want text", key.kind)
			}
			if _, twice := v.vals[string(key.bytes)]; twice {
				return v, rest, fmt.Errorf("second member %.40q", key.bytes)
			}
			val, end, err := readCBOR(after, depth+1)
			if err != nil {
				return v, end, err
			}
			v.vals[string(key.bytes)] = val
			rest = end
		}
		return v, rest, nil
	default:
		return v, b, fmt.Errorf("value of kind %d, want an integer, a string or a map", major)
	}
}

func cborHead(b []byte) (major byte, n uint64, rest []byte, err error) {
	if len(b) == 0 {
		return 0, 0, b, fmt.Errorf("cut short")
	}
	major, info := b[0]>>5, b[0]&0x1f
	size := 0
	switch {
	case info < 24:
		return major, uint64(info), b[1:], nil
	case info <= 27:
		size = 1 << (info - 24)
	default:
		return 0, 0, b, fmt.Errorf("length form %d, want a definite length", info)
	}
	if len(b) < 1+size {
		return 0, 0, b, fmt.Errorf("cut short")
	}
	var full [8]byte
	copy(full[8-size:], b[1:1+size])
	return major, binary.BigEndian.Uint64(full[:]), b[1+size:], nil
}

// member returns a member of a map, which must be of a kind.
func (v cborValue) member(path string, kind byte) (cborValue, error) {
	m, ok := v.vals[path]
	if !ok {
		return m, fmt.Errorf("no member %s", path)
	}
	if m.kind != kind {
		return m, fmt.Errorf("member %s is of kind %d, want %d", path, m.kind, kind)
	}
	return m, nil
}
