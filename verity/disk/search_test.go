package disk_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/erofs"
)

// searchDir makes a small model.
func searchDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"config.json": []byte("{\n  \"a\": 1\n}\n"), "weights.bin": bytes.Repeat([]byte("w"), 9000), "sub/vocab.txt": bytes.Repeat([]byte("word\n"), 300),
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func measureDir(t *testing.T, dir string) disk.Result {
	t.Helper()
	res, err := disk.Measure(context.Background(), disk.Options{Dir: dir, Profile: erofs.Profile191})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// search looks in a directory for the disk of another one.
func search(t *testing.T, mine string, want disk.Result, change func(*disk.Want)) *disk.Searched {
	t.Helper()
	w := disk.Want{Root: want.RootHash.Digest, File: want.FileSHA256.Digest, HashOffset: want.HashOffset, Names: []string{"tiny"}}
	if change != nil {
		change(&w)
	}
	found, err := disk.Search(context.Background(), disk.Options{Dir: mine, Profile: erofs.Profile191}, measureDir(t, mine), w)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Deviations of the auditor's directory are named and proved; what nobody can
// know is not.
func TestSearchDirectory(t *testing.T) {
	change := func(f func(dir string) error) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := f(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	write := func(name, data string) func(t *testing.T, dir string) {
		return change(func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644) })
	}
	for _, tt := range []struct {
		name   string
		mine   func(t *testing.T, dir string)
		text   string
		proved bool
	}{
		{"a file too many", write(".DS_Store", "x"), ".DS_Store: without it", true},
		{"a file of any name", write("notes.md", "x"), "notes.md was left out by the publisher", true},
		{"another mode", change(func(dir string) error { return os.Chmod(filepath.Join(dir, "config.json"), 0o755) }), "config.json: mode 0755 in place of 0644", true},
		{"another name", change(func(dir string) error {
			return os.Rename(filepath.Join(dir, "config.json"), filepath.Join(dir, "config2.json"))
		}), "config2.json: a name differs: as config.json", true},
		{"line ends", change(func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "config.json"), []byte("{\r\n  \"a\": 1\r\n}\r\n"), 0o644)
		}), "text files have CRLF", true},
		{"another content", change(func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "config.json"), []byte("{\n  \"a\": 2\n}\n"), 0o644)
		}), "none of ", false},
		{"a missing file", change(func(dir string) error { return os.Remove(filepath.Join(dir, "config.json")) }), "none of ", false},
		{"two deviations of other kinds", change(func(dir string) error {
			if err := os.Chmod(filepath.Join(dir, "config.json"), 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "sub/vocab.txt"), []byte("other\n"), 0o644)
		}), "none of ", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			published, mine := searchDir(t), searchDir(t)
			tt.mine(t, mine)
			found := search(t, mine, measureDir(t, published), nil)
			if len(found.Reasons) != 1 || found.Reasons[0].Proved != tt.proved || !strings.HasPrefix(found.Reasons[0].Text, tt.text) {
				t.Errorf("got %+v", found)
			}
		})
	}
}

// A root hash that nothing gives is never proved, whatever else is published.
func TestSearchNothing(t *testing.T) {
	dir := searchDir(t)
	res := measureDir(t, dir)
	for name, change := range map[string]func(*disk.Want){
		"a root of its own":           func(w *disk.Want) { w.Root, w.File = digest.SHA256.Sum([]byte("x")), digest.SHA256.Sum([]byte("y")) },
		"no file hash":                func(w *disk.Want) { w.Root, w.File = digest.SHA256.Sum([]byte("x")), digest.Digest{} },
		"no hash offset":              func(w *disk.Want) { w.Root, w.File, w.HashOffset = digest.SHA256.Sum([]byte("x")), digest.Digest{}, 0 },
		"a root of another algorithm": func(w *disk.Want) { w.Root, w.File = digest.SHA512.Sum([]byte("x")), digest.Digest{} },
		"another file hash":           func(w *disk.Want) { w.File = digest.SHA256.Sum([]byte("x")) },
		"an absurd hash offset": func(w *disk.Want) {
			w.Root, w.File, w.HashOffset = digest.SHA256.Sum([]byte("x")), digest.Digest{}, 1<<62
		},
	} {
		found := search(t, dir, res, change)
		for _, r := range found.Reasons {
			if r.Proved {
				t.Errorf("%s: %q is said to be proved", name, r.Text)
			}
		}
		if len(found.Reasons) == 0 {
			t.Errorf("%s: nothing is said", name)
		}
	}
}

// Every anchor that a search gives has its section.
func TestSearchAnchors(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(testenv.ModuleRoot(t), "docs", "why-it-differs.md"))
	if err != nil {
		t.Fatal(err)
	}
	re := regexp.MustCompile(`(?:anchor: |add\(|Reason\{\{?|try\(|replace\(|without\()"([a-z]+(?:-[a-z]+)+)"`)
	seen := 0
	for _, name := range []string{"search.go", "variants.go"} {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range re.FindAllStringSubmatch(string(src), -1) {
			seen++
			if !bytes.Contains(doc, []byte("\n### "+m[1]+"\n")) {
				t.Errorf("%s: no section %s in docs/why-it-differs.md", name, m[1])
			}
		}
	}
	if seen < 25 {
		t.Errorf("found %d anchors: this test has lost sight of some", seen)
	}
}
