package policygen

import (
	"fmt"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/imageref"
)

// ImageReference is an image reference after docker's defaults were filled in.
type ImageReference struct {
	Text       string // as the YAML has it
	Registry   string // docker.io where none is named
	Repository string // with library/ in front where docker.io has it so
	Tag        string // latest where neither tag nor digest is given
	Digest     digest.Digest
}

// Pinned reports whether the reference names its image by digest.
func (r ImageReference) Pinned() bool { return r.Digest != (digest.Digest{}) }

// String is the full reference.
func (r ImageReference) String() string {
	s := r.Registry + "/" + r.Repository
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Pinned() {
		s += "@" + r.Digest.String()
	}
	return s
}

// ParseImageReference reads an image reference as genpolicy does: the house's
// grammar with that one's quirks.
func ParseImageReference(text string) (ImageReference, error) {
	ref, err := imageref.ParseGenpolicy(text)
	r := ImageReference{Text: text, Registry: ref.Registry, Repository: ref.Repository, Tag: ref.Tag, Digest: ref.Digest}
	if err != nil {
		return r, fmt.Errorf("%q is no image reference: want [registry/]name[:tag][@sha256:digest] in lower case: %w", clip(text), err)
	}
	return r, nil
}
