package imagehash_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// The builder of test images: every byte of it can be varied.

const (
	ociManifest    = "application/vnd.oci.image.manifest.v1+json"
	ociIndex       = "application/vnd.oci.image.index.v1+json"
	ociConfig      = "application/vnd.oci.image.config.v1+json"
	ociLayer       = "application/vnd.oci.image.layer.v1.tar"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
)

// tmember is one tar member.
type tmember struct {
	name         string
	typ          byte
	mode         int64
	uid, gid     int64
	uname, gname string
	mtime        int64
	content      []byte
	link         string
	major, minor int64
	pax          map[string]string // records, in sorted order
	gnu          bool              // "ustar  \0" instead of "ustar\0" "00"
}

func file(name, content string) tmember {
	return tmember{name: name, typ: '0', mode: 0o644, content: []byte(content)}
}

func folder(name string) tmember { return tmember{name: name + "/", typ: '5', mode: 0o755} }

// tlayer is one layer.
type tlayer struct {
	members []tmember
	padding int // zero blocks at the end, default 2
	comp    string
	level   int
	gzmtime uint32
	gzos    byte
	gzname  string
	ann     map[string]string
}

// timage is one image.
type timage struct {
	layers   []tlayer
	created  string
	env      []string
	cmd      []string
	labels   map[string]string
	arch     string
	history  []string
	ann      map[string]string
	docker   bool // Docker media types
	indent   string
	platform bool // put it into a nested index with its platform
}

func octal(field []byte, n int64) {
	copy(field, fmt.Sprintf("%0*o", len(field)-1, n))
}

func (m tmember) header(size int64) []byte {
	h := make([]byte, 512)
	copy(h[:100], m.name)
	octal(h[100:108], m.mode)
	octal(h[108:116], m.uid)
	octal(h[116:124], m.gid)
	octal(h[124:136], size)
	octal(h[136:148], m.mtime)
	h[156] = m.typ
	copy(h[157:257], m.link)
	if m.gnu {
		copy(h[257:], "ustar  \x00")
	} else {
		copy(h[257:], "ustar\x0000")
	}
	copy(h[265:297], m.uname)
	copy(h[297:329], m.gname)
	octal(h[329:337], m.major)
	octal(h[337:345], m.minor)
	copy(h[148:156], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

func (m tmember) bytes() []byte {
	var b bytes.Buffer
	if len(m.pax) > 0 {
		var keys []string
		for k := range m.pax {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		var records strings.Builder
		for _, k := range keys {
			n := len(k) + len(m.pax[k]) + 3
			total := n + len(fmt.Sprint(n))
			total = n + len(fmt.Sprint(total))
			fmt.Fprintf(&records, "%d %s=%s\n", total, k, m.pax[k])
		}
		x := tmember{name: "PaxHeaders.0/x", typ: 'x', mode: 0o644}
		b.Write(x.header(int64(records.Len())))
		b.WriteString(records.String())
		b.Write(make([]byte, -records.Len()&511))
	}
	size := int64(len(m.content))
	b.Write(m.header(size))
	b.Write(m.content)
	b.Write(make([]byte, -len(m.content)&511))
	return b.Bytes()
}

func (l tlayer) tar() []byte {
	var b bytes.Buffer
	for _, m := range l.members {
		b.Write(m.bytes())
	}
	padding := l.padding
	if padding == 0 {
		padding = 2
	}
	b.Write(make([]byte, 512*padding))
	return b.Bytes()
}

// blob compresses the tar and returns it with the suffix of its media type.
func (l tlayer) blob(t testing.TB, tar []byte) ([]byte, string) {
	t.Helper()
	var b bytes.Buffer
	level := l.level
	if level == 0 {
		level = 6
	}
	switch l.comp {
	case "none":
		return tar, ""
	case "zstd":
		w, err := zstd.NewWriter(&b, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		w.Write(tar)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes(), "+zstd"
	case "klauspost":
		w, err := kgzip.NewWriterLevel(&b, level)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(tar)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	default:
		w, err := gzip.NewWriterLevel(&b, level)
		if err != nil {
			t.Fatal(err)
		}
		w.Name = l.gzname
		w.Write(tar)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	z := b.Bytes()
	binary.LittleEndian.PutUint32(z[4:], l.gzmtime)
	if l.gzos != 0 {
		z[9] = l.gzos
	}
	return z, "+gzip"
}

type tdesc struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *tplatform        `json:"platform,omitempty"`
}

type tplatform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type tmanifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType,omitempty"`
	Config        *tdesc            `json:"config,omitempty"`
	Layers        []tdesc           `json:"layers,omitempty"`
	Manifests     []tdesc           `json:"manifests,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

type tconfig struct {
	Created      string     `json:"created,omitempty"`
	Architecture string     `json:"architecture"`
	OS           string     `json:"os"`
	Config       trun       `json:"config"`
	RootFS       trootfs    `json:"rootfs"`
	History      []thistory `json:"history,omitempty"`
}

type trun struct {
	Env    []string          `json:"Env,omitempty"`
	Cmd    []string          `json:"Cmd,omitempty"`
	Labels map[string]string `json:"Labels,omitempty"`
}

type trootfs struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type thistory struct {
	Created   string `json:"created,omitempty"`
	CreatedBy string `json:"created_by,omitempty"`
}

// tblobs collects the blobs of a layout.
type tblobs map[string][]byte

func sha(p []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(p)) }

func (b tblobs) put(mediaType string, p []byte) tdesc {
	b[sha(p)] = p
	return tdesc{MediaType: mediaType, Digest: sha(p), Size: len(p)}
}

func (i timage) json(t testing.TB, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if i.indent != "" {
		e.SetIndent("", i.indent)
	}
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// build adds the image's blobs and returns its descriptor.
func (i timage) build(t testing.TB, blobs tblobs) tdesc {
	t.Helper()
	manifestType, configType, layerType := ociManifest, ociConfig, ociLayer
	if i.docker {
		manifestType, configType, layerType = dockerManifest, dockerConfig, dockerLayer
	}
	arch := i.arch
	if arch == "" {
		arch = "amd64"
	}
	c := tconfig{Created: i.created, Architecture: arch, OS: "linux", Config: trun{i.env, i.cmd, i.labels}, RootFS: trootfs{Type: "layers", DiffIDs: []string{}}}
	m := tmanifest{SchemaVersion: 2, MediaType: manifestType, Annotations: i.ann}
	for _, l := range i.layers {
		tar := l.tar()
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, sha(tar))
		blob, suffix := l.blob(t, tar)
		if i.docker {
			suffix = strings.Replace(suffix, "+", ".", 1)
		}
		d := blobs.put(layerType+suffix, blob)
		d.Annotations = l.ann
		m.Layers = append(m.Layers, d)
	}
	for _, h := range i.history {
		c.History = append(c.History, thistory{Created: i.created, CreatedBy: h})
	}
	config := blobs.put(configType, i.json(t, c))
	m.Config = &config
	d := blobs.put(manifestType, i.json(t, m))
	if !i.platform {
		return d
	}
	d.Platform = &tplatform{arch, "linux"}
	return blobs.put(ociIndex, i.json(t, tmanifest{SchemaVersion: 2, MediaType: ociIndex, Manifests: []tdesc{d}}))
}

// layoutOf writes a layout folder of some images and returns it with the
// images' digests.
func layoutOf(t testing.TB, images ...timage) (dir string, digests []string) {
	t.Helper()
	dir = t.TempDir()
	blobs := tblobs{}
	index := tmanifest{SchemaVersion: 2, MediaType: ociIndex}
	for k, i := range images {
		d := i.build(t, blobs)
		d.Annotations = map[string]string{"org.opencontainers.image.ref.name": fmt.Sprintf("v%d", k+1)}
		index.Manifests = append(index.Manifests, d)
		digests = append(digests, d.Digest)
	}
	writeLayout(t, dir, blobs, timage{}.json(t, index))
	return dir, digests
}

func writeLayout(t testing.TB, dir string, blobs tblobs, index []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`), "index.json": index}
	for d, p := range blobs {
		files["blobs/sha256/"+strings.TrimPrefix(d, "sha256:")] = p
	}
	for name, p := range files {
		if err := os.WriteFile(filepath.Join(dir, name), p, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// randomImage makes an image with files of some text, the same for a seed.
func randomImage(seed uint64) timage {
	r := rand.New(rand.NewPCG(seed, 7))
	i := timage{created: "2024-01-02T03:04:05Z", env: []string{"PATH=/bin", fmt.Sprintf("SEED=%d", seed)}, cmd: []string{"/bin/app"}}
	for l := range 1 + r.IntN(3) {
		layer := tlayer{}
		for d := range 1 + r.IntN(3) {
			dir := fmt.Sprintf("dir%d-%d", l, d)
			layer.members = append(layer.members, folder(dir))
			for f := range 1 + r.IntN(5) {
				text := strings.Repeat(fmt.Sprintf("line %d of %d, %x\n", f, seed, r.Uint64()), 1+r.IntN(200))
				m := file(fmt.Sprintf("%s/file%d", dir, f), text)
				m.mtime = 1_700_000_000 + int64(r.IntN(1000))
				if r.IntN(3) == 0 {
					m.mode = 0o755
				}
				layer.members = append(layer.members, m)
			}
			if r.IntN(2) == 0 {
				layer.members = append(layer.members, tmember{name: dir + "/link", typ: '2', mode: 0o777, link: "file0"})
			}
		}
		layer.comp = []string{"gzip", "zstd", "none", "klauspost"}[r.IntN(4)]
		i.layers = append(i.layers, layer)
		i.history = append(i.history, fmt.Sprintf("COPY dir%d / # build", l))
	}
	return i
}
