package dstackattest

import (
	"encoding/hex"
	"fmt"

	"github.com/tinylib/msgp/msgp"

	"github.com/retally/retally/evidence/malformed"
)

// pack walks bytes in MessagePack; after an error every take is empty.
type pack struct {
	name string
	all  int
	data []byte
	err  error
}

func (p *pack) fail(field, found, want string) {
	if p.err == nil {
		p.err = &malformed.Error{Input: p.name, Place: malformed.Offset(p.all - len(p.data)), Field: field, Found: found, Want: want}
	}
}

// fields calls read for each member of a map; one that is there twice is refused,
// as nobody could say which counts.
func (p *pack) fields(field string, read func(key string)) {
	if p.err != nil {
		return
	}
	n, rest, err := msgp.ReadMapHeaderBytes(p.data)
	if err != nil {
		p.fail(field, err.Error(), "a map")
		return
	}
	p.data = rest
	seen := map[string]bool{}
	for ; n > 0 && p.err == nil; n-- {
		key := p.text(field)
		if seen[key] {
			p.fail(field, fmt.Sprintf("%q twice", key), "each member once")
		}
		seen[key] = true
		if p.err == nil {
			read(key)
		}
	}
}

func (p *pack) skip() {
	if p.err != nil {
		return
	}
	rest, err := msgp.Skip(p.data)
	if err != nil {
		p.fail("", err.Error(), "a value")
		return
	}
	p.data = rest
}

func (p *pack) text(field string) string {
	if p.err != nil {
		return ""
	}
	s, rest, err := msgp.ReadStringBytes(p.data)
	if err != nil {
		p.fail(field, err.Error(), "text")
		return ""
	}
	p.data = rest
	return s
}

func (p *pack) number(field string, most uint64) uint64 {
	if p.err != nil {
		return 0
	}
	n, rest, err := msgp.ReadUint64Bytes(p.data)
	if err != nil || n > most {
		p.fail(field, fmt.Sprintf("%d (%v)", n, err), fmt.Sprintf("a number up to %d", most))
		return 0
	}
	p.data = rest
	return n
}

func (p *pack) count(field string, most int) int {
	if p.err != nil {
		return 0
	}
	n, rest, err := msgp.ReadArrayHeaderBytes(p.data)
	if err != nil || int64(n) > int64(most) {
		p.fail(field, fmt.Sprintf("%d elements (%v)", n, err), fmt.Sprintf("a list of at most %d", most))
		return 0
	}
	p.data = rest
	return int(n)
}

// bytes reads bytes in the three forms in which Rust's serializers write them:
// binary, a list of numbers, base64 and the like as text.
func (p *pack) bytes(field string) []byte {
	if p.err != nil {
		return nil
	}
	switch msgp.NextType(p.data) {
	case msgp.ArrayType:
		n := p.count(field, len(p.data))
		out := make([]byte, 0, n)
		for ; n > 0 && p.err == nil; n-- {
			out = append(out, byte(p.number(field, 255)))
		}
		return out
	case msgp.BinType:
		b, rest, err := msgp.ReadBytesZC(p.data)
		if err != nil {
			p.fail(field, err.Error(), "bytes")
			return nil
		}
		p.data = rest
		return b
	}
	p.fail(field, msgp.NextType(p.data).String(), "bytes")
	return nil
}

// parseV1 reads AttestationV1: version, platform and stack, the latter two as
// {"kind", "data"}.
func parseV1(name string, raw []byte) (*Attestation, error) {
	p := &pack{name: name, all: len(raw), data: raw}
	a := &Attestation{}
	var events []event
	var stack string
	p.fields("attestation", func(key string) {
		switch key {
		case "version":
			a.Version = int(p.number("version", 1<<16))
		case "platform":
			a.Platform = Platform(p.tagged("platform", func(kind string) { a.platform(p, Platform(kind), &events) }))
		case "stack":
			stack = p.tagged("stack", func(string) { a.stack(p) })
		default:
			p.fail("attestation", fmt.Sprintf("the member %q", key), "version, platform and stack")
		}
	})
	switch {
	case p.err != nil:
	case len(p.data) > 0:
		p.fail("end", fmt.Sprintf("%d bytes more", len(p.data)), "the end")
	case a.Version != 1:
		p.fail("version", fmt.Sprint(a.Version), "1")
	case a.Platform == "" || stack == "":
		p.fail("attestation", "no platform or no stack", "both")
	case stack != "dstack" && stack != "dstack-pod":
		p.fail("stack", fmt.Sprintf("%q", stack), `"dstack" or "dstack-pod"`)
	}
	if p.err != nil {
		return nil, p.err
	}
	return a, a.takeLog(events)
}

// tagged reads {"kind": ..., "data": ...}, the kind first, as it is written.
func (p *pack) tagged(field string, read func(kind string)) (kind string) {
	p.fields(field, func(key string) {
		switch {
		case key == "kind":
			kind = p.text(field + " kind")
		case key == "data" && kind != "":
			read(kind)
		default:
			p.fail(field, fmt.Sprintf("the member %q", key), "kind, then data")
		}
	})
	return kind
}

func (a *Attestation) platform(p *pack, kind Platform, events *[]event) {
	switch kind {
	case TDX, GCPTDX, SNP:
	case Nitro, AWSNTPM:
		p.skip()
		return
	default:
		p.fail("platform", fmt.Sprintf("%q", string(kind)), "tdx, gcp-tdx, nitro-enclave, sev-snp or aws-nitro-tpm")
		return
	}
	p.fields("platform", func(key string) {
		switch tdx := kind != SNP; {
		case key == "quote" && tdx:
			a.Quote = p.bytes("quote")
		case key == "event_log" && tdx:
			for n := p.count("event log", maxEvents); n > 0 && p.err == nil; n-- {
				*events = append(*events, p.event())
			}
		case key == "report" && !tdx:
			a.Report = p.bytes("report")
		case key == "cert_chain" && !tdx:
			for n := p.count("certificates", maxEvents); n > 0 && p.err == nil; n-- {
				a.Certificates = append(a.Certificates, p.bytes("certificate"))
			}
		case key == "mr_config" && !tdx:
			a.MRConfig = p.text("mr_config")
		default:
			if key == "tpm_quote" {
				key = "the quote of the machine's virtual TPM"
			}
			a.Unread = append(a.Unread, key)
			p.skip()
		}
	})
}

func (p *pack) event() event {
	var e event
	p.fields("event", func(key string) {
		switch key {
		case "imr":
			e.IMR = uint32(p.number(key, 3))
		case "event_type":
			e.Type = uint32(p.number(key, 1<<32-1))
		case "digest":
			e.Digest = hex.EncodeToString(p.bytes(key))
		case "event":
			e.Name = p.text(key)
		case "event_payload":
			e.Payload = hex.EncodeToString(p.bytes(key))
		case "version":
			e.Version = p.number(key, 2)
		default: // preimage: what the digest is of is computed from name and payload
			p.skip()
		}
	})
	return e
}

func (a *Attestation) stack(p *pack) {
	p.fields("stack", func(key string) {
		switch key {
		case "report_data":
			if a.ReportData = p.bytes(key); p.err == nil && len(a.ReportData) != 64 {
				p.fail(key, fmt.Sprintf("%d bytes", len(a.ReportData)), "64")
			}
		case "config":
			a.Config = p.text(key)
		case "runtime_events": // the same events as in the log, for other platforms
			p.skip()
		default:
			a.Unread = append(a.Unread, key)
			p.skip()
		}
	})
}
