package pcrmeasure

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/trace"
)

// Trace is the labelled list of events that a PCR is folded from.
type Trace = trace.Trace

// Count is the number of PCRs of a TPM in a PC (TCG PC Client Platform TPM
// Profile, "PCR attributes").
const Count = 24

// Form is the form of an event log.
type Form string

// The forms.
const (
	// FormAuto tells a TPM's log from a CCEL: that has SHA-384 digests only and
	// no register above 4, where firmware gives PCRs 0 to 7 a separator each.
	FormAuto Form = ""
	// FormSHA1 has no head and a SHA-1 digest in each record.
	FormSHA1 Form = "sha1"
	// FormAgile has a head that names the banks, and a digest of each.
	FormAgile Form = "crypto-agile"
	// FormCCEL is the log of a TDX guest; its registers are MRTD and RTMR0 to
	// RTMR3.
	FormCCEL Form = "ccel"
)

// Follows says how an event's digest is known.
type Follows string

// What follows from what.
const (
	// FollowsType: the event's type fixes what its digest is of, and it is.
	FollowsType Follows = "type"
	// FollowsData: the digest is that of the event's data or text, though its
	// type does not fix that.
	FollowsData Follows = "data"
	// FollowsNot: the digest is of something that is not in the log.
	FollowsNot Follows = "outside"
	// Contradicts: the type fixes what the digest is of, and it is not.
	Contradicts Follows = "contradicts"
	// NotExtended: the event never extends a PCR.
	NotExtended Follows = "not-extended"
)

// Event is one event of a log.
type Event struct {
	Index    int             `json:"index"`
	Register int             `json:"pcr"`
	Type     eventlog.Type   `json:"type"`
	Label    string          `json:"label"`
	Digests  []digest.Digest `json:"digests,omitempty"` // none where it never extends
	Offset   int64           `json:"offset"`            // of the record
	Data     []byte          `json:"-"`
}

// Extends reports whether the event extends its register.
func (e *Event) Extends() bool { return e.Type != eventlog.NoAction }

// Problem is an event whose digest contradicts its own data.
type Problem struct {
	Event   int           `json:"event"`
	PCR     int           `json:"pcr"`
	Label   string        `json:"label"`
	Offset  int64         `json:"offset"`
	Claimed digest.Digest `json:"claimed"`
	Derived digest.Digest `json:"derived"`
}

// String says it in a line.
func (p Problem) String() string {
	return fmt.Sprintf("event %d (PCR %d, %s, offset %#x): digest %s, its data gives %s", p.Event, p.PCR, p.Label, p.Offset, p.Claimed, p.Derived)
}

// Finding is something about a log or a prediction that a reader has to know.
type Finding struct {
	Code string `json:"code"`
	PCR  int    `json:"pcr"` // -1 where it is about no single one
	Text string `json:"text"`
}

// The codes of findings.
const (
	// KernelNotMeasured: with Secure Boot on, firmware started something that
	// no PCR has. OVMF starts a kernel of QEMU's -kernel whose signature does
	// not hold with its legacy loader, which measures nothing.
	KernelNotMeasured = "secure-boot-kernel-not-measured"
	SHA1Only          = "sha1-only"         // the log's only bank is SHA-1
	BankUnread        = "bank-not-read"     // a bank of an algorithm that is not known here
	DigestMissing     = "digest-missing"    // an event has no digest of a bank
	BytesBehind       = "bytes-behind-end"  // something else than filling follows the records
	LocalityOdd       = "startup-locality"  // said twice, too late or with an impossible value
	NoSeparator       = "no-separator"      // a PCR of the firmware that never ended
	PCRResettable     = "resettable"        // a log extends a PCR that can be reset
	AssumedConstant   = "assumed-constant"  // a value is a constant that was observed
	FirmwareUnmet     = "firmware-not-met"  // a build whose events were not seen on a machine
	ImageRefused      = "image-not-allowed" // Secure Boot would refuse an image
)

// Log is an event log that was read.
type Log struct {
	Name     string
	Form     Form
	Banks    []digest.Algorithm
	Events   []Event
	Findings []Finding
	// Locality is the locality that the TPM was started from; PCR 0 starts with
	// it in its last byte.
	Locality byte

	incomplete map[digest.Algorithm]int // first event without a digest

	derive   sync.Once
	derived  []Follows
	problems []Problem
}

// ReadLog reads an event log. What damages the form is an error with the
// offset; what is contradictory or odd in a log that can be read is in Problems
// and Findings. An empty file is an error: some clouds hand out an empty log,
// and nothing can be replayed from it.
func ReadLog(name string, data []byte, form Form) (*Log, error) {
	if len(data) == 0 {
		return nil, &place.Fault{Input: "event log", Where: place.InFile(name).At(0), Found: "an empty file", Want: "records", Hint: "some clouds' firmware hands out an empty log; predict the PCRs from the artifacts instead"}
	}
	raw, err := eventlog.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	l := &Log{Name: name, Banks: raw.Algorithms, Locality: raw.Locality, incomplete: map[digest.Algorithm]int{}}
	if len(raw.Events) == 0 {
		return nil, &place.Fault{Input: "event log", Where: place.InFile(name).At(0), Found: "filling only", Want: "records", Hint: "predict the PCRs from the artifacts instead"}
	}
	if l.Form, err = formOf(name, raw, form); err != nil {
		return nil, err
	}
	limit := uint32(Count - 1)
	if l.Form == FormCCEL {
		limit = 4
	}
	l.Events = make([]Event, 0, len(raw.Events))
	for i := range raw.Events {
		e := &raw.Events[i]
		if e.Register > limit && e.Type != eventlog.NoAction {
			return nil, &place.Fault{Input: "event log", Where: place.InFile(name).At(e.Offset), Field: "register", Found: fmt.Sprint(e.Register), Want: fmt.Sprintf("0 to %d", limit)}
		}
		l.add(i, e)
	}
	l.findings(raw, data)
	return l, nil
}

func formOf(name string, raw *eventlog.Log, asked Form) (Form, error) {
	ccel := len(raw.Algorithms) == 1 && raw.Algorithms[0] == digest.SHA384 && len(raw.Unread) == 0
	highest := uint32(0)
	for _, e := range raw.Events {
		highest = max(highest, e.Register)
	}
	found := FormAgile
	switch {
	case raw.SHA1Form:
		found = FormSHA1
	case ccel && (asked == FormCCEL || highest <= 4):
		found = FormCCEL
	}
	if asked != FormAuto && asked != found {
		return "", &place.Fault{Input: "event log", Where: place.InFile(name).At(0), Field: "form", Found: string(found), Want: string(asked)}
	}
	return found, nil
}

func (l *Log) add(i int, e *eventlog.Event) {
	out := Event{Index: i, Register: int(min(e.Register, 1<<16)), Type: e.Type, Label: e.Label(), Digests: e.Digests, Offset: e.Offset, Data: e.Data}
	if !out.Extends() {
		out.Digests = nil
	} else {
		for _, b := range l.Banks {
			if _, ok := e.Digest(b); !ok {
				if _, known := l.incomplete[b]; !known {
					l.incomplete[b] = i
				}
			}
		}
	}
	l.Events = append(l.Events, out)
}

// Problems are the events whose digests contradict their own data in a way that
// their type fixes.
func (l *Log) Problems() []Problem {
	l.deriveAll()
	return l.problems
}

// Follows says how the digest of an event is known.
func (l *Log) Follows(event int) Follows {
	l.deriveAll()
	return l.derived[event]
}

func (l *Log) deriveAll() {
	l.derive.Do(func() {
		l.derived = make([]Follows, len(l.Events))
		for i := range l.Events {
			l.derived[i] = l.follows(&l.Events[i])
		}
	})
}

// follows derives an event's digests from its own data. One bank that
// contradicts is a contradiction: the banks are of the same bytes.
func (l *Log) follows(e *Event) Follows {
	if !e.Extends() {
		return NotExtended
	}
	raw := eventlog.Event{Type: e.Type, Data: e.Data}
	fixed, texts := true, raw.Derived()
	switch {
	case texts == nil:
		fixed, texts = false, possible(e)
	case l.Form == FormSHA1 && e.Type == eventlog.VariableConfig:
		// Firmware with a TPM 1.2 measured a variable's value alone (seen in the
		// log of such a machine).
		if _, value, ok := eventlog.Variable(e.Data); ok {
			texts = append(slices.Clone(texts), value)
		}
	}
	candidates := slices.Clone(texts)
	for _, d := range e.Digests {
		// All banks must be of the same text.
		candidates = slices.DeleteFunc(candidates, func(b []byte) bool { return d.Algorithm().Sum(b) != d })
	}
	switch {
	case len(e.Digests) > 0 && len(candidates) > 0 && fixed:
		return FollowsType
	case len(e.Digests) > 0 && len(candidates) > 0:
		return FollowsData
	case !fixed || len(e.Digests) == 0:
		return FollowsNot
	}
	found := len(l.problems)
	for _, d := range e.Digests {
		if !slices.ContainsFunc(texts, func(b []byte) bool { return d.Algorithm().Sum(b) == d }) {
			l.problems = append(l.problems, Problem{Event: e.Index, PCR: e.Register, Label: e.Label, Offset: e.Offset, Claimed: d, Derived: d.Algorithm().Sum(texts[0])})
		}
	}
	if len(l.problems) == found {
		// Each bank is of one of the texts, but not all of the same one.
		l.problems = append(l.problems, Problem{Event: e.Index, PCR: e.Register, Label: e.Label + ", banks of different data", Offset: e.Offset, Claimed: e.Digests[0], Derived: e.Digests[0].Algorithm().Sum(texts[0])})
	}
	return Contradicts
}

// possible are the texts that an event's digest may be of where its type does
// not fix that: the data, the data without its end mark, and what stands behind
// the prefixes of GRUB (GRUB, grub-core/kern/tpm.c and commands/tpm.c).
func possible(e *Event) [][]byte {
	if len(e.Data) > 64<<10 {
		return nil
	}
	texts := [][]byte{e.Data}
	if e.Type == eventlog.IPL {
		text := bytes.TrimSuffix(e.Data, []byte{0})
		for _, prefix := range []string{"grub_cmd: ", "kernel_cmdline: ", "module_cmdline: "} {
			if rest, ok := bytes.CutPrefix(text, []byte(prefix)); ok {
				texts = append(texts, rest)
			}
		}
	}
	return texts
}

func (l *Log) finding(code string, pcr int, format string, args ...any) {
	l.Findings = append(l.Findings, Finding{Code: code, PCR: pcr, Text: fmt.Sprintf(format, args...)})
}

func (l *Log) findings(raw *eventlog.Log, data []byte) {
	if l.Form == FormSHA1 {
		l.finding(SHA1Only, -1, "the log has SHA-1 digests only: banks of other algorithms cannot be replayed, and SHA-1 does not stand against chosen collisions")
	}
	for _, id := range raw.Unread {
		l.finding(BankUnread, -1, "the log has a bank of algorithm %#x, which is not replayed", id)
	}
	for _, b := range l.Banks {
		if i, ok := l.incomplete[b]; ok {
			l.finding(DigestMissing, l.Events[i].Register, "event %d (%s, offset %#x) has no %s digest: this bank is not replayed", i, l.Events[i].Label, l.Events[i].Offset, b)
		}
	}
	if rest := data[min(raw.End, int64(len(data))):]; len(bytes.Trim(rest, "\xff")) > 0 && len(bytes.Trim(rest, "\x00")) > 0 {
		l.finding(BytesBehind, -1, "%d bytes behind the last record, at offset %#x, are neither all ff nor all zero", len(rest), raw.End)
	}
	if l.Form == FormCCEL {
		return
	}
	l.locality()
	l.separators()
	if secure, started, measured := l.boot(); secure && started && !measured {
		l.finding(KernelNotMeasured, 4, "Secure Boot is on and a boot option was started, but PCR 4 has no image: firmware started something that it did not measure, as OVMF does with a kernel whose signature QEMU's header edits break")
	}
	for _, e := range l.Events {
		if e.Extends() && (e.Register == 16 || e.Register == 23) {
			l.finding(PCRResettable, e.Register, "event %d (%s) extends PCR %d, which software can reset: its value proves nothing", e.Index, e.Label, e.Register)
		}
	}
}

const localitySignature = "StartupLocality\x00"

// locality checks what the log says about the start of PCR 0: once, before
// PCR 0 is first extended, and 0, 3 or 4 (PC Client Platform Firmware Profile,
// "TCG_EfiStartupLocalityEvent").
func (l *Log) locality() {
	said, extended := false, false
	for _, e := range l.Events {
		switch {
		case e.Extends():
			extended = extended || e.Register == 0
		case strings.HasPrefix(string(e.Data), localitySignature):
			switch {
			case len(e.Data) != 17 || e.Register != 0:
				l.finding(LocalityOdd, 0, "event %d (offset %#x) states a startup locality in %d bytes for PCR %d: it is not used", e.Index, e.Offset, len(e.Data), e.Register)
				continue
			case said:
				l.finding(LocalityOdd, 0, "event %d (offset %#x) states the startup locality a second time", e.Index, e.Offset)
			case extended:
				l.finding(LocalityOdd, 0, "event %d (offset %#x) states the startup locality after PCR 0 was extended", e.Index, e.Offset)
			case e.Data[16] != 0 && e.Data[16] != 3 && e.Data[16] != 4:
				l.finding(LocalityOdd, 0, "event %d (offset %#x) states startup locality %d, want 0, 3 or 4", e.Index, e.Offset, e.Data[16])
			}
			said = true
		}
	}
}

func (l *Log) separators() {
	var seen, extended [8]bool
	for _, e := range l.Events {
		if e.Register < 8 && e.Extends() {
			extended[e.Register] = true
			seen[e.Register] = seen[e.Register] || e.Type == eventlog.Separator
		}
	}
	for r := range seen {
		if !seen[r] {
			l.finding(NoSeparator, r, "PCR %d has no separator: firmware did not end its part of it, or the log is not whole", r)
		}
	}
}

// boot tells whether Secure Boot was on, a boot option was started and an image
// was measured.
func (l *Log) boot() (secure, started, measured bool) {
	for _, e := range l.Events {
		switch {
		case e.Register == 7 && e.Type == eventlog.VariableConfig:
			if name, value, ok := eventlog.Variable(e.Data); ok && name == "SecureBoot" {
				secure = len(value) > 0 && value[0] != 0
			}
		case e.Register == 4 && e.Type == eventlog.Action:
			started = started || string(e.Data) == actionCalling
		case e.Register == 4 && e.Type == eventlog.BootApplication:
			measured = true
		}
	}
	return secure, started, measured
}

// SecureBoot reports what the log says about Secure Boot; known is false where
// no event of PCR 7 tells.
func (l *Log) SecureBoot() (on, known bool) {
	for _, e := range l.Events {
		if e.Register == 7 && e.Type == eventlog.VariableConfig {
			if name, value, ok := eventlog.Variable(e.Data); ok && name == "SecureBoot" {
				on, known = len(value) > 0 && value[0] != 0, true
			}
		}
	}
	return on, known
}

// Registers is how many registers the log's form has.
func (l *Log) Registers() int {
	if l.Form == FormCCEL {
		return 5
	}
	return Count
}

// RegisterName names a register of the log's form: "PCR 4", "RTMR1".
func (l *Log) RegisterName(r int) string {
	switch {
	case l.Form != FormCCEL:
		return fmt.Sprintf("PCR %d", r)
	case r == 0:
		return "MRTD"
	}
	return fmt.Sprintf("RTMR%d", r-1)
}

// initialPCR is what a PCR has after a restart: ones in 17 to 22, zeros in the
// others (TCG PC Client Platform TPM Profile, "PCR initial and reset values");
// nil for zeros.
func initialPCR(bank digest.Algorithm, r int, locality byte) []byte {
	switch {
	case r >= 17 && r <= 22:
		return bytes.Repeat([]byte{0xff}, bank.Size())
	case r == 0 && locality != 0:
		b := make([]byte, bank.Size())
		b[len(b)-1] = locality
		return b
	}
	return nil
}

// Trace lists what extended one register in one bank.
func (l *Log) Trace(bank digest.Algorithm, register int) (Trace, error) {
	t := Trace{Fold: trace.Extend, Algorithm: bank, Events: []trace.Event{}}
	if err := l.complete(bank); err != nil {
		return t, err
	}
	if l.Form != FormCCEL {
		t.Initial = initialPCR(bank, register, l.Locality)
	}
	for i := range l.Events {
		e := &l.Events[i]
		if e.Register != register || !e.Extends() {
			continue
		}
		for _, d := range e.Digests {
			if d.Algorithm() == bank {
				t.Add(e.Label, d, trace.Origin{Input: l.Name, Offset: e.Offset, Size: -1})
			}
		}
	}
	return t, nil
}

func (l *Log) complete(bank digest.Algorithm) error {
	if !slices.Contains(l.Banks, bank) {
		return &place.Fault{Op: "replay", Input: "event log", Where: place.InFile(l.Name), Field: "bank", Found: fmt.Sprint(l.Banks), Want: bank.String()}
	}
	if i, ok := l.incomplete[bank]; ok {
		return &place.Fault{Op: "replay", Input: "event log", Where: place.InFile(l.Name).At(l.Events[i].Offset), Field: fmt.Sprintf("event %d", i), Found: "no " + bank.String() + " digest", Want: "one in each event"}
	}
	return nil
}

// Replay folds one bank: all registers of the log's form, also those that no
// event extends.
func (l *Log) Replay(bank digest.Algorithm) ([]digest.Digest, error) {
	if err := l.complete(bank); err != nil {
		return nil, err
	}
	traces := make([]Trace, l.Registers())
	counts := make([]int, len(traces))
	for i := range l.Events {
		if e := &l.Events[i]; e.Extends() {
			counts[e.Register]++
		}
	}
	for r := range traces {
		traces[r] = Trace{Fold: trace.Extend, Algorithm: bank, Events: make([]trace.Event, 0, counts[r])}
		if l.Form != FormCCEL {
			traces[r].Initial = initialPCR(bank, r, l.Locality)
		}
	}
	for i := range l.Events {
		e := &l.Events[i]
		if !e.Extends() {
			continue
		}
		for _, d := range e.Digests {
			if d.Algorithm() == bank {
				traces[e.Register].Add(e.Label, d, trace.Origin{Input: l.Name, Offset: e.Offset, Size: -1})
			}
		}
	}
	out := make([]digest.Digest, len(traces))
	for r := range traces {
		var err error
		if out[r], err = traces[r].Compute(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ReplayAll folds every bank that is complete; the others are in Findings.
func (l *Log) ReplayAll() (map[digest.Algorithm][]digest.Digest, error) {
	out := map[digest.Algorithm][]digest.Digest{}
	for _, b := range l.Banks {
		if _, ok := l.incomplete[b]; ok {
			continue
		}
		var err error
		if out[b], err = l.Replay(b); err != nil {
			return nil, err
		}
	}
	return out, nil
}
