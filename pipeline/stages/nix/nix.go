// Package nix is the stage that builds images from source, before they are
// recounted.
package nix

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/nix"
	"github.com/retally/retally/nix/nar"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/published"
)

// Stage builds what images name as nix. Nothing of it is kept: what lies in a
// store may be changed without a trace in the times of its files.
func Stage() run.Stage {
	return run.Stage{Name: "nix", Version: 1, Fill: fill, Check: check, Plan: plan, Run: execute}
}

// DefaultStore is the store's folder where none is given: among the user's caches,
// for in the folder of a flake it would be a part of the flake.
func DefaultStore() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "retally-nix")
}

// built are the images that are built here, sorted.
func built(c *config.Config) []string {
	var names []string
	for name, i := range c.Images {
		if i.Nix != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func fill(c *config.Config) {
	if len(built(c)) == 0 {
		return
	}
	if c.Nix == nil {
		c.Nix = new(config.Nix)
	}
	c.Nix.Store = cmp.Or(c.Nix.Store, DefaultStore())
}

func check(c *config.Config, at config.At) error {
	names := built(c)
	if c.Nix != nil && len(names) == 0 {
		return at("nothing is built with Nix", "images: {NAME: {nix: 'path:.#images', entry: NAME}}, or leave it out", "nix")
	}
	for _, name := range names {
		i := c.Images[name]
		if err := nix.CheckInstallable(i.Nix); err != nil {
			return at(err.Error(), "", "images", name, "nix")
		}
		if i.Entry != "" && (i.Entry != filepath.Base(i.Entry) || i.Entry == "." || i.Entry == "..") {
			return at("entry "+i.Entry+" is no name in a folder", "", "images", name, "entry")
		}
	}
	if c.Nix == nil {
		return nil
	}
	o := Options(c.Nix, "")

	if err := o.Check(); err != nil {
		return at(err.Error(), "", "nix")
	}
	return nil
}

func plan(c *config.Config) []run.PlanLine {
	var lines []run.PlanLine
	for _, name := range built(c) {
		_, hash := published.BuiltKeys(name)
		source, _ := c.Images[name].Source()
		lines = append(lines, run.PlanLine{Key: string(hash), From: "a build of " + source + ", in the store " + c.Nix.Store})
	}
	return lines
}

// Options are those of the room. dir is where relative names of flakes start.
func Options(c *config.Nix, dir string) nix.Options {
	o := nix.Options{
		Store: c.Store, Substituters: c.Substituters, TrustedKeys: c.TrustedKeys, SandboxPaths: c.SandboxPaths, Settings: c.Settings, Dir: dir,
		Timeout: time.Duration(min(c.Timeout, 1<<30)) * time.Second,
	}
	for _, name := range slices.Sorted(maps.Keys(c.Overrides)) {
		o.Overrides = append(o.Overrides, [2]string{name, c.Overrides[name]})
	}
	return o
}

type stageRun struct {
	in   *run.In
	out  *run.Out
	n    *nix.Nix
	done map[string]*nix.Result // by installable; nil: its build did not end well
}

func execute(ctx context.Context, in *run.In) (*run.Out, error) {
	names := built(in.Config)
	if len(names) == 0 {
		return run.NewOut(), nil
	}
	o := Options(in.Config.Nix, in.Path("."))
	o.Store = in.Path(in.Config.Nix.Store)
	n, err := nix.Open(ctx, o)
	if errors.Is(err, nix.ErrNoNix) {
		for _, name := range names {
			_, hash := published.BuiltKeys(name)
			in.Lack("Nix", string(hash), "install it (the package nix-bin of Debian will do): nothing is built without it")
		}
		return run.NewOut(), nil
	}
	if err != nil {
		return nil, err
	}
	r := &stageRun{in: in, out: run.NewOut(), n: n, done: map[string]*nix.Result{}}
	for _, name := range names {
		if err := r.image(ctx, name, in.Config.Images[name]); err != nil {
			return nil, err
		}
	}
	return r.out, nil
}

func (r *stageRun) where(name string) pipeline.Where {
	w := r.in.Where("images", name, "nix")
	w.Line = r.in.Config.Images[name].Line
	return w
}

// image builds one image and says what is known of its bytes.
func (r *stageRun) image(ctx context.Context, name string, c config.Image) error {
	res, known := r.done[c.Nix]
	if !known {
		var err error
		if res, err = r.n.Build(ctx, c.Nix); err != nil {
			if err = r.failed(name, err); err != nil {
				return err
			}
		}
		r.done[c.Nix] = res
		if res != nil {
			r.said(name, res)
		}
	}
	if res == nil {
		return nil
	}
	o, err := r.n.Entry(ctx, res, c.Entry)
	if err != nil {
		return r.failed(name, err)
	}
	return r.measure(ctx, name, c, o)
}

// failed makes a problem of a build that did not give what was asked for. What
// is no verdict about it, such as an interruption, ends the run.
func (r *stageRun) failed(name string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	class, hint := nix.Trouble, ""
	var be *nix.BuildError
	if errors.As(err, &be) {
		class = be.Class
		hint = strings.Join(be.Tail[max(0, len(be.Tail)-3):], " | ")
	}
	r.out.Problem(pipeline.LevelError, "nix-"+string(class), r.where(name), err.Error(), hint)
	if be == nil {
		return nil
	}
	for _, d := range be.Differs {
		for _, c := range d.Changes {
			r.out.Problem(pipeline.LevelError, "nix-"+string(class), r.where(name), fmt.Sprintf("output %s: %s: %s: %s, then %s", d.Name, show.Or(c.Path, "the file"), c.What, show.Or(c.A, "nothing"), show.Or(c.B, "nothing")), "both trees are kept in the store: "+filepath.Base(d.RealA)+" and "+filepath.Base(d.RealB))
		}
	}
	return nil
}

// said tells of what a result rests on besides its own derivation.
func (r *stageRun) said(name string, res *nix.Result) {
	if len(res.Fetched) > 0 {
		r.out.Problem(pipeline.LevelWarning, "nix-inputs-fetched", r.where(name),
			fmt.Sprintf("inputs of %s were fetched and not built here: %s. What a cache gave is in the result", res.Installable, strings.Join(res.Caches(), ", ")),
			"nix: {substituters: []} builds everything; a gate's policy can permit it: {rule: warning, code: nix-inputs-fetched, ...}")
	}
	for i := range res.Closure {
		if o := &res.Closure[i]; o.Tampered() {
			r.out.Problem(pipeline.LevelError, "nix-tampered", r.where(name), fmt.Sprintf("%s was changed after it was built: its bytes give %s, the store recorded %s", o.Path, o.Tree.SRI(), o.Recorded), "remove the store "+r.in.Config.Nix.Store+" and build again")
		}
	}
}

func (r *stageRun) measure(ctx context.Context, name string, c config.Image, o *nix.BuiltOutput) error {
	source, err := c.Source()
	if err != nil {
		return err
	}
	tree, err := nar.Hash(ctx, o.Real, nar.Options{})
	if err != nil {
		return err
	}
	hash, err := digest.FromBytes(digest.SHA256, tree.SHA256[:])
	if err != nil {
		return err
	}
	basis, why := pipeline.Rebuilt, ""
	switch {
	case o.Rebuilt():
	case o.Tampered():
		basis, why = pipeline.Copied, "was changed after it was built"
	case o.Fixed:
		basis, why = pipeline.Copied, "promises its hash, and may take its bytes from anywhere: nothing was rebuilt"
	default:
		basis, why = pipeline.Copied, "was not built here: "+string(o.Origin)
	}
	if why != "" {
		r.out.Problem(pipeline.LevelError, "nix-not-rebuilt", r.where(name), o.Path+" "+why, "name the derivation that makes the image, and remove the store")
	}
	rel, err := filepath.Rel(r.in.Path(r.in.Config.Nix.Store), o.Real)
	if err != nil {
		return err
	}
	r.in.ReadRemote(source+" (built)", hash, tree.Size)
	note := fmt.Sprintf("%s, in the sandbox; its closure has %s", o.Origin, show.Plural(len(r.done[c.Nix].Closure), "path", "paths"))
	output, nars := published.BuiltKeys(name)
	in := []pipeline.InputRef{pipeline.FromFile(source + " (built)")}
	r.out.Measurements = append(r.out.Measurements,
		pipeline.Measurement{Key: output, Value: pipeline.OfText("/" + filepath.ToSlash(rel)), Basis: basis, Inputs: in, Note: note},
		pipeline.Measurement{Key: nars, Value: pipeline.OfDigest(hash), Basis: basis, Inputs: in, Note: note},
	)
	return nil
}
