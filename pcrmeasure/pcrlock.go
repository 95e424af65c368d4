package pcrmeasure

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/trace"
)

const maxRecords = 1 << 16

// PcrlockRecord is one measurement of a .pcrlock file.
type PcrlockRecord struct {
	PCR     int
	Digests []digest.Digest // one for each bank
	Label   string          // of ours; "" in files of others
}

// Pcrlock is a list of measurements in the form of systemd-pcrlock (systemd,
// systemd-pcrlock(8), after TCG Canonical Event Log, JSON encoding).
type Pcrlock struct {
	Records []PcrlockRecord
	// NV is the number of records for NV indices, which are no PCRs.
	NV int
}

// ReadPcrlock reads a .pcrlock file. What it says of its records' contents is
// not looked at: only the digests extend a PCR.
func ReadPcrlock(name string, data []byte) (*Pcrlock, error) {
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: 16 << 20})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	at := func(v *jsondoc.Value, pointer string) place.Where {
		line, column := jsondoc.Position(data, v.Offset)
		return place.Where{File: name, Line: line, Column: column, Pointer: pointer}
	}
	bad := func(v *jsondoc.Value, pointer, found, want string) error {
		return &place.Fault{Input: "pcrlock file", Where: at(v, pointer), Found: found, Want: want}
	}
	if doc.Kind != jsondoc.Object || doc.Get("records").IsNull() || doc.Get("records").Kind != jsondoc.Array {
		return nil, bad(doc, "/records", "no list", "a list of records")
	}
	list := doc.Get("records").Elems
	if len(list) > maxRecords {
		return nil, bad(doc, "/records", fmt.Sprintf("%d records", len(list)), fmt.Sprintf("at most %d", maxRecords))
	}
	p := &Pcrlock{}
	for i, v := range list {
		pointer := fmt.Sprintf("/records/%d", i)
		if v.Kind != jsondoc.Object {
			return nil, bad(v, pointer, "a "+v.Kind.String(), "a record")
		}
		pcr := v.Get("pcr")
		if pcr.IsNull() && !v.Get("nv_index").IsNull() {
			p.NV++
			continue
		}
		if pcr.IsNull() {
			return nil, bad(v, pointer, "no pcr", "one")
		}
		n, ok := pcr.Uint64()
		if !ok || n >= Count {
			return nil, bad(pcr, pointer+"/pcr", fmt.Sprintf("%.40q", pcr.Text), fmt.Sprintf("0 to %d", Count-1))
		}
		r := PcrlockRecord{PCR: int(n)}
		sums := v.Get("digests")
		if sums.IsNull() || sums.Kind != jsondoc.Array || len(sums.Elems) == 0 {
			return nil, bad(v, pointer+"/digests", "none", "a list of digests")
		}
		for j, s := range sums.Elems {
			pointer := fmt.Sprintf("%s/digests/%d", pointer, j)
			if s.Kind != jsondoc.Object || s.Get("hashAlg").IsNull() || s.Get("digest").IsNull() {
				return nil, bad(s, pointer, "no hashAlg or no digest", "both")
			}
			alg, err := digest.ParseAlgorithm(s.Get("hashAlg").Text)
			if err != nil {
				return nil, &place.Fault{Input: "pcrlock file", Where: at(s, pointer+"/hashAlg"), Err: err}
			}
			d, err := digest.ParseHex(alg, s.Get("digest").Text)
			if err != nil {
				return nil, &place.Fault{Input: "pcrlock file", Where: at(s, pointer+"/digest"), Err: err}
			}
			if slices.ContainsFunc(r.Digests, func(o digest.Digest) bool { return o.Algorithm() == alg }) {
				return nil, bad(s, pointer, "a second digest of "+alg.String(), "one of each bank")
			}
			r.Digests = append(r.Digests, d)
		}
		p.Records = append(p.Records, r)
	}
	return p, nil
}

// Trace lists what a .pcrlock file has of one PCR in one bank. A record without
// a digest of the bank is an error: the PCR would look shorter than it is.
func (p *Pcrlock) Trace(bank digest.Algorithm, pcr int) (Trace, error) {
	t := Trace{Fold: trace.Extend, Algorithm: bank, Initial: initialPCR(bank, pcr, 0), Events: []trace.Event{}}
	for i, r := range p.Records {
		if r.PCR != pcr {
			continue
		}
		j := slices.IndexFunc(r.Digests, func(d digest.Digest) bool { return d.Algorithm() == bank })
		if j < 0 {
			return t, &place.Fault{Op: "fold", Input: "pcrlock file", Where: place.Where{Pointer: fmt.Sprintf("/records/%d/digests", i)}, Found: "no " + bank.String(), Want: "one in each record of the PCR"}
		}
		label := r.Label
		if label == "" {
			label = fmt.Sprintf("record %d", i)
		}
		t.Add(label, r.Digests[j], trace.Origin{Size: -1})
	}
	return t, nil
}

// NewPcrlock joins predictions of one machine in several banks. PCRs that are
// missing in one of them, or that are assumed, are left out and returned with
// the reason: whoever locks to the file must not lock to a guess.
func NewPcrlock(predictions ...*Prediction) (p *Pcrlock, left map[int]string) {
	p, left = &Pcrlock{}, map[int]string{}
	for i := range Count {
		var all []*PCR
		for _, q := range predictions {
			switch got := q.PCRs[i]; {
			case got == nil:
				left[i] = q.Missing[i]
			case got.Basis == Assumed:
				left[i] = "its value is assumed"
			default:
				all = append(all, got)
			}
		}
		if left[i] != "" || len(all) == 0 {
			continue
		}
		same := true
		for _, q := range all[1:] {
			same = same && len(q.Trace.Events) == len(all[0].Trace.Events)
		}
		if !same {
			left[i] = "the banks have different events"
			continue
		}
		for n, e := range all[0].Trace.Events {
			r := PcrlockRecord{PCR: i, Label: e.Label}
			for _, q := range all {
				r.Digests = append(r.Digests, q.Trace.Events[n].Digest)
			}
			p.Records = append(p.Records, r)
		}
	}
	return p, left
}

type jsonRecord struct {
	PCR     int          `json:"pcr"`
	Digests []jsonDigest `json:"digests"`
	Type    string       `json:"content_type,omitempty"`
	Content any          `json:"content,omitempty"`
}

type jsonDigest struct {
	Alg    string `json:"hashAlg"`
	Digest string `json:"digest"`
}

// Append writes the file as systemd-pcrlock does, on one line. Labels stand
// where it keeps its own descriptions.
func (p *Pcrlock) Append(dst []byte) ([]byte, error) {
	doc := struct {
		Records []jsonRecord `json:"records"`
	}{Records: []jsonRecord{}}
	for _, r := range p.Records {
		j := jsonRecord{PCR: r.PCR}
		for _, d := range r.Digests {
			j.Digests = append(j.Digests, jsonDigest{d.Algorithm().String(), d.Hex()})
		}
		if r.Label != "" {
			j.Type, j.Content = "systemd", map[string]string{"string": r.Label}
		}
		doc.Records = append(doc.Records, j)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err != nil {
		return dst, fmt.Errorf("write pcrlock file: %w", err)
	}
	return append(dst, b.Bytes()...), nil
}
