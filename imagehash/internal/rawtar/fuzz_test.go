package rawtar_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/retally/retally/imagehash/internal/rawtar"
)

// seen is what both readers can say of a member.
type seen struct {
	name, link string
	typ        byte
	size       int64
}

func scan(p []byte, piece int) (list []seen, content []byte, err error) {
	s := rawtar.NewScanner(rawtar.Visitor{
		Member: func(h *rawtar.Header) error {
			if !h.Global {
				list = append(list, seen{h.Name, h.Linkname, h.Type, h.Size})
			}
			return nil
		},
		Content: func(b []byte) error { content = append(content, b...); return nil },
	})
	for len(p) > 0 && err == nil {
		n := min(piece, len(p))
		_, err = s.Write(p[:n])
		p = p[n:]
	}
	if err == nil {
		err = s.Close()
	}
	return list, content, err
}

// FuzzScan: pieces of any size give the same, and where archive/tar reads the
// stream too, it finds the same members.
func FuzzScan(f *testing.F) {
	for _, format := range []tar.Format{tar.FormatUSTAR, tar.FormatPAX, tar.FormatGNU} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range []*tar.Header{
			{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o755},
			{Name: "dir/file", Typeflag: tar.TypeReg, Size: 700, Uid: 1000},
			{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "dir/file"},
			{Name: "a/" + string(bytes.Repeat([]byte("long/"), 60)) + "name", Typeflag: tar.TypeReg, Size: 3},
		} {
			h.Format = format
			if w.WriteHeader(h) == nil {
				w.Write(make([]byte, h.Size))
			}
		}
		w.Close()
		f.Add(b.Bytes(), 512)
	}
	f.Fuzz(func(t *testing.T, p []byte, piece int) {
		whole, content, err := scan(p, len(p)+1)
		pieces, content2, err2 := scan(p, piece&1023+1)
		if (err == nil) != (err2 == nil) || len(whole) != len(pieces) || !bytes.Equal(content, content2) && err == nil {
			t.Fatalf("in pieces: %v, whole: %v", err2, err)
		}
		if err != nil {
			var e *rawtar.Error
			if !errors.As(err, &e) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		r := tar.NewReader(bytes.NewReader(p))
		for i := 0; ; i++ {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				if i != len(whole) {
					t.Fatalf("got %d members, archive/tar has %d", len(whole), i)
				}
				return
			}
			if err != nil {
				return // archive/tar is stricter about values of records
			}
			if h.Typeflag == tar.TypeXGlobalHeader {
				i--
				continue
			}
			if i >= len(whole) {
				t.Fatalf("archive/tar has %q too", h.Name)
			}
			got := whole[i]
			if got.typ == 'S' || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" || h.PAXRecords["GNU.sparse.size"] != "" {
				continue // its size is that of the file with its holes
			}
			if got.name != h.Name || got.size != h.Size && h.Typeflag == tar.TypeReg {
				t.Fatalf("got %+v, archive/tar has %q type %q size %d", got, h.Name, h.Typeflag, h.Size)
			}
		}
	})
}
