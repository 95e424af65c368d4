package stages_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/stages"
)

type logged struct {
	register uint32
	text     string // measured and logged
	data     string // logged instead, if not ""
}

// ccel writes a log of a TDX guest, pcrs one of a TPM.
func ccel(events ...logged) []byte { return logOf([]digest.Algorithm{digest.SHA384}, events) }

func pcrs(events ...logged) []byte {
	return logOf([]digest.Algorithm{digest.SHA1, digest.SHA256}, append([]logged{{7, "seven", ""}}, events...))
}

func logOf(banks []digest.Algorithm, events []logged) []byte {
	out := eventlog.AppendHead(nil, banks...)
	for _, e := range events {
		data := e.data
		if data == "" {
			data = e.text
		}
		one := eventlog.Event{Register: e.register, Type: eventlog.IPL, Data: []byte(data)}
		for _, b := range banks {
			one.Digests = append(one.Digests, b.Sum([]byte(e.text)))
		}
		out = one.Append(out)
	}
	return out
}

func dstackList(events ...logged) []byte {
	var list []map[string]any
	for _, e := range events {
		list = append(list, map[string]any{"imr": e.register - 1, "event_type": eventlog.IPL, "digest": digest.SHA384.Sum([]byte(e.text)).Hex(), "event": "", "event_payload": ""})
	}
	b, _ := json.Marshal(map[string]any{"tcb_info": map[string]any{"event_log": list}})
	return b
}

func TestCompareLogs(t *testing.T) {
	base := []logged{{1, "firmware", ""}, {2, "kernel", ""}, {3, "options a", ""}, {3, "initrd", ""}}
	with := func(i int, e logged) []logged {
		out := append([]logged(nil), base...)
		out[i] = e
		return out
	}
	padded := append(ccel(base...), strings.Repeat("\xff", 64)...)
	for _, tt := range []struct {
		name    string
		a, b    []byte
		outcome pipeline.Outcome
		says    []string
	}{
		{"the same", ccel(base...), ccel(base...), pipeline.OutcomeMatch, nil},
		{"filled up", ccel(base...), padded, pipeline.OutcomeMatch, []string{"not byte for byte"}},
		{"dstack's list of the same events", ccel(base...), dstackList(base...), pipeline.OutcomeMatch, []string{"not byte for byte"}},
		{"one event", ccel(base...), ccel(with(2, logged{3, "options b", ""})...), pipeline.OutcomeDiffers, []string{"event 0 differs: IPL options a", "tdx/log/rtmr2"}},
		{"the last of a register", ccel(base...), ccel(with(3, logged{3, "other", ""})...), pipeline.OutcomeDiffers, []string{"event 1 differs: IPL initrd"}},
		{"one more in the middle", ccel(base...), ccel(append(base[:3:3], logged{3, "cmdline", ""}, base[3])...), pipeline.OutcomeDiffers, []string{"event 1 is there in b alone"}},
		{"one less", ccel(base...), ccel(base[:3]...), pipeline.OutcomeDiffers, []string{"event 1 is not there in b"}},
		{"a register that one has alone", ccel(base...), ccel(append(base[:4:4], logged{4, "runtime", ""})...), pipeline.OutcomeDiffers, []string{"tdx/log/rtmr3", "event 0 is there in b alone", "the value of a is all zero: nothing was extended into it"}},
		{"other data, same digest", ccel(base...), ccel(with(2, logged{3, "options a", "options z"})...), pipeline.OutcomeMatch, []string{"has the same digest in both and other data"}},
		{"of TPMs", pcrs(base...), pcrs(base...), pipeline.OutcomeMatch, nil},
		{"of TPMs, one event", pcrs(base...), pcrs(with(2, logged{3, "options b", ""})...), pipeline.OutcomeDiffers, []string{"tpm/log/sha256/pcr3", "event 0 differs"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rep, err := stages.CompareFiles(stages.File{Name: "a", Data: tt.a}, stages.File{Name: "b", Data: tt.b}, pipeline.Tool{})
			if err != nil {
				t.Fatal(err)
			}
			if rep.Outcome != tt.outcome {
				t.Errorf("%s, want %s", rep.Outcome, tt.outcome)
			}
			text := ""
			for _, f := range rep.Findings {
				text += fmt.Sprintf("%s %s\n", f.Key, f.Verdict)
				for _, c := range f.Why {
					text += c.Note + "\n"
				}
				if strings.HasSuffix(string(f.Key), "rtmr3") && !strings.Contains(tt.name, "alone") {
					t.Error("two registers without an event were compared")
				}
			}
			for _, p := range rep.Problems {
				text += p.Msg + "\n"
			}
			for _, s := range tt.says {
				if !strings.Contains(text, s) {
					t.Errorf("%q is not in\n%s", s, text)
				}
			}
		})
	}
	for _, tt := range []struct {
		name string
		a, b []byte
		want string
	}{
		{"two kinds", ccel(base...), pcrs(base...), "is the event log of a TPM, but a is the event log of a TDX guest"},
		{"no events", ccel(), ccel(), "no register has an event"},
		{"one is damaged", ccel(base...), ccel(base...)[:150], "want"},
		{"one is something else", ccel(base...), []byte("text"), "is not a manifest"},
		{"one is a manifest of nothing", ccel(base...), []byte("{}"), "is not a manifest"},
	} {
		if _, err := stages.CompareFiles(stages.File{Name: "a", Data: tt.a}, stages.File{Name: "b", Data: tt.b}, pipeline.Tool{}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}
