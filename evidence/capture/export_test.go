package capture

// CheckIndex reads an index and gives the pages that have a file, by kind.
func CheckIndex(text []byte) (files map[Kind]string, connections int, err error) {
	x, err := parseIndex(text)
	if err != nil {
		return nil, 0, err
	}
	files = map[Kind]string{}
	for _, p := range x.Pages {
		if p.File != "" {
			files[p.Kind] += p.File
		}
		if p.Problem == "" && (p.Connection < 1 || p.Connection > len(x.Connections)) {
			panic("a page without a connection")
		}
	}
	return files, len(x.Connections), nil
}
