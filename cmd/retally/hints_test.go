package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/testenv"
)

// namedCommand is a command as a hint, an example or a help text names it: the
// program's name, a word and perhaps another.
var namedCommand = regexp.MustCompile(`\bretally ([a-z][a-z0-9-]*)(?: ([a-z][a-z0-9-]*))?`)

// afterName are words of prose that follow the program's name in a sentence.
var afterName = []string{
	"and", "at", "calls", "can", "computes", "fake", "has", "is", "itself", "knows", "or", "recounts", "report", "reports", "rules", "test", "works", "writes", "wrote",
}

// TestHintsNameCommands: every command that a text of the program names is there.
func TestHintsNameCommands(t *testing.T) {
	commands := map[string][]string{}
	var add func(prefix string, c *cobra.Command)
	add = func(prefix string, c *cobra.Command) {
		for _, sub := range c.Commands() {
			for _, name := range append([]string{sub.Name()}, sub.Aliases...) {
				commands[prefix] = append(commands[prefix], name)
				add(strings.TrimSpace(prefix+" "+name), sub)
			}
		}
	}
	root := (&app{}).rootCommand()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	add("", root)
	fault := func(text string) (faults []string) {
		for _, m := range namedCommand.FindAllStringSubmatch(text, -1) {
			switch {
			case slices.Contains(afterName, m[1]):
			case !slices.Contains(commands[""], m[1]):
				faults = append(faults, m[0])
			case m[2] != "" && len(commands[m[1]]) > 0 && !slices.Contains(commands[m[1]], m[2]):
				faults = append(faults, m[0])
			}
		}
		return faults
	}
	for text, want := range map[string]int{
		"use retally tdx replay": 0, "retally tdx frobnicate": 1, "retally frobnicate FILE": 1, "as retally computes it": 0, "retally check quote": 0,
	} {
		if got := fault(text); len(got) != want {
			t.Errorf("%q: faults %q, want %d", text, got, want)
		}
	}
	named := 0
	module := testenv.ModuleRoot(t)
	err := filepath.WalkDir(module, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git"):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Error(err)
			}
			// A YAML document's member has the name for its value.
			text = regexp.MustCompile(`(?m): retally$`).ReplaceAllString(text, ":")
			text = strings.Join(strings.Fields(text), " ")
			named += len(namedCommand.FindAllString(text, -1))
			for _, f := range fault(text) {
				t.Errorf("%s: %q names no command", files.Position(lit.Pos()), f)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if named < 50 {
		t.Errorf("found %d names of commands, the test looks at the wrong place", named)
	}
}
