package pipeline

import (
	"fmt"
	"slices"

	"github.com/retally/retally/internal/digest"
)

// Fold names how the events of a trace become one digest.
type Fold string

// The folds. A fold is added together with the room that needs it; Compute
// refuses one it does not know.
const (
	// Extend is the register of a TPM or of TDX: H(old || event), from zeros
	// (TPM 2.0 Library part 1, "PCR operations"; Intel TDX module ABI,
	// TDG.MR.RTMR.EXTEND). An event shorter than the register is filled up with
	// zero bytes: SecretVM extends RTMR3 with SHA-256 digests.
	Extend Fold = "extend"
	// Concat hashes the events' digests one after the other.
	Concat Fold = "concat"
	// History is Contrast's manifest history: H(event || old), from zeros.
	History Fold = "history"
	// Running is one hash over everything, as MRTD is built: each event's
	// digest is the state after it, so the last one is the value (Intel TDX
	// Module ABI, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND).
	Running Fold = "running"
)

// Trace is the labelled list of events that a value is folded from.
type Trace struct {
	Fold      Fold             `json:"fold"`
	Algorithm digest.Algorithm `json:"algorithm"`
	Events    []Event          `json:"events"`
}

// Event is one step: what was measured, its digest and which bytes it was.
type Event struct {
	Index  int           `json:"index"`
	Label  string        `json:"label"`
	Digest digest.Digest `json:"digest"`
	Origin Origin        `json:"origin"`
}

// Origin says which bytes of which input an event came from. Size is -1 where
// the event is not a run of input bytes but made by the rule that the label
// names.
type Origin struct {
	Input  string `json:"input,omitempty"`
	Offset int64  `json:"offset"`
	Size   int64  `json:"size"`
}

// Add appends an event and numbers it.
func (t *Trace) Add(label string, d digest.Digest, from Origin) {
	t.Events = append(t.Events, Event{Index: len(t.Events), Label: label, Digest: d, Origin: from})
}

// Compute folds the events.
func (t *Trace) Compute() (digest.Digest, error) {
	if !t.Algorithm.Valid() {
		return digest.Digest{}, fmt.Errorf("fold trace: no hash algorithm")
	}
	state := make([]byte, t.Algorithm.Size())
	if t.Fold == Running {
		state = t.Algorithm.Sum(nil).Bytes()
	}
	all := t.Algorithm.New()
	for _, e := range t.Events {
		if e.Digest.IsZero() {
			return digest.Digest{}, fmt.Errorf("fold trace: event %d (%s) has no digest", e.Index, e.Label)
		}
		b := e.Digest.Bytes()
		switch t.Fold {
		case Extend:
			if len(b) > len(state) {
				return digest.Digest{}, fmt.Errorf("fold trace: event %d (%s) has %d bytes, the register %d", e.Index, e.Label, len(b), len(state))
			}
			state = t.Algorithm.Sum(slices.Concat(state, b, make([]byte, len(state)-len(b)))).Bytes()
		case History:
			state = t.Algorithm.Sum(slices.Concat(b, state)).Bytes()
		case Concat:
			all.Write(b)
		case Running:
			state = b
		default:
			return digest.Digest{}, fmt.Errorf("fold trace: unknown fold %q", t.Fold)
		}
	}
	switch t.Fold {
	case Extend, History, Running:
		return digest.FromBytes(t.Algorithm, state)
	case Concat:
		return digest.FromHash(t.Algorithm, all), nil
	default:
		return digest.Digest{}, fmt.Errorf("fold trace: unknown fold %q", t.Fold)
	}
}
