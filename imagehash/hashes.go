package imagehash

import (
	"fmt"
	"path"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
)

// HashesJSON writes the file hashes-HOST.json of Privatemode's
// calculate-image-digests.sh: one flat object from the last part of each
// source's name to the digest of its first image, in the order given, as jq
// prints it. A source that was refused or has no digest is an error.
func HashesJSON(reports []*Report) ([]byte, error) {
	object := jsondoc.NewObject()
	for _, r := range reports {
		if !r.OK() {
			p := r.AllProblems()[0]
			return nil, fmt.Errorf("%s is refused: %s at %s", r.Source, p.Code, p.Place)
		}
		if len(r.Images) == 0 || r.Images[0].Digest.IsZero() {
			return nil, fmt.Errorf("%s has no manifest digest", r.Source)
		}
		name := path.Base(strings.TrimRight(strings.ReplaceAll(r.Source, "\\", "/"), "/"))
		if before, _, ok := strings.Cut(name, "@"); ok {
			name = before
		}
		object.Set(name, jsondoc.NewString(r.Images[0].Digest.String()))
	}
	return jsondoc.JQ.Format(object), nil
}
