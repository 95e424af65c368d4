package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
)

// markdownMark begins every report, by which it is known as one. It is the title
// that people see.
const markdownMark = "# retally: "

// Markdown writes a summary for a pull request or a review.
func Markdown(w io.Writer, r *pipeline.Report) error {
	v := NewView(r, Options{})
	var b strings.Builder
	fmt.Fprintf(&b, markdownMark+"%s\n\n%s\n", v.Verdict, show.Markdown(v.Summary))
	if v.Subject != "" {
		fmt.Fprintf(&b, "\n%s\n", show.Markdown(v.Subject))
	}
	for _, f := range v.Facts {
		fmt.Fprintf(&b, "\n%s\n", show.Markdown(f))
	}
	b.WriteString("\n| result | verdict | |\n|---|---|---|\n")
	for _, res := range v.Results {
		fmt.Fprintf(&b, "| %s | **%s** | %s |\n", res.Name, res.Verdict, show.Markdown(res.Words))
	}
	for _, g := range v.Groups {
		fmt.Fprintf(&b, "\n## %s\n\n", show.Markdown(g.Title))
		if g.Coverage != "" {
			fmt.Fprintf(&b, "%s\n", show.Markdown(g.Coverage))
		}
		if g.Agree > 0 {
			fmt.Fprintf(&b, "\n- %s\n", show.Plural(g.Agree, "value agrees", "values agree"))
		}
		for _, a := range g.Alone {
			fmt.Fprintf(&b, "- %s %s (%s)\n", show.Markdown(a.Words), show.Code(a.Value), a.Basis)
		}
		for _, l := range g.Lines {
			fmt.Fprintf(&b, "- **%s** %s\n", show.Markdown(l.mark()), show.Markdown(l.Text))
			for _, d := range l.Details {
				fmt.Fprintf(&b, "  - %s\n", show.Markdown(d))
			}
			for _, c := range l.folded() {
				fmt.Fprintf(&b, "  - %s\n", show.Markdown(c.words()))
			}
		}
	}
	if len(v.Problems) > 0 {
		b.WriteString("\n## Found in the inputs\n\n")
		for _, p := range v.Problems {
			fmt.Fprintf(&b, "- %s: %s\n", p.Level, show.Markdown(problemWords(p)))
		}
	}
	markdownGate(&b, v.Gate)
	if len(v.Lacks)+len(v.More) > 0 {
		b.WriteString("\n## Missing to check more\n\n| missing | for | what to do |\n|---|---|---|\n")
		for _, l := range slices.Concat(v.Lacks, v.More) {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", show.Markdown(l.What), show.Code(l.For), show.Markdown(l.How))
		}
	}
	if v.Next != "" {
		fmt.Fprintf(&b, "\nNext: %s", show.Code(v.Next))
		if v.NextWhy != "" {
			b.WriteString(" (" + show.Markdown(v.NextWhy) + ")")
		}
		b.WriteByte('\n')
	}
	if len(v.Inputs) > 0 {
		b.WriteString("\n<details><summary>Inputs</summary>\n\n| file | SHA-256 | bytes |\n|---|---|---|\n")
		for _, in := range v.Inputs {
			fmt.Fprintf(&b, "| %s | `%s` | %d |\n", show.Code(in.File), in.Digest.Hex(), in.Size)
		}
		b.WriteString("\n</details>\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
