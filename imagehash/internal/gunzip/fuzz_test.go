package gunzip_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"

	"github.com/retally/retally/imagehash/internal/gunzip"
)

// FuzzRead compares with compress/gzip: the same bytes, and an error on both
// sides or on neither. Only reserved flags are taken differently: RFC 1952,
// section 2.3.1.2 wants an error, compress/gzip gives none.
func FuzzRead(f *testing.F) {
	for i, kind := range []string{"noise", "text", "runs", "mix"} {
		for _, level := range []int{-2, 0, 1, 6} {
			f.Add(compressors[0].do(f, level, sample(kind, 700*i, uint64(i))))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := io.ReadAll(io.LimitReader(gunzip.NewReader(bytes.NewReader(in)), 8<<20))
		var want []byte
		r, werr := gzip.NewReader(bytes.NewReader(in))
		if werr == nil {
			want, werr = io.ReadAll(io.LimitReader(r, 8<<20))
		}
		if err != nil && strings.Contains(err.Error(), "reserved flags") {
			return
		}
		if (err == nil) != (werr == nil) {
			t.Fatalf("got error %v, compress/gzip has %v", err, werr)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Fatalf("got %d bytes, compress/gzip %d", len(got), len(want))
		}
	})
}

// FuzzDeflate makes the fuzzer's bytes the compressed data itself behind a
// valid header, so that it need not find one.
func FuzzDeflate(f *testing.F) {
	for _, level := range []int{-2, 0, 1, 6} {
		z := compressors[0].do(f, level, sample("mix", 3000, 9))
		f.Add(z[10 : len(z)-8])
	}
	header := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0}
	f.Fuzz(func(t *testing.T, in []byte) {
		in = append(bytes.Clone(header), in...)
		got := make([]byte, gunzip.History+256<<10)
		n, err := gunzip.NewReader(bytes.NewReader(in)).Fill(got)
		r, werr := gzip.NewReader(bytes.NewReader(in))
		if werr != nil {
			t.Fatal(werr)
		}
		want, werr := io.ReadAll(io.LimitReader(r, 1<<20))
		if err == nil || err == io.EOF {
			if len(want) < n || !bytes.Equal(got[gunzip.History:gunzip.History+n], want[:n]) {
				t.Fatalf("got %d bytes that compress/gzip does not give (%d, %v)", n, len(want), werr)
			}
		} else if werr == nil {
			t.Fatalf("got error %v, compress/gzip has none", err)
		}
	})
}
