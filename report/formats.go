package report

import (
	"bytes"
	"io"
	"strings"

	"github.com/retally/retally/pipeline"
)

// Format is a rendering that can be written beside the text. A new one is a file
// of this package and a row of Formats.
type Format struct {
	Name   string
	Ext    string // of a file's name, with the dot
	Render func(io.Writer, *pipeline.Report) error
	// Is reports whether a file begins as Render begins one, so that an earlier
	// report may be replaced and nothing else. It gets at most the first 64 KiB.
	Is func(head []byte) bool
}

// Home is where the project is published.
const Home = "https://github.com/retally/retally"

// Formats are all of them, by name. Text is not among them: it is laid out for
// a screen.
func Formats() []Format {
	return []Format{
		{"corim", ".cbor", CoRIM, contains(corimProfile)},
		{"ear", ".json", EAR, isJSONOf(`"eat_profile": "tag:github.com,2023:veraison/ear"`, `"build": "retally `)},
		{"github", ".txt", GitHub, begins(githubMark)},
		{"gitlab", ".json", GitLab, func(head []byte) bool {
			return strings.HasPrefix(string(head), "[") && (bytes.Contains(head, []byte(`"check_name": "retally-`)) || strings.TrimSpace(string(head)) == "[]")
		}},
		{"html", ".html", HTML, contains(`<meta name="generator" content="retally">`)},
		{"intoto", ".json", InToto, isJSONOf(`"_type": "`+statementType, `"subject"`)},
		{"json", ".json", JSON, pipeline.IsReport},
		{"junit", ".xml", JUnit, contains(`classname="retally.`)},
		{"markdown", ".md", Markdown, begins(markdownMark)},
		{"rvps", ".json", RVPS, isJSONOf(`"type": "sample"`, `"payload"`)},
		{"sarif", ".sarif", SARIF, isJSONOf(`"version": "2.1.0"`, `"name": "retally"`)},
	}
}

// Reasons says in a few lines why a report's outcome is what it is: the
// sentence, then what is bad, then what is open.
func Reasons(r *pipeline.Report) []string {
	const most = 20
	out := []string{r.Summary}
	add := func(text string) {
		if len(out) < most {
			out = append(out, text)
		}
	}
	for _, p := range r.Problems {
		if p.Level == pipeline.LevelError {
			add(problemWords(p))
		}
	}
	for _, bad := range []bool{true, false} {
		for i := range r.Findings {
			f := &r.Findings[i]
			if bad && !f.Bad() || !bad && (f.Bad() || !f.Open()) {
				continue
			}
			text := string(f.Key) + ": " + string(f.Verdict)
			if f.Verdict == pipeline.Match {
				text = string(f.Key) + ": equal, but " + f.Standing.String()
			}
			if f.Note != "" {
				text += ", " + f.Note
			}
			add(text)
		}
	}
	return out
}

func contains(mark string) func([]byte) bool {
	return func(head []byte) bool { return bytes.Contains(head, []byte(mark)) }
}

func begins(mark string) func([]byte) bool {
	return func(head []byte) bool { return strings.HasPrefix(string(head), mark) }
}
