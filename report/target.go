package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/pipeline"
)

// FormatNames are the names of all formats.
func FormatNames() []string {
	var names []string
	for _, f := range Formats() {
		names = append(names, f.Name)
	}
	return names
}

// ParseTarget reads FORMAT=FILE. Hints name the input as {report}.
func ParseTarget(text string) (f Format, path string, err error) {
	fail := func(hint, format string, args ...any) (Format, string, error) {
		return f, "", &pipeline.InputError{Op: "retally", Err: fmt.Errorf("{report} %s: "+format, append([]any{text}, args...)...), Hint: hint}
	}
	known := FormatNames()
	name, path, ok := strings.Cut(text, "=")
	if !ok || path == "" {
		return fail("for instance {report} "+known[0]+"=report"+Formats()[0].Ext, "want FORMAT=FILE")
	}
	i := slices.Index(known, name)
	if i < 0 {
		hint := "known: " + strings.Join(known, ", ")
		if near := yamldoc.Nearest(name, known); near != "" {
			hint = fmt.Sprintf("did you mean {report} %s=%s?", near, path)
		}
		return fail(hint, "unknown format %q", name)
	}
	return Formats()[i], path, nil
}
