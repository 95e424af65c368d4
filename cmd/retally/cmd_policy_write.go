package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/retally/retally/policygen"
)

// outFile is a file that a run writes.
type outFile struct {
	name string
	data func() []byte // texts are put together one at a time
}

// write puts everything into the folder of --out, or nothing. It adds the names
// to the rows.
func (g *policyGenerate) write(out *policygen.Output, rows []policyRow) error {
	taken := map[string]bool{}
	stem := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(shownName(g.file)), ".yaml"), ".yml")
	annotated := fileName(stem, taken) + ".annotated.yaml"
	files := []outFile{{annotated, func() []byte { return out.YAML }}}
	for i := range out.Policies {
		p := &out.Policies[i]
		parts := []string{strings.ToLower(p.Kind)}
		for _, part := range []string{p.Namespace, p.Name} {
			if part != "" {
				parts = append(parts, part)
			}
		}
		base := fileName(strings.Join(parts, "-"), taken)
		rows[i].Files = map[string]string{
			"policy": base + ".rego", "policy_data": base + ".policy_data.json", "initdata": base + ".initdata.toml", "yaml": annotated,
		}
		files = append(files,
			outFile{base + ".rego", p.Text},
			outFile{base + ".policy_data.json", func() []byte { return p.Data }},
			outFile{base + ".initdata.toml", p.Initdata},
		)
	}
	inputs := append([]string{g.file, g.rules, g.settings, g.initdata}, g.configFiles...)
	if err := writeAll(g.out, files, inputs); err != nil {
		return &userError{op: "write policies", path: g.out, err: err, hint: "nothing was changed; --out names another folder"}
	}
	return nil
}

// fileName makes a name that is one file's in one folder, whatever the YAML
// calls its workloads. A name that had to be changed or is taken already gets a
// number.
func fileName(wish string, taken map[string]bool) string {
	const longest = 120
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
			return r
		}
		return '_'
	}, wish)
	name = strings.TrimLeft(name[:min(len(name), longest)], ".")
	if name == "" {
		name = "_"
	}
	// Some file systems do not tell case apart.
	for n, base := 2, name; taken[strings.ToLower(name)]; n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	taken[strings.ToLower(name)] = true
	return name
}

// writeAll writes files into a folder, which is made if need be: all of them
// under other names first, so that a failure leaves what was there as it was.
// Inputs are never written over.
func writeAll(dir string, files []outFile, inputs []string) (err error) {
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
		if err := free(root, f.name, inputs); err != nil {
			return err
		}
	}
	prefix := ".retally-" + rand.Text() + "-"
	written := 0
	defer func() {
		if err == nil {
			return
		}
		for _, f := range files[:written] {
			_ = root.Remove(prefix + f.name)
		}
		if made {
			_ = os.Remove(dir)
		}
	}()
	for _, f := range files {
		w, err := root.OpenFile(prefix+f.name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		written++
		_, err = w.Write(f.data())
		if err = errors.Join(err, w.Close()); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := root.Rename(prefix+f.name, f.name); err != nil {
			return err
		}
	}
	return nil
}

// free reports what stands in the way of writing a file.
func free(root *os.Root, name string, inputs []string) error {
	info, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is there already and no regular file", name)
	}
	for _, input := range inputs {
		if other, err := os.Stat(input); input != "" && err == nil && os.SameFile(info, other) {
			return fmt.Errorf("%s is an input of this run and is not written over", name)
		}
	}
	return nil
}
