package manifest

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/retally/retally/internal/jsondoc"
)

// Edits that look members up in an index and take them out at the end give what
// one edit after the other gives.
func TestEditorAgreesWithSingleEdits(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		doc := jsondoc.NewObject()
		for i := range 6 {
			inner := jsondoc.NewObject()
			for j := range 4 {
				inner.Set(fmt.Sprint("k", j), jsondoc.NewNumber(fmt.Sprint(i*10+j)))
			}
			doc.Set(fmt.Sprint("o", i), inner)
		}
		plain, edited := doc.Clone(), doc.Clone()
		e := newEditor(edited)
		for range 40 {
			// Not all of these are there.
			o, k := fmt.Sprint("o", rng.IntN(7)), fmt.Sprint("k", rng.IntN(6))
			value, set := jsondoc.NewNumber(fmt.Sprint(rng.IntN(1000))), rng.IntN(3) > 0
			at := plain.Get(o)
			want := false
			switch {
			case at == nil:
			case set:
				if at.Index(k) >= 0 { // a member set anew after its removal keeps its old place here
					at.Set(k, value)
					want = true
				} else {
					continue
				}
			default:
				want = at.Delete(k)
			}
			if got := e.put("/"+o+"/"+k, value, set); got != want {
				t.Fatalf("round %d: /%s/%s, set %v: got %v, want %v", round, o, k, set, got, want)
			}
		}
		for range 3 {
			key := fmt.Sprint("o", rng.IntN(7))
			if got, want := e.remove(edited, key), plain.Delete(key); got != want {
				t.Fatalf("round %d: remove %s: got %v, want %v", round, key, got, want)
			}
		}
		e.finish()
		if got, want := string(jsondoc.Go.Format(edited)), string(jsondoc.Go.Format(plain)); got != want {
			t.Fatalf("round %d: got %s\nwant %s", round, got, want)
		}
	}
}
