package eventlog

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

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

// labelAtMost bounds the text in a label in characters.
const labelAtMost = 100

// Label describes an event in a few words, from its type and its own data. A
// text that is too long for it ends in an ellipsis; Text has all of it.
func (e *Event) Label() string {
	if e.Type == DstackRuntime {
		return "event " + e.Name
	}
	text := e.Text()
	if text == "" {
		return e.Type.String()
	}
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > labelAtMost {
		text = string(r[:labelAtMost-1]) + "\u2026"
	}
	return e.Type.String() + " " + text
}

// Text is what an event's data says to people, whole: the text of an action, a
// command line or a section's name, the name of a variable, a tag with its text,
// the path of a program, the payload of a runtime event. "" where the data has none.
func (e *Event) Text() string {
	switch e.Type {
	case Action, CRTMVersion, IPL, PostCode, PlatformConfig, OmitBootEvents, NonHostInfo, CompactHash:
		if t := textOf(e.Data); t != "" || e.Type != PlatformConfig {
			return t
		}
		return describedText(e.Data)
	case FirmwareBlob2, HandoffTables2:
		if t := textOf(e.Data); t != "" {
			return t
		}
		return describedText(e.Data)
	case VariableConfig, VariableBoot, VariableAuth:
		if name, _, ok := Variable(e.Data); ok {
			return name
		}
	case EventTag:
		return tagText(e.Data)
	case DstackRuntime:
		// Digests and identifiers are bytes, names of others are text.
		if t := textOf(e.Data); t != "" {
			return t
		}
		return hex.EncodeToString(e.Data)
	case BootApplication, BootDriver, RuntimeDriver:
		return imagePath(e.Data)
	}
	return ""
}

// textOf reads data that is text alone, with or without an end: ASCII or UTF-8,
// or UTF-16 as systemd-stub and shim write it. "" where it is not text.
func textOf(data []byte) string {
	if b := bytes.TrimRight(data, "\x00"); utf8.Valid(b) && legible(string(b)) {
		return string(b)
	}
	t, _ := text16(data)
	return t
}

// text16 reads UTF-16 that all is text, up to an end that only filling follows.
// Any bytes make letters of some script: half of them must be ASCII.
func text16(data []byte) (string, bool) {
	if len(data) == 0 || len(data)%2 != 0 {
		return "", false
	}
	units := make([]uint16, len(data)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(data[2*i:])
	}
	for len(units) > 0 && units[len(units)-1] == 0 {
		units = units[:len(units)-1]
	}
	plain := 0
	for _, u := range units {
		if u < 0x80 {
			plain++
		}
	}
	t := string(utf16.Decode(units))
	if len(units) == 0 || 2*plain < len(units) || !legible(t) {
		return "", false
	}
	return t, true
}

// legible reports text of characters that have a shape, spaces and line ends.
func legible(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) && !strings.ContainsRune("\t\r\n", r) {
			return false
		}
	}
	return true
}

// describedText reads data that begins with a text behind its length, as
// UEFI_PLATFORM_FIRMWARE_BLOB2 and UEFI_HANDOFF_TABLE_POINTERS2 do (TCG PC Client
// Platform Firmware Profile, chapter 10.2).
func describedText(data []byte) string {
	if len(data) == 0 || int(data[0]) > len(data)-1 {
		return ""
	}
	return textOf(data[1 : 1+int(data[0])])
}

// tagText reads a TCG_PCClientTaggedEvent: a number and data behind its size. The
// data of Linux' EFI stub and of systemd is text.
func tagText(data []byte) string {
	if len(data) < 8 {
		return ""
	}
	id, size := binary.LittleEndian.Uint32(data), binary.LittleEndian.Uint32(data[4:])
	text := fmt.Sprintf("%#x", id)
	if uint64(size) > uint64(len(data)-8) {
		return text
	}
	return strings.TrimSpace(text + " " + textOf(data[8:8+size]))
}

// imagePath reads the path of a program out of a UEFI_IMAGE_LOAD_EVENT (TCG PC
// Client Platform Firmware Profile, chapter 10.2.3): the file paths of its device
// path (UEFI Specification, chapter 10.3.5.4).
func imagePath(data []byte) string {
	const head, media, filePath, end = 32, 4, 4, 0x7f
	if len(data) < head {
		return ""
	}
	size := binary.LittleEndian.Uint64(data[24:])
	path := data[head:]
	if size > uint64(len(path)) {
		return ""
	}
	path = path[:size]
	var parts []string
	for len(path) >= 4 && path[0] != end {
		n := int(binary.LittleEndian.Uint16(path[2:]))
		if n < 4 || n > len(path) {
			return ""
		}
		if path[0] == media && path[1] == filePath {
			if t, ok := text16(path[4:n]); ok {
				parts = append(parts, t)
			}
		}
		path = path[n:]
	}
	return strings.Join(parts, "")
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
