package evidence

import (
	"bytes"
	"encoding/hex"
	"fmt"

	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// Event is one event of a log, as it was replayed.
type Event struct {
	RTMR    int
	Name    string // of dstack's runtime events, "" for the firmware's
	Payload []byte
}

// Replay is what an event log folds to. A register that the log has no events
// for is the zero Digest.
type Replay struct {
	RTMR     [4]digest.Digest
	Events   []Event
	Problems []string // events whose digest contradicts their payload
}

// ReplayFunc folds dstack's event log. The pipeline plugs tdxmeasure in.
type ReplayFunc func(log []byte) (*Replay, error)

// expectDstack: the event log folds to the registers, and its compose-hash is
// that of the compose file the caller expects. RTMR3 is as expected then,
// although no set gives its value: it differs with every instance.
func (r *Request) expectDstack(l *verdict.List, q *tdxquote.Quote, result *Result) {
	if r.Evidence.EventLog == nil {
		l.Note("event-log", "no event log beside the quote")
		return
	}
	if r.Replay == nil {
		l.Open("event-log", "cannot be replayed here")
		return
	}
	replay, err := r.Replay(r.Evidence.EventLog)
	if err != nil {
		l.Fail("event-log", err.Error())
		return
	}
	for _, p := range replay.Problems {
		l.Fail("event-log", p)
	}
	whole := true
	for i, got := range replay.RTMR {
		switch {
		case got.IsZero() && zeros(q.Body.RTMR[i]):
			whole = whole && i != 3
		case got.IsZero():
			whole = whole && i != 3
			l.Note("event-log", fmt.Sprintf("the log has no event for rtmr%d, which is not zero in the quote: it is not replayed", i))
		case got != q.Body.RTMR[i]:
			whole = false
			l.Fail("event-log", fmt.Sprintf("the log folds to %s, rtmr%d in the quote is %s", got.Hex(), i, q.Body.RTMR[i].Hex()))
		default:
			l.Pass("event-log", fmt.Sprintf("the log folds to rtmr%d", i))
		}
	}
	boot := bootEvents(replay.Events)
	result.Claims.Events = boot
	compose, err := one(boot, "compose-hash")
	if err != nil {
		l.Fail("event-log", err.Error())
		return
	}
	result.Claims.ComposeHash = hex.EncodeToString(compose)
	r.checkConfigID(l, q, compose)
	want := r.ComposeDigest()
	if want.IsZero() {
		l.Open("compose", "the machine runs the app compose document with SHA-256 "+hex.EncodeToString(compose)+"; none was given to compare")
		return
	}
	holds := bytes.Equal(compose, want.Bytes())
	if holds && r.ComposeSource == Sender {
		l.Open("compose", "the app compose document "+r.ComposeName()+" is the one in the event log, but it came with the evidence and is its sender's word")
		return
	}
	l.Judge("compose", holds, "the app compose document "+r.ComposeName()+" is the one in the event log",
		fmt.Sprintf("the app compose document %s has the SHA-256 %s, the machine runs %x", r.ComposeName(), want.Hex(), compose))
	if holds && whole {
		result.Vouched[RTMR3] = true
	}
}

// zeros reports whether a register was never extended.
func zeros(d digest.Digest) bool { return len(bytes.Trim(d.Bytes(), "\x00")) == 0 }

// checkConfigID: version 1 of dstack's MRCONFIGID is 01, the compose hash and
// zeros (dstack, attestation of the configuration). The host sets it before the
// machine starts; later versions hash more than the log shows.
func (r *Request) checkConfigID(l *verdict.List, q *tdxquote.Quote, compose []byte) {
	id := q.Body.MRCONFIGID
	switch {
	case id == [48]byte{}:
		l.Note("mrconfigid", "is zero: the host bound no configuration")
	case id[0] == 1:
		var want [48]byte
		want[0] = 1
		copy(want[1:], compose)
		l.Judge("mrconfigid", id == want, "is version 1 of the compose hash",
			fmt.Sprintf("is %x, the compose hash in the event log gives %x", id, want))
	default:
		l.Note("mrconfigid", fmt.Sprintf("is of version %d, which is not recomputed here: %x", id[0], id))
	}
}

// bootEvents are the named events of RTMR3 up to the end of booting. What comes
// later is extended by the application, under any name it likes.
func bootEvents(all []Event) []Event {
	var out []Event
	for _, e := range all {
		if e.RTMR != 3 {
			continue
		}
		out = append(out, e)
	}
	for _, end := range []string{"boot-mr-done", "system-ready"} {
		for i, e := range out {
			if e.Name == end {
				return out[:i+1]
			}
		}
	}
	return out
}

func one(events []Event, name string) ([]byte, error) {
	var found []byte
	n := 0
	for _, e := range events {
		if e.Name == name {
			found = e.Payload
			n++
		}
	}
	if n != 1 {
		return nil, fmt.Errorf("the event log has %d boot events %s, want 1", n, name)
	}
	return found, nil
}
