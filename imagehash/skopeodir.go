package imagehash

import (
	"context"
	"fmt"
	"strings"

	"github.com/retally/retally/internal/digest"
)

// What skopeo copy ... dir:PATH writes (containers-image, docs/containers-dir and
// directory/directory_dest.go): manifest.json is the manifest or the index itself,
// byte for byte, the manifests of an index's members are called HEX.manifest.json,
// and blobs lie beside them under their hex. The digest of the image is the hash of
// manifest.json: nothing else in the folder names it.

// isSkopeoDir tells a manifest from the list that docker save writes, by the
// document's first character.
func isSkopeoDir(head []byte) bool {
	for _, c := range head {
		switch c {
		case ' ', '\t', '\r', '\n':
			continue
		}
		return c == '{'
	}
	return false
}

// dirBlobs finds blobs in such a folder.
type dirBlobs struct {
	fileBlobs
	root digest.Digest // of manifest.json
}

func (b dirBlobs) stat(d digest.Digest) (*entry, *Problem) {
	if d == b.root {
		return b.find("manifest.json")
	}
	if e, p := b.find(d.Hex()); e != nil || p != nil {
		return e, p
	}
	return b.find(d.Hex() + ".manifest.json")
}

// skopeoRoot is the descriptor that manifest.json would have. It returns none
// after recording a problem.
func (v *verifier) skopeoRoot(ctx context.Context) (*descriptor, error) {
	data, err := v.file(ctx, "manifest.json", "manifest-missing", v.limits.Manifest, "limit-manifest-size")
	if err != nil || data == nil {
		return nil, err
	}
	v.documents += int64(len(data))
	d := descriptor{place: "manifest.json", digest: digest.SHA256.Sum(data), size: int64(len(data))}
	vw := view{"manifest.json", &v.findings}
	doc := vw.parse(data, v.limits.Manifest)
	if doc == nil || !vw.object("", doc, "schemaVersion", "mediaType", "config", "layers", "manifests") {
		return nil, nil
	}
	// Docker's documents always say their type, OCI's may leave it out.
	switch d.mediaType = vw.str("/mediaType", doc.Get("mediaType")); {
	case isIndexType(d.mediaType), isManifestType(d.mediaType):
	case d.mediaType != "":
		v.problem(Problem{Code: "mediatype-unknown", Place: vw.at("/mediaType"), Found: clip(d.mediaType), Expected: typeManifest + " or " + typeIndex})
		return nil, nil
	case doc.Get("manifests") != nil:
		d.mediaType = typeIndex
	default:
		d.mediaType = typeManifest
	}
	v.blobs = dirBlobs{fileBlobs{v.src.files}, d.digest}
	return &d, nil
}

// skopeoDir reads such a folder.
func (v *verifier) skopeoDir(ctx context.Context) error {
	e, p := v.src.files.find("version")
	switch {
	case p != nil:
		v.problem(*p)
	case e == nil:
		v.note(Problem{Code: "layout-version", Place: "version", Found: "nothing", Expected: skopeoVersion})
	case e.size > 100:
		v.problem(Problem{Code: "layout-version", Place: "version", Found: fmt.Sprintf("%d bytes", e.size), Expected: skopeoVersion})
	default:
		data, err := v.file(ctx, "version", "layout-missing", 100, "layout-version")
		if err != nil {
			return err
		}
		if s := string(data); s != skopeoVersion+"\n" && s != skopeoVersion {
			v.problem(Problem{Code: "layout-version", Place: "version", Found: fmt.Sprintf("%q", clip(s)), Expected: skopeoVersion})
		}
	}
	d, err := v.skopeoRoot(ctx)
	if err != nil || d == nil {
		return err
	}
	r := &root{desc: *d}
	v.roots = append(v.roots, r)
	return v.loadRoot(ctx, r)
}

const skopeoVersion = "Directory Transport Version: 1.1"

// skopeoName reports whether a file belongs to such a folder, and the digest that
// it should have.
func (v *verifier) skopeoName(name string) (d digest.Digest, belongs bool) {
	switch name {
	case "manifest.json", "version":
		return d, true
	}
	hex := strings.TrimSuffix(name, ".manifest.json")
	alg := digest.SHA256
	if len(hex) == 128 {
		alg = digest.SHA512
	}
	if d, err := digest.ParseHex(alg, hex); err == nil && d.Hex() == hex {
		return d, v.used[d]
	}
	return digest.Digest{}, strings.HasPrefix(name, "signature-")
}
