package tpm

import (
	"slices"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/pcrmeasure"
)

// Folded is a TPM's event log with the PCRs that it gives.
type Folded struct {
	// Banks are those that every record has a digest of, the widest last.
	Banks    []digest.Algorithm
	PCRs     map[digest.Algorithm][]digest.Digest
	Events   []FoldedEvent // that extend a PCR
	Problems []string
}

// FoldedEvent is one record.
type FoldedEvent struct {
	PCR     int
	Label   string
	Text    string // whole, "" where the data says nothing to people
	Data    []byte
	Digests []digest.Digest
	Offset  int64
}

// Fold reads a TPM's event log. ok is false for the log of a TDX guest.
func Fold(name string, data []byte) (f *Folded, ok bool, err error) {
	log, err := pcrmeasure.ReadLog(name, data, pcrmeasure.FormAuto)
	if err != nil {
		return nil, false, err
	}
	if log.Form == pcrmeasure.FormCCEL {
		return nil, false, nil
	}
	f = &Folded{}
	if f.PCRs, err = log.ReplayAll(); err != nil {
		return nil, true, err
	}
	for bank := range f.PCRs {
		f.Banks = append(f.Banks, bank)
	}
	slices.SortFunc(f.Banks, func(a, b digest.Algorithm) int { return a.Size() - b.Size() })
	for i := range log.Events {
		e := &log.Events[i]
		if !e.Extends() {
			continue
		}
		raw := eventlog.Event{Type: e.Type, Data: e.Data}
		f.Events = append(f.Events, FoldedEvent{e.Register, e.Label, raw.Text(), e.Data, e.Digests, e.Offset})
	}
	for _, p := range log.Problems() {
		f.Problems = append(f.Problems, p.String())
	}
	return f, true, nil
}
