package rawtar_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/retally/retally/imagehash/internal/rawtar"
)

func archive(t *testing.T, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		w.Write(bytes.Repeat([]byte("x"), int(h.Size)))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestMembers(t *testing.T) {
	long := strings.Repeat("long/", 50) + "name"
	p := archive(t,
		&tar.Header{Name: "dir/", Typeflag: tar.TypeDir},
		&tar.Header{Name: "dir/file", Typeflag: tar.TypeReg, Size: 513},
		&tar.Header{Name: long, Typeflag: tar.TypeReg, Size: 1, Format: tar.FormatGNU},
		&tar.Header{Name: "ünï", Typeflag: tar.TypeReg, Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}},
		&tar.Header{Name: "link", Typeflag: tar.TypeLink, Linkname: long, Format: tar.FormatPAX},
	)
	got, content, err := scan(p, 100)
	if err != nil {
		t.Fatal(err)
	}
	want := []seen{{"dir/", "", '5', 0}, {"dir/file", "", '0', 513}, {long, "", '0', 1}, {"ünï", "", '0', 0}, {"link", long, '1', 0}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(seen{})); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
	if len(content) != 514 {
		t.Errorf("got %d bytes of content, want 514", len(content))
	}
}

// Every byte of a stream goes to one of the callbacks, in order.
func TestNothingIsHidden(t *testing.T) {
	p := append(archive(t,
		&tar.Header{Name: "file", Typeflag: tar.TypeReg, Size: 600, Format: tar.FormatPAX, PAXRecords: map[string]string{"comment": "c"}},
		&tar.Header{Name: "dir/", Typeflag: tar.TypeDir}), "behind the end"...)
	var again bytes.Buffer
	take := func(b []byte) error { again.Write(b); return nil }
	s := rawtar.NewScanner(rawtar.Visitor{
		Member: func(h *rawtar.Header) error {
			for _, e := range h.Ext {
				again.Write(e.Raw[:])
				again.Write(e.Data)
				again.Write(make([]byte, -len(e.Data)&511))
			}
			again.Write(h.Raw[:])
			return nil
		},
		Content: take, Padding: take, Trailer: take,
	})
	if _, err := s.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Bytes(), p) || !s.EndMarker() || !s.DataAfterEnd() || s.Members() != 2 {
		t.Errorf("got %d bytes back of %d, end marker %v, data after it %v, %d members", again.Len(), len(p), s.EndMarker(), s.DataAfterEnd(), s.Members())
	}
}

func TestErrors(t *testing.T) {
	good := archive(t, &tar.Header{Name: "file", Typeflag: tar.TypeReg, Size: 600})
	edit := func(f func(p []byte)) []byte {
		p := bytes.Clone(good)
		f(p)
		unsigned, _ := rawtar.Checksum((*[512]byte)(p))
		copy(p[148:], []byte{'0', byte('0' + unsigned>>12&7), byte('0' + unsigned>>9&7), byte('0' + unsigned>>6&7), byte('0' + unsigned>>3&7), byte('0' + unsigned&7), 0, ' '})
		return p
	}
	global := edit(func(p []byte) {
		p[156] = 'g'
		copy(p[124:], "00000000013\x00")
		copy(p[512:], "11 path=ab\n")
	})
	for _, tt := range []struct {
		name string
		in   []byte
		want rawtar.Kind
	}{
		{"text", bytes.Repeat([]byte("no tar "), 200), rawtar.NotTar},
		{"less than a block", []byte("short"), rawtar.NotTar},
		{"checksum", append([]byte{'F'}, good[1:]...), rawtar.NotTar},
		{"inside the content", good[:700], rawtar.Truncated},
		{"inside the padding", good[:512+601], rawtar.Truncated},
		{"inside a header", good[:512+1024+0][:300], rawtar.NotTar},
		{"size", edit(func(p []byte) { copy(p[124:], "77777777777\x00") }), rawtar.Truncated},
		{"size that is no number", edit(func(p []byte) { copy(p[124:], "9999") }), rawtar.NotTar},
		{"negative size", edit(func(p []byte) { copy(p[124:136], bytes.Repeat([]byte{0xff}, 12)) }), rawtar.NotTar},
		{"lone zero block", append(make([]byte, 512), good...), rawtar.Ambiguous},
		{"global path", global, rawtar.Ambiguous},
		{"huge extension", edit(func(p []byte) { p[156] = 'x'; copy(p[124:], "00077777777\x00") }), rawtar.TooLarge},
	} {
		_, _, err := scan(tt.in, 512)
		var e *rawtar.Error
		if !errors.As(err, &e) || e.Kind != tt.want {
			t.Errorf("%s: got %v, want kind %d", tt.name, err, tt.want)
		}
	}
}

func TestNumber(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want int64
		ok   bool
	}{
		{"0000644\x00", 0o644, true},
		{"   644 \x00", 0o644, true},
		{"\x00\x00\x00", 0, true},
		{"", 0, true},
		{"644\x00junk", 0o644, true},
		{"\x80\x00\x00\x00\x00\x00\x01\x00", 256, true},
		{"\xff\xff\xff\xff\xff\xff\xff\xfe", -2, true},
		{"8", 0, false},
		{"-1", 0, false},
		{"+1", 0, false},
		{"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 0, false},
	} {
		got, err := rawtar.Number([]byte(tt.in))
		if got != tt.want && tt.ok || (err == nil) != tt.ok {
			t.Errorf("Number(%q) = %d, %v; want %d, %v", tt.in, got, err, tt.want, tt.ok)
		}
	}
}
