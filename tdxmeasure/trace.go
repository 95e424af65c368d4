package tdxmeasure

import (
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/trace"
)

// Trace is the labelled list of events that a register is folded from: MRTD by
// trace.Running, an RTMR by trace.Extend, both under SHA-384.
type Trace = trace.Trace

// newTrace starts the trace of a register of 48 bytes.
func newTrace(fold trace.Fold) Trace {
	return Trace{Fold: fold, Algorithm: digest.SHA384, Events: []trace.Event{}}
}
