package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
)

// TestDependenciesDocumented keeps docs/dependencies.md complete: every module
// that go.mod requires directly has a row that begins with its path.
func TestDependenciesDocumented(t *testing.T) {
	root := testenv.ModuleRoot(t)
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join(root, "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	var named []string // what stands in the first cells
	for line := range strings.Lines(string(doc)) {
		if first, rest, ok := strings.Cut(strings.TrimPrefix(line, "| "), " | "); ok && strings.HasPrefix(line, "| ") && rest != "" {
			named = append(named, strings.FieldsFunc(first, func(r rune) bool { return strings.ContainsRune(" ,()", r) })...)
		}
	}
	direct := directModules(string(mod))
	if len(direct) < 5 {
		t.Fatalf("found %d direct requirements in go.mod, this test reads it wrongly", len(direct))
	}
	for _, module := range direct {
		found := false
		for _, name := range named {
			// A short name is enough for a sibling in the same row.
			found = found || name == module || strings.Contains(name, "/") && strings.HasSuffix(module, "/"+name)
		}
		if !found {
			t.Errorf("go.mod requires %s, and docs/dependencies.md has no row of it", module)
		}
	}
}

func TestDirectModules(t *testing.T) {
	got := directModules("module m\n\nrequire one.example/a v1.0.0\n\nrequire (\n\ttwo.example/b/v2 v2.1.0\n\tthree.example/c v0.1.0 // indirect\n)\n\nreplace x => y\n")
	if strings.Join(got, " ") != "one.example/a two.example/b/v2" {
		t.Errorf("got %q", got)
	}
}

// directModules reads the paths of the requirements that are not indirect.
func directModules(mod string) []string {
	var out []string
	inside := false
	for line := range strings.Lines(mod) {
		line = strings.TrimSpace(line)
		entry, single := strings.CutPrefix(line, "require ")
		switch {
		case line == "require (":
			inside = true
			continue
		case line == ")":
			inside = false
		case inside:
			entry, single = line, true
		}
		if fields := strings.Fields(entry); single && len(fields) >= 2 && !strings.Contains(entry, "// indirect") {
			out = append(out, fields[0])
		}
	}
	return out
}
