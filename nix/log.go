package nix

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strings"
)

// Activity types and result types of Nix's internal-json log (src/libutil
// logging.hh of 2.8, named in the manual's section on log formats).
const (
	activityCopyPath     = 100
	activityFileTransfer = 101
	activityBuilds       = 104
	activityBuild        = 105
	activitySubstitute   = 108

	resultBuildLogLine = 101
	resultProgress     = 105
)

// maxLine bounds a line of the log; longer ones are cut, for a build may print
// anything.
const maxLine = 1 << 20

// Log is what a run of Nix told about itself.
type Log struct {
	// Substituted are store paths that were fetched and not built, and where from.
	Substituted map[string]string
	// Building are the derivations that were built, in their order.
	Building []string
	// Errors are messages of level error, without colors.
	Errors []string
	// Tail are the last lines that builds printed.
	Tail []string
	// Unsandboxed is set where Nix said that it builds without its sandbox.
	Unsandboxed bool
}

// Progress is how far a run is.
type Progress struct {
	Done, Expected, Running, Failed uint64 // builds
	Text                            string // what began last
}

const tailLines = 20

var ansi = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

// plainText takes colors away and makes UTF-8 valid.
func plainText(s string) string { return strings.ToValidUTF8(ansi.ReplaceAllString(s, ""), "\uFFFD") }

// ReadLog reads Nix's standard error as `--log-format internal-json` writes it:
// a JSON object a line behind "@nix ", other lines between. It reads to the end
// whatever comes; a line that is not understood is kept as one that a build
// printed. progress, if not nil, is called at each change.
func ReadLog(r io.Reader, progress func(Progress)) (*Log, error) {
	l := &Log{Substituted: map[string]string{}}
	in := bufio.NewReaderSize(r, 64<<10)
	kinds := map[uint64]int{}
	var p Progress
	for {
		line, err := readLine(in)
		if len(line) > 0 {
			l.line(line, kinds, &p, progress)
		}
		if errors.Is(err, io.EOF) {
			return l, nil
		}
		if err != nil {
			return l, err
		}
	}
}

func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, more, err := in.ReadLine()
		if len(line) < maxLine {
			line = append(line, part[:min(len(part), maxLine-len(line))]...)
		}
		if err != nil || !more {
			return line, err
		}
	}
}

func (l *Log) line(line []byte, kinds map[uint64]int, p *Progress, progress func(Progress)) {
	body, ok := bytes.CutPrefix(line, []byte("@nix "))
	if !ok {
		l.say(string(line))
		return
	}
	var m struct {
		Action string
		ID     uint64 // pid<<32 + counter: beyond what a float64 holds
		Level  int
		Type   int
		Text   string
		Msg    string
		Fields []json.RawMessage
	}
	if json.Unmarshal(body, &m) != nil {
		l.say(string(line))
		return
	}
	switch m.Action {
	case "start":
		if len(kinds) < 1<<20 {
			kinds[m.ID] = m.Type
		}
		p.Text = plainText(m.Text)
		switch m.Type {
		case activityBuild:
			if drv := field(m.Fields, 0); drv != "" {
				l.Building = append(l.Building, drv)
			}
		case activitySubstitute:
			l.Substituted[field(m.Fields, 0)] = field(m.Fields, 1)
		case activityCopyPath:
			// From a store to this one: a path that came from somewhere else.
			if from := field(m.Fields, 1); from != "" {
				l.Substituted[field(m.Fields, 0)] = from
			}
		case activityFileTransfer:
			if url := field(m.Fields, 0); strings.HasSuffix(url, ".narinfo") || strings.Contains(url, "/nar/") {
				l.Substituted[url] = url
			}
		}
		l.warn(m.Text)
	case "stop":
		delete(kinds, m.ID)
	case "result":
		switch {
		case m.Type == resultBuildLogLine:
			l.say(field(m.Fields, 0))
		case m.Type == resultProgress && kinds[m.ID] == activityBuilds:
			p.Done, p.Expected, p.Running, p.Failed = number(m.Fields, 0), number(m.Fields, 1), number(m.Fields, 2), number(m.Fields, 3)
		default:
			return
		}
	case "msg":
		l.warn(m.Msg)
		if m.Level == 0 && len(l.Errors) < 100 {
			l.Errors = append(l.Errors, plainText(m.Msg))
		}
	}
	if progress != nil {
		progress(*p)
	}
}

// warn looks for the words with which Nix gives its sandbox up.
func (l *Log) warn(text string) {
	text = strings.ToLower(plainText(text))
	if strings.Contains(text, "sandbox") && (strings.Contains(text, "disabl") || strings.Contains(text, "without") || strings.Contains(text, "not available") || strings.Contains(text, "not supported")) {
		l.Unsandboxed = true
	}
}

func (l *Log) say(text string) {
	l.Tail = append(l.Tail, plainText(text))
	if len(l.Tail) > tailLines {
		l.Tail = l.Tail[1:]
	}
}

func field(fields []json.RawMessage, i int) string {
	var s string
	if i < len(fields) {
		_ = json.Unmarshal(fields[i], &s) // a number is no text
	}
	return plainText(s)
}

func number(fields []json.RawMessage, i int) uint64 {
	var n uint64
	if i < len(fields) {
		_ = json.Unmarshal(fields[i], &n) // a text is no number
	}
	return n
}
