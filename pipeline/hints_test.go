package pipeline_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const hintsDoc = "../docs/why-it-differs.md"

// TestHintsAreDocumented keeps the promise that a report makes when it prints
// docs/why-it-differs.md#HINT: the page has that heading.
func TestHintsAreDocumented(t *testing.T) {
	var files []string // of this package and of those below it, where the stages are
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".go") {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	hints := map[string]string{} // anchor -> first place
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found, err := causeHints(file, src)
		if err != nil {
			t.Error(err)
		}
		for hint, place := range found {
			if _, ok := hints[hint]; !ok {
				hints[hint] = place
			}
		}
	}
	if len(hints) == 0 {
		t.Fatal("found no Cause with a Hint in the sources: this test looks in the wrong place")
	}
	doc, err := os.ReadFile(hintsDoc)
	if err != nil {
		t.Fatal(err)
	}
	have := headings(string(doc))
	for _, hint := range slices.Sorted(maps.Keys(hints)) {
		if n := have[hint]; n != 1 {
			t.Errorf("%s: hint %q has %d headings \"### %s\" in %s, want 1", hints[hint], hint, n, hint, hintsDoc)
		}
	}
}

// TestCauseHints shows that the collector sees every way in which the sources
// write a cause, and refuses a hint it cannot read.
func TestCauseHints(t *testing.T) {
	const src = `package p
var plain = Cause{Path: nil, Hint: "one"}
var far = []pipeline.Cause{{Hint: "six"}, pipeline.Cause{Hint: "seven"}}
var pointer = &Cause{Hint: "two"}
var list = []Cause{{Hint: "three"}, {Note: "none"}}
var byKey = map[Key][]Cause{"k": {{Hint: "four"}}}
var other = Problem{Hint: "not an anchor"}
var lacks = []Lack{{Hint: "neither"}}
func f() { var c Cause; c.Hint = "fi-ve"; var p Problem; p.Hint = "run again" }
`
	got, err := causeHints("p.go", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"fi-ve", "four", "one", "seven", "six", "three", "two"}
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	for _, src := range []string{
		"package p\nvar c = Cause{Hint: name}",
		"package p\nvar c = []Cause{{Hint: \"a\" + \"b\"}}",
		"package p\nvar c = Cause{Hint: \"Not An Anchor\"}",
	} {
		if _, err := causeHints("p.go", []byte(src)); err == nil {
			t.Errorf("%q: no error", src)
		}
	}
}

func TestHeadings(t *testing.T) {
	doc := "# Title\n### one\ntext ### two\n```\n### three\n```\n### Four Words\n### one\n"
	got := headings(doc)
	for name, want := range map[string]int{"one": 2, "two": 0, "three": 0, "four-words": 0, "Four Words": 1} {
		if got[name] != want {
			t.Errorf("%q: got %d, want %d", name, got[name], want)
		}
	}
}

// headings counts the third-level headings of a Markdown text, without those
// in fenced blocks.
func headings(doc string) map[string]int {
	out := map[string]int{}
	fenced := false
	for line := range strings.Lines(doc) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		if name, ok := strings.CutPrefix(line, "### "); ok && !fenced {
			out[strings.TrimSpace(name)]++
		}
	}
	return out
}

var anchor = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// assigned calls take for every x.Hint = "an-anchor". Whether x is a Cause is
// not known without types; the hints of other things are sentences.
func assigned(n *ast.AssignStmt, take func(hint string)) {
	if len(n.Lhs) != len(n.Rhs) {
		return
	}
	for i, l := range n.Lhs {
		sel, ok := l.(*ast.SelectorExpr)
		lit, isLit := n.Rhs[i].(*ast.BasicLit)
		if !ok || !isLit || sel.Sel.Name != "Hint" {
			continue
		}
		if hint, err := strconv.Unquote(lit.Value); err == nil && anchor.MatchString(hint) && strings.Contains(hint, "-") {
			take(hint)
		}
	}
}

// causeHints collects the Hint of every composite literal of type Cause, with
// its place. A hint that is no string literal, or no anchor, is an error: it
// would escape the check.
func causeHints(file string, src []byte) (map[string]string, error) {
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, file, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	hints := map[string]string{}
	var firstErr error
	take := func(lit *ast.CompositeLit) {
		for _, elt := range lit.Elts {
			kv, ok := elt.(*ast.KeyValueExpr)
			if !ok {
				continue
			}
			if name, ok := kv.Key.(*ast.Ident); !ok || name.Name != "Hint" {
				continue
			}
			place := fset.Position(kv.Pos()).String()
			text, ok := kv.Value.(*ast.BasicLit)
			if !ok || text.Kind != token.STRING {
				firstErr = fmt.Errorf("%s: the Hint of a Cause is no string literal, so that nobody can check that it is documented", place)
				continue
			}
			hint, err := strconv.Unquote(text.Value)
			if err != nil || !anchor.MatchString(hint) {
				firstErr = fmt.Errorf("%s: the Hint of a Cause is %s, want an anchor such as image-digest", place, text.Value)
				continue
			}
			if _, ok := hints[hint]; !ok {
				hints[hint] = place
			}
		}
	}
	// walk goes down composite literals with the type that their elements have
	// when they leave it out.
	var walk func(lit *ast.CompositeLit, typ ast.Expr)
	walk = func(lit *ast.CompositeLit, typ ast.Expr) {
		if lit.Type != nil {
			typ = lit.Type
		}
		var elem ast.Expr
		switch x := typ.(type) {
		case *ast.Ident:
			if x.Name == "Cause" {
				take(lit)
			}
		case *ast.SelectorExpr:
			if x.Sel.Name == "Cause" {
				take(lit)
			}
		case *ast.ArrayType:
			elem = x.Elt
		case *ast.MapType:
			elem = x.Value
		}
		if star, ok := elem.(*ast.StarExpr); ok {
			elem = star.X
		}
		for _, elt := range lit.Elts {
			if kv, ok := elt.(*ast.KeyValueExpr); ok {
				elt = kv.Value
			}
			if inner, ok := elt.(*ast.CompositeLit); ok && inner.Type == nil {
				walk(inner, elem)
			}
		}
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if n.Type != nil {
				walk(n, nil)
			}
		case *ast.AssignStmt:
			assigned(n, func(hint string) { hints[hint] = fset.Position(n.Pos()).String() })
		}
		return true
	})
	return hints, firstErr
}
