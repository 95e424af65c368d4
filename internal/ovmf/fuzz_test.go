package ovmf_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/retally/retally/internal/ovmf"
)

// FuzzReadTDVF demands an *Error or sections that keep their promises.
func FuzzReadTDVF(f *testing.F) {
	f.Add(plain(good()).bytes()[60000:])
	small := plain(good())
	small.size, small.back = 256, 0xa0
	f.Add(small.bytes())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		tdvf, err := ovmf.ReadTDVF(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			var typed *ovmf.Error
			if !errors.As(err, &typed) {
				t.Fatalf("error %v has no place", err)
			}
			return
		}
		for i, s := range tdvf.Sections {
			if s.MemoryAddress%4096 != 0 || s.MemorySize%4096 != 0 || s.MemorySize < uint64(s.RawSize) {
				t.Fatalf("section %+v", s)
			}
			if r, err := tdvf.Data(bytes.NewReader(data), i); err == nil && r.Size() != int64(s.RawSize) {
				t.Fatalf("section %d has %d bytes of data, want %d", i, r.Size(), s.RawSize)
			}
		}
	})
}
