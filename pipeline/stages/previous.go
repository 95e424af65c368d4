package stages

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/recognize"
	"github.com/retally/retally/pipeline/run"
)

// Now is the release at hand, as ComparePrevious holds it against the one
// before.
type Now struct {
	Report     *pipeline.Report
	JSON       []byte // the report, as it is written
	Manifest   []byte // as recounted; nil where there is none
	Deployment string // path, "" where there is none
}

// ComparePrevious compares an earlier release with the one at hand: in the
// report that comes back Got is the earlier side. previous is a manifest, a
// report, a deployment, or a folder that holds any of them (the folder of an
// earlier run, an earlier checkout). before are the inputs that an earlier
// report names.
func ComparePrevious(ctx context.Context, previous string, now Now, tool pipeline.Tool) (rep *pipeline.Report, before map[string]pipeline.Input, err error) {
	p := &previousRelease{now: now, tool: tool, rep: run.NewReport(tool, "this release compared with "+previous)}
	info, err := os.Stat(previous)
	if err != nil {
		return nil, nil, err
	}
	if !info.IsDir() {
		err = p.file(ctx, previous)
	} else {
		err = p.folder(ctx, previous)
	}
	if err != nil {
		return nil, nil, err
	}
	if !p.compared {
		return nil, nil, &pipeline.InputError{
			Op: "compare with the release before", File: previous, Err: errors.New("nothing in it can be compared with this release"),
			Hint: "give the folder that an earlier retally run wrote, an earlier manifest, or an earlier deployment",
		}
	}
	return p.rep, p.before, nil
}

// CompareRemembered is ComparePrevious for a release of which the report, and the
// manifest where there is one, are at hand as bytes.
func CompareRemembered(report, manifest File, now Now, tool pipeline.Tool) (rep *pipeline.Report, before map[string]pipeline.Input, err error) {
	p := &previousRelease{now: now, tool: tool, rep: run.NewReport(tool, "this release compared with "+report.Name)}
	if manifest.Data != nil && now.Manifest != nil {
		if err := p.content(manifest.Name, manifest.Data, recognize.KindManifest); err != nil {
			return nil, nil, err
		}
	}
	if err := p.content(report.Name, report.Data, recognize.KindReport); err != nil {
		return nil, nil, err
	}
	return p.rep, p.before, nil
}

type previousRelease struct {
	now      Now
	tool     pipeline.Tool
	rep      *pipeline.Report
	before   map[string]pipeline.Input
	compared bool
}

// take adds the findings about keys that no comparison before spoke of.
func (p *previousRelease) take(r *pipeline.Report) {
	p.compared = true
	var fresh []pipeline.Finding
	for _, f := range r.Findings {
		if !slices.ContainsFunc(p.rep.Findings, func(have pipeline.Finding) bool { return have.Key == f.Key }) {
			fresh = append(fresh, f)
		}
	}
	p.rep.Findings = append(p.rep.Findings, fresh...)
}

// file compares one file of the earlier release.
func (p *previousRelease) file(ctx context.Context, name string) error {
	data, _, err := run.NewReader(filepath.Dir(name), nil).ReadFile(ctx, filepath.Base(name), 256<<20)
	if err != nil {
		return err
	}
	kind := recognize.Content(name, data)
	if kind == recognize.KindDeployment {
		return p.deployments(ctx, name)
	}
	return p.content(name, data, kind)
}

// content compares a manifest or a report.
func (p *previousRelease) content(name string, data []byte, kind recognize.Kind) error {
	switch kind {
	case recognize.KindManifest:
		if p.now.Manifest == nil {
			return &pipeline.InputError{Op: "compare with the release before", File: name, Err: errors.New("is a manifest, and this run made none"), Hint: "give the report.json of the earlier run"}
		}
		return p.compare(File{name, data}, File{"manifest.json", p.now.Manifest})
	case recognize.KindReport:
		old, err := pipeline.ReadReport(name, data)
		if err != nil {
			return err
		}
		if p.before != nil {
			return &pipeline.InputError{Op: "compare with the release before", File: name, Err: errors.New("is a second report")}
		}
		p.before = map[string]pipeline.Input{}
		for _, in := range old.Inputs {
			p.before[in.File] = in
		}
		return p.compare(File{name, data}, File{"report.json", p.now.JSON})
	default:
		return &pipeline.InputError{Op: "compare with the release before", File: name, Err: fmt.Errorf("is %s", orNothing(kind)), Hint: "a manifest, a report.json, a deployment, or a folder that holds them"}
	}
}

func (p *previousRelease) compare(old, now File) error {
	r, err := CompareFiles(old, now, p.tool)
	if err != nil {
		return err
	}
	p.take(r)
	return nil
}

func (p *previousRelease) deployments(ctx context.Context, old string) error {
	if p.now.Deployment == "" {
		return nil
	}
	r, err := CompareReleases(ctx, old, p.now.Deployment, p.tool)
	if err != nil {
		return err
	}
	// The models file of an earlier checkout has no other side here.
	r.Findings = slices.DeleteFunc(r.Findings, func(f pipeline.Finding) bool { return f.Key.Kind() == "disk" && f.Verdict == pipeline.Missing })
	p.take(r)
	return nil
}

// folder compares what an earlier run wrote into a folder, or what a checkout
// holds. The manifest comes first, since its fields know what is looser.
func (p *previousRelease) folder(ctx context.Context, dir string) error {
	ran := false
	for _, name := range []string{"manifest.json", "report.json"} {
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		case name == "report.json" && pipeline.IsReport(data[:min(len(data), 64<<10)]):
			ran = true
		case name == "report.json" || p.now.Manifest == nil:
			continue
		}
		if err := p.file(ctx, path); err != nil {
			return err
		}
	}
	if ran {
		return nil
	}
	s, err := recognize.Look(ctx, Table(), []string{dir}, nil)
	if err != nil {
		return err
	}
	if f := s.Config.Against; f != "" && !p.compared && p.now.Manifest != nil {
		data, _, err := s.Reader.ReadFile(ctx, f, config.JSONLimit)
		if err != nil {
			return err
		}
		if err := p.compare(File{filepath.ToSlash(filepath.Join(dir, f)), data}, File{"manifest.json", p.now.Manifest}); err != nil {
			return err
		}
	}
	if s.Config.Deployment != "" {
		return p.deployments(ctx, dir)
	}
	return nil
}
