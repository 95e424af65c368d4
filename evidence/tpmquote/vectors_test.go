package tpmquote_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/testenv"
)

func read(t testing.TB, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unmarshal(t testing.TB, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// base is a recorded quote: tpm2-tools' files, the nonce, and against what it
// verifies.
type base struct {
	files   tpmquote.Files
	nonce   []byte
	options tpmquote.Options
}

func ownQuote(t testing.TB, name string) base {
	dir := filepath.Join(testenv.Vectors(t, "own/tpm"), "quotes")
	var meta struct{ Nonce string }
	unmarshal(t, read(t, dir, name, "meta.json"), &meta)
	nonce, err := hex.DecodeString(meta.Nonce)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := certs.ReadPEM("ca.pem", read(t, dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return base{
		tpmquote.Files{
			Message: read(t, dir, name, "message"), Signature: read(t, dir, name, "signature"), PCRs: read(t, dir, name, "pcr"),
			AK: append(read(t, dir, name, "ak_cert.pem"), read(t, dir, "int.pem")...),
		},
		nonce,
		tpmquote.Options{At: now, Nonce: nonce, Roots: []tpmquote.Root{{Provider: tpmquote.Other, Certificate: ca[0]}}},
	}
}

// azureQuote is the quote inside BlindLlama's published proof file; it has no
// nonce.
func azureQuote(t testing.TB) base {
	var file struct {
		Doc struct {
			Chain []string `json:"cert_chain"`
			Quote struct{ Message, Signature, PCR []byte }
		}
	}
	unmarshal(t, read(t, testenv.Vectors(t, "published/blindllama"), "base.json"), &file)
	q := file.Doc.Quote
	return base{
		tpmquote.Files{Message: q.Message, Signature: q.Signature, PCRs: q.PCR, AK: []byte(strings.Join(file.Doc.Chain, "\n"))},
		nil,
		tpmquote.Options{At: day(t, "2023-12-01")},
	}
}

// TestQuoteMutants: every recorded change of message, signature, values, labels
// or nonce is refused, and the quotes as they are pass.
func TestQuoteMutants(t *testing.T) {
	bases := map[string]base{"azure-blindllama": azureQuote(t)}
	for _, name := range []string{"rsa-all", "rsa-two-banks", "ecc-shim", "ecc-uki"} {
		bases[name] = ownQuote(t, name)
	}
	lines := bufio.NewScanner(bytes.NewReader(read(t, testenv.Vectors(t, "own/tpm"), "quote_mutants.jsonl")))
	count := 0
	for lines.Scan() {
		var m struct {
			ID, Base, Part, Want string
			Op                   struct {
				Flip         []int
				Truncate     *int
				Append       string
				RelabelShift int `json:"relabel_shift"`
				Expect       *string
			}
		}
		unmarshal(t, lines.Bytes(), &m)
		count++
		b, ok := bases[m.Base]
		if !ok {
			t.Fatalf("%s: unknown base %q", m.ID, m.Base)
		}
		f, o := b.files, b.options
		if m.Op.Expect != nil {
			o.Nonce = unhex(t, *m.Op.Expect)
		}
		parts := map[string]*[]byte{"message": &f.Message, "signature": &f.Signature, "pcr": &f.PCRs}
		if part := parts[m.Part]; part != nil {
			*part = bytes.Clone(*part)
			switch {
			case m.Op.Flip != nil:
				(*part)[m.Op.Flip[0]] ^= 1 << m.Op.Flip[1]
			case m.Op.Truncate != nil:
				*part = (*part)[:*m.Op.Truncate]
			case m.Op.Append != "":
				*part = append(*part, unhex(t, m.Op.Append)...)
			case m.Op.RelabelShift != 0:
				relabel(*part, m.Op.RelabelShift)
			default:
				t.Fatalf("%s: unknown change", m.ID)
			}
		}
		e, err := tpmquote.OpenFiles(m.ID, f)
		got := "reject"
		if err == nil {
			r := verify(t, e, o)
			bound := fold(r.Bound)
			if fold(r.Authentic) == verdict.Pass && (bound == verdict.Pass || o.Nonce == nil && bound == verdict.Unchecked) {
				got = "accept"
			}
			err = nil
			if got != m.Want {
				t.Errorf("%s: authentic %+v\nbound %+v", m.ID, r.Authentic, r.Bound)
			}
		}
		if got != m.Want {
			t.Errorf("%s: got %s (%v), want %s", m.ID, got, err, m.Want)
		}
	}
	if count != 106 {
		t.Errorf("got %d mutants, want 106", count)
	}
	// The bases that have no line of their own.
	for name, b := range bases {
		e, err := tpmquote.OpenFiles(name, b.files)
		if err != nil {
			t.Fatal(err)
		}
		if r := verify(t, e, b.options); fold(r.Authentic) != verdict.Pass {
			t.Errorf("%s: authentic %+v", name, r.Authentic)
		}
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte{}, b...) // never nil
}

// relabel shifts the PCRs of each selection of a PCR file.
func relabel(pcr []byte, by int) {
	n := int(binary.LittleEndian.Uint32(pcr))
	for i := range n {
		m := pcr[4+8*i+3 : 4+8*i+7]
		binary.LittleEndian.PutUint32(m, binary.LittleEndian.Uint32(m)<<by)
	}
}

// TestBitFlips: no change of one to three bits of the signed bytes is accepted.
func TestBitFlips(t *testing.T) {
	flips := 300
	if testenv.IsLong() {
		flips = 10000
	}
	names := []string{"rsa-all", "rsa-two-banks", "ecc-shim", "ecc-uki"}
	seed := uint64(1)
	next := func(n int) int { seed = seed*6364136223846793005 + 1442695040888963407; return int(seed>>33) % n }
	bases := map[string]base{}
	for _, n := range names {
		bases[n] = ownQuote(t, n)
	}
	for i := range flips {
		b := bases[names[i%len(names)]]
		f := b.files
		f.Message = bytes.Clone(f.Message)
		for range 1 + next(3) {
			f.Message[next(len(f.Message))] ^= 1 << next(8)
		}
		if bytes.Equal(f.Message, b.files.Message) {
			continue
		}
		e, err := tpmquote.OpenFiles("flipped", f)
		if err != nil {
			continue
		}
		r := verify(t, e, b.options)
		if fold(r.Authentic) != verdict.Fail || len(r.Values) != 0 {
			t.Fatalf("accepted: %x", f.Message)
		}
	}
}

// TestQuotesSay: a recorded quote's parts, and that Marshal loses nothing.
func TestQuotesSay(t *testing.T) {
	for name, want := range map[string]string{
		"rsa-all": "sha256:0-15", "rsa-two-banks": "sha256:4,11 and sha384:4,11", "ecc-shim": "sha256:0,4,7-9,14", "ecc-uki": "sha256:0,2,4,7,9,11-12",
	} {
		b := ownQuote(t, name)
		e, err := tpmquote.OpenFiles(name, b.files)
		if err != nil {
			t.Fatal(err)
		}
		for want, data := range map[tpmquote.Part][]byte{tpmquote.PartMessage: b.files.Message, tpmquote.PartSignature: b.files.Signature, tpmquote.PartPCRs: b.files.PCRs, "": b.files.AK} {
			if got := tpmquote.Recognize(data); got != want {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
		}
		q := e.Quotes[0]
		if got := tpmquote.SelectionText(q.Attest.Selections); got != want {
			t.Errorf("%s covers %s, want %s", name, got, want)
		}
		if !bytes.Equal(q.Attest.Marshal(), q.Message) || !bytes.Equal(q.Signature.Marshal(), b.files.Signature) {
			t.Errorf("%s: Marshal does not give the bytes back", name)
		}
		if !bytes.Equal(q.Values.PCRFile(), b.files.PCRs) {
			t.Errorf("%s: PCRFile does not give the file back", name)
		}
		if !bytes.Equal(q.Attest.ExtraData, b.nonce) {
			t.Errorf("%s is for %x, want %x", name, q.Attest.ExtraData, b.nonce)
		}
	}
}
