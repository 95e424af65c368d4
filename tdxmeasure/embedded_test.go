package tdxmeasure_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/tdxmeasure"
)

// separators is a CCEL of separators in the registers.
func separators(registers ...uint32) []byte {
	log := eventlog.AppendHead(nil, digest.SHA384)
	for _, r := range registers {
		log = eventlog.Event{Register: r, Type: eventlog.Separator, Digests: []digest.Digest{digest.SHA384.Sum(make([]byte, 4))}, Data: make([]byte, 4)}.Append(log)
	}
	return log
}

const appID = `[{"imr":3,"event_type":134217729,"event":"app-id","event_payload":"00"}]`

// TestEmbeddedLog: a log is found wherever replies and evidence hold it, and never
// guessed.
func TestEmbeddedLog(t *testing.T) {
	quoted := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	ccel := separators(1)
	b64 := base64.StdEncoding.EncodeToString(ccel)
	for _, tt := range []struct{ name, text, want string }{
		{"list", appID, appID},
		{"binary", string(ccel), string(ccel)},
		{"base64", b64 + "\n", string(ccel)},
		{"hexadecimal", hex.EncodeToString(ccel), string(ccel)},
		{"member as a list", `{"mrtd":"x","event_log":` + appID + `}`, appID},
		{"member as text", `{"event_log":` + quoted(appID) + `}`, appID},
		{"binary member", `{"quote":"AA==","cc_eventlog":"` + b64 + `"}`, string(ccel)},
		{"within tcb_info", `{"app_id":"x","tcb_info":{"event_log":` + appID + `}}`, appID},
		{"within a document in a text", `{"tcb_info":` + quoted(`{"event_log":`+appID+`}`) + `}`, appID},
		{"text in a text in a text", `{"info":` + quoted(`{"tcb_info":`+quoted(`{"event_log":`+quoted(appID)+`}`)+`}`) + `}`, appID},
		{"twice the same, laid out in another way", `{"event_log":` + appID + `,"tcb_info":{"event_log":` + strings.ReplaceAll(appID, ",", " , ") + `}}`, appID},
		{"text that begins like a document", `{"note":"{ see above","event_log":` + appID + `}`, appID},
		{"empty member beside", `{"eventLog":"","event_log":` + appID + `}`, appID},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tdxmeasure.EmbeddedLog("reply", []byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			if _, _, err := tdxmeasure.ReplayLog("reply", got); err != nil {
				t.Error(err)
			}
		})
	}
	other := strings.Replace(appID, `"00"`, `"01"`, 1)
	for name, tt := range map[string]struct{ text, want string }{
		"none":                      {`{"quote":"AA=="}`, "without an event log"},
		"two that differ":           {`{"event_log":` + appID + `,"tcb_info":{"event_log":` + other + `}}`, "two event logs that differ"},
		"one hidden in a text":      {`{"event_log":` + appID + `,"tcb_info":` + quoted(`{"event_log":`+other+`}`) + `}`, "two event logs that differ"},
		"a member twice":            {`{"event_log":` + appID + `,"event_log":` + other + `}`, ""},
		"cut off":                   {`{"event_log":` + appID[:20], ""},
		"log behind many documents": {strings.Repeat(`{"a":`, 20) + `{"event_log":` + appID + `}` + strings.Repeat(`}`, 20), "without an event log"},
	} {
		if got, err := tdxmeasure.EmbeddedLog("reply", []byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %q, %v, want %q", name, got, err, tt.want)
		}
	}
}

func FuzzEmbeddedLog(f *testing.F) {
	f.Add([]byte(`{"tcb_info":"{\"event_log\":[]}"}`))
	f.Add([]byte(base64.StdEncoding.EncodeToString(separators(1))))
	f.Add(separators(2, 3))
	f.Fuzz(func(t *testing.T, data []byte) {
		log, err := tdxmeasure.EmbeddedLog("f", data)
		if err == nil && len(log) > len(data) {
			t.Fatalf("%d bytes out of %d", len(log), len(data))
		}
		if err == nil && bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) && len(log) == 0 {
			t.Fatal("an empty log out of an object")
		}
	})
}

func TestSeparatorsNoted(t *testing.T) {
	for _, tt := range []struct {
		registers []uint32
		want      string
	}{
		{[]uint32{1, 2, 3}, ""},
		{[]uint32{1, 2, 2}, "rtmr1 has 2 separators, events 0, 1"},
		{[]uint32{1, 1, 1}, "rtmr0 has 3 separators, events 0, 1, 2"},
	} {
		r, _, err := tdxmeasure.ReplayLog("log", separators(tt.registers...))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(r.Notes, "\n"); tt.want == "" && got != "" || !strings.HasPrefix(got, tt.want) {
			t.Errorf("%v: %q, want %q", tt.registers, got, tt.want)
		}
		if len(r.Problems) > 0 {
			t.Errorf("%v: %q", tt.registers, r.Problems)
		}
	}
}

func TestZeroRegister(t *testing.T) {
	zero, err := digest.FromBytes(digest.SHA384, make([]byte, 48))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i := range 5 {
		words := tdxmeasure.ZeroRegister(i, zero)
		if !strings.HasPrefix(words, "all zero") || seen[words] {
			t.Errorf("register %d: %q", i, words)
		}
		seen[words] = true
		if got := tdxmeasure.ZeroRegister(i, digest.SHA384.Sum(nil)); got != "" {
			t.Errorf("register %d, another value: %q", i, got)
		}
	}
	if tdxmeasure.ZeroRegister(-1, zero)+tdxmeasure.ZeroRegister(5, zero)+tdxmeasure.ZeroRegister(2, digest.Digest{}) != "" {
		t.Error("words for no register or no value")
	}
}
