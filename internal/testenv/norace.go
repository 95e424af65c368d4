//go:build !race

package testenv

// Race says that the race detector is in the program, whose memory is then not
// the program's own.
const Race = false
