package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/fixtures"
	"github.com/retally/retally/internal/atomicfile"
	"github.com/retally/retally/pipeline/config"
)

// demoMark tells a folder that the demo made from one of the user's.
const demoMark = ".retally-demo"

func (a *app) demoCommand() *cobra.Command {
	var (
		flags  runFlags
		dir    string
		tamper string
	)
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Recount an example deployment that is built in, and compare it with its published manifest",
		Long: `Write the built-in example deployment into a folder, run the whole pipeline on
it and compare with its published manifest. It needs no network, no root and no
other program. --tamper changes one input first, to show how a difference is
found and explained:

` + tamperText(),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			targets, err := flags.targets()
			if err != nil {
				return err
			}
			if err := flags.checkOnly(); err != nil {
				return err
			}
			files, what, err := demoFiles(tamper)
			if err != nil {
				return err
			}
			if dir, err = a.demoFolder(dir, files); err != nil {
				return err
			}
			a.talk("retally: the example deployment is in %s", dir)
			if what != "" {
				a.talk("retally: tampered with: %s", what)
			}
			cfg, input, root, err := a.loadConfig(filepath.Join(dir, config.FileName))
			if err != nil {
				return err
			}
			flags.protectConfig(cfg, root)
			if err := flags.checkTargets(targets); err != nil {
				return err
			}
			flags.next = "retally demo --tamper policy shows a difference; retally check PATH takes something of your own"
			if tamper != "" {
				flags.next = "retally demo without --tamper agrees again"
			}
			res, err := a.execute(cmd.Context(), cfg, root, "the built-in example deployment, against its published manifest", input, &flags)
			if err != nil {
				return err
			}
			if err := a.writeOut(&flags.outputs, filepath.Join(dir, "retally-out"), res); err != nil {
				return err
			}
			if err := a.finish(&flags.comparison, targets, res.Report); err != nil {
				return err
			}
			return nil
		},
	}
	flags.flags(cmd)
	cmd.Flags().StringVar(&dir, "dir", "", "folder to write the example into (default: a new temporary folder)")
	cmd.Flags().StringVar(&tamper, "tamper", "", "change one input: "+strings.Join(tamperNames(), ", "))
	return cmd
}

func tamperNames() []string {
	var names []string
	for _, t := range fixtures.Tampers() {
		names = append(names, t.Name)
	}
	return names
}

func tamperText() string {
	var b strings.Builder
	for _, t := range fixtures.Tampers() {
		fmt.Fprintf(&b, "  %-11s %s\n", t.Name, t.What)
	}
	return strings.TrimRight(b.String(), "\n")
}

// demoFiles returns the example's files with the change that was asked for.
func demoFiles(tamper string) (files []fixtures.File, what string, err error) {
	if files, err = fixtures.Demo(); err != nil || tamper == "" {
		return files, "", err
	}
	if err := oneOf("--tamper", tamper, tamperNames()...); err != nil {
		return nil, "", err
	}
	for _, t := range fixtures.Tampers() {
		if t.Name == tamper {
			what = t.What
			files, err = t.Apply(files)
		}
	}
	return files, what, err
}

// demoFolder writes the files. A folder that is not empty is only used if an
// earlier demo made it; a killed demo leaves whole files that are written again.
func (a *app) demoFolder(dir string, files []fixtures.File) (string, error) {
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "retally-demo-"); err != nil {
			return "", &userError{op: "make demo folder", err: err, hint: "name one with --dir"}
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", &userError{op: "make demo folder", path: dir, err: reason(err)}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", &userError{op: "read demo folder", path: dir, err: reason(err)}
	}
	mark := filepath.Join(dir, demoMark)
	if _, err := os.Lstat(mark); err != nil {
		for _, e := range entries {
			// What a killed demo leaves before its mark is only the mark's own
			// temporary file.
			if !strings.HasPrefix(e.Name(), "."+demoMark) {
				return "", &userError{op: "make demo folder", path: dir, msg: "is not empty and was not made by retally demo", hint: "name another folder with --dir"}
			}
		}
		if err := atomicfile.Write(mark, []byte("made by retally demo, which may overwrite the files here\n"), 0o644); err != nil {
			return "", err
		}
	}
	if err := sweepDemo(dir, files); err != nil {
		return "", err
	}
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, f.Data) {
			continue // an unchanged file keeps its stat identity
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", &userError{op: "make demo folder", path: filepath.Dir(path), err: reason(err)}
		}
		if err := atomicfile.Write(path, f.Data, 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// sweepDemo removes what an earlier demo with other content left among the
// images and models: a layout must hold its own blobs only.
func sweepDemo(dir string, files []fixtures.File) error {
	wanted := map[string]bool{}
	for _, f := range files {
		wanted[filepath.Join(dir, filepath.FromSlash(f.Name))] = true
	}
	for _, sub := range []string{"images", "models"} {
		err := filepath.WalkDir(filepath.Join(dir, sub), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || wanted[path] {
				return err
			}
			return os.Remove(path)
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &userError{op: "clear demo folder", path: dir, err: err}
		}
	}
	return nil
}
