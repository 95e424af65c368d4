// Package glob matches names with the patterns of a shell and of git.
package glob

import (
	"strings"
	"unicode/utf8"
)

// Path matches a "/"-separated path with a pattern in the same parts, as git
// does with a pattern that has a slash (gitignore(5)): a part "**" stands for
// any number of directories, at the end for everything inside one. The work is
// that of the product of both lengths.
func Path(pattern, path []string) bool {
	// reach[j]: the parts of the pattern so far fit the first j names.
	reach := make([]bool, len(path)+1)
	reach[0] = true
	for i, part := range pattern {
		next := make([]bool, len(path)+1)
		if part == "**" {
			open := false
			for j := range reach {
				if i == len(pattern)-1 && i > 0 {
					next[j] = open // something inside
				} else {
					next[j] = open || reach[j]
				}
				open = open || reach[j]
			}
		} else {
			for j, name := range path {
				next[j+1] = reach[j] && Name(part, name)
			}
		}
		reach = next
	}
	return reach[len(path)]
}

// Shell is Name as a shell expands pathnames: a leading dot must be written.
func Shell(pattern, name string) bool {
	if strings.HasPrefix(name, ".") && pattern != "" && strings.ContainsRune("*?[", rune(pattern[0])) {
		return false
	}
	return Name(pattern, name)
}

// Name matches one file name with one part of a pattern: "*", "?", bracket
// expressions, and a backslash that takes the meaning of what follows it.
func Name(pattern, name string) bool {
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
