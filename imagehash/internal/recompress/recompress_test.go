package recompress_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
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
