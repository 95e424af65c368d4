package recognize

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/privatemode"
)

// configure turns what was found into a configuration.
func (s *Subject) configure(ctx context.Context) error {
	byKind := map[Kind][]string{}
	for _, f := range s.Found {
		byKind[f.Kind] = append(byKind[f.Kind], f.Name)
	}
	if configs := byKind[KindConfig]; len(configs) > 0 {
		if len(s.Found) > 1 || s.Checkout != nil || s.Workspace != nil {
			return &pipeline.InputError{
				Op: "check", File: configs[0], Err: fmt.Errorf("is a configuration, which says by itself what to recount; the other paths would be ignored"),
				Hint: "name the configuration alone, and write the other files into it",
			}
		}
		data, in, err := s.Reader.ReadFile(ctx, configs[0], 1<<20)
		if err != nil {
			return err
		}
		if s.Config, err = run.ParseConfig(s.table, configs[0], data); err != nil {
			return err
		}
		s.ConfigInput = &in
		s.Title = "Recognized: " + configs[0] + ", which says what to recount here"
		return nil
	}
	if c := s.Checkout; c != nil {
		// A checkout's own files win over look-alikes beside them.
		for kind, name := range map[Kind]string{KindDeployment: c.Deployment, KindModels: c.Models} {
			if name != "" {
				byKind[kind] = []string{path.Join(filepath.ToSlash(s.checkoutDir), name)}
			}
		}
	}
	for _, kind := range []Kind{KindDeployment, KindModels, KindHashes} {
		if names := byKind[kind]; len(names) > 1 {
			return &pipeline.InputError{
				Op: "check", File: s.Root, Err: fmt.Errorf("holds %d files that are each a %s: %s", len(names), kind, strings.Join(names[:min(4, len(names))], ", ")),
				Hint: "name the ones that belong together: retally check " + s.Reader.Path(names[0]) + " …",
			}
		}
	}
	first := func(k Kind) string {
		if len(byKind[k]) > 0 {
			return byKind[k][0]
		}
		return ""
	}
	s.Config.Deployment, s.Config.Models, s.Config.Hashes = first(KindDeployment), first(KindModels), first(KindHashes)
	s.Config.StorageClasses = slices.Sorted(slices.Values(byKind[KindStorage]))
	s.Inspect, s.Settings = first(KindInspect), first(KindSettings)
	if err := s.configureEvidence(byKind); err != nil {
		return err
	}
	if err := s.configureEndorsements(byKind[KindEndorsement]); err != nil {
		return err
	}
	if err := s.configureFolders(); err != nil {
		return err
	}
	switch manifests := byKind[KindManifest]; {
	case len(manifests) == 1:
		s.Config.Against = manifests[0]
	case len(manifests) > 1 && (s.Config.Deployment != "" || len(s.Found) == len(manifests)):
		return &pipeline.InputError{
			Op: "check", File: s.Root, Err: fmt.Errorf("holds %d manifests: %s", len(manifests), strings.Join(manifests[:min(4, len(manifests))], ", ")),
			Hint: fmt.Sprintf("compare two with: retally compare %s %s", s.Reader.Path(manifests[0]), s.Reader.Path(manifests[1])),
		}
	}
	if s.Workspace == nil && len(s.Found) == 0 {
		return &pipeline.InputError{Op: "check", File: s.Root, Err: fmt.Errorf("holds nothing that retally knows"), Hint: "give a Privatemode checkout, a deployment YAML, a manifest, hashes-*.json, a proxy workspace or a machine's evidence"}
	}
	s.Title = s.title()
	return nil
}

// configureFolders calls the images and model directories that were found by
// their folders' names.
func (s *Subject) configureFolders() error {
	for _, f := range s.Found {
		if f.Kind == KindModelDir {
			abs, err := filepath.Abs(s.Reader.Path(f.Name))
			if err != nil {
				return err
			}
			if s.Config.Disks == nil {
				s.Config.Disks = map[string]config.Disk{}
			}
			s.Config.Disks[filepath.Base(abs)] = config.Disk{Dir: f.Name, Found: true}
			continue
		}
		if f.Kind != KindImage && f.Kind != KindArchive {
			continue
		}
		if s.Config.Images == nil {
			s.Config.Images = map[string]config.Image{}
		}
		abs, err := filepath.Abs(s.Reader.Path(f.Name))
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(filepath.Base(abs), ".tar")
		if _, dup := s.Config.Images[name]; dup {
			return &pipeline.InputError{Op: "check", File: f.Name, Err: fmt.Errorf("two images are called %s", name), Hint: "check them one by one"}
		}
		if f.Kind == KindImage {
			s.Config.Images[name] = config.Image{OCI: f.Name, Found: true}
		} else {
			s.Config.Images[name] = config.Image{Archive: f.Name, Found: true}
		}
	}
	return nil
}

func (s *Subject) title() string {
	var parts []string
	if s.Checkout != nil {
		parts = append(parts, strings.TrimSpace("Privatemode checkout "+s.Checkout.Version))
	}
	if s.Workspace != nil {
		parts = append(parts, "Privatemode proxy workspace")
	}
	found := slices.Clone(s.Found)
	slices.SortFunc(found, func(a, b Found) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	count := map[Kind]int{}
	for _, f := range found {
		count[f.Kind]++
	}
	many := map[Kind][2]string{KindImage: {"image", "images"}, KindStorage: {"storage class", "storage classes"}}
	for _, kind := range []Kind{KindImage, KindStorage} {
		if n := count[kind]; n > 1 {
			parts = append(parts, show.Plural(n, many[kind][0], many[kind][1]))
		}
	}
	for _, f := range found {
		if _, counted := many[f.Kind]; counted && count[f.Kind] > 1 {
			continue
		}
		if f.Kind != KindConfig && f.Kind != KindReport {
			parts = append(parts, string(f.Kind)+" "+s.called(f.Name))
		}
	}
	return "Recognized: " + strings.Join(parts, ", ")
}

// called is a file's name for people; the folder that all names start from has
// its own.
func (s *Subject) called(name string) string {
	if name != "." {
		return name
	}
	abs, err := filepath.Abs(s.Root)
	if err != nil {
		return name
	}
	return filepath.Base(abs)
}

// Close releases what Look opened.
func (s *Subject) Close() {
	if s.Workspace != nil {
		s.Workspace.Close()
	}
}

// Prepare adds what is known before any stage runs: oddities of a checkout, a
// workspace's log and the manifest it names last, and which references came with
// the evidence.
func (s *Subject) Prepare(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	s.markSenders()
	return nil
}

func (s *Subject) prepare(ctx context.Context) error {
	if s.Checkout != nil {
		s.note(pipeline.LevelNote, "checkout", s.Checkout.Notes)
		if err := s.lookGit(ctx); err != nil {
			return err
		}
		if name := s.releaseName(); name != "" {
			s.Problems = append(s.Problems, pipeline.Problem{
				Level: pipeline.LevelNote, Code: "release", Where: pipeline.Where{File: s.Checkout.ContrastVersionFile}, Msg: s.releaseWhy() + ": " + name + " fits",
				Hint: "the manifest is generated with it; retally init --profile privatemode writes the configuration",
			})
		}
		s.configureGenerated()
	}
	if s.Settings != "" && s.Config.Policies == nil {
		s.Problems = append(s.Problems, pipeline.Problem{
			Level: pipeline.LevelNote, Code: "policy-settings", Where: pipeline.Where{File: s.Settings},
			Msg: "policies can be computed with it; which generator it belongs to, the file does not say", Hint: "retally init writes a configuration with policies: settings, profile",
		})
	}
	if s.Inspect != "" {
		s.Problems = append(s.Problems, pipeline.Problem{
			Level: pipeline.LevelNote, Code: "docker-inspect", Where: pipeline.Where{File: s.Inspect},
			Msg: "holds the digests of a pulled image", Hint: "compare it with: retally proxy-image --inspect FILE --hashes hashes-HOST.json",
		})
	}
	if err := s.prepareEvidence(ctx); err != nil {
		return err
	}
	if s.Workspace == nil {
		return nil
	}
	w := s.Workspace
	s.note(pipeline.LevelError, "proxy-log", w.Faults)
	s.note(pipeline.LevelWarning, "proxy-log", w.Log.Notes)
	for _, f := range w.Unlogged {
		s.Problems = append(s.Problems, pipeline.Problem{Level: pipeline.LevelWarning, Code: "proxy-log", Where: pipeline.Where{File: f}, Msg: "no entry of log.txt names this manifest"})
	}
	latest, ok := w.Log.Latest()
	if !ok {
		s.Problems = append(s.Problems, pipeline.Problem{Level: pipeline.LevelWarning, Code: "proxy-log", Where: pipeline.Where{File: "log.txt"}, Msg: "the log has no entry"})
		return nil
	}
	s.Problems = append(s.Problems, pipeline.Problem{
		Level: pipeline.LevelNote, Code: "proxy-log", Where: pipeline.Where{File: "log.txt", Line: latest.Line},
		Msg: fmt.Sprintf("the latest of %s names %s; an entry says that the manifest was fetched, not that it was verified", show.Plural(len(w.Log.Entries), "entry", "entries"), latest.Path),
	})
	for _, rel := range []string{latest.Path, strings.TrimPrefix(latest.Path, "manifests/")} {
		name := path.Join(s.workspaceDir, rel)
		if info, err := os.Stat(s.Reader.Path(name)); err == nil && info.Mode().IsRegular() {
			made := s.Config.Against
			s.Config.Against = name
			if made == "" || made == name {
				return nil
			}
			return s.lastStep(ctx, made, name)
		}
	}
	s.Problems = append(s.Problems, pipeline.Problem{Level: pipeline.LevelError, Code: "proxy-log", Where: pipeline.Where{File: "log.txt", Line: latest.Line}, Msg: fmt.Sprintf("the latest entry's manifest %s is not there", latest.Path)})
	return ctx.Err()
}

// lastStep holds the manifest that was made here against the one that the proxy
// fetched: the last step of the guide. Keys that each generation makes anew keep
// the bytes apart, so what a difference means is for compare to say; until then
// it is open.
func (s *Subject) lastStep(ctx context.Context, made, fetched string) error {
	s.Made = made
	a, _, err := s.Reader.ReadFile(ctx, made, config.YAMLLimit)
	if err != nil {
		return err
	}
	b, _, err := s.Reader.ReadFile(ctx, fetched, config.YAMLLimit)
	if err != nil {
		return err
	}
	if bytes.Equal(a, b) {
		s.say(pipeline.LevelNote, "proxy-log", made, "is byte for byte the manifest that the proxy fetched last, %s", fetched)
		return nil
	}
	s.Lacks = append(s.Lacks, pipeline.Lack{
		What: "what it means that " + made + " and the manifest that the proxy fetched last, " + fetched + ", are not the same bytes", For: "manifest/bytes",
		How: "retally compare " + s.word(made) + " " + s.word(fetched),
	})
	return nil
}

func (s *Subject) note(level, code string, list privatemode.Problems) {
	for _, p := range list {
		s.Problems = append(s.Problems, pipeline.Problem{Level: level, Code: code, Where: pipeline.Where{File: p.File, Line: p.Line}, Msg: strings.TrimSpace(p.Path + " " + p.Msg)})
	}
}
