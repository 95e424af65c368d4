// Package release orders the names of releases.
package release

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Compare orders the names of releases, older first: v0.0.9 before
// v0.0.25-beta.2 before v0.0.25 ("Semantic Versioning 2.0.0", item 11).
func Compare(a, b string) int {
	split := func(v string) (release, pre []string) {
		r, p, _ := strings.Cut(strings.TrimPrefix(v, "v"), "-")
		if p != "" {
			pre = strings.Split(p, ".")
		}
		return strings.Split(r, "."), pre
	}
	ra, pa := split(a)
	rb, pb := split(b)
	if c := slices.CompareFunc(ra, rb, compareIdentifiers); c != 0 {
		return c
	}
	switch {
	case pa == nil && pb == nil:
		return 0
	case pa == nil:
		return 1
	case pb == nil:
		return -1
	}
	return slices.CompareFunc(pa, pb, compareIdentifiers)
}

// compareIdentifiers: numbers by value and below words, words by bytes.
func compareIdentifiers(a, b string) int {
	na, ea := strconv.ParseUint(a, 10, 32)
	nb, eb := strconv.ParseUint(b, 10, 32)
	switch {
	case ea == nil && eb == nil:
		return cmp.Compare(na, nb)
	case ea == nil:
		return -1
	case eb == nil:
		return 1
	}
	return strings.Compare(a, b)
}
