package policies_test

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/internal/cache"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/policytest"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/stages/policies"
	"github.com/retally/retally/policygen"
)

// imageLab makes layouts of the vectors' images under any name.
type imageLab struct {
	*policytest.Registry
	dir string
}

func newImageLab(t *testing.T) *imageLab {
	t.Helper()
	return &imageLab{policytest.NewRegistry(t, filepath.Join(policytest.Unpack(t), "images")), t.TempDir()}
}

// layout writes the image of a reference as dir, annotated.
func (l *imageLab) layout(t *testing.T, dir, ref, annotation string) string {
	t.Helper()
	e, ok := l.Refs[ref]
	if !ok {
		t.Fatalf("no image %s among the vectors", ref)
	}
	if err := policytest.Layout(l.Dir, filepath.Join(l.dir, dir), e.Digest, e.MediaType, annotation); err != nil {
		t.Fatal(err)
	}
	return e.Digest
}

func (l *imageLab) file(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func tarOf(t *testing.T, dir string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func resolve(t *testing.T, from policies.Sources, text string) (*policygen.ResolvedImage, []policies.UsedImage, error) {
	t.Helper()
	ref, err := policygen.ParseImageReference(text)
	if err != nil {
		t.Fatal(err)
	}
	images := policies.NewImages(from)
	t.Cleanup(func() {
		if err := images.Close(); err != nil {
			t.Error(err)
		}
	})
	img, err := images.Resolve(t.Context(), ref)
	return img, images.Used(), err
}

const (
	nginx = "localhost:5000/nginx:1.27"
	redis = "localhost:5000/opstree/redis:latest"
	pause = "localhost:5000/pause:3.6"
)

// TestPolicyImagesFolder finds images in a folder by digest and by name.
func TestPolicyImagesFolder(t *testing.T) {
	lab := newImageLab(t)
	nginxID := lab.layout(t, "some-result", nginx, "")
	redisID := lab.layout(t, "redis", redis, "latest")
	pauseID := lab.layout(t, "pause", pause, "")
	lab.layout(t, "whole", "localhost:5000/nvidia/cuda-sample:v1", "registry.test/team/cuda:v7")
	lab.layout(t, "tmp", "docker.io/library/busybox:latest", "")
	lab.file(t, "saved.tar", tarOf(t, filepath.Join(lab.dir, "tmp")))
	if err := os.RemoveAll(filepath.Join(lab.dir, "tmp")); err != nil {
		t.Fatal(err)
	}
	lab.file(t, "notes.tar", []byte("no archive"))
	lab.file(t, "README", []byte("nothing"))
	lab.file(t, "broken/index.json", []byte("{"))
	folder := policies.Sources{Folders: []string{lab.dir}}
	other := "@sha256:" + strings.Repeat("1", 64)
	tests := []struct {
		name, ref  string
		from       policies.Sources
		wantSource string // the last part
		wantErr    string
	}{
		{"digest in any folder", "registry.test/x/y@" + nginxID, folder, "some-result", ""},
		{"digest beats tag", "registry.test/redis:9@" + nginxID, folder, "some-result", ""},
		{"folder and tag", "registry.test/redis:latest", folder, "redis", ""},
		{"folder without tag", "registry.test/pause:3.6", folder, "pause", ""},
		{"whole reference", "registry.test/team/cuda:v7", folder, "whole", ""},
		{"archive", "saved:1", folder, "saved.tar", ""},
		{"archive by digest", "busybox@" + lab.Refs["docker.io/library/busybox:latest"].Digest, folder, "saved.tar", ""},
		{"another tag", "registry.test/redis:7", folder, "", "redis:7: looked at"},
		{"another registry of a whole reference", "elsewhere.test/team/cuda:v7", folder, "", "registry.test/team/cuda:v7"},
		{"unknown digest", "redis" + other, folder, "", "no image with digest sha256:1111"},
		{"unknown name", "nothing:1", folder, "", "skopeo copy --all docker://docker.io/library/nothing:1"},
		{"broken one of that name", "registry.test/broken:1", folder, "", "json-invalid"},
		{"one layout alone", "pause@" + pauseID, policies.Sources{Folders: []string{filepath.Join(lab.dir, "pause")}}, "pause", ""},
		{"named", "registry.test/app:5", policies.Sources{Named: map[string]config.Image{"app": {OCI: "redis"}}, Path: func(n string) string { return filepath.Join(lab.dir, n) }}, "redis", ""},
		{"named, pinned", "registry.test/app@" + redisID, policies.Sources{Named: map[string]config.Image{"app": {OCI: filepath.Join(lab.dir, "redis")}}}, "redis", ""},
		{"named, another digest", "registry.test/app" + other, policies.Sources{Named: map[string]config.Image{"app": {OCI: filepath.Join(lab.dir, "redis")}}}, "", "looked at"},
		{"named archive", "registry.test/app:5", policies.Sources{Named: map[string]config.Image{"app": {Archive: filepath.Join(lab.dir, "saved.tar")}}}, "saved.tar", ""},
		{"named, not there", "registry.test/app:5", policies.Sources{Named: map[string]config.Image{"app": {OCI: filepath.Join(lab.dir, "nowhere")}}}, "", "no such file"},
		{"no place", "nothing:1", policies.Sources{}, "", "no place to look for it was given"},
		{"no folder", "nothing:1", policies.Sources{Folders: []string{filepath.Join(lab.dir, "nowhere")}}, "", "no such file"},
		{"nothing in the folder", "nothing:1", policies.Sources{Folders: []string{filepath.Join(lab.dir, "pause", "blobs")}}, "", "no OCI layout or archive"},
		{"folder first, then registry", nginx, policies.Sources{Folders: []string{filepath.Join(lab.dir, "redis")}, Pull: true, Remote: imagehash.Remote{Mirrors: map[string]string{"*": lab.Addr()}}}, "nginx:1.27", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img, used, err := resolve(t, tt.from, tt.ref)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("error %v, want %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(used) != 1 || !strings.HasSuffix(used[0].Source, tt.wantSource) || used[0].Manifest != img.Digest || used[0].Reference != tt.ref {
				t.Errorf("used %+v, want %s", used, tt.wantSource)
			}
			if len(img.Config) == 0 || len(img.Layers) == 0 {
				t.Fatalf("image %+v, want a config and layers", img)
			}
			for _, l := range img.Layers {
				r, err := l.Open(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				data, err := io.ReadAll(r)
				if err != nil || digest.SHA256.Sum(data) != l.Digest || int64(len(data)) != l.Size {
					t.Errorf("layer %s: %d bytes with digest %s, %v", l.Digest, len(data), digest.SHA256.Sum(data), err)
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestPolicyImagesAmbiguous(t *testing.T) {
	lab := newImageLab(t)
	lab.layout(t, "a", nginx, "registry.test/app:1")
	lab.layout(t, "b", redis, "registry.test/app:1")
	from := policies.Sources{Folders: []string{lab.dir}}
	if _, _, err := resolve(t, from, "registry.test/app:1"); err == nil || !strings.Contains(err.Error(), "ambiguous") || !strings.Contains(err.Error(), lab.Refs[nginx].Digest) {
		t.Errorf("error %v, want one that names both images", err)
	}
	// Two copies of one image are one image.
	lab.layout(t, "b", nginx, "registry.test/app:1")
	if _, _, err := resolve(t, from, "registry.test/app:1"); err != nil {
		t.Errorf("two copies: %v", err)
	}
}

// TestPolicyImagesIndex takes the first linux/amd64 member of an index, and
// finds members and the index alike by digest.
func TestPolicyImagesIndex(t *testing.T) {
	lab := newImageLab(t)
	indexes := 0
	for ref, e := range lab.Refs {
		if !strings.HasSuffix(e.MediaType, "index.v1+json") && !strings.HasSuffix(e.MediaType, "manifest.list.v2+json") {
			continue
		}
		indexes++
		_, repo, _ := strings.Cut(ref, "/")
		dir := strings.NewReplacer("/", "_", ":", "_").Replace(repo)
		lab.layout(t, dir, ref, ref)
		local, _, localErr := resolve(t, policies.Sources{Folders: []string{lab.dir}}, ref)
		pinned, _, pinnedErr := resolve(t, policies.Sources{Folders: []string{lab.dir}}, "x@"+e.Digest)
		pulled, _, pulledErr := resolve(t, policies.Sources{Pull: true, Remote: imagehash.Remote{Mirrors: map[string]string{"*": lab.Addr()}}}, ref)
		if localErr != nil {
			if pinnedErr == nil || pulledErr == nil || !strings.Contains(localErr.Error(), "linux/amd64") {
				t.Errorf("%s: %v; %v; %v", ref, localErr, pinnedErr, pulledErr)
			}
			continue
		}
		if pinnedErr != nil || pulledErr != nil {
			t.Fatalf("%s: %v; %v", ref, pinnedErr, pulledErr)
		}
		if local.Digest != pinned.Digest || local.Digest != pulled.Digest || local.Digest.String() == e.Digest {
			t.Errorf("%s: %s, %s, %s", ref, local.Digest, pinned.Digest, pulled.Digest)
		}
		if member, _, err := resolve(t, policies.Sources{Folders: []string{lab.dir}}, "x@"+local.Digest.String()); err != nil || member.Digest != local.Digest {
			t.Errorf("%s: member: %v", ref, err)
		}
	}
	if indexes == 0 {
		t.Fatal("no index among the vectors")
	}
}

// TestPolicyImagesTampered changes one byte of each document of an image.
func TestPolicyImagesTampered(t *testing.T) {
	lab := newImageLab(t)
	id := lab.layout(t, "app", nginx, "")
	img, _, err := resolve(t, policies.Sources{Folders: []string{lab.dir}}, "app@"+id)
	if err != nil {
		t.Fatal(err)
	}
	for _, hex := range []string{strings.TrimPrefix(id, "sha256:"), digest.SHA256.Sum(img.Config).Hex()} {
		path := filepath.Join(lab.dir, "app", "blobs", "sha256", hex)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Clone(data)
		changed[len(changed)/2] ^= 1
		lab.file(t, "app/blobs/sha256/"+hex, changed)
		if _, _, err := resolve(t, policies.Sources{Folders: []string{lab.dir}}, "app@"+id); err == nil || !strings.Contains(err.Error(), "digest-mismatch") {
			t.Errorf("error %v, want digest-mismatch", err)
		}
		lab.file(t, "app/blobs/sha256/"+hex, data)
	}
}

// TestPolicyImagesSilentRegistry asks a registry that refuses connections once.
func TestPolicyImagesSilentRegistry(t *testing.T) {
	images := policies.NewImages(policies.Sources{Pull: true, Remote: imagehash.Remote{Retries: -1, Mirrors: map[string]string{"*": "127.0.0.1:1"}}})
	for i, want := range []string{"refused", "not asked for, since before"} {
		ref, err := policygen.ParseImageReference("registry.test/app:" + string(rune('a'+i)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := images.Resolve(t.Context(), ref); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestLayerCache(t *testing.T) {
	if policies.NewLayerCache(nil) != nil {
		t.Error("a layer cache without a store")
	}
	dir := t.TempDir()
	store, err := cache.Open(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	layers := policies.NewLayerCache(store)
	d, want := digest.SHA256.Sum([]byte("layer")), policygen.LayerFiles{Passwd: "root:x:0:0:::\n", Group: "WHITEOUT"}
	if _, ok := layers.Get(d); ok {
		t.Error("an empty cache has an answer")
	}
	layers.Put(d, want)
	if got, ok := layers.Get(d); !ok || got != want {
		t.Errorf("got %+v %v, want %+v", got, ok, want)
	}
	if _, ok := layers.Get(digest.SHA256.Sum([]byte("other"))); ok {
		t.Error("an answer for another layer")
	}
	// A damaged entry is no answer.
	if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, bytes.Replace(data, []byte("root:x:0"), []byte("root:x:1"), 1), 0o600)
	}); err != nil {
		t.Fatal(err)
	}
	if got, ok := layers.Get(d); ok {
		t.Errorf("a damaged entry is an answer: %+v", got)
	}
}
