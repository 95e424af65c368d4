package imagehash

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/retally/retally/imagehash/internal/rawtar"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
)

// dockerImage is one entry of a docker archive's manifest.json.
type dockerImage struct {
	findings
	tags         []string
	configDigest digest.Digest
	config       *configDoc
	layers       []*job // nil where the file is missing
	names        []string
	skipped      map[int]bool // layers that were left out by choice
	hybrid       bool         // the archive is an OCI layout too
}

// dockerView reads the docker view of an archive: manifest.json, a list of
// {Config, RepoTags, Layers} (moby image spec, v1.2, "Combined Image JSON +
// Filesystem Changeset Format").
func (v *verifier) dockerView(ctx context.Context, oci bool) error {
	data, err := v.file(ctx, "manifest.json", "manifest-missing", v.limits.Manifest, "limit-manifest-size")
	if err != nil || data == nil {
		return err
	}
	vw := view{"manifest.json", &v.findings}
	null := string(bytes.TrimSpace(data)) == "null"
	var doc *jsondoc.Value
	var list []*jsondoc.Value
	if !null || !oci {
		if doc = vw.parse(data, v.limits.Manifest); doc == nil {
			return nil
		}
		list = vw.array("", doc)
	}
	if len(list) == 0 && oci && len(v.roots) > 0 && (null || doc.Kind == jsondoc.Array) {
		v.note(Problem{Code: "index-null", Place: "manifest.json", Found: clip(string(bytes.TrimSpace(data))), Expected: "the images of index.json", Detail: "the docker side of the archive names no image: docker before 25 loads nothing from it"})
		return nil
	}
	if len(list) == 0 {
		v.problem(Problem{Code: "index-empty", Place: "manifest.json", Found: describe(doc), Expected: "a list of images"})
	}
	if len(list) > v.limits.Manifests {
		v.problem(Problem{Code: "limit-manifests", Place: "manifest.json", Found: fmt.Sprint(len(list)), Expected: fmt.Sprintf("at most %d images", v.limits.Manifests)})
		return nil
	}
	if oci {
		v.note(Problem{Code: "hybrid-archive", Place: "manifest.json", Detail: "an OCI layout and a docker archive in one"})
	} else {
		v.note(Problem{Code: "no-manifest-digest", Place: "manifest.json", Detail: "a docker archive holds no manifest: config digest and diffIDs identify the image"})
	}
	if len(list) > 1 {
		v.note(Problem{Code: "multiple-images", Place: "manifest.json", Found: fmt.Sprint(len(list))})
	}
	for i, value := range list {
		d := &dockerImage{hybrid: oci}
		v.docker = append(v.docker, d)
		vw := view{"manifest.json", &d.findings}
		pointer := "/" + strconv.Itoa(i)
		if !vw.object(pointer, value, "Config", "RepoTags", "Layers", "Parent", "LayerSources") {
			continue
		}
		for k, tag := range vw.array(pointer+"/RepoTags", value.Get("RepoTags")) {
			d.tags = append(d.tags, vw.str(fmt.Sprintf("%s/RepoTags/%d", pointer, k), tag))
		}
		if err := v.dockerConfig(ctx, d, vw.str(pointer+"/Config", value.Get("Config")), vw.at(pointer+"/Config")); err != nil {
			return err
		}
		for k, layer := range vw.array(pointer+"/Layers", value.Get("Layers")) {
			at := fmt.Sprintf("%s/Layers/%d", pointer, k)
			v.dockerLayer(d, vw.str(at, layer), vw.at(at))
		}
		if d.config != nil {
			if got, want := len(d.config.diffIDs), len(d.layers); got != want {
				d.problem(Problem{Code: "rootfs-count", Place: vw.at(pointer + "/Layers"), Found: fmt.Sprintf("%d layers", want), Expected: fmt.Sprintf("%d, one for each diffID", got)})
			}
			v.checkHistory(d.config, len(d.layers), vw, &d.findings)
		}
	}
	return nil
}

// member finds a file that manifest.json names. A symbolic link is followed
// inside the archive: docker save writes layer.tar as a link to an equal
// layer's.
func (v *verifier) member(name, place string, out *findings) *entry {
	clean, safe := entryName(name)
	if !safe || clean == "" {
		out.problem(Problem{Code: "entry-unsafe-path", Place: place, Found: clip(name), Expected: "a relative path without .."})
		return nil
	}
	f := v.src.files
	for range 8 {
		e := f.names[clean]
		if e == nil || e.typ != symlinkEntry {
			break
		}
		target := e.link
		if strings.HasPrefix(target, "/") || strings.IndexByte(target, 0) >= 0 {
			out.problem(Problem{Code: "entry-unsafe-path", Place: clip(clean), Found: "link to " + clip(target), Expected: "a path inside the archive"})
			return nil
		}
		joined := path.Dir(clean) + "/" + target
		next, escapes := rawtar.CleanPath(joined)
		if escapes || next == "" {
			out.problem(Problem{Code: "entry-unsafe-path", Place: clip(clean), Found: "link to " + clip(target), Expected: "a path inside the archive"})
			return nil
		}
		clean = next
	}
	if e := f.names[clean]; e != nil && e.typ == symlinkEntry {
		out.problem(Problem{Code: "entry-unsafe-path", Place: clip(clean), Found: "a loop or a long chain of links", Expected: "at most 8 links"})
		return nil
	}
	e, p := f.find(clean)
	if p != nil {
		out.problem(*p)
		return nil
	}
	if e == nil {
		out.problem(Problem{Code: "blob-missing", Place: place, Found: "no " + clip(clean), Expected: "a file"})
	}
	return e
}

func (v *verifier) dockerConfig(ctx context.Context, d *dockerImage, name, place string) error {
	if name == "" {
		d.problem(Problem{Code: "json-invalid", Place: place, Found: "nothing", Expected: "the name of the config"})
		return nil
	}
	e := v.member(name, place, &d.findings)
	if e == nil {
		return nil
	}
	if e.size > v.limits.Config {
		d.problem(Problem{Code: "limit-config-size", Place: clip(name), Found: fmt.Sprintf("%d bytes", e.size), Expected: fmt.Sprintf("at most %d", v.limits.Config)})
		return nil
	}
	if v.documents += e.size; v.documents > v.limits.Documents {
		d.problem(Problem{Code: "limit-documents", Place: clip(name), Found: fmt.Sprintf("%d bytes of configs", v.documents), Expected: fmt.Sprintf("at most %d", v.limits.Documents)})
		return nil
	}
	r, err := v.src.files.open(ctx, e)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(r, e.size))
	r.Close()
	if err != nil {
		return err
	}
	v.bytes += int64(len(data))
	d.configDigest = digest.SHA256.Sum(data)
	// The name is a claim: <hex>.json of docker and nix, sha256:<hex> of
	// kaniko, or a blob's path.
	want, named := nameDigest(name)
	switch {
	case !named:
		d.note(Problem{Code: "config-name", Place: clip(name), Found: clip(name), Expected: d.configDigest.Hex() + ".json", Detail: "the config's name holds no digest"})
	case want.Algorithm().Sum(data) != want:
		d.configDigest = want.Algorithm().Sum(data)
		d.problem(Problem{Code: "digest-mismatch", Place: clip(name), Found: d.configDigest.String(), Expected: want.String()})
		return nil
	default:
		d.configDigest = want
		v.used[want] = true
	}
	vw := view{clip(name), &d.findings}
	if doc := vw.parse(data, v.limits.Config); doc != nil {
		if d.config = vw.config(doc); d.config != nil {
			d.config.raw = data
		}
	}
	return nil
}

// nameDigest reads the digest in the name of a config or layer file.
func nameDigest(name string) (digest.Digest, bool) {
	if d, ok := blobDigest(name); ok {
		return d, true
	}
	base := strings.TrimSuffix(path.Base(name), ".json")
	if !strings.Contains(base, ":") {
		base = "sha256:" + base
	}
	d, code := parseDigest(base)
	return d, code == ""
}

func (v *verifier) dockerLayer(d *dockerImage, name, place string) {
	i := len(d.layers)
	d.layers = append(d.layers, nil)
	d.names = append(d.names, name)
	if v.opts.SkipLayers {
		if i == 0 {
			d.note(Problem{Code: "layers-not-read", Place: place})
			d.skipped = map[int]bool{}
		}
		d.skipped[i] = true
		return
	}
	e := v.member(name, place, &d.findings)
	if e == nil {
		return
	}
	diff := digest.SHA256
	if d.config != nil && i < len(d.config.diffIDs) && !d.config.diffIDs[i].IsZero() {
		diff = d.config.diffIDs[i].Algorithm()
	}
	blob := setOf(digest.SHA256)
	if b, ok := blobDigest(e.name); ok {
		v.used[b] = true
		blob |= setOf(b.Algorithm())
	}
	j := v.want(e, descriptor{place: place, size: e.size}, blob)
	j.how.asLayer = true
	j.how.diff |= setOf(diff)
	d.layers[i] = j
}

// checkDocker judges the layers once they are read, and compares the two views
// of a hybrid archive.
func (v *verifier) checkDocker() {
	for _, d := range v.docker {
		for i, j := range d.layers {
			if j == nil || j.facts == nil {
				continue
			}
			if b, ok := blobDigest(j.entry.name); ok {
				if got := j.facts.digests[b.Algorithm()]; got != b {
					d.problem(Problem{Code: "digest-mismatch", Place: j.entry.name, Found: got.String(), Expected: b.String()})
					continue
				}
			}
			want := digest.Digest{}
			if d.config != nil && i < len(d.config.diffIDs) {
				want = d.config.diffIDs[i]
			}
			v.checkContent(j, want, &d.findings)
		}
	}
	if len(v.docker) > 0 && v.docker[0].hybrid {
		v.compareViews()
	}
}

// compareViews checks that an old and a new docker load the same images from
// an archive: every image of manifest.json is in the OCI index under the same
// name, and every one of the index is in manifest.json.
func (v *verifier) compareViews() {
	configs := map[digest.Digest]*node{}
	for _, n := range v.order {
		if n.artifact == "" && !n.configDigest.IsZero() {
			configs[n.configDigest] = n
		}
	}
	byTag := map[string]*root{}
	for _, r := range v.roots {
		if name := r.desc.annotations[annotationImageName]; name != "" {
			byTag[name] = r
		}
	}
	inDocker := map[digest.Digest]bool{}
	for _, d := range v.docker {
		v.problems = append(v.problems, d.problems...)
		v.notes = append(v.notes, d.notes...)
		inDocker[d.configDigest] = true
		n := configs[d.configDigest]
		if n == nil {
			v.problem(Problem{Code: "archive-views-disagree", Place: "manifest.json", Found: "config " + d.configDigest.String(), Expected: "the config of an image in index.json"})
			continue
		}
		if diff := layersDiffer(d, n); diff != "" {
			v.problem(Problem{Code: "archive-views-disagree", Place: "manifest.json", Found: diff, Expected: "the layers of " + n.digest.String()})
		}
		for _, tag := range d.tags {
			if r := byTag[fullName(tag)]; r != nil && !r.node.holds(n) {
				v.problem(Problem{Code: "archive-views-disagree", Place: "manifest.json", Found: fmt.Sprintf("%s is config %s", clip(tag), d.configDigest), Expected: fmt.Sprintf("a config below %s as in index.json", r.desc.digest)})
			}
		}
	}
	for _, r := range v.roots {
		if r.node == nil || r.node.doc == nil {
			continue
		}
		images := r.node.images(nil)
		shown := len(images) == 0
		for _, n := range images {
			shown = shown || inDocker[n.configDigest]
		}
		if !shown {
			v.problem(Problem{Code: "archive-views-disagree", Place: r.desc.place, Found: r.node.digest.String() + " in index.json alone", Expected: "the same images in manifest.json"})
		}
	}
}

func layersDiffer(d *dockerImage, n *node) string {
	if len(d.layers) != len(n.doc.layers) {
		return fmt.Sprintf("%d layers", len(d.layers))
	}
	for i, name := range d.names {
		b, ok := blobDigest(name)
		if ok && b != n.doc.layers[i].digest {
			return fmt.Sprintf("layer %d is %s", i, b)
		}
	}
	return ""
}

// images returns the image manifests below a node.
func (n *node) images(seen map[*node]bool) []*node {
	if seen == nil {
		seen = map[*node]bool{}
	}
	if n == nil || n.doc == nil || seen[n] {
		return nil
	}
	seen[n] = true
	if !n.doc.index {
		if n.artifact != "" {
			return nil
		}
		return []*node{n}
	}
	var out []*node
	for _, c := range n.children {
		out = append(out, c.images(seen)...)
	}
	return out
}

func (n *node) holds(other *node) bool {
	for _, image := range n.images(nil) {
		if image == other {
			return true
		}
	}
	return false
}

// fullName is the long form of a docker tag, as containerd writes it.
func fullName(tag string) string {
	host, _, slash := strings.Cut(tag, "/")
	switch {
	case !slash:
		return "docker.io/library/" + tag
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		return "docker.io/" + tag
	}
	return tag
}

// dockerName reports whether a file belongs to the docker view of an archive.
func (v *verifier) dockerName(name string) bool {
	if len(v.docker) == 0 && v.src.kind != DockerArchive {
		return false
	}
	switch path.Base(name) {
	case "manifest.json", "repositories":
		return path.Dir(name) == "."
	case "VERSION", "json", "layer.tar":
		return strings.Count(name, "/") == 1
	}
	if _, blob := blobDigest(name); blob {
		return false
	}
	for _, d := range v.docker {
		for _, n := range d.names {
			if n == name {
				return true
			}
		}
	}
	_, config := nameDigest(name)
	return config && path.Dir(name) == "."
}

// image is the row of a docker archive's image, without a digest.
func (d *dockerImage) image(source string) Image {
	i := Image{Source: source, Tags: d.tags, Platforms: []Platform{}, Problems: distinct(d.problems), Notes: distinct(d.notes)}
	if len(d.tags) > 0 {
		i.Name = d.tags[0]
	}
	p := Platform{Config: d.configDigest, Layers: []Layer{}}
	if d.config != nil {
		p.Platform, p.RawConfig = d.config.platform.String(), d.config.raw
	}
	for k, j := range d.layers {
		layer := Layer{Unread: j == nil}
		if j != nil && j.facts != nil {
			alg := digest.SHA256
			if d.config != nil && k < len(d.config.diffIDs) && !d.config.diffIDs[k].IsZero() {
				alg = d.config.diffIDs[k].Algorithm()
			}
			layer.Size, layer.DiffID = j.facts.size, j.facts.diffIDs[alg]
		}
		p.Layers = append(p.Layers, layer)
	}
	i.Platforms = append(i.Platforms, p)
	if d.config != nil {
		i.Covered.Bytes = int64(len(d.config.raw))
	}
	for k, l := range p.Layers {
		i.Covered.Bytes += l.Size
		if d.skipped[k] {
			i.Unread = append(i.Unread, Unread{Part: "layer", Platform: p.Platform, Place: "manifest.json: " + clip(d.names[k]), Why: "layers were left out", Asked: true})
		}
	}
	i.Covered.Of = i.Covered.Bytes
	return i
}
