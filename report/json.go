package report

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"io"
	"slices"

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

// WithOutcome is a verb's own document with the outcome and its reasons behind
// the members of an object that has neither: a value for encoding/json. word
// stands for the outcome.
func WithOutcome(doc any, word string, r *pipeline.Report) any {
	return withOutcome{doc, word, Reasons(r)}
}

type withOutcome struct {
	doc     any
	word    string
	reasons []string
}

// MarshalJSON implements json.Marshaler.
func (w withOutcome) MarshalJSON() ([]byte, error) {
	data, err := marshal(w.doc)
	if err != nil {
		return nil, err
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(data, &members) != nil || len(members) == 0 || members["outcome"] != nil || members["reasons"] != nil {
		return data, nil
	}
	more, err := marshal(map[string]any{"outcome": w.word, "reasons": w.reasons})
	if err != nil {
		return nil, err
	}
	return slices.Concat(bytes.TrimSuffix(data, []byte("}")), []byte(","), bytes.TrimPrefix(more, []byte("{"))), nil
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
