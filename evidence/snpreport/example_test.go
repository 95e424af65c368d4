package snpreport_test

import (
	"fmt"
	"time"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// A report of a machine of our own, a guest under debug: it is authentic under
// that machine's root, and worth nothing.
func ExampleVerify() {
	at := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	machine, err := fake.NewSNPPlatform("example", at.AddDate(-1, 0, 0), at.AddDate(1, 0, 0), fake.SNPOptions{Product: snpreport.Turin})
	if err != nil {
		panic(err)
	}
	launch := digest.SHA384.Sum([]byte("firmware"))
	raw, err := machine.Report(snpreport.Report{Measurement: launch}, func(r *snpreport.Report) { r.Policy |= snpreport.PolicyDebug })
	if err != nil {
		panic(err)
	}
	table, err := machine.Table()
	if err != nil {
		panic(err)
	}
	evidence, err := snpreport.Open("report.bin", append(raw, table...))
	if err != nil {
		panic(err)
	}
	result, err := evidence.Verify(snpreport.Options{At: at, Roots: []snpreport.Root{machine.Root()}})
	if err != nil {
		panic(err)
	}
	expected := snpreport.Expectations{Measurements: []digest.Digest{launch}, MinimumTCB: &machine.TCB}
	judged := verdict.Fold(expected.Check(evidence.Report, result.Product))
	fmt.Println("form:     ", evidence.Form)
	fmt.Println("authentic:", verdict.Fold(result.Checks).Verdict)
	fmt.Println("expected: ", judged.Verdict)
	fmt.Println(judged.Reasons[0])
	// Output:
	// form:      report with certificates
	// authentic: pass
	// expected:  fail
	// policy-debug: the policy allows debugging (bit 19): the host can read and change this guest's memory
}
