package explain_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/tdxmeasure/explain"
)

// TestQuirksAreDocumented: every id that a search may print stands in
// docs/why-it-differs.md; numbers stand there as N.
func TestQuirksAreDocumented(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(testenv.ModuleRoot(t), "docs", "why-it-differs.md"))
	if err != nil {
		t.Fatal(err)
	}
	family := regexp.MustCompile(`^(acpi|qemu)-[0-9]+\.[0-9]+$`)
	number := regexp.MustCompile(`[0-9]+`)
	ids := 0
	for _, q := range explain.Quirks() {
		id := q.ID
		switch {
		case family.MatchString(id):
			id = family.FindStringSubmatch(id)[1] + "-FAMILY"
		case !strings.Contains(id, "com1") && !strings.HasPrefix(id, "rtmr3-"):
			id = number.ReplaceAllString(id, "N")
		}
		ids++
		if !strings.Contains(string(data), "`"+id+"`") {
			t.Errorf("%s: %s is not in docs/why-it-differs.md", q.Register, id)
		}
	}
	if ids < 100 {
		t.Errorf("%d known deviations, want more: this test looks in the wrong place", ids)
	}
}
