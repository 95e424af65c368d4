package tdxquote_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tdx-guest/verify"

	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/testenv"
)

// peer asks the go-tdx-guest library, which panics on some inputs.
func peer(raw []byte, at time.Time) (verdict string) {
	defer func() {
		if p := recover(); p != nil {
			verdict = fmt.Sprintf("panic: %v", p)
		}
	}()
	if err := verify.RawTdxQuote(raw, &verify.Options{Now: at}); err != nil {
		return "reject: " + err.Error()
	}
	return "accept"
}

// TestOracle: go-tdx-guest agrees on every mutant that it survives. It does not
// read version 5.
func TestOracle(t *testing.T) {
	dir := testenv.Vectors(t, "published/quotes")
	agreed, panicked := 0, 0
	for _, m := range lines[mutant](t, filepath.Join(dir, "mutants.jsonl")) {
		if !strings.HasPrefix(m.Base, "tdx") {
			continue
		}
		at, err := time.Parse(time.DateOnly, m.Now)
		if err != nil {
			t.Fatal(err)
		}
		raw := m.apply(t, dir)
		got, reason := judge(raw, tdxquote.Options{At: at})
		want := peer(raw, at)
		switch {
		case strings.HasPrefix(want, "panic"):
			t.Logf("%s: go-tdx-guest: %s; we: %s %s", m.ID, want, got, reason)
			panicked++
			if got != "reject" {
				t.Errorf("%s: accepted, where go-tdx-guest panics", m.ID)
			}
		case want[:6] != got:
			t.Errorf("%s: got %s %s, go-tdx-guest: %s", m.ID, got, reason, want)
		default:
			agreed++
		}
	}
	t.Logf("%d verdicts agree, %d panics of the peer", agreed, panicked)
	if agreed == 0 {
		t.Error("nothing compared")
	}
	raw := read(t, filepath.Join(dir, "tdx/dcap-v5-td15ex.bin"))
	if got := peer(raw, time.Unix(1791421786, 0)); !strings.HasPrefix(got, "reject") {
		t.Errorf("go-tdx-guest reads version 5 now: %s; compare it too", got)
	}
}
