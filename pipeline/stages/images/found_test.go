package images_test

import (
	"context"
	"crypto/sha256"
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

// named gives the image of a layout a name by an annotation.
func named(t *testing.T, dir, key, name string) {
	t.Helper()
	path := filepath.Join(dir, "index.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(data), `"size":`, fmt.Sprintf(`"annotations":{%q:%q},"size":`, key, name), 1)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Sources that nobody named: an equal digest alone makes an image the pinned one,
// names lead to a comparison that can only tell a difference.
func TestFoundImages(t *testing.T) {
	const refName, fullName = "org.opencontainers.image.ref.name", "io.containerd.image.name"
	other := "sha256:" + strings.Repeat("ab", 32)
	for _, tt := range []struct {
		name     string
		folders  []string // of layouts of one image each
		annotate [2]string
		pin      string // "" for the image's own digest
		found    bool
		measured map[string]bool // key: whether the value is the pin
		said     string
	}{
		{"named as the pin", []string{"x"}, [2]string{}, "", true, map[string]bool{"image/x/manifest": true}, ""},
		{"of another name", []string{"x_latest"}, [2]string{}, "", true, map[string]bool{"image/x/manifest": true}, "which is the pin of x"},
		{"of another name, named by the user", []string{"x_latest"}, [2]string{}, "", false, map[string]bool{"image/x_latest/manifest": false}, ""},
		{"named as the pin, another image", []string{"x"}, [2]string{}, other, true, map[string]bool{"image/x/manifest": false}, ""},
		{"of another name, another image", []string{"y"}, [2]string{}, other, true, map[string]bool{"image/y/manifest": false}, ""},
		{"bears the name, another image", []string{"y"}, [2]string{fullName, "r.example/p/x:v1"}, other, true, map[string]bool{"image/x/manifest": false}, ""},
		{"bears the name as its reference", []string{"y"}, [2]string{refName, "r.example/p/x:v1"}, other, true, map[string]bool{"image/x/manifest": false}, ""},
		{"bears a tag alone", []string{"y"}, [2]string{refName, "x"}, other, true, map[string]bool{"image/y/manifest": false}, ""},
		{"bears the name of another registry", []string{"y"}, [2]string{fullName, "evil.example/p/x:v1"}, other, true, map[string]bool{"image/y/manifest": false}, ""},
		{"bears another name, and is it", []string{"y"}, [2]string{fullName, "evil.example/z:v1"}, "", true, map[string]bool{"image/x/manifest": true}, "which is the pin of x"},
		{"twice", []string{"a", "b"}, [2]string{}, "", true, map[string]bool{"image/x/manifest": true}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			cfg := &config.Config{Deployment: "d.yaml", Images: map[string]config.Image{}}
			digest := ""
			for _, f := range tt.folders {
				dir := filepath.Join(root, f)
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				digest = layout(t, dir, false)
				if tt.annotate[0] != "" {
					named(t, dir, tt.annotate[0], tt.annotate[1])
				}
				cfg.Images[f] = config.Image{OCI: f, Found: tt.found}
			}
			if tt.pin != "" {
				digest = tt.pin
			}
			pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: \"r.example/p/x@" + digest + "\"}]}\n"
			if err := os.WriteFile(filepath.Join(root, "d.yaml"), []byte(pod), 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := images.Stage().Run(context.Background(), run.NewIn(cfg, run.NewReader(root, nil)))
			if err != nil {
				t.Fatal(err)
			}
			if len(out.Measurements) != len(tt.measured) {
				t.Errorf("got %+v", out.Measurements)
			}
			for _, m := range out.Measurements {
				equal, known := tt.measured[string(m.Key)]
				if !known || equal && m.Value.String() != digest || !equal && m.Key == "image/x/manifest" && m.Value.String() == digest {
					t.Errorf("got %s = %s, pin %s", m.Key, m.Value, digest)
				}
			}
			said := tt.said == ""
			for _, p := range out.Problems {
				said = said || strings.Contains(p.Msg, tt.said)
			}
			if !said {
				t.Errorf("got %+v, want %q", out.Problems, tt.said)
			}
		})
	}
}

// Two sources that count as one image and differ are a defect, whichever comes first.
func TestFoundImagesThatContradict(t *testing.T) {
	root := t.TempDir()
	var pin string
	for _, f := range []string{"a", "x"} {
		dir := filepath.Join(root, f)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		d := layout(t, dir, false)
		if f == "x" { // one byte more in the manifest: another image of the pinned name
			rewrite(t, dir, d)
		} else {
			pin = d
		}
	}
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: \"r.example/p/x@" + pin + "\"}]}\n"
	if err := os.WriteFile(filepath.Join(root, "d.yaml"), []byte(pod), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := &config.Config{Deployment: "d.yaml", Images: map[string]config.Image{"a": {OCI: "a", Found: true}, "x": {OCI: "x", Found: true}}}
	out, err := images.Stage().Run(context.Background(), run.NewIn(cfg, run.NewReader(root, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defect := false
	for _, p := range out.Problems {
		defect = defect || p.Code == "image-two-values" && p.Level == pipeline.LevelError
	}
	if !defect || len(out.Measurements) != 1 {
		t.Errorf("got %+v, %+v", out.Problems, out.Measurements)
	}
}

// rewrite stores a layout's manifest with a line feed behind it.
func rewrite(t *testing.T, dir, digest string) {
	t.Helper()
	blob := func(d string) string { return filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(d, "sha256:")) }
	data, err := os.ReadFile(blob(digest))
	if err != nil {
		t.Fatal(err)
	}
	data = append(data, '\n')
	sum := fmt.Sprintf("sha256:%x", sha256.Sum256(data))
	index, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(index), digest, sum)
	text = strings.ReplaceAll(text, fmt.Sprintf(`"size":%d`, len(data)-1), fmt.Sprintf(`"size":%d`, len(data)))
	for name, p := range map[string][]byte{blob(sum): data, filepath.Join(dir, "index.json"): []byte(text)} {
		if err := os.WriteFile(name, p, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// An image is chosen by what the user writes, and nothing is guessed.
func TestChosenImage(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "l")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	one := layout(t, dir, false)
	named(t, dir, "org.opencontainers.image.ref.name", "v1")
	first, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, dir, one)
	second, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	element := func(index []byte) string {
		_, rest, _ := strings.Cut(string(index), "[")
		return strings.TrimSuffix(rest, "]}")
	}
	both := `{"schemaVersion":2,"manifests":[` + element(first) + "," + strings.Replace(element(second), `"v1"`, `"v2"`, 1) + "]}"
	if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte(both), 0o644); err != nil {
		t.Fatal(err)
	}
	for choice, want := range map[string]string{"": "", "v1": one, one: one, "v2": "other", "v3": ""} {
		cfg := &config.Config{Images: map[string]config.Image{"x": {OCI: "l", Image: choice}}}
		in := run.NewIn(cfg, run.NewReader(root, nil))
		out, err := images.Stage().Run(context.Background(), in)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, m := range out.Measurements {
			if got = m.Value.String(); got != one {
				got = "other"
			}
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", choice, got, want)
		}
	}
}
