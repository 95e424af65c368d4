package imagehash

import (
	"fmt"
	"path"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
)

// HashesJSON writes the file hashes-HOST.json of Privatemode's
// calculate-image-digests.sh: one flat object from the last part of each
// source's name to the digest of its image, in the order given, as jq prints
// it. A source that was refused, has no digest or several images, and two
// sources of one name are errors: a line must not depend on chance.
func HashesJSON(reports []*Report) ([]byte, error) {
	object := jsondoc.NewObject()
	for _, r := range reports {
		if !r.OK() {
			p := r.AllProblems()[0]
			return nil, fmt.Errorf("%s is refused: %s at %s", r.Source, p.Code, p.Place)
		}
		if !r.Complete() {
			return nil, fmt.Errorf("%s has parts that were not checked, %s", r.Source, Unchecked(r.Images))
		}
		image, err := r.Choose("")
		if err != nil {
			return nil, err
		}
		if image.Digest.IsZero() {
			return nil, fmt.Errorf("%s has no manifest digest", r.Source)
		}
		name := path.Base(strings.TrimRight(strings.ReplaceAll(r.Source, "\\", "/"), "/"))
		if before, _, ok := strings.Cut(name, "@"); ok {
			name = before
		}
		if object.Index(name) >= 0 {
			return nil, fmt.Errorf("two sources are called %s", name)
		}
		object.Set(name, jsondoc.NewString(image.Digest.String()))
	}
	return jsondoc.JQ.Format(object), nil
}
