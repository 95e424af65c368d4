package policies

import (
	"bytes"
	"path"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSplitYAML(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		parts      []string
		keepFirst  string // what is left if only the first part is kept
	}{
		{"empty", "", []string{""}, ""},
		{"one", "a: 1\n", []string{"a: 1\n"}, "a: 1\n"},
		{"leading marker", "---\na: 1\n", []string{"---\na: 1\n"}, "---\na: 1\n"},
		{"two", "a: 1\n---\nb: 2\n", []string{"a: 1\n", "---\nb: 2\n"}, "a: 1\n\n\n"},
		{"on the marker's line", "a: 1\n--- {b: 2}\n", []string{"a: 1\n", "--- {b: 2}\n"}, "a: 1\n\n"},
		{"CRLF", "a: 1\r\n---\r\nb: 2", []string{"a: 1\r\n", "---\r\nb: 2"}, "a: 1\r\n\n"},
		{"no marker", "a: |\n  ---\n----\n", []string{"a: |\n  ---\n----\n"}, "a: |\n  ---\n----\n"},
		{"marker at the end", "a: 1\n---", []string{"a: 1\n", "---"}, "a: 1\n"},
	} {
		p := splitYAML([]byte(tt.text))
		var got []string
		for i := range p.starts {
			got = append(got, string(p.text(i)))
		}
		if strings.Join(got, "|") != strings.Join(tt.parts, "|") {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.parts)
		}
		if left := string(p.only(map[int]bool{0: true})); left != tt.keepFirst {
			t.Errorf("%s: kept %q, want %q", tt.name, left, tt.keepFirst)
		}
	}
}

// checkParts: all parts together are the text, and what is kept stands on the
// line where it stood.
func checkParts(data []byte, pick func(i int) bool) string {
	p := splitYAML(data)
	keep := map[int]bool{}
	var all []byte
	for i := range p.starts {
		all = append(all, p.text(i)...)
		keep[i] = pick(i)
	}
	if !bytes.Equal(all, data) {
		return "the parts are not the text"
	}
	left := bytes.Split(p.only(keep), []byte("\n"))
	lines := bytes.Split(data, []byte("\n"))
	if len(left) != len(lines) {
		return "lines were lost"
	}
	for i, line := range lines {
		switch {
		case keep[p.of(i+1)] && !bytes.Equal(left[i], line) && i+1 < len(lines):
			return "a kept line was changed"
		case !keep[p.of(i+1)] && len(left[i]) > 0:
			return "a line was left that is not wanted"
		}
	}
	return ""
}

func TestSplitYAMLProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SliceOfN(rapid.SampledFrom([]string{"---", "--- x", "----", "a: 1", "", " ---", "\r", "--"}), 0, 12).Draw(t, "lines")
		mask := rapid.Uint16().Draw(t, "mask")
		if why := checkParts([]byte(strings.Join(text, "\n")), func(i int) bool { return mask>>(i%16)&1 == 1 }); why != "" {
			t.Fatal(why)
		}
	})
}

func FuzzSplitYAML(f *testing.F) {
	f.Add([]byte("a: 1\n---\nb: 2\n"), uint8(1))
	f.Add([]byte("---\r\n---\n---"), uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, mask uint8) {
		if why := checkParts(data, func(i int) bool { return mask>>(i%8)&1 == 1 }); why != "" {
			t.Error(why)
		}
	})
}

// Names come from the deployment: none of them leads out of the folder, and
// two workloads never share a file.
func TestArtifactNames(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"a", "..", "../../etc/passwd", "a_b", "a/b", "a\\b", "", "default", "\x00", strings.Repeat("x", 4000), strings.Repeat("x", 4001)} {
		for _, namespace := range []string{"n", "n_a", "..", "/"} {
			got := artifactName("Pod", namespace, name)
			if path.Base(got) != got || strings.ContainsAny(got, "/\\\x00") || len(got) > 200 || strings.HasPrefix(got, ".") {
				t.Errorf("%q: got %q, which is no plain file name", name, got)
			}
			if other, dup := seen[got]; dup && name != "" && name != "default" {
				t.Errorf("%q and %q are both %q", other, namespace+"/"+name, got)
			}
			seen[got] = namespace + "/" + name
		}
	}
}

func TestReplaceWord(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"namespace: app\n", "namespace: x\n"},
		{"apps/v1 app-1 1-app web_app", "apps/v1 app-1 1-app web_app"},
		{"svc.app.svc --ns=app \"app\"", "svc.x.svc --ns=x \"x\""},
		{"app", "x"},
		{"", ""},
		{"appapp app", "appapp x"},
	} {
		if got := string(replaceWord([]byte(tt.text), "app", "x")); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.text, got, tt.want)
		}
	}
}
