package policygen

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// yamlSource is the text of a YAML file in the form that yaml.v3 reads as
// yaml-rust 0.4 would:
//
//   - yaml-rust knows two line breaks, LF and CR, and lets every other
//     character stand in a scalar. yaml.v3 refuses control characters and also
//     breaks lines at U+0085, U+2028 and U+2029. Such characters are replaced by
//     private ones and put back into what was read.
//   - yaml-rust takes a %YAML directive of any version and ignores unknown ones;
//     they become comments.
//   - yaml-rust does not resolve tags, so that the text of a tag matters.
//
// Every replacement is one character for one: places stay what they are.
type yamlSource struct {
	text  []byte
	base  rune // of the private characters, 0 if none were needed
	lines lineIndex
	steps map[int][]int         // by line: the offset of every stride-th character
	tags  map[*yaml.Node]string // of nodes with anchors, which are read often
	lone  bool                  // there may be a tag that is only "!", which yaml.v3 drops
}

func newYAMLSource(data []byte) *yamlSource {
	s := &yamlSource{text: commentDirectives(data)}
	for _, mark := range []string{"! ", "!\t", "!\n", "!\r"} {
		s.lone = s.lone || bytes.Contains(data, []byte(mark))
	}
	if bytes.ContainsFunc(s.text, func(r rune) bool { _, ok := disguise(r); return ok }) {
		s.base = freeBlock(s.text)
		s.text = bytes.Map(func(r rune) rune {
			if i, ok := disguise(r); ok {
				return s.base + i
			}
			return r
		}, s.text)
	}
	return s
}

// disguise numbers the characters that yaml.v3 does not read as part of a
// scalar: at most disguises of them. NUL is not among them: yaml-rust takes it
// for the end of the file, which nobody can mean; it stays an error.
func disguise(r rune) (rune, bool) {
	switch {
	case r == '\t', r == '\n', r == '\r', r == 0:
		return 0, false
	case r < 0x20, r >= 0x7f && r < 0xa0:
		return r, true
	case r == 0x2028, r == 0x2029:
		return 0xa0 + r - 0x2028, true
	case r == 0xfffe, r == 0xffff:
		return 0xa2 + r - 0xfffe, true
	}
	return 0, false
}

// undisguise is the other direction.
func undisguise(i rune) rune {
	switch {
	case i >= 0xa2:
		return 0xfffe + i - 0xa2
	case i >= 0xa0:
		return 0x2028 + i - 0xa0
	}
	return i
}

const disguises = 0xa4

// freeBlock finds private characters (Unicode, plane 16) that the text does not
// use, neither as such nor as an escape.
func freeBlock(text []byte) rune {
	lower := bytes.ToLower(text)
	for base := rune(0x10f000); ; base -= 0x100 {
		inUse := bytes.ContainsFunc(text, func(r rune) bool { return r >= base && r < base+disguises }) ||
			bytes.Contains(lower, fmt.Appendf(nil, "%x", base>>8))
		if !inUse || base == 0x100000 {
			return base
		}
	}
}

// restore puts the original characters back.
func (s *yamlSource) restore(text string) string {
	if s.base == 0 {
		return text
	}
	return strings.Map(func(r rune) rune {
		if r >= s.base && r < s.base+disguises {
			return undisguise(r - s.base)
		}
		return r
	}, text)
}

// tag is the tag of a node as written: "" if it has none.
func (s *yamlSource) tag(n *yaml.Node) string {
	if n.Style&yaml.TaggedStyle == 0 && !s.lone {
		return ""
	}
	if n.Anchor == "" {
		return s.readTag(n)
	}
	tag, ok := s.tags[n]
	if !ok {
		if s.tags == nil {
			s.tags = map[*yaml.Node]string{}
		}
		tag = s.readTag(n)
		s.tags[n] = tag
	}
	return tag
}

func (s *yamlSource) readTag(n *yaml.Node) string {
	rest := s.at(n.Line, n.Column)
	if bytes.HasPrefix(rest, []byte("&")) {
		rest = bytes.TrimLeftFunc(rest[bytes.IndexFunc(rest, isSpace)+1:], isSpace)
	}
	if !bytes.HasPrefix(rest, []byte("!")) {
		if n.Style&yaml.TaggedStyle != 0 {
			return n.ShortTag() // lines that end in CR alone are counted differently
		}
		return ""
	}
	const longest = 1024
	rest = rest[:min(len(rest), longest)]
	if end := bytes.IndexFunc(rest, isSpace); end >= 0 {
		rest = rest[:end]
	}
	if n.Style&yaml.TaggedStyle != 0 && bytes.HasPrefix(rest, []byte("!!")) {
		// yaml.v3 ends a tag in a flow collection at a comma.
		return n.ShortTag()
	}
	return string(rest)
}

// stride is how far at has to walk at most: a file may be one line.
const stride = 256

// at is the text from a place on; both numbers count from 1, columns in
// characters.
func (s *yamlSource) at(line, column int) []byte {
	if s.lines == nil {
		s.lines, s.steps = newLineIndex(s.text), map[int][]int{}
	}
	if line < 1 || line > len(s.lines) || column < 1 {
		return nil
	}
	offset := s.lines[line-1]
	if column > stride {
		steps, ok := s.steps[line]
		if !ok {
			end := len(s.text)
			if line < len(s.lines) {
				end = s.lines[line]
			}
			n := 0
			for i := range string(s.text[offset:end]) {
				if n%stride == 0 {
					steps = append(steps, offset+i)
				}
				n++
			}
			s.steps[line] = steps
		}
		i := (column - 1) / stride
		if i >= len(steps) {
			return nil
		}
		offset, column = steps[i], column-i*stride
	}
	for ; column > 1 && offset < len(s.text); column-- {
		_, size := utf8.DecodeRune(s.text[offset:])
		offset += size
	}
	return s.text[offset:]
}

func isSpace(r rune) bool { return r == ' ' || r == '\t' || r == '\n' || r == '\r' }

var (
	versionDirective = regexp.MustCompile(`^%YAML[ \t]+[0-9]{1,9}\.[0-9]{1,9}[ \t]*(#.*)?$`)
	unknownDirective = regexp.MustCompile(`^%[0-9A-Za-z_-]+([ \t].*)?$`)
)

// commentDirectives makes comments of directives that yaml-rust reads and
// ignores. Directives stand before a line "---", at the start of the file or
// behind a line "...".
func commentDirectives(data []byte) []byte {
	if !bytes.Contains(data, []byte("%")) {
		return data
	}
	var out []byte // a copy once something changes
	var pending []int
	prologue, offset := true, 0
	for line := range bytes.Lines(data) {
		text := bytes.TrimRight(line, "\r\n")
		switch {
		case isMarker(text, "---"):
			if len(pending) > 0 && out == nil {
				out = bytes.Clone(data)
			}
			for _, at := range pending {
				out[at] = '#'
			}
			prologue, pending = false, nil
		case isMarker(text, "..."):
			prologue, pending = true, nil
		case !prologue || len(bytes.TrimSpace(text)) == 0 || text[0] == '#':
		case text[0] != '%':
			prologue = false
		case versionDirective.Match(text),
			unknownDirective.Match(text) && !bytes.HasPrefix(text, []byte("%YAML")) && !bytes.HasPrefix(text, []byte("%TAG")):
			pending = append(pending, offset)
		}
		offset += len(line)
	}
	if out == nil {
		return data
	}
	return out
}

func isMarker(line []byte, mark string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(mark))
	return ok && (len(rest) == 0 || isSpace(rune(rest[0])))
}
