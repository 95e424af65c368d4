package check

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Sequenced is a request of a sequence, with its line where it has one.
type Sequenced struct {
	Text []byte
	Line int
}

// Place is where the request stands in a file.
func (r Sequenced) Place(file string) string {
	if r.Line > 0 {
		return fmt.Sprintf("%s:%d", file, r.Line)
	}
	return file
}

// Description is what test cases call a request.
func (r Sequenced) Description() string {
	var d struct {
		Description string `json:"description"`
	}
	if json.Unmarshal(r.Text, &d) != nil {
		return ""
	}
	return d.Description
}

// SplitRequests takes a sequence apart: lines that are JSON objects each, or
// the elements of an array. Everything else is one request.
func SplitRequests(data []byte) []Sequenced {
	trimmed := bytes.TrimSpace(data)
	if bytes.HasPrefix(trimmed, []byte("[")) {
		var list []json.RawMessage
		if json.Unmarshal(trimmed, &list) == nil && len(list) > 0 {
			var out []Sequenced
			for _, e := range list {
				out = append(out, Sequenced{Text: e})
			}
			return out
		}
	}
	var out []Sequenced
	n := 0
	for line := range bytes.Lines(data) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if line[0] != '{' || !json.Valid(line) {
			return []Sequenced{{Text: data}}
		}
		out = append(out, Sequenced{line, n})
	}
	if len(out) < 2 {
		return []Sequenced{{Text: data}}
	}
	return out
}
