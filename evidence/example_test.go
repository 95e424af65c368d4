package evidence_test

import (
	"crypto/x509"
	"fmt"
	"time"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/digest"
)

// A quote of a platform of our own is authentic under that platform's root; to
// what it is bound stays open, because no connection was named.
func ExampleVerify() {
	at := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	platform, err := fake.NewPlatform("example", at.AddDate(-1, 0, 0), at.AddDate(1, 0, 0))
	if err != nil {
		panic(err)
	}
	quote, err := platform.Quote(tdxquote.Body{MRTD: digest.SHA384.Sum([]byte("firmware"))}, fake.Options{})
	if err != nil {
		panic(err)
	}
	bundle, err := evidence.Read("quote.bin", quote)
	if err != nil {
		panic(err)
	}
	result, err := evidence.Verify(evidence.Request{Profile: evidence.TDX, Evidence: bundle, At: at, IntelRoots: []*x509.Certificate{platform.Root}})
	if err != nil {
		panic(err)
	}
	fmt.Println("authentic:", result.Authentic.Verdict)
	fmt.Println("bound:    ", result.Bound.Verdict)
	// Output:
	// authentic: pass
	// bound:     unchecked
}
