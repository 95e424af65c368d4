package imagehash_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/imagehash"
)

// foreign turns the first layer of a layout into one that only its owner hands
// out, and takes its bytes away. claim, if not empty, is the diffID that the
// config is made to name.
func foreign(t *testing.T, i timage, claim string, edit func(layer map[string]any)) string {
	t.Helper()
	dir, _ := layoutOf(t, i)
	blob := func(d string) string { return filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(d, "sha256:")) }
	read := func(path string) map[string]any {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var v map[string]any
		if err := json.Unmarshal(data, &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	store := func(v map[string]any) (string, int) {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(blob(sha(data)), data, 0o644); err != nil {
			t.Fatal(err)
		}
		return sha(data), len(data)
	}
	index := read(filepath.Join(dir, "index.json"))
	root := index["manifests"].([]any)[0].(map[string]any)
	manifest := read(blob(root["digest"].(string)))
	os.Remove(blob(root["digest"].(string)))
	layer := manifest["layers"].([]any)[0].(map[string]any)
	os.Remove(blob(layer["digest"].(string)))
	layer["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
	layer["urls"] = []string{"https://vendor.example/layer"}
	if edit != nil {
		edit(layer)
	}
	config := manifest["config"].(map[string]any)
	if claim != "" {
		c := read(blob(config["digest"].(string)))
		os.Remove(blob(config["digest"].(string)))
		c["rootfs"].(map[string]any)["diff_ids"].([]any)[0] = claim
		config["digest"], config["size"] = store(c)
	}
	root["digest"], root["size"] = store(manifest)
	data, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestUnread(t *testing.T) {
	i := randomImage(2)
	dir := foreign(t, i, "", nil)
	r, err := imagehash.VerifyRef(t.Context(), dir, imagehash.Options{})
	if err != nil || !r.OK() {
		t.Fatalf("got %+v, %v", r, err)
	}
	image := r.Images[0]
	if r.Complete() || image.Complete() || len(image.Unread) != 1 {
		t.Fatalf("got unread %+v, complete %v", image.Unread, r.Complete())
	}
	u := image.Unread[0]
	if u.Part != "layer" || u.Asked || u.Size <= 0 || u.Digest.IsZero() || !image.Platforms[0].Layers[0].Unread {
		t.Errorf("got %+v, layers %+v", u, image.Platforms[0].Layers)
	}
	if c := image.Covered; c.Of != c.Bytes+u.Size || c.Bytes <= 0 {
		t.Errorf("got %+v beside %d bytes unread", c, u.Size)
	}
	if s := imagehash.Unchecked(r.Images); !strings.Contains(s, "never read: 1 layer of ") {
		t.Errorf("got %q", s)
	}
	if data, err := imagehash.HashesJSON([]*imagehash.Report{r}); err == nil || !strings.Contains(err.Error(), "never read") {
		t.Errorf("hashes of what was never read: %s, %v", data, err)
	}
	whole, _ := layoutOf(t, i)
	r, err = imagehash.VerifyRef(t.Context(), whole, imagehash.Options{})
	if err != nil || !r.Complete() || r.Images[0].Unread != nil || r.Images[0].Covered.Bytes != r.Images[0].Covered.Of || imagehash.Unchecked(r.Images) != "" {
		t.Errorf("a whole image: got %+v, %v", r, err)
	}
	r, err = imagehash.VerifyRef(t.Context(), whole, imagehash.Options{SkipLayers: true})
	if err != nil || !r.Complete() || len(r.Images[0].Unread) != len(i.layers) || !r.Images[0].Unread[0].Asked {
		t.Errorf("layers left out by choice: got %+v, %v", r, err)
	}
}

func TestUnreadPlatform(t *testing.T) {
	i := randomImage(4)
	i.platform = true
	dir, _ := layoutOf(t, i)
	r, err := imagehash.VerifyRef(t.Context(), dir, imagehash.Options{Platforms: []string{"linux/s390x"}})
	if err != nil {
		t.Fatal(err)
	}
	u := r.Images[0].Unread
	if len(u) == 0 || u[0].Part != "platform" || !u[0].Asked || u[0].Size <= 0 || r.Images[0].Covered.Of <= r.Images[0].Covered.Bytes {
		t.Errorf("got %+v, %+v", u, r.Images[0].Covered)
	}
}

// Bytes in the descriptor stand for no blob, and must be those of the digest.
func TestUnreadInlineData(t *testing.T) {
	dir := foreign(t, randomImage(2), "", func(layer map[string]any) { layer["data"] = "aGVsbG8=" })
	r, err := imagehash.VerifyRef(t.Context(), dir, imagehash.Options{})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, p := range r.AllProblems() {
		found = found || p.Code == "data-mismatch"
	}
	if !found || r.Complete() {
		t.Errorf("got %+v", r)
	}
}

// Two images whose absent layer is the same blob, with other claims about what is
// in it: the claims are a cause, and nothing proves either.
func TestDiffOfUnreadLayers(t *testing.T) {
	i := randomImage(2)
	a := foreign(t, i, "", nil)
	b := foreign(t, i, "sha256:"+strings.Repeat("ab", 32), nil)
	d := diffPaths(t, a, b, imagehash.DiffOptions{Ignore: []string{"json-formatting", "time"}})
	if d.Equal || d.EqualIgnoring || d.Proved || d.SameContent || len(d.Causes) != 1 || d.Causes[0].Kind != "content" {
		t.Errorf("got %+v", d)
	}
	if len(d.Notes) < 2 || !strings.Contains(strings.Join(d.Notes, "\n"), "never read") {
		t.Errorf("got notes %q", d.Notes)
	}
}
