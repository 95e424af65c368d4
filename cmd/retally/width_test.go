package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/fixtures"
	"github.com/retally/retally/internal/show"
)

// TestColumns: no line of a report is wider than COLUMNS says, or than 80 where
// nothing does. Only a word that is longer than a line, a digest or a path, may
// stick out, and then stands alone in it.
func TestColumns(t *testing.T) {
	base := "." // a folder's path is one word, however long it is
	t.Chdir(t.TempDir())
	demo := "demo"
	env := map[string]string{"RETALLY_CACHE": filepath.Join(base, "cache"), "COLUMNS": ""}
	lines := [][]string{
		{"demo", "--dir", demo},
		{"check", filepath.Join(demo, "images", "pause")},
		{"check", filepath.Join(demo, "manifest.published.json")},
		{"check", filepath.Join(demo, "vm", "cpu.html")},
		{"compare", filepath.Join(demo, "manifest.generated.json"), filepath.Join(demo, "manifest.published.json")},
		{"evidence", "verify", filepath.Join(demo, "vm", "cpu.html"), "--at", "2026-06-01T00:00:00Z", "--intel-root", filepath.Join(demo, "vm", "test-root.pem")},
	}
	for i, tamper := range fixtures.Tampers() {
		lines = append(lines, []string{"demo", "--dir", filepath.Join(base, fmt.Sprint(i)), "--tamper", tamper.Name})
	}
	for _, args := range lines {
		for _, c := range []struct {
			columns string
			width   int
		}{{"", 80}, {"80", 80}, {"60", 60}, {"120", 120}} {
			env["COLUMNS"] = c.columns
			_, out, stderr := inProcess(t, env, args...)
			if out == "" {
				t.Fatalf("%q: nothing was printed: %s", args, stderr)
			}
			widest := 0
			for line := range strings.Lines(out) {
				line = strings.TrimSuffix(line, "\n")
				n := show.Width(line)
				if n > c.width && len(strings.Fields(strings.TrimSuffix(line, " \\"))) > 1 && !namedValue(line) {
					t.Errorf("%q with COLUMNS=%s: %d columns: %s", args, c.columns, n, line)
				}
				if n <= c.width {
					widest = max(widest, n)
				}
			}
			if args[0] == "demo" && widest < c.width-15 {
				t.Errorf("%q with COLUMNS=%s: the widest line has %d columns, the width is not used", args, c.columns, widest)
			}
		}
	}
}

// namedValue reports whether a line is a register's name and its value, in the
// table of what evidence says: two words that belong together.
func namedValue(line string) bool {
	words := strings.Fields(line)
	return len(words) == 2 && len(words[1]) > 60 && strings.HasPrefix(line, "  ")
}
