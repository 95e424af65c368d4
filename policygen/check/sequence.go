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

// SplitRequests takes a sequence apart: JSON objects one after the other, or the
// elements of an array. Everything else is one request.
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
	if len(trimmed) == 0 || trimmed[0] != '{' {
		return []Sequenced{{Text: data}}
	}
	// Objects one after the other, on one line each or on several. What follows
	// a sequence is one more that cannot be read: it is not left out.
	var out []Sequenced
	rest, line := data, 1
	for {
		space := len(rest) - len(bytes.TrimLeft(rest, " \t\r\n"))
		line += bytes.Count(rest[:space], []byte("\n"))
		if rest = rest[space:]; len(rest) == 0 {
			break
		}
		var one json.RawMessage
		if rest[0] != '{' || json.NewDecoder(bytes.NewReader(rest)).Decode(&one) != nil {
			if len(out) == 0 || len(out) == 1 && rest[0] != '{' {
				return []Sequenced{{Text: data}}
			}
			return append(out, Sequenced{rest, line})
		}
		out = append(out, Sequenced{rest[:len(one)], line})
		line += bytes.Count(one, []byte("\n"))
		rest = rest[len(one):]
	}
	if len(out) < 2 {
		return []Sequenced{{Text: data}}
	}
	return out
}
