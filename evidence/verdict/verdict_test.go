package verdict_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/evidence/verdict"
)

func TestFold(t *testing.T) {
	pass, fail := verdict.Check{Name: "p", Verdict: verdict.Pass, Reason: "1"}, verdict.Check{Name: "f", Verdict: verdict.Fail, Reason: "2"}
	open, note := verdict.Check{Name: "o", Verdict: verdict.Unchecked, Reason: "3"}, verdict.Check{Name: "n", Verdict: verdict.Unchecked, Optional: true, Reason: "4"}
	odd := verdict.Check{Name: "x", Verdict: "odd", Reason: "5"}
	for _, tt := range []struct {
		name   string
		checks []verdict.Check
		want   verdict.Verdict
		why    []string
	}{
		{"nothing", nil, verdict.Unchecked, []string{}},
		{"pass", []verdict.Check{pass}, verdict.Pass, []string{"p: 1"}},
		{"note only", []verdict.Check{note}, verdict.Unchecked, []string{"n: 4"}},
		{"pass and note", []verdict.Check{pass, note}, verdict.Pass, []string{"n: 4", "p: 1"}},
		{"pass and open", []verdict.Check{pass, open}, verdict.Unchecked, []string{"o: 3", "p: 1"}},
		{"all", []verdict.Check{pass, note, open, fail}, verdict.Fail, []string{"f: 2", "n: 4", "o: 3", "p: 1"}},
		{"unknown verdict is no pass", []verdict.Check{pass, odd}, verdict.Unchecked, []string{"x: 5", "p: 1"}},
	} {
		got := verdict.Fold(tt.checks)
		if got.Verdict != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got.Verdict, tt.want)
		}
		if d := cmp.Diff(tt.why, got.Reasons); d != "" {
			t.Errorf("%s: reasons (-want +got):\n%s", tt.name, d)
		}
	}
}
