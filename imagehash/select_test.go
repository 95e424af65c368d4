package imagehash_test

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/retally/retally/imagehash"
	digestpkg "github.com/retally/retally/internal/digest"
)

// FuzzSelect selects from hostile layouts. What is selected must be held by
// digests: the config is the bytes of its digest, and a digest that was asked
// for is the root.
func FuzzSelect(f *testing.F) {
	config := []byte(`{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}`)
	manifest := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + sha(config) + `","size":` + sizeOf(config) + `},"layers":[]}`)
	index := []byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + sha(manifest) + `","size":` + sizeOf(manifest) + `,"platform":{"os":"linux","architecture":"amd64"}}]}`)
	outer := []byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"` + sha(index) + `","size":` + sizeOf(index) + `}]}`)
	f.Add(index, manifest, config, []byte{})
	f.Add(outer, manifest, config, index)
	f.Fuzz(func(t *testing.T, root, a, b, c []byte) {
		files := []named{{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {"index.json", root}}
		seen := map[string]bool{}
		for _, blob := range [][]byte{a, b, c} {
			if !seen[sha(blob)] {
				files = append(files, named{blobPath(blob), blob})
			}
			seen[sha(blob)] = true
		}
		data := tarOf(t, files...)
		src, err := imagehash.OpenArchive(t.Context(), "fuzz", bytes.NewReader(data), int64(len(data)), tight())
		if err != nil {
			return
		}
		defer src.Close()
		entries, err := src.Entries(t.Context(), tight())
		if err != nil {
			return
		}
		for _, e := range entries {
			sel, err := src.Select(t.Context(), imagehash.SelectOptions{Options: tight(), Digest: e.Digest, Platform: "linux/amd64"})
			if err != nil {
				continue
			}
			if digestpkg.SHA256.Sum(sel.Config) != sel.ConfigDigest && sel.ConfigDigest.Algorithm() == digestpkg.SHA256 {
				t.Errorf("config of %s does not have digest %s", e.Digest, sel.ConfigDigest)
			}
			if sel.Root != e.Digest && !e.Digest.IsZero() {
				t.Errorf("root %s, want %s", sel.Root, e.Digest)
			}
			for _, l := range sel.Layers {
				if r, err := src.OpenLayer(t.Context(), l); err == nil {
					_, _ = io.Copy(io.Discard, r)
					r.Close()
				}
			}
		}
	})
}

func sizeOf(b []byte) string { return strconv.Itoa(len(b)) }

// TestSelectRefuses takes layouts that do not say clearly what is in them.
func TestSelectRefuses(t *testing.T) {
	config := []byte(`{"architecture":"amd64"}`)
	conf := `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + sha(config) + `","size":` + sizeOf(config) + `}`
	manifest := func(extra string) []byte { return []byte(`{"schemaVersion":2,` + conf + extra + `}`) }
	descriptor := func(blob []byte, mediaType string) string {
		return `{"mediaType":"` + mediaType + `","digest":"` + sha(blob) + `","size":` + sizeOf(blob) + `}`
	}
	const ociManifestType, ociIndexType = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"
	good := manifest(`,"layers":[]`)
	inner := []byte(`{"schemaVersion":2,"manifests":[` + descriptor(good, ociManifestType) + `]}`)
	nested := []byte(`{"schemaVersion":2,"manifests":[` + strings.Replace(descriptor(inner, ociIndexType), "}", `,"platform":{"os":"linux","architecture":"amd64"}}`, 1) + `]}`)
	tests := []struct {
		name, index, wantErr string
		blobs                [][]byte
	}{
		{"good", `{"schemaVersion":2,"manifests":[` + descriptor(good, ociManifestType) + `]}`, "", [][]byte{good, config}},
		{"no index.json member", `{"schemaVersion":2,"manifests":[]}`, "index-empty", nil},
		{"two images, none named", `{"schemaVersion":2,"manifests":[` + descriptor(good, ociManifestType) + `,` + descriptor(inner, ociIndexType) + `]}`, "holds 2 images", [][]byte{good, inner, config}},
		{"manifest missing", `{"schemaVersion":2,"manifests":[` + descriptor(good, ociManifestType) + `]}`, "blob-missing", [][]byte{config}},
		{"config missing", `{"schemaVersion":2,"manifests":[` + descriptor(good, ociManifestType) + `]}`, "blob-missing", [][]byte{good}},
		{"unknown type", `{"schemaVersion":2,"manifests":[` + descriptor(good, "text/plain") + `]}`, "mediatype-unknown", [][]byte{good, config}},
		{"manifest and index in one", `{"schemaVersion":2,"manifests":[` + descriptor(manifest(`,"manifests":[]`), ociManifestType) + `]}`, "manifest-ambiguous", [][]byte{manifest(`,"manifests":[]`), config}},
		{"a member without platform", `{"schemaVersion":2,"manifests":[` + descriptor(inner, ociIndexType) + `]}`, "no entry for linux/amd64", [][]byte{inner, good, config}},
		{"an index inside an index", `{"schemaVersion":2,"manifests":[` + descriptor(nested, ociIndexType) + `]}`, "an index inside an index", [][]byte{nested, inner, good, config}},
		{"two layers of no size", `{"schemaVersion":2,"manifests":[` + descriptor(manifest(`,"layers":[{"mediaType":"x","digest":"sha256:1","size":-1}]`), ociManifestType) + `]}`, "digest-syntax", [][]byte{manifest(`,"layers":[{"mediaType":"x","digest":"sha256:1","size":-1}]`), config}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := []named{{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {"index.json", []byte(tt.index)}}
			for _, b := range tt.blobs {
				files = append(files, named{blobPath(b), b})
			}
			data := tarOf(t, files...)
			src, err := imagehash.OpenArchive(t.Context(), "layout.tar", bytes.NewReader(data), int64(len(data)), imagehash.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			sel, err := src.Select(t.Context(), imagehash.SelectOptions{Platform: "linux/amd64"})
			if tt.wantErr == "" {
				if err != nil || !bytes.Equal(sel.Config, config) {
					t.Errorf("selection %+v, %v", sel, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("error %v, want %q", err, tt.wantErr)
			}
		})
	}
}

// TestSelectNotHeld tells a digest that is not there from one that is broken.
func TestSelectNotHeld(t *testing.T) {
	config := []byte(`{}`)
	data := tarOf(t, named{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)}, named{"index.json", []byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + sha(config) + `","size":2}]}`)})
	src, err := imagehash.OpenArchive(t.Context(), "layout.tar", bytes.NewReader(data), int64(len(data)), imagehash.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	other := digestpkg.SHA256.Sum([]byte("other"))
	if _, err := src.Select(t.Context(), imagehash.SelectOptions{Digest: other}); !errors.Is(err, imagehash.ErrNotHeld) {
		t.Errorf("error %v, want ErrNotHeld", err)
	}
	if ok, err := src.Holds(t.Context(), other, imagehash.Options{}); ok || err != nil {
		t.Errorf("holds %v, %v", ok, err)
	}
	if ok, err := src.Holds(t.Context(), digestpkg.SHA256.Sum(config), imagehash.Options{}); !ok || err != nil {
		t.Errorf("holds %v, %v, want true", ok, err)
	}
}
