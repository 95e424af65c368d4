package deployment

import (
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/yamldoc"
)

// source is the file's text by line, to find the exact place of something
// inside a scalar: a YAML node knows only where it starts.
type source struct {
	text   string
	starts []int
}

// newSource splits at the line breaks that the YAML reader counts: LF, CR,
// CR LF, NEL, LS and PS (YAML 1.1, section 4.2), so that its line numbers hold.
func newSource(data []byte) source {
	s := source{text: string(data), starts: []int{0}}
	for i := 0; i < len(s.text); i++ {
		switch rest := s.text[i:]; {
		case strings.HasPrefix(rest, "\r\n"), strings.HasPrefix(rest, "\u0085"):
			i++
		case strings.HasPrefix(rest, "\u2028"), strings.HasPrefix(rest, "\u2029"):
			i += 2
		case rest[0] != '\n' && rest[0] != '\r':
			continue
		}
		s.starts = append(s.starts, i+1)
	}
	return s
}

// line returns line n (from 1) without its line feed, "" beyond the end.
func (s source) line(n int) string {
	if n < 1 || n > len(s.starts) {
		return ""
	}
	end := len(s.text)
	if n < len(s.starts) {
		end = s.starts[n]
	}
	return strings.TrimRight(s.text[s.starts[n-1]:end], "\r\n\u0085\u2028\u2029")
}

// find returns line and column (in characters, as YAML counts) of token, which
// stands at byte offset off of the scalar's text. Where folding or escapes
// hide it, it falls back on the line that is known.
func (s source) find(n *yaml.Node, off int, token string) (line, column int) {
	off = min(max(off, 0), len(n.Value))
	before := n.Value[:off]
	if n.Style&yaml.LiteralStyle != 0 {
		line = yamldoc.ContentLine(n, strings.Count(before, "\n"))
		skip := strings.Count(before[strings.LastIndexByte(before, '\n')+1:], token)
		if _, col, ok := s.nth(line, 1, 0, token, skip); ok {
			return line, col
		}
		return line, 0
	}
	// A scalar of k blanks and line feeds can be spread over k+1 lines, and a
	// folded one starts on the line after its header.
	lines := 2 + strings.Count(n.Value, "\n") + strings.Count(n.Value, " ")
	if !strings.ContainsAny(n.Value, " \n") {
		lines = 1
	}
	if l, col, ok := s.nth(n.Line, lines, n.Column-1, token, strings.Count(before, token)); ok {
		return l, col
	}
	return n.Line, n.Column
}

// maxSearched is the longest line that is searched: many scalars may stand on
// one line, and each search starts at its beginning.
const maxSearched = 4 << 10

// nth looks for the occurrence number skip (from 0) of token on count lines
// from line first on, whose first from characters do not count.
func (s source) nth(first, count, from int, token string, skip int) (line, column int, ok bool) {
	if token == "" {
		return 0, 0, false
	}
	for l := first; l < first+count && l <= len(s.starts); l++ {
		text, pos := s.line(l), 0
		if len(text) > maxSearched {
			return 0, 0, false
		}
		if l == first {
			pos = byteOffset(text, from)
		}
		for {
			i := strings.Index(text[pos:], token)
			if i < 0 {
				break
			}
			pos += i
			if skip == 0 {
				return l, utf8.RuneCountInString(text[:pos]) + 1, true
			}
			skip--
			pos += len(token)
		}
	}
	return 0, 0, false
}

// byteOffset turns a number of characters into a number of bytes.
func byteOffset(s string, runes int) int {
	for i := range s {
		if runes <= 0 {
			return i
		}
		runes--
	}
	return len(s)
}
