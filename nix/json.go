// Package nix drives Nix and does not take its word: it builds a flake's
// attribute in a store of its own without substituters, says of every output
// whether it was built here, checks that a second build gives the same, and
// hashes the bytes that lie in the store by itself.
package nix

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// maxJSON bounds what is read of one command's output, in bytes.
const maxJSON = 256 << 20

// Built is a derivation that `nix build --json` names.
type Built struct {
	DrvPath string
	Outputs map[string]string // name -> store path
}

// ParseBuild reads what `nix build --json` prints, of Nix 2.8 and newer: a list
// of derivations, in no order that means anything. Unknown members, and entries
// that are no derivations, are passed over; an output without a path is an error.
func ParseBuild(data []byte) ([]Built, error) {
	var list []struct {
		DrvPath *string
		Outputs map[string]json.RawMessage
	}
	if err := decode(data, &list); err != nil {
		return nil, fmt.Errorf("nix build --json: %w", err)
	}
	var out []Built
	for i, e := range list {
		if e.DrvPath == nil {
			continue
		}
		b := Built{DrvPath: storePath(*e.DrvPath), Outputs: map[string]string{}}
		for name, raw := range e.Outputs {
			p, err := outputPath(raw)
			if err != nil {
				return nil, fmt.Errorf("nix build --json: entry %d, output %s: %w", i, name, err)
			}
			b.Outputs[name] = p
		}
		if len(b.Outputs) == 0 {
			return nil, fmt.Errorf("nix build --json: entry %d (%s) has no outputs", i, b.DrvPath)
		}
		out = append(out, b)
	}
	if len(out) == 0 {
		return nil, errors.New("nix build --json: no derivation in it")
	}
	return out, nil
}

// outputPath reads a path, or an object that holds one.
func outputPath(raw json.RawMessage) (string, error) {
	var p *string
	if err := json.Unmarshal(raw, &p); err != nil {
		var o struct{ Path *string }
		if json.Unmarshal(raw, &o) != nil {
			return "", errors.New("neither a path nor an object with one")
		}
		p = o.Path
	}
	if p == nil || *p == "" {
		return "", errors.New("no path")
	}
	s := storePath(*p)
	return s, checkStorePath(s)
}

// storePath completes the base names that newer versions print.
func storePath(p string) string {
	if p != "" && !strings.HasPrefix(p, "/") {
		return "/nix/store/" + p
	}
	return p
}

var storeName = regexp.MustCompile(`^/[^\x00]+/[0-9abcdfghijklmnpqrsvwxyz]{32}-[0-9A-Za-z+._?=-]{1,211}$`)

// hashes are the parts of texts that follow from other inputs.
var hashes = regexp.MustCompile(`/nix/store/[0-9abcdfghijklmnpqrsvwxyz]{32}-`)

// checkStorePath refuses what is no path of a store: the program opens it.
func checkStorePath(p string) error {
	if path.Clean(p) != p || !storeName.MatchString(p) {
		return fmt.Errorf("%q is no path of a Nix store", p)
	}
	return nil
}

// PathInfo is what a store's database says of a path. It is the store's word,
// not a fact about the bytes.
type PathInfo struct {
	Path       string
	Valid      bool
	NarHash    string // SRI, or "sha256:" and nix32
	NarSize    int64
	References []string
	Deriver    string
	Signatures []string
	// Ultimate: built here, by this store's own account.
	Ultimate bool
}

// ParsePathInfo reads `nix path-info --json` in both of its forms: a list (up to
// 2.18), or an object by path whose values may be null.
func ParsePathInfo(data []byte) ([]PathInfo, error) {
	type info struct {
		Path       string
		Valid      *bool
		NarHash    json.RawMessage
		NarSize    int64
		References []string
		Deriver    *string
		Signatures []string
		Ultimate   bool
	}
	var list []info
	switch data = bytes.TrimSpace(data); {
	case bytes.HasPrefix(data, []byte("[")):
		if err := decode(data, &list); err != nil {
			return nil, fmt.Errorf("nix path-info --json: %w", err)
		}
	default:
		var m map[string]*info
		if err := decode(data, &m); err != nil {
			return nil, fmt.Errorf("nix path-info --json: %w", err)
		}
		no := false
		for _, p := range slices.Sorted(maps.Keys(m)) {
			i := m[p]
			if i == nil {
				i = &info{Valid: &no}
			}
			i.Path = p
			list = append(list, *i)
		}
	}
	var out []PathInfo
	for i, e := range list {
		p := PathInfo{Path: storePath(e.Path), Valid: e.Valid == nil || *e.Valid, NarSize: e.NarSize, Signatures: e.Signatures, Ultimate: e.Ultimate}
		if err := checkStorePath(p.Path); err != nil {
			return nil, fmt.Errorf("nix path-info --json: entry %d: %w", i, err)
		}
		for _, r := range e.References {
			p.References = append(p.References, storePath(r))
		}
		if e.Deriver != nil {
			p.Deriver = storePath(*e.Deriver)
		}
		if len(e.NarHash) > 0 {
			// Newer versions can write an object of algorithm, format and hash.
			if json.Unmarshal(e.NarHash, &p.NarHash) != nil {
				var h struct{ Algorithm, Format, Hash string }
				if err := json.Unmarshal(e.NarHash, &h); err != nil || h.Hash == "" {
					return nil, fmt.Errorf("nix path-info --json: %s: its narHash is not understood", p.Path)
				}
				p.NarHash = h.Algorithm + "-" + h.Hash
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// Derivation is a build as it is written down, before it runs.
type Derivation struct {
	Path      string
	Outputs   map[string]Output
	InputSrcs []string
	InputDrvs map[string][]string
	System    string
	Builder   string
	Args      []string
	Env       map[string]string
}

// Output is one output of a derivation. A hash that is fixed means that the
// build may use the network.
type Output struct {
	Path, HashAlgo, Hash string
}

// ParseDerivations reads `nix show-derivation` (2.8) and `nix derivation show`
// (newer), with base names or whole paths, wrapped with a version or not.
func ParseDerivations(data []byte) (map[string]*Derivation, error) {
	var top map[string]json.RawMessage
	if err := decode(data, &top); err != nil {
		return nil, fmt.Errorf("nix show-derivation: %w", err)
	}
	if inner, ok := top["derivations"]; ok {
		top = nil
		if err := decode(inner, &top); err != nil {
			return nil, fmt.Errorf("nix show-derivation: %w", err)
		}
	}
	out := map[string]*Derivation{}
	for name, raw := range top {
		var d struct {
			Outputs map[string]struct {
				Path, Hash       *string
				HashAlgo, Method *string
			}
			InputSrcs []string
			InputDrvs map[string]json.RawMessage
			Inputs    *struct {
				Srcs []string
				Drvs map[string]json.RawMessage
			}
			System, Builder string
			Args            []string
			Env             map[string]string
		}
		if err := json.Unmarshal(raw, &d); err != nil {
			return nil, fmt.Errorf("nix show-derivation: %s: %w", name, err)
		}
		r := &Derivation{Path: storePath(name), Outputs: map[string]Output{}, InputDrvs: map[string][]string{}, System: d.System, Builder: d.Builder, Args: d.Args, Env: d.Env}
		if d.Inputs != nil {
			d.InputSrcs, d.InputDrvs = append(d.InputSrcs, d.Inputs.Srcs...), d.Inputs.Drvs
		}
		for n, o := range d.Outputs {
			r.Outputs[n] = Output{Path: storePath(or(o.Path)), HashAlgo: or(o.HashAlgo), Hash: or(o.Hash)}
		}
		for _, s := range d.InputSrcs {
			r.InputSrcs = append(r.InputSrcs, storePath(s))
		}
		for in, raw := range d.InputDrvs {
			var names []string
			if json.Unmarshal(raw, &names) != nil {
				var o struct{ Outputs []string }
				if err := json.Unmarshal(raw, &o); err != nil {
					return nil, fmt.Errorf("nix show-derivation: %s: input %s is not understood", name, in)
				}
				names = o.Outputs
			}
			r.InputDrvs[storePath(in)] = names
		}
		if len(r.Outputs) == 0 {
			return nil, fmt.Errorf("nix show-derivation: %s has no outputs", name)
		}
		out[r.Path] = r
	}
	if len(out) == 0 {
		return nil, errors.New("nix show-derivation: no derivation in it")
	}
	return out, nil
}

func or(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// decode reads exactly one value.
func decode(data []byte, into any) error {
	if len(data) > maxJSON {
		return fmt.Errorf("%d bytes, the limit is %d", len(data), maxJSON)
	}
	return json.Unmarshal(data, into)
}
