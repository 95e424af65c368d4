package blindllama_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence/blindllama"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
)

// sample is the published proof file with its golden measurements.
type sample struct {
	Doc          map[string]json.RawMessage
	Measurements json.RawMessage
	RootHash     string
}

func read(t testing.TB, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func published(t testing.TB) sample {
	t.Helper()
	var s sample
	if err := json.Unmarshal(read(t, testenv.Vectors(t, "published/blindllama"), "base.json"), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func day(t testing.TB, date string) time.Time {
	t.Helper()
	at, err := time.Parse(time.DateOnly, date)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func find(checks []verdict.Check, name string) verdict.Check {
	for _, c := range checks {
		if c.Name == name {
			return c
		}
	}
	return verdict.Check{Name: name, Verdict: "absent"}
}

func fold(checks []verdict.Check) verdict.Verdict { return verdict.Fold(checks).Verdict }

func verify(t testing.TB, proof []byte, o blindllama.Options) *blindllama.Result {
	t.Helper()
	p, err := blindllama.Parse("proof.json", proof)
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Verify(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sha(t testing.TB, s string) *digest.Digest {
	t.Helper()
	d, err := digest.ParseHex(digest.SHA256, s)
	if err != nil {
		t.Fatal(err)
	}
	return &d
}

// TestCases: every recorded case of the client. Where the client accepts an empty
// policy, nothing fails here, and the verdict stays open all the same.
func TestCases(t *testing.T) {
	s := published(t)
	lines := bufio.NewScanner(bytes.NewReader(read(t, testenv.Vectors(t, "published/blindllama"), "cases.jsonl")))
	lines.Buffer(nil, 1<<20)
	count := 0
	for lines.Scan() {
		var c struct {
			Name, Want, Now string
			Replace         map[string]json.RawMessage `json:"doc_replace"`
			Measurements    json.RawMessage            `json:"expected_measurements"`
			RootHash        string                     `json:"expected_roothash"`
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		count++
		t.Run(c.Name, func(t *testing.T) {
			doc := map[string]json.RawMessage{}
			for k, v := range s.Doc {
				doc[k] = v
			}
			for k, v := range c.Replace {
				doc[k] = v
				if string(v) == `"<absent>"` {
					delete(doc, k)
				}
			}
			measurements := s.Measurements
			if c.Measurements != nil {
				measurements = c.Measurements
			}
			root := s.RootHash
			if c.RootHash != "" {
				root = c.RootHash
			}
			got, why := "accept", ""
			golden, err := blindllama.ParseGolden("golden.json", measurements)
			var p *blindllama.Proof
			if err == nil {
				p, err = blindllama.Parse("proof.json", marshal(t, doc))
			}
			if err != nil {
				got, why = "reject", err.Error()
			} else {
				o := blindllama.Options{At: day(t, c.Now), Golden: golden}
				if d, err := digest.ParseHex(digest.SHA256, root); err == nil {
					o.RootHash = &d
				} else {
					t.Fatal(err)
				}
				r, err := p.Verify(o)
				if err != nil {
					t.Fatal(err)
				}
				expected := fold(r.Expected)
				if c.Name == "no-golden" {
					if expected != verdict.Unchecked || !strings.Contains(find(r.Expected, "pcrs").Reason, "empty") {
						t.Errorf("an empty policy: %s, %+v", expected, r.Expected)
					}
					expected = verdict.Pass // as the client says
				}
				if fold(r.Authentic) != verdict.Pass || expected != verdict.Pass {
					got, why = "reject", strings.Join(append(verdict.Fold(r.Authentic).Reasons[:1], verdict.Fold(r.Expected).Reasons[0]), " | ")
				}
				if fold(r.Authentic) == verdict.Pass && fold(r.Bound) != verdict.Unchecked && c.Want == "accept" {
					t.Errorf("there is nothing to bind, and bound is %s: %+v", fold(r.Bound), r.Bound)
				}
				if got == "reject" && fold(r.Authentic) != verdict.Fail && fold(r.Expected) != verdict.Fail {
					t.Errorf("rejected without a failure: %s", why)
				}
			}
			if got != c.Want && c.Want != "any" {
				t.Errorf("got %s (%s), want %s", got, why, c.Want)
			}
			t.Logf("%s: %.300s", got, why)
		})
	}
	if count < 40 {
		t.Errorf("got %d cases", count)
	}
}

// TestPublishedProof: authentic and expected while its certificates were valid;
// today authentic fails and names the certificate that expired.
func TestPublishedProof(t *testing.T) {
	s := published(t)
	golden, err := blindllama.ParseGolden("golden.json", s.Measurements)
	if err != nil {
		t.Fatal(err)
	}
	o := blindllama.Options{At: day(t, "2023-12-01"), Golden: golden, RootHash: sha(t, s.RootHash)}
	r := verify(t, marshal(t, s.Doc), o)
	if fold(r.Authentic) != verdict.Pass || fold(r.Expected) != verdict.Pass || fold(r.Bound) != verdict.Unchecked {
		t.Errorf("at 2023-12-01:\nauthentic %+v\nexpected %+v\nbound %+v", r.Authentic, r.Expected, r.Bound)
	}
	if r.Provider != tpmquote.Azure || !r.TPM.BuiltIn || len(r.TPM.Path) != 3 {
		t.Errorf("provider %q, built in %t, way of %d", r.Provider, r.TPM.BuiltIn, len(r.TPM.Path))
	}
	for name, word := range map[string]string{"nonce": "no nonce", "tls-leaf": "not its certificate"} {
		if c := find(r.Bound, name); c.Verdict != verdict.Unchecked || !strings.Contains(c.Reason, word) {
			t.Errorf("%+v", c)
		}
	}
	o.At = day(t, "2026-11-30")
	r = verify(t, marshal(t, s.Doc), o)
	c := find(r.Authentic, "ak-chain")
	if fold(r.Authentic) != verdict.Fail || fold(r.Expected) != verdict.Pass || !strings.Contains(c.Reason, "5efaacb0f4d9.TrustedVM.Azure.Microsoft") || !strings.Contains(c.Reason, "expired: was valid until 2024-11-03") {
		t.Errorf("today: authentic %+v, expected %s", c, fold(r.Expected))
	}
	// The nonce that the quote does not have, asked for.
	o.Nonce = []byte("challenge")
	if r = verify(t, marshal(t, s.Doc), o); fold(r.Bound) != verdict.Fail {
		t.Errorf("bound %+v", r.Bound)
	}
}
