package inside_test

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/imagehash/internal/inside"
)

func pyc(flags byte, at, size uint32, code string) []byte {
	b := []byte{0xa7, 0x0d, '\r', '\n', flags, 0, 0, 0}
	for _, v := range []uint32{at, size} {
		b = append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
	}
	return append(b, code...)
}

func ar(at, mode, content string) []byte {
	return []byte(fmt.Sprintf("!<arch>\n%-16s%-12s%-6s%-6s%-8s%-10d`\n%s", "x.o/", at, "0", "0", mode, len(content), content))
}

func zipped(t *testing.T, at time.Time, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	f, err := w.CreateHeader(&zip.FileHeader{Name: "a/b.txt", Method: zip.Store, Modified: at})
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte(content))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(t *testing.T, level int, at int64, name, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	w.Name, w.ModTime = name, time.Unix(at, 0)
	w.Write([]byte(content))
	w.Close()
	return b.Bytes()
}

func TestExplain(t *testing.T) {
	text := strings.Repeat("some text ", 50)
	id, other := strings.Repeat("0a", 16)+"\n", strings.Repeat("f3", 16)+"\n"
	hash, foreign := strings.Repeat("0a", 16), strings.Repeat("z1", 16)
	for _, tt := range []struct {
		what, name string
		a, b       []byte
		words      string // "" if nothing is to be said
		proved     bool
	}{
		{"pyc time", "m.pyc", pyc(0, 1, 2, "x"), pyc(0, 9, 2, "x"), "pyc: the time of the source in bytes 8 to 11; with it undone", true},
		{"pyc time and size", "m.pyc", pyc(0, 1, 2, "x"), pyc(0, 9, 3, "x"), "pyc: the time of the source in bytes 8 to 11 and the size", true},
		{"pyc by hash is no time", "m.pyc", pyc(1, 1, 2, "x"), pyc(1, 9, 2, "x"), "pyc: the hash of the source", true},
		{"pyc with other code", "m.pyc", pyc(0, 1, 2, "x"), pyc(0, 9, 2, "y"), "", false},
		{"pyc flags differ", "m.pyc", pyc(1, 1, 2, "x"), pyc(0, 9, 2, "x"), "", false},
		{"not called pyc", "m.bin", pyc(0, 1, 2, "x"), pyc(0, 9, 2, "x"), "", false},
		{"ar", "l.a", ar("0", "644", "code"), ar("1700000000", "100644", "code"), "ar: time, uid, gid, mode of the members' headers (here time and mode", true},
		{"ar with other code", "l.a", ar("0", "644", "code"), ar("1", "644", "c0de"), "", false},
		{"zip", "a.jar", zipped(t, time.Unix(1e9, 0).UTC(), text), zipped(t, time.Unix(1.1e9, 0).UTC(), text), "zip: times of members; with them undone", true},
		{"zip with other content", "a.jar", zipped(t, time.Unix(1e9, 0).UTC(), "one"), zipped(t, time.Unix(1.1e9, 0).UTC(), "two"), "", false},
		{"gzip time", "a.gz", gz(t, 6, 5, "", text), gz(t, 6, 6, "", text), "gzip inside: header time and name (here time); the content is equal", true},
		{"gzip name", "a.gz", gz(t, 6, 5, "n", text), gz(t, 6, 5, "", text), "gzip inside: header time and name (here name)", true},
		{"gzip of another level", "a.gz", gz(t, 1, 5, "n", text), gz(t, 9, 6, "", text), "gzip inside: the content is equal, compressed by another tool", false},
		{"gzip with other content", "a.gz", gz(t, 6, 5, "", text), gz(t, 6, 6, "", text+"x"), "", false},
		{"machine-id", "etc/machine-id", []byte(id), []byte(other), "machine-id: a random id; ship it empty; with it undone", true},
		{"machine-id with more in it", "etc/machine-id", []byte(id), []byte(other + "x"), "", false},
		{"shadow", "etc/shadow", []byte("root:*:19000:0:99999:7:::\n"), []byte("root:*:9:0:99999:7:::\n"), "shadow: the days", true},
		{"shadow with another password", "etc/shadow", []byte("root:*:19000:0:99999:7:::\n"), []byte("root::9:0:99999:7:::\n"), "", false},
		{"line order", "x", []byte("a\nb\na\n"), []byte("b\na\na\n"), "the same lines in another order", true},
		{"a line more", "x", []byte("a\nb\na\n"), []byte("b\na\nb\n"), "", false},
		{"CRLF", "x", []byte("a\nb\n"), []byte("a\r\nb\r\n"), "line ends: CRLF in B", true},
		{"LF", "x", []byte("a\r\nb\r\n"), []byte("a\nb\n"), "line ends: LF in B", true},
		{"CRLF and more", "x", []byte("a\nb\n"), []byte("a\r\nc\r\n"), "", false},
		{"store path", "x", []byte("/nix/store/" + hash + "-glibc"), []byte("/nix/store/" + foreign + "-glibc"), "store paths of Nix", true},
		{"store path of another name", "x", []byte("/nix/store/" + hash + "-glibc"), []byte("/nix/store/" + foreign + "-glibd"), "", false},
		{"a log", "var/log/dpkg.log", []byte("a"), []byte("b"), "a log of the build", false},
		{"unknown", "x", []byte("a"), []byte("b"), "", false},
	} {
		f := inside.Explain(tt.name, tt.a, tt.b)
		switch {
		case f == nil && tt.words == "":
		case f == nil:
			t.Errorf("%s: nothing is said", tt.what)
		case tt.words == "":
			t.Errorf("%s: got %q, proved %v", tt.what, f.Words, f.Proved)
		case !strings.HasPrefix(f.Words, tt.words) || f.Proved != tt.proved:
			t.Errorf("%s: got %q, proved %v", tt.what, f.Words, f.Proved)
		}
	}
}

func FuzzExplain(f *testing.F) {
	f.Add("m.pyc", pyc(0, 1, 2, "x"), pyc(0, 9, 2, "x"))
	f.Add("l.a", ar("0", "644", "code"), ar("1700000000", "100644", "code"))
	f.Add("x", []byte("a\nb\na\n"), []byte("b\na\na\n"))
	f.Add("x", []byte("\x7fELF\x02\x01\x01"), []byte("\x7fELF\x02\x01\x01"))
	f.Add("x.zip", []byte("PK\x03\x04PK\x05\x06"), []byte("PK\x03\x04PK\x05\x06"))
	f.Fuzz(func(t *testing.T, name string, a, b []byte) {
		if found := inside.Explain(name, a, b); found != nil && found.Proved && bytes.Equal(a, b) {
			t.Errorf("equal files: %q", found.Words)
		}
	})
}
