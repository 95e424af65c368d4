package trace

import (
	"fmt"
	"io"

	"github.com/retally/retally/internal/show"
)

// Text shows the events that a value is folded from, a line each: index, digest,
// label, and where its bytes lie.
func (t Trace) Text(w io.Writer) {
	for i, e := range t.Events {
		from := ""
		switch {
		case e.Origin.Input != "" && e.Origin.Size >= 0:
			from = fmt.Sprintf("  (%s, %d bytes at %#x)", e.Origin.Input, e.Origin.Size, e.Origin.Offset)
		case e.Origin.Input != "":
			from = "  (" + e.Origin.Input + ")"
		}
		show.Line(w, "  %3d  %-96s  %s%s", i, e.Digest.Hex(), e.Label, from)
	}
}
