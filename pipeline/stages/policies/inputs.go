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
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/policygen"
	"github.com/retally/retally/policygen/rules"
)

// Set is a description of policies, resolved: what the generator is given but
// for the workloads and their images.
type Set struct {
	Input   policygen.Input
	Base    policygen.NamedFile   // the settings
	DropIns []policygen.NamedFile // and what they are changed by
	// Inputs are what every policy comes from.
	Inputs []pipeline.InputRef
}

// Resolve reads what a description of policies names. It is the one place that
// knows what its words mean, whichever door they came by.
func Resolve(ctx context.Context, in *run.In, c *config.Policies) (*Set, error) {
	s := new(Set)
	profile, err := policygen.ProfileByName(c.Profile)
	if err != nil {
		return nil, err
	}
	s.Input.Profile = profile
	if s.Input.Rules, err = Rules(ctx, in, c); err != nil {
		return nil, err
	}
	s.from(c.RulesName())
	if err := s.settings(ctx, in, c.Settings); err != nil {
		return nil, err
	}
	for _, name := range c.ConfigFiles {
		data, err := in.ReadFile(ctx, name, config.YAMLLimit)
		if err != nil {
			return nil, err
		}
		s.Input.ConfigFiles = append(s.Input.ConfigFiles, policygen.NamedFile{Name: config.Shown(name), Data: data})
		s.from(name)
	}
	if c.Initdata != "" {
		data, err := in.ReadFile(ctx, c.Initdata, config.FirmwareLimit)
		if err != nil {
			return nil, err
		}
		if s.Input.Base, err = policygen.ParseInitdata(config.Shown(c.Initdata), data, profile.Initdata); err != nil {
			return nil, err
		}
		s.from(c.Initdata)
	}
	switch {
	case c.IgnoreUnknown:
		s.Input.Unknown = policygen.IgnoreUnknown
	case c.Lenient:
		s.Input.Unknown = policygen.AcceptHarmless
	}
	return s, nil
}

// Rules reads the rules of a description: a file's, or retally's own.
func Rules(ctx context.Context, in *run.In, c *config.Policies) (policygen.Rules, error) {
	text, err := in.ReadFile(ctx, c.RulesName(), config.JSONLimit)
	if err != nil || c.Rules != "" {
		return policygen.Rules{Name: config.Shown(c.RulesName()), Text: text}, err
	}
	return rules.Default(rules.Binding(c.ImageBinding))
}

func (s *Set) from(name string) {
	s.Inputs = append(s.Inputs, pipeline.FromFile(filepath.ToSlash(config.Shown(name))))
}

// settings reads the settings file, or the folder with its drop-ins.
func (s *Set) settings(ctx context.Context, in *run.In, name string) error {
	info, err := os.Stat(in.Path(name))
	if folder := err == nil && info.IsDir(); folder {
		err = s.settingsFolder(ctx, in, name)
	} else {
		s.Base.Name = config.Shown(name)
		s.Base.Data, err = in.ReadFile(ctx, name, config.JSONLimit)
	}
	if err != nil {
		return err
	}
	s.from(name)
	s.Input.Settings, err = policygen.ParseSettings(s.Base, s.DropIns, s.Input.Profile)
	return err
}

// settingsFolder records the folder as a whole, so that another drop-in is
// another input. Its identity is a hash over the names and digests of what is
// read of it.
func (s *Set) settingsFolder(ctx context.Context, in *run.In, name string) error {
	err := in.ReadTree(name, func(dir string) (digest.Digest, int64, error) {
		base, dropIns, err := policygen.SettingsFiles(os.DirFS(dir))
		if err != nil {
			return digest.Digest{}, 0, pipeline.NewInputError("read", name, err)
		}
		h, n := sha256.New(), int64(0)
		for _, f := range append([]policygen.NamedFile{base}, dropIns...) {
			fmt.Fprintf(h, "%q %s\n", f.Name, digest.SHA256.Sum(f.Data))
			n += int64(len(f.Data))
		}
		s.Base, s.DropIns = base, dropIns
		id, err := digest.FromBytes(digest.SHA256, h.Sum(nil))
		return id, n, err
	})
	if err != nil {
		return err
	}
	s.Base.Name = path.Join(filepath.ToSlash(name), s.Base.Name)
	for i := range s.DropIns {
		f := &s.DropIns[i]
		f.Name = path.Join(filepath.ToSlash(name), f.Name)
		// The folder's stamp is that of its links; what they lead to has its own.
		if info, err := os.Lstat(in.Path(f.Name)); err == nil && info.Mode()&os.ModeSymlink != 0 {
			if f.Data, err = in.ReadFile(ctx, f.Name, config.JSONLimit); err != nil {
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
