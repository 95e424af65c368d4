package evidence_test

import (
	"strings"
	"testing"

	evidencestage "github.com/retally/retally/pipeline/stages/evidence"
)

// Measured registers that are read are sets with registers of the right size;
// whatever else a file holds is an error.
func FuzzMeasured(f *testing.F) {
	sum := strings.Repeat("0a", 48)
	f.Add([]byte(`{"mrtd":"` + sum + `","rtmr3":"` + sum + `","notes":["no compose file: ` + evidencestage.EmptyRTMR3 + `"]}`))
	f.Add([]byte(`[{"rtmr0":"` + sum + `","rtmr1":null},{"mrtd":"00"}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		sets, _, err := evidencestage.MeasuredSets("f", data)
		if err != nil {
			return
		}
		if len(sets) == 0 {
			t.Fatal("no set and no error")
		}
		for _, s := range sets {
			for r, d := range s.Registers {
				if len(d.Bytes()) != 48 {
					t.Errorf("%s: %s of %d bytes", s, r, len(d.Bytes()))
				}
			}
		}
	})
}
