package policygen

import (
	"fmt"

	"github.com/retally/retally/internal/jsondoc"
)

// ApplyPatch applies a JSON patch (RFC 6902) to a JSON document, all or
// nothing.
func ApplyPatch(doc, patch []byte) ([]byte, error) {
	d, err := jsondoc.Parse(doc, jsondoc.Limits{})
	if err != nil {
		return nil, fmt.Errorf("apply patch: document: %w", err)
	}
	p, err := jsondoc.Parse(patch, jsondoc.Limits{})
	if err != nil {
		return nil, fmt.Errorf("apply patch: %w", err)
	}
	if d, err = applyPatch(d, p); err != nil {
		return nil, fmt.Errorf("apply patch: %w", err)
	}
	return jsondoc.Style{}.Compact(d), nil
}
