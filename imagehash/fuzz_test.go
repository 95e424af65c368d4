package imagehash_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/imagehash"
)

// tight keeps fuzzing fast and shows that limits hold.
func tight() imagehash.Options {
	return imagehash.Options{Workers: 1, Limits: imagehash.Limits{
		Manifest: 64 << 10, Config: 64 << 10, Depth: 4, Manifests: 50, Entries: 200, Ratio: 8, Floor: 1 << 20, Expanded: 4 << 20,
	}}
}

// named is a file of an archive.
type named struct {
	name string
	data []byte
}

func tarOf(t testing.TB, files ...named) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))}); err != nil {
			t.Fatal(err)
		}
		w.Write(f.data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func blobPath(p []byte) string { return "blobs/sha256/" + strings.TrimPrefix(sha(p), "sha256:") }

// verifyFuzzed verifies an archive and checks what holds for every report.
func verifyFuzzed(t *testing.T, data []byte) {
	t.Helper()
	src, err := imagehash.OpenArchive(t.Context(), "fuzz", bytes.NewReader(data), int64(len(data)), tight())
	if err != nil {
		return
	}
	defer src.Close()
	r, err := imagehash.Verify(t.Context(), src, tight())
	if err != nil {
		t.Fatalf("the archive is in memory, yet: %v", err)
	}
	checkReport(t, r)
}

func checkReport(t *testing.T, r *imagehash.Report) {
	t.Helper()
	for _, p := range append(r.AllProblems(), r.AllNotes()...) {
		if p.Code == "" || p.Place == "" && !strings.HasPrefix(p.Code, "archive-") && !strings.HasPrefix(p.Code, "limit-") {
			t.Errorf("finding without code or place: %+v", p)
		}
	}
	if len(r.Rows()) == 0 {
		t.Error("no rows")
	}
	if r.OK() && len(r.Images) == 0 {
		t.Error("accepted without an image")
	}
	for _, i := range r.Images {
		if len(i.Problems) > 0 || len(r.Problems) > 0 {
			continue
		}
		for _, p := range i.Platforms {
			for _, l := range p.Layers {
				if l.DiffID.IsZero() {
					t.Errorf("accepted image without a diffID: %+v", p)
				}
			}
		}
	}
}

func FuzzArchive(f *testing.F) {
	good := timage{layers: []tlayer{{members: []tmember{file("a", "b")}}}}
	blobs := tblobs{}
	root := good.build(f, blobs)
	files := []named{{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)}}
	for _, p := range blobs {
		files = append(files, named{blobPath(p), p})
	}
	files = append(files, named{"index.json", []byte(fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, root.MediaType, root.Digest, root.Size))})
	whole := tarOf(f, files...)
	f.Add(whole)
	f.Add(gzipped(f, whole))
	f.Add(whole[:len(whole)-1500])
	f.Fuzz(func(t *testing.T, data []byte) { verifyFuzzed(t, data) })
}

// FuzzLayout makes a layout of documents: @M and @C in them stand for the
// digest and size of manifest and config.
func FuzzLayout(f *testing.F) {
	const desc = `"digest":"@M","size":@m`
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"`+ociManifest+`",`+desc+`}]}`),
		[]byte(`{"schemaVersion":2,"mediaType":"`+ociManifest+`","config":{"mediaType":"`+ociConfig+`","digest":"@C","size":@c},"layers":[]}`),
		[]byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"history":[{"empty_layer":true}]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"`+ociIndex+`",`+desc+`,"platform":{"os":"linux","architecture":"arm"}}]}`),
		[]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"`+ociManifest+`","digest":"@C","size":@c,"annotations":{"a":"b"},"data":"e30="}]}`),
		[]byte(`{}`))
	f.Fuzz(func(t *testing.T, index, manifest, config []byte) {
		if len(index)+len(manifest)+len(config) > 16<<10 {
			return
		}
		fill := func(p []byte, upper, lower string, of []byte) []byte {
			p = bytes.ReplaceAll(p, []byte(upper), []byte(sha(of)))
			return bytes.ReplaceAll(p, []byte(lower), []byte(fmt.Sprint(len(of))))
		}
		manifest = fill(manifest, "@C", "@c", config)
		index = fill(index, "@M", "@m", manifest)
		files := []named{{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {"index.json", index}, {blobPath(manifest), manifest}}
		if !bytes.Equal(config, manifest) {
			files = append(files, named{blobPath(config), config})
		}
		verifyFuzzed(t, tarOf(t, files...))
	})
}

func FuzzDockerArchive(f *testing.F) {
	layer := tlayer{members: []tmember{file("a", "b")}}.tar()
	config := fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, sha(layer))
	f.Add([]byte(`[{"Config":"@C.json","RepoTags":["a:b"],"Layers":["x/layer.tar"]}]`), []byte(config), layer)
	f.Add([]byte(`[{"Config":"@C.json","Layers":["x/../x/layer.tar"]},{"Config":"blobs/sha256/@C"}]`), []byte(config), layer)
	// A folder of skopeo's dir transport, packed.
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:@C","size":9},"layers":[]}`), []byte(config), layer)
	f.Fuzz(func(t *testing.T, manifest, config, layer []byte) {
		name := strings.TrimPrefix(sha(config), "sha256:")
		manifest = bytes.ReplaceAll(manifest, []byte("@C"), []byte(name))
		verifyFuzzed(t, tarOf(t, named{"manifest.json", manifest}, named{name + ".json", config}, named{"x/layer.tar", layer}))
	})
}

// FuzzDiff compares two images with one plain layer each of the fuzzer's bytes.
func FuzzDiff(f *testing.F) {
	a := tlayer{members: []tmember{folder("d"), file("d/a", "one"), {name: "d/l", typ: '2', link: "a"}}}
	b := tlayer{members: []tmember{folder("d"), {name: "d/a", typ: '0', uid: 3, pax: map[string]string{"mtime": "1.5"}}, {name: "d/l", typ: '1', link: "d/a"}}}
	f.Add(a.tar(), b.tar())
	global := tmember{name: "g", typ: 'g', content: []byte("11 comment=\n")}
	f.Add(append(global.bytes(), a.tar()...), b.tar())
	f.Add(a.tar(), append(global.bytes(), a.tar()...))
	f.Fuzz(func(t *testing.T, tarA, tarB []byte) {
		open := func(layer []byte) *imagehash.Source {
			blobs := tblobs{}
			l := blobs.put(ociLayer, layer)
			c := blobs.put(ociConfig, timage{}.json(t, tconfig{OS: "linux", RootFS: trootfs{Type: "layers", DiffIDs: []string{sha(layer)}}}))
			m := blobs.put(ociManifest, timage{}.json(t, tmanifest{SchemaVersion: 2, Config: &c, Layers: []tdesc{l}}))
			files := []named{{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {"index.json", timage{}.json(t, tmanifest{SchemaVersion: 2, Manifests: []tdesc{m}})}}
			for _, p := range blobs {
				files = append(files, named{blobPath(p), p})
			}
			data := tarOf(t, files...)
			src, err := imagehash.OpenArchive(t.Context(), "fuzz", bytes.NewReader(data), int64(len(data)), tight())
			if err != nil {
				t.Fatal(err)
			}
			return src
		}
		d, err := imagehash.Diff(t.Context(), open(tarA), open(tarB), imagehash.DiffOptions{Options: tight()})
		if err != nil {
			return // one of them does not verify
		}
		if d.Equal != bytes.Equal(tarA, tarB) {
			t.Fatalf("equal is %v", d.Equal)
		}
		if !d.Equal && len(d.Causes) == 0 {
			t.Fatal("different without a cause")
		}
		for _, c := range d.Causes {
			if c.Kind == "" || len(c.Path) == 0 || c.Count == 0 {
				t.Errorf("empty cause %+v", c)
			}
		}
	})
}

// FuzzRegistry lets the fuzzer answer for a registry.
func FuzzRegistry(f *testing.F) {
	var status int
	var mediaType, digest string
	var body []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Docker-Content-Digest", digest)
		w.WriteHeader(status)
		w.Write(body)
	}))
	f.Cleanup(server.Close)
	ref := strings.TrimPrefix(server.URL, "http://") + "/app:tag"
	f.Add(200, ociManifest, sha(nil), []byte(`{"schemaVersion":2,"config":{"mediaType":"`+ociConfig+`","digest":"`+sha([]byte("{}"))+`","size":2},"layers":[]}`))
	f.Add(404, "text/plain", "", []byte(`{"errors":[]}`))
	f.Add(206, ociIndex, "sha256:", []byte(`{"schemaVersion":2,"manifests":[]}`))
	f.Fuzz(func(t *testing.T, code int, typ, dig string, answer []byte) {
		status, mediaType, digest, body = 200+(code&0xffff)%400, typ, dig, answer
		opts := tight()
		opts.Remote = imagehash.Remote{Tags: true, Retries: -1, Timeout: 2 * time.Second}
		r, err := imagehash.VerifyRef(t.Context(), ref, opts)
		if err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				t.Log(err)
			}
			return
		}
		checkReport(t, r)
	})
}
