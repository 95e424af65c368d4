package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/retally/retally/internal/outfile"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/stages/policies"
)

// writePolicies puts everything into the folder of --out, or nothing.
func (g *policyGenerate) writePolicies(v *policies.Generated) error {
	err := g.writeAll(g.out, v.Files(config.Shown(g.file)))
	var refused *outfile.Error
	if err == nil || errors.As(err, &refused) {
		return err
	}
	return &userError{op: "write policies", path: g.out, err: err, hint: "nothing was changed; --out names another folder"}
}

// policyKind is the kind of a file of a policy, by its name.
func policyKind(name string) outfile.Kind {
	switch {
	case strings.HasSuffix(name, ".rego"):
		return outfile.KindOf("policy")
	case strings.HasSuffix(name, ".policy_data.json"):
		return outfile.KindOf("policy data")
	case strings.HasSuffix(name, ".toml"):
		return outfile.KindOf("initdata")
	default:
		return outfile.KindOf("annotated YAML")
	}
}

// writeAll writes files into a folder, which is made if need be: all of them
// under other names first, so that a failure leaves what was there as it was.
func (o *outputs) writeAll(dir string, files []policies.OutFile) (err error) {
	made := false
	if _, serr := os.Stat(dir); errors.Is(serr, fs.ErrNotExist) {
		made = true
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, f := range files {
		if err := o.guard.Check(filepath.Join(dir, f.Name), policyKind(f.Name)); err != nil {
			return err
		}
		if info, err := root.Lstat(f.Name); err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("%s is there already and no regular file", f.Name)
		}
	}
	prefix := ".retally-" + rand.Text() + "-"
	written := 0
	defer func() {
		if err == nil {
			return
		}
		for _, f := range files[:written] {
			_ = root.Remove(prefix + f.Name)
		}
		if made {
			_ = os.Remove(dir)
		}
	}()
	for _, f := range files {
		w, err := root.OpenFile(prefix+f.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		written++
		_, err = w.Write(f.Data())
		if err = errors.Join(err, w.Close()); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := root.Rename(prefix+f.Name, f.Name); err != nil {
			return err
		}
	}
	return nil
}
