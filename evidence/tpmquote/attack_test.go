package tpmquote_test

import (
	"crypto/elliptic"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// attacker is a machine with a genuine TPM that started something else than it
// should: its key is trusted, its nonce is the one asked for, and it packs what the
// TPM signs as it likes. honest is what the registers should hold.
type attacker struct {
	tpm            *fake.TPM
	honest, actual tpmquote.Values
}

var attackNonce = []byte("asked for")

func newAttacker(t testing.TB) *attacker {
	t.Helper()
	banks := []digest.Algorithm{digest.SHA1, digest.SHA256, digest.SHA384}
	good := machine(t, fake.TPMOptions{Banks: banks, Curve: elliptic.P256()})
	bad, err := fake.NewTPM("test", from, until, fake.TPMOptions{Banks: banks, Curve: elliptic.P256()})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		data := []byte{byte(i)}
		if i == 4 || i == 9 {
			data = []byte("something else")
		}
		if err := bad.Measure(i, data); err != nil {
			t.Fatal(err)
		}
	}
	// What can be reset holds what is expected of PCR 4.
	for _, bank := range banks {
		bad.PCRs[bank][16], bad.PCRs[bank][23] = good.PCRs[bank][4], good.PCRs[bank][9]
	}
	return &attacker{bad, good.PCRs, bad.PCRs}
}

// expectations are what a verifier asks of this machine, by SHA-256.
func (a *attacker) expectations() tpmquote.Expectations {
	want := tpmquote.Values{digest.SHA256: {}}
	for i := range 10 {
		want[digest.SHA256][i] = a.honest[digest.SHA256][i]
	}
	return tpmquote.Expectations{Values: one(want)}
}

// passes reports whether everything about the evidence passes.
func (a *attacker) passes(t testing.TB, e *tpmquote.Evidence) bool {
	t.Helper()
	r := verify(t, e, tpmquote.Options{At: now, AK: &tpmquote.AK{Key: a.tpm.AK()}, Nonce: attackNonce, Expect: a.expectations()})
	return fold(r.Authentic) == verdict.Pass && fold(r.Expected) == verdict.Pass && fold(r.Bound) == verdict.Pass
}

// TestAttackerIsHeard: the same packing with an honest machine passes, or the
// attacks below would show nothing.
func TestAttackerIsHeard(t *testing.T) {
	a := newAttacker(t)
	for bank, pcrs := range a.honest {
		for i, d := range pcrs {
			a.tpm.PCRs[bank][i] = d
		}
	}
	message, signature, values, err := a.tpm.Quote(attackNonce, nil, fake.Select(digest.SHA256))
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range forms() {
		e, err := form.pack([][2][]byte{{message, signature}}, values)
		if err != nil || !a.passes(t, e) {
			t.Errorf("%s: an honest machine does not pass: %v", form.name, err)
		}
	}
}

// form packs quotes with values that are claimed for them.
type form struct {
	name string
	pack func(quotes [][2][]byte, values tpmquote.Values) (*tpmquote.Evidence, error)
}

func forms() []form {
	values24 := func(v tpmquote.Values) (out []string) {
		for i := range tpmquote.PCRCount {
			out = append(out, v[digest.SHA256][i].Hex())
		}
		return out
	}
	open := func(doc any) (*tpmquote.Evidence, error) {
		data, err := json.Marshal(doc)
		if err != nil {
			return nil, err
		}
		return tpmquote.Open("attack", data)
	}
	return []form{
		{"tpm2-tools", func(q [][2][]byte, v tpmquote.Values) (*tpmquote.Evidence, error) {
			return tpmquote.OpenFiles("attack", tpmquote.Files{Message: q[0][0], Signature: q[0][1], PCRs: v.PCRFile()})
		}},
		{"attesters' JSON", func(q [][2][]byte, v tpmquote.Values) (*tpmquote.Evidence, error) {
			return open(map[string]any{"message": q[0][0], "signature": q[0][1], "pcrs": values24(v)})
		}},
		{"go-attestation", func(q [][2][]byte, v tpmquote.Values) (*tpmquote.Evidence, error) {
			var entries, quotes []any
			hashes := map[digest.Algorithm]int{digest.SHA1: 3, digest.SHA256: 5, digest.SHA384: 6}
			for _, bank := range v.Banks() {
				for i, d := range v[bank] {
					entries = append(entries, map[string]any{"Index": i, "Digest": d.Bytes(), "DigestAlg": hashes[bank]})
				}
			}
			for _, one := range q {
				quotes = append(quotes, map[string]any{"Version": 2, "Quote": one[0], "Signature": one[1]})
			}
			return open(map[string]any{"TPMVersion": 2, "Quotes": quotes, "PCRs": entries})
		}},
	}
}

// TestAttacks: the attacker takes quotes that its TPM signs (any registers, any
// banks, the right nonce, none or another), any values beside them, in any form,
// and never passes for the honest machine.
func TestAttacks(t *testing.T) {
	a := newAttacker(t)
	rng := rand.New(rand.NewPCG(15, 4))
	banks := []digest.Algorithm{digest.SHA1, digest.SHA256, digest.SHA384}
	pick := func(n int) []int {
		list := rng.Perm(tpmquote.PCRCount)[:n]
		slices.Sort(list)
		return list
	}
	selection := func() (out []tpmquote.Selection) {
		for _, i := range rng.Perm(len(banks))[:1+rng.IntN(len(banks))] {
			switch rng.IntN(4) {
			case 0:
				out = append(out, fake.Select(banks[i]))
			case 1:
				out = append(out, tpmquote.Selection{Bank: banks[i]}) // no register
			case 2:
				out = append(out, fake.Select(banks[i], 0, 1, 2, 3, 5, 6, 7, 8, 16, 23)) // in the place of 4 and 9
			default:
				out = append(out, fake.Select(banks[i], pick(1+rng.IntN(tpmquote.PCRCount))...))
			}
		}
		return out
	}
	opened, authentic := 0, 0
	for range 800 {
		var quotes [][2][]byte
		var claimed tpmquote.Values
		for range 1 + rng.IntN(3) {
			nonce := [][]byte{attackNonce, attackNonce, attackNonce, nil, []byte("another")}[rng.IntN(5)]
			message, signature, values, err := a.tpm.Quote(nonce, nil, selection()...)
			if err != nil {
				t.Fatal(err)
			}
			if rng.IntN(20) == 0 && len(quotes) > 0 {
				signature = quotes[0][1] // of another message
			}
			quotes, claimed = append(quotes, [2][]byte{message, signature}), values
		}
		values := []tpmquote.Values{claimed, a.actual, a.honest, mixed(rng, a)}[rng.IntN(4)]
		for _, f := range forms() {
			e, err := f.pack(quotes, values)
			if err != nil {
				continue
			}
			opened++
			r := verify(t, e, tpmquote.Options{At: now, AK: &tpmquote.AK{Key: a.tpm.AK()}, Nonce: attackNonce, Expect: a.expectations()})
			if fold(r.Authentic) == verdict.Pass {
				authentic++
				for bank, pcrs := range r.Values {
					for i, d := range pcrs {
						if a.actual[bank][i] != d {
							t.Fatalf("%s: PCR %d of %s is taken to be what it is not", f.name, i, bank)
						}
					}
				}
			}
			if a.passes(t, e) {
				t.Fatalf("%s: a machine that started something else passes", f.name)
			}
		}
	}
	if opened < 300 || authentic < 30 {
		t.Errorf("%d containers were read, %d of them authentic: the attacks do not reach far", opened, authentic)
	}
}

// mixed are registers of both machines, some of them under another's number.
func mixed(rng *rand.Rand, a *attacker) tpmquote.Values {
	out := tpmquote.Values{}
	for _, bank := range a.actual.Banks() {
		out[bank] = map[int]digest.Digest{}
		for i := range tpmquote.PCRCount {
			from := a.actual
			if rng.IntN(2) == 0 {
				from = a.honest
			}
			at := i
			if rng.IntN(6) == 0 {
				at = rng.IntN(tpmquote.PCRCount)
			}
			out[bank][i] = from[bank][at]
		}
	}
	return out
}

// TestTwoReaders: a container that two readers could take for different ones is
// read by nobody.
func TestTwoReaders(t *testing.T) {
	a := newAttacker(t)
	message, signature, values, err := a.tpm.Quote(attackNonce, nil, fake.Select(digest.SHA256))
	if err != nil {
		t.Fatal(err)
	}
	var pcrs []string
	var entries []any
	for i := range tpmquote.PCRCount {
		pcrs = append(pcrs, values[digest.SHA256][i].Hex())
		entries = append(entries, map[string]any{"Index": i, "Digest": values[digest.SHA256][i].Bytes(), "DigestAlg": 5})
	}
	quote := map[string]any{"message": message, "signature": signature, "pcrs": pcrs}
	goQuote := map[string]any{"Version": 2, "Quote": message, "Signature": signature}
	for name, doc := range map[string]map[string]any{
		"two quotes":                   {"tpm_quote": quote, "quote": quote},
		"a quote beside a quote":       {"tpm_quote": quote, "message": message},
		"a quote in other letters":     {"tpm_quote": quote, "TPM_Quote": quote},
		"a key in other letters":       {"tpm_quote": quote, "AK_public": a.tpm.Public},
		"an unknown member of a quote": {"tpm_quote": map[string]any{"message": message, "signature": signature, "pcrs": pcrs, "Pcrs": pcrs}},
		"go: quotes twice":             {"Quotes": []any{goQuote}, "PCRs": entries, "quotes": []any{goQuote}},
		"go: registers twice":          {"Quotes": []any{goQuote}, "PCRs": entries, "pcrs": entries},
		"go: a key twice":              {"Quotes": []any{goQuote}, "PCRs": entries, "Public": a.tpm.Public, "public": a.tpm.Public},
		"go: a quote's member":         {"Quotes": []any{map[string]any{"Version": 2, "Quote": message, "quote": message, "Signature": signature}}, "PCRs": entries},
		"go: a register's member":      {"Quotes": []any{goQuote}, "PCRs": append(slices.Clone(entries[1:]), map[string]any{"Index": 0, "index": 4, "Digest": values[digest.SHA256][0].Bytes(), "DigestAlg": 5})},
		"go: a register twice":         {"Quotes": []any{goQuote}, "PCRs": append(slices.Clone(entries), entries[4])},
	} {
		data, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tpmquote.Open("twins", data); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	data, err := json.Marshal(quote)
	if err != nil {
		t.Fatal(err)
	}
	twice := strings.Replace(string(data), `{`, fmt.Sprintf(`{"pcrs":%q,`, "x"), 1)
	if _, err := tpmquote.Open("twins", []byte(twice)); err == nil {
		t.Error("a member twice is read")
	}
}
