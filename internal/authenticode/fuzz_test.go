package authenticode_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/retally/retally/internal/authenticode"
	"github.com/retally/retally/internal/digest"
)

// FuzzParse demands that what is hashed lies in the file and is bounded by it.
func FuzzParse(f *testing.F) {
	f.Add(image{plus: true, headers: 0x400, dirs: 16, size: 0x810, sections: [][2]uint32{{0x400, 0x400}}}.bytes())
	f.Add(image{headers: 0x200, dirs: 3, size: 0x300, sections: [][2]uint32{{0x200, 0x10}, {0x210, 0}}}.bytes())
	f.Add(image{plus: true, headers: 0x400, dirs: 16, size: 0x840, cert: 64}.bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		r, size := bytes.NewReader(data), int64(len(data))
		l, err := authenticode.Parse(r, size, authenticode.Options{PadTo8: true})
		if err != nil {
			return
		}
		var total int64
		for _, run := range l.Ranges {
			if run.Size <= 0 || run.Offset < 0 || run.Offset+run.Size > size {
				t.Fatalf("range %+v outside the file of %d bytes", run, size)
			}
			total += run.Size
		}
		if total > 4*size {
			t.Fatalf("%d bytes hashed of a file of %d", total, size)
		}
		if _, err := authenticode.Digest(context.Background(), digest.SHA256, r, size, authenticode.Options{PadTo8: true}); err != nil {
			t.Fatal(err)
		}
	})
}
