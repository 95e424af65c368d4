package report

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/retally/retally/pipeline"
)

// A remark is one thing that an engineer's tools show at a line: what differs,
// what is unchecked, what is odd in an input.
type remark struct {
	rule  string // stable: a verdict with its class, or a problem's code
	level string // pipeline.LevelError, LevelWarning, LevelNote
	key   pipeline.Key
	where pipeline.Where
	text  string
	help  string
}

// remarks lists what a report has to say at places: findings that are bad or
// open, problems, lacks. What a gate denies stands among the problems, so the
// findings behind it are not told twice.
func remarks(r *pipeline.Report) []remark {
	var out []remark
	for i := range r.Problems {
		p := &r.Problems[i]
		out = append(out, remark{rule: p.Code, level: p.Level, where: p.Where, text: p.Msg, help: p.Hint})
	}
	for i := range r.Findings {
		f := &r.Findings[i]
		switch {
		case f.Bad() && (r.Gate == nil):
			out = append(out, remark{
				rule: string(f.Verdict) + "-" + string(f.Class), level: pipeline.LevelError, key: f.Key, where: f.Where,
				text: fmt.Sprintf("%s: %s, %s %s%s", f.Key, shown(f.Got), sideName(r.WantName, "published"), shown(f.Want), cause(f)), help: f.Note,
			})
		case f.Open():
			out = append(out, remark{rule: string(pipeline.Unchecked), level: pipeline.LevelWarning, key: f.Key, where: f.Where, text: string(f.Key) + ": not checked" + note(f), help: restingOn(f)})
		case f.Accepted:
			out = append(out, remark{rule: "accepted", level: pipeline.LevelNote, key: f.Key, where: f.Where, text: fmt.Sprintf("%s: %s, %s %s, acknowledged by the policy", f.Key, shown(f.Got), sideName(r.WantName, "published"), shown(f.Want))})
		}
	}
	for _, l := range r.Lacks {
		out = append(out, remark{rule: "missing-input", level: pipeline.LevelWarning, text: "missing: " + l.What + ", for " + l.For, help: l.How})
	}
	if r.Bytes.Verdict == pipeline.Differs && !r.Bytes.Accepted && r.Gate == nil {
		out = append(out, remark{
			rule: "bytes", level: pipeline.LevelError, where: pipeline.Where{File: r.WantName, Line: r.Bytes.FirstLine},
			text: fmt.Sprintf("not byte for byte the expected file: %d lines differ", r.Bytes.Lines),
		})
	}
	if r.Outcome == pipeline.OutcomeUnchecked && len(r.TestRoots) > 0 {
		out = append(out, remark{rule: "test-root", level: pipeline.LevelWarning, text: "judged under a test root: " + strings.Join(r.TestRoots, ", ")})
	}
	// Never less than the outcome: a tool that counts errors must not see none
	// where the verdict is bad.
	if !hasLevel(out, pipeline.LevelError) && (r.Outcome == pipeline.OutcomeDiffers || r.Outcome == pipeline.OutcomeDenied) {
		out = append(out, remark{rule: string(r.Outcome), level: pipeline.LevelError, text: r.Summary})
	}
	if len(out) == 0 && r.Outcome != pipeline.OutcomeMatch || r.Outcome == pipeline.OutcomeUnchecked && !hasLevel(out, pipeline.LevelWarning) {
		out = append(out, remark{rule: string(r.Outcome), level: pipeline.LevelWarning, text: r.Summary})
	}
	return out
}

func hasLevel(list []remark, level string) bool {
	for i := range list {
		if list[i].level == level {
			return true
		}
	}
	return false
}

func sideName(name, otherwise string) string {
	if name == "" {
		return otherwise
	}
	return name
}

func shown(v pipeline.Value) string {
	if v.IsNone() {
		return "(none)"
	}
	return v.String()
}

func note(f *pipeline.Finding) string {
	if f.Note == "" {
		return ""
	}
	return ", " + f.Note
}

func restingOn(f *pipeline.Finding) string {
	if f.Standing.Effective == 0 {
		return ""
	}
	return "known as: " + f.Standing.String()
}

// cause is the first cause of a finding, in words.
func cause(f *pipeline.Finding) string {
	if len(f.Why) == 0 {
		return ""
	}
	return "; " + CauseWords(f.Why[0])
}

// at is a place in words: "deployment.yaml:50".
func at(w pipeline.Where) string {
	s := w.File
	if w.Line > 0 {
		s += ":" + strconv.Itoa(w.Line)
	}
	return s
}
