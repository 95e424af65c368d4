package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestProxyImageComparesTheAskedImage: an equal digest of another image, under
// another name or of a platform that does not run is no match, in any order.
func TestProxyImageComparesTheAskedImage(t *testing.T) {
	const proxy, other = "ghcr.io/edgelesssys/privatemode/privatemode-proxy", "ghcr.io/other"
	const oci = "application/vnd.oci.image."
	d := func(c string) string { return "sha256:" + strings.Repeat(c, 64) }
	good, evil := d("a"), d("e")
	img := func(name string, digests ...string) map[string]any {
		return map[string]any{"Id": d("c"), "RepoTags": []string{name + ":latest"}, "RepoDigests": digests, "Architecture": "amd64", "Os": "linux", "RootFS": map[string]any{}}
	}
	manifest := func(platform, digest string) map[string]any {
		os, arch, _ := strings.Cut(platform, "/")
		return map[string]any{"Kind": "image", "Descriptor": map[string]any{"mediaType": oci + "manifest.v1+json", "digest": digest, "size": 1}, "ImageData": map[string]any{"Platform": map[string]any{"os": os, "architecture": arch}}}
	}
	index := func(list ...map[string]any) map[string]any {
		i := img(proxy, proxy+"@"+evil)
		i["Descriptor"] = map[string]any{"mediaType": oci + "index.v1+json", "digest": evil, "size": 1}
		i["Manifests"] = list
		return i
	}
	type list = []map[string]any
	for _, tt := range []struct {
		name string
		in   list
		want int
	}{
		{"plain", list{img(proxy, proxy+"@"+good)}, 0},
		{"two digests of the name", list{img(proxy, proxy+"@"+evil, proxy+"@"+good)}, 0},
		{"another digest", list{img(proxy, proxy+"@"+evil)}, exitDiffers},
		{"of another image", list{img(other, other+"@"+good), img(proxy, proxy+"@"+evil)}, exitDiffers},
		{"of another image, behind", list{img(proxy, proxy+"@"+evil), img(other, other+"@"+good)}, exitDiffers},
		{"of another image, the asked one matches", list{img(other, other+"@"+evil), img(proxy, proxy+"@"+good)}, 0},
		{"two of the name, one differs", list{img(proxy, proxy+"@"+good), img(proxy, proxy+"@"+evil)}, exitDiffers},
		{"two of the name, the other way round", list{img(proxy, proxy+"@"+evil), img(proxy, proxy+"@"+good)}, exitDiffers},
		{"two of the name, one has no digest", list{img(proxy, proxy+"@"+good), img(proxy)}, exitUnchecked},
		{"none of the name", list{img(other, other+"@"+good), img(other+"2", other+"2@"+good)}, exitUnchecked},
		{"a name that begins or ends alike", list{img("x/privatemode-proxy-evil", "x/privatemode-proxy-evil@"+good), img("x/Privatemode-Proxy", "x/Privatemode-Proxy@"+good)}, exitUnchecked},
		{"under another name of the image", list{img(proxy, other+"@"+good, proxy+"@"+evil)}, exitDiffers},
		{"the only image, from a mirror", list{img("mirror.example/pm", "mirror.example/pm@"+good)}, 0},
		{"of the platform that runs", list{index(manifest("linux/arm64", evil), manifest("linux/amd64", good))}, 0},
		{"of a platform that does not run", list{index(manifest("linux/arm64", good), manifest("linux/amd64", d("f")))}, exitDiffers},
		{"one of two manifests of the platform", list{index(manifest("linux/amd64", d("f")), manifest("linux/amd64", good))}, exitDiffers},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write := func(name string, v any) string {
				data, err := json.Marshal(v)
				if err != nil {
					t.Fatal(err)
				}
				p := filepath.Join(dir, name)
				if err := os.WriteFile(p, data, 0o644); err != nil {
					t.Fatal(err)
				}
				return p
			}
			code, out, errs := inProcess(t, nil, "proxy-image", "--inspect", write("inspect.json", tt.in), "--hashes", write("hashes.json", map[string]string{"privatemode-proxy": good}))
			if code != tt.want {
				t.Errorf("exit %d, want %d\n%s%s", code, tt.want, out, errs)
			}
		})
	}
}
