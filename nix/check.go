package nix

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/retally/retally/nix/nar"
)

// Rebuild is an attribute built in two independent stores.
type Rebuild struct {
	First, Second *Result
	Differs       []OutputDiff // empty: every output is the same
}

// OutputDiff is an output that two builds made differently.
type OutputDiff struct {
	Name    string
	A, B    string // hashes, SRI
	RealA   string // where the two trees lie
	RealB   string
	Changes []nar.Change
}

// Twice builds an attribute in two stores, the second time at least two seconds
// later, and compares the bytes of every output. Two builds within one second
// would hide a timestamp. Each store is one that Open made.
func Twice(ctx context.Context, first, second *Nix, installable string) (*Rebuild, error) {
	if first.o.Store == second.o.Store || strings.HasPrefix(second.o.Store, first.o.Store+string(filepath.Separator)) || strings.HasPrefix(first.o.Store, second.o.Store+string(filepath.Separator)) {
		return nil, errors.New("nix: two builds in one store are one build: give two folders")
	}
	a, err := first.Build(ctx, installable)
	if err != nil {
		return nil, err
	}
	if err := pause(ctx); err != nil {
		return nil, err
	}
	b, err := second.Build(ctx, installable)
	if err != nil {
		return nil, err
	}
	r := &Rebuild{First: a, Second: b}
	if a.Drv != b.Drv {
		return nil, fmt.Errorf("nix: the attribute %s gave two derivations, %s and %s: its inputs changed in between", installable, a.Drv, b.Drv)
	}
	for i := range a.Outputs {
		x, y := &a.Outputs[i], &b.Outputs[i]
		if x.Tree.SHA256 != y.Tree.SHA256 {
			r.Differs = append(r.Differs, OutputDiff{x.Name, x.Tree.SRI(), y.Tree.SRI(), x.Real, y.Real, nar.Diff(x.Tree, y.Tree)})
		}
	}
	return r, nil
}

// pause keeps two builds at least two seconds apart.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(2 * time.Second):
		return nil
	}
}

// InputDiff is the first thing in which two derivations differ, on the way from
// what was asked for down to its inputs.
type InputDiff struct {
	Path []string // names of derivations, from the top
	What string   // env PATH, builder, args[2], source, system, output out
	A, B string
}

// DiffDerivations walks two closures side by side and returns what differs where
// it begins: a derivation that differs only in its inputs leads on to them. At
// most 100 are listed.
func DiffDerivations(a, b map[string]*Derivation, topA, topB string) ([]InputDiff, error) {
	const most = 100
	var out []InputDiff
	seen := map[[2]string]bool{}
	var walk func(pa, pb string, way []string) error
	walk = func(pa, pb string, way []string) error {
		if pa == pb || seen[[2]string{pa, pb}] || len(out) >= most {
			return nil
		}
		seen[[2]string{pa, pb}] = true
		x, y := a[pa], b[pb]
		if x == nil || y == nil {
			return fmt.Errorf("nix: the closure does not hold %s", cmp.Or(missing(x, pa), pb))
		}
		way = append(slices.Clone(way), drvName(pa))
		own, pairs := compareDerivations(x, y)
		for _, d := range own {
			d.Path = way
			out = append(out, d)
		}
		for _, p := range pairs {
			if err := walk(p[0], p[1], way); err != nil {
				return err
			}
		}
		return nil
	}
	err := walk(topA, topB, nil)
	return out[:min(len(out), most)], err
}

func missing(d *Derivation, path string) string {
	if d == nil {
		return path
	}
	return ""
}

// drvName is a store path without its hash and ending.
func drvName(p string) string {
	name := p[strings.LastIndexByte(p, '/')+1:]
	if len(name) > 33 {
		name = name[33:]
	}
	return strings.TrimSuffix(name, ".drv")
}

// compareDerivations lists what two derivations differ in by themselves, and the
// pairs of inputs that lead on. Store paths that follow from other inputs are no
// difference of their own.
func compareDerivations(x, y *Derivation) (own []InputDiff, pairs [][2]string) {
	add := func(what, a, b string) {
		if a != b {
			own = append(own, InputDiff{What: what, A: a, B: b})
		}
	}
	// Inputs by name; several of one name in their order.
	left, right := map[string][]string{}, map[string][]string{}
	for p := range x.InputDrvs {
		if _, both := y.InputDrvs[p]; !both {
			left[drvName(p)] = append(left[drvName(p)], p)
		}
	}
	for p := range y.InputDrvs {
		if _, both := x.InputDrvs[p]; !both {
			right[drvName(p)] = append(right[drvName(p)], p)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		slices.Sort(left[name])
		slices.Sort(right[name])
		for i, p := range left[name] {
			if i < len(right[name]) {
				pairs = append(pairs, [2]string{p, right[name][i]})
			} else {
				add("input "+name, p, "")
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(right)) {
		for _, p := range right[name][min(len(right[name]), len(left[name])):] {
			add("input "+name, "", p)
		}
	}
	for _, s := range x.InputSrcs {
		if !slices.Contains(y.InputSrcs, s) {
			other := ""
			for _, t := range y.InputSrcs {
				if drvName(t) == drvName(s) && !slices.Contains(x.InputSrcs, t) {
					other = t
				}
			}
			add("source "+drvName(s), s, other)
		}
	}
	for _, s := range y.InputSrcs {
		if !slices.Contains(x.InputSrcs, s) && !slices.ContainsFunc(x.InputSrcs, func(t string) bool { return drvName(t) == drvName(s) && !slices.Contains(y.InputSrcs, t) }) {
			add("source "+drvName(s), "", s)
		}
	}
	plain := func(s string) string { return hashes.ReplaceAllString(s, "/nix/store/…-") }
	add("system", x.System, y.System)
	add("builder", plain(x.Builder), plain(y.Builder))
	for i := range max(len(x.Args), len(y.Args)) {
		add(fmt.Sprintf("args[%d]", i), plain(at(x.Args, i)), plain(at(y.Args, i)))
	}
	for _, name := range slices.Sorted(maps.Keys(union(x.Env, y.Env))) {
		if _, output := x.Outputs[name]; output {
			continue
		}
		add("env "+name, plain(x.Env[name]), plain(y.Env[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(union(x.Outputs, y.Outputs))) {
		add("output "+name, x.Outputs[name].HashAlgo+" "+x.Outputs[name].Hash, y.Outputs[name].HashAlgo+" "+y.Outputs[name].Hash)
	}
	return own, pairs
}

func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return ""
}

func union[V any](a, b map[string]V) map[string]bool {
	out := map[string]bool{}
	for k := range a {
		out[k] = true
	}
	for k := range b {
		out[k] = true
	}
	return out
}
