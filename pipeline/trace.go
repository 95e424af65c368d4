package pipeline

import "github.com/retally/retally/trace"

// Trace is the labelled list of events that a value is folded from.
type Trace = trace.Trace
