package pcrmeasure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/retally/retally/internal/authenticode"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/place"
)

// Input is one artifact: a name for traces and errors, and its bytes. The
// bytes are never changed and never held whole. An Input without a reader and
// without digests is absent.
type Input struct {
	Name string
	R    io.ReaderAt
	Size int64
	// Known are digests of the whole file where it is known without its bytes,
	// as from a published list; Authenticode likewise those of the image. A bank
	// whose digest is not among them cannot be predicted.
	Known        []digest.Digest
	Authenticode []digest.Digest
	// SignedBy are the certificates (DER) in the signature of an image that is
	// known without its bytes; nil where nothing is known of it, empty where it is
	// known to have no signature.
	SignedBy [][]byte
	// Sections are those of a unified kernel image that is known without its
	// bytes, or of one that was never built.
	Sections []Section
}

// Section is a section of a unified kernel image.
type Section struct {
	Name     string // with its dot
	Contents Input
}

// Bytes makes an Input of bytes in memory.
func Bytes(name string, data []byte) Input {
	return Input{Name: name, R: bytes.NewReader(data), Size: int64(len(data))}
}

// Present reports whether the input was given in some way.
func (in Input) Present() bool {
	return in.R != nil || len(in.Known) > 0 || len(in.Authenticode) > 0 || len(in.Sections) > 0
}

const chunk = 256 << 10

// copyTo writes n bytes from offset to w. Less than that is an error: the
// size was promised.
func (in Input) copyTo(ctx context.Context, w io.Writer, offset, n int64) error {
	buf := make([]byte, min(chunk, n))
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(int64(len(buf)), n)]
		got, err := in.R.ReadAt(b, offset)
		if got < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return &place.Fault{Where: place.InFile(in.Name).At(offset + int64(got)), Err: err}
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		offset += int64(got)
		n -= int64(got)
	}
	return nil
}

// whole reads a small input into memory.
func (in Input) whole(ctx context.Context, limit int64) ([]byte, error) {
	if in.R == nil {
		return nil, missing("the bytes of %s are not given", in.Name)
	}
	if in.Size > limit {
		return nil, &place.Fault{Where: place.InFile(in.Name), Field: "size", Found: fmt.Sprintf("%d bytes", in.Size), Want: fmt.Sprintf("at most %d", limit)}
	}
	var b bytes.Buffer
	err := in.copyTo(ctx, &b, 0, in.Size)
	return b.Bytes(), err
}

// Missing is why a PCR cannot be predicted. It is no fault of an artifact.
type Missing struct{ Reason string }

// Error implements error.
func (m *Missing) Error() string { return m.Reason }

func missing(format string, args ...any) error { return &Missing{fmt.Sprintf(format, args...)} }

func known(in Input, list []digest.Digest, what string, bank digest.Algorithm) (digest.Digest, error) {
	for _, d := range list {
		if d.Algorithm() == bank {
			return d, nil
		}
	}
	return digest.Digest{}, missing("%s is known by other digests than %s %s: give its bytes", in.Name, bank, what)
}

// file hashes an input once.
func (m *Measurer) file(ctx context.Context, what string, in Input, bank digest.Algorithm) (digest.Digest, error) {
	if in.R == nil {
		return known(in, in.Known, "of the file", bank)
	}
	return m.memo.Get("file "+what+" "+bank.String(), func() (digest.Digest, error) {
		return m.run(ctx, in, 0, in.Size, bank)
	})
}

// run hashes a part of an input.
func (m *Measurer) run(ctx context.Context, in Input, offset, n int64, bank digest.Algorithm) (digest.Digest, error) {
	h := bank.New()
	if err := in.copyTo(ctx, h, offset, n); err != nil {
		return digest.Digest{}, err
	}
	return digest.FromHash(bank, h), nil
}

// image hashes an input as firmware hashes an image, once.
func (m *Measurer) image(ctx context.Context, what string, in Input, bank digest.Algorithm) (digest.Digest, error) {
	if in.R == nil {
		return known(in, in.Authenticode, "of the image (Authenticode)", bank)
	}
	return m.memo.Get("image "+what+" "+bank.String(), func() (digest.Digest, error) {
		d, err := authenticode.Digest(ctx, bank, in.R, in.Size, authenticode.Options{})
		return d, inFile(in.Name, err)
	})
}

// inFile names the file in which an error was found.
func inFile(name string, err error) error {
	var m *Missing
	if err == nil || name == "" || errors.As(err, &m) || strings.Contains(err.Error(), name) {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}
