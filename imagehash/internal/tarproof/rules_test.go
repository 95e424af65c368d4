package tarproof_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/imagehash/internal/rawtar"
	"github.com/retally/retally/imagehash/internal/tarproof"
)

// madeOf writes an archive of plain files.
func madeOf(t *testing.T, list ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range list {
		content := []byte("content of " + h.Name)
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg && h.Size == 0 {
			h.Size = int64(len(content))
		} else if h.Typeflag == tar.TypeReg {
			content = bytes.Repeat([]byte{'x'}, int(h.Size))
		}
		if h.Typeflag != tar.TypeReg {
			content = nil
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write(content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func indexOf(t *testing.T, data []byte) *tarproof.Index {
	t.Helper()
	x := tarproof.NewIndexer()
	s := rawtar.NewScanner(x.Visitor())
	if _, err := s.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return x.Index()
}

// files makes n files, each changed by a function.
func files(n int, change func(i int, h *tar.Header)) (out []tar.Header) {
	for i := range n {
		h := tar.Header{Name: fmt.Sprintf("f%02d", i), Mode: 0o644, ModTime: time.Unix(1000+int64(i), 0)}
		if i%3 == 0 {
			h.Mode = 0o755
		}
		change(i, &h)
		out = append(out, h)
	}
	return out
}

func TestRules(t *testing.T) {
	none := func(int, *tar.Header) {}
	for _, tt := range []struct {
		name   string
		a, b   func(int, *tar.Header)
		kind   string
		text   string // "" if there is no rule
		leaves int
	}{
		{"umask", none, func(_ int, h *tar.Header) { h.Mode &^= 0o077 }, "mode", "umask 077 in place of 022: for all 20 members, B's mode is A's with the bits 077 taken away", 20},
		{"umask with an exception", func(i int, h *tar.Header) {
			if i == 1 {
				h.Mode = 0o640
			}
		}, func(_ int, h *tar.Header) { h.Mode &^= 0o077 }, "mode", "umask 077 in place of 022: for all 20 members", 19},
		{"two files", none, func(i int, h *tar.Header) {
			if i < 2 {
				h.Mode = 0o600
			}
		}, "mode", "", 0},
		{"half of the files", none, func(i int, h *tar.Header) {
			if i%2 == 0 {
				h.Mode &^= 0o077
			}
		}, "mode", "umask", 10},
		{"shift", func(i int, h *tar.Header) { h.Uid = i }, func(i int, h *tar.Header) { h.Uid = i + 100_000 }, "uid", "every uid of B is A's + 100000 (a user namespace)", 20},
		{"one owner", none, func(_ int, h *tar.Header) { h.Uid = 1000 }, "uid", "every uid 1000 of B is 0 in A", 20},
		{"owners at random", func(i int, h *tar.Header) { h.Uid = i * i }, func(i int, h *tar.Header) { h.Uid = 7 * i }, "uid", "", 0},
		{"one time", func(_ int, h *tar.Header) { h.ModTime = time.Unix(5, 0) }, none, "mtime", "all times of A are 5", 20},
		{"time zone", none, func(i int, h *tar.Header) { h.ModTime = h.ModTime.Add(2 * time.Hour) }, "mtime", "every time of B is A's + 7200 s (a time zone)", 20},
		{"clamped", func(i int, h *tar.Header) { h.ModTime = time.Unix(min(1005, 1000+int64(i)), 0) }, none, "mtime", "A's times are B's, none later than 1005", 14},
	} {
		a, b := indexOf(t, madeOf(t, files(20, tt.a)...)), indexOf(t, madeOf(t, files(20, tt.b)...))
		d, err := tarproof.Compare(a, b)
		if err != nil {
			t.Fatal(err)
		}
		var got *tarproof.Rule
		for _, r := range d.Rules(a, b) {
			if r.Kind == tt.kind {
				got = &r
			}
		}
		switch {
		case tt.name == "half of the files":
			// The rule would change the other half as well, if it were of that
			// umask; modes of 022 are none, so it stands for the half.
			if got == nil || len(got.Leaves) != tt.leaves || !strings.HasPrefix(got.Text, tt.text) {
				t.Errorf("%s: got %+v", tt.name, got)
			}
		case tt.text == "" && got != nil:
			t.Errorf("%s: got %+v", tt.name, got)
		case tt.text == "":
		case got == nil || !strings.HasPrefix(got.Text, tt.text):
			t.Errorf("%s: got %+v", tt.name, got)
		case tt.leaves > 0 && len(got.Leaves) != tt.leaves:
			t.Errorf("%s: %d leaves, want %d", tt.name, len(got.Leaves), tt.leaves)
		}
	}
}

// A renamed file is one leaf; one that changed besides is not renamed.
func TestRenamed(t *testing.T) {
	kinds := func(b tar.Header) (out []string) {
		d, err := tarproof.Compare(indexOf(t, madeOf(t, tar.Header{Name: "a", Mode: 0o644, Size: 9})), indexOf(t, madeOf(t, b)))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range d.Leaves {
			out = append(out, l.Kind)
		}
		return out
	}
	if got := kinds(tar.Header{Name: "b", Mode: 0o644, Size: 9}); fmt.Sprint(got) != "[renamed]" {
		t.Errorf("got %v", got)
	}
	for _, h := range []tar.Header{{Name: "b", Mode: 0o600, Size: 9}, {Name: "b", Mode: 0o644, Size: 8}, {Name: "b", Mode: 0o644, Size: 9, Uid: 1}, {Name: "b", Mode: 0o644, Size: 9, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y"}, Format: tar.FormatPAX}} {
		if got := kinds(h); fmt.Sprint(got) != "[only-in-a only-in-b]" {
			t.Errorf("%+v: got %v", h, got)
		}
	}
}

func TestMerged(t *testing.T) {
	file := func(name string, size int64) tar.Header { return tar.Header{Name: name, Mode: 0o644, Size: size} }
	dir := func(name string) tar.Header { return tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeDir} }
	hard := func(name, to string) tar.Header {
		return tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeLink, Linkname: to}
	}
	white := func(name string) tar.Header { return file(name, 1) }
	type layer = []tar.Header
	for _, tt := range []struct {
		name   string
		layers []layer
		one    layer
		base   bool
		want   bool
	}{
		{"union", []layer{{dir("d/"), file("d/a", 3)}, {file("b", 4)}}, layer{file("b", 4), dir("d/"), file("d/a", 3)}, false, true},
		{"a later file wins", []layer{{file("a", 3)}, {file("a", 4)}}, layer{file("a", 4)}, false, true},
		{"the earlier file", []layer{{file("a", 3)}, {file("a", 4)}}, layer{file("a", 3)}, false, false},
		{"one is missing", []layer{{file("a", 3)}, {file("b", 4)}}, layer{file("a", 3)}, false, false},
		{"one too many", []layer{{file("a", 3)}, {file("b", 4)}}, layer{file("a", 3), file("b", 4), file("c", 4)}, false, false},
		{"twice", []layer{{file("a", 3)}, {file("b", 4)}}, layer{file("a", 3), file("b", 4), file("b", 4)}, false, false},
		{"whiteout", []layer{{file("a", 3), file("b", 3)}, {white(".wh.a")}}, layer{file("b", 3)}, false, true},
		{"whiteout not applied", []layer{{file("a", 3), file("b", 3)}, {white(".wh.a")}}, layer{file("a", 3), file("b", 3)}, false, false},
		{"whiteout lost over a base", []layer{{file("a", 3), file("b", 3)}, {white(".wh.a")}}, layer{file("b", 3)}, true, false},
		{"opaque", []layer{{dir("d/"), file("d/a", 3)}, {white("d/.wh..wh..opq"), file("d/b", 3)}}, layer{dir("d/"), file("d/b", 3)}, false, true},
		{"a link to what was replaced", []layer{{file("a", 3), hard("b", "a")}, {file("a", 4)}}, layer{file("a", 4), hard("b", "a")}, false, false},
		{"a folder replaced by a file", []layer{{dir("d/"), file("d/a", 3)}, {file("d", 3)}}, layer{file("d", 3)}, false, true},
	} {
		var list []*tarproof.Index
		for _, l := range tt.layers {
			list = append(list, indexOf(t, madeOf(t, l...)))
		}
		if got := tarproof.Merged(list, indexOf(t, madeOf(t, tt.one...)), tt.base); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}
