package policies_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
)

// TestPolicyLayersPassedOver: a layer that kata's generator does not read is
// named; the demo's are all read.
func TestPolicyLayersPassedOver(t *testing.T) {
	w := demoWorkspace(t)
	if p := problem(w.run().Report, "policy-layers"); p != nil {
		t.Errorf("the demo: %s", p.Msg)
	}
	const dir = "images/secret-service"
	blob := func(d digest.Digest) string { return dir + "/blobs/sha256/" + d.Hex() }
	type descriptor struct {
		Digest string
		Size   int
	}
	var parsed struct{ Manifests, Layers []descriptor }
	first := func(name string, list *[]descriptor) (descriptor, digest.Digest) {
		t.Helper()
		parsed.Manifests, parsed.Layers = nil, nil
		if err := json.Unmarshal(w.read(name), &parsed); err != nil || len(*list) != 1 {
			t.Fatalf("%s: %d members, %v", name, len(*list), err)
		}
		d, err := digest.Parse((*list)[0].Digest)
		if err != nil {
			t.Fatal(err)
		}
		return (*list)[0], d
	}
	// put takes new bytes for a blob into the document that names it.
	put := func(name string, was descriptor, data []byte) digest.Digest {
		t.Helper()
		now := digest.SHA256.Sum(data)
		w.write(blob(now), data)
		w.replace(name, was.Digest, now.String())
		w.replace(name, fmt.Sprintf(`"size":%d`, was.Size), fmt.Sprintf(`"size":%d`, len(data)))
		return now
	}
	was, manifest := first(dir+"/index.json", &parsed.Manifests)
	layer, packed := first(blob(manifest), &parsed.Layers)
	zr, err := gzip.NewReader(bytes.NewReader(w.read(blob(packed))))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	put(blob(manifest), layer, plain)
	w.replace(blob(manifest), ".tar+gzip", ".tar")
	now := put(dir+"/index.json", was, w.read(blob(manifest)))
	w.replace("deployment.yaml", was.Digest, now.String())
	p := problem(w.run().Report, "policy-layers")
	if p == nil || !strings.Contains(p.Msg, "in gzip layers only, so not in 1 layer of secret-service") {
		t.Errorf("got %+v", p)
	}
}
