package published

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/nix/nar"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
)

// BuiltKeys are the keys of what was built for an image: where it lies in the
// store, and the hash of its bytes as Nix hashes trees.
func BuiltKeys(image string) (output, hash pipeline.Key) {
	return pipeline.NewKey("nix", image, "output"), pipeline.NewKey("nix", image, "nar")
}

// BuiltImage is where the bytes of an image lie that was built in this run, and
// the key that they are known by; "" where there is none.
func BuiltImage(in *run.In, image string) (path string, hash pipeline.Key) {
	output, hash := BuiltKeys(image)
	m, ok := in.Get(output)
	if !ok || in.Config.Nix == nil {
		return "", hash
	}
	return filepath.Join(in.Path(in.Config.Nix.Store), filepath.FromSlash(m.Value.String())), hash
}

// StillBuilt reads a built image once more and holds it against the hash that it
// had when it was built.
func StillBuilt(ctx context.Context, in *run.In, image, path string) error {
	_, hash := BuiltKeys(image)
	m, _ := in.Get(hash)
	tree, err := nar.Hash(ctx, path, nar.Options{})
	if err != nil {
		return err
	}
	if d, err := digest.FromBytes(digest.SHA256, tree.SHA256[:]); err != nil || !m.Value.Equal(pipeline.OfDigest(d)) {
		return errors.New("changed after it was built")
	}
	return nil
}
