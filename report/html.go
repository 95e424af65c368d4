package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/trace"
)

//go:embed report.gohtml
var htmlSource string

// HTML writes one self-contained page: no script, no font, no request.
func HTML(w io.Writer, r *pipeline.Report) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		// html/template escapes for HTML; what it lets through may still hide
		// or reorder text, which show.Text makes visible.
		"text":    func(v any) string { return show.Text(fmt.Sprint(v)) },
		"cause":   func(c Cause) string { return show.Text(plainCause(c.Cause) + c.also()) },
		"folded":  func(l Line) []Cause { return l.folded() },
		"problem": func(p pipeline.Problem) string { return show.Text(problemWords(p)) },
		"where":   func(w pipeline.Where) string { return show.Text(Place(w)) },
		"path":    func(p []string) string { return show.Text(strings.Join(p, " > ")) },
		"value":   func(v pipeline.Value) string { return show.Text(short(v, true)) },
		"mark":    func(l Line) string { return l.mark() },
		"marked":  func(l Line) string { return markWords[l.mark()] },
		"docs":    func(page string) string { return DocsURL + page },
		"bases":   func() any { return basisWords },
		"lacking": func(v *View) []pipeline.Lack { return slices.Concat(v.Lacks, v.More) },
		"tone":    tone,
		"lineTone": func(l Line) string {
			if l.Class == pipeline.ClassVolatile {
				return "plain"
			}
			return tone(l.Verdict)
		},
		"agree": func(n int) string { return show.Plural(n, "value agrees", "values agree") },
		"events": func(t *trace.Trace) string {
			return fmt.Sprintf("%s, folded by %s with %s", show.Plural(len(t.Events), "event", "events"), t.Fold, t.Algorithm)
		},
		"class": func(c pipeline.Class) string { return classWords[c] },
	}).Parse(htmlSource)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, struct {
		*View
		Report *pipeline.Report
	}{NewView(r, Options{AllCauses: true}), r}); err != nil {
		return err
	}
	_, err = w.Write(b.Bytes())
	return err
}

// markWords say a line's mark to whoever does not see it.
var markWords = map[string]string{".": "expected:", "?": "unchecked:", "-": "missing:", "+": "extra:", "!": "differs:"}

// tone is the CSS class of a verdict, an outcome or a level.
func tone(v any) string {
	switch v {
	case pipeline.Match, pipeline.OutcomeMatch:
		return "good"
	case pipeline.Differs, pipeline.OutcomeDiffers, pipeline.Missing, pipeline.Extra, pipeline.LevelError:
		return "bad"
	case pipeline.LevelNote:
		return "plain"
	default:
		return "open"
	}
}
