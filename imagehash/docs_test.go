package imagehash_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
)

// sources parses the files of this package, those of Diff or the others.
func sources(t *testing.T, diff bool) map[string]*ast.File {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	if diff {
		more, err := filepath.Glob("internal/tarproof/*.go")
		if err != nil || len(more) == 0 {
			t.Fatalf("found %d sources of tarproof: %v", len(more), err)
		}
		names = append(names, more...)
	}
	out := map[string]*ast.File{}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") || (strings.HasPrefix(name, "diff") || filepath.Dir(name) != ".") != diff {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = f
	}
	if len(out) == 0 {
		t.Fatal("found no sources: this test looks in the wrong place")
	}
	return out
}

// literal is the text of a string literal.
func literal(e ast.Node) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return s, err == nil
}

// tableRows reads the rows of a document whose first cell is one name in
// backquotes, by section.
func tableRows(t *testing.T, doc string) (rows map[string][]string, section map[string]string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(testenv.ModuleRoot(t), "docs", doc))
	if err != nil {
		t.Fatal(err)
	}
	rows, section = map[string][]string{}, map[string]string{}
	current := ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if title, ok := strings.CutPrefix(line, "## "); ok {
			current = title
		}
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "| "), " |"), " | ")
		name := strings.Trim(cells[0], "`")
		if len(cells) != 4 || cells[0] != "`"+name+"`" {
			continue
		}
		if strings.Contains(name, "<") {
			continue // a family of names
		}
		if rows[name] != nil {
			t.Errorf("%s: %s has two rows", doc, name)
		}
		rows[name], section[name] = cells, current
	}
	return rows, section
}

var codeShape = regexp.MustCompile(`^[a-z]+(-[a-z0-9]+)+$`)

// TestCodesAreDocumented keeps docs/image-codes.md complete: every code in the
// sources has its row, in the table of what it is reported as, every row is of
// a code that exists, and the test images it names are those of
// docs/verifiers.md.
func TestCodesAreDocumented(t *testing.T) {
	notCodes := []string{"oci-layout", "oci-archive", "docker-archive", "skopeo-dir"}
	codes := map[string]bool{}
	reported := map[string]string{} // by a call of problem or note on the spot
	for _, f := range sources(t, false) {
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := literal(n); ok && codeShape.MatchString(s) && !slices.Contains(notCodes, s) {
				codes[s] = true
			}
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 1 {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			lit, isLit := call.Args[0].(*ast.CompositeLit)
			if !ok || !isLit {
				return true
			}
			for _, elt := range lit.Elts {
				kv, ok := elt.(*ast.KeyValueExpr)
				if !ok {
					continue
				}
				key, _ := kv.Key.(*ast.Ident)
				if code, ok := literal(kv.Value); ok && key != nil && key.Name == "Code" {
					codes[code] = true
					reported[code] = map[string]string{"problem": "Problems", "note": "Notes"}[method.Sel.Name]
				}
			}
			return true
		})
	}
	rows, section := tableRows(t, "image-codes.md")
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		if rows[code] == nil {
			t.Errorf("code %s is in the sources and not in docs/image-codes.md", code)
		} else if want := reported[code]; want != "" && section[code] != want {
			t.Errorf("code %s stands under %s in docs/image-codes.md, the sources report it under %s", code, section[code], want)
		}
	}
	verifiers, err := os.ReadFile(filepath.Join(testenv.ModuleRoot(t), verifiersDoc))
	if err != nil {
		t.Fatal(err)
	}
	for code, cells := range rows {
		if !codes[code] {
			t.Errorf("docs/image-codes.md lists %s, which is in no source", code)
		}
		example := strings.Trim(cells[2], "`")
		if cells[2] != "`"+example+"`" {
			continue // told in words
		}
		found := false
		for line := range strings.Lines(string(verifiers)) {
			if strings.HasPrefix(line, "| "+example+" | ") {
				cells := strings.Split(line, " | ")
				found = slices.Contains(strings.Split(cells[1], ", "), code)
			}
		}
		if !found {
			t.Errorf("docs/image-codes.md: the example %s of %s has no row with that code in %s", example, code, verifiersDoc)
		}
	}
	if len(codes) < 70 || len(reported) < 40 {
		t.Errorf("found %d codes, %d of them with what they are reported as: this test has lost sight of some", len(codes), len(reported))
	}
}

// diffKinds collects the kinds of causes: what is given to a leaf, what the
// tables of fields and records hold, and what class, hint and ignoreGroup tell
// apart. Names of JSON members that become kinds as they are cannot be listed.
func diffKinds(t *testing.T) (kinds, semantic, groups map[string]bool) {
	t.Helper()
	kinds, semantic, groups = map[string]bool{}, map[string]bool{}, map[string]bool{}
	strs := func(in map[string]bool, n ast.Node) {
		ast.Inspect(n, func(n ast.Node) bool {
			if s, ok := literal(n); ok && s != "" {
				in[s] = true
			}
			return true
		})
	}
	for _, f := range sources(t, true) {
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.KeyValueExpr:
					if key, ok := n.Key.(*ast.Ident); ok && (key.Name == "kind" || key.Name == "Kind") {
						if s, ok := literal(n.Value); ok {
							kinds[s] = true
						}
					}
				case *ast.CallExpr:
					if name, ok := n.Fun.(*ast.SelectorExpr); ok && (name.Sel.Name == "note" || name.Sel.Name == "whole") && len(n.Args) > 0 {
						if s, ok := literal(n.Args[0]); ok {
							kinds[s] = true
						}
					}
					if name, ok := n.Fun.(*ast.Ident); ok && name.Name == "one" && len(n.Args) > 1 {
						if s, ok := literal(n.Args[1]); ok {
							kinds[s] = true
						}
					}
				case *ast.CaseClause:
					for _, e := range n.List {
						switch fn.Name.Name {
						case "class":
							strs(semantic, e)
							strs(kinds, e)
						case "hint":
							strs(kinds, e)
						case "noteOfBuild":
							strs(kinds, e)
						case "ignoreGroup":
							strs(groups, e)
						}
					}
				case *ast.ReturnStmt:
					if len(n.Results) != 1 && len(n.Results) != 2 {
						return true
					}
					switch fn.Name.Name {
					case "recordKind", "nameKind", "linkKind", "config", "manifest", "indexes":
						if s, ok := literal(n.Results[0]); ok && s != "" {
							kinds[s] = true
						}
					case "ignoreGroup":
						strs(kinds, n)
					}
				}
				return true
			})
		}
	}
	return kinds, semantic, groups
}

// TestCauseKindsAreDocumented keeps docs/image-causes.md complete: every kind
// in the sources has its row with the class that the sources give it, and
// every row is of a kind that exists.
func TestCauseKindsAreDocumented(t *testing.T) {
	kinds, semantic, groups := diffKinds(t)
	rows, _ := tableRows(t, "image-causes.md")
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		cells := rows[kind]
		if cells == nil {
			t.Errorf("kind %s is in the sources and not in docs/image-causes.md", kind)
			continue
		}
		want := "packaging"
		if semantic[kind] {
			want = "semantic"
		}
		if cells[1] != want {
			t.Errorf("docs/image-causes.md: kind %s has the class %s, the sources say %s", kind, cells[1], want)
		}
	}
	for kind := range rows {
		if !kinds[kind] {
			t.Errorf("docs/image-causes.md lists %s, which is in no source", kind)
		}
	}
	data, err := os.ReadFile(filepath.Join(testenv.ModuleRoot(t), "docs", "image-causes.md"))
	if err != nil {
		t.Fatal(err)
	}
	for group := range groups {
		if !strings.Contains(string(data), "\n| `"+group+"` | `") {
			t.Errorf("docs/image-causes.md: the group %s of --ignore has no row", group)
		}
	}
	if len(kinds) < 40 || len(semantic) < 15 || len(groups) < 2 {
		t.Errorf("found %d kinds, %d semantic, %d groups: this test has lost sight of some", len(kinds), len(semantic), len(groups))
	}
}
