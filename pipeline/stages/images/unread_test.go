package images_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/images"
)

// layout writes an image with one layer, which is left out of the blobs where
// foreign is set, and returns its digest.
func layout(t *testing.T, dir string, foreign bool) string {
	t.Helper()
	blob := func(data []byte, keep bool) (string, int) {
		sum := sha256.Sum256(data)
		name := hex.EncodeToString(sum[:])
		if keep {
			path := filepath.Join(dir, "blobs", "sha256", name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return "sha256:" + name, len(data)
	}
	kind, urls := "application/vnd.oci.image.layer.v1.tar", ""
	if foreign {
		kind, urls = "application/vnd.oci.image.layer.nondistributable.v1.tar", `,"urls":["https://owner.example/layer"]`
	}
	layer, layerSize := blob(make([]byte, 1024), !foreign)
	conf, confSize := blob(fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, layer), true)
	manifest, size := blob(fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":%d%s}]}`, conf, confSize, kind, layer, layerSize, urls), true)
	for name, text := range map[string]string{
		"oci-layout": `{"imageLayoutVersion":"1.0.0"}`,
		"index.json": fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d}]}`, manifest, size),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return manifest
}

// An image with a layer that nobody read has no digest: not even a hashes file
// gives it one.
func TestUnreadLayerIsUnchecked(t *testing.T) {
	for _, foreign := range []bool{false, true} {
		t.Run(fmt.Sprint(foreign), func(t *testing.T) {
			dir := t.TempDir()
			digest := layout(t, dir, foreign)
			pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: \"r.example/p/x@" + digest + "\"}]}\n"
			for name, text := range map[string]string{"d.yaml": pod, "h.json": fmt.Sprintf(`{"x":%q}`, digest)} {
				if err := os.WriteFile(filepath.Join(dir, "..", name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			root := filepath.Dir(dir)
			cfg := &config.Config{Deployment: "d.yaml", Hashes: "h.json", Images: map[string]config.Image{"x": {OCI: filepath.Base(dir)}}}
			out, err := images.Stage().Run(context.Background(), run.NewIn(cfg, run.NewReader(root, nil)))
			if err != nil {
				t.Fatal(err)
			}
			key := pipeline.Key("image/x/manifest")
			if got := len(out.Measurements); got != map[bool]int{false: 1, true: 0}[foreign] {
				t.Errorf("got %d measurements: %+v", got, out.Measurements)
			}
			if got := strings.Contains(out.Notes[key], "never read") || strings.Contains(out.Notes[key], "not read"); got != foreign {
				t.Errorf("note %q", out.Notes[key])
			}
		})
	}
}
