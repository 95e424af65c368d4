package policygen_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/policygen"
	"github.com/retally/retally/policygen/internal/vectors"
)

const (
	gzipLayer  = "application/vnd.oci.image.layer.v1.tar+gzip"
	zstdLayer  = "application/vnd.oci.image.layer.v1.tar+zstd"
	plainLayer = "application/vnd.oci.image.layer.v1.tar"
)

// fakeLayer is a layer by its files.
type fakeLayer struct {
	mediaType string
	files     map[string]string
	raw       []byte // the blob itself, in place of files
	lie       bool   // another digest than the blob's
}

// fakeImages is a set of images in memory, by the text of their reference.
type fakeImages map[string]*policygen.ResolvedImage

func (f fakeImages) Resolve(ctx context.Context, ref policygen.ImageReference) (*policygen.ResolvedImage, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if img := f[ref.Text]; img != nil {
		return img, nil
	}
	return nil, errors.New("manifest unknown")
}

func tarOf(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Format: tar.FormatUSTAR}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func compressed(t testing.TB, mediaType string, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser
	switch mediaType {
	case gzipLayer:
		w = gzip.NewWriter(&buf)
	case zstdLayer:
		zw, err := zstd.NewWriter(&buf)
		if err != nil {
			t.Fatal(err)
		}
		w = zw
	default:
		return data
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func sha(data []byte) digest.Digest {
	s := sha256.Sum256(data)
	d, err := digest.FromBytes(digest.SHA256, s[:])
	if err != nil {
		panic(err)
	}
	return d
}

// fakeImage builds an image; config is the image config's config object.
func fakeImage(t testing.TB, config string, layers ...fakeLayer) *policygen.ResolvedImage {
	if t != nil {
		t.Helper()
	}
	img := &policygen.ResolvedImage{}
	diffIDs := []string{}
	for _, l := range layers {
		if l.mediaType == "" {
			l.mediaType = gzipLayer
		}
		plain := tarOf(t, l.files)
		blob := l.raw
		if blob == nil {
			blob = compressed(t, l.mediaType, plain)
		}
		d := sha(blob)
		if l.lie {
			d = sha([]byte("something else"))
		}
		diffIDs = append(diffIDs, sha(plain).String())
		img.Layers = append(img.Layers, policygen.Layer{
			Digest: d, MediaType: l.mediaType, Size: int64(len(blob)),
			Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil },
		})
	}
	ids, err := json.Marshal(diffIDs)
	if err != nil {
		panic(err)
	}
	img.Config = fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":%s}}`, config, ids)
	img.Digest = sha(img.Config)
	return img
}

const pauseImage = "localhost:5000/pause:3.6" // of the committed settings

// input makes an input with the committed settings and rules.
func input(t testing.TB, yaml string, images fakeImages) policygen.Input {
	t.Helper()
	f := committedFamily(t)
	profile, err := policygen.ProfileByName("kata-4.1")
	if err != nil {
		t.Fatal(err)
	}
	if images == nil {
		images = fakeImages{}
	}
	if images[pauseImage] == nil {
		images[pauseImage] = fakeImage(t, `{"User":"65535:65535","Entrypoint":["/pause"]}`)
	}
	return policygen.Input{
		YAML: policygen.NamedFile{Name: "in.yaml", Data: []byte(yaml)}, Images: images, Profile: profile,
		Rules: policygen.Rules{Name: "mini.rego", Text: f.miniRules}, Settings: settings(t, profile, ""),
	}
}

// settings are the committed ones, patched.
func settings(t testing.TB, profile policygen.Profile, patch string) *policygen.Settings {
	t.Helper()
	base, _, err := policygen.SettingsFiles(sub(t, vectors.Committed(t), "settings/own"))
	if err != nil {
		t.Fatal(err)
	}
	var dropIns []policygen.NamedFile
	if patch != "" {
		dropIns = []policygen.NamedFile{{Name: "patch.json", Data: []byte(patch)}}
	}
	s, err := policygen.ParseSettings(base, dropIns, profile)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func generate(t testing.TB, in policygen.Input) *policygen.Output {
	t.Helper()
	out, err := policygen.Generate(t.Context(), in)
	if err != nil {
		t.Fatalf("Generate: %v", err)
	}
	return out
}

// refused wants problems and gives them.
func refused(t testing.TB, in policygen.Input) policygen.Problems {
	t.Helper()
	out, err := policygen.Generate(t.Context(), in)
	var list policygen.Problems
	if !errors.As(err, &list) {
		t.Fatalf("Generate gives %v, %v, want Problems", out, err)
	}
	return list
}
