package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf16"

	"github.com/retally/retally/internal/digest"
)

// Replay extends every register with the events' digests of one algorithm and
// returns the registers that the log mentions. PCRs 17 to 22 start with ones.
func (l *Log) Replay(a digest.Algorithm) map[uint32]digest.Digest {
	state := map[uint32][]byte{}
	for _, e := range l.Events {
		d, ok := e.Digest(a)
		if !ok || e.Type == NoAction {
			continue
		}
		old, known := state[e.Register]
		if !known {
			old = make([]byte, a.Size())
			switch {
			case e.Register == 0:
				old[len(old)-1] = l.Locality
			case e.Register >= 17 && e.Register <= 22:
				old = bytes.Repeat([]byte{0xff}, a.Size())
			}
		}
		state[e.Register] = a.Sum(slices.Concat(old, d.Bytes())).Bytes()
	}
	out := map[uint32]digest.Digest{}
	for r, b := range state {
		if d, err := digest.FromBytes(a, b); err == nil {
			out[r] = d
		}
	}
	return out
}

// Label describes an event in a few words, from its type and its own data.
func (e *Event) Label() string {
	switch e.Type {
	case Action, CRTMVersion:
		if printable(e.Data) {
			return fmt.Sprintf("%s %s", e.Type, bytes.TrimRight(e.Data, "\x00"))
		}
	case VariableConfig, VariableBoot, VariableAuth:
		if name, _, ok := Variable(e.Data); ok {
			return fmt.Sprintf("%s %s", e.Type, name)
		}
	case DstackRuntime:
		return "event " + e.Name
	case PlatformConfig, HandoffTables2, IPL:
		if text := bytes.TrimRight(e.Data, "\x00"); len(text) > 0 && len(text) < 80 && printable(text) {
			return fmt.Sprintf("%s %s", e.Type, text)
		}
	}
	return e.Type.String()
}

func printable(b []byte) bool {
	for _, c := range bytes.TrimRight(b, "\x00") {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}

// Variable splits the data of a variable event: name and contents.
func Variable(data []byte) (name string, contents []byte, ok bool) {
	if len(data) < 32 {
		return "", nil, false
	}
	units, size := binary.LittleEndian.Uint64(data[16:]), binary.LittleEndian.Uint64(data[24:])
	rest := data[32:]
	if units > uint64(len(rest))/2 || size > uint64(len(rest))-2*units {
		return "", nil, false
	}
	name16 := make([]uint16, units)
	for i := range name16 {
		name16[i] = binary.LittleEndian.Uint16(rest[2*i:])
	}
	return string(utf16.Decode(name16)), rest[2*units : 2*units+size], true
}

// variableSize is the length of a variable event's data by its own sizes; the
// length of the data where these cannot be.
func variableSize(data []byte) int {
	_, contents, ok := Variable(data)
	if !ok {
		return len(data)
	}
	return 32 + 2*int(binary.LittleEndian.Uint64(data[16:])) + len(contents)
}

// Derived returns the bytes that an event's digest must be of, where its type
// fixes that. For boot variables firmware measured only the value at first and
// the whole data later: both are given.
func (e *Event) Derived() [][]byte {
	switch e.Type {
	case Separator, Action, CRTMVersion, GPT, VariableConfig:
		return [][]byte{e.Data}
	case VariableAuth:
		// Older shims logged one byte more than they measured (shim, tpm.c,
		// tpm_measure_variable); its data is longer than its own sizes say.
		if n := len(e.Data); n > 0 && n > variableSize(e.Data) {
			return [][]byte{e.Data, e.Data[:n-1]}
		}
		return [][]byte{e.Data}
	case VariableBoot:
		if _, value, ok := Variable(e.Data); ok {
			return [][]byte{value, e.Data}
		}
	}
	return nil
}

// Problem is an event whose digest contradicts its own data.
type Problem struct {
	Index   int
	Label   string
	Claimed digest.Digest
	Derived digest.Digest
}

// Problems lists the events whose digests contradict their own data in a way
// that the type fixes.
func (l *Log) Problems() []Problem {
	var out []Problem
	for i := range l.Events {
		e := &l.Events[i]
		texts := e.Derived()
		for _, d := range e.Digests {
			if texts == nil || slices.ContainsFunc(texts, func(b []byte) bool { return d.Algorithm().Sum(b) == d }) {
				continue
			}
			out = append(out, Problem{Index: i, Label: e.Label(), Claimed: d, Derived: d.Algorithm().Sum(texts[0])})
		}
	}
	return out
}
