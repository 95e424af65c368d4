package policies

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/retally/retally/internal/outfile"
)

// Files are the annotated YAML, and each policy with its data and its document.
// It names them in the rows. Stem is what the YAML is called without its ending.
func (g *Generated) Files(stem string) []outfile.File {
	taken := map[string]bool{}
	stem = strings.TrimSuffix(strings.TrimSuffix(filepath.Base(stem), ".yaml"), ".yml")
	annotated := FileName(stem, taken) + ".annotated.yaml"
	files := []outfile.File{{Name: annotated, Kind: outfile.KindOf("annotated YAML"), Data: func() []byte { return g.out.YAML }}}
	for i := range g.out.Policies {
		p := &g.out.Policies[i]
		parts := []string{strings.ToLower(p.Kind)}
		for _, part := range []string{p.Namespace, p.Name} {
			if part != "" {
				parts = append(parts, part)
			}
		}
		base := FileName(strings.Join(parts, "-"), taken)
		g.Rows[i].Files = map[string]string{
			"policy": base + ".rego", "policy_data": base + ".policy_data.json", "initdata": base + ".initdata.toml", "yaml": annotated,
		}
		files = append(files,
			outfile.File{Name: base + ".rego", Kind: outfile.KindOf("policy"), Data: p.Text},
			outfile.File{Name: base + ".policy_data.json", Kind: outfile.KindOf("policy data"), Data: func() []byte { return p.Data }},
			outfile.File{Name: base + ".initdata.toml", Kind: outfile.KindOf("initdata"), Data: p.Initdata},
		)
	}
	return files
}

// FileName makes a name that is one file's in one folder, whatever the YAML
// calls its workloads. A name that had to be changed or is taken already gets a
// number.
func FileName(wish string, taken map[string]bool) string {
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
