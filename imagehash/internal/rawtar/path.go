package rawtar

import "strings"

// CleanPath makes a path relative to the root, and reports whether a prefix of
// it leaves the root.
func CleanPath(name string) (clean string, escapes bool) {
	if !needsCleaning(name) {
		return name, false
	}
	depth := 0
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth == 0 {
				escapes = true
				continue
			}
			depth--
			parts = parts[:depth]
		default:
			parts = append(parts, part)
			depth++
		}
	}
	return strings.Join(parts, "/"), escapes
}

func needsCleaning(name string) bool {
	for i := 0; i < len(name); i++ {
		if (i == 0 || name[i-1] == '/') && (name[i] == '/' || name[i] == '.') {
			return true
		}
	}
	return len(name) == 0 || name[len(name)-1] == '/'
}
