package eventlog_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
)

var sameDigest = cmp.Comparer(func(a, b digest.Digest) bool { return a == b })

// FuzzParse demands that what is read can be written and read again.
func FuzzParse(f *testing.F) {
	f.Add(sample())
	f.Add(append(sample(), 0xff, 0xff, 0xff, 0xff))
	f.Add([]byte{0, 0, 0, 0, 4, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		log, err := eventlog.Parse(data)
		if err != nil {
			return
		}
		log.Problems()
		for i := range log.Events {
			_ = log.Events[i].Label()
		}
		for _, a := range log.Algorithms {
			log.Replay(a)
		}
		if len(log.Events) == 0 || log.Events[0].Type != eventlog.NoAction || !bytes.HasPrefix(log.Events[0].Data, []byte("Spec ID Event03")) || len(log.Algorithms) == 0 {
			return // the SHA-1 form is only read
		}
		again := eventlog.AppendHead(nil, log.Algorithms...)
		for i, e := range log.Events {
			if i > 0 {
				again = e.Append(again)
			}
		}
		second, err := eventlog.Parse(again)
		if err != nil {
			t.Fatalf("written log: %v", err)
		}
		for _, a := range log.Algorithms {
			if d := cmp.Diff(log.Replay(a), second.Replay(a), sameDigest); d != "" {
				t.Fatal(d)
			}
		}
	})
}

func FuzzParseJSON(f *testing.F) {
	f.Add([]byte(`[{"imr":3,"event_type":134217729,"digest":"","event":"app-id","event_payload":"00"}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		log, err := eventlog.ParseJSON("log", data)
		if err == nil {
			log.Replay(digest.SHA384)
		}
	})
}
