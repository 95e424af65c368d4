package disk

// ParseState is for the fuzz test of checkpoints.
func ParseState(b []byte) (offset int64, err error) {
	s, err := parseState("c", b)
	return s.Offset, err
}
