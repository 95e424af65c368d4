package run

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/retally/retally/internal/outfile"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
)

// InputPaths lists where every file and folder that a configuration names lies
// on this machine, so that none is written over. A text of it that leads to a
// file counts, too, whatever it means: no list of fields can fall behind.
func InputPaths(c *config.Config, root string) []string {
	at := NewReader(root, nil).Path
	var out []string
	for _, name := range c.Files() {
		out = append(out, at(name))
	}
	for _, text := range c.Texts() {
		if info, err := os.Stat(at(text)); err == nil && info.Mode().IsRegular() {
			out = append(out, at(text))
		}
	}
	for _, name := range c.Policies.Loose() {
		entries, err := os.ReadDir(at(name))
		if err != nil {
			out = append(out, at(name))
		}
		for _, e := range entries {
			if !e.IsDir() || e.Name() == "genpolicy-settings.d" {
				out = append(out, filepath.Join(at(name), e.Name()))
			}
		}
	}
	return out
}

// outKind is the kind of a file in the output folder, by its name.
func outKind(name string) outfile.Kind {
	switch {
	case name == "manifest.json":
		return outfile.KindOf("manifest")
	case name == "report.json":
		return outfile.Kind{Name: "a retally report", Is: pipeline.IsReport}
	case name == "run.json":
		return outfile.KindOf("run")
	case strings.HasPrefix(name, "deployment.") && strings.HasSuffix(name, ".yaml"):
		return outfile.KindOf("changed deployment")
	case strings.HasSuffix(name, ".rego"):
		return outfile.KindOf("policy")
	default:
		return outfile.KindOf("initdata")
	}
}

// CheckOut finds what stands against the files of an output folder, as far as
// their names are known before the work.
func CheckOut(g *outfile.Guard, dir string, names ...string) error {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil // it is made when there is something to write
	}
	for _, name := range names {
		if err := g.Check(filepath.Join(dir, name), outKind(name)); err != nil {
			return err
		}
	}
	return nil
}

// WriteOut writes what a run made into a folder, each file whole. What stands
// against one of them is found before the first is written.
func WriteOut(g *outfile.Guard, dir string, files []Artifact) error {
	paths := make([]string, len(files))
	for i, f := range files {
		var err error
		if paths[i], err = outfile.Folder(dir, filepath.FromSlash(f.Name)); err != nil {
			return err
		}
		if err := g.Check(paths[i], outKind(f.Name)); err != nil {
			return err
		}
	}
	for i, f := range files {
		if err := g.Write(paths[i], outKind(f.Name), f.Data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Circumstances is run.json: what the report leaves out because it is not a
// matter of the inputs.
type Circumstances struct {
	Tool    pipeline.Tool `json:"tool"`
	Reused  []string      `json:"stagesReused"`
	Trusted []string      `json:"inputsCachedByStat"`
}

// Circumstances are those of a run.
func (r *Result) Circumstances() Circumstances {
	return Circumstances{r.Report.Tool, append([]string{}, r.Reused...), append([]string{}, r.Trusted...)}
}

// Relative turns a path that starts at the working folder into one that starts
// at the configuration's folder.
func Relative(root, path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", &pipeline.InputError{Op: "find", File: path, Err: err}
	}
	absRoot, err := filepath.Abs(root)
	if err != nil {
		return "", &pipeline.InputError{Op: "find", File: root, Err: err}
	}
	rel, err := filepath.Rel(absRoot, abs)
	if err != nil {
		return abs, nil
	}
	return filepath.ToSlash(rel), nil
}
