package profiles

import (
	"embed"
	"path"
	"slices"
	"strings"
)

//go:embed tdx/*.yaml
var tdxFiles embed.FS

// TDX returns the profile of a family of TDX machines, in the form that
// tdxmeasure reads.
func TDX(name string) ([]byte, bool) {
	if !slices.Contains(TDXNames(), name) {
		return nil, false
	}
	data, err := tdxFiles.ReadFile("tdx/" + name + ".yaml")
	return data, err == nil
}

// TDXNames lists the profiles by name.
func TDXNames() []string {
	entries, err := tdxFiles.ReadDir("tdx")
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(path.Base(e.Name()), ".yaml"))
	}
	return names
}
