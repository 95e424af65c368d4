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

// testRuns are the runs of tests in .ci/run, with the race detector or without.
type testRun struct {
	race  bool
	tests *regexp.Regexp // nil: all
	dirs  []string       // none: all
}

func (r *testRun) has(dir, test string) bool {
	return (r.tests == nil || r.tests.MatchString(test)) && (len(r.dirs) == 0 || slices.ContainsFunc(r.dirs, func(d string) bool {
		below, ok := strings.CutSuffix(d, "/...")
		return d == dir || ok && (dir == below || strings.HasPrefix(dir, below+"/"))
	}))
}

func testRuns(t *testing.T, root string) (runs []testRun) {
	t.Helper()
	script, err := os.ReadFile(filepath.Join(root, ".ci", "run"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^go run \./internal/testall( -long)?( -race)?(?: -run '?([^' \n]+)'?)?(.*)$`).FindAllStringSubmatch(string(script), -1) {
		r := testRun{race: m[2] != "", dirs: strings.Fields(m[4])}
		if m[3] != "" {
			r.tests = regexp.MustCompile(m[3])
		}
		runs = append(runs, r)
	}
	return runs
}

// TestRunsOfCI: tests that are skipped with the race detector run without it, and
// every room that works side by side is tested with it.
func TestRunsOfCI(t *testing.T) {
	root := testenv.ModuleRoot(t)
	runs := testRuns(t, root)
	own, side := 0, map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
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
			switch {
			case !ok:
			case !strings.HasSuffix(path, "_test.go"):
				side[dir] = side[dir] || worksSideBySide(fn)
			case strings.HasPrefix(fn.Name.Name, "Test") && asksForOwn(fn):
				own++
				if !slices.ContainsFunc(runs, func(r testRun) bool { return !r.race && r.has(dir, fn.Name.Name) }) {
					t.Errorf("%s of %s is skipped with -race, and .ci/run does not run it without", fn.Name.Name, dir)
				}
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for dir, yes := range side {
		if !yes {
			continue
		}
		n++
		if !slices.ContainsFunc(runs, func(r testRun) bool { return r.race && (r.has(dir, "Test") || dir == "./cmd/retally") }) {
			t.Errorf("%s starts goroutines, and .ci/run does not test it with -race", dir)
		}
	}
	if own < 10 || n < 8 {
		t.Errorf("%d tests and %d rooms found: the test looks at the wrong place", own, n)
	}
}

func worksSideBySide(fn *ast.FuncDecl) (found bool) {
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = true
		case *ast.CallExpr:
			sel, ok := n.Fun.(*ast.SelectorExpr)
			found = found || ok && sel.Sel.Name == "Go"
		}
		return !found
	})
	return found
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
