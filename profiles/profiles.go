// Package profiles holds what is known about releases of other people's
// deployments as data, each file with its source and what is confirmed.
package profiles

import (
	"embed"
	"path"
	"slices"
	"strconv"
	"strings"
)

//go:embed privatemode/*.yaml
var files embed.FS

// PrivatemodePlan returns the manifest edits (a manifest.Plan) that apply to a
// release of Privatemode: the plan of the newest release in which they changed
// that is not newer than the one asked for. name is that release ("v1.26.0"
// for "v1.30.0"), so that the caller can say which plan was taken. ok is false
// for a text that is no version and for one before v1.10.0, the first with
// public edits. A version newer than all known ones gets the newest plan;
// whether its edits are still these is for the caller to doubt.
func PrivatemodePlan(version string) (name string, data []byte, ok bool) {
	want, ok := parse(version)
	if !ok {
		return "", nil, false
	}
	for _, v := range PrivatemodePlans() {
		have, _ := parse(v)
		if slices.Compare(have[:], want[:]) <= 0 {
			name = v
		}
	}
	if name == "" {
		return "", nil, false
	}
	data, err := files.ReadFile("privatemode/" + name + ".yaml")
	return name, data, err == nil
}

// PrivatemodePlans lists the releases that changed the edits, oldest first.
func PrivatemodePlans() []string {
	entries, err := files.ReadDir("privatemode")
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(path.Base(e.Name()), ".yaml"))
	}
	slices.SortFunc(names, func(a, b string) int {
		x, _ := parse(a)
		y, _ := parse(b)
		return slices.Compare(x[:], y[:])
	})
	return names
}

// parse reads "v1.2.3", with or without the v.
func parse(version string) (v [3]int, ok bool) {
	parts := strings.Split(strings.TrimPrefix(version, "v"), ".")
	if len(parts) != 3 {
		return v, false
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return v, false
		}
		v[i] = int(n)
	}
	return v, true
}
