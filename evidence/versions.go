package evidence

// CompareVersions orders the names of releases, older first: v0.0.9 before
// v0.0.25-beta.2 before v0.0.25 ("Semantic Versioning 2.0.0", item 11).
func CompareVersions(a, b string) int { return compareVersions(a, b) }
