// Package trace holds the labelled list of events that every register, launch
// digest and history of this house is folded from. A room makes the events;
// the value is what the fold gives, never computed beside it.
package trace

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
	// Module ABI, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND). The first event that
	// differs between two traces names the section that differs.
	Running Fold = "running"
	// GCTX is the launch digest of SEV-SNP: each event is a range of pages and
	// its digest the launch digest after it, from zeros (SEV-SNP Firmware ABI,
	// section 8.17.2, PAGE_INFO). The room computes the pages of a range; the
	// first event that differs names the range that differs.
	GCTX Fold = "gctx"
)

// Trace is the labelled list of events that a value is folded from.
type Trace struct {
	Fold      Fold             `json:"fold"`
	Algorithm digest.Algorithm `json:"algorithm"`
	// Initial is the state before the first event where it is not zeros: TPM
	// 2.0 PCR 0 after a start from another locality ends in that locality.
	Initial []byte  `json:"initial,omitempty"`
	Events  []Event `json:"events"`
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

// Made appends an event whose bytes a rule makes; its digest is that of data
// under the trace's algorithm.
func (t *Trace) Made(label string, data []byte) {
	t.Add(label, t.Algorithm.Sum(data), Origin{Size: -1})
}

// initial is the state before the first event.
func (t *Trace) initial() ([]byte, error) {
	size := t.Algorithm.Size()
	switch {
	case len(t.Initial) > 0 && t.Fold != Extend:
		return nil, fmt.Errorf("fold trace: a fold %q starts from one state only", t.Fold)
	case len(t.Initial) > 0 && len(t.Initial) != size:
		return nil, fmt.Errorf("fold trace: the state before the first event has %d bytes, the register %d", len(t.Initial), size)
	case len(t.Initial) > 0:
		return slices.Clone(t.Initial), nil
	case t.Fold == Running:
		return t.Algorithm.Sum(nil).Bytes(), nil
	default:
		return make([]byte, size), nil
	}
}

// Compute folds the events. A trace without events gives the initial value.
func (t *Trace) Compute() (digest.Digest, error) {
	if !t.Algorithm.Valid() {
		return digest.Digest{}, fmt.Errorf("fold trace: no hash algorithm")
	}
	state, err := t.initial()
	if err != nil {
		return digest.Digest{}, err
	}
	all, step := t.Algorithm.New(), t.Algorithm.New()
	var zeros [digest.MaxSize]byte
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
			step.Reset()
			step.Write(state)
			step.Write(b)
			step.Write(zeros[:len(state)-len(b)])
			state = step.Sum(state[:0])
		case History:
			state = t.Algorithm.Sum(slices.Concat(b, state)).Bytes()
		case Concat:
			all.Write(b)
		case Running, GCTX:
			state = b
		default:
			return digest.Digest{}, fmt.Errorf("fold trace: unknown fold %q", t.Fold)
		}
	}
	switch t.Fold {
	case Extend, History, Running, GCTX:
		return digest.FromBytes(t.Algorithm, state)
	case Concat:
		return digest.FromHash(t.Algorithm, all), nil
	default:
		return digest.Digest{}, fmt.Errorf("fold trace: unknown fold %q", t.Fold)
	}
}
