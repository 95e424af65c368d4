package inside

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// pyc is a compiled Python module (PEP 552): magic number, flags, and then time
// and size of the source, or its hash.
func pyc(name string, a, b []byte) *explained {
	const header = 16
	if path.Ext(name) != ".pyc" || len(a) < header || len(b) < header || b[2] != '\r' || b[3] != '\n' || binary.LittleEndian.Uint16(b) < 3392 {
		return nil
	}
	spans := []span{{[]string{"time of the source"}, "the time of the source in bytes 8 to 11", 8, 4}, {[]string{"size of the source"}, "the size of the source in bytes 12 to 15", 12, 4}}
	switch binary.LittleEndian.Uint32(b[4:]) {
	case 0:
	case 1, 3:
		spans = []span{{[]string{"hash of the source"}, "the hash of the source in bytes 8 to 15", 8, 8}}
	default:
		return nil
	}
	splices, kinds := differing(a, b, spans)
	if len(splices) == 0 {
		return nil
	}
	return &explained{words: "pyc: " + list(kinds), splices: splices}
}

// arFile is ar(5), the common format with GNU's and BSD's long names: headers of
// 60 bytes.
func arFile(_ string, a, b []byte) *explained {
	const magic, header = "!<arch>\n", 60
	if !bytes.HasPrefix(b, []byte(magic)) || !bytes.HasPrefix(a, []byte(magic)) {
		return nil
	}
	var spans []span
	for at := len(magic); at < len(b); {
		h := b[at:]
		if len(h) < header || h[58] != '`' || h[59] != '\n' {
			return nil
		}
		size := 0
		if _, err := fmt.Sscanf(string(h[48:58]), "%d", &size); err != nil || size < 0 || size > len(h)-header {
			return nil
		}
		name := strings.TrimRight(string(h[:16]), " ")
		for _, f := range []struct {
			name     string
			at, size int
		}{{"time", 16, 12}, {"uid", 28, 6}, {"gid", 34, 6}, {"mode", 40, 8}} {
			spans = append(spans, span{[]string{name, f.name}, f.name, at + f.at, f.size})
		}
		at += header + size + size&1
	}
	splices, kinds := differing(a, b, spans)
	if len(splices) == 0 {
		return nil
	}
	return &explained{words: "ar: time, uid, gid, mode of the members' headers (here " + list(kinds) + "; ar U in place of D)", splices: splices}
}

// elfFile looks for the build id (a note of name GNU and type 3) and the
// checksum of the file with debugging symbols. Only the descriptor of the note
// counts as the id.
func elfFile(_ string, a, b []byte) *explained {
	if len(a) != len(b) || !bytes.HasPrefix(b, []byte(elf.ELFMAG)) {
		return nil
	}
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil
	}
	var spans []span
	for _, s := range f.Sections {
		at, size := int64(s.Offset), int64(s.FileSize)
		if at < 0 || size < 0 || size > int64(len(b)) || at > int64(len(b))-size {
			continue
		}
		data := b[at : at+size]
		switch {
		case s.Name == ".note.gnu.build-id" && s.Type == elf.SHT_NOTE && size > 16 && size <= 80:
			desc := int64(f.ByteOrder.Uint32(data[4:]))
			if f.ByteOrder.Uint32(data) == 4 && f.ByteOrder.Uint32(data[8:]) == 3 && string(data[12:16]) == "GNU\x00" && desc <= size-16 {
				spans = append(spans, span{[]string{s.Name}, "note .note.gnu.build-id", int(at) + 16, int(desc)})
			}
		case s.Name == ".gnu_debuglink" && s.Flags&elf.SHF_ALLOC == 0 && size > 4:
			spans = append(spans, span{[]string{s.Name}, "checksum in .gnu_debuglink", int(at+size) - 4, 4})
		}
	}
	splices, kinds := differing(a, b, spans)
	if len(splices) == 0 {
		return nil
	}
	return &explained{words: "ELF: " + list(kinds) + " alone", splices: splices}
}

// gzipHead is the header of a gzip file (RFC 1952, section 2.3).
func gzipHead(p []byte) (size int, name []byte, named bool) {
	if len(p) < 18 || p[0] != 0x1f || p[1] != 0x8b || p[2] != 8 || p[3]&^8 != 0 {
		return 0, nil, false
	}
	if p[3] == 0 {
		return 10, nil, false
	}
	n := bytes.IndexByte(p[10:], 0)
	if n < 0 {
		return 0, nil, false
	}
	return 10 + n + 1, p[10 : 10+n], true
}

// gzipFile compares two headers, and the content behind them.
func gzipFile(_ string, a, b []byte) *explained {
	ha, na, namedA := gzipHead(a)
	hb, nb, namedB := gzipHead(b)
	if ha == 0 || hb == 0 {
		return nil
	}
	e := &explained{closing: "the content is equal; with it undone the file is equal"}
	var kinds []string
	one := func(what string, from, to int) {
		if !bytes.Equal(a[from:to], b[from:to]) {
			e.splices = append(e.splices, splice{[]string{what}, from, a[from:to], b[from:to]})
			kinds = append(kinds, what)
		}
	}
	one("time", 4, 8)
	one("level's mark", 8, 9)
	one("system", 9, 10)
	if namedA != namedB || !bytes.Equal(na, nb) {
		kinds = append(kinds, "name")
		if namedA != namedB {
			e.splices = append(e.splices, splice{[]string{"flags"}, 3, a[3:4], b[3:4]})
		}
		e.splices = append(e.splices, splice{[]string{"name"}, 10, a[10:ha], b[10:hb]})
	}
	if bytes.Equal(a[ha:], b[hb:]) && len(kinds) > 0 {
		e.words = "gzip inside: header " + list(kinds)
		if !slices.ContainsFunc(kinds, func(k string) bool { return k != "time" && k != "name" }) {
			e.words = "gzip inside: header time and name (here " + list(kinds) + ")"
		}
		return e
	}
	pa, errA := gunzip(a)
	pb, errB := gunzip(b)
	if errA != nil || errB != nil {
		return nil
	}
	if bytes.Equal(pa, pb) {
		return &explained{words: "gzip inside: the content is equal, compressed by another tool or level", unproved: true}
	}
	return nil
}

// gunzip unpacks a small file whole.
func gunzip(p []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(p))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(z, 4*Most+1))
	if err == nil && len(out) > 4*Most {
		err = io.ErrShortBuffer
	}
	return out, err
}

const (
	zipLocal   = "PK\x03\x04"
	zipCentral = "PK\x01\x02"
	zipEnd     = "PK\x05\x06"
)

// zipFile is a zip archive (APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 and
// 4.3.16) without zip64: times and extra fields of its members.
func zipFile(_ string, a, b []byte) *explained {
	if len(a) != len(b) || !bytes.HasPrefix(b, []byte(zipLocal)) {
		return nil
	}
	le := binary.LittleEndian
	end := bytes.LastIndex(b, []byte(zipEnd))
	if end < 0 || len(b)-end < 22 {
		return nil
	}
	count, at := int(le.Uint16(b[end+10:])), int64(le.Uint32(b[end+16:]))
	var spans []span
	for range count {
		if at < 0 || at > int64(end)-46 || string(b[at:at+4]) != zipCentral {
			return nil
		}
		c := b[at:end]
		nameLen, extraLen, comment := int(le.Uint16(c[28:])), int(le.Uint16(c[30:])), int(le.Uint16(c[32:]))
		if len(c) < 46+nameLen+extraLen+comment {
			return nil
		}
		name := string(c[46 : 46+nameLen])
		spans = append(spans,
			span{[]string{name, "time in the directory"}, "times", int(at) + 12, 4},
			span{[]string{name, "mode"}, "modes", int(at) + 38, 4})
		spans = append(spans, extras(name, "extra field in the directory", c[46+nameLen:46+nameLen+extraLen], int(at)+46+nameLen)...)
		local := int64(le.Uint32(c[42:]))
		if local > int64(len(b))-30 || string(b[local:local+4]) != zipLocal {
			return nil
		}
		l := b[local:]
		n, x := int(le.Uint16(l[26:])), int(le.Uint16(l[28:]))
		if len(l) < 30+n+x {
			return nil
		}
		spans = append(spans, span{[]string{name, "time"}, "times", int(local) + 10, 4})
		spans = append(spans, extras(name, "extra field", l[30+n:30+n+x], int(local)+30+n)...)
		at += int64(46 + nameLen + extraLen + comment)
	}
	splices, kinds := differing(a, b, spans)
	if len(splices) == 0 {
		return nil
	}
	return &explained{words: "zip: " + list(kinds) + " of members", splices: splices}
}

// extras are the extra fields that hold times (0x5455) or owners (0x7875).
func extras(name, what string, p []byte, at int) (out []span) {
	for len(p) >= 4 {
		id, n := binary.LittleEndian.Uint16(p), int(binary.LittleEndian.Uint16(p[2:]))
		if n > len(p)-4 {
			return out
		}
		switch {
		case id == 0x5455 && n > 1:
			out = append(out, span{[]string{name, what}, "times", at + 5, n - 1})
		case id == 0x7875 && n > 0:
			out = append(out, span{[]string{name, what}, "owners", at + 4, n})
		}
		p, at = p[4+n:], at+4+n
	}
	return out
}
