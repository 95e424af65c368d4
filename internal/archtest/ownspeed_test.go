package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
)

// TestOwnSpeedRuns: CI runs with the race detector, under which some tests are
// skipped. Each of them stands in a step of .ci/run that has none.
func TestOwnSpeedRuns(t *testing.T) {
	root := testenv.ModuleRoot(t)
	script, err := os.ReadFile(filepath.Join(root, ".ci", "run"))
	if err != nil {
		t.Fatal(err)
	}
	type run struct {
		tests *regexp.Regexp
		dirs  []string
	}
	var runs []run
	for _, m := range regexp.MustCompile(`(?m)^go run \./internal/testall -run '?([^' ]+)'? (.*)$`).FindAllStringSubmatch(string(script), -1) {
		runs = append(runs, run{regexp.MustCompile(m[1]), strings.Fields(m[2])})
	}
	n := 0
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		dir := "./" + filepath.ToSlash(rel)
		for _, decl := range parsed.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(fn.Name.Name, "Test") || !asksForOwn(fn) {
				continue
			}
			n++
			if !slices.ContainsFunc(runs, func(r run) bool {
				return r.tests.MatchString(fn.Name.Name) && slices.ContainsFunc(r.dirs, func(d string) bool {
					below, ok := strings.CutSuffix(d, "/...")
					return d == dir || ok && (dir == below || strings.HasPrefix(dir, below+"/"))
				})
			}) {
				t.Errorf("%s of %s is skipped with -race, and .ci/run does not run it without", fn.Name.Name, dir)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if n < 10 {
		t.Errorf("%d such tests found: the test looks at the wrong place", n)
	}
}

func asksForOwn(fn *ast.FuncDecl) (found bool) {
	ast.Inspect(fn, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if ok && (sel.Sel.Name == "OwnSpeed" || sel.Sel.Name == "OwnMemory") {
			found = true
		}
		return !found
	})
	return found
}
