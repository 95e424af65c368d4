package release_test

import (
	"testing"

	"github.com/retally/retally/internal/release"
)

// TestCompare holds every pair of an ordered list.
func TestCompare(t *testing.T) {
	ordered := []string{"v0.0.9", "v0.0.25-beta.2", "v0.0.25-beta.10", "v0.0.25-rc", "v0.0.25", "v0.0.26-alpha", "v0.1", "v1.0.0", "vx"}
	for i, a := range ordered {
		for j, b := range ordered {
			got, want := release.Compare(a, b), 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got != want {
				t.Errorf("%s and %s: %d, want %d", a, b, got, want)
			}
		}
	}
}
