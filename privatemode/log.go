package privatemode

import (
	"fmt"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/retally/retally/internal/digest"
)

// Log is the proxy's manifests/log.txt. An entry says that a manifest was
// fetched. It is written before attestation and so does not say that the
// manifest was verified.
type Log struct {
	File    string
	Entries []LogEntry
	// Notes are oddities of a log that can still be read.
	Notes Problems
}

// LogEntry is one line: `<RFC 3339 time> <path>`, up to v1.12 with the
// Coordinator's policy hash in between.
type LogEntry struct {
	Time              time.Time
	TimeText          string
	CoordinatorPolicy digest.Digest // zero in the newer format
	PathText          string        // as written: the workspace, then manifests/<n>.json
	// Path is relative to the workspace, cleaned and with slashes:
	// manifests/<n>.json. It never leads out of the workspace.
	Path string
	Line int
}

// Latest returns the last entry; ok is false for an empty log.
func (l *Log) Latest() (e LogEntry, ok bool) {
	if len(l.Entries) == 0 {
		return LogEntry{}, false
	}
	return l.Entries[len(l.Entries)-1], true
}

const (
	maxLogBytes = 16 << 20
	maxLogLine  = 8 << 10
)

// ParseLog reads log.txt in both formats; lines may end in CR LF, paths may
// have backslashes and spaces. The error is Problems with one for every line
// that is wrong; the entries of the other lines are returned beside it.
func ParseLog(file string, data []byte) (*Log, error) {
	l := &Log{File: file}
	var faults Problems
	if len(data) > maxLogBytes {
		faults.add(Problem{File: file, Msg: fmt.Sprintf("has %d bytes, the limit is %d", len(data), maxLogBytes)})
		return l, faults
	}
	text := strings.TrimPrefix(string(data), "\ufeff")
	if rest, ok := strings.CutSuffix(text, "\n"); ok {
		text = rest
	} else if text != "" {
		l.Notes.add(Problem{File: file, Line: strings.Count(text, "\n") + 1, Msg: "no line feed at the end: the last entry may be cut off, and the next one would join it"})
	}
	if text == "" {
		return l, nil
	}
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		line = strings.TrimSuffix(line, "\r")
		if strings.TrimSpace(line) == "" {
			if number <= strings.Count(strings.TrimRight(text, "\r\n \t"), "\n") {
				l.Notes.add(Problem{File: file, Line: number, Msg: "blank line"})
			}
			continue
		}
		e, msg := parseLogLine(line)
		if msg != "" {
			faults.add(Problem{File: file, Line: number, Msg: msg})
			continue
		}
		e.Line = number
		l.note(e)
		l.Entries = append(l.Entries, e)
	}
	return l, faults.err()
}

// note records what is odd about an entry beside those before it.
func (l *Log) note(e LogEntry) {
	if want := fmt.Sprintf("manifests/%d.json", e.Line); e.Path != want {
		l.Notes.add(Problem{File: l.File, Line: e.Line, Msg: fmt.Sprintf("names %s, the proxy writes %s on this line: the log was edited", clip(e.Path), want)})
	}
	if prev, ok := l.Latest(); ok && e.Time.Before(prev.Time) {
		l.Notes.add(Problem{File: l.File, Line: e.Line, Msg: fmt.Sprintf("is earlier than line %d", prev.Line)})
	}
}

// parseLogLine reads time, policy hash if there is one, and path. The path is
// the rest of the line, because folders may have spaces in their names.
func parseLogLine(line string) (e LogEntry, msg string) {
	if len(line) > maxLogLine {
		return e, fmt.Sprintf("line has %d bytes, the limit is %d", len(line), maxLogLine)
	}
	if !utf8.ValidString(line) || strings.ContainsFunc(line, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
		return e, "line is not text"
	}
	stamp, rest, ok := strings.Cut(line, " ")
	if !ok {
		return e, fmt.Sprintf("%q: want a time and a path", clip(line))
	}
	t, err := time.Parse(time.RFC3339, stamp)
	if err != nil {
		return e, fmt.Sprintf("%q is not an RFC 3339 time", clip(stamp))
	}
	e.Time, e.TimeText = t, stamp
	if hash, after, ok := strings.Cut(rest, " "); ok && isHash(hash) {
		e.CoordinatorPolicy, err = digest.ParseHex(digest.SHA256, hash)
		if err != nil {
			return e, fmt.Sprintf("coordinator policy: %v", err)
		}
		rest = after
	}
	e.PathText = strings.TrimRight(rest, " \t")
	e.Path, msg = workspacePath(e.PathText)
	return e, msg
}

// isHash holds for a word that can only be meant as a hash: no path that the
// proxy writes is bare hex.
func isHash(s string) bool {
	return len(s) >= 32 && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

// workspacePath cuts the workspace off a logged path, which may be absolute, of
// another system, or relative to a folder nobody knows now. What is left
// is a file directly in the last folder "manifests".
func workspacePath(text string) (rel, msg string) {
	p := strings.ReplaceAll(text, `\`, "/")
	elems := strings.Split(p, "/")
	start := -1
	for i, e := range elems[:len(elems)-1] {
		if e == "manifests" {
			start = i
		}
	}
	if start < 0 {
		return "", fmt.Sprintf("path %q is not below a folder manifests", clip(text))
	}
	rel = path.Clean(strings.Join(elems[start:], "/"))
	if !strings.HasPrefix(rel, "manifests/") {
		return "", fmt.Sprintf("path %q leads out of the folder manifests", clip(text))
	}
	if strings.Count(rel, "/") != 1 {
		return "", fmt.Sprintf("path %q does not name a file directly in the folder manifests", clip(text))
	}
	if name := path.Base(rel); !strings.HasSuffix(name, ".json") || name == ".json" {
		return "", fmt.Sprintf("path %q does not name a .json file", clip(text))
	}
	return rel, ""
}
