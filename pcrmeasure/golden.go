package pcrmeasure

import (
	"fmt"
	"strconv"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/place"
)

// Golden are golden measurements: values of the bank SHA-256 by PCR.
type Golden map[int]digest.Digest

// ParseGolden reads golden measurements in BlindLlama's form:
// {"measurements": {"4": "<64 hex digits>"}} (mithril-security/blind_llama,
// docs of version 2). A file without any is an error: it would agree with every
// machine.
func ParseGolden(name string, data []byte) (Golden, error) {
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: 1 << 20})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	bad := func(v *jsondoc.Value, pointer, found, want string) error {
		line, column := jsondoc.Position(data, v.Offset)
		return &place.Fault{Input: "golden measurements", Where: place.Where{File: name, Line: line, Column: column, Pointer: pointer}, Found: found, Want: want}
	}
	if doc.Kind != jsondoc.Object {
		return nil, bad(doc, "/", "a "+doc.Kind.String(), "an object with the member measurements")
	}
	for _, m := range doc.Members {
		if m.Key != "measurements" {
			return nil, bad(m.Value, "/"+jsondoc.EscapePointer(m.Key), fmt.Sprintf("the member %.40q", m.Key), "measurements alone")
		}
	}
	list := doc.Get("measurements")
	if list == nil || list.Kind != jsondoc.Object || len(list.Members) == 0 {
		return nil, bad(doc, "/measurements", "none", "an object with a value for each PCR")
	}
	g := Golden{}
	for _, m := range list.Members {
		pointer := "/measurements/" + jsondoc.EscapePointer(m.Key)
		n, err := strconv.Atoi(m.Key)
		if err != nil || n < 0 || n >= Count || strconv.Itoa(n) != m.Key {
			return nil, bad(m.Value, pointer, fmt.Sprintf("the PCR %.40q", m.Key), fmt.Sprintf("0 to %d", Count-1))
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
