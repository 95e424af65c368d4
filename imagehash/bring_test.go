package imagehash_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/imagehash"
)

// verified reads a source that can be read.
func verified(t testing.TB, path string, platforms ...string) *imagehash.Report {
	t.Helper()
	r, err := imagehash.VerifyRef(t.Context(), path, imagehash.Options{Platforms: platforms})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// platforms writes a layout whose index has an image for each platform and an
// attestation of the first, and returns the digests of the members.
func platforms(t *testing.T, archs ...string) (dir string, digests []string, index tdesc) {
	t.Helper()
	blobs := tblobs{}
	list := tmanifest{SchemaVersion: 2, MediaType: ociIndex}
	for i, arch := range archs {
		image := randomImage(uint64(40 + i))
		image.arch = arch
		d := image.build(t, blobs)
		d.Platform = &tplatform{arch, "linux"}
		list.Manifests = append(list.Manifests, d)
		digests = append(digests, d.Digest)
	}
	config := blobs.put("application/vnd.oci.image.config.v1+json", []byte(`{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":[]}}`))
	blob := blobs.put("application/vnd.in-toto+json", []byte(`{}`))
	att := blobs.put(ociManifest, timage{}.json(t, tmanifest{SchemaVersion: 2, MediaType: ociManifest, Config: &config, Layers: []tdesc{blob}}))
	att.Platform = &tplatform{"unknown", "unknown"}
	att.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": digests[0]}
	list.Manifests = append(list.Manifests, att)
	digests = append(digests, att.Digest)
	index = blobs.put(ociIndex, timage{}.json(t, list))
	dir = t.TempDir()
	writeLayout(t, dir, blobs, timage{}.json(t, tmanifest{SchemaVersion: 2, Manifests: []tdesc{index}}))
	return dir, digests, index
}

func remove(t *testing.T, dir, d string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(d, "sha256:"))); err != nil {
		t.Fatal(err)
	}
}

// Engines keep the whole index and one platform's blobs.
func TestAbsentMembers(t *testing.T) {
	dir, digests, index := platforms(t, "amd64", "arm64")
	whole := verified(t, dir)
	if !whole.OK() || !whole.Complete() {
		t.Fatalf("got %+v", whole)
	}
	remove(t, dir, digests[1]) // arm64
	remove(t, dir, digests[2]) // attestation
	for _, tt := range []struct {
		asked    []string
		complete bool
		unread   int
	}{
		{nil, false, 2},
		{[]string{"linux/amd64"}, true, 2},
		{[]string{"linux/x86_64"}, true, 2},
		{[]string{"linux/arm64"}, false, 3},
		{[]string{"linux/amd64", "linux/arm64"}, false, 2},
		{[]string{"linux/amd64", "linux/riscv64"}, false, 3}, // asked for, and not in the list
		{[]string{"amd64"}, false, 4},
	} {
		r := verified(t, dir, tt.asked...)
		if !r.OK() || r.Images[0].Digest.String() != index.Digest {
			t.Errorf("%v: got %+v", tt.asked, r.AllProblems())
		}
		if r.Complete() != tt.complete || len(r.Images[0].Unread) != tt.unread {
			t.Errorf("%v: complete %v, unread %+v", tt.asked, r.Complete(), r.Images[0].Unread)
		}
	}
	if s := imagehash.Unchecked(verified(t, dir).Images); !strings.Contains(s, "1 platform and 1 attestation of ") {
		t.Errorf("got %q", s)
	}
	// A platform that is there in part is no absent one.
	config := whole.Images[0].Platforms[0].Config.String()
	remove(t, dir, config)
	if r := verified(t, dir, "linux/amd64"); r.OK() || codes(r.AllProblems())[0] != "blob-missing" {
		t.Errorf("got %+v", r.AllProblems())
	}
	// Two images that differ in a platform which is not there.
	other, others, _ := platforms(t, "s390x", "arm64")
	remove(t, other, others[1])
	d := diffPaths(t, other, dir2(t, "s390x", "riscv64"), imagehash.DiffOptions{})
	if d.Equal || d.Proved && len(d.Causes) == 0 {
		t.Errorf("got %+v", d)
	}
}

func dir2(t *testing.T, archs ...string) string {
	dir, _, _ := platforms(t, archs...)
	return dir
}

// relayer gives the first layer of an image another media type.
func relayer(t *testing.T, mediaType string, claim bool) string {
	t.Helper()
	return foreign2(t, func(layer map[string]any, config map[string]any, blob []byte) {
		layer["mediaType"] = mediaType
		if claim {
			config["rootfs"].(map[string]any)["diff_ids"].([]any)[0] = sha(blob)
		}
	})
}

// foreign2 edits the manifest's first layer and the config of an image.
func foreign2(t *testing.T, edit func(layer, config map[string]any, blob []byte)) string {
	t.Helper()
	dir, _ := layoutOf(t, randomImage(2))
	path := func(d string) string { return filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(d, "sha256:")) }
	read := func(file string) (v map[string]any) {
		data, err := os.ReadFile(file)
		if err != nil || json.Unmarshal(data, &v) != nil {
			t.Fatal(err)
		}
		return v
	}
	store := func(file string, v any) (string, int) {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if file == "" {
			file = path(sha(data))
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return sha(data), len(data)
	}
	index := read(filepath.Join(dir, "index.json"))
	root := index["manifests"].([]any)[0].(map[string]any)
	manifest := read(path(root["digest"].(string)))
	desc := manifest["config"].(map[string]any)
	config := read(path(desc["digest"].(string)))
	layer := manifest["layers"].([]any)[0].(map[string]any)
	blob, err := os.ReadFile(path(layer["digest"].(string)))
	if err != nil {
		t.Fatal(err)
	}
	edit(layer, config, blob)
	desc["digest"], desc["size"] = store("", config)
	root["digest"], root["size"] = store("", manifest)
	store(filepath.Join(dir, "index.json"), index)
	return dir
}

// Layers that nobody can open: every byte is hashed, and what is in them is said
// to be unknown. A label makes nothing green.
func TestUnopenedLayers(t *testing.T) {
	for mediaType, want := range map[string]string{
		"application/vnd.oci.image.layer.v1.tar+encrypted":                          "encrypted",
		"application/vnd.oci.image.layer.v1.tar+gzip+encrypted":                     "encrypted",
		"application/vnd.oci.image.layer.v1.tar+zstd+encrypted":                     "encrypted",
		"application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted":               "encrypted",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip+encrypted":    "encrypted",
		"application/vnd.erofs.layer.v1":                                            "EROFS",
		"application/vnd.erofs.layer.v1+zstd":                                       "EROFS",
		"application/vnd.oci.image.layer.v1.erofs":                                  "EROFS",
		"application/vnd.oci.image.layer.nydus.blob.v1":                             "nydus",
		"application/vnd.example.layer.v9":                                          "none that is known",
		"application/vnd.oci.image.layer.v1.tar+lz4":                                "none that is known",
		"application/vnd.docker.image.rootfs.diff.tar.gzip; charset=something-else": "none that is known",
	} {
		dir := relayer(t, mediaType, false)
		r := verified(t, dir)
		image := r.Images[0]
		if !r.OK() || r.Complete() || image.Digest.IsZero() || len(image.Unopened) != 1 || len(image.Platforms) != 1 {
			t.Fatalf("%s: got %+v", mediaType, r)
		}
		u := image.Unopened[0]
		if !strings.Contains(u.Why, want) || u.Digest.IsZero() || u.DiffID.IsZero() || u.Platform != "linux/amd64" || !image.Platforms[0].Layers[0].DiffID.IsZero() {
			t.Errorf("%s: got %+v", mediaType, u)
		}
		if image.Covered.Bytes != image.Covered.Of || len(image.Unread) != 0 || !strings.Contains(imagehash.Unchecked(r.Images), "1 layer read but never opened") {
			t.Errorf("%s: got %+v, %q", mediaType, image.Covered, imagehash.Unchecked(r.Images))
		}
		if _, err := imagehash.HashesJSON([]*imagehash.Report{r}); err == nil {
			t.Errorf("%s: hashes of what was not checked", mediaType)
		}
		// One byte of the blob is seen.
		blob := filepath.Join(dir, "blobs", "sha256", u.Digest.Hex())
		data, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)-1] ^= 1
		if err := os.WriteFile(blob, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if r := verified(t, dir); r.OK() {
			t.Errorf("%s: a changed blob: got %+v", mediaType, r)
		}
	}
	// The diffID of a blob that is taken as it is can be recounted, its content not.
	r := verified(t, relayer(t, "application/vnd.erofs.layer.v1", true))
	if r.Complete() || r.Images[0].Platforms[0].Layers[0].DiffID.IsZero() {
		t.Errorf("got %+v", r.Images[0])
	}
	if r := verified(t, relayer(t, "", false)); r.OK() {
		t.Error("a layer without a media type was taken")
	}
	// Two images with such a layer each differ, and nothing is proved.
	a := relayer(t, "application/vnd.oci.image.layer.v1.tar+gzip+encrypted", false)
	b := foreign2(t, func(layer, _ map[string]any, _ []byte) {
		layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
		layer["annotations"] = map[string]any{"org.opencontainers.image.enc.pubopts": "x"}
	})
	if d := diffPaths(t, a, b, imagehash.DiffOptions{}); d.Equal || len(d.Causes) == 0 {
		t.Errorf("got %+v", d)
	}
}

// An artifact's label does not keep the layers that would run from being checked.
func TestLabelOfAnImageWithClosedLayers(t *testing.T) {
	dir := relayer(t, "application/vnd.erofs.layer.v1", false)
	index := filepath.Join(dir, "index.json")
	data, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.Replace(data, []byte("org.opencontainers.image.ref.name"), []byte("x"), 1)
	if err := os.WriteFile(index, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if r := verified(t, dir); r.Complete() || len(r.Images[0].Platforms) != 1 {
		t.Errorf("got %+v", r)
	}
}

// What lies beside an image in index.json and belongs to it is no image.
func TestFamilies(t *testing.T) {
	dir, digests, index := platforms(t, "amd64", "arm64")
	read := func(d string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(d, "sha256:")))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	blobs := tblobs{}
	desc := func(d string) tdesc { return tdesc{MediaType: ociManifest, Digest: d, Size: len(read(d))} }
	named := func(d tdesc, name string) tdesc {
		d.Annotations = map[string]string{"org.opencontainers.image.ref.name": name}
		return d
	}
	empty := blobs.put("application/vnd.oci.empty.v1+json", []byte("{}"))
	referrer := func(subject string) tdesc {
		data, err := json.Marshal(map[string]any{
			"schemaVersion": 2, "mediaType": ociManifest, "artifactType": "application/spdx+json", "config": empty, "layers": []tdesc{empty},
			"subject": map[string]any{"mediaType": ociManifest, "digest": subject, "size": 1},
		})
		if err != nil {
			t.Fatal(err)
		}
		return blobs.put(ociManifest, data)
	}
	sbom, stray := referrer(index.Digest), referrer("sha256:"+strings.Repeat("ab", 32))
	ofMember := referrer(digests[1])
	signature := blobs.put(ociManifest, timage{}.json(t, tmanifest{SchemaVersion: 2, MediaType: ociManifest, Config: &empty, Layers: []tdesc{empty}}))
	second := randomImage(77)
	other := second.build(t, blobs)
	for _, tt := range []struct {
		name  string
		list  []tdesc
		want  int // images
		whole bool
	}{
		{"members again, as oras copy -r writes them", []tdesc{named(index, "v1"), desc(digests[0]), desc(digests[1]), desc(digests[2])}, 1, true},
		{"members first", []tdesc{desc(digests[0]), desc(digests[1]), named(index, "v1")}, 1, true},
		{"a member with a name of its own", []tdesc{named(index, "v1"), named(desc(digests[0]), "v1-amd64")}, 2, true},
		{"referrers", []tdesc{named(index, "v1"), sbom, ofMember}, 1, true},
		{"a signature by its name", []tdesc{named(index, "v1"), named(signature, "sha256-"+strings.TrimPrefix(index.Digest, "sha256:")+".sig")}, 1, true},
		{"an artifact about something else", []tdesc{named(index, "v1"), stray}, 2, true},
		{"two images", []tdesc{named(index, "v1"), named(other, "v2")}, 2, true},
		{"an image called as a signature", []tdesc{named(index, "v1"), named(other, "sha256-"+strings.TrimPrefix(index.Digest, "sha256:")+".sig")}, 2, true},
	} {
		writeLayout(t, dir, blobs, timage{}.json(t, tmanifest{SchemaVersion: 2, Manifests: tt.list}))
		r := verified(t, dir)
		if !r.OK() || len(r.Images) != tt.want {
			t.Errorf("%s: got %d images, %+v", tt.name, len(r.Images), r.AllProblems())
		}
		_, err := r.Choose("")
		if chosen := err == nil; chosen != (tt.want == 1 || tt.name == "an artifact about something else") {
			t.Errorf("%s: chosen %v, %v", tt.name, chosen, err)
		}
		if i, err := r.Choose(index.Digest); err != nil || i.Digest.String() != index.Digest {
			t.Errorf("%s: by digest: %v", tt.name, err)
		}
		if i, err := r.Choose("v1"); err != nil || i.Digest.String() != index.Digest {
			t.Errorf("%s: by name: %v", tt.name, err)
		}
		if _, err := r.Choose("v9"); err == nil || !strings.Contains(err.Error(), index.Digest) {
			t.Errorf("%s: a name that is not there: %v", tt.name, err)
		}
	}
	// A fault of what belongs to an image refuses the image.
	writeLayout(t, dir, blobs, timage{}.json(t, tmanifest{SchemaVersion: 2, Manifests: []tdesc{named(index, "v1"), {MediaType: ociManifest, Digest: sbom.Digest, Size: sbom.Size + 1}}}))
	if r := verified(t, dir); r.OK() || len(r.Images[0].Problems) == 0 {
		t.Errorf("got %+v", r)
	}
}

// skopeoDir writes what skopeo copy --all oci:LAYOUT dir:PATH writes.
func skopeoDir(t *testing.T, layout, root string) string {
	t.Helper()
	dir := t.TempDir()
	files, err := filepath.Glob(filepath.Join(layout, "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(f)
		switch {
		case "sha256:"+name == root:
			name = "manifest.json"
		case bytes.Contains(data, []byte(`"layers"`)) && bytes.HasPrefix(data, []byte(`{"schemaVersion"`)):
			name += ".manifest.json"
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "version"), []byte("Directory Transport Version: 1.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestSkopeoDir(t *testing.T) {
	layout, digests, index := platforms(t, "amd64", "arm64")
	dir := skopeoDir(t, layout, index.Digest)
	for _, ref := range []string{dir, "dir:" + dir} {
		r := verified(t, ref)
		if !r.OK() || !r.Complete() || r.Kind != imagehash.SkopeoDir || r.Images[0].Digest.String() != index.Digest || len(r.Images[0].Platforms) != 2 || len(r.AllNotes()) > 8 {
			t.Fatalf("got %+v, problems %v, notes %v", r.Images, r.AllProblems(), r.AllNotes())
		}
		if slices.Contains(codes(r.AllNotes()), "file-unexpected") || slices.Contains(codes(r.AllNotes()), "blob-unreferenced") {
			t.Errorf("got notes %v", r.AllNotes())
		}
	}
	if d := diffPaths(t, dir, layout, imagehash.DiffOptions{}); !d.Equal {
		t.Errorf("folder and layout: got %+v", d)
	}
	src, err := imagehash.Open(t.Context(), dir, imagehash.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	sel, err := src.Select(t.Context(), imagehash.SelectOptions{Platform: "linux/arm64"})
	if err != nil || sel.Digest.String() != digests[1] {
		t.Fatalf("got %+v, %v", sel, err)
	}
	r, err := src.OpenLayer(t.Context(), sel.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	for _, edit := range []struct { // one on top of the other
		name string
		do   func() error
		code string
	}{
		{"a layer changed", func() error {
			return os.WriteFile(filepath.Join(dir, sel.Layers[0].Digest.Hex()), []byte("x"), 0o644)
		}, "digest-mismatch"},
		{"another version", func() error {
			return os.WriteFile(filepath.Join(dir, "version"), []byte("Directory Transport Version: 2.0\n"), 0o644)
		}, "layout-version"},
		{"schema 1", func() error {
			return os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(`{"schemaVersion":1,"name":"x","fsLayers":[]}`), 0o644)
		}, "schema-version"},
	} {
		if err := edit.do(); err != nil {
			t.Fatal(err)
		}
		if r := verified(t, dir); r.OK() || !slices.Contains(codes(r.AllProblems()), edit.code) {
			t.Errorf("%s: got %v", edit.name, r.AllProblems())
		}
	}
}

// hybrid writes an archive with both views.
func hybrid(t *testing.T, layout string, index, docker string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(name string, data []byte) {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(data)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		w.Write(data)
	}
	files, _ := filepath.Glob(filepath.Join(layout, "blobs", "sha256", "*"))
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		put("blobs/sha256/"+filepath.Base(f), data)
	}
	put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	put("index.json", []byte(index))
	put("manifest.json", []byte(docker))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "in.tar")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// One of the two views names nothing: the other one is the archive.
func TestOneSoundView(t *testing.T) {
	layout, digests := layoutOf(t, randomImage(2))
	r := verified(t, layout)
	p := r.Images[0].Platforms[0]
	var layers []string
	for _, l := range p.Layers {
		layers = append(layers, "blobs/sha256/"+l.Digest.Hex())
	}
	docker := string(timage{}.json(t, []map[string]any{{"Config": "blobs/sha256/" + p.Config.Hex(), "RepoTags": []string{"x:1"}, "Layers": layers}}))
	good, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, index, docker string
		ok                  bool
		digest              string
	}{
		{"both", string(good), docker, true, digests[0]},
		{"null index", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":null}`, docker, true, ""},
		{"empty index", `{"schemaVersion":2,"manifests":[]}`, docker, true, ""},
		{"index without a list", `{"schemaVersion":2}`, docker, true, ""},
		{"null docker view", string(good), "null", true, digests[0]},
		{"empty docker view", string(good), "[]", true, digests[0]},
		{"neither", `{"schemaVersion":2,"manifests":null}`, "[]", false, ""},
		{"null index of another version", `{"schemaVersion":1,"manifests":null}`, docker, false, ""},
		{"null index, and layers of its own", `{"schemaVersion":2,"manifests":null,"layers":[]}`, docker, false, ""},
		{"docker view of another image", string(good), `[{"Config":"` + layers[0] + `","RepoTags":null,"Layers":[]}]`, false, ""},
	} {
		r := verified(t, hybrid(t, layout, tt.index, tt.docker))
		if r.OK() != tt.ok || tt.ok && (len(r.Images) != 1 || r.Images[0].Digest.String() != tt.digest && (tt.digest != "" || !r.Images[0].Digest.IsZero())) {
			t.Errorf("%s: got %+v, problems %v", tt.name, r.Images, r.AllProblems())
		}
	}
}

// Spellings that containerd takes for one platform are a note, others a refusal.
func TestPlatformSpelling(t *testing.T) {
	for _, tt := range []struct {
		index, config map[string]any
		ok, note      bool
	}{
		{map[string]any{"architecture": "amd64"}, map[string]any{"architecture": "amd64"}, true, false},
		{map[string]any{"architecture": "x86_64"}, map[string]any{"architecture": "amd64"}, true, true},
		{map[string]any{"architecture": "amd64"}, map[string]any{"architecture": "x86-64"}, true, true},
		{map[string]any{"architecture": "aarch64"}, map[string]any{"architecture": "arm64"}, true, true},
		{map[string]any{"architecture": "arm64", "variant": "8"}, map[string]any{"architecture": "arm64", "variant": "v8"}, true, true},
		{map[string]any{"architecture": "arm", "variant": "7"}, map[string]any{"architecture": "arm", "variant": "v7"}, true, true},
		{map[string]any{"architecture": "arm", "variant": "armv7"}, map[string]any{"architecture": "arm", "variant": "v7"}, true, true},
		{map[string]any{"architecture": "armhf"}, map[string]any{"architecture": "arm", "variant": "v7"}, true, true},
		{map[string]any{"architecture": "armv7l"}, map[string]any{"architecture": "arm", "variant": "v7"}, true, true},
		{map[string]any{"architecture": "AMD64"}, map[string]any{"architecture": "amd64"}, true, true},
		{map[string]any{"architecture": "arm", "variant": "v6"}, map[string]any{"architecture": "arm", "variant": "v7"}, false, false},
		{map[string]any{"architecture": "armel"}, map[string]any{"architecture": "arm", "variant": "v7"}, false, false},
		{map[string]any{"architecture": "arm64"}, map[string]any{"architecture": "amd64"}, false, false},
		{map[string]any{"architecture": "i386"}, map[string]any{"architecture": "amd64"}, false, false},
		{map[string]any{"architecture": "amd64", "variant": "v2"}, map[string]any{"architecture": "amd64", "variant": "v3"}, false, false},
	} {
		tt.index["os"], tt.config["os"] = "linux", "linux"
		blobs := tblobs{}
		tt.config["rootfs"] = map[string]any{"type": "layers", "diff_ids": []string{}}
		config := blobs.put(ociConfig, timage{}.json(t, tt.config))
		m := blobs.put(ociManifest, timage{}.json(t, map[string]any{"schemaVersion": 2, "mediaType": ociManifest, "config": config, "layers": []any{}}))
		index := timage{}.json(t, map[string]any{"schemaVersion": 2, "manifests": []any{map[string]any{"mediaType": m.MediaType, "digest": m.Digest, "size": m.Size, "platform": tt.index}}})
		dir := t.TempDir()
		writeLayout(t, dir, blobs, index)
		r := verified(t, dir)
		if r.OK() != tt.ok || slices.Contains(codes(r.AllNotes()), "platform-spelling") != tt.note {
			t.Errorf("%v and %v: got %v, %v", tt.index, tt.config, r.AllProblems(), r.AllNotes())
		}
	}
}

// Artifacts are compared like any document: what differs is named, and proved.
func TestDiffOfArtifacts(t *testing.T) {
	kit := func(created, weights string) string {
		blobs := tblobs{}
		config := blobs.put("application/vnd.kitops.modelkit.config.v1+json", []byte(`{"manifestVersion":"1.0.0"}`))
		layer := blobs.put("application/vnd.kitops.modelkit.model.v1.tar+gzip", []byte(weights))
		m := blobs.put(ociManifest, timage{}.json(t, tmanifest{SchemaVersion: 2, MediaType: ociManifest, Config: &config, Layers: []tdesc{layer}, Annotations: map[string]string{"org.opencontainers.image.created": created}}))
		dir := t.TempDir()
		writeLayout(t, dir, blobs, timage{}.json(t, tmanifest{SchemaVersion: 2, Manifests: []tdesc{m}}))
		return dir
	}
	a := kit("2026-06-24T10:00:00Z", "w")
	d := diffPaths(t, a, kit("2026-06-24T11:00:00Z", "w"), imagehash.DiffOptions{})
	if !d.Proved || !d.SameContent || len(d.Causes) != 1 || d.Causes[0].Kind != "annotations" || d.Causes[0].Class != imagehash.Packaging {
		t.Errorf("annotations: got %+v", d)
	}
	d = diffPaths(t, a, kit("2026-06-24T10:00:00Z", "v"), imagehash.DiffOptions{})
	if !d.Proved || d.SameContent || len(d.Causes) != 1 || d.Causes[0].Kind != "artifact-blob" || d.Causes[0].Class != imagehash.Semantic {
		t.Errorf("weights: got %+v", d)
	}
	image, _ := layoutOf(t, randomImage(2))
	d = diffPaths(t, a, image, imagehash.DiffOptions{})
	if d.Proved || d.SameContent || d.Causes[0].Kind != "artifact" {
		t.Errorf("artifact and image: got %+v", d)
	}
}
