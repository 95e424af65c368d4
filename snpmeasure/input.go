package snpmeasure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/place"
)

// Input is one artifact: a name for traces and errors, and its bytes. The
// bytes are never changed and never held whole. An Input without reader and
// digest is absent.
type Input struct {
	Name string
	R    io.ReaderAt
	Size int64
	// Known is the SHA-256 of the whole file where it is known without the
	// bytes. It serves for a kernel or an initrd; a firmware must be there.
	Known digest.Digest
}

// Bytes makes an Input of bytes in memory.
func Bytes(name string, data []byte) Input {
	return Input{Name: name, R: bytes.NewReader(data), Size: int64(len(data))}
}

// Present reports whether the input was given, as bytes or as a digest.
func (in Input) Present() bool { return in.R != nil || !in.Known.IsZero() }

// Kinds of fault that callers tell apart with errors.Is. Each is the reason
// below a *place.Fault with the place; the firmware's own are *ovmf.Error.
var (
	ErrNoHashesSection = errors.New("a kernel is given, but the SEV metadata has no section for kernel hashes")
	ErrNoHashesTable   = errors.New("a kernel is given, but the firmware does not look at kernel hashes")
	ErrHashesPlace     = errors.New("the table of kernel hashes does not fit into its page")
	ErrNoResetBlock    = errors.New("the firmware has no SEV-ES reset block")
	ErrResetZero       = errors.New("the firmware gives no start address for a second CPU")
	ErrNoSVSMInfo      = errors.New("the SVSM file has no SVSM info")
	ErrPageSize        = errors.New("only whole pages of 4096 bytes are measured")
	ErrSectionType     = errors.New("unknown type of section")
	ErrTooLarge        = errors.New("more guest memory than below 4 GiB")
	ErrSetting         = errors.New("the settings do not describe a machine")
	ErrReleases        = errors.New("the list of releases is malformed")
	ErrNoMetadata      = errors.New("the firmware has no SEV metadata")
)

// fault is an input or setting that cannot be measured.
func fault(where place.Where, field, found, want, hint string, kind error) *place.Fault {
	return &place.Fault{Op: "measure", Where: where, Field: field, Found: found, Want: want, Hint: hint, Err: kind}
}

// setting is a fault of a machine's description.
func setting(field, found, want, hint string) *place.Fault {
	return fault(place.Where{}, field, found, want, hint, ErrSetting)
}

const chunk = 64 << 10 // whole pages; small enough for the processor's own memory

// each calls f with the input's bytes in pieces of at most chunk bytes, all but
// the last of exactly that. Fewer bytes than promised are an error.
func (in Input) each(ctx context.Context, f func(piece []byte)) error {
	buf := make([]byte, min(chunk, in.Size))
	for offset := int64(0); offset < in.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(int64(len(buf)), in.Size-offset)]
		n, err := in.R.ReadAt(b, offset)
		if n < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read %s: offset %#x: %w", in.Name, offset+int64(n), err)
		}
		f(b)
		offset += int64(n)
	}
	return nil
}

// sum256 hashes the whole input, unless its digest is known.
func (in Input) sum256(ctx context.Context) (digest.Digest, error) {
	if !in.Known.IsZero() {
		if in.Known.Algorithm() != digest.SHA256 {
			return digest.Digest{}, fault(place.InFile(in.Name), "known digest", in.Known.Algorithm().String(), "sha256", "give sha256:HEX", ErrSetting)
		}
		return in.Known, nil
	}
	h := digest.SHA256.New()
	if err := in.each(ctx, func(b []byte) { h.Write(b) }); err != nil {
		return digest.Digest{}, err
	}
	return digest.FromHash(digest.SHA256, h), nil
}
