package tdxmeasure

import (
	"fmt"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/trace"
)

// Replayed are the RTMRs that an event log claims, and what in it contradicts
// itself.
type Replayed struct {
	RTMR     [4]digest.Digest
	Trace    [4]Trace
	Problems []string
	// Notes are what is odd in the log and contradicts nothing.
	Notes []string
	// Contents are what the events of each register hold, as Trace counts them.
	Contents [4][]Content
}

// Content is what an event of a log holds beside its digest.
type Content struct {
	Type eventlog.Type
	Text string // what the data says to people, whole; "" where nothing
	Data []byte
}

// LogFormat is the form of an event log.
type LogFormat string

const (
	// CCEL is the binary log of a TDX guest; its registers count from 1.
	CCEL LogFormat = "ccel"
	// DstackJSON is dstack's list; its registers count from 0.
	DstackJSON LogFormat = "dstack"
)

// ReplayLog reads a log of a TDX guest and folds its events. A JSON list is
// told from a binary log by its first byte.
func ReplayLog(file string, data []byte) (*Replayed, LogFormat, error) {
	for _, c := range data {
		switch c {
		case ' ', '\t', '\n', '\r':
			continue
		case '{':
			return nil, DstackJSON, fmt.Errorf("%s: a JSON object, want an event log", file)
		case '[':
			log, err := eventlog.ParseJSON(file, data)
			if err != nil {
				return nil, DstackJSON, err
			}
			r, err := replay(log, 0)
			return r, DstackJSON, err
		}
		break
	}
	log, err := eventlog.Parse(data)
	if err != nil {
		return nil, CCEL, fmt.Errorf("%s: %w", file, err)
	}
	r, err := replay(log, 1)
	if err != nil {
		err = fmt.Errorf("%s: %w", file, err)
	}
	return r, CCEL, err
}

func replay(log *eventlog.Log, first uint32) (*Replayed, error) {
	r := &Replayed{}
	for i := range r.Trace {
		r.Trace[i] = newTrace(trace.Extend)
	}
	for i := range log.Events {
		e := &log.Events[i]
		if e.Type == eventlog.NoAction || e.Register < first {
			continue // MRTD is never extended by events
		}
		n := e.Register - first
		if n > 3 {
			return nil, &Error{Input: "event log", Offset: e.Offset, Found: fmt.Sprintf("register %d", e.Register), Want: fmt.Sprintf("%d to %d", first, first+3), Hint: "it is the log of a TPM, which has PCRs: retally tpm replay folds it"}
		}
		d, ok := e.Digest(digest.SHA384)
		if e.Type == eventlog.DstackRuntime {
			own := RuntimeEvent{Name: e.Name, Payload: e.Data, Version: e.Version}.Digest()
			if ok && own != d {
				r.Problems = append(r.Problems, fmt.Sprintf("event %d (%s): digest %s, its name and payload give %s", i, e.Name, d.Hex(), own.Hex()))
			}
			if !ok {
				d, ok = own, true
			}
		}
		if !ok {
			return nil, &Error{Input: "event log", Offset: e.Offset, Found: fmt.Sprintf("event %d (%s) without a SHA-384 digest", i, e.Label()), Want: "one"}
		}
		r.Contents[n] = append(r.Contents[n], Content{e.Type, e.Text(), e.Data})
		r.Trace[n].Add(e.Label(), d, trace.Origin{Input: "event log", Offset: e.Offset, Size: -1})
	}
	r.separators()
	for _, p := range log.Problems() {
		// dstack's list leaves the payloads of firmware events out.
		if first == 0 {
			continue
		}
		r.Problems = append(r.Problems, fmt.Sprintf("event %d (%s): digest %s, its data gives %s", p.Index, p.Label, p.Claimed.Hex(), p.Derived.Hex()))
	}
	for i := range r.Trace {
		var err error
		if r.RTMR[i], err = r.Trace[i].Compute(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// separators notes registers with more than one: firmware ends its part of a
// register once. Firmware of some clouds writes it twice (go-eventlog calls it a
// fault of UEFI); it can also be somebody's addition.
func (r *Replayed) separators() {
	for n, events := range r.Contents {
		var at []string
		for i, c := range events {
			if c.Type == eventlog.Separator {
				at = append(at, fmt.Sprint(i))
			}
		}
		if len(at) > 1 {
			r.Notes = append(r.Notes, fmt.Sprintf("rtmr%d has %d separators, events %s: firmware ends its part of a register with one; a second is a known fault of some firmware", n, len(at), strings.Join(at, ", ")))
		}
	}
}

// FirstDifference returns the index of the first event in which two traces
// differ, and the labels there; index -1 where they are equal. A trace that
// ends has the label "".
func FirstDifference(got, want Trace) (index int, gotLabel, wantLabel string) {
	for i := range max(len(got.Events), len(want.Events)) {
		var a, b trace.Event
		if i < len(got.Events) {
			a = got.Events[i]
		}
		if i < len(want.Events) {
			b = want.Events[i]
		}
		if a.Digest != b.Digest {
			return i, a.Label, b.Label
		}
	}
	return -1, "", ""
}
