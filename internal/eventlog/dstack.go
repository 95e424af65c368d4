package eventlog

import (
	"encoding/hex"
	"fmt"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
)

// ParseJSON reads dstack's list of events: imr, event_type, digest, event and
// event_payload, the last two hex. An event of an application may have no
// digest: it has none in the result either.
func ParseJSON(file string, data []byte) (*Log, error) {
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: 16 << 20})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if doc.Kind != jsondoc.Array {
		return nil, fmt.Errorf("%s: a %s, want a list of events", file, doc.Kind)
	}
	if len(doc.Elems) > maxEvents {
		return nil, fmt.Errorf("%s: %d events, want at most %d", file, len(doc.Elems), maxEvents)
	}
	log := &Log{Algorithms: []digest.Algorithm{digest.SHA384}}
	for i, v := range doc.Elems {
		e, err := jsonEvent(v)
		if err != nil {
			return nil, fmt.Errorf("%s: /%d: %w", file, i, err)
		}
		log.Events = append(log.Events, e)
	}
	return log, nil
}

func jsonEvent(v *jsondoc.Value) (Event, error) {
	e := Event{Offset: int64(v.Offset)}
	if v.Kind != jsondoc.Object {
		return e, fmt.Errorf("a %s, want an event", v.Kind)
	}
	number := func(key string, limit uint64) (uint64, error) {
		m := v.Get(key)
		if m.IsNull() {
			return 0, nil
		}
		n, ok := m.Uint64()
		if !ok || n > limit {
			return 0, fmt.Errorf("%s is not a number up to %d", key, limit)
		}
		return n, nil
	}
	text := func(key string) (string, error) {
		m := v.Get(key)
		if m.IsNull() {
			return "", nil
		}
		if m.Kind != jsondoc.String {
			return "", fmt.Errorf("%s is a %s, want a string", key, m.Kind)
		}
		return m.Text, nil
	}
	if v.Get("imr").IsNull() {
		return e, fmt.Errorf("no imr")
	}
	register, err := number("imr", 3)
	if err != nil {
		return e, err
	}
	typ, err := number("event_type", 1<<32-1)
	if err != nil {
		return e, err
	}
	version, err := number("version", 2)
	if err != nil {
		return e, err
	}
	e.Register, e.Type, e.Version = uint32(register), Type(typ), int(version)
	if e.Name, err = text("event"); err != nil {
		return e, err
	}
	payload, err := text("event_payload")
	if err != nil {
		return e, err
	}
	if e.Data, err = hex.DecodeString(payload); err != nil {
		return e, fmt.Errorf("event_payload is not hexadecimal")
	}
	sum, err := text("digest")
	if err != nil {
		return e, err
	}
	if sum == "" {
		return e, nil
	}
	d, err := digest.ParseHex(digest.SHA384, sum)
	if err != nil {
		return e, fmt.Errorf("digest: %w", err)
	}
	e.Digests = []digest.Digest{d}
	return e, nil
}
