package report

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
)

// JSONSchema is the schema that every JSON report satisfies.
//
//go:embed report.schema.json
var JSONSchema []byte

// JSON writes the report as it is, two spaces of indentation, one final line
// feed.
func JSON(w io.Writer, r *pipeline.Report) error { return writeJSON(w, r) }

// writeJSON is how every form in JSON is written.
func writeJSON(w io.Writer, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(show.JSON(b.Bytes()))
	return err
}

// Conclusion is what every JSON result of every verb says of itself, before its
// own members.
type Conclusion struct {
	Schema  string   `json:"schema"`  // retally/<verb>/<n>
	Outcome string   `json:"outcome"` // match, differs, unchecked, invalid or denied
	Reasons []string `json:"reasons"` // why; never null
}

// Of is a verb's document behind its conclusion: a value for encoding/json. An
// array has the conclusion in each of its elements. What the document itself
// says under the conclusion's names gives way to it.
func (c Conclusion) Of(doc any) json.Marshaler { return concluded{c, doc} }

type concluded struct {
	Conclusion
	doc any
}

// MarshalJSON implements json.Marshaler.
func (c concluded) MarshalJSON() ([]byte, error) {
	if c.Reasons == nil {
		c.Reasons = []string{}
	}
	head, err := marshal(c.Conclusion)
	if err != nil {
		return nil, err
	}
	data, err := marshal(c.doc)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(data, []byte("[")) {
		var list []json.RawMessage
		if err := json.Unmarshal(data, &list); err != nil {
			return nil, err
		}
		for i, element := range list {
			if list[i], err = behind(head, element); err != nil {
				return nil, err
			}
		}
		return marshal(list)
	}
	return behind(head, data)
}

// behind puts the members of an object behind those of head, in their order.
func behind(head, object []byte) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(object))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("a result must be an object or an array of objects, found %.40q", object)
	}
	out := bytes.NewBuffer(bytes.TrimSuffix(head, []byte("}")))
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		switch name {
		case "schema", "outcome", "reasons":
			continue
		}
		quoted, err := marshal(name)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(out, ",%s:%s", quoted, value)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// marshal leaves < and > as they are.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b.Bytes()), nil
}
