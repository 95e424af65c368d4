package disk

import (
	"io"

	"github.com/retally/retally/verity/erofs"
)

// ParseState is for the fuzz test of checkpoints.
func ParseState(b []byte) (offset int64, err error) {
	s, err := parseState("c", b)
	return s.Offset, err
}

// Through puts what opens the files of a layout behind something else.
func (l *Layout) Through(wrap func(erofs.Content) erofs.Content) {
	l.dir = wrapped{wrap(l.dir), l.dir}
}

type wrapped struct {
	erofs.Content
	io.Closer
}
