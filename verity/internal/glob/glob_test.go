package glob_test

import (
	"strings"
	"testing"

	"github.com/retally/retally/verity/internal/glob"
)

func TestPath(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"a/b", "a/b", true},
		{"a/b", "a/b/c", false},
		{"a/*", "a/b", true},
		{"a/*", "a/b/c", false},
		{"a/**", "a", false},
		{"a/**", "a/b", true},
		{"a/**", "a/b/c", true},
		{"**/c", "c", true},
		{"**/c", "a/b/c", true},
		{"a/**/c", "a/c", true},
		{"a/**/c", "a/x/y/c", true},
		{"a/**/c", "b/x/c", false},
		{"*/.h", "a/.h", true},
		{"**", "a/b", true},
	} {
		if got := glob.Path(strings.Split(c.pattern, "/"), strings.Split(c.path, "/")); got != c.want {
			t.Errorf("%q matches %q: got %v, want %v", c.pattern, c.path, got, c.want)
		}
	}
}

// Neither part of a pattern costs more than the product of both lengths.
func FuzzMatch(f *testing.F) {
	f.Add("a/**/[!b]*", "a/x/c")
	f.Add("**/**/**/a", "b/b/b/b")
	f.Add("[[:alpha:]-\\", "-")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		if len(pattern)*len(path) > 1<<16 {
			t.Skip()
		}
		names := strings.Split(path, "/")
		if got := glob.Path(names, names); !strings.ContainsAny(path, "*?[\\") && !got {
			t.Errorf("%q does not match itself", path)
		}
		glob.Path(strings.Split(pattern, "/"), names)
		if glob.Shell(pattern, path) && !glob.Name(pattern, path) {
			t.Errorf("a shell takes %q for %q and git does not", path, pattern)
		}
	})
}
