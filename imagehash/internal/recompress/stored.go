package recompress

import (
	"encoding/binary"
	"io"
)

// storedWriter makes a deflate stream that compresses nothing: blocks of the
// largest size, the last of them marked as the last (RFC 1951, section 3.2.4).
type storedWriter struct {
	w     io.Writer
	block []byte
}

const storedMost = 1<<16 - 1

func (s *storedWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if len(s.block) == storedMost {
			if err := s.flush(0); err != nil {
				return n - len(p), err
			}
		}
		k := min(len(p), storedMost-len(s.block))
		s.block, p = append(s.block, p[:k]...), p[k:]
	}
	return n, nil
}

// Close writes the last block, which may be empty.
func (s *storedWriter) Close() error { return s.flush(1) }

func (s *storedWriter) flush(last byte) error {
	n := uint16(len(s.block))
	head := binary.LittleEndian.AppendUint16([]byte{last}, n)
	_, err := s.w.Write(append(binary.LittleEndian.AppendUint16(head, ^n), s.block...))
	s.block = s.block[:0]
	return err
}
