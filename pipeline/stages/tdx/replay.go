package tdx

import (
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/tdxmeasure"
)

// Replay is an event log folded into registers, as it is shown.
type Replay struct {
	Format   tdxmeasure.LogFormat `json:"format"`
	RTMR0    string               `json:"rtmr0"`
	RTMR1    string               `json:"rtmr1"`
	RTMR2    string               `json:"rtmr2"`
	RTMR3    string               `json:"rtmr3"`
	Events   []ReplayedEvent      `json:"events"`
	Problems []string             `json:"problems"`
	Notes    []string             `json:"notes,omitempty"`
	Compared []RegisterComparison `json:"compared,omitempty"`

	name string
	log  *tdxmeasure.Replayed
}

// ReplayedEvent is one event of a log.
type ReplayedEvent struct {
	Register string        `json:"register"`
	Index    int           `json:"index"` // within the register
	Label    string        `json:"label"`
	Digest   digest.Digest `json:"digest"`
	Offset   int64         `json:"offset"` // in the log
	// Text is what the data says to people, whole, where it says something.
	Text string `json:"text,omitempty"`
	Data string `json:"data"` // of the event, hexadecimal
}

// ReplayLog folds a log, or the reply that holds it, and holds the registers
// against those that are expected.
func ReplayLog(name string, data []byte, expected []RegisterComparison) (*Replay, error) {
	data, err := tdxmeasure.EmbeddedLog(name, data)
	if err != nil {
		return nil, err
	}
	log, format, err := tdxmeasure.ReplayLog(name, data)
	if err != nil {
		return nil, err
	}
	r := &Replay{
		Format: format, RTMR0: log.RTMR[0].Hex(), RTMR1: log.RTMR[1].Hex(), RTMR2: log.RTMR[2].Hex(), RTMR3: log.RTMR[3].Hex(),
		Events: []ReplayedEvent{}, Problems: append([]string{}, log.Problems...), Notes: log.Notes, name: name, log: log,
	}
	for i, t := range log.Trace {
		for n, e := range t.Events {
			r.Events = append(r.Events, ReplayedEvent{Registers[i+1], n, e.Label, e.Digest, e.Origin.Offset, log.Contents[i][n].Text, hex.EncodeToString(log.Contents[i][n].Data)})
		}
	}
	for _, c := range expected {
		c.Got = log.RTMR[c.index()].Hex()
		if c.Match = c.Got == c.Want; !c.Match {
			c.Zero = zeroWords(c.Register, c.Want)
		}
		r.Compared = append(r.Compared, c)
	}
	return r, nil
}

// index is that of a log's register among the RTMRs.
func (c RegisterComparison) index() int { return slices.Index(Registers[1:], c.Register) }

// ParseExpected reads REGISTER=HEX of a log's registers.
func ParseExpected(op string, list []string) ([]RegisterComparison, error) {
	var out []RegisterComparison
	for _, text := range list {
		name, want, ok := strings.Cut(text, "=")
		name = strings.ToLower(name)
		b, err := hex.DecodeString(strings.ToLower(strings.TrimPrefix(want, "0x")))
		switch {
		case !ok || !slices.Contains(Registers[1:], name):
			return nil, &pipeline.InputError{Op: op, Err: fmt.Errorf("{expect} %.120q: want REGISTER=HEX", text), Hint: "for instance {expect} rtmr0=671800f0..., of " + strings.Join(Registers[1:], ", ")}
		case err != nil || len(b) != digest.SHA384.Size():
			return nil, &pipeline.InputError{Op: op, Err: fmt.Errorf("{expect} %.120q: want 96 hex digits", text)}
		}
		out = append(out, RegisterComparison{Register: name, Want: hex.EncodeToString(b)})
	}
	return out, nil
}

// Out holds the folded registers against the expected ones; an event that
// contradicts its own data is a defect of the log.
func (r *Replay) Out() (*run.Out, error) {
	out := run.NewOut()
	for i, c := range r.Compared {
		want, err := digest.ParseHex(digest.SHA384, c.Want)
		if err != nil {
			return nil, err
		}
		key := pipeline.NewKey("tdx", "log", c.Register)
		if !slices.ContainsFunc(r.Compared[:i], func(o RegisterComparison) bool { return o.Register == c.Register }) {
			out.Measure(key, pipeline.OfDigest(r.log.RTMR[c.index()]), r.name, "folded from the log alone, which proves nothing by itself")
		}
		out.Refer(key, pipeline.OfDigest(want), pipeline.Where{File: "expect"}, "expected "+c.Register)
	}
	for _, p := range r.Problems {
		out.Problem(pipeline.LevelError, "tdx-event", pipeline.Where{File: r.name}, p, "")
	}
	return out, nil
}

// Text is the form for people.
func (r *Replay) Text(w io.Writer, verbose bool) {
	for i, value := range []string{r.RTMR0, r.RTMR1, r.RTMR2, r.RTMR3} {
		name := Registers[i+1]
		if !slices.ContainsFunc(r.Events, func(e ReplayedEvent) bool { return e.Register == name }) {
			show.Line(w, "%s  %s  replayed: the log has no event for it", name, value)
			continue
		}
		show.Line(w, "%s  %s  replayed", name, value)
		for _, e := range r.Events {
			if e.Register == name {
				show.Line(w, "  %3d  %s  %s", e.Index, e.Digest.Hex(), e.Label)
				// The label holds the text unless it is too long or of several lines.
				if verbose && e.Text != "" && !strings.HasSuffix(e.Label, e.Text) {
					for line := range strings.Lines(e.Text) {
						show.Line(w, "       %s", strings.TrimRight(line, "\r\n"))
					}
				}
			}
		}
	}
	for _, n := range r.Notes {
		show.Line(w, "note  %s", n)
	}
	for _, p := range r.Problems {
		show.Line(w, "CONTRADICTION  %s", p)
	}
	for _, c := range r.Compared {
		text := fmt.Sprintf("expected  %s agrees", c.Register)
		if !c.Match {
			text = fmt.Sprintf("expected  %s DIFFERS: expected %s", c.Register, c.Want)
			if c.Zero != "" {
				text += ", which is " + c.Zero
			}
		}
		show.Line(w, "%s", text)
	}
}
