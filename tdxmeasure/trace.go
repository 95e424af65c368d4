package tdxmeasure

import (
	"crypto/sha512"
	"fmt"

	"github.com/retally/retally/internal/digest"
)

// Fold names how the events of a trace become the register.
type Fold string

const (
	// Extend is RTMR = SHA-384(RTMR || event), from 48 zero bytes; an event
	// shorter than 48 bytes is padded with zero bytes on the right (Intel TDX
	// Module ABI, TDG.MR.RTMR.EXTEND).
	Extend Fold = "extend"
	// Running is one SHA-384 over everything, as MRTD is built: each event's
	// digest is the state after it, so the last one is the register (Intel TDX
	// Module ABI, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND). The first event that
	// differs between two traces names the section that differs.
	Running Fold = "running"
)

// Origin says which bytes of which input an event came from. Size is -1 where
// the event is not a run of input bytes but made by the rule its label names.
type Origin struct {
	Input  string `json:"input,omitempty"`
	Offset int64  `json:"offset"`
	Size   int64  `json:"size"`
}

// Event is one step of a register: what was measured, its digest, and where
// the bytes are.
type Event struct {
	Label  string        `json:"label"`
	Digest digest.Digest `json:"digest"`
	Origin Origin        `json:"origin"`
}

// Trace is the labelled list of events that a register is folded from.
type Trace struct {
	Fold   Fold    `json:"fold"`
	Events []Event `json:"events"`
}

func (t *Trace) add(label string, d digest.Digest, from Origin) {
	t.Events = append(t.Events, Event{Label: label, Digest: d, Origin: from})
}

// made appends an event whose bytes a rule makes.
func (t *Trace) made(label string, data []byte) {
	t.add(label, digest.SHA384.Sum(data), Origin{Size: -1})
}

// Compute folds the events into the 48-byte register. A trace without events
// is the register's initial value.
func (t *Trace) Compute() (digest.Digest, error) {
	if t.Fold == Running && len(t.Events) > 0 {
		return t.Events[len(t.Events)-1].Digest, nil
	}
	if t.Fold == Running {
		return digest.SHA384.Sum(nil), nil
	}
	if t.Fold != Extend {
		return digest.Digest{}, fmt.Errorf("fold trace: unknown fold %q", t.Fold)
	}
	var buf [96]byte
	for i, e := range t.Events {
		d := e.Digest.Bytes()
		if len(d) == 0 || len(d) > 48 {
			return digest.Digest{}, fmt.Errorf("fold trace: event %d (%s) has a digest of %d bytes, want 1 to 48", i, e.Label, len(d))
		}
		clear(buf[48:])
		copy(buf[48:], d)
		sum := sha512.Sum384(buf[:])
		copy(buf[:48], sum[:])
	}
	return digest.FromBytes(digest.SHA384, buf[:48])
}
