package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNamesDoNotMakeLines: a line break in a file's name does not put a line of
// its own among the errors.
func TestNamesDoNotMakeLines(t *testing.T) {
	const name = "a\nMATCH everything was recounted"
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("nothing that anybody knows"), 0o644); err != nil {
		t.Skipf("SKIP-VISIBLE this file system takes no line break in a name: %v", err)
	}
	path := filepath.Join(dir, name)
	for _, args := range [][]string{
		{"check", path},
		{"run", "-f", path},
		{"explain", "image/a/manifest", "--report", path},
		{"evidence", "verify", path, "--at", "2026-06-01T00:00:00Z"},
		{"evidence", "verify", path + ".absent"},
		{"tdx", "measure", "--profile", "secretvm", "--firmware", path, "--only", "mrtd"},
		{"tdx", "replay", path},
		{"inspect", "kernel", path},
		{"policy", "generate", "-f", path, "--settings", path},
		{"policy", "show", path},
		{"policy", "check", "--policy", path, "--request", path},
		{"manifest", "check", path},
		{"compare", path, path},
		{"image", "digest", path},
		{"verity", "dump", path},
		{"disk", path},
	} {
		var stdout, stderr bytes.Buffer
		code := execute(context.Background(), args, func(string) string { return "" }, strings.NewReader(""), &stdout, &stderr)
		if code == exitMatch {
			t.Errorf("%q: exit 0", args[:2])
		}
		for _, line := range strings.Split(stdout.String()+stderr.String(), "\n") {
			if strings.HasPrefix(strings.TrimPrefix(line, "retally: "), "MATCH") {
				t.Errorf("%q: the name made a line:\n%s%s", args[:2], stdout.String(), stderr.String())
			}
		}
	}
}

// TestOnePlaceChoosesExitCodes: a verb gives its report to finish, and nothing
// but exit.go makes an exit code of an outcome. The list has the verbs that do
// not end in a report yet.
func TestOnePlaceChoosesExitCodes(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no sources: %v", err)
	}
	for _, file := range files {
		if file == "exit.go" || strings.HasSuffix(file, "_test.go") {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(data), "outcomeError{"); n > 0 {
			t.Errorf("%s chooses %d exit codes: end in a.finish", file, n)
		}
	}
}
