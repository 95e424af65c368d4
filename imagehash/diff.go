package imagehash

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"sort"
	"strings"

	"github.com/retally/retally/imagehash/internal/inside"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/proof"
)

// Standing says how well a cause is founded.
type Standing string

const (
	// Proved: undoing the cause on B, together with the others of the same
	// object, gives that object of A bit by bit.
	Proved Standing = "proved"
	// Suspected: the cause is there, but A could not be made again from B.
	Suspected Standing = "suspected"
)

// Class tells differences of content from those of packaging.
type Class string

// The classes.
const (
	Semantic  Class = "semantic"  // what runs is different
	Packaging Class = "packaging" // the same content was put up differently
)

// Cause is a node of the tree of causes. A leaf is one differing attribute; a
// cause with Children stands for all of them and its Count is their number.
type Cause struct {
	// Kind names the attribute: mtime, uid, order, compression-level,
	// config.Env, ... The documentation lists them (image-causes.md).
	Kind string `json:"kind"`
	// Path leads to the place: platform (in an index with several), then
	// "index", "manifest", "config" or "layer N", then a file or JSON
	// pointer where there is one.
	Path     []string `json:"path"`
	Expected string   `json:"expected,omitempty"` // in A
	Actual   string   `json:"actual,omitempty"`   // in B
	Note     string   `json:"note,omitempty"`
	Hint     string   `json:"hint,omitempty"` // what usually does this
	Standing Standing `json:"standing"`
	Class    Class    `json:"class"`
	Count    int      `json:"count"`
	Children []Cause  `json:"children,omitempty"`
	// Inside are the places in a file whose kind is known, proved if with all of
	// them undone the file is A's.
	Inside []Cause `json:"inside,omitempty"`
}

// DiffSide is one of the images compared.
type DiffSide struct {
	Source string        `json:"source"`
	Name   string        `json:"name,omitempty"`
	Digest digest.Digest `json:"digest,omitzero"` // absent for docker archives
}

// Difference is why two images have different digests.
type Difference struct {
	A DiffSide `json:"a"`
	B DiffSide `json:"b"`
	// Equal: the digests are the same, or neither side has one and configs
	// and diffIDs are.
	Equal bool `json:"equal"`
	// SameContent: config digests and diffIDs agree on all platforms.
	SameContent bool `json:"sameContent"`
	// Causes is a minimal set: undoing all of them on B gives A, and none
	// can be left out.
	Causes []Cause `json:"causes"`
	// Proved: all of A, up to its digest, was made again from B.
	Proved bool `json:"proved"`
	// Ignored are causes that were asked to be left out of the verdict.
	Ignored []Cause `json:"ignored,omitempty"`
	// EqualIgnoring: nothing but ignored causes is left, and they are proved.
	EqualIgnoring bool     `json:"equalIgnoring,omitempty"`
	Notes         []string `json:"notes,omitempty"`
}

// DiffOptions steer Diff.
type DiffOptions struct {
	Options
	// NameA and NameB choose an image by name or digest where a source
	// holds several.
	NameA, NameB string
	// Ignore lists kinds of causes, or "time" for all times and
	// "compression" for all of compression.
	Ignore []string
	// Leaves bounds the leaves listed of one cause; Count has them all.
	// Default 100.
	Leaves int
}

// ignoreGroups are the names for several kinds.
func ignoreGroup(name string) []string {
	switch name {
	case "time":
		return []string{"mtime", "created", "gzip-header-mtime"}
	case "compression":
		return []string{"compression", "compression-level", "compression-implementation", "compression-format", "gzip-header-mtime", "gzip-header-os", "gzip-header-name", "gzip-header-xfl", "gzip-header"}
	}
	return []string{name}
}

// Diff says why image B has another digest than image A. Both must verify: the
// causes of a corrupt image are its problems.
func Diff(ctx context.Context, a, b *Source, opts DiffOptions) (*Difference, error) {
	if opts.Leaves <= 0 {
		opts.Leaves = 100
	}
	x := &differ{ctx: ctx, opts: opts, seed: maphash.MakeSeed(), same: true, proved: true}
	var err error
	if x.a, err = x.side(a, opts.NameA); err != nil {
		return nil, err
	}
	if x.b, err = x.side(b, opts.NameB); err != nil {
		return nil, err
	}
	d := &Difference{A: x.a.DiffSide, B: x.b.DiffSide}
	if !x.a.Digest.IsZero() && x.a.Digest == x.b.Digest {
		d.Equal, d.SameContent, d.Proved, d.Causes = true, true, true, []Cause{}
		return d, nil
	}
	if err := x.compare(); err != nil {
		return nil, fmt.Errorf("compare %s with %s: %w", a.name, b.name, err)
	}
	d.SameContent, d.Proved, d.Notes = x.same, x.proved, append(x.unread(), x.notes...)
	var ignored []string
	for _, name := range opts.Ignore {
		ignored = append(ignored, ignoreGroup(name)...)
	}
	d.Causes = []Cause{}
	for _, c := range x.grouped() {
		if slices.Contains(ignored, c.Kind) {
			d.Ignored = append(d.Ignored, c)
		} else {
			d.Causes = append(d.Causes, c)
		}
	}
	noDigests := x.a.Digest.IsZero() || x.b.Digest.IsZero()
	d.Equal = noDigests && x.same && len(d.Causes)+len(d.Ignored) == 0
	d.EqualIgnoring = len(d.Ignored) > 0 && len(d.Causes) == 0 && d.Proved
	return d, nil
}

// unread says what nobody has read of the two sides.
func (x *differ) unread() []string {
	var out []string
	for i, s := range []*diffSide{x.a, x.b} {
		if s.root == nil {
			continue
		}
		if u := Unchecked([]Image{s.v.image(s.root, nil)}); u != "" {
			out = append(out, string("ab"[i])+": "+u+": of those what the image claims is compared")
		}
	}
	return out
}

// differ compares two sides and collects leaves.
type differ struct {
	ctx    context.Context
	opts   DiffOptions
	a, b   *diffSide
	seed   maphash.Seed
	leaves []leaf
	same   bool
	proved bool
	notes  []string
}

// leaf is one differing attribute in one object.
type leaf struct {
	object []string // platform, "manifest" | "config" | "layer N" | ...
	kind   string
	place  string // file or pointer in the object, "" for the object itself
	a, b   string
	note   string
	proved bool
	// sameTar: of a compression whose content is equal.
	sameTar bool
	// rule is what makes A's value of B's, here and in many other places.
	rule string
	// inside is what differs in a file whose kind is known.
	inside *inside.Finding
}

func (x *differ) add(object []string, list ...leaf) {
	for _, l := range list {
		l.object = object
		x.leaves = append(x.leaves, l)
	}
}

// settle gives all leaves of an object their standing.
func (x *differ) settle(object []string, proved bool) {
	for i := range x.leaves {
		if slices.Equal(x.leaves[i].object, object) {
			x.leaves[i].proved = proved
		}
	}
	if !proved {
		x.proved = false
	}
}

// unproved says why an object of A did not come out.
func (x *differ) unproved(object []string, v proof.Verdict) {
	x.notes = append(x.notes, strings.Join(object, " > ")+": not proved: "+v.Why)
}

// grouped makes the tree: one cause for each kind in each object.
func (x *differ) grouped() []Cause {
	type key struct{ object, kind string }
	at := map[key]int{}
	rules, exceptions := map[key]string{}, map[key]int{}
	for _, l := range x.leaves {
		if l.rule != "" {
			rules[key{strings.Join(l.object, "\x00"), l.kind}] = l.rule
		}
	}
	var out []Cause
	for _, l := range x.leaves {
		path := append([]string{}, l.object...)
		c := Cause{
			Kind: l.kind, Path: path, Expected: l.a, Actual: l.b, Note: l.note, Hint: hint(l),
			Standing: Suspected, Class: l.class(), Count: 1,
		}
		if l.place != "" {
			c.Path = append(c.Path, l.place)
		}
		if l.proved {
			c.Standing = Proved
		}
		c.Inside = x.inside(c, l.inside)
		k := key{strings.Join(l.object, "\x00"), l.kind}
		exception := rules[k] != "" && l.rule == ""
		if exception {
			c.Note = strings.TrimPrefix(c.Note+"; an exception to the rule", "; ")
		}
		i, seen := at[k]
		if !seen {
			at[k] = len(out)
			out = append(out, c)
			if exception {
				exceptions[k]++
			}
			continue
		}
		g := &out[i]
		if g.Count == 1 {
			first := *g
			g.Path, g.Expected, g.Actual, g.Note, g.Inside, g.Children = path, "", "", rules[k], nil, []Cause{first}
		}
		g.Count++
		if c.Standing != Proved {
			g.Standing = Suspected
		}
		switch {
		case exception:
			// First, because the rule does not say them.
			g.Children = slices.Insert(g.Children, min(exceptions[k], len(g.Children)), c)
			g.Children = g.Children[:min(len(g.Children), x.opts.Leaves)]
			exceptions[k]++
		case len(g.Children) < x.opts.Leaves:
			g.Children = append(g.Children, c)
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Class == Semantic && out[j].Class != Semantic })
	return out
}

// inside makes causes of what was found in a file.
func (x *differ) inside(file Cause, f *inside.Finding) (out []Cause) {
	if f == nil {
		return nil
	}
	standing := Suspected
	if f.Proved {
		standing = Proved
	}
	for _, p := range f.Parts[:min(len(f.Parts), x.opts.Leaves)] {
		out = append(out, Cause{
			Kind: "inside", Path: append(slices.Clone(file.Path), p.Place...), Expected: p.A, Actual: p.B,
			Standing: standing, Class: file.Class, Count: 1,
		})
	}
	return out
}

// class tells what may run differently. Of a configuration that is every member
// that is not known to be a note about the build.
func (l leaf) class() Class {
	switch l.kind {
	case "artifact", "artifact-blob", "artifact-config", "platform-unread", "content", "mode", "uid", "gid", "type", "link", "device", "xattr", "pax-unknown", "document", "rootfs",
		"only-in-a", "only-in-b", "renamed", "inside", "layer-only-in-a", "layer-only-in-b", "layer-order",
		"platform-only-in-a", "platform-only-in-b", "architecture", "os", "variant":
		return Semantic
	}
	if strings.HasPrefix(l.kind, "config.") {
		return Semantic
	}
	if n := len(l.object); n > 0 && l.object[n-1] == "config" && !noteOfBuild(l.kind) {
		return Semantic
	}
	return Packaging
}

// noteOfBuild reports whether a member of a configuration says how it was made
// (OCI image-spec, config.md; Docker image spec v1.2), or a kind is one of form.
func noteOfBuild(kind string) bool {
	switch kind {
	case "created", "history", "author", "comment", "container", "docker_version", "id", "parent", "json-formatting", "bytes":
		return true
	}
	return strings.HasPrefix(kind, "container_config")
}

// hint names what usually causes a difference.
func hint(l leaf) string {
	switch l.kind {
	case "mtime", "created":
		return "timestamps of the build; set SOURCE_DATE_EPOCH and rewrite-timestamp, or clamp the times"
	case "uid", "gid", "uname", "gname":
		return "the builder's own user; write numeric owners (tar --owner=0 --group=0 --numeric-owner)"
	case "mode":
		return "the builder's umask or checkout"
	case "order":
		return "the order of the file system; sort the names (tar --sort=name)"
	case "gzip-header-mtime":
		return "the time in the gzip header (gzip -n leaves it out); 0x886e0900 is pgzip's zero time"
	case "gzip-header-name":
		return "the file name in the gzip header (gzip -n leaves it out)"
	case "gzip-header-os":
		return "another implementation of gzip or another system"
	case "compression-level", "compression-implementation", "compression", "compression-format":
		if l.sameTar {
			return "another level or version of the compressor; the diffIDs are equal, compare those or pin the tool"
		}
		return "another compressor, or another level or version of it; pin the tool"
	case "tar-padding":
		return "another record size of tar (the -b option)"
	case "sparse-form":
		return "tar that looks for holes (-S), or a writer that knows none; the unpacked file is the same"
	case "artifact-blob", "artifact-config":
		return "another content of the artifact; its blobs are compared by digest"
	case "tar-format", "pax", "pax-unknown":
		return "another tar writer or format (tar --format)"
	case "mediaType":
		return "Docker and OCI media types: the image was pushed by another tool or converted"
	case "json-formatting":
		return "another JSON writer"
	case "history":
		return "another Dockerfile or builder"
	case "attestation", "attestation-only-in-a", "attestation-only-in-b":
		return "provenance or SBOM attached by the builder (docker buildx --provenance=false leaves it out)"
	case "xattr":
		return "file capabilities or SELinux labels of the building machine"
	case "whiteout-form":
		return "another layer differ: AUFS names or overlayfs devices"
	case "renamed":
		return "a file was moved, or a build names its outputs by another scheme"
	case "squash":
		return "layers merged into one (squash, an option of buildah and docker build)"
	case "variant":
		return "the processor's variant is written down on one side alone; containerd normalises arm64/v8"
	case "name-form":
		return "names with or without a leading ./"
	}
	return ""
}

// diffSide is one side with what was verified of it.
type diffSide struct {
	DiffSide
	v      *verifier
	root   *root        // nil for a docker archive
	docker *dockerImage // nil otherwise
}

// side verifies a source and picks the image.
func (x *differ) side(src *Source, name string) (*diffSide, error) {
	v := newVerifier(src, x.opts.Options)
	v.keepRaw = true
	if err := v.verify(x.ctx); err != nil {
		return nil, fmt.Errorf("verify %s: %w", src.name, err)
	}
	r := v.report()
	if list := r.AllProblems(); len(list) > 0 {
		p := list[0]
		return nil, fmt.Errorf("%s does not verify, so its causes are its problems: %s at %s: found %s, expected %s (%d problems)", src.name, p.Code, p.Place, p.Found, p.Expected, len(list))
	}
	var found []*diffSide
	var names []string
	add := func(s *diffSide, tags ...string) {
		names = append(names, strings.TrimSpace(clip(s.Name)+" "+s.Digest.String()))
		if name == "" || name == s.Digest.String() || slices.Contains(append(tags, s.Name), name) {
			found = append(found, s)
		}
	}
	for _, f := range v.families() {
		if root := f.root; root.node != nil && root.node.doc != nil {
			add(&diffSide{DiffSide: DiffSide{src.name, root.name, root.node.digest}, v: v, root: root})
		}
	}
	for _, d := range v.docker {
		if !d.hybrid {
			i := d.image(src.name)
			add(&diffSide{DiffSide: DiffSide{Source: src.name, Name: i.Name}, v: v, docker: d}, append(d.tags, d.configDigest.String())...)
		}
	}
	// Two tags of one image are one image.
	slices.SortStableFunc(found, func(a, b *diffSide) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	found = slices.CompactFunc(found, func(a, b *diffSide) bool { return !a.Digest.IsZero() && a.Digest == b.Digest })
	if name == "" && len(found) > 1 {
		runs := slices.DeleteFunc(slices.Clone(found), func(s *diffSide) bool { return s.docker == nil && len(s.root.node.images(nil)) == 0 })
		if len(runs) == 1 {
			found = runs
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("%s has no image %q; it has %s", src.name, name, strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("%s has %d images, name one of %s", src.name, len(names), strings.Join(names, ", "))
}

// diffImage is one image manifest, or an entry of a docker archive.
type diffImage struct {
	manifest     []byte // nil in a docker archive
	config       []byte
	configDigest digest.Digest
	digest       digest.Digest
	platform     string
	layers       []diffLayer
}

// diffLayer is one layer.
type diffLayer struct {
	digest  digest.Digest // of the blob as stored
	diffID  digest.Digest
	size    int64
	packing packing
	closed  string // why nobody can look into it, "" if one can
	open    func(context.Context) (io.ReadCloser, error)
}

func (s *diffSide) imageOf(n *node) *diffImage {
	i := &diffImage{manifest: n.raw, configDigest: n.configDigest, digest: n.digest}
	if n.config != nil {
		i.config, i.platform = n.config.raw, n.config.platform.String()
	}
	for k, l := range n.doc.layers {
		d := diffLayer{digest: l.digest, size: l.size}
		if _, _, known := layerType(l.mediaType); !known {
			d.closed = unopened(l.mediaType)
		} else if n.blobs[k] == nil || n.blobs[k].facts == nil {
			d.closed = "the layer was not read"
		}
		if n.config != nil && k < len(n.config.diffIDs) {
			d.diffID = n.config.diffIDs[k]
		}
		if j := n.blobs[k]; j != nil && j.facts != nil {
			d.packing = j.facts.packing
			d.open = func(ctx context.Context) (io.ReadCloser, error) { return s.v.blobs.open(ctx, j.entry, l) }
		}
		i.layers = append(i.layers, d)
	}
	return i
}

func (s *diffSide) dockerImage() *diffImage {
	i := &diffImage{configDigest: s.docker.configDigest, config: s.docker.config.raw, platform: s.docker.config.platform.String()}
	for k, j := range s.docker.layers {
		i.layers = append(i.layers, diffLayer{
			digest: j.facts.digests[digest.SHA256], diffID: s.docker.config.diffIDs[k], size: j.facts.size, packing: j.facts.packing,
			open: func(ctx context.Context) (io.ReadCloser, error) { return s.v.src.files.open(ctx, j.entry) },
		})
	}
	return i
}

// blobText names a layer that cannot be opened.
func (l diffLayer) blobText() string {
	return "blob " + l.digest.String() + ", claimed " + l.diffID.String()
}

// plain opens the uncompressed content of a layer.
func (l diffLayer) plain(ctx context.Context, limits Limits) (io.ReadCloser, error) {
	if l.open == nil {
		return nil, errors.New("the layer's blob is not here")
	}
	r, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	return unpackedReader(ctx, r, l.packing, limits)
}

// compare decides what is compared with what.
func (x *differ) compare() error {
	a, b := x.a, x.b
	switch {
	case a.docker != nil && b.docker != nil:
		return x.images(nil, a.dockerImage(), b.dockerImage())
	case a.docker != nil:
		n, err := b.only(a.docker.config.platform.String())
		if err != nil {
			return err
		}
		x.notes = append(x.notes, "a is a docker archive, which holds no manifest: config and diffIDs are compared, the packaging of a is unknown")
		return x.images(nil, a.dockerImage(), b.imageOf(n))
	case b.docker != nil:
		n, err := a.only(b.docker.config.platform.String())
		if err != nil {
			return err
		}
		x.notes = append(x.notes, "b is a docker archive, which holds no manifest: config and diffIDs are compared, the packaging of b is unknown")
		return x.images(nil, a.imageOf(n), b.dockerImage())
	}
	return x.nodes(nil, a.root.node, b.root.node)
}

// only returns the image of a platform below a side's root.
func (s *diffSide) only(platform string) (*node, error) {
	var found []*node
	for _, n := range s.root.node.images(nil) {
		if platform == "" || n.config != nil && n.config.platform.String() == platform {
			found = append(found, n)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%s has %d images for platform %q, want one", s.Source, len(found), platform)
	}
	return found[0], nil
}

// descriptorText is a layer as the manifest names it.
func (i *diffImage) descriptorText(layer int) string {
	if i.manifest == nil {
		return ""
	}
	return "descriptor " + element(i.manifest, "layers", layer)
}

// orderText lists the layers in their order.
func orderText(list []diffLayer) string {
	var out []string
	for _, l := range list {
		out = append(out, l.diffID.String())
	}
	return proof.Clip(strings.Join(out, ", "))
}

// nodes compares two manifests or indexes.
func (x *differ) nodes(path []string, a, b *node) error {
	switch {
	case a.doc.index && b.doc.index:
		return x.indexes(path, a, b)
	case !a.doc.index && !b.doc.index:
		if a.artifact != "" && b.artifact != "" {
			x.artifacts(path, a, b)
			return nil
		}
		if a.artifact != "" || b.artifact != "" {
			x.same = false
			x.add(append(path, "artifact"), leaf{kind: "artifact", a: a.digest.String(), b: b.digest.String(), note: "one side is no image: they are compared by digest alone"})
			x.settle(append(path, "artifact"), false)
			return nil
		}
		return x.images(path, x.a.imageOf(a), x.b.imageOf(b))
	}
	// An index on one side, a manifest on the other: people compare the
	// digest of the list with that of one platform.
	index, single, kindA, kindB := a, b, "index "+a.digest.String(), "manifest "+b.digest.String()
	if b.doc.index {
		index, single, kindA, kindB = b, a, "manifest "+a.digest.String(), "index "+b.digest.String()
	}
	object := append(slices.Clone(path), "index")
	l := leaf{kind: "index-or-manifest", a: kindA, b: kindB}
	var member *node
	found := false
	for _, n := range index.images(nil) {
		if found = n.digest == single.digest; found {
			member = n
			l.note = "the manifest is a member of the index: the image is the same"
			break
		}
		if n.config != nil && single.config != nil && n.config.platform == single.config.platform {
			member = n
		}
	}
	proved := member != nil
	if others := len(index.doc.manifests) - 1; others > 0 {
		// Of A's members only this one can be made again of B.
		l.note = strings.TrimPrefix(fmt.Sprintf("%s; %d more members of the index are not compared", l.note, others), "; ")
		proved = proved && index == b
		if slices.ContainsFunc(index.images(nil), func(n *node) bool { return n != member }) {
			x.same = false
		}
	}
	x.add(object, l)
	x.settle(object, proved)
	if found {
		return nil
	}
	if member == nil {
		x.same = false
		return nil
	}
	if b.doc.index {
		return x.images(path, x.a.imageOf(a), x.b.imageOf(member))
	}
	return x.images(path, x.a.imageOf(member), x.b.imageOf(b))
}

// images compares two image manifests with all below them.
func (x *differ) images(path []string, a, b *diffImage) error {
	in := func(name string) []string { return append(slices.Clone(path), name) }
	pairs, err := x.pairLayers(a.layers, b.layers)
	if err != nil {
		return err
	}
	pairs, squashed, err := x.squash(in, a, b, pairs)
	if err != nil {
		return err
	}
	ordered := pairs.ordered()
	for _, p := range pairs.list {
		switch {
		case squashed[p]:
		case p.B < 0:
			x.same = false
			x.add(in(fmt.Sprintf("layer %d", p.A)), leaf{kind: "layer-only-in-a", a: a.layers[p.A].diffID.String(), note: a.descriptorText(p.A)})
			x.settle(in(fmt.Sprintf("layer %d", p.A)), true)
		case p.A < 0:
			x.same = false
			x.add(in(fmt.Sprintf("layer %d of b", p.B)), leaf{kind: "layer-only-in-b", b: b.layers[p.B].diffID.String(), note: b.descriptorText(p.B)})
			x.settle(in(fmt.Sprintf("layer %d of b", p.B)), true)
		default:
			la, lb := a.layers[p.A], b.layers[p.B]
			if la.diffID != lb.diffID {
				x.same = false
			}
			if la.digest == lb.digest && !la.digest.IsZero() {
				if la.diffID != lb.diffID {
					// Only where nobody has read the blob can the claims about
					// its content differ.
					object := in(fmt.Sprintf("layer %d", p.A))
					x.add(object, leaf{kind: "content", a: "claimed " + la.diffID.String(), b: "claimed " + lb.diffID.String(), note: "the layer was not read"})
					x.settle(object, false)
				}
				continue
			}
			if closed := cmp.Or(la.closed, lb.closed); closed != "" {
				x.same = false
				object := in(fmt.Sprintf("layer %d", p.A))
				x.add(object, leaf{kind: "content", a: la.blobText(), b: lb.blobText(), note: "compared by digest alone: " + closed})
				x.settle(object, false)
				continue
			}
			if err := x.layer(in(fmt.Sprintf("layer %d", p.A)), la, lb, a.manifest != nil && b.manifest != nil); err != nil {
				return fmt.Errorf("layer %d: %w", p.A, err)
			}
		}
	}
	if !ordered {
		x.same = false
		object := in("config") // of a docker archive nothing else holds the order
		if a.manifest != nil && b.manifest != nil {
			object = in("manifest")
		}
		x.add(object, leaf{kind: "layer-order", a: orderText(a.layers), b: orderText(b.layers), note: "the same layers in another order"})
	}
	if a.configDigest != b.configDigest {
		if x.config(in("config"), a, b, pairs) {
			x.same = false
		}
	}
	if a.manifest != nil && b.manifest != nil && a.digest != b.digest {
		x.manifest(in("manifest"), a, b, pairs)
	}
	return nil
}
