package nix

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/retally/retally/nix/nar"
)

// Origin says where a path's bytes come from.
type Origin string

// The origins.
const (
	// BuiltHere: its derivation ran here, in the sandbox.
	BuiltHere Origin = "built here"
	// Substituted: fetched from a cache, and not built again here.
	Substituted Origin = "substituted"
	// Found: it lay in the store before, or is a source; who made it is not known.
	Found Origin = "found in the store"
)

// Result is one derivation, built.
type Result struct {
	Installable string
	Drv         string
	Version     string // of Nix
	Outputs     []BuiltOutput
	// Closure is all that the outputs refer to, they among it, by path.
	Closure []BuiltOutput
	// Fetched are the inputs that came from a cache and may be anything it says:
	// the outputs of derivations that did not run here and promise no hash.
	Fetched map[string]string // store path -> cache
	Ran     []string          // derivations that ran here

	derivations map[string]*Derivation
}

// BuiltOutput is one output of a derivation, or another path of the store.
type BuiltOutput struct {
	Name   string // out, dev, …; "" of a path that is asked for by itself
	Path   string // in the store's own name: /nix/store/…
	Real   string // where its bytes lie on this machine
	Drv    string // that makes it; "" of a source
	Origin Origin
	// Fixed: the derivation promises this hash and may use the network; that it
	// was built says nothing beyond the hash.
	Fixed bool
	Tree  *nar.Tree
	// Recorded is what the store's database says, an SRI. Where it is not
	// Tree.SRI, somebody changed the bytes.
	Recorded string
}

// Tampered reports whether the bytes are others than those that were built, by
// the store's own account.
func (o *BuiltOutput) Tampered() bool { return o.Recorded != o.Tree.SRI() }

// Rebuilt reports whether the bytes are those that a derivation gave that ran
// here, without a hash promised for it.
func (o *BuiltOutput) Rebuilt() bool { return o.Origin == BuiltHere && !o.Fixed && !o.Tampered() }

// Build builds a flake's attribute and hashes the bytes of every output and of
// all that they refer to. An output that a cache gave, or that lay in the store,
// is built here nevertheless, and must be the same.
func (n *Nix) Build(ctx context.Context, installable string) (*Result, error) {
	drv, err := n.Instantiate(ctx, installable)
	if err != nil {
		return nil, err
	}
	_, log, code, err := n.run(ctx, n.nixStore, "--realise", "--log-format", "internal-json", drv)
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return nil, trouble(installable, code, log)
	}
	r := &Result{Installable: installable, Drv: drv, Version: n.Version, Fetched: map[string]string{}, Ran: log.Building}
	if r.derivations, err = n.Closure(ctx, drv); err != nil {
		return nil, err
	}
	d := r.derivations[drv]
	if d == nil {
		return nil, fmt.Errorf("nix: the derivation %s is not among those that were shown", drv)
	}
	for name, o := range d.Outputs {
		if err := checkStorePath(o.Path); err != nil {
			return nil, fmt.Errorf("nix: output %s of %s: %w", name, drv, err)
		}
	}
	for _, other := range r.derivations {
		for _, o := range other.Outputs {
			if from, ok := log.Substituted[o.Path]; ok && o.Hash == "" && other.Path != drv {
				r.Fetched[o.Path] = from
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Outputs)) {
		out, err := n.facts(ctx, r, d.Outputs[name].Path, log)
		if err != nil {
			return nil, err
		}
		out.Name = name
		r.Outputs = append(r.Outputs, *out)
	}
	return r, n.closure(ctx, r, log)
}

// facts builds what makes a path again unless it ran here, and hashes it.
func (n *Nix) facts(ctx context.Context, r *Result, path string, log *Log) (*BuiltOutput, error) {
	out, err := n.look(ctx, r, path, log)
	if err != nil || out.Fixed || out.Drv == "" || out.Origin == BuiltHere {
		return out, err
	}
	if err := n.again(ctx, r.derivations[out.Drv]); err != nil {
		return nil, err
	}
	r.Ran = append(r.Ran, out.Drv)
	delete(r.Fetched, path)
	return n.look(ctx, r, path, log)
}

// look says what is known of a path, and hashes its bytes.
func (n *Nix) look(ctx context.Context, r *Result, path string, log *Log) (*BuiltOutput, error) {
	out := &BuiltOutput{Path: path, Real: n.real(path), Origin: Found}
	for p, d := range r.derivations {
		for _, o := range d.Outputs {
			if o.Path == path {
				out.Drv, out.Fixed = p, o.Hash != ""
			}
		}
	}
	if log != nil && log.Substituted[path] != "" {
		out.Origin = Substituted
	}
	if out.Drv != "" && slices.Contains(r.Ran, out.Drv) {
		out.Origin = BuiltHere
	}
	var err error
	if out.Tree, err = nar.Hash(ctx, out.Real, nar.Options{}); err != nil {
		return nil, fmt.Errorf("nix: %s: %w", path, err)
	}
	infos, err := n.recorded(ctx, path)
	if err != nil {
		return nil, err
	}
	out.Recorded = infos[path].NarHash
	return out, nil
}

// closure hashes all that the outputs refer to.
func (n *Nix) closure(ctx context.Context, r *Result, log *Log) error {
	var paths []string
	known := map[string]*BuiltOutput{}
	for i := range r.Outputs {
		paths = append(paths, r.Outputs[i].Path)
		known[r.Outputs[i].Path] = &r.Outputs[i]
	}
	infos, err := n.recorded(ctx, append([]string{"--recursive"}, paths...)...)
	if err != nil {
		return err
	}
	for _, p := range slices.Sorted(maps.Keys(infos)) {
		if o := known[p]; o != nil {
			r.Closure = append(r.Closure, *o)
			continue
		}
		o, err := n.look(ctx, r, p, log)
		if err != nil {
			return err
		}
		r.Closure = append(r.Closure, *o)
	}
	return nil
}

func (n *Nix) real(path string) string { return filepath.Join(n.o.Store, filepath.FromSlash(path)) }

// again builds a derivation once more and has Nix compare. A derivation whose
// output is fixed is not asked: its hash is. Where the second build is another,
// both trees stay and are compared.
func (n *Nix) again(ctx context.Context, d *Derivation) error {
	for _, o := range d.Outputs {
		removeTree(n.real(o.Path) + ".check") // of an earlier time
	}
	_, log, code, err := n.run(ctx, n.nixStore, "--realise", "--check", "--log-format", "internal-json", d.Path)
	if err != nil {
		return err
	}
	if code != 0 {
		e := &BuildError{Class: classOf(code), What: d.Path, Said: log.Errors, Tail: log.Tail}
		if e.Class == NotDeterministic {
			e.Differs, err = n.kept(ctx, d)
		}
		return errors.Join(e, err)
	}
	if !slices.Contains(log.Building, d.Path) {
		return &BuildError{Class: Trouble, What: d.Path, Said: []string{"it was asked to be built again and was not"}}
	}
	return nil
}

// kept compares the outputs of a second build that Nix kept with the first.
func (n *Nix) kept(ctx context.Context, d *Derivation) ([]OutputDiff, error) {
	var out []OutputDiff
	for _, name := range slices.Sorted(maps.Keys(d.Outputs)) {
		real := n.real(d.Outputs[name].Path)
		if _, err := os.Lstat(real + ".check"); err != nil {
			continue
		}
		a, err := nar.Hash(ctx, real, nar.Options{})
		if err != nil {
			return nil, err
		}
		b, err := nar.Hash(ctx, real+".check", nar.Options{})
		if err != nil {
			return nil, err
		}
		out = append(out, OutputDiff{name, a.SRI(), b.SRI(), real, real + ".check", nar.Diff(a, b)})
	}
	return out, nil
}

// Check builds an attribute, and then once more in the same store. The two
// builds are at least two seconds apart: within one second a timestamp hides.
func (n *Nix) Check(ctx context.Context, installable string) (*Result, error) {
	r, err := n.Build(ctx, installable)
	if err != nil {
		return nil, err
	}
	if err := pause(ctx); err != nil {
		return nil, err
	}
	if d := r.derivations[r.Drv]; !r.Outputs[0].Fixed {
		return r, n.again(ctx, d)
	}
	return r, nil
}

// Entry is an image, or whatever else was asked for, in an output: with a name
// the entry of a folder of symbolic links into the store, as Nix's linkFarm makes
// it, or of a folder; without one the output itself. What a link leads to is
// built here as the output was.
func (n *Nix) Entry(ctx context.Context, r *Result, name string) (*BuiltOutput, error) {
	i := slices.IndexFunc(r.Outputs, func(o BuiltOutput) bool { return o.Name == "out" })
	if i < 0 {
		i = 0
	}
	out := r.Outputs[i]
	if name == "" {
		return &out, nil
	}
	if name != filepath.Base(name) || name == "." || name == ".." {
		return nil, fmt.Errorf("nix: entry %q is no name in a folder", name)
	}
	// A link on the way must not lead out of the store: nothing is followed but
	// the one link that is read here.
	e := slices.IndexFunc(out.Tree.Entries, func(e nar.Entry) bool { return e.Path == name })
	if e < 0 {
		return nil, fmt.Errorf("nix: %s holds no %s; it has %s", out.Path, name, strings.Join(top(out.Tree), ", "))
	}
	if out.Tree.Entries[e].Kind != nar.Symlink {
		out.Real, out.Name = filepath.Join(out.Real, name), out.Name+"/"+name
		return &out, nil
	}
	target := out.Tree.Entries[e].Target
	if err := checkStorePath(target); err != nil {
		return nil, fmt.Errorf("nix: %s/%s leads out of the store: %w", out.Path, name, err)
	}
	if !slices.ContainsFunc(r.Closure, func(o BuiltOutput) bool { return o.Path == target }) {
		return nil, fmt.Errorf("nix: %s/%s leads to %s, which the output does not refer to by the store's account", out.Path, name, target)
	}
	if out.Tampered() {
		return nil, fmt.Errorf("nix: %s was changed after it was built: its links are not followed", out.Path)
	}
	o, err := n.facts(ctx, r, target, nil)
	if err != nil {
		return nil, err
	}
	if c := slices.IndexFunc(r.Closure, func(c BuiltOutput) bool { return c.Path == target }); o.Origin == Found {
		o.Origin = r.Closure[c].Origin // a cache that gave it was noted when it was built
	}
	if o.Tree.Entries[0].Kind == nar.Symlink {
		return nil, fmt.Errorf("nix: %s is a link itself, to %s: only one is followed", target, o.Tree.Entries[0].Target)
	}
	return o, nil
}

// top lists the names at the top of a tree.
func top(t *nar.Tree) []string {
	var out []string
	for _, e := range t.Entries {
		if e.Path != "" && !strings.Contains(e.Path, "/") {
			out = append(out, e.Path)
		}
	}
	return out[:min(len(out), 20)]
}

// recorded is what the store's database says of paths.
func (n *Nix) recorded(ctx context.Context, args ...string) (map[string]PathInfo, error) {
	out, log, code, err := n.run(ctx, n.nix, append([]string{"path-info", "--json", "--log-format", "internal-json"}, args...)...)
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return nil, trouble("path-info", code, log)
	}
	infos, err := ParsePathInfo(out)
	if err != nil {
		return nil, err
	}
	m := map[string]PathInfo{}
	for _, i := range infos {
		if !i.Valid {
			return nil, fmt.Errorf("nix: the store does not hold %s", i.Path)
		}
		m[i.Path] = i
	}
	for _, p := range args {
		if !strings.HasPrefix(p, "-") && m[p].NarHash == "" {
			return nil, fmt.Errorf("nix: the store says nothing of %s", p)
		}
	}
	return m, nil
}

// Caches lists where inputs came from, with how many each gave.
func (r *Result) Caches() []string {
	count := map[string]int{}
	for _, from := range r.Fetched {
		count[from]++
	}
	var out []string
	for _, from := range slices.Sorted(maps.Keys(count)) {
		out = append(out, fmt.Sprintf("%d from %s", count[from], from))
	}
	return out
}

// removeTree removes a tree of which folders may be read-only. What stays is in
// the way of nobody.
func removeTree(path string) {
	_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(p, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(path)
}
