package recognize_test

import (
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline/recognize"
)

// TestRecognizeTPM: quotes of TPMs in one file and in three, and proof files, by
// their content, in a folder too. Parts of no whole quote are an error.
func TestRecognizeTPM(t *testing.T) {
	m, err := fake.NewTPM("recognize", time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2033, 1, 1, 0, 0, 0, 0, time.UTC), fake.TPMOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := m.Files([]byte("nonce"), fake.Select(digest.SHA256))
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for i := range 24 {
		values = append(values, m.PCRs[digest.SHA256][i].Hex())
	}
	container, err := json.Marshal(map[string]any{"message": hex.EncodeToString(f.Message), "signature": hex.EncodeToString(f.Signature), "pcrs": values})
	if err != nil {
		t.Fatal(err)
	}
	proof, err := m.Proof(fake.ProofOptions{RootHash: digest.SHA256.Sum(nil), CA: string(fake.PEM(m.Root))})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"a.msg": f.Message, "a.sig": f.Signature, "a.pcrs": f.PCRs, "quote.json": container, "proof.json": proof, "zero.bin": make([]byte, 900), "noise.bin": append([]byte{0x0a, 0x80}, make([]byte, 900)...)}
	for name, want := range map[string]recognize.Kind{
		"a.msg": recognize.KindTPMPart, "a.sig": recognize.KindTPMPart, "a.pcrs": recognize.KindTPMPart, "quote.json": recognize.KindTPM, "proof.json": recognize.KindProof,
		"zero.bin": recognize.KindUnknown, "noise.bin": recognize.KindUnknown,
	} {
		if got := recognize.Content(name, files[name]); got != want {
			t.Errorf("%s is a %q, want %q", name, got, want)
		}
	}
	s, err := lookAt(t, files, "a.msg", "a.sig", "a.pcrs", "quote.json", "proof.json")
	if err != nil {
		t.Fatal(err)
	}
	if e := s.Config.Evidence; len(e) != 3 || e["a"].Profile != "tpm" || len(e["a"].Also) != 2 || e["quote"].Profile != "tpm" || e["proof"].Profile != "blindllama" {
		t.Errorf("evidence %+v", e)
	}
	if _, err := lookAt(t, files, "a.msg", "a.pcrs"); err == nil || !strings.Contains(err.Error(), "2 parts of a TPM quote") {
		t.Errorf("without the signature: got %v", err)
	}
	s, err = lookAt(t, files, "zero.bin", "noise.bin", "proof.json")
	if err != nil || slices.ContainsFunc(s.Found, func(f recognize.Found) bool { return f.Name != "proof.json" }) {
		t.Errorf("found %v, %v", s, err)
	}
}
