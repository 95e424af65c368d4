package tdxmeasure_test

import (
	"fmt"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/trace"
)

// A register is the fold of its events.
func ExampleTrace() {
	t := trace.Trace{Fold: trace.Extend, Algorithm: digest.SHA384}
	tdxmeasure.AppendRuntime(&t, tdxmeasure.RuntimeEvent{Name: "app-id", Payload: []byte{0xde, 0xad, 0xbe, 0xef}})
	t.Events = append(t.Events, trace.Event{Label: "compose file", Digest: digest.SHA256.Sum([]byte("services: {}\n"))})
	for _, e := range t.Events {
		fmt.Println(e.Label, e.Digest.Hex()[:16])
	}
	register, err := t.Compute()
	fmt.Println(register.Hex()[:16], err)
	// Output:
	// event app-id 67b4be4efed0893c
	// compose file fa6ccea1ca4e3a03
	// c75b507a40561825 <nil>
}
