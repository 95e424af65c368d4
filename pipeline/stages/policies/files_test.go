package policies_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/pipeline/stages/policies"
)

// FuzzFileName makes file names out of what YAML calls its workloads: each is
// one file's in its folder, and no two are the same.
func FuzzFileName(f *testing.F) {
	f.Add("pod-a", "pod-A")
	f.Add("../../etc/passwd", "..")
	f.Add("a\x00b", "a/b")
	f.Add(strings.Repeat("x", 500), strings.Repeat("x", 501))
	f.Fuzz(func(t *testing.T, a, b string) {
		taken := map[string]bool{}
		first, second, third := policies.FileName(a, taken), policies.FileName(b, taken), policies.FileName(a, taken)
		for _, name := range []string{first, second, third} {
			if !filepath.IsLocal(name) || filepath.Base(name) != name || strings.HasPrefix(name, ".") || len(name) > 140 {
				t.Errorf("%q is no good file name", name)
			}
		}
		if strings.EqualFold(first, second) || strings.EqualFold(first, third) || strings.EqualFold(second, third) {
			t.Errorf("%q, %q and %q are one file", first, second, third)
		}
	})
}
