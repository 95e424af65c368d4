package imagehash_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/internal/testenv"
)

// run returns a tool's standard output.
func run(t *testing.T, program string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(program, args...)
	out, err := cmd.Output()
	if err != nil {
		text := ""
		if e, ok := err.(*exec.ExitError); ok {
			text = string(e.Stderr)
		}
		t.Fatalf("%s %v: %v %s", program, args, err, text)
	}
	return out
}

// The real tools agree with us on 50 images of every compression: skopeo on
// manifest digest, config digest, layers and diffIDs; umoci on the layers and,
// where it can read them, on everything that unpacking checks.
func TestOracles(t *testing.T) {
	skopeo, umoci := testenv.Oracle(t, "skopeo"), testenv.Oracle(t, "umoci")
	kinds := map[string]int{}
	unpacked := 0
	for seed := range uint64(50) {
		i := randomImage(100 + seed)
		dir, digests := layoutOf(t, i)
		r, err := imagehash.VerifyRef(t.Context(), dir, imagehash.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if !r.OK() || len(r.Images) != 1 || len(r.Images[0].Platforms) != 1 {
			t.Fatalf("seed %d: got %+v", seed, r)
		}
		image := r.Images[0]
		p := image.Platforms[0]
		if image.Digest.String() != digests[0] {
			t.Errorf("seed %d: got digest %s, want %s", seed, image.Digest, digests[0])
		}
		var layers, diffIDs []string
		for _, l := range p.Layers {
			layers = append(layers, l.Digest.String())
			diffIDs = append(diffIDs, l.DiffID.String())
			kinds[l.MediaType]++
		}

		var inspect struct {
			Digest string
			Layers []string
		}
		decode(t, run(t, skopeo, "inspect", "oci:"+dir+":v1"), &inspect)
		if inspect.Digest != image.Digest.String() || !slices.Equal(inspect.Layers, layers) {
			t.Errorf("seed %d: got %s %v, skopeo has %+v", seed, image.Digest, layers, inspect)
		}
		config := run(t, skopeo, "inspect", "--config", "--raw", "oci:"+dir+":v1")
		if sha(config) != p.Config.String() {
			t.Errorf("seed %d: got config %s, skopeo has %s", seed, p.Config, sha(config))
		}
		var c tconfig
		decode(t, config, &c)
		if !slices.Equal(c.RootFS.DiffIDs, diffIDs) {
			t.Errorf("seed %d: got diffIDs %v, skopeo has %v", seed, diffIDs, c.RootFS.DiffIDs)
		}

		var stat struct {
			History []struct {
				Layer *struct {
					Digest string `json:"digest"`
				} `json:"layer"`
				DiffID string `json:"diff_id"`
			} `json:"history"`
		}
		decode(t, run(t, umoci, "stat", "--json", "--image", dir+":v1"), &stat)
		var got []string
		for _, h := range stat.History {
			if h.Layer != nil {
				got = append(got, h.Layer.Digest)
			}
		}
		if !slices.Equal(got, layers) {
			t.Errorf("seed %d: got layers %v, umoci has %v", seed, layers, got)
		}
		if !slices.ContainsFunc(p.Layers, func(l imagehash.Layer) bool { return l.MediaType == ociLayer+"+zstd" }) {
			// Unpacking checks every digest and diffID again.
			run(t, umoci, "unpack", "--rootless", "--image", dir+":v1", filepath.Join(t.TempDir(), "bundle"))
			unpacked++
		}
	}
	for _, suffix := range []string{"", "+gzip", "+zstd"} {
		if kinds[ociLayer+suffix] < 10 {
			t.Errorf("only %d layers of type %q, want 10 and more", kinds[ociLayer+suffix], suffix)
		}
	}
	if unpacked < 10 {
		t.Errorf("umoci unpacked %d images, want 10 and more", unpacked)
	}
}

func decode(t *testing.T, data []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
}
