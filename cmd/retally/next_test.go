package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// proposed is the command behind "Next: ", or the member next of a JSON document,
// "" where there is none.
func proposed(stdout string) string {
	var doc struct {
		Next string `json:"next"`
	}
	if strings.HasPrefix(strings.TrimSpace(stdout), "{") {
		if json.Unmarshal([]byte(stdout), &doc) == nil {
			return doc.Next
		}
		return ""
	}
	_, after, ok := strings.Cut("\n"+stdout, "\nNext: ")
	if !ok {
		return ""
	}
	var out []string
	for line := range strings.Lines(after) {
		line = strings.TrimSuffix(line, "\n")
		out = append(out, line)
		if !strings.HasSuffix(line, " \\") {
			break
		}
	}
	return strings.Join(out, "\n")
}

// runProposed runs a proposed command as printed, in a copy of the folder where
// it was proposed: what is printed must run, so it ends in a verdict.
func runProposed(dir string, env []string, command string) (problem string, err error) {
	base, err := os.MkdirTemp("", "next")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(base)
	work := filepath.Join(base, "work")
	if err := copyFiles(work, dir); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Dir, cmd.Env = work, append(slices.Clone(env), "TMPDIR="+base, "RETALLY_CACHE="+filepath.Join(base, "cache"))
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return "", err
	}
	if code := cmd.ProcessState.ExitCode(); code != exitMatch && code != exitDiffers && code != exitUnchecked {
		return "Next: " + command + "\nends with " + cmd.ProcessState.String() + "\n" + string(out), nil
	}
	return "", nil
}

// copyFiles copies a script's folder: a pipe, which would never end, is left out,
// and a script is executable, which an archive of texts cannot say.
func copyFiles(to, from string) error {
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(target, 0o755)
		case d.Type()&os.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case !d.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if filepath.Ext(path) == ".sh" {
			mode = 0o755
		}
		return os.WriteFile(target, data, mode)
	})
}

// TestProposed: the command is found as it stands, over several lines too.
func TestProposed(t *testing.T) {
	for _, tt := range []struct{ stdout, want string }{
		{"MATCH\n", ""},
		{"MATCH\n\nNext: retally demo\n  why\n", "retally demo"},
		{"Next: retally a \\\n  b \\\n  'c d'\n  why\n", "retally a \\\n  b \\\n  'c d'"},
		{`{"next": "retally x"}`, "retally x"},
		{`{"nope": 1}`, ""},
	} {
		if got := proposed(tt.stdout); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.stdout, got, tt.want)
		}
	}
	if problem, err := runProposed(t.TempDir(), os.Environ(), "exit 2"); err != nil || problem == "" {
		t.Errorf("a command that cannot run passes: %q, %v", problem, err)
	}
}
