package policytest

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// The reference's large run: 200 Deployments of three containers with 30 images
// of 50 to 200 MB over one shared layer that has the user databases.
const (
	largeDeployments = 200
	largeImages      = 30
	largePause       = "localhost:5000/pause:3.6"
)

// WriteLarge writes the images of the large run into a folder as NewRegistry
// wants it, scaled by a factor, and returns its YAML and the bytes of all blobs.
func WriteLarge(dir string, scale float64) (yaml string, size int64, err error) {
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return "", 0, err
	}
	refs := map[string]map[string]string{}
	image := func(ref string, layers ...layerOf) error {
		var diffIDs, list []string
		for _, l := range layers {
			diffIDs = append(diffIDs, l.diffID)
			list = append(list, fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":%q,"size":%d}`, l.digest, l.size))
		}
		ids, err := json.Marshal(diffIDs)
		if err != nil {
			return err
		}
		config := fmt.Sprintf(`{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/run"]},"rootfs":{"type":"layers","diff_ids":%s}}`, ids)
		manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[%s]}`,
			digestOf(config), len(config), strings.Join(list, ","))
		for _, text := range []string{config, manifest} {
			if err := os.WriteFile(filepath.Join(blobs, digestOf(text)[7:]), []byte(text), 0o644); err != nil {
				return err
			}
		}
		refs[ref] = map[string]string{"digest": digestOf(manifest), "mediaType": "application/vnd.oci.image.manifest.v1+json"}
		return nil
	}
	base, err := writeLayer(blobs, 0, int64(scale*float64(45<<20)), true)
	if err != nil {
		return "", 0, err
	}
	size = base.size
	for i := range largeImages {
		top, err := writeLayer(blobs, uint64(i+1), int64(scale*float64((40+i*4)<<20)), false)
		if err != nil {
			return "", 0, err
		}
		size += top.size
		if err := image(fmt.Sprintf("registry.test/app%d:latest", i), base, top); err != nil {
			return "", 0, err
		}
	}
	if err := image(largePause, base); err != nil {
		return "", 0, err
	}
	data, err := json.Marshal(refs)
	if err != nil {
		return "", 0, err
	}
	return largeYAML(), size, os.WriteFile(filepath.Join(dir, "refs.json"), data, 0o644)
}

func largeYAML() string {
	var b strings.Builder
	for i := range largeDeployments {
		fmt.Fprintf(&b, "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: w%d, namespace: ns}\nspec:\n  template:\n    metadata: {labels: {app: w%d}}\n    spec:\n      containers:\n", i, i)
		for c := range 3 {
			fmt.Fprintf(&b, "        - name: c%d\n          image: registry.test/app%d:latest\n          command: [run, --number, \"%d\"]\n          env: [{name: A, value: \"%d\"}, {name: B, value: x}]\n", c, (i*3+c)%largeImages, i, i)
		}
	}
	return b.String()
}

func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// layerOf is a written layer.
type layerOf struct {
	digest, diffID string
	size           int64
}

// writeLayer writes a gzip layer of about size bytes of files, half of which
// compress, as programs and libraries do.
func writeLayer(dir string, seed uint64, size int64, users bool) (layerOf, error) {
	f, err := os.CreateTemp(dir, "layer")
	if err != nil {
		return layerOf{}, err
	}
	defer f.Close() //nolint:errcheck // its size is read
	packed, plain := sha256.New(), sha256.New()
	buffered := bufio.NewWriterSize(io.MultiWriter(f, packed), 1<<20)
	zw, err := gzip.NewWriterLevel(buffered, gzip.BestSpeed)
	if err != nil {
		return layerOf{}, err
	}
	tw := tar.NewWriter(io.MultiWriter(zw, plain))
	if users {
		for _, u := range [][2]string{{"etc/group", "root:x:0:\n"}, {"etc/passwd", "root:x:0:0:::\n"}} {
			if err := tw.WriteHeader(&tar.Header{Name: u[0], Size: int64(len(u[1])), Mode: 0o644}); err != nil {
				return layerOf{}, err
			}
			if _, err := io.WriteString(tw, u[1]); err != nil {
				return layerOf{}, err
			}
		}
	}
	rnd := rand.New(rand.NewPCG(seed, 1))
	block := make([]byte, 1<<20)
	for i := 0; size > 0; i++ {
		n := min(size, 8<<20)
		if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("usr/lib/%d", i), Size: n, Mode: 0o644}); err != nil {
			return layerOf{}, err
		}
		for left := n; left > 0; left -= int64(len(block)) {
			fillBlock(block, rnd)
			if _, err := tw.Write(block[:min(left, int64(len(block)))]); err != nil {
				return layerOf{}, err
			}
		}
		size -= n
	}
	for _, closing := range []func() error{tw.Close, zw.Close, buffered.Flush} {
		if err := closing(); err != nil {
			return layerOf{}, err
		}
	}
	info, err := f.Stat()
	if err != nil {
		return layerOf{}, err
	}
	hexDigest := hex.EncodeToString(packed.Sum(nil))
	return layerOf{"sha256:" + hexDigest, "sha256:" + hex.EncodeToString(plain.Sum(nil)), info.Size()}, os.Rename(f.Name(), filepath.Join(dir, hexDigest))
}

func fillBlock(block []byte, rnd *rand.Rand) {
	for j := 0; j < len(block); j += 8 {
		v := rnd.Uint64()
		if j&1024 == 0 {
			v &= 0x0f0f0f0f0f0f0f0f
		}
		for k := range 8 {
			block[j+k] = byte(v >> (8 * k))
		}
	}
}
