package imagehash_test

import (
	"context"
	"fmt"

	"github.com/retally/retally/imagehash"
)

func ExampleVerifyRef() {
	ctx := context.Background()
	for _, ref := range []string{"testdata/ok-gzip-single.tar", "testdata/bad-diffid.tar"} {
		r, err := imagehash.VerifyRef(ctx, ref, imagehash.Options{})
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(r.Kind, r.Images[0].Digest)
		for _, p := range r.AllProblems() {
			fmt.Println("refused:", p.Code)
		}
	}
	// Output:
	// oci-archive sha256:9b92ab39c1ad68633a654edd58be1249cf76e409dcc63512d15b709d04673985
	// oci-archive sha256:db66c5b2573ce6e40cb801216c6433ff257f9b6369e8c6fd1645f988d3c54645
	// refused: diffid-mismatch
}

func ExampleDiff() {
	ctx := context.Background()
	a, err := imagehash.Open(ctx, "testdata/ok-gzip-single.tar", imagehash.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer a.Close()
	b, err := imagehash.Open(ctx, "testdata/diff-mtime.tar", imagehash.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()
	d, err := imagehash.Diff(ctx, a, b, imagehash.DiffOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range d.Causes {
		fmt.Println(c.Path, c.Kind, c.Expected, "->", c.Actual, c.Standing)
	}
	fmt.Println("proved:", d.Proved)
	// Output:
	// [layer 0 bin/app] mtime 0 (1970-01-01T00:00:00Z) -> 5 (1970-01-01T00:00:05Z) proved
	// proved: true
}
