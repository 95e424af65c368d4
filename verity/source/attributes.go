package source

import (
	"path"
	"strings"

	"github.com/retally/retally/verity/internal/glob"
)

// attributesFile is the name of the files that gitattributes(5) describes.
const attributesFile = ".gitattributes"

// Bounds on attributes files. Git ignores longer lines (attr.h,
// ATTR_MAX_LINE_LENGTH) and files of more than 100 MiB.
const (
	maxAttributes     = 1 << 20 // bytes of one file
	maxAttributesLine = 2048
	maxAttributeRules = 20_000 // of all files of a commit
)

// An attrValue is what a path has for one attribute: "set", "unset",
// "unspecified", or "=" and a text.
type attrValue string

const (
	attrSet         attrValue = "set"
	attrUnset       attrValue = "unset"
	attrUnspecified attrValue = "unspecified"
)

type attrAssign struct {
	name  string
	value attrValue
}

// attrRule is one line: the files below its folder that a pattern fits have
// these attributes.
type attrRule struct {
	pattern  []string
	anywhere bool // a pattern without a slash fits names in every folder
	assign   []attrAssign
}

// attributes are all attributes files of a commit, by their folder ("." for
// the root).
type attributes struct {
	rules  map[string][]attrRule
	macros map[string][]attrAssign
	count  int
}

func newAttributes() *attributes {
	return &attributes{rules: map[string][]attrRule{}, macros: map[string][]attrAssign{
		"binary": {{"diff", attrUnset}, {"merge", attrUnset}, {"text", attrUnset}},
	}}
}

// add reads the attributes file of a folder, as gitattributes(5) says: lines of
// a pattern and attributes; [attr] defines a macro, in the root only. What git
// passes over with a warning (negative patterns, bad names) is passed over.
func (a *attributes) add(folder string, data []byte) {
	text := strings.TrimPrefix(string(data), "\ufeff")
	for line := range strings.SplitSeq(text, "\n") {
		if len(line) >= maxAttributesLine || a.count >= maxAttributeRules {
			continue
		}
		line = strings.Trim(line, attrBlank)
		if line == "" || line[0] == '#' {
			continue
		}
		pattern, rest, ok := cutPattern(line)
		if !ok {
			continue
		}
		assign, ok := parseAssign(rest)
		if !ok {
			continue
		}
		if name, macro := strings.CutPrefix(pattern, "[attr]"); macro {
			if folder == "." && attrName(name) {
				a.macros[name] = assign
				a.count++
			}
			continue
		}
		// A pattern with a slash at its end fits folders, which have no content.
		if strings.HasPrefix(pattern, "!") || strings.HasSuffix(pattern, "/") {
			continue
		}
		rule := attrRule{anywhere: !strings.Contains(pattern, "/"), assign: assign}
		rule.pattern = strings.Split(strings.TrimPrefix(pattern, "/"), "/")
		a.rules[folder] = append(a.rules[folder], rule)
		a.count++
	}
}

const attrBlank = " \t\r"

// cutPattern splits a line at the first blank; a pattern in double quotes has
// the escapes of C.
func cutPattern(line string) (pattern, rest string, ok bool) {
	if line[0] != '"' {
		i := strings.IndexAny(line, attrBlank)
		if i < 0 {
			return line, "", true
		}
		return line[:i], line[i:], true
	}
	var b strings.Builder
	for i := 1; i < len(line); i++ {
		switch c := line[i]; {
		case c == '"':
			return b.String(), line[i+1:], b.Len() > 0
		case c != '\\':
			b.WriteByte(c)
		case i+3 < len(line) && '0' <= line[i+1] && line[i+1] <= '3' && isOctal(line[i+2]) && isOctal(line[i+3]):
			b.WriteByte((line[i+1]-'0')<<6 | (line[i+2]-'0')<<3 | line[i+3] - '0')
			i += 3
		case i+1 < len(line):
			i++
			at := strings.IndexByte(`abfnrtv\"`, line[i])
			if at < 0 {
				return "", "", false
			}
			b.WriteByte("\a\b\f\n\r\t\v\\\""[at])
		}
	}
	return "", "", false
}

func isOctal(c byte) bool { return '0' <= c && c <= '7' }

func parseAssign(text string) (out []attrAssign, ok bool) {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(attrBlank, r) }) {
		name, value, with := strings.Cut(word, "=")
		v := attrValue("=" + value)
		if !with {
			v = attrSet
			switch name[0] {
			case '-':
				name, v = name[1:], attrUnset
			case '!':
				name, v = name[1:], attrUnspecified
			}
		}
		if !attrName(name) {
			return nil, false
		}
		out = append(out, attrAssign{name, v})
	}
	return out, true
}

// attrName reports whether git takes a word for the name of an attribute.
func attrName(s string) bool {
	if s == "" || s[0] == '-' || strings.HasPrefix(s, "builtin_") {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.", c) >= 0) {
			return false
		}
	}
	return true
}

// of gives the attributes of a file. The nearest file counts first, and in it
// the last line; a macro that is set brings its own attributes, where nothing
// before it has said something.
func (a *attributes) of(file string) map[string]attrValue {
	got := map[string]attrValue{}
	if a.count == 0 {
		return got
	}
	names := strings.Split(file, "/")
	for folder, depth := path.Dir(file), len(names)-1; depth >= 0; folder, depth = path.Dir(folder), depth-1 {
		rules := a.rules[folder]
		for i := len(rules) - 1; i >= 0; i-- {
			if r := rules[i]; r.fits(names[depth:]) {
				a.assign(got, r.assign, 0)
			}
		}
	}
	return got
}

func (r attrRule) fits(below []string) bool {
	if r.anywhere {
		return glob.Name(r.pattern[0], below[len(below)-1])
	}
	return glob.Path(r.pattern, below)
}

func (a *attributes) assign(got map[string]attrValue, list []attrAssign, depth int) {
	for i := len(list) - 1; i >= 0; i-- {
		s := list[i]
		if _, known := got[s.name]; known {
			continue
		}
		got[s.name] = s.value
		// A name is expanded once, so macros of macros end by themselves.
		if macro, ok := a.macros[s.name]; ok && s.value == attrSet && depth < len(a.macros) {
			a.assign(got, macro, depth+1)
		}
	}
}
