package imagehash

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
)

// Media types (OCI image-spec, media-types.md; Docker image manifest v2,
// schema 2).
const (
	typeIndex          = "application/vnd.oci.image.index.v1+json"
	typeManifest       = "application/vnd.oci.image.manifest.v1+json"
	typeConfig         = "application/vnd.oci.image.config.v1+json"
	typeEmpty          = "application/vnd.oci.empty.v1+json"
	typeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerConfig   = "application/vnd.docker.container.image.v1+json"
	typeCosign         = "application/vnd.dev.cosign.simplesigning.v1+json"
	typeErofs          = "application/vnd.erofs.layer.v1" // containerd 2
)

// Annotations with a meaning.
const (
	annotationRefName       = "org.opencontainers.image.ref.name"
	annotationImageName     = "io.containerd.image.name"
	annotationReferenceType = "vnd.docker.reference.type"
	annotationReference     = "vnd.docker.reference.digest"
)

func isIndexType(t string) bool    { return t == typeIndex || t == typeDockerList }
func isManifestType(t string) bool { return t == typeManifest || t == typeDockerManifest }
func isConfigType(t string) bool   { return t == typeConfig || t == typeDockerConfig }

// layerType returns the compression that a layer's media type promises.
func layerType(t string) (p packing, foreign, ok bool) {
	switch t {
	case "application/vnd.oci.image.layer.v1.tar",
		"application/vnd.docker.image.rootfs.diff.tar":
		return packPlain, false, true
	case "application/vnd.oci.image.layer.v1.tar+gzip",
		"application/vnd.docker.image.rootfs.diff.tar.gzip":
		return packGzip, false, true
	case "application/vnd.oci.image.layer.v1.tar+zstd",
		"application/vnd.docker.image.rootfs.diff.tar.zstd":
		return packZstd, false, true
	case "application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.docker.image.rootfs.foreign.diff.tar":
		return packPlain, true, true
	case "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":
		return packGzip, true, true
	case "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd":
		return packZstd, true, true
	}
	return 0, false, false
}

// unopened says why a layer of a media type is not unpacked here. Its blob is
// hashed all the same: who stores or compares an image must not stumble over types
// that are not known (OCI image-spec, manifest.md, on layers).
func unopened(t string) string {
	switch {
	case strings.HasSuffix(t, "+encrypted"):
		return "it is encrypted (ocicrypt): only who has the key knows what is in it"
	case erofs(t):
		return "it is an EROFS file system, no tar"
	case strings.Contains(t, ".layer.nydus.blob."):
		return "it is a nydus blob, no tar"
	}
	return "its media type is none that is known"
}

// ofImage reports whether a media type is one of layers that some engine runs:
// what bears it is part of an image, whatever else the manifest calls itself.
func ofImage(t string) bool {
	if _, _, ok := layerType(t); ok {
		return true
	}
	base := strings.TrimSuffix(t, "+encrypted")
	_, _, ok := layerType(base)
	return ok || erofs(base) || strings.Contains(t, ".layer.nydus.")
}

// erofs knows the layer type of containerd 2 and its variants (+zstd and the like).
func erofs(t string) bool {
	return t == typeErofs || strings.HasPrefix(t, typeErofs+"+") || strings.HasPrefix(t, typeErofs+".") || t == "application/vnd.oci.image.layer.v1.erofs"
}

// findings collects what is wrong and what is worth knowing.
type findings struct {
	problems []Problem
	notes    []Problem
}

// maxFindings bounds what one document can make a report say.
const maxFindings = 1000

func (f *findings) problem(p Problem) {
	if len(f.problems) < maxFindings {
		f.problems = append(f.problems, p)
	}
}

func (f *findings) note(p Problem) {
	if len(f.notes) < maxFindings {
		f.notes = append(f.notes, p)
	}
}

// view reads fields of one JSON document and records what is wrong with them.
// The zero value of a field stands for an absent or a wrong one.
type view struct {
	place string // of the document
	out   *findings
}

func (v view) at(pointer string) string {
	if pointer == "" {
		return v.place
	}
	return v.place + ":" + pointer
}

func (v view) invalid(pointer string, found *jsondoc.Value, expected string) {
	v.out.problem(Problem{Code: "json-invalid", Place: v.at(pointer), Found: describe(found), Expected: expected})
}

func describe(v *jsondoc.Value) string {
	switch {
	case v == nil:
		return "nothing"
	case v.Kind == jsondoc.String:
		return strconv.Quote(clip(v.Text))
	case v.Kind == jsondoc.Number:
		return clip(v.Text)
	case v.Kind == jsondoc.Bool:
		return strconv.FormatBool(v.Bool)
	}
	return v.Kind.String()
}

// parse reads a document strictly (step 3): UTF-8 without a byte order mark,
// one value, no duplicate key. It returns nil after recording a problem.
func (v view) parse(data []byte, limit int64) *jsondoc.Value {
	// Few values: a tree costs some hundred bytes for each.
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: int(limit), Depth: 64, Values: 100_000})
	if err == nil && doc.Kind != jsondoc.Object && doc.Kind != jsondoc.Array {
		v.invalid("", doc, "object")
		return nil
	}
	if err == nil {
		return doc
	}
	p := Problem{Code: "json-invalid", Place: v.place, Detail: err.Error()}
	var e *jsondoc.Error
	if errors.As(err, &e) {
		p.Place = v.at(e.Pointer)
		p.Detail = fmt.Sprintf("line %d column %d: %s", e.Line, e.Column, e.Msg)
		switch e.Reason {
		case jsondoc.DuplicateKey:
			p.Code = "json-duplicate-key"
		case jsondoc.TooLarge:
			p.Code = "limit-json"
		}
	}
	v.out.problem(p)
	return nil
}

// object checks that value is an object whose keys mean the same to readers
// that tell letters' cases apart and to those that do not (encoding/json):
// no two keys equal after folding, no key equal to a known one but for case.
func (v view) object(pointer string, value *jsondoc.Value, known ...string) bool {
	if value == nil || value.Kind != jsondoc.Object {
		v.invalid(pointer, value, "object")
		return false
	}
	names := make(map[string]string, len(known)+len(value.Members))
	for _, k := range known {
		names[fold(k)] = k
	}
	ok := true
	for _, m := range value.Members {
		key := fold(m.Key)
		if other, taken := names[key]; taken && other != m.Key {
			v.out.problem(Problem{Code: "json-ambiguous-key", Place: v.at(pointer + "/" + jsondoc.EscapePointer(clip(m.Key))), Found: clip(m.Key), Expected: other, Detail: "readers that fold case take one for the other"})
			ok = false
		}
		names[key] = m.Key
	}
	return ok
}

// fold maps a key to a representative of all keys that are equal under simple
// case folding.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		low := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			low = min(low, next)
		}
		return low
	}, s)
}

func (v view) str(pointer string, value *jsondoc.Value) string {
	if value.IsNull() {
		return ""
	}
	if value.Kind != jsondoc.String {
		v.invalid(pointer, value, "string")
		return ""
	}
	return value.Text
}

// whole reads a number without sign, fraction or exponent below 2^63; -1 means
// that there is none.
func (v view) whole(pointer string, value *jsondoc.Value) int64 {
	if value != nil && value.Kind == jsondoc.Number {
		if n, err := strconv.ParseUint(value.Text, 10, 63); err == nil {
			return int64(n)
		}
	}
	v.invalid(pointer, value, "whole number from 0 to 2^63-1")
	return -1
}

// array returns the elements of an array; null and absent are empty.
func (v view) array(pointer string, value *jsondoc.Value) []*jsondoc.Value {
	if value.IsNull() {
		return nil
	}
	if value.Kind != jsondoc.Array {
		v.invalid(pointer, value, "array")
		return nil
	}
	return value.Elems
}

// texts reads a map from strings to strings, which keeps its keys' case in
// every reader.
func (v view) texts(pointer string, value *jsondoc.Value) map[string]string {
	if value.IsNull() {
		return nil
	}
	if value.Kind != jsondoc.Object {
		v.invalid(pointer, value, "object")
		return nil
	}
	m := make(map[string]string, len(value.Members))
	for _, e := range value.Members {
		m[e.Key] = v.str(pointer+"/"+jsondoc.EscapePointer(clip(e.Key)), e.Value)
	}
	return m
}

// digest reads a digest (OCI image-spec, descriptor.md). Its syntax is checked
// before anything is done with it.
func (v view) digest(pointer string, value *jsondoc.Value) digest.Digest {
	text := v.str(pointer, value)
	if text == "" {
		if value.IsNull() || value.Kind == jsondoc.String {
			v.out.problem(Problem{Code: "digest-syntax", Place: v.at(pointer), Found: describe(value), Expected: "sha256:<64 lower-case hex digits>"})
		}
		return digest.Digest{}
	}
	d, code := parseDigest(text)
	if code != "" {
		v.out.problem(Problem{Code: code, Place: v.at(pointer), Found: clip(text), Expected: "sha256:<64 lower-case hex digits> or sha512:<128>"})
	}
	return d
}

func parseDigest(text string) (d digest.Digest, code string) {
	alg, hex, ok := strings.Cut(text, ":")
	if !ok || alg == "" || hex == "" || strings.Trim(alg, "abcdefghijklmnopqrstuvwxyz0123456789+._-") != "" {
		return d, "digest-syntax"
	}
	var a digest.Algorithm
	switch alg {
	case "sha256":
		a = digest.SHA256
	case "sha512":
		a = digest.SHA512
	default:
		if strings.ContainsAny(hex, "/\\\x00") || strings.Contains(hex, "..") {
			return d, "digest-syntax"
		}
		return d, "digest-algorithm"
	}
	if strings.Trim(hex, "0123456789abcdef") != "" {
		return d, "digest-syntax"
	}
	d, err := digest.ParseHex(a, hex)
	if err != nil {
		return digest.Digest{}, "digest-syntax"
	}
	return d, ""
}

// descriptor points at a blob (OCI image-spec, descriptor.md).
type descriptor struct {
	place        string // of the descriptor itself
	mediaType    string
	artifactType string
	digest       digest.Digest // zero if unusable
	size         int64         // -1 if unusable
	urls         int
	annotations  map[string]string
	data         []byte
	hasData      bool
	platform     platform
	text         string // everything, to compare two descriptors
}

// platform is the platform of a descriptor or a config.
type platform struct {
	present                   bool
	os, architecture, variant string
}

func (p platform) String() string {
	if p.os == "" && p.architecture == "" {
		return ""
	}
	s := p.os + "/" + p.architecture
	if p.variant != "" {
		s += "/" + p.variant
	}
	return s
}

func (p platform) unknown() bool { return p.os == "unknown" && p.architecture == "unknown" }

func (v view) descriptor(pointer string, value *jsondoc.Value) descriptor {
	d := descriptor{place: v.at(pointer), size: -1}
	v.object(pointer, value, "mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType")
	if value == nil || value.Kind != jsondoc.Object {
		return d
	}
	d.text = string(jsondoc.Style{}.Compact(value))
	d.mediaType = v.str(pointer+"/mediaType", value.Get("mediaType"))
	d.artifactType = v.str(pointer+"/artifactType", value.Get("artifactType"))
	d.digest = v.digest(pointer+"/digest", value.Get("digest"))
	d.size = v.whole(pointer+"/size", value.Get("size"))
	d.urls = len(v.array(pointer+"/urls", value.Get("urls")))
	d.annotations = v.texts(pointer+"/annotations", value.Get("annotations"))
	if data := value.Get("data"); !data.IsNull() {
		d.hasData = true
		b, err := base64.StdEncoding.DecodeString(v.str(pointer+"/data", data))
		if err != nil {
			v.out.problem(Problem{Code: "data-mismatch", Place: v.at(pointer + "/data"), Found: "no base64", Expected: "the blob in base64"})
		}
		d.data = b
	}
	if p := value.Get("platform"); !p.IsNull() {
		v.object(pointer+"/platform", p, "os", "architecture", "variant", "os.version", "os.features", "features")
		d.platform = platform{
			present:      true,
			os:           v.str(pointer+"/platform/os", p.Get("os")),
			architecture: v.str(pointer+"/platform/architecture", p.Get("architecture")),
			variant:      v.str(pointer+"/platform/variant", p.Get("variant")),
		}
	}
	return d
}

// manifestDoc is an index or an image manifest.
type manifestDoc struct {
	index        bool
	mediaType    string // of the document itself, may be empty
	artifactType string
	annotations  map[string]string
	manifests    []descriptor
	config       descriptor
	layers       []descriptor
	subject      digest.Digest
}

// manifest reads an index or manifest of the given media type; "" stands for
// index.json, whose type nobody has said.
func (v view) manifest(doc *jsondoc.Value, want string) *manifestDoc {
	if !v.object("", doc, "schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations") && doc.Kind != jsondoc.Object {
		return nil
	}
	m := &manifestDoc{index: want == "" || isIndexType(want)}
	if version := doc.Get("schemaVersion"); version == nil || version.Kind != jsondoc.Number || version.Text != "2" {
		v.out.problem(Problem{Code: "schema-version", Place: v.at("/schemaVersion"), Found: describe(version), Expected: "2"})
	}
	m.mediaType = v.str("/mediaType", doc.Get("mediaType"))
	switch {
	case want == "" && m.mediaType != "" && !isIndexType(m.mediaType):
		v.out.problem(Problem{Code: "mediatype-mismatch", Place: v.at("/mediaType"), Found: clip(m.mediaType), Expected: typeIndex})
	case want != "" && m.mediaType != "" && m.mediaType != want:
		v.out.problem(Problem{Code: "mediatype-mismatch", Place: v.at("/mediaType"), Found: clip(m.mediaType), Expected: want})
	}
	manifests, layers, config := doc.Get("manifests"), doc.Get("layers"), doc.Get("config")
	if manifests != nil && (layers != nil || config != nil) {
		// A reader that goes by the content takes another branch than one
		// that goes by the type (CVE-2021-41190).
		v.out.problem(Problem{Code: "manifest-ambiguous", Place: v.place, Found: "manifests together with layers or config", Expected: "one of them"})
		return nil
	}
	m.artifactType = v.str("/artifactType", doc.Get("artifactType"))
	m.annotations = v.texts("/annotations", doc.Get("annotations"))
	if s := doc.Get("subject"); !s.IsNull() {
		m.subject = v.descriptor("/subject", s).digest
	}
	if m.index {
		for i, e := range v.array("/manifests", manifests) {
			m.manifests = append(m.manifests, v.descriptor("/manifests/"+strconv.Itoa(i), e))
		}
		if len(m.manifests) == 0 && (manifests.IsNull() || manifests.Kind == jsondoc.Array) {
			v.out.problem(Problem{Code: "index-empty", Place: v.at("/manifests"), Found: describe(manifests), Expected: "at least one descriptor"})
		}
		return m
	}
	m.config = v.descriptor("/config", config)
	for i, e := range v.array("/layers", layers) {
		m.layers = append(m.layers, v.descriptor("/layers/"+strconv.Itoa(i), e))
	}
	return m
}

// configDoc is what the config of an image says about its layers.
type configDoc struct {
	raw      []byte
	platform platform
	diffIDs  []digest.Digest
	history  int // entries that made a layer
	hasHist  bool
}

// config reads an image config (OCI image-spec, config.md).
func (v view) config(doc *jsondoc.Value) *configDoc {
	known := []string{"created", "author", "architecture", "os", "os.version", "os.features", "variant", "config", "rootfs", "history"}
	if !v.object("", doc, known...) && doc.Kind != jsondoc.Object {
		return nil
	}
	c := &configDoc{platform: platform{
		present:      true,
		os:           v.str("/os", doc.Get("os")),
		architecture: v.str("/architecture", doc.Get("architecture")),
		variant:      v.str("/variant", doc.Get("variant")),
	}}
	if run := doc.Get("config"); !run.IsNull() {
		v.object("/config", run, "User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal",
			"ArgsEscaped", "Memory", "MemorySwap", "CpuShares", "Healthcheck", "Shell", "OnBuild")
	}
	rootfs := doc.Get("rootfs")
	if v.object("/rootfs", rootfs, "type", "diff_ids") || rootfs != nil && rootfs.Kind == jsondoc.Object {
		if t := rootfs.Get("type"); t == nil || t.Kind != jsondoc.String || t.Text != "layers" {
			v.out.problem(Problem{Code: "rootfs-type", Place: v.at("/rootfs/type"), Found: describe(t), Expected: "layers"})
		}
		for i, e := range v.array("/rootfs/diff_ids", rootfs.Get("diff_ids")) {
			c.diffIDs = append(c.diffIDs, v.digest("/rootfs/diff_ids/"+strconv.Itoa(i), e))
		}
	}
	for i, e := range v.array("/history", doc.Get("history")) {
		c.hasHist = true
		pointer := "/history/" + strconv.Itoa(i)
		v.object(pointer, e, "created", "created_by", "author", "comment", "empty_layer")
		if empty := e.Get("empty_layer"); empty == nil || empty.Kind != jsondoc.Bool || !empty.Bool {
			c.history++
		}
	}
	return c
}
