package imagehash_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
)

// Every code in the source is in the documentation.
func TestCodesAreDocumented(t *testing.T) {
	root := testenv.ModuleRoot(t)
	doc, err := os.ReadFile(filepath.Join(root, "docs", "parts", "images-codes.md"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, "imagehash", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile(`"((?:archive|layer|limit|json|digest|entry|descriptor|artifact|attestation|cosign)-[a-z-]+|[a-z]+-[a-z-]+)"`)
	use := regexp.MustCompile(`Code[:=]|Code:|code :?=|Code =|return d, "|tooBig|missing|Code: "`)
	n := 0
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") || strings.HasPrefix(filepath.Base(f), "diff") {
			continue
		}
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(string(src), "\n") {
			if !use.MatchString(line) {
				continue
			}
			for _, m := range code.FindAllStringSubmatch(line, -1) {
				n++
				if !strings.Contains(string(doc), "`"+m[1]+"`") {
					t.Errorf("%s: %s is not in the documentation", filepath.Base(f), m[1])
				}
			}
		}
	}
	if n < 60 {
		t.Errorf("only %d codes found in the source", n)
	}
}
