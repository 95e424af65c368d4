package trace_test

import (
	"bytes"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/trace"
)

func sum(parts ...[]byte) []byte {
	return digest.SHA256.Sum(bytes.Join(parts, nil)).Bytes()
}

func TestCompute(t *testing.T) {
	zero := make([]byte, 32)
	locality := append(make([]byte, 31), 3)
	a, b := digest.SHA256.Sum([]byte("a")), digest.SHA256.Sum([]byte("b"))
	for _, c := range []struct {
		fold    trace.Fold
		initial []byte
		want    []byte
	}{
		{trace.Extend, nil, sum(sum(zero, a.Bytes()), b.Bytes())},
		{trace.Extend, locality, sum(sum(locality, a.Bytes()), b.Bytes())},
		{trace.History, nil, sum(b.Bytes(), sum(a.Bytes(), zero))},
		{trace.Concat, nil, sum(a.Bytes(), b.Bytes())},
		{trace.Running, nil, b.Bytes()},
		{trace.GCTX, nil, b.Bytes()},
	} {
		tr := &trace.Trace{Fold: c.fold, Algorithm: digest.SHA256, Initial: c.initial}
		tr.Made("a", []byte("a"))
		tr.Made("b", []byte("b"))
		got, err := tr.Compute()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), c.want) {
			t.Errorf("%s: got %x, want %x", c.fold, got.Bytes(), c.want)
		}
	}
}

func TestComputeRefuses(t *testing.T) {
	for name, tr := range map[string]*trace.Trace{
		"no algorithm":        {Fold: trace.Extend},
		"unknown fold":        {Fold: "sum", Algorithm: digest.SHA256},
		"initial of no fold":  {Fold: trace.Running, Algorithm: digest.SHA256, Initial: make([]byte, 32)},
		"initial too short":   {Fold: trace.Extend, Algorithm: digest.SHA256, Initial: make([]byte, 31)},
		"event without bytes": {Fold: trace.Extend, Algorithm: digest.SHA256, Events: []trace.Event{{Label: "x"}}},
		"event too long":      {Fold: trace.Extend, Algorithm: digest.SHA256, Events: []trace.Event{{Label: "x", Digest: digest.SHA384.Sum(nil)}}},
	} {
		if d, err := tr.Compute(); err == nil {
			t.Errorf("%s: got %s, want an error", name, d)
		}
	}
}
