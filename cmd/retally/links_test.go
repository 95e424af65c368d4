package main

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
)

var (
	markdownLink   = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	markdownInline = regexp.MustCompile("`[^`]*`")
	headingNoise   = regexp.MustCompile(`[^\p{L}\p{N}_\- ]`)
)

// TestDocumentLinks follows every link within the documents: the file is there,
// and so is the heading. Anchors are made as the common code hosts make them.
func TestDocumentLinks(t *testing.T) {
	root := testenv.ModuleRoot(t)
	files, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	top, err := filepath.Glob(filepath.Join(root, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	links := 0
	for _, file := range append(files, top...) {
		for _, line := range proseLines(t, file) {
			for _, m := range markdownLink.FindAllStringSubmatch(markdownInline.ReplaceAllString(line, ""), -1) {
				u, err := url.Parse(m[1])
				if err != nil || u.IsAbs() {
					continue
				}
				links++
				target := file
				if u.Path != "" {
					target = filepath.Join(filepath.Dir(file), filepath.FromSlash(u.Path))
				}
				if _, err := os.Stat(target); err != nil {
					t.Errorf("%s: link to %s: %v", filepath.Base(file), m[1], err)
					continue
				}
				if u.Fragment != "" && !slices.Contains(anchors(t, target), u.Fragment) {
					t.Errorf("%s: link to %s: no such heading", filepath.Base(file), m[1])
				}
			}
		}
	}
	if links < 50 {
		t.Errorf("found %d links, the test looks at the wrong place", links)
	}
}

// proseLines are the lines of a document outside of its code blocks.
func proseLines(t *testing.T, file string) []string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	inside := false
	for line := range strings.SplitSeq(string(data), "\n") {
		if strings.HasPrefix(line, "```") {
			inside = !inside
		} else if !inside {
			out = append(out, line)
		}
	}
	return out
}

// anchors are what a document's headings can be linked as.
func anchors(t *testing.T, file string) []string {
	t.Helper()
	var out []string
	for _, line := range proseLines(t, file) {
		text := strings.TrimLeft(line, "#")
		if text == line || !strings.HasPrefix(text, " ") {
			continue
		}
		text = headingNoise.ReplaceAllString(strings.ToLower(strings.TrimSpace(text)), "")
		out = append(out, strings.ReplaceAll(text, " ", "-"))
	}
	return out
}
