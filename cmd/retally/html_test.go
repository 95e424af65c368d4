package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/report"
)

// chromiumArgs keep a browser to itself: no network, no first page.
func chromiumArgs(t *testing.T) []string {
	t.Helper()
	return []string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--hide-scrollbars",
		"--disable-component-update", "--disable-sync", "--user-data-dir=" + filepath.Join(t.TempDir(), "profile"),
	}
}

// htmlPages are reports of every outcome, as pages.
func htmlPages(t *testing.T) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	demo := filepath.Join(dir, "demo")
	env := map[string]string{"RETALLY_CACHE": filepath.Join(dir, "cache")}
	out := map[string][]byte{}
	page := func(name string, args ...string) {
		t.Helper()
		path := filepath.Join(dir, name+".html")
		code, _, stderr := inProcess(t, env, append(args, "--report", "html="+path)...)
		if code != exitMatch && code != exitDiffers && code != exitUnchecked {
			t.Fatalf("%s: exit %d: %s", name, code, stderr)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = data
	}
	page("match", "demo", "--dir", demo)
	page("policy", "demo", "--dir", filepath.Join(dir, "policy"), "--tamper", "policy")
	page("names", "demo", "--dir", filepath.Join(dir, "names"), "--tamper", "names")
	page("layer", "demo", "--dir", filepath.Join(dir, "layer"), "--tamper", "layer")
	page("image", "check", filepath.Join(demo, "images", "pause"))
	page("evidence", "check", filepath.Join(demo, "vm", "cpu.html"))
	page("manifest", "check", filepath.Join(demo, "manifest.published.json"))
	page("release", "compare", filepath.Join(demo, "manifest.generated.json"), filepath.Join(demo, "manifest.published.json"))
	return out
}

var htmlTag = regexp.MustCompile(`<[^>]*>`)

// TestHTMLFirstLines: whoever opens the page reads first what was judged, against
// what, when, and what it means.
func TestHTMLFirstLines(t *testing.T) {
	wants := map[string][]string{
		"match":    {"MATCH", "Judged: the built-in example deployment", "Against: coordinator/answer.json, coordinator/manifest.json, deployment.yaml, ", "manifest.published.json", "When: certificates as of 2026-06-01T00:00:00Z", "For you: a test: ", "no hash can say"},
		"policy":   {"DIFFERS", "Judged: ", "Against: ", "When: ", "do not rely on it before you know why"},
		"names":    {"DIFFERS", "the published side accepts more than it should"},
		"image":    {"NOT FULLY CHECKED", "Judged: Recognized: image layout pause", "Against: nothing: no published value was given", "When: no date", "nothing was judged yet"},
		"manifest": {"NOT FULLY CHECKED", "For you: this is no all-clear"},
	}
	pages := htmlPages(t)
	for name, want := range wants {
		_, body, ok := strings.Cut(string(pages[name]), "<body>")
		if !ok {
			t.Fatalf("%s: no body", name)
		}
		var lines []string
		for line := range strings.Lines(body) {
			if text := strings.TrimSpace(html.UnescapeString(htmlTag.ReplaceAllString(line, ""))); text != "" {
				lines = append(lines, text)
			}
		}
		first := strings.Join(lines[:3], "\n")
		for _, w := range want {
			if !strings.Contains(first, w) {
				t.Errorf("%s: the first three lines lack %q:\n%s", name, w, first)
			}
		}
		for _, basis := range []string{"rebuilt", "recomputed", "replayed", "endorsed", "assumed", "copied"} {
			if !strings.Contains(string(pages[name]), "<dt>"+basis+"</dt>") {
				t.Errorf("%s: the legend lacks %s", name, basis)
			}
		}
	}
	// The only addresses are those of the published documents.
	for name, data := range pages {
		for _, m := range regexp.MustCompile(`(?:href|src|action|url)\s*[=(]\s*["']?([^"')\s>]*)`).FindAllSubmatch(data, -1) {
			link := string(m[1])
			doc, ok := strings.CutPrefix(link, report.DocsURL)
			if !ok {
				t.Errorf("%s: links to %s", name, link)
				continue
			}
			doc, anchor, _ := strings.Cut(doc, "#")
			path := filepath.Join(testenv.ModuleRoot(t), "docs", doc)
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: %v", name, err)
			} else if known := strings.Join(anchors(t, path), "\n") + "\n"; anchor != "" && !strings.Contains(known, anchor+"\n") {
				t.Errorf("%s: %s has no heading %s", name, doc, anchor)
			}
		}
	}
}

// axeRun asks axe-core for everything that breaks WCAG 2.2 AA, and the browser
// whether the page is wider than the window. All folds are open: what is hidden
// is not looked at.
const axeRun = `<script>%s</script><script>
for (const d of document.querySelectorAll("details")) d.open = true;
axe.run(document, {runOnly: {type: "tag", values: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}, rules: {"target-size": {enabled: true}}, resultTypes: ["violations"]}).then(r => {
  const top = parent.document, pre = top.createElement("pre");
  pre.className = "axe";
  pre.textContent = JSON.stringify({name: "%s", ran: r.passes.length, width: innerWidth, wide: document.documentElement.scrollWidth, dark: matchMedia("(prefers-color-scheme: dark)").matches, violations: r.violations.map(v => v.id + ": " + v.nodes.slice(0, 3).map(n => n.html + " " + n.failureSummary).join(" | "))});
  top.body.append(pre);
});
</script>`

// TestHTMLAccessible: axe-core finds nothing in a page of any outcome, at the
// width of a desk and of a phone, light and dark, and nothing is cut off.
func TestHTMLAccessible(t *testing.T) {
	chromium := testenv.Oracle(t, "chromium")
	file := os.Getenv("RETALLY_AXE")
	if file == "" || file == "unavailable" {
		if file == "" {
			testenv.Missing(t, "axe-core (RETALLY_AXE names axe.min.js)")
		}
		t.Skip("SKIP-VISIBLE oracle: axe-core cannot be had here")
	}
	axe, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pages := htmlPages(t)
	// The rule against pictures of text is not axe's; the one that is must bite.
	pages["bad"] = bytes.Replace(pages["match"], []byte("<main>"), []byte(`<main><p style="color:#eee;background:#fff">faint</p><div style="width:900px">wide</div>`), 1)
	for _, look := range []struct {
		width int
		dark  bool
	}{{1280, false}, {390, false}, {390, true}} {
		seen := lookAt(t, chromium, axe, pages, look.width, look.dark)
		for name := range pages {
			got, ok := seen[name]
			if !ok || got.Width != look.width || got.Dark != look.dark || got.Ran < 10 {
				t.Fatalf("%s: the page was not looked at as asked for: %+v", name, got)
			}
			if name == "bad" {
				if len(got.Violations) == 0 || look.width == 390 && got.Wide <= got.Width {
					t.Errorf("a faint and wide page passes: %+v", got)
				}
				continue
			}
			if got.Wide > got.Width {
				t.Errorf("%s: %d pixels wide in a window of %d", name, got.Wide, look.width)
			}
			for _, v := range got.Violations {
				t.Errorf("%s at %d, dark %t: %s", name, look.width, look.dark, v)
			}
		}
	}
}

// axeSeen is what axe-core found in a page.
type axeSeen struct {
	Name             string
	Ran, Width, Wide int
	Dark             bool
	Violations       []string
}

// lookAt opens pages in frames of a width, since a browser's window has a least
// one that is wider than a phone, and asks axe-core in each.
func lookAt(t *testing.T, chromium string, axe []byte, pages map[string][]byte, width int, dark bool) map[string]axeSeen {
	t.Helper()
	var page bytes.Buffer
	page.WriteString(`<!DOCTYPE html><html lang="en"><head><title>frames</title></head><body><script>
function show(source, width) { const f = document.createElement("iframe"); f.style = "border:0"; f.width = width; f.height = 1600; f.srcdoc = source; document.body.append(f); }
`)
	for name, data := range pages {
		data = regexp.MustCompile(`<meta http-equiv="Content-Security-Policy"[^>]*>`).ReplaceAll(data, nil)
		data = bytes.Replace(data, []byte("</body>"), append(fmt.Appendf(nil, axeRun, axe, name), "</body>"...), 1)
		text, err := json.Marshal(string(data)) // escapes < and >, so that no tag ends the script
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&page, "show(%s, %d);\n", text, width)
	}
	page.WriteString("</script></body></html>")
	path := filepath.Join(t.TempDir(), "frames.html")
	if err := os.WriteFile(path, page.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	scheme := "1"
	if dark {
		scheme = "0"
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, chromium, append(chromiumArgs(t), "--window-size=1400,1700", "--blink-settings=preferredColorScheme="+scheme, "--virtual-time-budget=120000", "--dump-dom", "file://"+path)...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("chromium: %v", err)
	}
	seen := map[string]axeSeen{}
	parts := strings.Split(string(out), `<pre class="axe">`)
	for _, part := range parts[1:] {
		text, _, _ := strings.Cut(part, "</pre>")
		var got axeSeen
		if err := json.Unmarshal([]byte(html.UnescapeString(text)), &got); err != nil {
			t.Fatal(err)
		}
		seen[got.Name] = got
	}
	return seen
}
