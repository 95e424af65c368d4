package evidence_test

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// FuzzPage: no panic on any saved page; what is taken out of it and accepted is
// the signed quote.
func FuzzPage(f *testing.F) {
	p := ownPlatform(f)
	raw := ownQuote(f, p, ownBody(f))
	text := hex.EncodeToString(raw)
	f.Add([]byte("<!DOCTYPE html><html><head><style>a{}</style></head><body><pre id=q>" + text + "</pre><!-- x --><script>1<2</script></body></html>"))
	f.Add([]byte("<textarea>&#48;&#52;00</textarea><code>{\"evidence_list\":[]}</code>"))
	f.Add([]byte(`{"quote":"` + text + `","event_log":[],"report_data":"00"}`))
	f.Add([]byte(text))
	f.Add(raw)
	attestation := fake.Attestation{Quote: raw, Events: []fake.DstackEvent{{IMR: 3, Name: "x"}}}
	f.Add(attestation.V0())
	f.Add([]byte(`{"attestation":"` + hex.EncodeToString(attestation.V1()) + `"}`))
	cert, err := fake.RATLS("fuzz", from, until, fake.Extension{ID: quoteOID(), Value: raw}, fake.Extension{ID: logOID(), Value: []byte("ELGZv1")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(fake.PEM(cert))
	f.Add([]byte(`{"a":{"quote":[4,0,2,0,129,0,0,0]},"b":"{\"q\":\"` + text[:128] + `\"}","c":"eyJhbGciOiJub25lIn0.e30.AA"}`))
	m, err := fake.NewTPM("fuzz", from, until, fake.TPMOptions{})
	if err != nil {
		f.Fatal(err)
	}
	files, err := m.Files([]byte("nonce"), fake.Select(digest.SHA256, 0, 4))
	if err != nil {
		f.Fatal(err)
	}
	proof, err := m.Proof(fake.ProofOptions{RootHash: digest.SHA256.Sum(nil), CA: string(fake.PEM(m.Root))})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{files.Message, files.Signature, files.PCRs, proof, []byte(`{"tpm_quote":{"message":"ff544347","signature":"00","pcrs":[]},"hcl_report":"484c4341"}`)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, page []byte) {
		b, err := evidence.Read("fuzz", page)
		if err != nil {
			return
		}
		if b, err = evidence.Merge(b); err != nil {
			return // one of several files that only together are evidence
		}
		got, err := evidence.Verify(evidence.Request{Evidence: b, At: now, IntelRoots: roots(p)})
		if err != nil {
			t.Fatal(err)
		}
		if b.Quote != nil && got.Authentic.Verdict == verdict.Pass && !bytes.HasPrefix(b.Quote, raw[:len(raw)-8]) {
			t.Fatal("a quote that nobody signed is accepted")
		}
		if (b.TPM != nil || b.TPMErr != nil || b.Proof != nil) && got.Authentic.Verdict == verdict.Pass {
			t.Fatal("a TPM under a root of our own passes for a provider's")
		}
	})
}

// FuzzRegistry: no panic, and rows keep what the file says.
func FuzzRegistry(f *testing.F) {
	f.Add([]byte(header + ownRow(ownBody(f)) + "\n"))
	f.Add([]byte(`[{"template_name": "small", "vm_type": "prod", "artifacts_ver": "v1", "mrtd": ""}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := evidence.ParseRegistry("fuzz", data)
		if err != nil {
			return
		}
		for _, s := range r.Sets() {
			for reg, d := range s.Registers {
				if len(d.Bytes()) != 48 {
					t.Fatalf("%s of %s has %d bytes", reg, s, len(d.Bytes()))
				}
			}
		}
	})
}
