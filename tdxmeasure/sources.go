package tdxmeasure

import (
	"context"

	"github.com/retally/retally/tdxmeasure/acpi"
)

// FileSource serves tables from a file; the machine's shape does not change
// them.
type FileSource struct {
	File  string
	Blobs *acpi.Blobs
}

// NewFileSource reads a tables blob, binary or hex text, padded or not.
func NewFileSource(name string, data []byte) (*FileSource, error) {
	b, err := acpi.FromTables(data)
	if err != nil {
		return nil, &Error{Input: name, Offset: -1, Found: err.Error()}
	}
	return &FileSource{File: name, Blobs: b}, nil
}

// Name is the file's name.
func (s *FileSource) Name() string { return s.File }

// Tables returns the file's tables.
func (s *FileSource) Tables(context.Context, acpi.Shape) (*acpi.Blobs, error) { return s.Blobs, nil }

// TemplateSource serves the built-in tables, edited to the shape.
type TemplateSource struct{ Templates *acpi.Templates }

// NewTemplateSource reads the built-in tables.
func NewTemplateSource() (*TemplateSource, error) {
	t, err := acpi.NewTemplates()
	return &TemplateSource{t}, err
}

// Name says that the tables are built in.
func (s *TemplateSource) Name() string { return "built-in ACPI templates" }

// Tables makes the tables of a shape.
func (s *TemplateSource) Tables(_ context.Context, shape acpi.Shape) (*acpi.Blobs, error) {
	return s.Templates.Make(shape)
}
