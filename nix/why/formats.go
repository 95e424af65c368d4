package why

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"cmp"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

func gzipped(f *finder, path string, a, b []byte, depth int) bool {
	if !bytes.HasPrefix(a, []byte{0x1f, 0x8b, 8}) || !bytes.HasPrefix(b, []byte{0x1f, 0x8b, 8}) {
		return false
	}
	x, err1 := gzip.NewReader(bytes.NewReader(a))
	y, err2 := gzip.NewReader(bytes.NewReader(b))
	if err1 != nil || err2 != nil {
		return false
	}
	hx, hy := x.Header, y.Header
	inA, err1 := f.unpack(x, nil)
	inB, err2 := f.unpack(y, nil)
	if err1 != nil || err2 != nil {
		return false
	}
	if !hx.ModTime.Equal(hy.ModTime) {
		f.add(path, "gzip-mtime", hx.ModTime.UTC().String(), hy.ModTime.UTC().String())
	}
	if hx.Name != hy.Name {
		f.add(path, "gzip-name", hx.Name, hy.Name)
	}
	if hx.OS != hy.OS {
		f.add(path, "gzip-os", strconv.Itoa(int(hx.OS)), strconv.Itoa(int(hy.OS)))
	}
	switch {
	case !bytes.Equal(inA, inB):
		f.file(path+" > content", inA, inB, depth+1)
	case !bytes.Equal(gzipBody(a), gzipBody(b)):
		f.add(path, "compression", fmt.Sprintf("%d bytes", len(a)), fmt.Sprintf("%d bytes", len(b)))
	}
	return true
}

// gzipBody is what follows a gzip header's time, level and system, and its name.
func gzipBody(b []byte) []byte {
	at, flags := 10, b[3]
	if flags&4 != 0 && at+2 <= len(b) {
		at += 2 + int(binary.LittleEndian.Uint16(b[at:]))
	}
	for range (flags >> 3 & 1) + (flags >> 4 & 1) {
		for at < len(b) && b[at] != 0 {
			at++
		}
		at++
	}
	if flags&2 != 0 {
		at += 2
	}
	// The level's mark belongs to the compression.
	return append([]byte{b[8]}, b[min(at, len(b)):]...)
}

func zstandard(f *finder, path string, a, b []byte, depth int) bool {
	magic := []byte{0x28, 0xb5, 0x2f, 0xfd}
	if !bytes.HasPrefix(a, magic) || !bytes.HasPrefix(b, magic) {
		return false
	}
	open := func(data []byte) ([]byte, error) {
		r, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return f.unpack(r, nil)
	}
	inA, err1 := open(a)
	inB, err2 := open(b)
	if err1 != nil || err2 != nil {
		return false
	}
	if bytes.Equal(inA, inB) {
		f.add(path, "compression", fmt.Sprintf("%d bytes", len(a)), fmt.Sprintf("%d bytes", len(b)))
		return true
	}
	f.file(path+" > content", inA, inB, depth+1)
	return true
}

func tarred(f *finder, path string, a, b []byte, depth int) bool {
	isTar := func(d []byte) bool { return len(d) > 262 && string(d[257:262]) == "ustar" }
	if !isTar(a) || !isTar(b) {
		return false
	}
	read := func(data []byte) ([]member, error) {
		var out []member
		r := tar.NewReader(bytes.NewReader(data))
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				return out, nil
			}
			if err != nil {
				return nil, err
			}
			content, err := f.unpack(r, nil)
			if err != nil {
				return nil, err
			}
			var pax []string
			for k, v := range h.PAXRecords {
				if !strings.HasSuffix(k, "mtime") && k != "size" && k != "path" && k != "linkpath" {
					pax = append(pax, k+"="+v)
				}
			}
			slices.Sort(pax)
			out = append(out, member{h.Name, []field{
				{"type", string(rune(h.Typeflag))},
				{"target", h.Linkname},
				{"mode", fmt.Sprintf("%04o", h.Mode)},
				{"owner", fmt.Sprintf("%d:%d %s:%s", h.Uid, h.Gid, h.Uname, h.Gname)},
				{"mtime", h.ModTime.UTC().String()},
				{"attributes", strings.Join(pax, " ")},
			}, content})
		}
	}
	x, err1 := read(a)
	y, err2 := read(b)
	return err1 == nil && err2 == nil && f.members(path, x, y, depth)
}

func zipped(f *finder, path string, a, b []byte, depth int) bool {
	if !bytes.HasPrefix(a, []byte("PK\x03\x04")) || !bytes.HasPrefix(b, []byte("PK\x03\x04")) {
		return false
	}
	read := func(data []byte) ([]member, error) {
		r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return nil, err
		}
		var out []member
		for _, e := range r.File {
			in, err := e.Open()
			content, err := f.unpack(in, err)
			if err != nil {
				return nil, err
			}
			out = append(out, member{e.Name, []field{
				{"mode", e.Mode().String()},
				{"mtime", fmt.Sprintf("%s %04x%04x", e.Modified.UTC(), e.ModifiedDate, e.ModifiedTime)},
				{"compression", fmt.Sprintf("method %d, %d bytes", e.Method, e.CompressedSize64)},
			}, content})
		}
		return out, nil
	}
	x, err1 := read(a)
	y, err2 := read(b)
	if err1 != nil || err2 != nil {
		return false
	}
	// What is packed to another size because it is another is no cause.
	at := map[string]int{}
	for j := range y {
		at[y[j].name] = j
	}
	for i := range x {
		if j, ok := at[x[i].name]; ok && !bytes.Equal(x[i].data, y[j].data) {
			x[i].fields[2], y[j].fields[2] = field{}, field{}
		}
	}
	return f.members(path, x, y, depth)
}

// archived reads the archives of ar(1), such as static libraries.
func archived(f *finder, path string, a, b []byte, depth int) bool {
	x, ok1 := arMembers(a)
	y, ok2 := arMembers(b)
	return ok1 && ok2 && f.members(path, x, y, depth)
}

func arMembers(data []byte) ([]member, bool) {
	rest, ok := bytes.CutPrefix(data, []byte("!<arch>\n"))
	var out []member
	for ok && len(rest) > 0 {
		if len(rest) < 60 || string(rest[58:60]) != "`\n" {
			return nil, false
		}
		text := func(from, to int) string { return strings.TrimRight(string(rest[from:to]), " ") }
		size, err := strconv.ParseInt(text(48, 58), 10, 64)
		if err != nil || size < 0 || size > int64(len(rest)-60) {
			return nil, false
		}
		out = append(out, member{text(0, 16), []field{{"mtime", text(16, 28)}, {"owner", text(28, 34) + ":" + text(34, 40)}, {"mode", text(40, 48)}}, rest[60 : 60+size]})
		rest = rest[min(60+size+size&1, int64(len(rest))):]
	}
	return out, ok
}

// cpioed reads archives of cpio's form newc, such as an initrd.
func cpioed(f *finder, path string, a, b []byte, depth int) bool {
	x, ok1 := cpioMembers(a)
	y, ok2 := cpioMembers(b)
	return ok1 && ok2 && f.members(path, x, y, depth)
}

func cpioMembers(data []byte) ([]member, bool) {
	var out []member
	for at := 0; ; {
		if len(data)-at < 110 || string(data[at:at+6]) != "070701" {
			return nil, false
		}
		var v [13]int64
		for i := range v {
			n, err := strconv.ParseUint(string(data[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				return nil, false
			}
			v[i] = int64(n)
		}
		name, size := v[11], v[6]
		start := (int64(at) + 110 + name + 3) &^ 3
		if name < 1 || start+size > int64(len(data)) {
			return nil, false
		}
		title := string(data[int64(at)+110 : int64(at)+110+name-1])
		if title == "TRAILER!!!" {
			return out, true
		}
		out = append(out, member{title, []field{
			{"inode", strconv.FormatInt(v[0], 10)},
			{"mode", fmt.Sprintf("%06o", v[1])},
			{"owner", fmt.Sprintf("%d:%d", v[2], v[3])},
			{"mtime", strconv.FormatInt(v[5], 10)},
			{"device", fmt.Sprintf("%d:%d, %d:%d", v[7], v[8], v[9], v[10])},
		}, data[start : start+size]})
		at = int((start + size + 3) &^ 3)
	}
}

// parts of an ELF file that mean something by themselves.
var elfParts = map[string]Kind{
	".note.gnu.build-id": "build-id", ".note.go.buildid": "build-id", ".comment": "compiler", ".gnu_debuglink": "debug-link", ".interp": "interpreter", ".go.buildinfo": "compiler",
}

func elfed(f *finder, path string, a, b []byte, _ int) bool {
	x, err1 := elf.NewFile(bytes.NewReader(a))
	y, err2 := elf.NewFile(bytes.NewReader(b))
	if err1 != nil || err2 != nil {
		return false
	}
	names := func(e *elf.File) (out []string) {
		for _, s := range e.Sections {
			out = append(out, s.Name)
		}
		return out
	}
	na, nb := names(x), names(y)
	if !slices.Equal(na, nb) || len(slices.Compact(slices.Sorted(slices.Values(na)))) != len(na) {
		f.add(path, "sections", strings.Join(na, " "), strings.Join(nb, " "))
		return !slices.Equal(na, nb)
	}
	before := len(f.out)
	id, found := [2]string{}, false
	for i, s := range x.Sections {
		p, err1 := f.section(s)
		q, err2 := f.section(y.Sections[i])
		if err1 != nil || err2 != nil {
			return false
		}
		if bytes.Equal(p, q) {
			continue
		}
		found = true
		kind, known := elfParts[s.Name]
		va, vb := fmt.Sprintf("%d bytes", len(p)), fmt.Sprintf("%d bytes", len(q))
		switch {
		case kind == "build-id":
			id = [2]string{fmt.Sprintf("%x", p[max(0, len(p)-20):]), fmt.Sprintf("%x", q[max(0, len(q)-20):])}
			continue
		case known && kind != "debug-link":
			va, vb = printable(p), printable(q)
		case known:
		case strings.HasPrefix(s.Name, ".debug_"), strings.HasPrefix(s.Name, ".zdebug_"):
			kind = "debug-info"
		case s.Name == ".dynstr":
			kind = "rpath"
			ra, rb := runpath(x), runpath(y)
			if ra == rb {
				kind = "libraries"
			} else {
				va, vb = ra, rb
			}
		default:
			kind = "content"
		}
		f.add(path+" > "+cmp.Or(s.Name, "section "+strconv.Itoa(i)), kind, va, vb)
	}
	if len(f.out) == before && found {
		f.add(path+" > build-id", "build-id", id[0], id[1]) // else it follows from the rest
	}
	return found
}

func (f *finder) section(s *elf.Section) ([]byte, error) {
	if s.Type == elf.SHT_NOBITS || s.Type == elf.SHT_NULL {
		return nil, nil
	}
	return f.unpack(io.NewSectionReader(s, 0, int64(min(s.FileSize, MaxFile))), nil)
}

func runpath(e *elf.File) string {
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		if list, err := e.DynString(tag); err == nil && len(list) > 0 {
			return strings.Join(list, ":")
		}
	}
	return ""
}

func printable(b []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, string(b[:min(len(b), 200)])))
}

// pyced reads the header of compiled Python (PEP 552): magic, flags, and with
// flags 0 the time and size of the source.
func pyced(f *finder, path string, a, b []byte, _ int) bool {
	if len(a) < 16 || len(b) < 16 || a[2] != '\r' || a[3] != '\n' || !bytes.Equal(a[:8], b[:8]) || binary.LittleEndian.Uint32(a[4:]) != 0 || !bytes.Equal(a[12:], b[12:]) {
		return false
	}
	f.add(path, "pyc-mtime", strconv.Itoa(int(binary.LittleEndian.Uint32(a[8:]))), strconv.Itoa(int(binary.LittleEndian.Uint32(b[8:]))))
	return true
}

// pesed finds the time of linking in a PE file that is else the same.
func pesed(f *finder, path string, a, b []byte, _ int) bool {
	at := func(d []byte) int {
		if len(d) < 0x40 || string(d[:2]) != "MZ" {
			return -1
		}
		p := int64(binary.LittleEndian.Uint32(d[0x3c:]))
		if p < 0x40 || p+24 > int64(len(d)) || string(d[p:p+4]) != "PE\x00\x00" {
			return -1
		}
		return int(p) + 8
	}
	i, j := at(a), at(b)
	if i < 0 || i != j || len(a) != len(b) || !bytes.Equal(a[:i], b[:i]) {
		return false
	}
	x, y := bytes.Clone(a), bytes.Clone(b)
	clear(x[i : i+4])
	clear(y[i : i+4])
	if sum := i + 0x50; sum+4 <= len(x) { // the checksum follows
		clear(x[sum : sum+4])
		clear(y[sum : sum+4])
	}
	if !bytes.Equal(x, y) {
		return false
	}
	f.add(path, "pe-timestamp", strconv.Itoa(int(binary.LittleEndian.Uint32(a[i:]))), strconv.Itoa(int(binary.LittleEndian.Uint32(b[i:]))))
	return true
}
