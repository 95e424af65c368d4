// Package eventlog reads the event logs that firmware and operating systems
// keep beside measurement registers: the TCG binary format, as TPMs and the
// CCEL table of TDX guests use it (TCG PC Client Platform Firmware Profile,
// chapter 10; Intel, Guest-Host Communication Interface for TDX, CCEL), and
// dstack's JSON list.
//
// A log is a claim: nothing in it is trusted until its replay equals a signed
// register.
package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/retally/retally/internal/digest"
)

// Type is the type of an event.
type Type uint32

// The types that are told apart (TCG PC Client Platform Firmware Profile,
// table 14).
const (
	PostCode          Type = 0x1
	NoAction          Type = 0x3
	Separator         Type = 0x4
	EventTag          Type = 0x6
	CRTMVersion       Type = 0x8
	PlatformConfig    Type = 0xa
	CompactHash       Type = 0xc
	IPL               Type = 0xd
	NonHostInfo       Type = 0x11
	OmitBootEvents    Type = 0x12
	VariableConfig    Type = 0x80000001
	VariableBoot      Type = 0x80000002
	BootApplication   Type = 0x80000003
	BootDriver        Type = 0x80000004
	RuntimeDriver     Type = 0x80000005
	GPT               Type = 0x80000006
	Action            Type = 0x80000007
	FirmwareBlob      Type = 0x80000008
	FirmwareBlob2     Type = 0x8000000a
	HandoffTables2    Type = 0x8000000b
	VariableAuth      Type = 0x800000e0
	DstackRuntime     Type = 0x08000001
	maxEvents              = 1 << 16
	maxAlgorithms          = 16
	specSignature          = "Spec ID Event03\x00"
	localitySignature      = "StartupLocality\x00"
)

var typeNames = map[Type]string{
	PostCode: "POST code", NoAction: "no action", Separator: "separator", EventTag: "event tag", CRTMVersion: "CRTM version",
	PlatformConfig: "platform configuration", IPL: "IPL", VariableConfig: "variable", VariableBoot: "boot variable",
	BootApplication: "boot application", BootDriver: "boot driver", RuntimeDriver: "runtime driver", CompactHash: "compact hash",
	NonHostInfo: "non-host information", OmitBootEvents: "omitted boot events", GPT: "partition table", Action: "action", FirmwareBlob: "firmware blob",
	FirmwareBlob2: "firmware blob", HandoffTables2: "hand-off tables", VariableAuth: "variable authority", DstackRuntime: "runtime event",
}

// String names the type, or gives its number.
func (t Type) String() string {
	if n, ok := typeNames[t]; ok {
		return n
	}
	return fmt.Sprintf("type %#x", uint32(t))
}

// algorithms by TPM_ALG_ID (TCG Algorithm Registry). SM3 (0x12) is read past.
var algorithms = map[uint16]digest.Algorithm{0x4: digest.SHA1, 0xb: digest.SHA256, 0xc: digest.SHA384, 0xd: digest.SHA512}

// Event is one record.
type Event struct {
	// Register is the first field of a record: the PCR; in a CCEL log the
	// measurement register, 0 MRTD and 1 to 4 RTMR0 to RTMR3. In dstack's list
	// it is the number of the RTMR.
	Register uint32
	Type     Type
	Digests  []digest.Digest // claimed, one for each known algorithm
	Data     []byte
	Offset   int64  // of the record in the log
	Name     string // of a dstack runtime event
	Version  int    // of a dstack runtime event's digest, 0 elsewhere
}

// Digest returns the claimed digest of an algorithm.
func (e *Event) Digest(a digest.Algorithm) (digest.Digest, bool) {
	for _, d := range e.Digests {
		if d.Algorithm() == a {
			return d, true
		}
	}
	return digest.Digest{}, false
}

// Log is a parsed log.
type Log struct {
	// Algorithms that every record has a digest of, as the log's head says.
	Algorithms []digest.Algorithm
	Events     []Event
	// Locality is what PCR 0 starts with in its last byte.
	Locality byte
	// SHA1Form says that the log has no head: each record has a SHA-1 digest.
	SHA1Form bool
	// Unread are algorithms of the log's head whose digests are read past.
	Unread []uint16
	// End is where the records end and only filling should follow.
	End int64
}

// Error says what is wrong with a log, and where.
type Error struct {
	Offset int64
	Found  string
	Want   string
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("read event log: offset %#x: %s, want %s", e.Offset, e.Found, e.Want)
}

type reader struct {
	data []byte
	at   int
	err  error
}

func (r *reader) take(n int, what string) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.data)-r.at {
		r.fail(r.at, fmt.Sprintf("%d bytes of %s", n, what), "%d are left", len(r.data)-r.at)
		return nil
	}
	b := r.data[r.at : r.at+n]
	r.at += n
	return b
}

func (r *reader) fail(at int, want, format string, args ...any) {
	if r.err == nil {
		r.err = &Error{Offset: int64(at), Found: fmt.Sprintf(format, args...), Want: want}
	}
}

func (r *reader) u32(what string) uint32 {
	if b := r.take(4, what); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u16(what string) uint16 {
	if b := r.take(2, what); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// Parse reads a binary log, with or without the padding up to its area's
// length.
func Parse(data []byte) (*Log, error) {
	r := &reader{data: data}
	first := r.sha1Record()
	if r.err != nil {
		return nil, r.err
	}
	log := &Log{}
	if first.Type != NoAction || !bytes.HasPrefix(first.Data, []byte(specSignature)) {
		return sha1Log(data)
	}
	sizes, err := log.specID(first.Data)
	if err != nil {
		return nil, err
	}
	// Records of real logs have some 300 bytes.
	log.Events = append(make([]Event, 0, 16+min(len(data)/300, 1024)), first)
	for r.at < len(data) && !r.padding() {
		if len(log.Events) == maxEvents {
			r.fail(r.at, fmt.Sprintf("at most %d records", maxEvents), "one more record")
		}
		e := r.record(sizes)
		if r.err != nil {
			return log, r.err
		}
		log.Events = append(log.Events, e)
		log.locality(e)
	}
	log.End = int64(r.at)
	return log, r.err
}

func (l *Log) locality(e Event) {
	if e.Type == NoAction && e.Register == 0 && len(e.Data) == 17 && string(e.Data[:16]) == localitySignature {
		l.Locality = e.Data[16]
	}
}

// padding reports whether only filling is left: 0xff, or zero bytes. A register
// of ffffffff alone is none: Windows writes records of type "no action" with it.
func (r *reader) padding() bool {
	rest := r.data[r.at:]
	head := rest[:min(len(rest), 12)] // register, type and count
	if len(bytes.TrimLeft(head, "\xff")) == 0 {
		return true
	}
	if !bytes.Equal(head, make([]byte, len(head))) {
		return false // they are never all zero in a record
	}
	return len(bytes.TrimLeft(rest, "\x00")) == 0
}

// sha1Log reads a log all of whose records have one SHA-1 digest.
func sha1Log(data []byte) (*Log, error) {
	r := &reader{data: data}
	log := &Log{Algorithms: []digest.Algorithm{digest.SHA1}, SHA1Form: true}
	for r.at < len(data) && !r.padding() {
		if len(log.Events) == maxEvents {
			r.fail(r.at, fmt.Sprintf("at most %d records", maxEvents), "one more record")
		}
		e := r.sha1Record()
		if r.err != nil {
			return log, r.err
		}
		log.Events = append(log.Events, e)
		log.locality(e)
	}
	log.End = int64(r.at)
	return log, r.err
}

func (r *reader) sha1Record() Event {
	e := Event{Offset: int64(r.at)} // before anything is read
	e.Register, e.Type = r.u32("register"), Type(r.u32("type"))
	sum := r.take(20, "SHA-1 digest")
	e.Data = r.take(int(r.u32("data size")), "event data")
	if r.err == nil {
		if d, err := digest.FromBytes(digest.SHA1, sum); err == nil {
			e.Digests = []digest.Digest{d}
		}
	}
	return e
}

// specID reads the algorithms from the first record's data.
func (l *Log) specID(data []byte) (map[uint16]int, error) {
	const header = 32 // first record up to its data
	r := &reader{data: data}
	r.take(24, "specification ID")
	n := int(r.u32("number of algorithms"))
	if r.err == nil && (n < 1 || n > maxAlgorithms) {
		r.fail(24, fmt.Sprintf("1 to %d", maxAlgorithms), "%d algorithms", n)
	}
	sizes := map[uint16]int{}
	for range n {
		if r.err != nil {
			break
		}
		at := r.at
		id, size := r.u16("algorithm"), int(r.u16("digest size"))
		if a, ok := algorithms[id]; ok && a.Size() != size {
			r.fail(at+2, fmt.Sprintf("%d for %s", a.Size(), a), "digest size %d", size)
		} else if ok && !slices.Contains(l.Algorithms, a) {
			l.Algorithms = append(l.Algorithms, a)
		} else if !ok && !slices.Contains(l.Unread, id) {
			l.Unread = append(l.Unread, id)
		}
		if size > digest.MaxSize {
			r.fail(at+2, fmt.Sprintf("at most %d", digest.MaxSize), "digest size %d", size)
		}
		sizes[id] = size
	}
	if vendor := r.take(1, "vendor size"); vendor != nil {
		r.take(int(vendor[0]), "vendor information")
	}
	if e, ok := r.err.(*Error); ok {
		return nil, &Error{Offset: e.Offset + header, Found: e.Found, Want: e.Want}
	}
	return sizes, nil
}

func (r *reader) record(sizes map[uint16]int) Event {
	e := Event{Offset: int64(r.at)} // before anything is read
	e.Register, e.Type = r.u32("register"), Type(r.u32("type"))
	at := r.at
	n := int(r.u32("digest count"))
	if r.err == nil && n > len(sizes) {
		r.fail(at, fmt.Sprintf("at most %d", len(sizes)), "%d digests", n)
	}
	if r.err == nil && n > 0 {
		e.Digests = make([]digest.Digest, 0, n)
	}
	for range n {
		if r.err != nil {
			return e
		}
		at := r.at
		id := r.u16("algorithm")
		size, ok := sizes[id]
		if !ok {
			r.fail(at, "one of the log's head", "algorithm %#x", id)
			return e
		}
		a, known := algorithms[id]
		if known {
			if _, twice := e.Digest(a); twice {
				r.fail(at, "one digest of each algorithm", "a second digest of algorithm %#x", id)
			}
		}
		sum := r.take(size, "digest")
		if known && r.err == nil {
			if d, err := digest.FromBytes(a, sum); err == nil {
				e.Digests = append(e.Digests, d)
			}
		}
	}
	e.Data = r.take(int(r.u32("data size")), "event data")
	return e
}

// Append writes a record in the crypto agile form.
func (e Event) Append(dst []byte) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, e.Register)
	dst = le.AppendUint32(dst, uint32(e.Type))
	dst = le.AppendUint32(dst, uint32(len(e.Digests)))
	for _, d := range e.Digests {
		for id, a := range algorithms {
			if a == d.Algorithm() {
				dst = le.AppendUint16(dst, id)
			}
		}
		dst = append(dst, d.Bytes()...)
	}
	dst = le.AppendUint32(dst, uint32(len(e.Data)))
	return append(dst, e.Data...)
}

// AppendHead writes the first record of a log of the given algorithms.
func AppendHead(dst []byte, algs ...digest.Algorithm) []byte {
	le := binary.LittleEndian
	data := append([]byte(specSignature), 0, 0, 0, 0, 0, 2, 0, 2)
	data = le.AppendUint32(data, uint32(len(algs)))
	for _, a := range algs {
		for id, known := range algorithms {
			if a == known {
				data = le.AppendUint16(data, id)
			}
		}
		data = le.AppendUint16(data, uint16(a.Size()))
	}
	data = append(data, 0)
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint32(dst, uint32(NoAction))
	dst = append(dst, make([]byte, 20)...)
	dst = le.AppendUint32(dst, uint32(len(data)))
	return append(dst, data...)
}
