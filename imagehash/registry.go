package imagehash

import (
	"context"
	"errors"
	"io"

	"github.com/retally/retally/internal/digest"
)

type Remote struct{}

type registry struct {
	root  descriptor
	name  string
	notes []Problem
}

func openRegistry(ctx context.Context, name, ref string, opts Options) (*Source, error) {
	return nil, errors.ErrUnsupported
}

func (r *registry) stat(d digest.Digest) (*entry, *Problem) { return nil, nil }
func (r *registry) open(ctx context.Context, e *entry, d descriptor) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}
