package check_test

import (
	"errors"
	"testing"
	"time"

	"github.com/retally/retally/policygen/check"
)

// A foreign policy must not hold the machine: it is stopped, and then it has
// no answer.
func TestLimits(t *testing.T) {
	for name, rule := range map[string]string{
		"memory": `ExecProcessRequest if { count(numbers.range(0, 300000000)) > 5 }`,
		"time":   `ExecProcessRequest if { some i in numbers.range(0, 20000); some j in numbers.range(0, 20000); some k in numbers.range(0, 20000); i*j*k == -1 }`,
	} {
		t.Run(name, func(t *testing.T) {
			p, err := check.Parse("policy", []byte("package agent_policy\nimport future.keywords.in\nimport future.keywords.if\n"+rule+"\n\npolicy_data := {\"containers\": []}\n"))
			if err != nil {
				t.Fatal(err)
			}
			p.Limits = check.Limits{Time: 2 * time.Second, Memory: 256 << 20}
			d, err := p.Evaluate(t.Context(), "ExecProcessRequest", []byte("{}"))
			var limit *check.LimitError
			if !errors.As(err, &limit) {
				t.Errorf("got %+v, %v, want a LimitError", d, err)
			}
		})
	}
}
