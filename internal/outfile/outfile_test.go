package outfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/outfile"
)

var note = outfile.Kind{Name: "a note", Is: func(head []byte) bool { return bytes.HasPrefix(head, []byte("note:")) }}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestWhatIsKept(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(dir string, g *outfile.Guard)
		force bool
		want  string // part of the error; "" means written
	}{
		{"absent", func(string, *outfile.Guard) {}, false, ""},
		{"empty", func(dir string, _ *outfile.Guard) { write(t, dir+"/f", "") }, false, ""},
		{"same kind", func(dir string, _ *outfile.Guard) { write(t, dir+"/f", "note: old") }, false, ""},
		{"other kind", func(dir string, _ *outfile.Guard) { write(t, dir+"/f", "precious") }, false, "something else than a note"},
		{"other kind by force", func(dir string, _ *outfile.Guard) { write(t, dir+"/f", "precious") }, true, ""},
		{"input", func(dir string, g *outfile.Guard) { write(t, dir+"/f", "note: in"); g.Protect(dir + "/f") }, true, "is an input"},
		{"input by another name", func(dir string, g *outfile.Guard) {
			write(t, dir+"/in", "note: in")
			if err := os.Link(dir+"/in", dir+"/f"); err != nil {
				t.Fatal(err)
			}
			g.Protect(dir + "/in")
		}, true, "is an input"},
		{"inside an input folder", func(dir string, g *outfile.Guard) { g.Protect(dir) }, true, "which is an input"},
		{"inside by a link", func(dir string, g *outfile.Guard) {
			if err := os.Symlink(dir, dir+"-link"); err != nil {
				t.Fatal(err)
			}
			g.Protect(dir + "-link")
		}, true, "which is an input"},
		{"link to a file", func(dir string, _ *outfile.Guard) {
			write(t, dir+"/other", "note: other")
			if err := os.Symlink("other", dir+"/f"); err != nil {
				t.Fatal(err)
			}
		}, true, "is a link"},
		{"link to nothing", func(dir string, _ *outfile.Guard) {
			if err := os.Symlink("gone", dir+"/f"); err != nil {
				t.Fatal(err)
			}
		}, true, "is a link"},
		{"folder", func(dir string, _ *outfile.Guard) {
			if err := os.Mkdir(dir+"/f", 0o755); err != nil {
				t.Fatal(err)
			}
		}, true, "no regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			g := &outfile.Guard{Force: c.force}
			c.setup(dir, g)
			err := g.Write(dir+"/f", note, []byte("note: new"), 0o644)
			if c.want == "" {
				if err != nil || read(t, dir+"/f") != "note: new" {
					t.Errorf("got %v", err)
				}
				return
			}
			var oe *outfile.Error
			if !errors.As(err, &oe) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if _, err := os.Lstat(dir + "/gone"); err == nil {
				t.Error("written through a link")
			}
		})
	}
}

func TestThrough(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "stdout")
	if err := os.Symlink(fmt.Sprintf("/proc/self/fd/%d", w.Fd()), link); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(link); err != nil {
		t.Skip("SKIP-VISIBLE system: no /proc here")
	}
	if err := new(outfile.Guard).Write(link, note, []byte("through"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var got bytes.Buffer
	if _, err := got.ReadFrom(r); err != nil || got.String() != "through" {
		t.Errorf("got %q, %v", got.String(), err)
	}
	var out bytes.Buffer
	if err := (&outfile.Guard{Stdout: &out}).Write("-", note, []byte("x"), 0o644); err != nil || out.String() != "x" {
		t.Errorf("-: got %q, %v", out.String(), err)
	}
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	elsewhere := t.TempDir()
	if got, err := outfile.Folder(dir+"/out", "policies/a.rego"); err != nil || got != dir+"/out/policies/a.rego" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := os.Symlink(elsewhere, dir+"/out/linked"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"linked/x", "../x", "/x"} {
		if got, err := outfile.Folder(dir+"/out", name); err == nil {
			t.Errorf("%s: got %q, want an error", name, got)
		}
	}
}
