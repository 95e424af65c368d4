package evidence

import (
	"bytes"
	"context"
	"errors"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/pcrmeasure"
	"github.com/retally/retally/tdxmeasure"
)

// RTMR3 computes a SecretVM's RTMR3 from digests: the measuring of
// registers plugged into the judging of evidence (an evidence.RTMR3Func).
func RTMR3(in evidence.RTMR3Input) (digest.Digest, error) {
	known := func(name string, d digest.Digest) tdxmeasure.Input { return tdxmeasure.Input{Name: name, Known: d} }
	m := tdxmeasure.New(tdxmeasure.Artifacts{
		Compose: known("compose file", in.Compose), Rootfs: known("rootfs", in.Rootfs), DockerFiles: known("docker files", in.DockerFiles),
	})
	c := tdxmeasure.Config{Profile: tdxmeasure.Profile{RTMR3: tdxmeasure.RTMR3Raw}, VCPUs: 1}
	if in.AppID != nil {
		c.Profile.RTMR3, c.AppID = tdxmeasure.RTMR3SecretVMKMS, in.AppID
	}
	const rtmr3 = 4 // of Measurer.Register
	// Only digests go in: nothing is read that could be waited for.
	t, err := m.Register(context.Background(), &c, rtmr3)
	if err != nil {
		return digest.Digest{}, err
	}
	return t.Compute()
}

// Replay folds the event log beside a dstack quote (an
// evidence.ReplayFunc). A register without events is the zero Digest.
func Replay(log []byte) (*evidence.Replay, error) {
	const name = "event log"
	folded, format, err := tdxmeasure.ReplayLog(name, log)
	if err != nil {
		return nil, err
	}
	out := &evidence.Replay{Problems: folded.Problems}
	for i := range folded.RTMR {
		if len(folded.Trace[i].Events) > 0 {
			out.RTMR[i] = folded.RTMR[i]
		}
	}
	if format != tdxmeasure.DstackJSON {
		return out, nil // a binary log has no named events
	}
	events, err := eventlog.ParseJSON(name, log)
	if err != nil {
		return nil, err
	}
	for _, e := range events.Events {
		ev := evidence.Event{RTMR: int(e.Register)}
		if e.Type == eventlog.DstackRuntime {
			ev.Name, ev.Payload = e.Name, bytes.Clone(e.Data)
		}
		out.Events = append(out.Events, ev)
	}
	return out, nil
}

// ReplayPCRs folds a firmware's log (an evidence.PCRReplayFunc). A log of nothing
// but filling, as firmware of Azure's hands out, has no values.
func ReplayPCRs(log []byte, banks []digest.Algorithm) (*tpmquote.Replay, []verdict.Check, error) {
	out := &tpmquote.Replay{Values: tpmquote.Values{}}
	if len(bytes.Trim(log, "\x00")) == 0 || len(bytes.Trim(log, "\xff")) == 0 {
		return out, nil, nil
	}
	l, err := pcrmeasure.ReadLog("event log", log, pcrmeasure.FormAuto)
	if err != nil {
		return nil, nil, err
	}
	if l.Form == pcrmeasure.FormCCEL {
		return nil, nil, errors.New("event log: is a TDX guest's (CCEL), whose registers are no PCRs: want the log of the TPM")
	}
	folded, err := l.ReplayAll()
	if err != nil {
		return nil, nil, err
	}
	for _, bank := range banks {
		values, ok := folded[bank]
		if !ok {
			continue
		}
		out.Values[bank] = map[int]digest.Digest{}
		for i := range l.Events {
			if e := &l.Events[i]; e.Extends() {
				out.Values[bank][e.Register] = values[e.Register]
			}
		}
	}
	for _, p := range l.Problems() {
		out.Contradictions = append(out.Contradictions, p.String())
	}
	var odd verdict.List
	for _, f := range l.Findings {
		switch f.Code {
		case pcrmeasure.KernelNotMeasured, pcrmeasure.LocalityOdd:
			odd.Open("log-"+f.Code, f.Text) // the values may leave something out
		default:
			odd.Note("log-"+f.Code, f.Text)
		}
	}
	return out, odd, nil
}
