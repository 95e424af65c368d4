package check_test

import (
	"bytes"
	"testing"

	"github.com/retally/retally/policygen/check"
)

// FuzzSplitRequests takes sequences of requests apart: nothing is lost, and
// what is no sequence stays whole.
func FuzzSplitRequests(f *testing.F) {
	f.Add([]byte("{\"a\":1}\n\n{\"b\":2}\n"))
	f.Add([]byte("[{\"a\":1},{\"b\":2}]"))
	f.Add([]byte("Error: \"{\\\"a\\\":1}\""))
	f.Add([]byte("{\n\"a\":1}\n"))
	f.Add([]byte("{}{0"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list := check.SplitRequests(data)
		if len(list) == 0 {
			t.Fatal("no request at all")
		}
		if len(list) == 1 && list[0].Line == 0 && !bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) && !bytes.Equal(list[0].Text, data) {
			t.Error("a single request was changed")
		}
		last := 0
		for _, r := range list {
			if !bytes.Contains(data, r.Text) {
				t.Errorf("%q is not in the input", r.Text)
			}
			if r.Line < 0 || r.Line > 0 && r.Line < last {
				t.Errorf("line %d after %d", r.Line, last)
			}
			last = max(last, r.Line)
		}
	})
}
