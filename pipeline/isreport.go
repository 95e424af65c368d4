package pipeline

import (
	"bytes"
	"encoding/json"
)

// IsReport reports whether a file begins as the JSON form of a report, which
// names its schema first.
func IsReport(head []byte) bool {
	dec := json.NewDecoder(bytes.NewReader(head))
	for _, want := range []json.Token{json.Delim('{'), "schema"} {
		if got, err := dec.Token(); err != nil || got != want {
			return false
		}
	}
	name, err := dec.Token()
	text, ok := name.(string)
	return err == nil && ok && isSchema(text)
}
