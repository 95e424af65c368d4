package disk

import (
	"strings"
	"unicode/utf8"
)

// A Glob is one excluded_files word of models.yaml. The published recipe
// leaves it unquoted behind `rm -rf` in the root of the checkout, so it is a
// shell pathname pattern: matched name by name along the path, `*` and `?`
// never match a leading dot, `**` is no more than `*`, and a pattern that
// matches nothing removes nothing.
type Glob struct {
	text  string
	parts []string
	// dirOnly is a pattern that ends in a slash and has something to expand.
	dirOnly bool
}

// ParseExclude splits an excluded_files value (words separated by commas or
// white space) into patterns.
func ParseExclude(value string) []Glob {
	var globs []Glob
	for _, word := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' }) {
		g := Glob{text: word, dirOnly: strings.HasSuffix(word, "/")}
		for part := range strings.SplitSeq(word, "/") {
			if part != "" && part != "." {
				g.parts = append(g.parts, part)
			}
		}
		// What leads out of the checkout or is all of it removes nothing here.
		if len(g.parts) > 0 && !strings.HasPrefix(word, "/") {
			globs = append(globs, g)
		}
	}
	return globs
}

// String returns the pattern as it was written.
func (g Glob) String() string { return g.text }

// Match reports whether the pattern names a path ("/"-separated, relative to
// the root). What is below a matching directory is removed with it and is the
// caller's to leave out.
func (g Glob) Match(path string, isDir bool) bool {
	if g.dirOnly && !isDir {
		return false
	}
	names := strings.Split(path, "/")
	if len(names) != len(g.parts) {
		return false
	}
	for i, name := range names {
		if !matchName(g.parts[i], name) {
			return false
		}
	}
	return true
}

// matchName matches one file name against one part of a pattern.
func matchName(pattern, name string) bool {
	if strings.HasPrefix(name, ".") && pattern != "" && strings.ContainsRune("*?[", rune(pattern[0])) {
		return false
	}
	// Where to go on after the last "*": the pattern behind it, and one
	// character more of the name. One such place is enough.
	starPattern, starName := "", ""
	inStar := false
	for {
		if pattern == "" && name == "" {
			return true
		}
		if strings.HasPrefix(pattern, "*") {
			pattern = pattern[1:]
			inStar, starPattern, starName = true, pattern, name
			continue
		}
		if name != "" {
			if rest, n, ok := matchOne(pattern, name); ok {
				pattern, name = rest, name[n:]
				continue
			}
		}
		if !inStar || starName == "" {
			return false
		}
		_, n := utf8.DecodeRuneInString(starName)
		starName = starName[n:]
		pattern, name = starPattern, starName
	}
}

// matchOne matches the first character of name with the first element of the
// pattern and returns what is left of the pattern and the character's length.
func matchOne(pattern, name string) (rest string, n int, ok bool) {
	if pattern == "" {
		return "", 0, false
	}
	r, n := utf8.DecodeRuneInString(name)
	switch pattern[0] {
	case '?':
		return pattern[1:], n, true
	case '[':
		if set, rest, ok := cutSet(pattern); ok {
			return rest, n, inSet(set, r)
		}
	case '\\':
		if len(pattern) > 1 {
			pattern = pattern[1:]
		}
	}
	p, size := utf8.DecodeRuneInString(pattern)
	if p == utf8.RuneError && size == 1 { // not UTF-8: byte by byte
		return pattern[1:], 1, pattern[0] == name[0]
	}
	return pattern[size:], n, p == r
}

// cutSet splits "[set]rest". Without a closing bracket "[" is itself.
func cutSet(pattern string) (set, rest string, ok bool) {
	i := 1
	if i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^') {
		i++
	}
	for start := i; i < len(pattern); i++ {
		switch {
		case pattern[i] == ']' && i > start:
			return pattern[1:i], pattern[i+1:], true
		case strings.HasPrefix(pattern[i:], "[:"):
			if end := strings.Index(pattern[i:], ":]"); end > 1 {
				i += end + 1
			}
		case pattern[i] == '\\':
			i++
		}
	}
	return "", "", false
}

// inSet reports whether a bracket expression has a character.
func inSet(set string, r rune) bool {
	negate := set != "" && (set[0] == '!' || set[0] == '^')
	if negate {
		set = set[1:]
	}
	found := false
	for set != "" {
		if strings.HasPrefix(set, "[:") {
			if end := strings.Index(set, ":]"); end > 1 {
				found = found || inClass(set[2:end], r)
				set = set[end+2:]
				continue
			}
		}
		lo, rest := setRune(set)
		hi := lo
		if len(rest) > 1 && rest[0] == '-' {
			hi, rest = setRune(rest[1:])
		}
		found = found || lo <= r && r <= hi
		set = rest
	}
	return found != negate
}

func setRune(set string) (rune, string) {
	if set[0] == '\\' && len(set) > 1 {
		set = set[1:]
	}
	r, n := utf8.DecodeRuneInString(set)
	return r, set[n:]
}

// inClass knows the POSIX classes, in the C locale of the recipe's image.
func inClass(name string, r rune) bool {
	between := func(lo, hi rune) bool { return lo <= r && r <= hi }
	upper, lower, digit := between('A', 'Z'), between('a', 'z'), between('0', '9')
	switch name {
	case "alnum":
		return upper || lower || digit
	case "alpha":
		return upper || lower
	case "digit":
		return digit
	case "lower":
		return lower
	case "upper":
		return upper
	case "xdigit":
		return digit || between('a', 'f') || between('A', 'F')
	case "punct":
		return between('!', '~') && !upper && !lower && !digit
	case "space":
		return r == ' ' || between('\t', '\r')
	}
	return false
}
