package disk_test

import (
	"strings"
	"testing"

	"github.com/retally/retally/verity/disk"
)

// A pattern of any bytes matches or not, in bounded time, and the plain name
// always matches itself.
func FuzzGlob(f *testing.F) {
	f.Add("pytorch_model.*", "pytorch_model.bin")
	f.Add("[!a-z]*[[:digit:]]?", "A-9x")
	f.Add(strings.Repeat("*a", 30)+"b", strings.Repeat("a", 60))
	f.Fuzz(func(t *testing.T, pattern, path string) {
		globs := disk.ParseExclude(pattern)
		for _, g := range globs {
			g.Match(path, false)
			g.Match(path, true)
		}
		if len(globs) == 1 && !strings.ContainsAny(pattern, "*?[\\, \t\n") && pattern == strings.Trim(pattern, "./ ,\t\n\v\f\r") && !strings.Contains(pattern, "//") && !strings.Contains(pattern, "/./") {
			if !globs[0].Match(pattern, true) {
				t.Fatalf("%q does not match itself", pattern)
			}
		}
	})
}

// A damaged checkpoint is refused, never believed and never a panic.
func FuzzCheckpoint(f *testing.F) {
	f.Add([]byte(`{"version":2,"key":"","chunk":4096,"offset":4096,"fold":{"blocks":1,"open":null},"block0":null,"firsts":null,"table":0,"read":null,"sum":"00"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		// Nobody guesses a SHA-256 of the state.
		if offset, err := disk.ParseState(b); err == nil {
			t.Fatalf("a made-up checkpoint at %d is accepted", offset)
		}
	})
}
