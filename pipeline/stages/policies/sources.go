package policies

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/internal/cache"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/policygen"
)

// policyPlatform is the member of an index that policies are made for.
const policyPlatform = "linux/amd64"

// Sources says where the images of policies are looked for: first
// under Named, then in Folders, then, with Pull, at their registries.
type Sources struct {
	// Named are the `images` of retally.yaml, by the last part of the
	// repository. Relative names are resolved by Path.
	Named map[string]config.Image
	// Folders are OCI layouts, archives, or folders of such. Of a reference
	// without digest the name is held against the annotations and against the
	// name of the folder or file.
	Folders []string
	// Path, if not nil, turns a name into one that can be opened.
	Path func(name string) string
	// Built gives where the bytes of a named image are that was built here, ""
	// where it was not.
	Built func(name string) string
	// Pull asks registries for what is not found.
	Pull bool
	// Remote says how. Tags are always accepted: whether an image must be
	// pinned is a matter of the rules.
	Remote imagehash.Remote
	// Progress, if not nil, counts the bytes of layers.
	Progress *run.Progress
}

// UsedImage says where an image was found.
type UsedImage struct {
	Reference string        `json:"reference"`
	Source    string        `json:"source"`
	Root      digest.Digest `json:"digest"`   // of the index or manifest that was asked for
	Manifest  digest.Digest `json:"manifest"` // of the platform's manifest
}

// Images finds the images of policies. It implements policygen.Images:
// manifests and configs are verified against their digests, layers are handed
// out unread. It is safe for concurrent use.
type Images struct {
	from Sources
	opts imagehash.Options

	local  sync.Once
	places []*imagePlace // of Folders, opened at the first use
	err    error

	mu      sync.Mutex
	named   map[string]*imagePlace
	open    []*imagehash.Source
	used    []UsedImage
	silent  map[string]error // registries that do not answer
	configs map[digest.Digest]*keptConfig
	kept    int
}

// imagePlace is an opened layout or archive.
type imagePlace struct {
	name, base string // as given; the last part without suffix
	source     *imagehash.Source
	entries    []imagehash.Entry
	err        error // it is one, but cannot be read
}

type keptConfig struct {
	once sync.Once
	data []byte
	err  error
}

// NewImages returns a finder. Nothing is opened before the first image is
// asked for; Close releases what was.
func NewImages(from Sources) *Images {
	if from.Path == nil {
		from.Path = func(name string) string { return name }
	}
	from.Remote.Tags = true
	return &Images{
		from: from, opts: imagehash.Options{Remote: from.Remote},
		named: map[string]*imagePlace{}, silent: map[string]error{}, configs: map[digest.Digest]*keptConfig{},
	}
}

// Close releases all sources.
func (p *Images) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, s := range p.open {
		errs = append(errs, s.Close())
	}
	p.open = nil
	return errors.Join(errs...)
}

// Used lists the images found so far, sorted by reference.
func (p *Images) Used() []UsedImage {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := slices.Clone(p.used)
	slices.SortFunc(out, func(a, b UsedImage) int { return cmp.Compare(a.Reference, b.Reference) })
	return out
}

// Resolve implements policygen.Images.
func (p *Images) Resolve(ctx context.Context, ref policygen.ImageReference) (*policygen.ResolvedImage, error) {
	source, want, looked, err := p.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	if source == nil {
		if !p.from.Pull {
			return nil, notFound(ref, looked)
		}
		if source, err = p.pull(ctx, ref); err != nil {
			return nil, err
		}
	}
	sel, err := source.Select(ctx, imagehash.SelectOptions{Options: p.opts, Digest: want, Platform: policyPlatform, Config: p.config})
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.used = append(p.used, UsedImage{Reference: ref.Text, Source: source.Name(), Root: sel.Root, Manifest: sel.Digest})
	p.mu.Unlock()
	out := &policygen.ResolvedImage{Digest: sel.Digest, Config: sel.Config}
	for _, l := range sel.Layers {
		out.Layers = append(out.Layers, policygen.Layer{Digest: l.Digest, MediaType: l.MediaType, Size: l.Size, Open: func(ctx context.Context) (io.ReadCloser, error) {
			r, err := source.OpenLayer(ctx, l)
			if err != nil || p.from.Progress == nil {
				return r, err
			}
			p.from.Progress.Total.Add(l.Size)
			return &countedLayer{r, p.from.Progress}, nil
		}})
	}
	return out, nil
}

type countedLayer struct {
	io.ReadCloser
	progress *run.Progress
}

func (c *countedLayer) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.progress.Done.Add(int64(n))
	return n, err
}

// pull opens an image at its registry. One that does not answer is not asked
// again for every other image: the whole must end within its time-out.
func (p *Images) pull(ctx context.Context, ref policygen.ImageReference) (*imagehash.Source, error) {
	p.mu.Lock()
	err := p.silent[ref.Registry]
	p.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("not asked for, since before: %w", err)
	}
	source, err := p.keep(imagehash.Open(ctx, registryReference(ref), p.opts))
	var network *url.Error
	if errors.As(err, &network) && ctx.Err() == nil {
		p.mu.Lock()
		p.silent[ref.Registry] = err
		p.mu.Unlock()
	}
	return source, err
}

// registryReference is what a registry is asked for: with a digest the tag
// counts for nothing.
func registryReference(ref policygen.ImageReference) string {
	name := ref.Registry + "/" + ref.Repository
	if ref.Pinned() {
		return name + "@" + ref.Digest.String()
	}
	return name + ":" + ref.Tag
}

// Configs up to this size are kept, up to that many bytes together, for images
// of other names with the same config.
const (
	keptConfigBytes  = 1 << 20
	keptConfigsBytes = 32 << 20
)

// config reads every config once.
func (p *Images) config(d digest.Digest, read func() ([]byte, error)) ([]byte, error) {
	p.mu.Lock()
	k := p.configs[d]
	if k == nil {
		k = &keptConfig{}
		p.configs[d] = k
	}
	p.mu.Unlock()
	first := false
	var data []byte
	k.once.Do(func() {
		first = true
		data, k.err = read()
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(data) <= keptConfigBytes && p.kept+len(data) <= keptConfigsBytes {
			k.data = data
			p.kept += len(data)
		}
	})
	switch {
	case k.err == nil && first:
		return data, nil
	case k.err == nil && k.data != nil:
		return k.data, nil
	}
	// Another image's failure is no reason for this one's: it may come from
	// elsewhere.
	return read()
}

// find looks among the named sources and the folders. Without an error and
// without a source the image is not there; looked says where it is not.
func (p *Images) find(ctx context.Context, ref policygen.ImageReference) (source *imagehash.Source, want digest.Digest, looked []string, err error) {
	last := path.Base(ref.Repository)
	if c, ok := p.from.Named[last]; ok {
		place, err := p.openNamed(ctx, last, c)
		if err != nil {
			return nil, want, nil, err
		}
		d, ok, err := place.holds(ctx, ref, p.opts, true)
		if err != nil || ok {
			return place.source, d, nil, err
		}
		looked = append(looked, place.describe())
	}
	if len(p.from.Folders) == 0 {
		return nil, want, looked, nil
	}
	p.local.Do(func() { p.err = p.openFolders(ctx) })
	if p.err != nil {
		return nil, want, nil, p.err
	}
	var hits []*imagePlace
	var digests []digest.Digest
	for _, place := range p.places {
		d, ok, err := place.holds(ctx, ref, p.opts, false)
		if err != nil {
			return nil, want, nil, err
		}
		if !ok {
			looked = append(looked, place.describe())
			continue
		}
		if !slices.Contains(digests, d) {
			hits, digests = append(hits, place), append(digests, d)
		}
	}
	switch {
	case len(hits) == 0:
		if len(p.places) == 0 {
			looked = append(looked, strings.Join(p.from.Folders, ", ")+" (no OCI layout or archive in it)")
		}
		return nil, want, looked, nil
	case len(hits) > 1:
		var list []string
		for i, h := range hits {
			list = append(list, fmt.Sprintf("%s (%s)", h.name, digests[i]))
		}
		return nil, want, nil, fmt.Errorf("ambiguous: it may be %s; pin the digest, or take one of them away", strings.Join(list, " or "))
	}
	return hits[0].source, digests[0], nil, nil
}

func notFound(ref policygen.ImageReference, looked []string) error {
	what := fmt.Sprintf("no image %s/%s:%s", ref.Registry, ref.Repository, ref.Tag)
	how := "copy it there (skopeo copy --all docker://" + registryReference(ref) + " oci:DIR/" + path.Base(ref.Repository) + "), or let it be pulled"
	if ref.Pinned() {
		what = "no image with digest " + ref.Digest.String()
	}
	const most = 20
	if len(looked) == 0 {
		return fmt.Errorf("%s: no place to look for it was given; %s", what, how)
	}
	if n := len(looked); n > most {
		looked = append(looked[:most:most], fmt.Sprintf("%d more", n-most))
	}
	return fmt.Errorf("%s: looked at %s; %s", what, strings.Join(looked, ", "), how)
}

// holds finds the entry that a reference means. named says that the place was
// named for this repository, so that names need not fit where there is one
// image only.
func (l *imagePlace) holds(ctx context.Context, ref policygen.ImageReference, opts imagehash.Options, named bool) (digest.Digest, bool, error) {
	if l.err != nil {
		if named || l.base == path.Base(ref.Repository) {
			return digest.Digest{}, false, l.err
		}
		return digest.Digest{}, false, nil // another image's, by its name
	}
	if ref.Pinned() {
		for _, e := range l.entries {
			if e.Digest == ref.Digest {
				return ref.Digest, true, nil
			}
		}
		ok, err := l.source.Holds(ctx, ref.Digest, opts)
		return ref.Digest, ok, err
	}
	best, found := 0, []digest.Digest(nil)
	for _, e := range l.entries {
		fits := l.fits(e, ref, named)
		if fits > best {
			best, found = fits, nil
		}
		if fits > 0 && fits == best && !slices.Contains(found, e.Digest) {
			found = append(found, e.Digest)
		}
	}
	switch len(found) {
	case 0:
		return digest.Digest{}, false, nil
	case 1:
		return found[0], true, nil
	}
	return digest.Digest{}, false, fmt.Errorf("ambiguous: %s has %d images of that name; pin the digest", l.name, len(found))
}

// fits says how well an entry's names fit: 3 a whole reference, 2 folder and
// tag, 1 the folder alone where the image has no tag, 0 not at all.
func (l *imagePlace) fits(e imagehash.Entry, ref policygen.ImageReference, named bool) int {
	whole := false
	for _, name := range []string{e.FullName, e.Name} {
		if !strings.ContainsAny(name, "/:@") {
			continue
		}
		whole = true
		if r, err := policygen.ParseImageReference(name); err == nil && r.Registry == ref.Registry && r.Repository == ref.Repository && r.Tag == ref.Tag {
			return 3
		}
	}
	folder := named || l.base == path.Base(ref.Repository)
	switch {
	case folder && !whole && e.Name == ref.Tag:
		return 2
	case folder && len(l.entries) == 1 && (named || !whole && e.Name == ""):
		return 1
	}
	return 0
}

// describe names the place and what it holds.
func (l *imagePlace) describe() string {
	if l.err != nil {
		return l.name + " (unreadable: " + l.err.Error() + ")"
	}
	var list []string
	for i, e := range l.entries {
		if i == 3 {
			list = append(list, fmt.Sprintf("%d more", len(l.entries)-i))
			break
		}
		s := e.Digest.String()
		if n := cmp.Or(e.FullName, e.Name); n != "" {
			s = n + " " + s
		}
		list = append(list, s)
	}
	if len(list) == 0 {
		list = append(list, "no image")
	}
	return l.name + " (" + strings.Join(list, ", ") + ")"
}

func (p *Images) keep(s *imagehash.Source, err error) (*imagehash.Source, error) {
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = append(p.open, s)
	return s, nil
}

func (p *Images) place(ctx context.Context, name, ref string) *imagePlace {
	l := &imagePlace{name: name, base: filepath.Base(ref)}
	for _, suffix := range archiveSuffixes {
		l.base = strings.TrimSuffix(l.base, suffix)
	}
	if l.source, l.err = p.keep(imagehash.Open(ctx, ref, p.opts)); l.err == nil {
		l.entries, l.err = l.source.Entries(ctx, p.opts)
	}
	return l
}

func (p *Images) openNamed(ctx context.Context, name string, c config.Image) (*imagePlace, error) {
	p.mu.Lock()
	place := p.named[name]
	p.mu.Unlock()
	if place != nil {
		return place, nil
	}
	source, err := c.Source()
	if err != nil {
		return nil, err
	}
	ref := source
	switch {
	case c.Nix != "":
		if ref = p.from.Built(name); ref == "" {
			return nil, fmt.Errorf("%s was not built", source)
		}
	case c.Registry == "":
		ref = p.from.Path(source)
	}
	// Two goroutines may come here for one name; both sources are right, and
	// both are closed in the end.
	place = p.place(ctx, source, ref)
	if c.Image != "" {
		place.entries = slices.DeleteFunc(place.entries, func(e imagehash.Entry) bool {
			return c.Image != e.Name && c.Image != e.FullName && c.Image != e.Digest.String()
		})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.named[name] = place
	return place, nil
}

// archiveSuffixes are the names that archives in a folder are known by.
var archiveSuffixes = []string{".tar.gz", ".tar.zst", ".tgz", ".tar", ".oci"}

// placesAtMost bounds the folder of images.
const placesAtMost = 10_000

// openFolders opens every layout and archive of the folders. What is no image
// is passed over.
func (p *Images) openFolders(ctx context.Context) error {
	for _, dir := range p.from.Folders {
		names, err := imagePlaces(p.from.Path(dir))
		if err != nil {
			return err
		}
		for _, name := range names {
			shown := dir
			if name != "" {
				shown = path.Join(filepath.ToSlash(dir), name)
			}
			place := p.place(ctx, shown, filepath.Join(p.from.Path(dir), filepath.FromSlash(name)))
			if err := ctx.Err(); err != nil {
				return err
			}
			if name == "" || !errors.Is(place.err, imagehash.ErrNotImage) {
				p.places = append(p.places, place)
			}
		}
	}
	return nil
}

// imagePlaces lists the layouts and archives in a folder, or "" if it is one
// itself.
func imagePlaces(dir string) ([]string, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, pipeline.NewInputError("look for images in", dir, err)
	}
	isLayout := func(dir string) bool {
		info, err := os.Stat(filepath.Join(dir, "index.json"))
		return err == nil && info.Mode().IsRegular()
	}
	if !info.IsDir() || isLayout(dir) {
		return []string{""}, nil
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, pipeline.NewInputError("look for images in", dir, err)
	}
	var out []string
	for _, e := range list {
		info, err := os.Stat(filepath.Join(dir, e.Name())) // links to layouts (result of a build) count
		switch {
		case err != nil:
			continue
		case info.IsDir() && isLayout(filepath.Join(dir, e.Name())):
		case info.Mode().IsRegular() && slices.ContainsFunc(archiveSuffixes, func(s string) bool { return strings.HasSuffix(e.Name(), s) }):
		default:
			continue
		}
		if out = append(out, e.Name()); len(out) > placesAtMost {
			return nil, &pipeline.InputError{Op: "look for images in", File: dir, Err: fmt.Errorf("more than %d layouts and archives", placesAtMost)}
		}
	}
	return out, nil
}

// policyLayers keeps what layers hold between runs.
type policyLayers struct{ store *cache.Store }

// NewLayerCache returns a policygen.LayerCache over a cache folder; without a
// store it is nil.
func NewLayerCache(store *cache.Store) policygen.LayerCache {
	if store == nil {
		return nil
	}
	return policyLayers{store}
}

// layerKey has the version of what is extracted: raise it with policygen's scan.
func layerKey(d digest.Digest) string { return "policy layer 1 " + d.String() }

// Get implements policygen.LayerCache. The store drops damaged entries.
func (c policyLayers) Get(layer digest.Digest) (files policygen.LayerFiles, ok bool) {
	data, ok := c.store.Get(layerKey(layer))
	if !ok || json.Unmarshal(data, &files) != nil {
		return policygen.LayerFiles{}, false
	}
	return files, true
}

// Put implements policygen.LayerCache. A cache that cannot be written is slower
// and not wrong.
func (c policyLayers) Put(layer digest.Digest, files policygen.LayerFiles) {
	if data, err := json.Marshal(files); err == nil {
		_ = c.store.Put(layerKey(layer), data)
	}
}
