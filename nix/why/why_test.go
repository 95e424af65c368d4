package why_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/retally/retally/nix/nar"
	"github.com/retally/retally/nix/why"
)

var day = time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)

// packed is a packed thing of which one part is chosen.
type packed struct {
	mtime time.Time
	mode  int64
	uid   int
	name  string // of the owner
	order bool   // reversed
	data  string
	more  bool // one member more
	link  string
}

func (p packed) members() []string {
	list := []string{"a", "b"}
	if p.more {
		list = append(list, "c")
	}
	if p.order {
		slices.Reverse(list)
	}
	return list
}

func (p packed) time() time.Time {
	if p.mtime.IsZero() {
		return day
	}
	return p.mtime
}

func (p packed) tar() []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range p.members() {
		h := &tar.Header{Name: name, Mode: 0o644 + p.mode, Uid: p.uid, Uname: p.name, Size: int64(len(p.data)), ModTime: p.time()}
		check(w.WriteHeader(h))
		_, err := w.Write([]byte(p.data))
		check(err)
	}
	check(w.WriteHeader(&tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "to" + p.link, ModTime: day}))
	check(w.Close())
	return b.Bytes()
}

func (p packed) zip(method uint16) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range p.members() {
		h := &zip.FileHeader{Name: name, Method: method, Modified: p.time()}
		h.SetMode(os.FileMode(0o644 + p.mode))
		f, err := w.CreateHeader(h)
		check(err)
		_, err = f.Write([]byte(strings.Repeat(p.data+"x", 200)))
		check(err)
	}
	check(w.Close())
	return b.Bytes()
}

func (p packed) ar() []byte {
	b := []byte("!<arch>\n")
	for _, name := range p.members() {
		data := p.data
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8o%-10d`\n%s", name+"/", p.time().Unix(), p.uid, 0, 0o644+p.mode, len(data), data)
		if len(data)%2 == 1 {
			b = append(b, '\n')
		}
	}
	return b
}

func (p packed) cpio(inode int) []byte {
	var b []byte
	add := func(name, data string) {
		b = fmt.Appendf(b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", inode, 0o100644+p.mode, p.uid, 0, 1, p.time().Unix(), len(data), 0, 0, 0, 0, len(name)+1, 0, name)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
		b = append(b, data...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	for _, name := range p.members() {
		add(name, p.data)
	}
	add("TRAILER!!!", "")
	return b
}

func gz(h gzip.Header, level int, data string) []byte {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	check(err)
	w.Header = h
	_, err = w.Write([]byte(data))
	check(err)
	check(w.Close())
	return b.Bytes()
}

func zst(checksum bool, data string) []byte {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(checksum))
	check(err)
	return w.EncodeAll([]byte(data), nil)
}

// elfFile is an ELF file of named sections.
func elfFile(sections ...string) []byte {
	names, body := []byte{0}, []byte{}
	type section struct{ name, at, size int }
	list := []section{{}}
	for i := 0; i < len(sections); i += 2 {
		list = append(list, section{len(names), 64 + len(body), len(sections[i+1])})
		names = append(append(names, sections[i]...), 0)
		body = append(body, sections[i+1]...)
	}
	list = append(list, section{len(names), 64 + len(body), 0})
	names = append(names, ".shstrtab\x00"...)
	list[len(list)-1].size = len(names)
	body = append(body, names...)
	h := make([]byte, 64)
	copy(h, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(h[16:], 2)
	le.PutUint16(h[18:], 62)
	le.PutUint32(h[20:], 1)
	le.PutUint64(h[40:], uint64(64+len(body)))
	le.PutUint16(h[52:], 64)
	le.PutUint16(h[58:], 64)
	le.PutUint16(h[60:], uint16(len(list)))
	le.PutUint16(h[62:], uint16(len(list)-1))
	out := append(h, body...)
	for i, s := range list {
		e := make([]byte, 64)
		le.PutUint32(e, uint32(s.name))
		if i > 0 {
			le.PutUint32(e[4:], 1) // PROGBITS
		}
		if i == len(list)-1 {
			le.PutUint32(e[4:], 3)
		}
		le.PutUint64(e[24:], uint64(s.at))
		le.PutUint64(e[32:], uint64(s.size))
		out = append(out, e...)
	}
	return out
}

func pe(stamp uint32) []byte {
	b := make([]byte, 512)
	copy(b, "MZ")
	binary.LittleEndian.PutUint32(b[0x3c:], 0x80)
	copy(b[0x80:], "PE\x00\x00\x64\x86")
	binary.LittleEndian.PutUint32(b[0x88:], stamp)
	return b
}

func pyc(stamp uint32, code string) []byte {
	b := make([]byte, 16, 64)
	copy(b, "\xa7\x0d\r\n")
	binary.LittleEndian.PutUint32(b[8:], stamp)
	return append(b, code...)
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

const (
	hashA = "/nix/store/sk7j520zar7izik3zpq4rm50cnsc1pf6-x"
	hashB = "/nix/store/gw9k7fzjswy3fsjlcnjf01inwj9w30pp-x"
)

// seeds are the causes of the catalogue, each put into one of two builds. What
// must be named is said as "path kind", several with commas between.
func seeds() []struct {
	name string
	a, b []byte
	want string
} {
	p := packed{data: "data"}
	with := func(change func(*packed)) packed { q := p; change(&q); return q }
	later := with(func(p *packed) { p.mtime = day.Add(time.Hour) })
	mode := with(func(p *packed) { p.mode = 0o111 })
	owner := with(func(p *packed) { p.uid, p.name = 1000, "builder" })
	order := with(func(p *packed) { p.order = true })
	more := with(func(p *packed) { p.more = true })
	link := with(func(p *packed) { p.link = "x" })
	other := with(func(p *packed) { p.data = "Data" })
	long := strings.Repeat("some text that can be compressed ", 400)
	elfs := func(section, a, b string) (x, y []byte) {
		return elfFile(".text", "code", section, a), elfFile(".text", "code", section, b)
	}
	var out []struct {
		name string
		a, b []byte
		want string
	}
	add := func(name, want string, a, b []byte) {
		out = append(out, struct {
			name string
			a, b []byte
			want string
		}{name, a, b, want})
	}
	add("gzip: time", "f gzip-mtime", gz(gzip.Header{ModTime: day}, 6, "x"), gz(gzip.Header{ModTime: day.Add(time.Hour)}, 6, "x"))
	add("gzip: no time and a time", "f gzip-mtime", gz(gzip.Header{}, 6, "x"), gz(gzip.Header{ModTime: day}, 6, "x"))
	add("gzip: name", "f gzip-name", gz(gzip.Header{Name: "a"}, 6, "x"), gz(gzip.Header{Name: "b"}, 6, "x"))
	add("gzip: system", "f gzip-os", gz(gzip.Header{OS: 3}, 6, "x"), gz(gzip.Header{OS: 255}, 6, "x"))
	add("gzip: level", "f compression", gz(gzip.Header{}, 1, long), gz(gzip.Header{}, 9, long))
	add("gzip: time in what is packed", "f > content date", gz(gzip.Header{}, 6, "built 2026-11-30 10:00:00\n"), gz(gzip.Header{}, 6, "built 2026-11-30 10:00:02\n"))
	add("zstd: another writer", "f compression", zst(true, long), zst(false, long))
	add("tar: time", "f > a mtime,f > b mtime", p.tar(), later.tar())
	add("tar: mode", "f > a mode,f > b mode", p.tar(), mode.tar())
	add("tar: owner", "f > a owner,f > b owner", p.tar(), owner.tar())
	add("tar: order", "f order", p.tar(), order.tar())
	add("tar: a file more", "f > c added", p.tar(), more.tar())
	add("tar: a file less", "f > c removed", more.tar(), p.tar())
	add("tar: target of a link", "f > l target", p.tar(), link.tar())
	add("tar: padding", "f padding", p.tar(), append(p.tar(), make([]byte, 5120)...))
	add("tar: content", "f > a content,f > b content", p.tar(), other.tar())
	add("tar.gz: time of a member", "f > content > a mtime,f > content > b mtime", gz(gzip.Header{}, 6, string(p.tar())), gz(gzip.Header{}, 6, string(later.tar())))
	add("zip: time", "f > a mtime,f > b mtime", p.zip(zip.Deflate), later.zip(zip.Deflate))
	add("zip: mode", "f > a mode,f > b mode", p.zip(zip.Deflate), mode.zip(zip.Deflate))
	add("zip: order", "f order", p.zip(zip.Deflate), order.zip(zip.Deflate))
	add("zip: method", "f > a compression,f > b compression", p.zip(zip.Store), p.zip(zip.Deflate))
	add("zip: content", "f > a content,f > b content", p.zip(zip.Deflate), other.zip(zip.Deflate))
	add("ar: time", "f > a/ mtime,f > b/ mtime", p.ar(), later.ar())
	add("ar: owner", "f > a/ owner,f > b/ owner", p.ar(), owner.ar())
	add("ar: mode", "f > a/ mode,f > b/ mode", p.ar(), mode.ar())
	add("ar: order", "f order", p.ar(), order.ar())
	add("cpio: time", "f > a mtime,f > b mtime", p.cpio(1), later.cpio(1))
	add("cpio: inode", "f > a inode,f > b inode", p.cpio(1), p.cpio(2))
	add("cpio: owner", "f > a owner,f > b owner", p.cpio(1), owner.cpio(1))
	add("cpio: order", "f order", p.cpio(1), order.cpio(1))
	pair := func(name, want string, text func() ([]byte, []byte)) { a, b := text(); add(name, want, a, b) }
	pair("elf: build-id alone", "f > build-id build-id", func() ([]byte, []byte) { return elfs(".note.gnu.build-id", "\x01\x02", "\x03\x04") })
	add("elf: build-id that follows from the code", "f > .text content", elfFile(".text", "code", ".note.gnu.build-id", "1"), elfFile(".text", "cods", ".note.gnu.build-id", "2"))
	pair("elf: compiler", "f > .comment compiler", func() ([]byte, []byte) { return elfs(".comment", "GCC: 12.2", "GCC: 13.1") })
	pair("elf: debug file", "f > .gnu_debuglink debug-link", func() ([]byte, []byte) { return elfs(".gnu_debuglink", "x.debug\x001111", "x.debug\x002222") })
	pair("elf: debug information", "f > .debug_str debug-info", func() ([]byte, []byte) { return elfs(".debug_str", "/tmp/a", "/tmp/b") })
	pair("elf: interpreter", "f > .interp interpreter", func() ([]byte, []byte) { return elfs(".interp", hashA+"/ld.so\x00", hashB+"/ld.so\x00") })
	add("python: time of the source", "f pyc-mtime", pyc(1, "code"), pyc(2, "code"))
	add("python: code", "f content", pyc(1, "code"), pyc(2, "cade"))
	add("pe: time of linking", "f pe-timestamp", pe(1), pe(2))
	for _, t := range []struct{ name, want, a, b string }{
		{"text: date", "f date", "built on 2026-11-30\n", "built on 2026-12-01\n"},
		{"text: date and time with zone", "f date", "at 2026-11-30T10:00:00Z.\n", "at 2026-12-01T11:22:33+01:00.\n"},
		{"text: date of date(1)", "f date", "Mon Nov 30 10:00:00 UTC 2026\n", "Tue Dec  1 09:00:01 UTC 2026\n"},
		{"text: date of mail", "f date", "Mon, 30 Nov 2026 10:00:00 +0000\n", "Tue, 1 Dec 2026 09:00:01 +0000\n"},
		{"text: __DATE__ and __TIME__", "f date", "x Nov 30 2026 10:00:00", "x Dec  1 2026 11:00:00"},
		{"text: seconds", "f time-number", "t=1764500000;\n", "t=1764500002;\n"},
		{"text: nanoseconds", "f time-number", "t=1764500000123456789\n", "t=1764500002123456789\n"},
		{"text: uuid", "f uuid", "id 6f1c9d4e-0a57-4c0f-9a55-2f6f0a3f8f11\n", "id 0b7e3a8c-63d1-4a7e-8b1c-0d6a7f0c1122\n"},
		{"text: folder of the build", "f build-path", "/tmp/nix-build-x.drv-0/src/main.c", "/tmp/nix-build-x.drv-17/src/main.c"},
		{"text: store path", "f store-path", "exec " + hashA + "/bin/x", "exec " + hashB + "/bin/x"},
		{"text: order of lines", "f line-order", "a\nb\nc\n", "c\na\nb\n"},
		{"text: line ends", "f line-ends", "a\nb\n", "a\r\nb\r\n"},
		{"text: blanks at line ends", "f trailing-space", "a\nb\n", "a \nb\n"},
		{"text: order of keys", "f json-order", `{"a":1,"b":[1,2]}`, `{"b":[1,2],"a":1}`},
		{"text: a date and a uuid", "f uuid,f date", "2026-11-30 6f1c9d4e-0a57-4c0f-9a55-2f6f0a3f8f11", "2026-12-01 0b7e3a8c-63d1-4a7e-8b1c-0d6a7f0c1122"},
		{"binary: a date", "f date", "\x00\x01Nov 30 2026\x00\xff", "\x00\x01Nov 29 2026\x00\xff"},
		{"binary: zeros behind it", "f padding", "\x01\x02", "\x01\x02\x00\x00"},

		// What only looks like one of them is content.
		{"a word", "f content", "hello\n", "hullo\n"},
		{"a version", "f content", "version 1.2.3\n", "version 1.2.4\n"},
		{"a number", "f content", "count 41\n", "count 42\n"},
		{"a long number that is no time", "f content", "id 9764500000\n", "id 9764500001\n"},
		{"a date and a word", "f content", "hello 2026-11-30\n", "hullo 2026-12-01\n"},
		{"a hash", "f content", "sha256:" + strings.Repeat("ab", 32), "sha256:" + strings.Repeat("cd", 32)},
		{"a store path with another name", "f content", hashA, hashA + "y"},
		{"other lines", "f content", "a\nb\nc\n", "c\na\nd\n"},
		{"other values under equal keys", "f content", `{"a":1,"b":2}`, `{"a":2,"b":1}`},
		{"elements in another order", "f content", `{"a":[1,2]}`, `{"a":[2,1]}`},
		{"a line more", "f content", "a\n", "a\nb\n"},
		{"a gzip that is broken", "f content", "\x1f\x8b\x08broken", "\x1f\x8b\x08brokem"},
		{"a file and nothing", "f content", "x", ""},
	} {
		add(t.name, t.want, []byte(t.a), []byte(t.b))
	}
	return out
}

func names(list []why.Cause) string {
	var out []string
	for _, c := range list {
		out = append(out, strings.TrimSpace(c.Path+" "+string(c.Kind)))
	}
	return strings.Join(out, ",")
}

// TestSeeded: every seeded cause is named, and nothing else.
func TestSeeded(t *testing.T) {
	kinds := map[string]bool{}
	n := 0
	for _, s := range seeds() {
		got := names(why.Files(context.Background(), "f", s.a, s.b))
		if got != s.want {
			t.Errorf("%s: %s, want %s", s.name, got, s.want)
		}
		if !strings.HasSuffix(s.want, "content") {
			n++
		}
		kinds[s.want[strings.LastIndexByte(s.want, ' ')+1:]] = true
		if same := why.Files(context.Background(), "f", s.a, bytes.Clone(s.a)); len(same) > 0 {
			t.Errorf("%s: equal files differ: %v", s.name, same)
		}
	}
	if n < 40 {
		t.Errorf("%d causes are seeded", n)
	}
	t.Logf("%d causes of %d kinds, %d controls", n, len(kinds)-1, len(seeds())-n)
}

// TestTrees: what a Nix archive itself holds, and files in it.
func TestTrees(t *testing.T) {
	plant := func(change func(dir string)) (string, *nar.Tree) {
		dir := t.TempDir()
		check(os.WriteFile(filepath.Join(dir, "f"), []byte("built 2026-11-30\n"), 0o644))
		check(os.WriteFile(filepath.Join(dir, "x"), []byte("x"), 0o755))
		check(os.Symlink("f", filepath.Join(dir, "l")))
		change(dir)
		tree, err := nar.Hash(context.Background(), dir, nar.Options{})
		check(err)
		return dir, tree
	}
	base, a := plant(func(string) {})
	for want, change := range map[string]func(string){
		"f date":       func(d string) { check(os.WriteFile(filepath.Join(d, "f"), []byte("built 2026-12-01\n"), 0o644)) },
		"x executable": func(d string) { check(os.Chmod(filepath.Join(d, "x"), 0o644)) },
		"l target":     func(d string) { check(os.Remove(filepath.Join(d, "l"))); check(os.Symlink("x", filepath.Join(d, "l"))) },
		"y added":      func(d string) { check(os.WriteFile(filepath.Join(d, "y"), nil, 0o644)) },
		"x removed":    func(d string) { check(os.Remove(filepath.Join(d, "x"))) },
		"l type": func(d string) {
			check(os.Remove(filepath.Join(d, "l")))
			check(os.WriteFile(filepath.Join(d, "l"), nil, 0o644))
		},
		"f content,x content": func(d string) {
			check(os.WriteFile(filepath.Join(d, "f"), []byte("z"), 0o644))
			check(os.WriteFile(filepath.Join(d, "x"), []byte("z"), 0o755))
		},
	} {
		dir, b := plant(change)
		list, err := why.Trees(context.Background(), base, dir, nar.Diff(a, b))
		if err != nil || names(list) != want {
			t.Errorf("%s, %v, want %s", names(list), err, want)
		}
	}
}

func FuzzFiles(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s.a, s.b)
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		list := why.Files(context.Background(), "f", a, b)
		if bytes.Equal(a, b) != (len(list) == 0) {
			t.Errorf("equal %v, causes %v", bytes.Equal(a, b), list)
		}
	})
}
