package report

import (
	"bytes"
	_ "embed"
	"encoding/json"
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
func JSON(w io.Writer, r *pipeline.Report) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		return err
	}
	_, err := w.Write(show.JSON(b.Bytes()))
	return err
}
