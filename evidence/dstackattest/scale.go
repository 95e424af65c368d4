package dstackattest

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"unicode/utf8"

	"github.com/retally/retally/evidence/malformed"
)

// scale walks bytes in Parity's SCALE codec; after an error every take is empty.
type scale struct {
	name string
	data []byte
	at   int
	err  error
}

func (r *scale) fail(at int, field, found, want string) {
	if r.err == nil {
		r.err = &malformed.Error{Input: r.name, Place: malformed.Offset(at), Field: field, Found: found, Want: want}
	}
}

func (r *scale) take(n int, field string) []byte {
	if r.err == nil && n > len(r.data)-r.at {
		r.fail(r.at, field, fmt.Sprintf("%d bytes left", len(r.data)-r.at), fmt.Sprintf("%d bytes", n))
	}
	if r.err != nil {
		return nil
	}
	r.at += n
	return r.data[r.at-n : r.at : r.at]
}

// compact reads a length: 6, 14 or 30 bits by the two lowest bits of its first
// byte. Longer ones are beyond every limit here. One in more bytes than it needs
// is refused, as the codec wants.
func (r *scale) compact(field string) int {
	at := r.at
	first := r.take(1, field)
	if first == nil {
		return 0
	}
	size := map[byte]int{0: 1, 1: 2, 2: 4}[first[0]&3]
	if size == 0 {
		r.fail(at, field, "a length of more than 30 bits", "at most 30")
		return 0
	}
	r.at = at
	var whole [4]byte
	copy(whole[:], r.take(size, field))
	n := int(binary.LittleEndian.Uint32(whole[:]) >> 2)
	if least := map[int]int{1: 0, 2: 1 << 6, 4: 1 << 14}[size]; r.err == nil && n < least {
		r.fail(at, field, fmt.Sprintf("%d in %d bytes", n, size), "the shortest form")
	}
	return n
}

func (r *scale) bytes(field string) []byte { return r.take(r.compact(field), field) }

func (r *scale) text(field string) string {
	at := r.at
	b := r.bytes(field)
	if !utf8.Valid(b) {
		r.fail(at, field, "bytes that are no UTF-8", "text")
	}
	return string(b)
}

func (r *scale) u32(field string) uint32 {
	b := r.take(4, field)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint32(b)
}

func (r *scale) count(field string) int {
	at := r.at
	n := r.compact(field)
	if n > maxEvents {
		r.fail(at, field, fmt.Sprint(n), fmt.Sprintf("at most %d", maxEvents))
		return 0
	}
	return n
}

// parseV0 reads Attestation of version 0: the platform's evidence, runtime events,
// 64 bytes of report data, the configuration.
func parseV0(name string, raw []byte) (*Attestation, error) {
	r := &scale{name: name, data: raw, at: 1}
	a := &Attestation{}
	var events []event
	at := r.at
	switch v := r.take(1, "platform"); {
	case v == nil:
	case v[0] == 0, v[0] == 1:
		a.Platform = TDX
		a.Quote = r.bytes("quote")
		events = r.events()
		if v[0] == 1 && r.err == nil {
			// What follows is behind the TPM's quote, whose form is dstack's own.
			a.Platform = GCPTDX
			a.Unread = append(a.Unread, "the quote of the machine's virtual TPM, and behind it report data and configuration")
			return a, a.takeLog(events)
		}
	case v[0] == 3:
		a.Platform = SNP
		a.Report = r.bytes("report")
		for n := r.count("certificates"); n > 0 && r.err == nil; n-- {
			a.Certificates = append(a.Certificates, r.bytes("certificate"))
		}
		a.MRConfig = r.text("mr_config")
	case v[0] == 2, v[0] == 4:
		a.Platform = map[byte]Platform{2: Nitro, 4: AWSNTPM}[v[0]]
		return a, nil
	default:
		r.fail(at, "platform", fmt.Sprint(v[0]), "0 to 4")
	}
	for n := r.count("runtime events"); n > 0 && r.err == nil; n-- {
		r.text("runtime event")
		r.bytes("runtime event payload")
	}
	a.ReportData = r.take(64, "report data")
	a.Config = r.text("config")
	if r.err == nil && r.at != len(raw) {
		r.fail(r.at, "end", fmt.Sprintf("%d bytes more", len(raw)-r.at), "the end")
	}
	if r.err != nil {
		return nil, r.err
	}
	return a, a.takeLog(events)
}

func (r *scale) events() []event {
	var out []event
	for n := r.count("event log"); n > 0 && r.err == nil; n-- {
		e := event{IMR: r.u32("imr"), Type: r.u32("event type"), Digest: hex.EncodeToString(r.bytes("digest"))}
		e.Name, e.Payload = r.text("event"), hex.EncodeToString(r.bytes("event payload"))
		out = append(out, e)
	}
	return out
}
