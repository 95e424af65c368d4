package imagehash_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/retally/retally/imagehash"
)

// zeroLayer is a tar with one file of zeros, written to w.
func zeroLayer(t *testing.T, w io.Writer, name string, size int64) {
	t.Helper()
	tw := tar.NewWriter(w)
	if err := tw.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for left := size; left > 0; left -= int64(len(zeros)) {
		if _, err := tw.Write(zeros[:min(left, int64(len(zeros)))]); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
}

// layerLayout writes a layout of one layer that is stored as given.
func layerLayout(t *testing.T, mediaType string, plain, stored []byte) string {
	t.Helper()
	blobs := tblobs{}
	layer := blobs.put(mediaType, stored)
	c := tconfig{Architecture: "amd64", OS: "linux", RootFS: trootfs{Type: "layers", DiffIDs: []string{sha(plain)}}}
	config := blobs.put(ociConfig, timage{}.json(t, c))
	m := blobs.put(ociManifest, timage{}.json(t, tmanifest{SchemaVersion: 2, MediaType: ociManifest, Config: &config, Layers: []tdesc{layer}}))
	dir := t.TempDir()
	writeLayout(t, dir, blobs, timage{}.json(t, tmanifest{SchemaVersion: 2, Manifests: []tdesc{m}}))
	return dir
}

// A file of zeros is what useradd leaves with a high number; what is bounded is
// the work.
func TestExpansion(t *testing.T) {
	var plain, gz, zs bytes.Buffer
	zeroLayer(t, &plain, "var/log/lastlog", 100<<20)
	zw, err := gzip.NewWriterLevel(&gz, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	ez, err := zstd.NewWriter(&zs)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []io.WriteCloser{zw, ez} {
		if _, err := w.Write(plain.Bytes()); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, mediaType string
		stored          []byte
		limits          imagehash.Limits
		ok              bool
	}{
		{"gzip", ociLayer + "+gzip", gz.Bytes(), imagehash.Limits{}, true},
		{"zstd", ociLayer + "+zstd", zs.Bytes(), imagehash.Limits{}, true},
		{"zstd beyond the gift", ociLayer + "+zstd", zs.Bytes(), imagehash.Limits{Gift: 80 << 20, Floor: 1 << 20}, false},
		{"zstd, the floor alone", ociLayer + "+zstd", zs.Bytes(), imagehash.Limits{Gift: 1 << 20, Floor: 80 << 20}, false},
		{"gzip beyond its ratio", ociLayer + "+gzip", gz.Bytes(), imagehash.Limits{Gift: 1, Floor: 1, Ratio: 64}, false},
		{"gzip beyond all", ociLayer + "+gzip", gz.Bytes(), imagehash.Limits{Expanded: 64 << 20}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := layerLayout(t, tt.mediaType, plain.Bytes(), tt.stored)
			r, err := imagehash.VerifyRef(t.Context(), dir, imagehash.Options{Limits: tt.limits})
			if err != nil {
				t.Fatal(err)
			}
			if r.OK() != tt.ok || !tt.ok && strings.Join(codes(r.AllProblems()), " ") != "limit-expansion" {
				t.Errorf("got %v, want ok %v", r.AllProblems(), tt.ok)
			}
		})
	}
	// Many blobs share one gift: two of them get half each.
	var layers []tlayer
	for _, name := range []string{"a", "b"} {
		layers = append(layers, tlayer{comp: "zstd", members: []tmember{file(name, strings.Repeat("\x00", 24<<20))}})
	}
	dir, _ := layoutOf(t, timage{layers: layers})
	for gift, ok := range map[int64]bool{32 << 20: false, 128 << 20: true} {
		r, err := imagehash.VerifyRef(t.Context(), dir, imagehash.Options{Limits: imagehash.Limits{Gift: gift, Floor: 1 << 20, Ratio: 1}})
		if err != nil || r.OK() != ok {
			t.Errorf("gift %d: got %+v, %v", gift, r, err)
		}
	}
}

// Windows up to that of zstd --long=27, which libzstd decodes without being asked.
func TestWindow(t *testing.T) {
	var plain bytes.Buffer
	zeroLayer(t, &plain, "zeros", 9<<20)
	packed := func(window int) []byte {
		var b bytes.Buffer
		w, err := zstd.NewWriter(&b, zstd.WithWindowSize(window), zstd.WithSingleSegment(false))
		if err != nil {
			t.Fatal(err)
		}
		w.ReadFrom(struct{ io.Reader }{bytes.NewReader(plain.Bytes())})
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for _, tt := range []struct {
		window int
		limit  uint64
		ok     bool
	}{{8 << 20, 0, true}, {16 << 20, 0, true}, {128 << 20, 0, true}, {256 << 20, 0, false}, {16 << 20, 8 << 20, false}} {
		dir := layerLayout(t, ociLayer+"+zstd", plain.Bytes(), packed(tt.window))
		r, err := imagehash.VerifyRef(t.Context(), dir, imagehash.Options{Limits: imagehash.Limits{Window: tt.limit}})
		if err != nil {
			t.Fatal(err)
		}
		if r.OK() != tt.ok || !tt.ok && strings.Join(codes(r.AllProblems()), " ") != "limit-window" {
			t.Errorf("window %d MiB: got %v, want ok %v", tt.window>>20, r.AllProblems(), tt.ok)
		}
	}
	// Several large windows wait for each other and come to an end.
	blobs := tblobs{}
	c := tconfig{Architecture: "amd64", OS: "linux", RootFS: trootfs{Type: "layers"}}
	m := tmanifest{SchemaVersion: 2, MediaType: ociManifest}
	for i := range 12 {
		var b bytes.Buffer
		zeroLayer(t, &b, strings.Repeat("x", i+1), 9<<20)
		plain = b
		m.Layers = append(m.Layers, blobs.put(ociLayer+"+zstd", packed(16<<20)))
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, sha(b.Bytes()))
	}
	config := blobs.put(ociConfig, timage{}.json(t, c))
	m.Config = &config
	d := blobs.put(ociManifest, timage{}.json(t, m))
	dir := t.TempDir()
	writeLayout(t, dir, blobs, timage{}.json(t, tmanifest{SchemaVersion: 2, Manifests: []tdesc{d}}))
	if r, err := imagehash.VerifyRef(t.Context(), dir, imagehash.Options{Workers: 8}); err != nil || !r.OK() {
		t.Errorf("got %+v, %v", r, err)
	}
}
