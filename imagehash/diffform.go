package imagehash

import (
	"context"
	"fmt"
	"io"
	"math/bits"
	"strings"

	"github.com/retally/retally/imagehash/internal/gunzip"
	"github.com/retally/retally/imagehash/internal/recompress"
	"github.com/retally/retally/imagehash/internal/zstdframe"
)

// compressorText names a compressor, or by what can be seen of its work.
func (l diffLayer) compressorText(ctx context.Context, r recompress.Recipe) (string, error) {
	if r.Known() {
		return r.String(), nil
	}
	f, err := l.form(ctx)
	return r.String() + " (" + f + ")", err
}

// withMembers adds the number of members of a gzip file to a compressor that is
// known; of others it is said already.
func withMembers(text string, r recompress.Recipe, members int) string {
	if r.Known() {
		return text + " (" + counted(members, "gzip member") + ")"
	}
	return text
}

// form is what can be seen of a compressed blob without knowing what made it.
func (l diffLayer) form(ctx context.Context) (string, error) {
	r, err := l.open(ctx)
	if err != nil {
		return "", err
	}
	defer r.Close()
	in := &hashingReader{ctx: ctx, r: r}
	if l.packing == packGzip {
		z := gunzip.NewReader(in)
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{z}); err != nil {
			return "", err
		}
		return counted(z.Members(), "gzip member"), nil
	}
	s := zstdframe.NewScanner(1 << 62)
	if _, err := io.CopyBuffer(struct{ io.Writer }{s}, in, make([]byte, chunkSize)); err != nil {
		return "", err
	}
	if err := s.Close(); err != nil {
		return "", err
	}
	info := s.Info()
	words := []string{counted(info.Frames, "zstd frame"), "window " + sizeText(info.MaxWindow)}
	if info.Skippable > 0 {
		words = append(words, counted(info.Skippable, "skippable frame"))
	}
	if info.First.Content >= 0 {
		words = append(words, "content size given")
	} else {
		words = append(words, "no content size")
	}
	if info.First.Checksum {
		words = append(words, "checksum")
	} else {
		words = append(words, "no checksum")
	}
	return strings.Join(words, ", "), nil
}

// counted is a number of things, small ones in words.
func counted(n int, what string) string {
	switch n {
	case 1:
		return "one " + what
	case 2:
		return "two " + what + "s"
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// sizeText is a size in the unit that fits.
func sizeText(n uint64) string {
	if n >= 1<<20 && bits.TrailingZeros64(n) >= 20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	if n >= 1<<10 && bits.TrailingZeros64(n) >= 10 {
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}
