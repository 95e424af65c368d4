package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/stages/policies"
	"github.com/retally/retally/report"
)

// The words of a result that differs because something is not valid, or not
// allowed: for a script they are of one kind, exit code 1.
const (
	wordInvalid = "invalid"
	wordDenied  = "denied"
)

// nothingCompared is the reason of a result that only computes. docs/json.md
// says what it means.
const nothingCompared = "nothing was compared: this computes, and was given nothing to compare with"

// conclusion is what a result comes to: the word of its JSON form and why, and
// by both the exit code.
type conclusion struct {
	word    string
	reasons []string
	// computed: nothing was asked to be compared. That is no match, and no lack
	// either: the word is unchecked, the exit code 0.
	computed bool
}

// computes is the conclusion of a verb that was asked to compute only. notes say
// what else there is to know of the values.
func computes(notes ...string) conclusion {
	return conclusion{word: string(pipeline.OutcomeUnchecked), reasons: append([]string{nothingCompared}, notes...), computed: true}
}

// concludes is the conclusion of a comparison that has no report.
func concludes(o pipeline.Outcome, reasons ...string) conclusion {
	return conclusion{word: string(o), reasons: reasons}
}

// reported is the conclusion of a report.
func reported(r *pipeline.Report) conclusion { return concludes(r.Outcome, report.Reasons(r)...) }

// setVerb remembers which verb runs: its documents name it.
func (a *app) setVerb(cmd *cobra.Command) {
	_, name, _ := strings.Cut(cmd.CommandPath(), " ")
	a.verb = strings.ReplaceAll(name, " ", "-")
}

// schemaName is the name of the form of a verb's document.
func schemaName(verb string) string { return "retally/" + verb + "/1" }

// document puts a conclusion in front of a verb's document.
func (a *app) document(c conclusion, doc any) any {
	if a.watch != nil {
		a.watch(a.verb, doc)
	}
	return report.Conclusion{Schema: schemaName(a.verb), Outcome: c.word, Reasons: c.reasons}.Of(doc)
}

// concluded prints a verb's result and returns its exit code.
func (a *app) concluded(output string, c conclusion, doc any, text func(io.Writer)) error {
	if output != "json" {
		text(a.stdout)
		return c.end()
	}
	if err := writeJSON(a.stdout, a.document(c, doc)); err != nil {
		return &userError{op: "write result", err: err}
	}
	return c.end()
}

// result prints what a verb found that compares nothing.
func (a *app) result(output string, doc any, text func(io.Writer)) error {
	return a.concluded(output, computes(), doc, text)
}

// failure is the form of everything that ended a run, and of what a verb says
// of its input in place of a result.
type failure struct {
	Error    failureError              `json:"error"`
	Problems []policies.ClassedProblem `json:"problems,omitempty"` // of a Kubernetes YAML, each
}

type failureError struct {
	Code    int    `json:"code"`
	Op      string `json:"op"`
	Path    string `json:"path"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

// writeFailure prints a failure as a document. Nothing was concluded, unless the
// code says that the input was judged. problems are what else there is to say.
func (a *app) writeFailure(e failureError, problems []policies.ClassedProblem) error {
	word := string(pipeline.OutcomeUnchecked)
	if e.Code == exitDiffers {
		word = wordInvalid
	}
	return writeJSON(a.stdout, report.Conclusion{Schema: schemaName("error"), Outcome: word, Reasons: strings.Split(e.Message, "\n")}.Of(failure{e, problems}))
}

// rows are images, each with the conclusion of its own bytes. A row is greener
// than the whole only where another row is what the whole is bad for.
func (a *app) rows(whole conclusion, images []imagehash.Image) any {
	if a.watch != nil {
		a.watch(a.verb, images)
	}
	own := make([]conclusion, len(images))
	explained := false
	for i := range images {
		switch img := &images[i]; {
		case len(img.Problems) > 0:
			own[i].word = wordInvalid
			for _, p := range img.Problems {
				own[i].reasons = append(own[i].reasons, p.Code+" at "+p.Place)
			}
		case !img.Complete() && whole.word != string(pipeline.OutcomeMatch):
			own[i] = concludes(pipeline.OutcomeUnchecked, imagehash.Unchecked(images[i:i+1]))
		default:
			own[i] = whole
			continue
		}
		explained = explained || fmt.Sprint(own[i].end()) == fmt.Sprint(whole.end())
	}
	out := make([]any, len(images))
	for i, c := range own {
		if img := &images[i]; explained && len(img.Problems) == 0 && img.Complete() {
			c = concludes(pipeline.OutcomeMatch, "every digest was computed again and agrees")
		}
		out[i] = report.Conclusion{Schema: schemaName(a.verb), Outcome: c.word, Reasons: c.reasons}.Of(&images[i])
	}
	return out
}
