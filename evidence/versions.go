package evidence

import "github.com/retally/retally/internal/release"

// CompareVersions orders the names of releases, older first (package release).
func CompareVersions(a, b string) int { return release.Compare(a, b) }
