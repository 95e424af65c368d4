package policygen

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/retally/retally/internal/digest"
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

// The grammar of github.com/distribution/reference, written out.
var referencePattern = regexp.MustCompile(`^((?:` +
	`(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*(?::[0-9]+)?/)?` +
	`[a-z0-9]+(?:(?:[._]|__|-*)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-*)[a-z0-9]+)*)*)` +
	`(?::([0-9A-Za-z_][0-9A-Za-z_.-]{0,127}))?` +
	`(?:@([A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?$`)

// ParseImageReference reads an image reference.
func ParseImageReference(text string) (ImageReference, error) {
	r := ImageReference{Text: text, Registry: "docker.io"}
	if len(text) > 1024 {
		return r, fmt.Errorf("image reference of %d bytes", len(text))
	}
	m := referencePattern.FindStringSubmatch(text)
	if m == nil {
		return r, fmt.Errorf("%q is no image reference: want [registry/]name[:tag][@sha256:digest] in lower case", clip(text))
	}
	r.Repository, r.Tag = m[1], m[2]
	if len(m[1]) > 255 {
		return r, fmt.Errorf("image name of %d bytes, the limit is 255", len(m[1]))
	}
	if m[3] != "" {
		d, err := digest.Parse(m[3])
		if err != nil {
			return r, fmt.Errorf("image reference %q: %w", clip(text), err)
		}
		r.Digest = d
	}
	if first, rest, ok := strings.Cut(m[1], "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		r.Registry, r.Repository = first, rest
	}
	if r.Registry == "index.docker.io" {
		r.Registry = "docker.io"
	}
	if r.Registry == "docker.io" && !strings.Contains(r.Repository, "/") {
		r.Repository = "library/" + r.Repository
	}
	if strings.ToLower(r.Repository) != r.Repository {
		return r, fmt.Errorf("%q is no image reference: upper-case letters in the name", clip(text))
	}
	if r.Tag == "" && m[3] == "" {
		r.Tag = "latest"
	}
	return r, nil
}
