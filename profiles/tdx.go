package profiles

import (
	"embed"
	"path"
	"slices"
	"strings"
)

//go:embed tdx/*.yaml
var tdxFiles embed.FS

//go:embed snp/*.yaml
var snpFiles embed.FS

// SNP returns the profile of a family of SNP machines, in the form that
// snpmeasure reads.
func SNP(name string) ([]byte, bool) { return profileOf(snpFiles, "snp", name) }

// SNPNames lists the profiles of SNP machines by name.
func SNPNames() []string { return namesIn(snpFiles, "snp") }

// TDX returns the profile of a family of TDX machines, in the form that
// tdxmeasure reads.
func TDX(name string) ([]byte, bool) { return profileOf(tdxFiles, "tdx", name) }

// TDXNames lists the profiles by name.
func TDXNames() []string { return namesIn(tdxFiles, "tdx") }

func profileOf(files embed.FS, dir, name string) ([]byte, bool) {
	if !slices.Contains(namesIn(files, dir), name) {
		return nil, false
	}
	data, err := files.ReadFile(dir + "/" + name + ".yaml")
	return data, err == nil
}

func namesIn(files embed.FS, dir string) []string {
	entries, err := files.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(path.Base(e.Name()), ".yaml"))
	}
	return names
}
