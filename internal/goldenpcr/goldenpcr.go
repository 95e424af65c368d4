// Package goldenpcr reads golden measurements: the PCR values that a release says
// a machine must show, in the form of BlindLlama's client (mithril-security/
// blind_llama, docs of version 2).
package goldenpcr

import (
	"fmt"
	"strconv"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/place"
)

const (
	maxBytes = 64 << 10
	pcrs     = 24
	member   = "measurements"
)

// Golden are SHA-256 values of PCRs, by index.
type Golden map[int]digest.Digest

// Parse reads {"measurements": {"4": "<64 hex digits>"}}. Anything else in it is
// refused, a PCR twice, too. An empty list is read and not nil: what compares with
// it compares nothing, and must say so. name is the file in errors, which are
// *place.Fault where the JSON as such can be read.
func Parse(name string, data []byte) (Golden, error) {
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: maxBytes, Depth: 4, Values: 200})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	bad := func(v *jsondoc.Value, pointer, found, want string) error {
		line, column := jsondoc.Position(data, v.Offset)
		return &place.Fault{Input: "golden measurements", Where: place.Where{File: name, Line: line, Column: column, Pointer: pointer}, Found: found, Want: want}
	}
	if doc.Kind != jsondoc.Object {
		return nil, bad(doc, "/", "a "+doc.Kind.String(), "an object with the member "+member)
	}
	for _, m := range doc.Members {
		if m.Key != member {
			return nil, bad(m.Value, "/"+jsondoc.EscapePointer(m.Key), fmt.Sprintf("the member %.40q", m.Key), member+" alone")
		}
	}
	list := doc.Get(member)
	if list == nil || list.Kind != jsondoc.Object {
		return nil, bad(doc, "/"+member, "none", "an object with a value for each PCR")
	}
	g := Golden{}
	for _, m := range list.Members {
		pointer := "/" + member + "/" + jsondoc.EscapePointer(m.Key)
		n, err := strconv.Atoi(m.Key)
		if err != nil || n < 0 || n >= pcrs || strconv.Itoa(n) != m.Key {
			return nil, bad(m.Value, pointer, fmt.Sprintf("the PCR %.40q", m.Key), fmt.Sprintf("0 to %d", pcrs-1))
		}
		if m.Value.Kind != jsondoc.String {
			return nil, bad(m.Value, pointer, "a "+m.Value.Kind.String(), "64 hex digits")
		}
		if g[n], err = digest.ParseHex(digest.SHA256, m.Value.Text); err != nil {
			return nil, bad(m.Value, pointer, err.Error(), "64 hex digits")
		}
	}
	return g, nil
}
