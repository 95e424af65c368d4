package tarproof_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/imagehash/internal/rawtar"
	"github.com/retally/retally/imagehash/internal/tarproof"
	"github.com/retally/retally/internal/testenv"
)

// kindsOf compares two archives and returns the kinds of what differs.
func kindsOf(t testing.TB, a, b []byte) []string {
	t.Helper()
	index := func(data []byte) *tarproof.Index {
		x := tarproof.NewIndexer()
		s := rawtar.NewScanner(x.Visitor())
		if _, err := s.Write(data); err != nil {
			t.Fatal(err)
		}
		return x.Index()
	}
	d, err := tarproof.Compare(index(a), index(b))
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, l := range d.Leaves {
		if !slices.Contains(kinds, l.Kind) {
			kinds = append(kinds, l.Kind)
		}
	}
	slices.Sort(kinds)
	return kinds
}

// holed writes a file with some pieces and holes between them.
func holed(t *testing.T, path string, pieces int, end int64, text string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range pieces {
		if _, err := f.WriteAt([]byte(fmt.Sprintf("%s %d", text, i)), int64(i)*64<<10); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(end); err != nil {
		t.Fatal(err)
	}
}

// GNU tar's four forms of a sparse file, and the plain one, are one file: only the
// form differs. What Go reads of each is the judge of what they unpack to.
func TestSparseForms(t *testing.T) {
	program := testenv.Oracle(t, "tar")
	forms := []string{"--format=gnu", "--format=gnu -S", "--format=oldgnu -S", "--format=pax --sparse-version=0.0 -S", "--format=pax --sparse-version=0.1 -S", "--format=pax --sparse-version=1.0 -S", "--format=ustar"}
	make := func(dir, form string) []byte {
		out, err := exec.Command(program, append(strings.Fields(form), "--mtime=@0", "--owner=0", "--group=0", "--mode=0644", "-C", dir, "-cf", "-", "hole")...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	read := func(data []byte) string {
		r := tar.NewReader(bytes.NewReader(data))
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, pieces := range []int{0, 1, 3, 40} { // more than a header holds, than a block holds
		one, other := t.TempDir(), t.TempDir()
		end := int64(pieces)*64<<10 + 100_001
		holed(t, filepath.Join(one, "hole"), pieces, end, "text")
		holed(t, filepath.Join(other, "hole"), pieces, end, "Text")
		for _, fa := range forms {
			a := make(one, fa)
			for _, fb := range forms {
				b := make(one, fb)
				if read(a) != read(b) {
					t.Fatalf("Go reads %s and %s differently", fa, fb)
				}
				if kinds := kindsOf(t, a, b); slices.Contains(kinds, "content") || slices.Contains(kinds, "type") || slices.Contains(kinds, "pax-unknown") {
					t.Errorf("%d pieces, %s and %s: got %v", pieces, fa, fb, kinds)
				}
				if pieces == 0 {
					continue
				}
				if kinds := kindsOf(t, a, make(other, fb)); !slices.Contains(kinds, "content") && !slices.Contains(kinds, "type") {
					t.Errorf("%d pieces, %s and other text in %s: got %v, want the content", pieces, fa, fb, kinds)
				}
			}
		}
	}
}

// A map that readers may take differently speaks for nothing: it is a difference of
// content, whatever the file would be.
func TestSparseMapsThatLie(t *testing.T) {
	good := [][2]string{{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.realsize", "10"}}
	block := func(s string) string { return string(blocks(s)) }
	plain := write([]entry{{name: "f", typ: '0', mode: 0o644, data: "\x00\x00\x00\x00\x00\x00\x00end"}}, false, 1024)
	for name, tt := range map[string]struct {
		pax  [][2]string
		data string
		form bool
	}{
		"1.0":                    {good, block("1\n7\n3\n") + "end", true},
		"0.1":                    {[][2]string{{"GNU.sparse.numblocks", "1"}, {"GNU.sparse.size", "10"}, {"GNU.sparse.map", "7,3"}}, "end", true},
		"0.0":                    {[][2]string{{"GNU.sparse.numblocks", "1"}, {"GNU.sparse.size", "10"}, {"GNU.sparse.offset", "7"}, {"GNU.sparse.numbytes", "3"}}, "end", true},
		"content left over":      {good, block("1\n7\n3\n") + "endX", false},
		"content missing":        {good, block("1\n7\n3\n") + "en", false},
		"beyond the end":         {good, block("1\n8\n3\n") + "end", false},
		"overlap":                {good, block("2\n0\n8\n7\n3\n") + "\x00\x00\x00\x00\x00\x00\x00\x00end", false},
		"a sign":                 {good, block("1\n+7\n3\n") + "end", false},
		"leading zero":           {good, block("1\n07\n3\n") + "end", false},
		"no map at all":          {good, "end", false},
		"another version":        {[][2]string{{"GNU.sparse.major", "2"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.realsize", "10"}}, block("1\n7\n3\n") + "end", false},
		"two sizes":              {append(slices.Clone(good), [2]string{"GNU.sparse.realsize", "11"}), block("1\n7\n3\n") + "end", false},
		"two maps":               {append(slices.Clone(good), [2]string{"GNU.sparse.map", "7,3"}), block("1\n7\n3\n") + "end", false},
		"0.1, another count":     {[][2]string{{"GNU.sparse.numblocks", "2"}, {"GNU.sparse.size", "10"}, {"GNU.sparse.map", "7,3"}}, "end", false},
		"0.0, numbers reversed":  {[][2]string{{"GNU.sparse.numblocks", "1"}, {"GNU.sparse.size", "10"}, {"GNU.sparse.numbytes", "3"}, {"GNU.sparse.offset", "7"}}, "end", false},
		"a size that none reads": {[][2]string{{"GNU.sparse.numblocks", "1"}, {"GNU.sparse.size", "9223372036854775807"}, {"GNU.sparse.map", "7,3"}}, "end", false},
		"a symbolic link":        {good, "", false},
	} {
		e := entry{name: "f", typ: '0', mode: 0o644, data: tt.data, pax: tt.pax, paxName: "x"}
		if name == "a symbolic link" {
			e.typ = '2'
		}
		kinds := kindsOf(t, write([]entry{e}, false, 1024), plain)
		if got := slices.Contains(kinds, "sparse-form"); got != tt.form || !tt.form && !slices.Contains(kinds, "content") && !slices.Contains(kinds, "type") {
			t.Errorf("%s: got %v, want the form alone %v", name, kinds, tt.form)
		}
	}
}

func FuzzSparse(f *testing.F) {
	f.Add("1", "0", "10", "", string(blocks("1\n7\n3\n"))+"end")
	f.Add("", "", "10", "7,3", "end")
	f.Fuzz(func(t *testing.T, major, minor, size, list, data string) {
		var pax [][2]string
		for _, r := range [][2]string{{"GNU.sparse.major", major}, {"GNU.sparse.minor", minor}, {"GNU.sparse.realsize", size}, {"GNU.sparse.size", size}, {"GNU.sparse.numblocks", fmt.Sprint((strings.Count(list, ",") + 1) / 2)}, {"GNU.sparse.map", list}} {
			if r[1] != "" && !strings.ContainsAny(r[1], "\x00\n") {
				pax = append(pax, r)
			}
		}
		if len(size) > 7 {
			return // small files: what is hashed is what the reader gives
		}
		a := write([]entry{{name: "f", typ: '0', mode: 0o644, data: data, pax: pax, paxName: "x"}}, false, 1024)
		x := tarproof.NewIndexer()
		s := rawtar.NewScanner(x.Visitor())
		if _, err := s.Write(a); err != nil {
			return
		}
		_ = x.Index()
		r := tar.NewReader(bytes.NewReader(a))
		if _, err := r.Next(); err != nil {
			return
		}
		text, err := io.ReadAll(r)
		if err != nil {
			return
		}
		// What is called a matter of form is one file for Go, too.
		b := write([]entry{{name: "f", typ: '0', mode: 0o644, data: string(text)}}, false, 1024)
		wrong := write([]entry{{name: "f", typ: '0', mode: 0o644, data: string(text) + "."}}, false, 1024)
		_ = kindsOf(t, a, b)
		if slices.Contains(kindsOf(t, a, wrong), "sparse-form") {
			t.Fatalf("another file than the one that Go reads, %q", text)
		}
	})
}
