package tpmquote_test

import (
	"crypto/elliptic"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
)

// TestOracleCheckquote: tpm2_checkquote and this package say the same about
// quotes of our machines, whole and with a bit changed. Version 5.4 knows no RSAPSS.
// It needs no TPM.
func TestOracleCheckquote(t *testing.T) {
	tool := testenv.Oracle(t, "tpm2_checkquote")
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for i, o := range []fake.TPMOptions{{}, {Curve: elliptic.P256()}, {Banks: []digest.Algorithm{digest.SHA1, digest.SHA256}}} {
		m := machine(t, o)
		selections := []tpmquote.Selection{fake.Select(digest.SHA256, 0, 4, 7, 9, 11)}
		if o.Banks != nil {
			selections = []tpmquote.Selection{fake.Select(digest.SHA1, 0, 4), fake.Select(digest.SHA256)}
		}
		f, err := m.Files(nonce, selections...)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(m.AK())
		if err != nil {
			t.Fatal(err)
		}
		key := write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		for _, flip := range []string{"", "message", "signature", "value"} {
			name := fmt.Sprintf("machine %d, flip %q", i, flip)
			g := tpmquote.Files{Message: append([]byte{}, f.Message...), Signature: append([]byte{}, f.Signature...), PCRs: append([]byte{}, f.PCRs...)}
			switch flip {
			case "message":
				g.Message[60] ^= 4
			case "signature":
				g.Signature[40] ^= 4
			case "value":
				g.PCRs[132+4+4+2+5] ^= 4
			}
			cmd := exec.Command(tool, "-u", key, "-m", write("message", g.Message), "-s", write("signature", g.Signature), "-f", write("pcrs", g.PCRs), "-q", hex.EncodeToString(nonce), "-g", "sha256")
			cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI=none")
			out, err := cmd.CombinedOutput()
			theirs := err == nil
			e, err := tpmquote.OpenFiles(name, g)
			ours := false
			if err == nil {
				r := verify(t, e, tpmquote.Options{At: now, AK: &tpmquote.AK{Key: m.AK()}, Nonce: nonce})
				ours = fold(r.Authentic) == verdict.Pass && fold(r.Bound) == verdict.Pass
			}
			if ours != theirs || ours != (flip == "") {
				t.Errorf("%s: ours %t (%v), tpm2_checkquote %t: %s", name, ours, err, theirs, out)
			}
		}
	}
}
