package rawtar

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// checksum compares the header's sum of bytes; old writers summed signed
// bytes, so both count (POSIX.1-1988, section 10.1.1).
func checksum(block *[BlockSize]byte) error {
	want, err := Number(block[148:156])
	if err != nil {
		return fmt.Errorf("no tar header: checksum field %q is no number", block[148:156])
	}
	unsigned, signed := Checksum(block)
	if want != unsigned && want != signed {
		return fmt.Errorf("no tar header: checksum %d, want %d", want, unsigned)
	}
	return nil
}

// Checksum returns the sum of the header's bytes, taken as unsigned and as
// signed numbers, the checksum field counted as spaces.
func Checksum(block *[BlockSize]byte) (unsigned, signed int64) {
	for i, c := range block {
		if i >= 148 && i < 156 {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	return unsigned, signed
}

// Number reads a numeric header field: octal digits with blanks around, or the
// GNU base-256 form (first bit set, big-endian, two's complement). An empty
// field is 0. A number beyond 63 bits comes out negative, as in archive/tar.
func Number(field []byte) (int64, error) {
	if len(field) > 0 && field[0]&0x80 != 0 {
		return base256(field)
	}
	s := strings.Trim(string(field), " \x00")
	if s == "" {
		return 0, nil
	}
	// Some writers leave bytes after the terminating NUL.
	if i := strings.IndexByte(s, 0); i >= 0 {
		s = s[:i]
	}
	n, err := strconv.ParseUint(s, 8, 64)
	if err != nil {
		return 0, fmt.Errorf("field %q is not octal", field)
	}
	return int64(n), nil
}

func base256(field []byte) (int64, error) {
	invert := byte(0)
	if field[0]&0x40 != 0 {
		invert = 0xff
	}
	var x uint64
	for i, c := range field {
		c ^= invert
		if i == 0 {
			c &= 0x7f
		}
		if x>>56 > 0 {
			return 0, fmt.Errorf("field %x passes 63 bits", field)
		}
		x = x<<8 | uint64(c)
	}
	if x>>63 > 0 {
		return 0, fmt.Errorf("field %x passes 63 bits", field)
	}
	if invert == 0xff {
		return ^int64(x), nil
	}
	return int64(x), nil
}

// ParseRecords reads pax records: "%d %s=%s\n", the number counting the whole
// record in bytes (POSIX.1-2001, pax Extended Header).
func ParseRecords(data []byte) ([]Record, error) {
	var out []Record
	for len(data) > 0 {
		sp := bytes.IndexByte(data[:min(len(data), 16)], ' ')
		if sp < 0 {
			return nil, errors.New("pax record without a length")
		}
		n, err := decimal(string(data[:sp]))
		if err != nil || n < int64(sp)+3 || n > int64(len(data)) {
			return nil, fmt.Errorf("pax record of length %q, %d bytes are left", data[:sp], len(data))
		}
		body := data[sp+1 : n]
		data = data[n:]
		if body[len(body)-1] != '\n' {
			return nil, errors.New("pax record does not end in a line feed")
		}
		key, value, ok := strings.Cut(string(body[:len(body)-1]), "=")
		if !ok || key == "" || strings.IndexByte(key, 0) >= 0 {
			return nil, fmt.Errorf("pax record %q is not key=value", clip(string(body)))
		}
		switch key {
		case "path", "linkpath", "uname", "gname", "GNU.sparse.name":
			if strings.IndexByte(value, 0) >= 0 {
				return nil, fmt.Errorf("pax record %s has a NUL in it", key)
			}
		}
		if len(out) >= 4096 {
			return nil, errors.New("more than 4096 pax records")
		}
		out = append(out, Record{key, value})
	}
	return out, nil
}

func decimal(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is no decimal number", clip(s))
	}
	return int64(n), nil
}

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

func zero(p []byte) bool {
	for len(p) >= len(zeros) {
		if !bytes.Equal(p[:len(zeros)], zeros[:]) {
			return false
		}
		p = p[len(zeros):]
	}
	return bytes.Equal(p, zeros[:len(p)])
}

var zeros [4096]byte

func clip(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
