// Package archtest keeps the plan of the house: which room may import which,
// and what only one place may touch.
package archtest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
)

const module = "github.com/retally/retally"

// measuring are the rooms that compute; they know nothing of each other and of
// those who judge.
var measuring = []string{
	"contrastcli", "deployment", "endorsement", "evidence", "igvm", "imagehash", "manifest", "nix", "pcrmeasure", "policygen", "privatemode", "releases", "snpmeasure", "tdxmeasure", "verity",
}

// only lists packages that few may import, with those who may.
var only = map[string][]string{
	"github.com/google/go-containerregistry": {"imagehash"},
	"github.com/open-policy-agent/opa":       {"policygen/check"},
	"github.com/spf13/cobra":                 {"cmd/retally"},
	module + "/fixtures":                     {"cmd/retally", "internal/testrun"},
	"mvdan.cc/sh/v3":                         {"deployment/internal/shell"},
	"os/exec":                                {"cmd/retally", "nix", "internal/helpers", "internal/qtest", "internal/testenv", "internal/testall"},
	"sigs.k8s.io/yaml":                       {}, // the oracle of internal/yamldoc's tests
	"log":                                    {},
	"log/slog":                               {},
}

// testsOnly are packages that only tests may use: none is ever part of the
// program.
var testsOnly = []string{"internal/policytest", "internal/testrun", "internal/testtdx", "internal/testenv"}

// commands are the packages that are programs.
var commands = []string{"cmd/retally", "internal/testall"}

type pkg struct {
	ImportPath string
	Imports    []string
	Module     *struct{ Path string }
}

func load(t *testing.T) map[string]pkg {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,Module", "./...")
	cmd.Dir, cmd.Stderr = testenv.ModuleRoot(t), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	pkgs := map[string]pkg{}
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs[p.ImportPath] = p
	}
}

func ours(importPath string) (string, bool) { return strings.CutPrefix(importPath, module+"/") }

// in reports whether rel lies in a room: the room itself or below it.
func in(rel, room string) bool { return rel == room || strings.HasPrefix(rel, room+"/") }

func room(rel string) string {
	for _, m := range measuring {
		if in(rel, m) {
			return m
		}
	}
	return ""
}

// chain finds the shortest way of imports within our own packages from a
// package to one that satisfies the condition.
func chain(pkgs map[string]pkg, from string, bad func(string) bool) []string {
	type step struct{ path []string }
	queue, seen := []step{{[]string{from}}}, map[string]bool{from: true}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		for _, imp := range pkgs[s.path[len(s.path)-1]].Imports {
			if seen[imp] {
				continue
			}
			seen[imp] = true
			path := append(slices.Clone(s.path), imp)
			if bad(imp) {
				return path
			}
			if _, own := ours(imp); own {
				queue = append(queue, step{path})
			}
		}
	}
	return nil
}

func TestImportDirections(t *testing.T) {
	pkgs := load(t)
	for path := range pkgs {
		rel, own := ours(path)
		if !own {
			continue
		}
		if r := room(rel); r != "" {
			if c := chain(pkgs, path, func(imp string) bool {
				other, own := ours(imp)
				if !own {
					return false
				}
				to := room(other)
				return in(other, "pipeline") || in(other, "cmd") || in(other, "report") || to != "" && to != r
			}); c != nil {
				t.Errorf("the measuring room %s reaches %s:\n  %s", r, c[len(c)-1], strings.Join(c, "\n  imports "))
			}
		}
		if in(rel, "pipeline") || rel == "report" || room(rel) != "" || strings.HasPrefix(rel, "internal/") && !slices.Contains(commands, rel) {
			if c := chain(pkgs, path, func(imp string) bool { other, own := ours(imp); return own && in(other, "cmd") }); c != nil {
				t.Errorf("%s reaches a command:\n  %s", rel, strings.Join(c, "\n  imports "))
			}
		}
		for _, imp := range pkgs[path].Imports {
			for restricted, who := range only {
				if (imp == restricted || strings.HasPrefix(imp, restricted+"/")) && !strings.HasPrefix(rel, "fixtures") && !slices.ContainsFunc(who, func(w string) bool { return in(rel, w) }) && (restricted != "log" || imp == "log") {
					t.Errorf("%s imports %s, which is for %v only", rel, imp, who)
				}
			}
		}
	}
}

// TestNoTestsInProgram keeps what builds test data out of the program.
func TestNoTestsInProgram(t *testing.T) {
	pkgs := load(t)
	for _, rel := range testsOnly {
		if _, ok := pkgs[module+"/"+rel]; !ok {
			t.Errorf("there is no package %s", rel)
		}
	}
	if c := chain(pkgs, module+"/cmd/retally", func(imp string) bool {
		rel, own := ours(imp)
		return own && slices.ContainsFunc(testsOnly, func(test string) bool { return in(rel, test) }) || imp == "testing"
	}); c != nil {
		t.Errorf("the program has test code in it:\n  %s", strings.Join(c, "\n  imports "))
	}
}

// TestOneExit keeps arguments, exit and standard output in the commands.
func TestOneExit(t *testing.T) {
	root := testenv.ModuleRoot(t)
	exits := map[string]int{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git" || d.Name() == "vendor") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		isCommand := file.Name.Name == "main"
		ast.Inspect(file, func(n ast.Node) bool {
			if f, ok := n.(*ast.FuncDecl); ok && f.Name.Name == "init" && f.Recv == nil {
				t.Errorf("%s: func init: state belongs into values", path)
			}
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if !ok || x.Name != "os" {
				return true
			}
			switch sel.Sel.Name {
			case "Exit":
				exits[filepath.ToSlash(rel)]++
				fallthrough
			case "Args", "Stdout", "Stderr", "Stdin":
				if !isCommand {
					t.Errorf("%s: os.%s outside a command", path, sel.Sel.Name)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if exits["cmd/retally"] != 1 {
		t.Errorf("cmd/retally calls os.Exit %d times, want once, in main", exits["cmd/retally"])
	}
}
