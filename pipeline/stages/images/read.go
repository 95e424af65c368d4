package images

import (
	"context"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/pipeline"
)

// ReadAll recounts images, each from its layout, archive or registry.
func ReadAll(ctx context.Context, sources []string, opts imagehash.Options) ([]*imagehash.Report, error) {
	var reports []*imagehash.Report
	for _, src := range sources {
		rep, err := imagehash.VerifyRef(ctx, src, opts)
		if err != nil {
			return nil, &pipeline.InputError{Op: "read image", File: src, Err: err}
		}
		reports = append(reports, rep)
	}
	return reports, nil
}

// Diff says why two images differ.
func Diff(ctx context.Context, a, b string, o imagehash.DiffOptions) (*imagehash.Difference, error) {
	var sides [2]*imagehash.Source
	for i, ref := range []string{a, b} {
		src, err := imagehash.Open(ctx, ref, o.Options)
		if err != nil {
			return nil, &pipeline.InputError{Op: "read image", File: ref, Err: err}
		}
		defer src.Close()
		sides[i] = src
	}
	d, err := imagehash.Diff(ctx, sides[0], sides[1], o)
	if err != nil {
		return nil, &pipeline.InputError{Op: "compare images", File: a + " and " + b, Err: err}
	}
	return d, nil
}
