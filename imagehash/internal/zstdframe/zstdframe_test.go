package zstdframe_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/retally/retally/imagehash/internal/zstdframe"
)

func compress(t testing.TB, p []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, opts...)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(p)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func scan(p []byte, piece int, window uint64) (zstdframe.Info, error) {
	s := zstdframe.NewScanner(window)
	for len(p) > 0 {
		n := min(piece, len(p))
		if _, err := s.Write(p[:n]); err != nil {
			return s.Info(), err
		}
		p = p[n:]
	}
	return s.Info(), s.Close()
}

func TestScan(t *testing.T) {
	big := bytes.Repeat([]byte("some content, "), 200_000)
	one := compress(t, big, zstd.WithWindowSize(1<<20))
	skip := []byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'}
	all := bytes.Join([][]byte{skip, one, compress(t, []byte("x")), skip, compress(t, nil, zstd.WithZeroFrames(true))}, nil)
	info, err := scan(all, 7, 8<<20)
	if err != nil || info.Frames != 3 || info.Skippable != 2 || info.First.Window != 1<<20 || info.MaxWindow != 8<<20 {
		t.Errorf("got %+v, %v", info, err)
	}
	for _, tt := range []struct {
		name   string
		in     []byte
		window uint64
		want   zstdframe.Kind
	}{
		{"empty", nil, 8 << 20, zstdframe.Truncated},
		{"text", []byte("this is no zstd"), 8 << 20, zstdframe.Corrupt},
		{"cut", one[:len(one)-1], 8 << 20, zstdframe.Truncated},
		{"cut in the magic of a second frame", append(bytes.Clone(one), one[:3]...), 8 << 20, zstdframe.Trailing},
		{"trailing", append(bytes.Clone(one), "more"...), 8 << 20, zstdframe.Trailing},
		{"window", one, 1<<20 - 1, zstdframe.Window},
		{"reserved bit", []byte{0x28, 0xb5, 0x2f, 0xfd, 8, 0}, 8 << 20, zstdframe.Corrupt},
		{"dictionary", []byte{0x28, 0xb5, 0x2f, 0xfd, 0x21, 7, 0, 0}, 8 << 20, zstdframe.Dictionary},
		{"reserved block", []byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 6, 0, 0}, 8 << 20, zstdframe.Corrupt},
		{"single segment larger than the window", []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 1}, 8 << 20, zstdframe.Window},
	} {
		_, err := scan(tt.in, 3, tt.window)
		var e *zstdframe.Error
		if !errors.As(err, &e) || e.Kind != tt.want {
			t.Errorf("%s: got %v, want kind %d", tt.name, err, tt.want)
		}
	}
}

// FuzzScan: pieces of any size give the same, and what the decoder takes whole
// the scanner takes too, but for the things that it is there to refuse.
func FuzzScan(f *testing.F) {
	f.Add(compress(f, []byte("hello hello hello hello")), 5)
	f.Add(compress(f, bytes.Repeat([]byte("abc"), 5000), zstd.WithEncoderLevel(zstd.SpeedBestCompression)), 100)
	f.Fuzz(func(t *testing.T, p []byte, piece int) {
		whole, err := scan(p, len(p)+1, 8<<20)
		parts, err2 := scan(p, piece&255+1, 8<<20)
		if (err == nil) != (err2 == nil) || whole != parts && err == nil {
			t.Fatalf("in pieces: %+v %v, whole: %+v %v", parts, err2, whole, err)
		}
		if err == nil || len(p) == 0 {
			return
		}
		var e *zstdframe.Error
		if !errors.As(err, &e) {
			t.Fatalf("untyped error %v", err)
		}
		if e.Kind != zstdframe.Trailing && e.Kind != zstdframe.Truncated {
			return
		}
		d, derr := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(16<<20))
		if derr != nil {
			t.Fatal(derr)
		}
		defer d.Close()
		if _, derr := d.DecodeAll(p, nil); derr == nil {
			t.Fatalf("refused with %v, the decoder takes it", err)
		}
	})
}
