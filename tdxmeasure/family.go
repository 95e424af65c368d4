package tdxmeasure

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/profiles"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// Layout is how a family of machines lays its devices out.
type Layout string

// The layouts. Without one it is not known which devices there are.
const (
	SecretVMLayout Layout = "secretvm" // fixed devices, at most one GPU
	DstackLayout   Layout = "dstack"   // DstackDevices
)

// Aggregates are the digests over several registers that a family's tools
// print.
type Aggregates string

// The kinds of aggregates.
const (
	ReproduceMRAggregates Aggregates = "reproduce-mr" // mr_aggregated, mr_image
	DstackAggregates      Aggregates = "dstack"       // mr_aggregated, mr_image, mr_system
	NoAggregates          Aggregates = "none"
)

// Names lists the aggregates by their names in files, flags and keys.
func (a Aggregates) Names() []string {
	switch a {
	case ReproduceMRAggregates:
		return []string{"mr_aggregated", "mr_image"}
	case DstackAggregates:
		return []string{"mr_aggregated", "mr_image", "mr_system"}
	default:
		return nil
	}
}

// SecretVMDevices are the devices of a machine with SecretVM's layout under a
// profile.
func (p *Profile) SecretVMDevices(gpu bool) acpi.Shape {
	if gpu {
		return acpi.Shape{Base: acpi.SecretVMGPU}
	}
	return acpi.Shape{Base: acpi.SecretVM, NoCOM1: p.COM1 != nil && !slices.Contains(p.COM1, p.ACPIFamily)}
}

// Embedded takes a document out of a larger reply: where data is an object with
// a member of that name that is a text or an object, that; else data itself. dstack's guest agent
// answers in this way.
func Embedded(data []byte, member string) []byte {
	trimmed := bytes.TrimLeft(data, " \t\r\n")
	if len(trimmed) == 0 || trimmed[0] != '{' {
		return data
	}
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: 16 << 20})
	if err != nil || doc.Kind != jsondoc.Object {
		return data
	}
	switch v := doc.Get(member); {
	case v == nil:
	case v.Kind == jsondoc.String:
		return []byte(v.Text)
	case v.Kind == jsondoc.Object:
		var members map[string]json.RawMessage
		if json.Unmarshal(data, &members) == nil {
			return members[member]
		}
	}
	return data
}

// EmbeddedLog is the event log in a reply or in evidence: the list, or the text of
// one, in a member that is named for it, at any depth and also within a document
// that is a member's text, as dstack's agent gives its tcb_info. A binary log may
// be in base64 or hexadecimal. Data that is no JSON object is given back as it is.
// An object without a log, or with two that differ, is an error.
func EmbeddedLog(file string, data []byte) ([]byte, error) {
	const depth = 8
	trimmed := bytes.TrimSpace(data)
	if len(trimmed) == 0 || trimmed[0] != '{' {
		if log, ok := encodedLog(trimmed); ok {
			return log, nil
		}
		return data, nil
	}
	type found struct {
		path string
		log  []byte
	}
	var logs []found
	var look func(path string, text []byte, depth int) error
	look = func(path string, text []byte, depth int) error {
		doc, err := jsondoc.Parse(text, jsondoc.Limits{Bytes: 64 << 20})
		if err != nil || doc.Kind != jsondoc.Object || depth == 0 {
			return err
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(text, &members); err != nil {
			return err
		}
		for _, m := range doc.Members {
			path, v := path+"/"+m.Key, m.Value
			isLog := slices.Contains(logMembers(), strings.ToLower(strings.ReplaceAll(m.Key, "_", "")))
			var err error
			switch {
			case isLog && v.Kind == jsondoc.Array:
				logs = append(logs, found{path, members[m.Key]})
			case isLog && v.Kind == jsondoc.String && v.Text != "":
				log := []byte(v.Text)
				if binary, ok := encodedLog(log); ok {
					log = binary
				}
				logs = append(logs, found{path, log})
			case v.Kind == jsondoc.Object:
				err = look(path, members[m.Key], depth-1)
			case v.Kind == jsondoc.String && strings.HasPrefix(strings.TrimSpace(v.Text), "{"):
				if look(path, []byte(v.Text), depth-1) != nil {
					continue // text that only begins like a document
				}
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := look("", trimmed, depth); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(logs) == 0 {
		return nil, fmt.Errorf("%s: a JSON object without an event log in it, want a member event_log", file)
	}
	for _, l := range logs[1:] {
		if !bytes.Equal(compactJSON(l.log), compactJSON(logs[0].log)) {
			return nil, fmt.Errorf("%s: two event logs that differ, in %s and in %s: give the one that is meant", file, logs[0].path, l.path)
		}
	}
	return logs[0].log, nil
}

// logMembers are the names, without underscores, under which replies hold a log:
// dstack's, that of guest components (Confidential Containers) and of the table.
func logMembers() []string { return []string{"eventlog", "cceventlog", "ccel", "tdxeventlog"} }

// compactJSON is a text without the white space of its layout.
func compactJSON(text []byte) []byte {
	var b bytes.Buffer
	if json.Compact(&b, text) != nil {
		return text
	}
	return b.Bytes()
}

// encodedLog takes base64 or hexadecimal off a binary log: one whose first record
// is of no action, as all are.
func encodedLog(text []byte) ([]byte, bool) {
	plain := strings.TrimSpace(string(text))
	for _, decode := range []func(string) ([]byte, error){hex.DecodeString, base64.StdEncoding.DecodeString, base64.RawStdEncoding.DecodeString, base64.URLEncoding.DecodeString, base64.RawURLEncoding.DecodeString} {
		b, err := decode(plain)
		if err == nil && len(b) > 8 && binary.LittleEndian.Uint32(b[4:]) == uint32(eventlog.NoAction) {
			return b, true
		}
	}
	return nil, false
}

// MeasuresCompose reports whether RTMR3 holds the compose file.
func (p *Profile) MeasuresCompose() bool { return p.RTMR3 == RTMR3Raw || p.RTMR3 == RTMR3SecretVMKMS }

// ProfileFor returns the built-in profile that a description without one
// means: kind is "vm_config" or a metadata file's kind, variant that of its
// firmware.
func ProfileFor(kind, variant string) (name string, ok bool) {
	if variant != "" {
		kind += "/" + variant
	}
	glob := ""
	for _, n := range profiles.TDXNames() {
		p, err := LoadProfile(n)
		if err != nil {
			continue // a test reads them all
		}
		for _, f := range p.For {
			if f == kind {
				return n, true
			}
			if fits, _ := path.Match(f, kind); fits {
				glob = n
			}
		}
	}
	return glob, glob != ""
}
