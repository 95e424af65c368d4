package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// asGiven is the path of an error as the user typed it. Stages name files from
// the folder that they work in: what they call a is ./a or ../b/a of the command
// line. A path that is a word of the command line, or a file by itself, stays.
func (a *app) asGiven(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	var found []string
	for _, word := range a.args {
		if _, value, ok := strings.Cut(word, "="); ok && strings.HasPrefix(word, "-") {
			word = value
		}
		clean, want := filepath.Clean(word), filepath.Clean(path)
		switch {
		case word == path:
			return path
		case clean == want, strings.HasSuffix(clean, string(filepath.Separator)+want):
			found = append(found, word)
		case (a.verb == "check" || a.verb == "init") && !strings.HasPrefix(word, "-"):
			inside := filepath.Join(word, path)
			if _, err := os.Lstat(inside); err == nil {
				if _, err := os.Lstat(path); err != nil {
					found = append(found, inside)
				}
			}
		}
	}
	if found = slices.Compact(found); len(found) == 1 {
		return found[0]
	}
	return path
}

// once leaves the path of an error in its message once, as it was given. Each
// floor names the file that it read; what is said again is dropped:
// "read image x: read x: not an image" is "read image x: not an image".
func once(msg, path, given string) string {
	if path == "" || strings.Contains(path, ": ") || strings.ContainsAny(path+given, "\n\r") {
		return msg
	}
	lines := strings.Split(msg, "\n")
	for i, line := range lines {
		var out []string
		at := -1 // the segment that names it
		for _, s := range strings.Split(line, ": ") {
			begin, names := strings.CutSuffix(s, path)
			names = names && (begin == "" || strings.HasSuffix(begin, " "))
			place, located := strings.CutPrefix(s, path+":")
			switch {
			case names && at >= 0 && len(strings.Fields(begin)) <= 1:
				continue
			case names && at < 0:
				at, s = len(out), begin+given
			case located && at >= 0 && strings.HasSuffix(out[at], given):
				out[at] += ":" + place
				continue
			case located && at < 0:
				at, s = len(out), given+":"+place
			}
			out = append(out, s)
		}
		lines[i] = strings.Join(out, ": ")
	}
	return strings.Join(lines, "\n")
}
