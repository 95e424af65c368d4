package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra/doc"

	"github.com/retally/retally/internal/testenv"
)

// TestDocumentsRun executes every console block of the README and of docs/: a
// command is a line that starts with "$ ", what follows is its exact output.
// Commands of retally run in a folder that the demo made.
func TestDocumentsRun(t *testing.T) {
	testenv.OwnSpeed(t)
	exe := program(t)
	root := testenv.ModuleRoot(t)
	files, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Dir(exe)
	commands := 0
	for _, file := range append(files, filepath.Join(root, "README.md")) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if only := os.Getenv("RETALLY_DOCUMENT"); only != "" && only != filepath.Base(file) {
			continue
		}
		base := t.TempDir()
		env := append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"), "RETALLY_CACHE="+filepath.Join(base, "cache"), "NO_COLOR=1", "COLUMNS=80", "TMPDIR="+base)
		work := filepath.Join(base, "work")
		cmd := exec.Command(exe, "demo", "-q", "--dir", work)
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("demo: %v\n%s", err, out)
		}
		if filepath.Base(file) == "guides.md" {
			env = append(env, guideFolder(t, work)...)
		}
		text := string(data)
		for _, c := range consoleCommands(text) {
			commands++
			name := fmt.Sprintf("%s:%d", filepath.Base(file), c.line)
			if c.text == "go run ./internal/testall" {
				continue // this test is run by it
			}
			cmd := exec.Command("sh", "-c", c.text)
			cmd.Env, cmd.Dir = env, work
			if strings.HasPrefix(c.text, "go ") {
				cmd.Dir = root
			}
			var out, errOut bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errOut
			_ = cmd.Run() // a verdict may be bad; the output says which it is
			if code := cmd.ProcessState.ExitCode(); code != 0 && code != 1 && code != 3 {
				t.Errorf("%s: $ %s: exit code %d\n%s", name, c.text, code, errOut.String())
			}
			if c.want == "" {
				continue
			}
			if *update {
				text = strings.Replace(text, "$ "+c.text+"\n"+c.want, "$ "+c.text+"\n"+out.String(), 1)
				continue
			}
			if diff := cmp.Diff(c.want, out.String()); diff != "" {
				t.Errorf("%s: $ %s (-documented +real):\n%s", name, c.text, diff)
			}
		}
		if *update && text != string(data) {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if commands < 3 && os.Getenv("RETALLY_DOCUMENT") == "" {
		t.Errorf("found %d commands in the documents, the test looks at the wrong place", commands)
	}
}

type consoleCommand struct {
	line       int
	text, want string
}

func consoleCommands(doc string) []consoleCommand {
	var out []consoleCommand
	inside := false
	for i, line := range strings.Split(doc, "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case !inside:
		case strings.HasPrefix(line, "$ "):
			out = append(out, consoleCommand{line: i + 1, text: line[2:]})
		case len(out) > 0:
			out[len(out)-1].want += line + "\n"
		}
	}
	return out
}

// TestGeneratedDocs holds the man pages and the list of exit codes against the
// commands that they describe; -update writes them.
func TestGeneratedDocs(t *testing.T) {
	root := testenv.ModuleRoot(t)
	want := map[string][]byte{filepath.Join("docs", "exit-codes.md"): exitCodesPage()}
	dir := t.TempDir()
	a := &app{env: func(string) string { return "" }, stdin: strings.NewReader(""), stdout: new(bytes.Buffer), stderr: new(bytes.Buffer)}
	cmd := a.rootCommand()
	cmd.DisableAutoGenTag = true
	day, err := time.Parse(time.DateOnly, versionDay)
	if err != nil {
		t.Fatal(err)
	}
	header := &doc.GenManHeader{Title: "RETALLY", Section: "1", Source: "retally " + version, Manual: "retally", Date: &day}
	if err := doc.GenManTree(cmd, header, dir); err != nil {
		t.Fatal(err)
	}
	pages, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		data, err := os.ReadFile(filepath.Join(dir, p.Name()))
		if err != nil {
			t.Fatal(err)
		}
		want[filepath.Join("docs", "man", p.Name())] = data
	}
	if len(pages) < 15 {
		t.Errorf("got %d man pages, want one for each verb", len(pages))
	}
	if *update {
		if err := os.RemoveAll(filepath.Join(root, "docs", "man")); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range want {
		path := filepath.Join(root, name)
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Errorf("%v (go test ./cmd/retally -run GeneratedDocs -update writes it)", err)
			continue
		}
		if diff := cmp.Diff(string(data), string(got)); diff != "" {
			t.Errorf("%s is not what the commands say (-commands +file); -update writes it:\n%s", name, diff)
		}
	}
	old, err := filepath.Glob(filepath.Join(root, "docs", "man", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range old {
		if _, ok := want[filepath.Join("docs", "man", filepath.Base(path))]; !ok {
			t.Errorf("%s describes no command", path)
		}
	}
}

func exitCodesPage() []byte {
	var b bytes.Buffer
	b.WriteString("# Exit codes\n\nThe same for every verb. Scripts may rely on them.\n\n| code | meaning |\n|---|---|\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "| %d | %s |\n", e.code, e.what)
	}
	b.WriteString("\nWith `-o json`, a failure (code 2) is an object on stdout too:\n`{\"error\":{\"code\":2,\"op\":\"...\",\"path\":\"...\",\"message\":\"...\",\"hint\":\"...\"}}`.\n\nHow codes and the outcome in JSON go together is in [json.md](json.md#outcome-and-exit-code).\n")
	return b.Bytes()
}
