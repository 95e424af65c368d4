package report

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/retally/retally/pipeline"
)

const githubMark = "::notice title=retally::"

// GitHub writes workflow commands, which GitHub shows at the lines of a pull
// request (workflow commands for GitHub Actions, "Setting an error message").
func GitHub(w io.Writer, r *pipeline.Report) error {
	var b strings.Builder
	b.WriteString(githubMark + githubText(string(r.Outcome)+": "+r.Summary) + "\n")
	levels := map[string]string{pipeline.LevelError: "error", pipeline.LevelWarning: "warning", pipeline.LevelNote: "notice"}
	for _, m := range remarks(r) {
		var props []string
		if m.where.File != "" {
			props = append(props, "file="+githubProperty(m.where.File))
			if m.where.Line > 0 {
				props = append(props, fmt.Sprintf("line=%d", m.where.Line))
			}
		}
		props = append(props, "title="+githubProperty("retally "+m.rule))
		text := m.text
		if m.help != "" {
			text += "\n" + m.help
		}
		fmt.Fprintf(&b, "::%s %s::%s\n", levels[m.level], strings.Join(props, ","), githubText(text))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// githubText escapes the message of a workflow command, so that no text of an
// input begins one of its own.
func githubText(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(strings.Join(lines, "\n"))
}

func githubProperty(s string) string {
	return strings.NewReplacer(":", "%3A", ",", "%2C").Replace(githubText(s))
}

// gitlabIssue is an entry of GitLab's code quality report.
type gitlabIssue struct {
	Description string         `json:"description"`
	CheckName   string         `json:"check_name"`
	Fingerprint string         `json:"fingerprint"`
	Severity    string         `json:"severity"`
	Location    gitlabLocation `json:"location"`
}

type gitlabLocation struct {
	Path  string `json:"path"`
	Lines struct {
		Begin int `json:"begin"`
	} `json:"lines"`
}

// GitLab writes a code quality report (GitLab documentation, "Code Quality
// report format"). What has no place stands at the compared file.
func GitLab(w io.Writer, r *pipeline.Report) error {
	out := []gitlabIssue{}
	severity := map[string]string{pipeline.LevelError: "blocker", pipeline.LevelWarning: "major", pipeline.LevelNote: "info"}
	count := map[string]int{}
	for _, m := range remarks(r) {
		text := m.text
		if m.help != "" {
			text += " (" + m.help + ")"
		}
		id := m.rule + "\x00" + string(m.key) + "\x00" + m.where.File + "\x00" + m.text
		count[id]++
		sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d", id, count[id]))
		i := gitlabIssue{Description: clean(text), CheckName: "retally-" + m.rule, Fingerprint: hex.EncodeToString(sum[:]), Severity: severity[m.level]}
		i.Location.Path, i.Location.Lines.Begin = m.where.File, max(m.where.Line, 1)
		if i.Location.Path == "" {
			i.Location.Path = sideName(r.WantName, "retally.yaml")
		}
		out = append(out, i)
	}
	return writeJSON(w, out)
}
