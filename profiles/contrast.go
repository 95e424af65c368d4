package profiles

import (
	"embed"
	"slices"
)

//go:embed contrast/*.yaml
var contrastFiles embed.FS

// Contrast returns what depends on a release of Contrast, in the form that
// package deployment/contrast reads: the file of that release, or of the newest
// one that is not newer, whose name says so. ok is false for a text that is no
// version and for a release before the first known one.
func Contrast(version string) (name string, data []byte, ok bool) {
	want, ok := parse(version)
	if !ok {
		return "", nil, false
	}
	for _, v := range ContrastReleases() {
		if have, _ := parse(v); slices.Compare(have[:], want[:]) <= 0 {
			name = v
		}
	}
	if name == "" {
		return "", nil, false
	}
	data, err := contrastFiles.ReadFile("contrast/" + name + ".yaml")
	return name, data, err == nil
}

// ContrastReleases lists the known releases, oldest first.
func ContrastReleases() []string {
	names := namesIn(contrastFiles, "contrast")
	slices.SortFunc(names, func(a, b string) int {
		x, _ := parse(a)
		y, _ := parse(b)
		return slices.Compare(x[:], y[:])
	})
	return names
}
