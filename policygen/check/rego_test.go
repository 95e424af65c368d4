package check_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/tester"

	"github.com/retally/retally/internal/testenv"
)

// TestRego runs the unit tests that the rules carry.
func TestRego(t *testing.T) {
	modules := map[string]*ast.Module{}
	for _, name := range []string{"default.rego", "default_test.rego"} {
		file := filepath.Join(testenv.ModuleRoot(t), "policygen", "rules", name)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if modules[name], err = ast.ParseModuleWithOpts(name, string(text), ast.ParserOptions{RegoVersion: ast.RegoV1}); err != nil {
			t.Fatal(err)
		}
	}
	results, err := tester.NewRunner().SetModules(modules).SetDefaultRegoVersion(ast.RegoV1).RunTests(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for r := range results {
		ran++
		if !r.Pass() {
			t.Errorf("%s: %v", r.Name, r.Error)
		}
	}
	if ran < 20 {
		t.Errorf("%d Rego tests ran, want at least 20", ran)
	}
}
