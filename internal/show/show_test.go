package show_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/retally/retally/internal/show"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"plain name.yaml": "plain name.yaml", "Größe é 漢": "Größe é 漢",
		"\x1b[31mred\x1b[0m": `\x1b[31mred\x1b[0m`, "a\nb\rc\td": `a\nb\x0dc\td`,
		"a\u202eb": `a\u{202e}b`, "a\u200bb\ufeff": `a\u{200b}b\u{feff}`, "\xff\xfe": `\xff\xfe`,
		"\u009b2J": `\x9b2J`, "\x7f": `\x7f`, "a\u2028b": `a\u{2028}b`, "e\u0301": `e\u{301}`, "\u00a0": `\xa0`,
	} {
		if got := show.Text(in); got != want {
			t.Errorf("Text(%q): got %q, want %q", in, got, want)
		}
	}
}

func TestBlankLettersShow(t *testing.T) {
	for _, r := range "\u115f\u1160\u3164\uffa0\u2800\u17b4\U000e0041\ufe0f\U0001d159" {
		if got := show.Text("a" + string(r) + "b"); got != fmt.Sprintf(`a\u{%x}b`, r) {
			t.Errorf("U+%04X: got %q", r, got)
		}
	}
}

func TestJSON(t *testing.T) {
	for _, s := range []string{"plain", "Größe é 漢 🙂", "\u009b2J\u202e\u3164\u2800\uffa0\x7f", "\U000e0041", "a\nb\tc", "\x1b[31m", "e\u0301", "\ufffd"} {
		doc, err := json.MarshalIndent(map[string]string{"name": s}, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		out := show.JSON(doc)
		var back map[string]string
		if err := json.Unmarshal(out, &back); err != nil || back["name"] != s {
			t.Errorf("%q: got %q, %v", s, back["name"], err)
		}
		if bytes.ContainsFunc(out, func(r rune) bool {
			return r != '\n' && unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == 0x3164 || r == 0x2800
		}) {
			t.Errorf("%q became %q", s, out)
		}
	}
}

func TestMarkdown(t *testing.T) {
	for in, want := range map[string]string{
		"<script>": "&lt;script&gt;", "a|b": `a\|b`, "[x](y)": `\[x\]\(y\)`, "a\n# b": `a\\n\# b`, "`x`": "\\`x\\`",
	} {
		if got := show.Markdown(in); got != want {
			t.Errorf("Markdown(%q): got %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"a`b": "``a`b``", "`": "`` ` ``", "x|y": "`x\\|y`", "": ""} {
		if got := show.Code(in); got != want {
			t.Errorf("Code(%q): got %q, want %q", in, got, want)
		}
	}
}

func TestClip(t *testing.T) {
	if got := show.Clip("äöüß", 3); got != "äö…" {
		t.Errorf("got %q", got)
	}
	if got := show.Clip("äöü", 3); got != "äöü" {
		t.Errorf("got %q", got)
	}
}

func FuzzText(f *testing.F) {
	f.Add("\x1b]0;x\x07 <b> \u202e|")
	f.Fuzz(func(t *testing.T, s string) {
		for _, out := range []string{show.Text(s), show.Markdown(s), show.Code(s)} {
			if !utf8.ValidString(out) || strings.ContainsFunc(out, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }) {
				t.Fatalf("%q became %q", s, out)
			}
		}
		if strings.ContainsAny(show.Markdown(s), "<>\n") {
			t.Fatalf("%q opens a tag", show.Markdown(s))
		}
	})
}
