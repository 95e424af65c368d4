// Package policytest gives tests of the program the policy vectors that the
// repository carries, a registry that serves their images, and OCI layouts of
// them.
package policytest

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/retally/retally/internal/testenv"
)

// Unpack writes the policy vectors that the repository carries into a fresh
// folder: cases, images, rules, settings.
func Unpack(t testing.TB) string {
	t.Helper()
	f, err := os.Open(filepath.Join(testenv.ModuleRoot(t), "fixtures", "policy", "own-policy.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := unpackTar(zr, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func unpackTar(r io.Reader, dir string) error {
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
}

// Registry serves the images of the policy vectors as a registry does and
// counts what is asked for.
type Registry struct {
	*httptest.Server
	Dir  string // with blobs/sha256/HEX and refs.json
	Refs map[string]struct{ Digest, MediaType string }

	mu   sync.Mutex
	gets map[string]int // by kind and digest or tag
}

// NewRegistry starts one on loopback, over a folder as Unpack gives its images.
func NewRegistry(t testing.TB, dir string) *Registry {
	t.Helper()
	r := &Registry{Dir: dir, gets: map[string]int{}}
	data, err := os.ReadFile(filepath.Join(dir, "refs.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &r.Refs); err != nil {
		t.Fatal(err)
	}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

// Addr is host:port.
func (r *Registry) Addr() string { return strings.TrimPrefix(r.URL, "http://") }

var registryPath = regexp.MustCompile(`^/v2/(.+)/(manifests|blobs)/([^/]+)$`)

// ServeHTTP implements http.Handler.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/v2/" {
		_, _ = io.WriteString(w, "{}")
		return
	}
	m := registryPath.FindStringSubmatch(req.URL.Path)
	if m == nil {
		http.NotFound(w, req)
		return
	}
	repo, kind, name := m[1], m[2], m[3]
	r.mu.Lock()
	r.gets[kind+" "+name]++
	r.mu.Unlock()
	mediaType := ""
	if kind == "manifests" && !strings.HasPrefix(name, "sha256:") {
		// The host of the reference is not told; a repository has one host here.
		for ref, e := range r.Refs {
			if _, rest, _ := strings.Cut(ref, "/"); rest == repo+":"+name {
				name, mediaType = e.Digest, e.MediaType
			}
		}
	}
	f, err := os.Open(filepath.Join(r.Dir, "blobs", "sha256", strings.TrimPrefix(name, "sha256:")))
	if err != nil {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)
		return
	}
	defer f.Close() //nolint:errcheck // read only
	w.Header().Set("Content-Type", "application/octet-stream")
	if kind == "manifests" {
		var doc struct{ MediaType string }
		if mediaType == "" && json.NewDecoder(f).Decode(&doc) == nil {
			mediaType = doc.MediaType
		}
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Docker-Content-Digest", name)
	}
	http.ServeContent(w, req, "", time.Time{}, f)
}

// Counts returns the requests since the last call.
func (r *Registry) Counts() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.gets
	r.gets = map[string]int{}
	return out
}

// descriptor is a descriptor as index.json has it.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Layout writes an OCI layout with one image of a folder of blobs: everything
// below the manifest or index, under the annotation name if it is not empty.
func Layout(images, out, digest, mediaType, name string) error {
	blobs := filepath.Join(out, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	var size int64
	var copyBlob func(digest string) error
	copyBlob = func(digest string) error {
		hex := strings.TrimPrefix(digest, "sha256:")
		data, err := os.ReadFile(filepath.Join(images, "blobs", "sha256", hex))
		if err != nil {
			return err
		}
		size = int64(len(data))
		if err := os.WriteFile(filepath.Join(blobs, hex), data, 0o644); err != nil {
			return err
		}
		var doc struct {
			Config            descriptor
			Manifests, Layers []descriptor
		}
		if json.Unmarshal(data, &doc) != nil {
			return nil // a layer
		}
		below := append(doc.Manifests, doc.Layers...)
		if doc.Config.Digest != "" {
			below = append(below, doc.Config)
		}
		for _, d := range below {
			if err := copyBlob(d.Digest); err != nil {
				return err
			}
		}
		size = int64(len(data))
		return nil
	}
	if err := copyBlob(digest); err != nil {
		return err
	}
	root := descriptor{MediaType: mediaType, Digest: digest, Size: size}
	if name != "" {
		root.Annotations = map[string]string{"org.opencontainers.image.ref.name": name}
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []descriptor{root}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "index.json"), index, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
}

// Layouts writes a layout of every reference that the registry knows, under its
// whole name. Images whose blobs are broken on purpose are left out.
func Layouts(r *Registry, out string) error {
	for ref, e := range r.Refs {
		dir := filepath.Join(out, strings.NewReplacer("/", "_", ":", "_").Replace(ref))
		if err := Layout(r.Dir, dir, e.Digest, e.MediaType, ref); err != nil {
			return err
		}
	}
	return nil
}
