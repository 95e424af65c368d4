// Package testpe makes PE images for tests. Only tests import it.
package testpe

import "encoding/binary"

// Image is a PE32+ image with sections of these names and contents: a unified
// kernel image, or any that firmware would start.
func Image(names []string, contents ...[]byte) []byte {
	const align = 512
	le := binary.LittleEndian
	b := make([]byte, 0x40, 4096)
	copy(b, "MZ")
	b[0x3c] = 0x40
	b = append(b, "PE\x00\x00\x64\x86"...)
	b = le.AppendUint16(b, uint16(len(contents)))
	b = append(b, make([]byte, 12)...)
	b = le.AppendUint16(b, 112+16*8)
	b = append(b, 0, 0)
	opt := make([]byte, 112+16*8)
	le.PutUint16(opt, 0x20b)
	le.PutUint32(opt[108:], 16)
	at := (len(b) + len(opt) + 40*len(contents) + align - 1) &^ (align - 1)
	le.PutUint32(opt[60:], uint32(at))
	b = append(b, opt...)
	var data []byte
	for i, c := range contents {
		h := make([]byte, 40)
		copy(h, names[i])
		raw := (len(c) + align - 1) &^ (align - 1)
		le.PutUint32(h[8:], uint32(len(c)))
		le.PutUint32(h[16:], uint32(raw))
		le.PutUint32(h[20:], uint32(at+len(data)))
		b = append(b, h...)
		data = append(data, c...)
		data = append(data, make([]byte, raw-len(c))...)
	}
	b = append(b, make([]byte, at-len(b))...)
	return append(b, data...)
}
