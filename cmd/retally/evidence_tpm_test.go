package main

import (
	"crypto/elliptic"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
)

// appRoot is the root hash of the application disk of the proof file.
var appRoot = digest.SHA256.Sum([]byte("application disk"))

// firmwareLog is a log in the crypto-agile form (TCG PC Client Platform Firmware
// Profile, "Event Logging") that ends PCRs 0 to 7 with a separator each. The last
// event's digest is of other data where it lies.
func firmwareLog(lies bool) []byte {
	le := binary.LittleEndian
	u32 := func(b []byte, values ...uint32) []byte {
		for _, v := range values {
			b = le.AppendUint32(b, v)
		}
		return b
	}
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2)
	spec = le.AppendUint16(le.AppendUint16(u32(spec, 1), 0x0b), 32)
	spec = append(spec, 0)
	out := append(u32(nil, 0, 3), make([]byte, 20)...)
	out = append(u32(out, uint32(len(spec))), spec...)
	for pcr := range uint32(8) {
		sum, data := digest.SHA256.Sum(make([]byte, 4)), make([]byte, 4)
		if lies && pcr == 7 {
			data = []byte{1, 0, 0, 0}
		}
		out = le.AppendUint16(u32(out, pcr, 4, 1), 0x0b)
		out = append(append(u32(append(out, sum.Bytes()...), 4), data...), nil...)
	}
	return out
}

// makeTPM writes the evidence of two machines with virtual TPMs into a folder,
// and what it is held against.
func makeTPM(dir string) error {
	nonce := []byte{0x00, 0x11}
	m, err := fake.NewTPM("command line", ownFrom, ownUntil, fake.TPMOptions{})
	if err != nil {
		return err
	}
	for pcr := range 8 {
		if err := m.Measure(pcr, make([]byte, 4)); err != nil {
			return err
		}
	}
	f, err := m.Files(nonce, fake.Select(digest.SHA256))
	if err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(m.AK())
	if err != nil {
		return err
	}
	golden, err := m.Golden(0, 1, 2, 3, 4, 5, 6, 7)
	if err != nil {
		return err
	}
	bad := append([]byte(nil), f.Message...)
	bad = bad[:len(bad)-1]

	key, err := fake.Key(elliptic.P256(), "web server CA")
	if err != nil {
		return err
	}
	ca, err := fake.Issue(fake.Certificate{Name: "web server CA", CA: true, From: ownFrom, Until: ownUntil, Serial: 1}, key, nil, nil)
	if err != nil {
		return err
	}
	leafKey, err := fake.Key(elliptic.P256(), "web server")
	if err != nil {
		return err
	}
	leaf, err := fake.Issue(fake.Certificate{Name: "web server", From: ownFrom, Until: ownUntil, Serial: 2}, leafKey, ca, key)
	if err != nil {
		return err
	}
	stranger, _, err := makeCertificate("stranger")
	if err != nil {
		return err
	}
	p, err := fake.NewTPM("command line", ownFrom, ownUntil, fake.TPMOptions{})
	if err != nil {
		return err
	}
	for pcr := range 8 {
		if err := p.Measure(pcr, []byte{byte(pcr)}); err != nil {
			return err
		}
	}
	released, err := p.Golden(0, 1, 2, 3, 4, 12, 13)
	if err != nil {
		return err
	}
	proof, err := p.Proof(fake.ProofOptions{RootHash: appRoot, CA: string(fake.PEM(ca))})
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"quote.bin": f.Message, "quote.sig": f.Signature, "quote.pcrs": f.PCRs, "ak.pem": f.AK, "ak-key.pem": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}),
		"broken.bin": bad, "root.pem": fake.PEM(m.Root), "golden.json": golden, "boot.log": firmwareLog(false), "lie.log": firmwareLog(true), "cut.log": firmwareLog(false)[:200],
		"proof.json": proof, "release.json": released, "empty.json": []byte(`{"measurements":{}}`), "server.pem": fake.PEM(leaf), "stranger.pem": fake.PEM(stranger),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// tpmMachineCommand is the scripts' tpm-machine DIR.
func tpmMachineCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: tpm-machine DIR")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(makeTPM(dir))
	ts.Setenv("APPROOT", appRoot.Hex())
}

// TestPublishedProofFile: the verb over the published proof file, which is read
// in place: at a time of its own, and today.
func TestPublishedProofFile(t *testing.T) {
	var s struct {
		Doc, Measurements json.RawMessage
		RootHash          string
	}
	if err := json.Unmarshal(readFileOf(t, filepath.Join(testenv.Vectors(t, "published/blindllama"), "base.json")), &s); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	putFile(t, "proof.json", s.Doc)
	putFile(t, "golden.json", s.Measurements)
	args := []string{"evidence", "verify", "proof.json", "--golden", "golden.json", "--app-root", s.RootHash, "--at"}
	for _, tt := range []struct {
		more []string
		code int
		want []string
	}{
		{[]string{"2023-12-01T00:00:00Z"}, 3, []string{"UNCHECKED  blindllama evidence proof.json", "authentic  pass", "expected   pass", "bound      unchecked", "nothing is bound"}},
		{[]string{"2023-12-01T00:00:00Z", "--only", "authentic,expected"}, 0, []string{"PASS  blindllama evidence proof.json", "not asked for: bound"}},
		{[]string{"2023-12-01T00:00:00Z", "--nonce", "00"}, 1, []string{"holds no nonce"}},
		{[]string{evidenceAt}, 1, []string{"authentic  fail", "expected   unchecked", "bound      unchecked", "5efaacb0f4d9.TrustedVM.Azure.Microsoft", "expired: was valid until", "anybody could have written"}},
	} {
		code, out, errOut := inProcess(t, nil, append(args, tt.more...)...)
		for _, want := range tt.want {
			if code != tt.code || !strings.Contains(out, want) {
				t.Errorf("%v: exit code %d, want %d with %q\n%s%s", tt.more, code, tt.code, want, out, errOut)
			}
		}
	}
}
