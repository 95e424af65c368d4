// Package dstackattest reads dstack's versioned attestation, the reply of its
// guest agent's Attest and what its RA-TLS certificates carry: a quote or report
// with event log, report data and configuration in one. Two forms are known:
// version 0 in SCALE, version 1 in MessagePack. Everything in one is its sender's
// word; nothing is verified here.
//
// Sources: dstack, crate dstack-attest (VersionedAttestation, AttestationV1) and
// crate cc-eventlog (TdxEvent); Parity, "SCALE codec"; "MessagePack
// specification".
package dstackattest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/retally/retally/evidence/malformed"
)

// Limits. Real attestations have about 10 KiB; dstack itself stops at 10 MiB.
const (
	MaxSize   = 4 << 20
	maxEvents = 4096
)

// Platform is the hardware that made the evidence, by dstack's names.
type Platform string

// The platforms, in the order of their numbers in version 0.
const (
	TDX     Platform = "tdx"
	GCPTDX  Platform = "gcp-tdx" // with the quote of a virtual TPM
	Nitro   Platform = "nitro-enclave"
	SNP     Platform = "sev-snp"
	AWSNTPM Platform = "aws-nitro-tpm"
)

// Attestation is what is read of one.
type Attestation struct {
	Version  int
	Platform Platform

	Quote    []byte // TDX: nil otherwise
	EventLog []byte // as dstack's JSON of events; nil: none

	Report       []byte   // SEV-SNP: nil otherwise
	Certificates [][]byte // beside the report, as they came
	MRConfig     string   // the document that the report's host data bind

	ReportData []byte // 64 bytes, as the sender says
	Config     string // vm_config

	// Unread names parts that are there and not read.
	Unread []string
}

// Recognize reports whether bytes begin as an attestation: version 0 with a
// number of a platform and what must follow it, version 1 with a map in which the
// platform stands. The first hundred bytes suffice.
func Recognize(raw []byte) bool {
	if len(raw) < 64 {
		return false
	}
	if raw[0] == 0 {
		r := &scale{data: raw, at: 2}
		n := r.compact("")
		if r.err != nil || n < 48 {
			return false
		}
		inner := raw[r.at:]
		switch raw[1] {
		case 0, 1:
			return (inner[0] >= 1 && inner[0] <= 5) && inner[1] == 0 && binary.LittleEndian.Uint32(inner[4:]) == 0x81
		case 3:
			return n >= 1184 && inner[0] >= 2 && inner[0] <= 5 && inner[1] == 0
		case 2, 4: // COSE_Sign1: an array of 4, with or without its tag
			return inner[0] == 0x84 || inner[0] == 0xd2
		}
		return false
	}
	head := raw[:min(len(raw), 96)]
	return isMap(raw[0]) && bytes.Contains(head, []byte("\xa8platform")) && bytes.Contains(head, []byte("\xa4kind"))
}

// Parse reads an attestation. name is the input in errors.
func Parse(name string, raw []byte) (*Attestation, error) {
	switch {
	case len(raw) > MaxSize:
		return nil, &malformed.Error{Input: name, Field: "size", Found: fmt.Sprintf("%d bytes", len(raw)), Want: fmt.Sprintf("at most %d", MaxSize)}
	case len(raw) == 0:
		return nil, &malformed.Error{Input: name, Found: "nothing", Want: "a dstack attestation"}
	case raw[0] == 0:
		return parseV0(name, raw)
	case isMap(raw[0]):
		return parseV1(name, raw)
	}
	return nil, &malformed.Error{Input: name, Place: malformed.Offset(0), Found: fmt.Sprintf("%#02x", raw[0]), Want: "a dstack attestation: 0 (version 0) or a MessagePack map (version 1)"}
}

// isMap recognizes the first byte of a map (fixmap, map 16, map 32).
func isMap(b byte) bool { return b&0xf0 == 0x80 || b == 0xde || b == 0xdf }

// event is one event of the log, as dstack's JSON has it.
type event struct {
	IMR     uint32 `json:"imr"`
	Type    uint32 `json:"event_type"`
	Digest  string `json:"digest"`
	Name    string `json:"event"`
	Payload string `json:"event_payload"`
	Version uint64 `json:"version,omitempty"`
}

// acpiData is the type of the events that carry ACPI tables, which dstack keeps
// by themselves ("lite"), with this payload.
const (
	acpiData        = 10
	acpiDataPayload = "ACPI DATA"
)

// takeLog takes the events over. dstack leaves the events of firmware out, but for
// those of the ACPI tables: a selection of a register's events leads to nothing,
// so it is named and left out.
func (a *Attestation) takeLog(events []event) error {
	whole, selected := map[uint32]bool{}, map[uint32]int{}
	for _, e := range events {
		if e.IMR == 0 && e.Type == acpiData && e.Payload == hex.EncodeToString([]byte(acpiDataPayload)) {
			selected[e.IMR]++
		} else {
			whole[e.IMR] = true
		}
	}
	out := make([]event, 0, len(events))
	for _, e := range events {
		if whole[e.IMR] {
			out = append(out, e)
		}
	}
	if n := selected[0]; n > 0 && !whole[0] {
		a.Unread = append(a.Unread, fmt.Sprintf("%d events of rtmr0 (digests of ACPI tables), a selection that leads to no register", n))
	}
	if len(out) == 0 {
		return nil
	}
	var err error
	a.EventLog, err = json.Marshal(out)
	return err
}
