package policies

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sync"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/policygen"
)

// settings reads the settings file, or the folder with its drop-ins.
func (r *policyRun) settings(ctx context.Context) error {
	name := r.conf.Settings
	info, err := os.Stat(r.in.Path(name))
	if err != nil {
		return pipeline.NewInputError("read", name, err)
	}
	r.inputs = append(r.inputs, pipeline.FromFile(filepath.ToSlash(name)))
	if !info.IsDir() {
		data, err := r.in.ReadFile(ctx, name, config.JSONLimit)
		if err != nil {
			return err
		}
		r.base = policygen.NamedFile{Name: name, Data: data}
	} else if err := r.settingsFolder(ctx, name); err != nil {
		return err
	}
	r.input.Settings, err = policygen.ParseSettings(r.base, r.dropIns, r.profile)
	return err
}

// settingsFolder records the folder as a whole, so that another drop-in is
// another input. Its identity is a hash over the names and digests of what is
// read of it.
func (r *policyRun) settingsFolder(ctx context.Context, name string) error {
	err := r.in.ReadTree(name, func(dir string) (digest.Digest, int64, error) {
		base, dropIns, err := policygen.SettingsFiles(os.DirFS(dir))
		if err != nil {
			return digest.Digest{}, 0, pipeline.NewInputError("read", name, err)
		}
		h, n := sha256.New(), int64(0)
		for _, f := range append([]policygen.NamedFile{base}, dropIns...) {
			fmt.Fprintf(h, "%q %s\n", f.Name, digest.SHA256.Sum(f.Data))
			n += int64(len(f.Data))
		}
		r.base, r.dropIns = base, dropIns
		id, err := digest.FromBytes(digest.SHA256, h.Sum(nil))
		return id, n, err
	})
	if err != nil {
		return err
	}
	r.base.Name = path.Join(filepath.ToSlash(name), r.base.Name)
	for i := range r.dropIns {
		f := &r.dropIns[i]
		f.Name = path.Join(filepath.ToSlash(name), f.Name)
		// The folder's stamp is that of its links; what they lead to has its own.
		if info, err := os.Lstat(r.in.Path(f.Name)); err == nil && info.Mode()&os.ModeSymlink != 0 {
			if f.Data, err = r.in.ReadFile(ctx, f.Name, config.JSONLimit); err != nil {
				return err
			}
		}
	}
	return nil
}

// onceImages asks for every image once, however often policies are computed
// from it.
type onceImages struct {
	under policygen.Images
	mu    sync.Mutex
	kept  map[string]*onceImage
}

type onceImage struct {
	once  sync.Once
	image *policygen.ResolvedImage
	err   error
}

// Resolve implements policygen.Images.
func (o *onceImages) Resolve(ctx context.Context, ref policygen.ImageReference) (*policygen.ResolvedImage, error) {
	o.mu.Lock()
	if o.kept == nil {
		o.kept = map[string]*onceImage{}
	}
	k := o.kept[ref.Text]
	if k == nil {
		k = &onceImage{}
		o.kept[ref.Text] = k
	}
	o.mu.Unlock()
	k.once.Do(func() { k.image, k.err = o.under.Resolve(ctx, ref) })
	return k.image, k.err
}

// layerMemory keeps what the layers of this run hold.
type layerMemory struct {
	mu   sync.Mutex
	kept map[digest.Digest]policygen.LayerFiles
}

// Get implements policygen.LayerCache.
func (l *layerMemory) Get(layer digest.Digest) (policygen.LayerFiles, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.kept[layer]
	return f, ok
}

// Put implements policygen.LayerCache.
func (l *layerMemory) Put(layer digest.Digest, files policygen.LayerFiles) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kept == nil {
		l.kept = map[digest.Digest]policygen.LayerFiles{}
	}
	l.kept[layer] = files
}

// publishedText is a policy whose digest may be a published hash.
type publishedText struct {
	where pipeline.Where
	name  string // what to call it
	text  []byte
}

// The bounds of a folder of published policies.
const (
	textsAtMost     = 2000
	textBytesAtMost = 64 << 20
)

// publishedTexts reads the vendor's own policies, by digest: those that the
// configuration names, and those that the deployment carries as annotations.
func (r *policyRun) publishedTexts(ctx context.Context) (map[string]publishedText, error) {
	texts := map[string]publishedText{}
	add := func(t publishedText) { texts[digest.SHA256.Sum(t.text).Hex()] = t }
	for i := range r.d.Workloads {
		w := &r.d.Workloads[i]
		if a := w.Annotations[initdataAnnotation]; a != "" {
			if text, err := policygen.DecodeAnnotation(a); err == nil {
				add(publishedText{where: pipeline.Where{File: r.d.File, Line: w.Line}, name: "the annotation of " + w.ID(), text: text})
			}
		}
	}
	name := r.conf.Published
	if name == "" {
		return texts, nil
	}
	files, err := r.publishedFiles(name)
	if err != nil {
		return nil, err
	}
	total := 0
	for _, f := range files {
		data, err := r.in.ReadFile(ctx, f, config.YAMLLimit)
		if err != nil {
			return nil, err
		}
		if total += len(data); total > textBytesAtMost {
			return nil, &pipeline.InputError{Op: "read", File: name, Err: fmt.Errorf("holds more than %d bytes of policies", textBytesAtMost)}
		}
		for _, t := range textsOf(f, data) {
			add(t)
		}
	}
	return texts, nil
}

// initdataAnnotation is where a pod carries its initdata document.
const initdataAnnotation = "io.katacontainers.config.hypervisor.cc_init_data"

// publishedFiles lists the files of a folder, not those in folders below.
func (r *policyRun) publishedFiles(name string) ([]string, error) {
	info, err := os.Stat(r.in.Path(name))
	if err != nil {
		return nil, pipeline.NewInputError("read", name, err)
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	entries, err := os.ReadDir(r.in.Path(name))
	if err != nil {
		return nil, pipeline.NewInputError("list", name, err)
	}
	var files []string
	h := sha256.New()
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		if files = append(files, path.Join(filepath.ToSlash(name), e.Name())); len(files) > textsAtMost {
			return nil, &pipeline.InputError{Op: "list", File: name, Err: fmt.Errorf("holds more than %d files", textsAtMost)}
		}
		fmt.Fprintf(h, "%q\n", e.Name())
	}
	// The folder is an input, so that one more file in it is another input.
	err = r.in.ReadTree(name, func(string) (digest.Digest, int64, error) {
		id, err := digest.FromBytes(digest.SHA256, h.Sum(nil))
		return id, 0, err
	})
	return files, err
}
