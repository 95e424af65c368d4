package nix

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/nix"
	"github.com/retally/retally/nix/nar"
	"github.com/retally/retally/nix/why"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
)

// Path is what is known of a path of the store.
type Path struct {
	Name    string `json:"name,omitempty"` // out, dev, …
	Path    string `json:"path"`
	Origin  string `json:"origin"`
	Rebuilt bool   `json:"rebuilt"`
	// Fixed: its hash is promised, and its bytes may come from anywhere.
	Fixed    bool   `json:"fixed"`
	NarHash  string `json:"nar_hash"` // computed here, SRI
	NarSize  int64  `json:"nar_size"`
	Recorded string `json:"recorded"` // by the store's database
}

func pathOf(o *nix.BuiltOutput) Path {
	return Path{o.Name, o.Path, string(o.Origin), o.Rebuilt(), o.Fixed, o.Tree.SRI(), o.Tree.Size, o.Recorded}
}

// Build is the result of a build.
type Build struct {
	Installable string   `json:"installable"`
	Derivation  string   `json:"derivation"`
	Nix         string   `json:"nix"`
	Sandboxed   bool     `json:"sandboxed"` // always: without it there is no result
	Outputs     []Path   `json:"outputs"`
	Closure     []Path   `json:"closure"`
	Ran         []string `json:"ran"`     // derivations that ran here
	Fetched     []string `json:"fetched"` // inputs that caches gave, by cache
}

func outputKey(what string, name string) pipeline.Key { return pipeline.NewKey("nix", what, name) }

func narValue(t *nar.Tree) pipeline.Value {
	d, err := digest.FromBytes(digest.SHA256, t.SHA256[:])
	if err != nil {
		return pipeline.Value{}
	}
	return pipeline.OfDigest(d)
}

// flakeFile is the file that an attribute is written down in.
func flakeFile(installable string) pipeline.Where {
	flake, _, _ := strings.Cut(installable, "#")
	dir := strings.TrimPrefix(strings.TrimPrefix(flake, "path:"), "git+file:")
	if dir, _, _ = strings.Cut(dir, "?"); strings.Contains(dir, ":") {
		return pipeline.Where{File: installable}
	}
	return pipeline.Where{File: filepath.ToSlash(filepath.Join(dir, "flake.nix"))}
}

// Built builds an attribute. expect, if not empty, is what the hash of the output
// out (or of the only one) must be.
func Built(ctx context.Context, n *nix.Nix, installable, expect string) (*Build, *run.Out, error) {
	res, err := n.Build(ctx, installable)
	if err != nil {
		return nil, nil, err
	}
	b, out := buildOf(res), run.NewOut()
	for i := range res.Outputs {
		o := &res.Outputs[i]
		measure(out, o, installable)
	}
	for i := range res.Closure {
		if o := &res.Closure[i]; o.Tampered() {
			out.Problem(pipeline.LevelError, "nix-tampered", flakeFile(installable), fmt.Sprintf("%s was changed after it was built: its bytes give %s, the store recorded %s", o.Path, o.Tree.SRI(), o.Recorded), "remove the store and build again")
		}
	}
	if len(b.Fetched) > 0 {
		out.Problem(pipeline.LevelWarning, "nix-inputs-fetched", flakeFile(installable), "inputs were fetched and not built here: "+strings.Join(b.Fetched, ", "), "without a cache everything is built")
	}
	if expect != "" {
		want, err := ParseHash(expect)
		if err != nil {
			return nil, nil, err
		}
		i := max(0, slices.IndexFunc(res.Outputs, func(o nix.BuiltOutput) bool { return o.Name == "out" }))
		out.Refer(outputKey(installable, res.Outputs[i].Name), want, pipeline.Where{File: "expected"}, "hash of the output")
	}
	return b, out, nil
}

func measure(out *run.Out, o *nix.BuiltOutput, installable string) {
	basis := pipeline.Rebuilt
	if !o.Rebuilt() {
		basis = pipeline.Copied
	}
	if o.Fixed {
		out.Problem(pipeline.LevelNote, "nix-fixed", flakeFile(installable), o.Path+" promises its hash, and may take its bytes from anywhere: nothing was rebuilt", "")
	}
	out.Measurements = append(out.Measurements, pipeline.Measurement{Key: outputKey(installable, o.Name), Value: narValue(o.Tree), Basis: basis, Inputs: []pipeline.InputRef{pipeline.FromFile(installable)}, Note: string(o.Origin) + ": " + o.Path})
}

func buildOf(res *nix.Result) *Build {
	b := &Build{Installable: res.Installable, Derivation: res.Drv, Nix: res.Version, Sandboxed: true, Outputs: []Path{}, Closure: []Path{}, Ran: slices.Clone(res.Ran), Fetched: append([]string{}, res.Caches()...)}
	if b.Ran == nil {
		b.Ran = []string{}
	}
	for i := range res.Outputs {
		b.Outputs = append(b.Outputs, pathOf(&res.Outputs[i]))
	}
	for i := range res.Closure {
		b.Closure = append(b.Closure, pathOf(&res.Closure[i]))
	}
	return b
}

// Text is the form for people.
func (b *Build) Text(w io.Writer, verbose bool) {
	show.Line(w, "%s  built by Nix %s in the sandbox, %s ran here", b.Installable, b.Nix, show.Plural(len(b.Ran), "derivation", "derivations"))
	for _, o := range b.Outputs {
		o.text(w)
	}
	if verbose {
		for _, o := range b.Closure {
			show.Line(w, "  closure  %s  %s  %s", o.NarHash, o.Path, o.Origin)
		}
	} else if n := len(b.Closure) - len(b.Outputs); n > 0 {
		show.Line(w, "  and %s that it refers to (-v)", show.Plural(n, "path", "paths"))
	}
	for _, f := range b.Fetched {
		show.Line(w, "  fetched and not built here: %s", f)
	}
}

func (o *Path) text(w io.Writer) {
	words := o.Origin
	switch {
	case o.NarHash != o.Recorded:
		words = "CHANGED after it was built, recorded as " + o.Recorded
	case o.Fixed:
		words += ", its hash is promised"
	}
	show.Line(w, "  %s  %s", o.NarHash, o.Path)
	show.Line(w, "    %s: %s", show.Or(o.Name, "path"), words)
}

// Checked is an attribute that was built twice.
type Checked struct {
	Installable string    `json:"installable"`
	Derivation  string    `json:"derivation"`
	Nix         string    `json:"nix"`
	Stores      int       `json:"stores"` // 2: independent ones; 1: once more in the same
	Outputs     []Checks  `json:"outputs"`
	Causes      []Because `json:"causes"`
}

// Checks are the hashes of an output in both builds.
type Checks struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	First  string `json:"first"`
	Second string `json:"second"`
	// TreeA and TreeB are where two different trees lie.
	TreeA string `json:"tree_a,omitempty"`
	TreeB string `json:"tree_b,omitempty"`
}

// Because is one cause of a difference.
type Because struct {
	Output string `json:"output,omitempty"`
	why.Cause
}

// Check builds an attribute twice: in two stores, or where second is nil once
// more in the first.
func Check(ctx context.Context, first, second *nix.Nix, installable string) (*Checked, *run.Out, error) {
	c := &Checked{Installable: installable, Stores: 1, Outputs: []Checks{}, Causes: []Because{}}
	var a *nix.Result
	var differs []nix.OutputDiff
	if second != nil {
		r, err := nix.Twice(ctx, first, second, installable)
		if err != nil {
			return nil, nil, err
		}
		a, differs, c.Stores = r.First, r.Differs, 2
	} else {
		r, err := first.Check(ctx, installable)
		var be *nix.BuildError
		switch {
		case err == nil:
		case errors.As(err, &be) && be.Class == nix.NotDeterministic && len(be.Differs) > 0 && r != nil:
			differs = be.Differs
		default:
			return nil, nil, err
		}
		a = r
	}
	c.Derivation, c.Nix = a.Drv, a.Version
	out := run.NewOut()
	for i := range a.Outputs {
		o := &a.Outputs[i]
		row := Checks{Name: o.Name, Path: o.Path, First: o.Tree.SRI(), Second: o.Tree.SRI()}
		key := outputKey(installable, o.Name)
		measure(out, o, installable)
		value := narValue(o.Tree)
		if o.Fixed && second == nil {
			// Nix does not build such a one again: its hash is all that it promises.
			c.Outputs = append(c.Outputs, row)
			continue
		}
		if j := slices.IndexFunc(differs, func(d nix.OutputDiff) bool { return d.Name == o.Name }); j >= 0 {
			d := &differs[j]
			row.First, row.Second, row.TreeA, row.TreeB = d.A, d.B, d.RealA, d.RealB
			causes, err := Causes(ctx, d.RealA, d.RealB, d.Changes)
			if err != nil {
				return nil, nil, err
			}
			for _, x := range causes {
				c.Causes = append(c.Causes, Because{o.Name, x})
			}
			out.Causes[key] = reasons(key, causes)
			if value, err = ParseHash(d.B); err != nil {
				return nil, nil, err
			}
		}
		out.Refer(key, value, flakeFile(installable), "hash of the output in the second build")
		c.Outputs = append(c.Outputs, row)
	}
	return c, out, nil
}

// reasons are causes as a finding has them.
func reasons(key pipeline.Key, causes []why.Cause) []pipeline.Cause {
	var out []pipeline.Cause
	for _, c := range causes {
		out = append(out, pipeline.Cause{
			Path: []string{string(key), show.Or(c.Path, "the file"), string(c.Kind)}, Expected: c.B, Actual: c.A, Standing: pipeline.Suspected, Hint: "nix-build", Note: c.Usual,
		})
	}
	return out
}

// Causes says why two trees differ: of OCI layouts down to layer, file and
// attribute, of other trees down to what is packed in their files.
func Causes(ctx context.Context, a, b string, changes []nar.Change) ([]why.Cause, error) {
	isLayout := func(dir string) bool {
		info, err := os.Lstat(filepath.Join(dir, "oci-layout"))
		return err == nil && info.Mode().IsRegular()
	}
	if !isLayout(a) || !isLayout(b) {
		return why.Trees(ctx, a, b, changes)
	}
	var sides [2]*imagehash.Source
	for i, dir := range []string{a, b} {
		s, err := imagehash.Open(ctx, dir, imagehash.Options{})
		if err != nil {
			return why.Trees(ctx, a, b, changes)
		}
		defer s.Close()
		sides[i] = s
	}
	d, err := imagehash.Diff(ctx, sides[0], sides[1], imagehash.DiffOptions{})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil || len(d.Causes) == 0 {
		// Images that do not hold, or that are the same: what is beside them.
		return why.Trees(ctx, a, b, changes)
	}
	var out []why.Cause
	var walk func(list []imagehash.Cause)
	walk = func(list []imagehash.Cause) {
		for _, c := range list {
			if len(c.Children) > 0 {
				walk(c.Children)
				continue
			}
			out = append(out, why.Cause{Path: strings.Join(c.Path, " > "), Kind: why.Kind(c.Kind), A: c.Expected, B: c.Actual, Usual: cmp.Or(c.Hint, c.Note)})
		}
	}
	walk(d.Causes)
	return out, nil
}

// Text is the form for people.
func (c *Checked) Text(w io.Writer, _ bool) {
	how := "built in two stores"
	if c.Stores == 1 {
		how = "built twice in one store"
	}
	show.Line(w, "%s  %s, by Nix %s in the sandbox", c.Installable, how, c.Nix)
	for _, o := range c.Outputs {
		if o.First == o.Second {
			show.Line(w, "  SAME  %s  %s", o.First, o.Path)
			continue
		}
		show.Line(w, "  DIFFERS  %s, then %s  %s", o.First, o.Second, o.Path)
		show.Line(w, "    both are kept: %s and %s", o.TreeA, o.TreeB)
	}
	for _, x := range c.Causes {
		causeText(w, x.Cause)
	}
}

func causeText(w io.Writer, c why.Cause) {
	s := fmt.Sprintf("    %s: %s", show.Or(c.Path, "the file"), c.Kind)
	if c.A != "" || c.B != "" {
		s += fmt.Sprintf(": %s -> %s", show.Or(c.A, "(none)"), show.Or(c.B, "(none)"))
	}
	if c.Usual != "" {
		s += " (" + c.Usual + ")"
	}
	show.Line(w, "%s", s)
}

// Hashed is the hash of a path in the forms that Nix writes.
type Hashed struct {
	Path  string `json:"path"`
	SRI   string `json:"sri"`
	Nix32 string `json:"nix32"`
	Hex   string `json:"hex"`
	Size  int64  `json:"nar_size"`
}

// Hashes are those of several paths.
type Hashes struct {
	Paths []Hashed `json:"paths"`
}

// Hash hashes files and folders as Nix does. expect, if not empty, is what the
// only one must be.
func Hash(ctx context.Context, paths []string, expect string, progress func(int64)) (*Hashes, *run.Out, error) {
	h, out := &Hashes{Paths: []Hashed{}}, run.NewOut()
	if expect != "" && len(paths) != 1 {
		return nil, nil, &pipeline.InputError{Op: "hash", Err: errors.New("{expect-nar} is for one path"), Hint: "give one path"}
	}
	for i, p := range paths {
		tree, err := nar.Hash(ctx, p, nar.Options{Progress: progress})
		if err != nil {
			return nil, nil, &pipeline.InputError{Op: "hash", File: p, Err: err}
		}
		h.Paths = append(h.Paths, Hashed{p, tree.SRI(), tree.Nix32(), tree.Hex(), tree.Size})
		key := pipeline.NewKey("nix", "nar", p)
		if slices.Contains(paths[:i], p) {
			continue
		}
		out.Measure(key, narValue(tree), p, "")
		if expect != "" {
			want, err := ParseHash(expect)
			if err != nil {
				return nil, nil, err
			}
			out.Refer(key, want, pipeline.Where{File: "expected"}, "hash as Nix gives it")
		}
	}
	return h, out, nil
}

// Text is the form for people.
func (h *Hashes) Text(w io.Writer, verbose bool) {
	for _, p := range h.Paths {
		show.Line(w, "%s  %s", p.SRI, p.Path)
		if verbose {
			show.Line(w, "  sha256:%s", p.Nix32)
			show.Line(w, "  %s, %d bytes of archive", p.Hex, p.Size)
		}
	}
}

// ParseHash reads a SHA-256 as Nix writes it: sha256-BASE64, sha256:NIX32,
// sha256:HEX, or the digits alone.
func ParseHash(text string) (pipeline.Value, error) {
	bad := func() (pipeline.Value, error) {
		return pipeline.Value{}, &pipeline.InputError{Op: "read hash", Err: fmt.Errorf("%q is no SHA-256", text), Hint: "sha256-BASE64=, sha256: and 52 digits of base 32, or 64 hex digits"}
	}
	var sum []byte
	var err error
	if strings.HasPrefix(text, "sha256-") {
		d, err := digest.ParseSRI(text)
		if err != nil {
			return bad()
		}
		return pipeline.OfDigest(d), nil
	}
	if s := strings.TrimPrefix(text, "sha256:"); len(s) == 52 {
		sum, err = nar.ParseNix32(s, 32)
	} else {
		sum, err = hex.DecodeString(s)
	}
	if err != nil || len(sum) != 32 {
		return bad()
	}
	d, err := digest.FromBytes(digest.SHA256, sum)
	if err != nil {
		return bad()
	}
	return pipeline.OfDigest(d), nil
}

// Differences is why two trees, or two derivations, are different.
type Differences struct {
	A       string      `json:"a"`
	B       string      `json:"b"`
	HashA   string      `json:"hash_a"` // SRI of trees, paths of derivations
	HashB   string      `json:"hash_b"`
	Causes  []why.Cause `json:"causes"`
	Inputs  []Input     `json:"inputs"`    // of derivations: where they begin to differ
	Changed []Artifact  `json:"artifacts"` // of a machine: what it boots
}

// Input is a difference of two derivations, at the place where it begins.
type Input struct {
	Path []string `json:"path"` // names of derivations, from the top
	What string   `json:"what"`
	A    string   `json:"a"`
	B    string   `json:"b"`
}

// DiffTrees compares two files or folders.
func DiffTrees(ctx context.Context, a, b string) (*Differences, *run.Out, error) {
	x, err := nar.Hash(ctx, a, nar.Options{})
	if err != nil {
		return nil, nil, &pipeline.InputError{Op: "hash", File: a, Err: err}
	}
	y, err := nar.Hash(ctx, b, nar.Options{})
	if err != nil {
		return nil, nil, &pipeline.InputError{Op: "hash", File: b, Err: err}
	}
	d, out := newDifferences(a, b, x.SRI(), y.SRI()), run.NewOut()
	key := pipeline.NewKey("nix", "nar", a)
	out.Measure(key, narValue(x), a, "")
	out.Refer(key, narValue(y), pipeline.Where{File: b}, "hash of the other side")
	if bytes.Equal(x.SHA256[:], y.SHA256[:]) {
		return d, out, nil
	}
	causes, err := Causes(ctx, a, b, nar.Diff(x, y))
	if err != nil {
		return nil, nil, &pipeline.InputError{Op: "compare", File: a, Err: err}
	}
	d.Causes = append(d.Causes, causes...)
	out.Causes[key] = reasons(key, causes)
	return d, out, nil
}

func newDifferences(a, b, hashA, hashB string) *Differences {
	return &Differences{A: a, B: b, HashA: hashA, HashB: hashB, Causes: []why.Cause{}, Inputs: []Input{}, Changed: []Artifact{}}
}

// Machines is the comparison of what two machines boot.
func Machines(a, b string, list []Artifact) *Differences {
	d := newDifferences(a, b, "", "")
	d.Changed = append(d.Changed, list...)
	return d
}

// DiffDerivations compares what two attributes are built from, down to the first
// input that differs. Nothing is built.
func DiffDerivations(ctx context.Context, n *nix.Nix, a, b string) (*Differences, *run.Out, error) {
	var drv [2]string
	var closure [2]map[string]*nix.Derivation
	for i, installable := range []string{a, b} {
		var err error
		if drv[i], err = n.Instantiate(ctx, installable); err != nil {
			return nil, nil, err
		}
		if closure[i], err = n.Closure(ctx, drv[i]); err != nil {
			return nil, nil, err
		}
	}
	d, out := newDifferences(a, b, drv[0], drv[1]), run.NewOut()
	key := pipeline.NewKey("nix", a, "derivation")
	out.Measure(key, pipeline.OfText(drv[0]), a, "")
	out.Refer(key, pipeline.OfText(drv[1]), pipeline.Where{File: b}, "derivation of the other side")
	list, err := nix.DiffDerivations(closure[0], closure[1], drv[0], drv[1])
	if err != nil {
		return nil, nil, err
	}
	if len(list) > 0 {
		// The lock is nearest to whoever has to mend it.
		var locked [2]map[string]nix.Locked
		for i, installable := range []string{a, b} {
			if locked[i], err = n.Inputs(ctx, installable); err != nil {
				return nil, nil, err
			}
		}
		list = append(nix.DiffInputs(locked[0], locked[1]), list...)
	}
	for _, x := range list {
		d.Inputs = append(d.Inputs, Input(x))
		out.Causes[key] = append(out.Causes[key], pipeline.Cause{Path: append([]string{string(key)}, append(slices.Clone(x.Path), x.What)...), Expected: x.B, Actual: x.A, Standing: pipeline.Suspected, Hint: "nix-build", Note: "the two begin to differ here"})
	}
	return d, out, nil
}

// Text is the form for people.
func (d *Differences) Text(w io.Writer, _ bool) {
	if len(d.Changed) > 0 {
		show.Line(w, "%s, compared with %s", d.A, d.B)
	} else {
		word := "DIFFERS"
		if d.HashA == d.HashB {
			word = "MATCH"
		}
		show.Line(w, "%s", word)
		show.Line(w, "  A %s  %s", d.HashA, d.A)
		show.Line(w, "  B %s  %s", d.HashB, d.B)
	}
	for _, c := range d.Causes {
		causeText(w, c)
	}
	for _, i := range d.Inputs {
		show.Line(w, "    %s: %s: %s -> %s", strings.Join(i.Path, " > "), i.What, show.Or(i.A, "(none)"), show.Or(i.B, "(none)"))
	}
	for _, a := range d.Changed {
		a.text(w)
	}
}

// Failure is a build that ended badly.
type Failure struct {
	Installable string    `json:"installable"`
	Class       string    `json:"class"` // failed, timeout, hash-mismatch, not-deterministic, unsandboxed
	Said        []string  `json:"said"`  // by Nix
	Tail        []string  `json:"tail"`  // by the builder
	Outputs     []Checks  `json:"outputs"`
	Causes      []Because `json:"causes"`
}

// Failed makes a result of a build that ended badly: what was asked for is at
// fault. It reports false of an error that says nothing about it.
func Failed(ctx context.Context, installable string, err error) (*Failure, *run.Out, bool) {
	var be *nix.BuildError
	if !errors.As(err, &be) || be.Class == nix.Trouble {
		return nil, nil, false
	}
	f := &Failure{installable, string(be.Class), append([]string{}, be.Said...), append([]string{}, be.Tail...), []Checks{}, []Because{}}
	out := run.NewOut()
	out.Problem(pipeline.LevelError, "nix-"+f.Class, flakeFile(installable), be.Error(), strings.Join(be.Tail[max(0, len(be.Tail)-3):], " | "))
	for _, d := range be.Differs {
		f.Outputs = append(f.Outputs, Checks{d.Name, be.What, d.A, d.B, d.RealA, d.RealB})
		causes, err := Causes(ctx, d.RealA, d.RealB, d.Changes)
		if err != nil {
			causes = []why.Cause{{Kind: "content", Usual: "not looked into: " + err.Error()}}
		}
		for _, c := range causes {
			f.Causes = append(f.Causes, Because{d.Name, c})
			out.Problem(pipeline.LevelError, "nix-"+f.Class, flakeFile(installable), fmt.Sprintf("output %s: %s: %s: %s, then %s", d.Name, show.Or(c.Path, "the file"), c.Kind, show.Or(c.A, "nothing"), show.Or(c.B, "nothing")), c.Usual)
		}
	}
	return f, out, true
}

// Text is the form for people.
func (f *Failure) Text(w io.Writer, _ bool) {
	show.Line(w, "%s  %s", strings.ToUpper(f.Class), f.Installable)
	for _, s := range f.Said {
		show.Line(w, "  %s", s)
	}
	for _, s := range f.Tail {
		show.Line(w, "  | %s", s)
	}
	for _, o := range f.Outputs {
		show.Line(w, "  %s: %s, then %s", o.Name, o.First, o.Second)
		show.Line(w, "    both are kept: %s and %s", o.TreeA, o.TreeB)
	}
	for _, c := range f.Causes {
		causeText(w, c.Cause)
	}
}
