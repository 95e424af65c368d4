package report

import (
	"io"

	"github.com/retally/retally/pipeline"
)

// Format is a rendering that --report can name. A new one is a file of this
// package and a row of Formats.
type Format struct {
	Name   string
	Ext    string // of a file's name, with the dot
	Render func(io.Writer, *pipeline.Report) error
}

// Formats are all of them, by name. Text is not among them: it is laid out for
// a screen.
func Formats() []Format {
	return []Format{
		{"html", ".html", HTML},
		{"json", ".json", JSON},
		{"markdown", ".md", Markdown},
	}
}
