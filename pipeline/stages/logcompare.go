package stages

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/recognize"
	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/pipeline/stages/tpm"
)

// foldedLog is an event log with the registers that it gives.
type foldedLog struct {
	kind      string
	registers []loggedRegister
	problems  []string
}

type loggedRegister struct {
	key    pipeline.Key
	value  digest.Digest
	events []loggedEvent
}

type loggedEvent struct {
	label, text, data string
	digest            digest.Digest
}

// shown is an event as a cause has it.
func (e loggedEvent) shown() string {
	what := e.label
	// The label holds a short text.
	if !strings.HasSuffix(e.label, e.text) {
		what = fmt.Sprintf("%s (%s)", e.label, show.Clip(strconv.Quote(e.text), 400))
	}
	return what + " " + e.digest.String()
}

const (
	tdxLog = "event log of a TDX guest"
	tpmLog = "event log of a TPM"
)

// readLog reads an event log of any form: of a TDX guest, within a reply or by
// itself, or of a TPM.
func readLog(f File) (*foldedLog, error) {
	pcrs, isTPM, errTPM := tpm.Fold(f.Name, f.Data)
	if isTPM {
		if errTPM != nil {
			return nil, errTPM
		}
		return pcrRegisters(pcrs), nil
	}
	r, err := tdx.ReplayLog(f.Name, f.Data, nil)
	if err != nil {
		return nil, err
	}
	l := &foldedLog{kind: tdxLog, problems: r.Problems}
	for i, value := range []string{r.RTMR0, r.RTMR1, r.RTMR2, r.RTMR3} {
		name := tdx.Registers[i+1]
		d, err := digest.ParseHex(digest.SHA384, value)
		if err != nil {
			return nil, err
		}
		reg := loggedRegister{key: pipeline.NewKey("tdx", "log", name), value: d}
		for _, e := range r.Events {
			if e.Register == name {
				reg.events = append(reg.events, loggedEvent{e.Label, e.Text, e.Data, e.Digest})
			}
		}
		l.registers = append(l.registers, reg)
	}
	return l, nil
}

func pcrRegisters(f *tpm.Folded) *foldedLog {
	l := &foldedLog{kind: tpmLog, problems: f.Problems}
	for _, bank := range f.Banks {
		for n, value := range f.PCRs[bank] {
			reg := loggedRegister{key: pipeline.NewKey("tpm", "log", bank.String(), fmt.Sprintf("pcr%d", n)), value: value}
			for _, e := range f.Events {
				for _, d := range e.Digests {
					if e.PCR == n && d.Algorithm() == bank {
						reg.events = append(reg.events, loggedEvent{e.Label, e.Text, hex.EncodeToString(e.Data), d})
					}
				}
			}
			l.registers = append(l.registers, reg)
		}
	}
	return l
}

// compareLogs compares two event logs: the registers that they give, and which
// events make the difference. ok is false where neither is one.
func compareLogs(a, b File, ka, kb recognize.Kind, c *comparison) (_ *pipeline.Report, ok bool, err error) {
	var logs [2]*foldedLog
	for i, f := range []File{a, b} {
		l, err := readLog(f)
		if err != nil {
			if []recognize.Kind{ka, kb}[i] == recognize.KindEventLog {
				return nil, true, &pipeline.InputError{Op: "compare", File: f.Name, Err: err}
			}
			return nil, false, nil
		}
		logs[i] = l
	}
	if logs[0].kind != logs[1].kind {
		return nil, true, &pipeline.InputError{Op: "compare", File: b.Name, Err: fmt.Errorf("is the %s, but %s is the %s", logs[1].kind, a.Name, logs[0].kind), Hint: "compare two logs of the same kind"}
	}
	for i, l := range logs {
		name := []string{a.Name, b.Name}[i]
		for _, p := range l.problems {
			c.rep.Problems = append(c.rep.Problems, pipeline.Problem{Level: pipeline.LevelError, Code: "event-log", Where: pipeline.Where{File: name}, Msg: "contradicts itself: " + p})
		}
	}
	sides := [2]map[pipeline.Key]loggedRegister{{}, {}}
	for i, l := range logs {
		for _, r := range l.registers {
			// Two registers without an event are equal and say nothing.
			if len(r.events) > 0 {
				sides[i][r.key] = r
			}
		}
	}
	c.causes = map[pipeline.Key][]pipeline.Cause{}
	for i, l := range logs {
		for _, r := range l.registers {
			mine, has := sides[i][r.key]
			other, hasOther := sides[1-i][r.key]
			switch {
			case !has && !hasOther:
				continue
			case !has:
				mine = r
			}
			if i == 0 {
				c.ms = append(c.ms, pipeline.Measurement{Key: r.key, Value: pipeline.OfDigest(mine.value), Basis: pipeline.Copied, Inputs: []pipeline.InputRef{pipeline.FromFile(a.Name)}, Note: "folded from " + show.Plural(len(mine.events), "event", "events")})
				c.causes[r.key] = eventCauses(r.key, mine.events, other.events, b.Name)
			} else {
				c.refs = append(c.refs, pipeline.Reference{Key: r.key, Relation: pipeline.Equal, Want: pipeline.OfDigest(mine.value), Where: pipeline.Where{File: b.Name}, Words: r.key.Parts()[len(r.key.Parts())-1] + " that the log gives"})
			}
		}
	}
	if len(c.ms) == 0 || len(c.refs) == 0 {
		return nil, true, &pipeline.InputError{Op: "compare", File: a.Name, Err: errors.New("no register has an event in it, so there is nothing to compare")}
	}
	c.otherData(sides)
	// Padding, form and records that extend nothing are no part of the registers:
	// that the files differ is said, and is no difference.
	if bytes.Equal(a.Data, b.Data) {
		c.rep.Bytes = rawBytes(a.Data, b.Data)
	} else {
		c.rep.Problems = append(c.rep.Problems, pipeline.Problem{Level: pipeline.LevelNote, Code: "event-log", Msg: "the two files are not byte for byte identical; compared is what they give"})
	}
	return c.finish(a, b), true, nil
}

// eventCauses names the events in which two logs of a register differ: what is
// left between those that are equal at the beginning and at the end.
func eventCauses(key pipeline.Key, a, b []loggedEvent, file string) []pipeline.Cause {
	first := 0
	for first < len(a) && first < len(b) && a[first].digest == b[first].digest {
		first++
	}
	last := 0
	for last < len(a)-first && last < len(b)-first && a[len(a)-1-last].digest == b[len(b)-1-last].digest {
		last++
	}
	a, b = a[first:len(a)-last], b[first:len(b)-last]
	var out []pipeline.Cause
	const most = 50
	for i := range max(len(a), len(b)) {
		if len(a) == len(b) && a[i].digest == b[i].digest {
			continue
		}
		cause := pipeline.Cause{Path: []string{string(key), fmt.Sprintf("event %d", first+i)}, Standing: pipeline.Proved, Hint: "tdx-firmware-events", Where: pipeline.Where{File: file}}
		cause.Note = fmt.Sprintf("event %d differs", first+i)
		if key.Kind() == "tpm" {
			cause.Hint = ""
		}
		if i < len(a) {
			cause.Expected = a[i].shown()
			cause.Note += ": " + a[i].label
		} else {
			cause.Note = fmt.Sprintf("event %d is there in %s alone", first+i, file)
		}
		if i < len(b) {
			cause.Actual = b[i].shown()
			cause.Path = append(cause.Path, b[i].label)
		} else {
			cause.Note = fmt.Sprintf("event %d is not there in %s", first+i, file)
		}
		if len(out) == most {
			cause.Note = fmt.Sprintf("from event %d on more events differ", first+i)
			return append(out, cause)
		}
		out = append(out, cause)
	}
	return out
}

// otherData notes events whose digests are equal and whose data is not: what they
// say of themselves is then a claim of one of the logs.
func (c *comparison) otherData(sides [2]map[pipeline.Key]loggedRegister) {
	for _, m := range c.ms {
		a, b := sides[0][m.Key].events, sides[1][m.Key].events
		for i := range min(len(a), len(b)) {
			if a[i].digest == b[i].digest && a[i].data != b[i].data {
				c.rep.Problems = append(c.rep.Problems, pipeline.Problem{Level: pipeline.LevelNote, Code: "event-log", Msg: fmt.Sprintf("%s: event %d (%s) has the same digest in both and other data: what the data says is no part of the register", m.Key, i, a[i].label)})
			}
		}
	}
}
