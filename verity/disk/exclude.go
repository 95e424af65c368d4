package disk

import (
	"strings"

	"github.com/retally/retally/verity/internal/glob"
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
	// unfetched is the same pattern as lfs.fetchexclude takes it: by the rules
	// of gitignore(5), so that one without a slash (anywhere) fits names in
	// every folder.
	unfetched []string
	anywhere  bool
}

// ParseExclude splits an excluded_files value (words separated by commas or
// white space) into patterns.
func ParseExclude(value string) []Glob {
	var globs []Glob
	for _, word := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' }) {
		g := Glob{text: word, dirOnly: strings.HasSuffix(word, "/")}
		// What leads out of the checkout or is all of it removes nothing here.
		if !strings.HasPrefix(word, "/") {
			for part := range strings.SplitSeq(word, "/") {
				if part != "" && part != "." {
					g.parts = append(g.parts, part)
				}
			}
		}
		if unfetched := strings.Trim(word, "/"); unfetched != "" {
			g.anywhere = !strings.Contains(strings.TrimSuffix(word, "/"), "/")
			g.unfetched = strings.Split(unfetched, "/")
		}
		if g.parts != nil || g.unfetched != nil {
			globs = append(globs, g)
		}
	}
	return globs
}

// Unfetched reports whether the recipe's lfs.fetchexclude keeps the content of
// a file out of the checkout: the pattern fits its path or a folder above it.
// What Match does not name too stays on the disk, as a Git LFS pointer where
// the commit has one (ran: git-lfs 3.3.0).
func (g Glob) Unfetched(path string) bool {
	if g.unfetched == nil {
		return false
	}
	names := strings.Split(path, "/")
	for i := range names {
		if g.dirOnly && i == len(names)-1 {
			break
		}
		if g.anywhere {
			if glob.Name(g.unfetched[0], names[i]) || g.unfetched[0] == "**" {
				return true
			}
		} else if glob.Path(g.unfetched, names[:i+1]) {
			return true
		}
	}
	return false
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
	if g.parts == nil || len(names) != len(g.parts) {
		return false
	}
	for i, name := range names {
		if !glob.Shell(g.parts[i], name) {
			return false
		}
	}
	return true
}
