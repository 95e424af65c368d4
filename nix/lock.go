package nix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Locked is what an input of a flake is locked to.
type Locked struct {
	Type    string // github, git, path, tarball, …
	Source  string // owner/repo, url or path
	Rev     string
	NarHash string // SRI
}

// ParseMetadata reads `nix flake metadata --json`: the nodes of the lock, by
// their names. A node that is locked to nothing is an error, for it may be
// another one tomorrow; the flake itself, the root, is not among them.
func ParseMetadata(data []byte) (map[string]Locked, error) {
	var m struct {
		Locks struct {
			Root    string
			Version int
			Nodes   map[string]struct {
				Locked *struct{ Type, Owner, Repo, URL, Path, Rev, NarHash string }
			}
		}
	}
	if err := decode(data, &m); err != nil {
		return nil, fmt.Errorf("nix flake metadata --json: %w", err)
	}
	if m.Locks.Version < 5 || m.Locks.Version > 7 {
		return nil, fmt.Errorf("nix flake metadata --json: locks of version %d are not known (5 to 7)", m.Locks.Version)
	}
	if _, ok := m.Locks.Nodes[m.Locks.Root]; !ok {
		return nil, errors.New("nix flake metadata --json: the locks have no root")
	}
	out := map[string]Locked{}
	for name, n := range m.Locks.Nodes {
		if name == m.Locks.Root {
			continue
		}
		if n.Locked == nil || n.Locked.NarHash == "" && n.Locked.Rev == "" {
			return nil, fmt.Errorf("nix flake metadata --json: input %s is locked to nothing", name)
		}
		l := Locked{n.Locked.Type, n.Locked.URL + n.Locked.Path, n.Locked.Rev, n.Locked.NarHash}
		if n.Locked.Owner != "" {
			l.Source = n.Locked.Owner + "/" + n.Locked.Repo
		}
		out[name] = l
	}
	return out, nil
}

// ParseShow reads `nix flake show --json` and lists the packages for a system.
func ParseShow(data []byte, system string) ([]string, error) {
	var m struct {
		Packages map[string]map[string]json.RawMessage
	}
	if err := decode(data, &m); err != nil {
		return nil, fmt.Errorf("nix flake show --json: %w", err)
	}
	return slices.Sorted(maps.Keys(m.Packages[system])), nil
}

// Inputs are what the inputs of an installable's flake are locked to.
func (n *Nix) Inputs(ctx context.Context, installable string) (map[string]Locked, error) {
	if err := CheckInstallable(installable); err != nil {
		return nil, err
	}
	flake, _, _ := strings.Cut(installable, "#")
	args := []string{"flake", "metadata", "--json", "--log-format", "internal-json", "--no-write-lock-file"}
	for _, o := range n.o.Overrides {
		args = append(args, "--override-input", o[0], o[1])
	}
	out, log, code, err := n.run(ctx, n.nix, append(args, flake)...)
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return nil, trouble("flake metadata", code, log)
	}
	return ParseMetadata(out)
}

// DiffInputs lists the inputs that are locked to something else.
func DiffInputs(a, b map[string]Locked) []InputDiff {
	var out []InputDiff
	add := func(name, what, x, y string) {
		if x != y {
			out = append(out, InputDiff{[]string{"flake.lock", name}, what, x, y})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(union(a, b))) {
		x, inA := a[name]
		y, inB := b[name]
		if !inA || !inB {
			add(name, "input", strings.TrimSpace(x.Source+" "+x.Rev+x.NarHash), strings.TrimSpace(y.Source+" "+y.Rev+y.NarHash))
			continue
		}
		add(name, "source", x.Type+" "+x.Source, y.Type+" "+y.Source)
		add(name, "rev", x.Rev, y.Rev)
		if x.Rev == y.Rev {
			add(name, "narHash", x.NarHash, y.NarHash)
		}
	}
	return out
}
