package recompress_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os/exec"
	"strings"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/retally/retally/imagehash/internal/recompress"
	"github.com/retally/retally/internal/testenv"
)

func plain() []byte {
	var b bytes.Buffer
	for i := range 40_000 {
		fmt.Fprintf(&b, "%d some text %x of a layer\n", i, i*i*i%9973)
	}
	return b.Bytes()
}

func identify(t *testing.T, f recompress.Format, z []byte) recompress.Recipe {
	t.Helper()
	open := func(p []byte) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(p)), nil }
	}
	r, err := recompress.Identify(t.Context(), f, open(z), open(plain()))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestIdentify(t *testing.T) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, 3)
	if err != nil {
		t.Fatal(err)
	}
	z.Name, z.Comment, z.Extra = "name", "comment", []byte("extra")
	z.Write(plain())
	z.Close()
	if got := identify(t, recompress.Gzip, b.Bytes()); got.String() != "Go compress/flate, level 3" {
		t.Errorf("got %v", got)
	}
	b.Reset()
	k, err := kgzip.NewWriterLevel(&b, 9)
	if err != nil {
		t.Fatal(err)
	}
	k.Write(plain())
	k.Close()
	if got := identify(t, recompress.Gzip, b.Bytes()); got.String() != "klauspost/compress, level 9" {
		t.Errorf("got %v", got)
	}
	b.Reset()
	s, err := zstd.NewWriter(&b, zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		t.Fatal(err)
	}
	s.Write(plain())
	s.Close()
	if got := identify(t, recompress.Zstd, b.Bytes()); got != (recompress.Recipe{Implementation: recompress.Klauspost, Level: 3}) {
		t.Errorf("got %v", got)
	}
	// One changed byte, or one more, is no known compressor's work.
	for _, z := range [][]byte{append(bytes.Clone(b.Bytes()), 0), b.Bytes()[:b.Len()-1]} {
		if got := identify(t, recompress.Zstd, z); got.Known() {
			t.Errorf("got %v for a changed stream", got)
		}
	}
}

// TestIdentifyOther: what no known compressor made is unknown, and no error; what
// is not compressed at all is told.
func TestIdentifyOther(t *testing.T) {
	gz := func(deflate []byte) []byte {
		b := append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}, deflate...)
		b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(plain()))
		return binary.LittleEndian.AppendUint32(b, uint32(len(plain())))
	}
	stored := func(size int) []byte {
		var b []byte
		for rest := plain(); len(rest) > 0; {
			block := rest[:min(size, len(rest))]
			rest = rest[len(block):]
			last := byte(0)
			if len(rest) == 0 {
				last = 1
			}
			b = binary.LittleEndian.AppendUint16(append(b, last), uint16(len(block)))
			b = append(binary.LittleEndian.AppendUint16(b, ^uint16(len(block))), block...)
		}
		return gz(b)
	}
	if got := identify(t, recompress.Gzip, stored(65535)); got.String() != "stored blocks, level 0" {
		t.Errorf("got %v", got)
	}
	for _, size := range []int{1000, 32768, 65534} {
		if got := identify(t, recompress.Gzip, stored(size)); got.Known() {
			t.Errorf("blocks of %d bytes: got %v", size, got)
		}
	}
	if r, err := gzip.NewReader(bytes.NewReader(stored(1000))); err != nil {
		t.Error(err)
	} else if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain()) {
		t.Errorf("the test's own stream is wrong: %v", err)
	}
}

func TestIdentifyZlib(t *testing.T) {
	python := testenv.Oracle(t, "python3")
	cmd := exec.Command(python, "-c", "import sys,gzip; sys.stdout.buffer.write(gzip.compress(sys.stdin.buffer.read(), 4, mtime=0))")
	cmd.Stdin = bytes.NewReader(plain())
	z, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := identify(t, recompress.Gzip, z); got.String() != "zlib, level 4" {
		t.Errorf("got %v", got)
	}
}

func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	open := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(plain()))), nil }
	zipped := func() (io.ReadCloser, error) {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		w.Write(plain())
		w.Close()
		return io.NopCloser(&b), nil
	}
	if _, err := recompress.Identify(ctx, recompress.Gzip, zipped, open); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
}
