package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/retally/retally/evidence/contrast"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/internal/digest"
	evidencestage "github.com/retally/retally/pipeline/stages/evidence"
)

// contrastMachine is a Coordinator under test roots, as far as the command line
// is to see one.
type contrastMachine struct {
	*fake.Deployment
	snp      *fake.SNPPlatform
	manifest []byte
	policy   []byte
	key      *ecdsa.PrivateKey
}

func newContrastMachine() (*contrastMachine, error) {
	from, until := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)
	m := &contrastMachine{policy: []byte("policy of web")}
	var err error
	if m.Deployment, err = fake.NewDeployment("cli", from, until); err != nil {
		return nil, err
	}
	if m.snp, err = fake.NewSNPPlatform("cli", from, until, fake.SNPOptions{}); err != nil {
		return nil, err
	}
	if m.key, err = fake.Key(elliptic.P256(), "cli pod"); err != nil {
		return nil, err
	}
	m.manifest = fmt.Appendf(nil, `{"Policies": {"%x": {"SANs": ["coordinator", "*"], "WorkloadSecretID": "apps/v1/StatefulSet/ns/coordinator", "Role": "coordinator"}},
"ReferenceValues": {"snp": [{"Platform": "Metal-QEMU-SNP", "ProductName": "Genoa", "TrustedMeasurement": "%s",
"MinimumTCB": {"BootloaderVersion": 7, "TEEVersion": 0, "SNPVersion": 10, "MicrocodeVersion": 50},
"GuestPolicy": {"ABIMinor": 0, "ABIMajor": 0, "SMT": true, "MigrateMA": false, "Debug": false, "SingleSocket": false, "CXLAllowed": false, "MemAES256XTS": false, "RAPLDis": false, "CipherTextHidingDRAM": false, "PageSwapDisable": false},
"PlatformInfo": {"SMTEnabled": true, "TSMEEnabled": false, "ECCEnabled": false, "RAPLDisabled": false, "CiphertextHidingDRAMEnabled": false, "AliasCheckComplete": false, "TIOEnabled": false},
"MinimumMitigationVector": 0, "AllowedChipIDs": null, "CPUs": 1}]}, "WorkloadOwnerPubKeys": null, "SeedshareOwnerPubKeys": null}
`, sha256.Sum256(m.policy), digest.SHA384.Sum([]byte("launch")).Hex())
	return m, nil
}

func (m *contrastMachine) document(data [64]byte) ([]byte, error) {
	raw, err := m.snp.Report(snpreport.Report{Measurement: digest.SHA384.Sum([]byte("launch")), HostData: sha256.Sum256(m.policy), ReportData: data, PlatformInfo: snpreport.PlatformSMTEn}, nil)
	if err != nil {
		return nil, err
	}
	return m.snp.SNPDocument(raw), nil
}

func (m *contrastMachine) answer(nonce, capabilities []byte) ([]byte, error) {
	tr, err := evidencestage.Transition([][]byte{m.manifest})
	if err != nil {
		return nil, err
	}
	doc, err := m.document(contrast.OfAnswer(nonce, tr, m.RootPEM(), m.MeshPEM(), capabilities))
	if err != nil {
		return nil, err
	}
	return m.Answer(contrast.OIDSNP, doc, [][]byte{m.policy}, m.manifest)
}

// atls is the certificate for a nonce, valid around a time.
func (m *contrastMachine) atls(nonce []byte, at time.Time) (*x509.Certificate, error) {
	spki, err := x509.MarshalPKIXPublicKey(&m.key.PublicKey)
	if err != nil {
		return nil, err
	}
	doc, err := m.document(contrast.OfKey(spki, nonce))
	if err != nil {
		return nil, err
	}
	return fake.ATLS(m.key, at.Add(-2*time.Hour), at.Add(2*time.Hour), pkix.Extension{Id: contrast.OIDSNP, Value: doc})
}

func (m *contrastMachine) roots() []byte { return fake.PEM(m.snp.ARK, m.snp.ASK, m.snp.ASVK) }

// makeContrast writes what a Coordinator showed at evidenceAt for the nonce 07...
func makeContrast(dir string) error {
	m, err := newContrastMachine()
	if err != nil {
		return err
	}
	at, err := time.Parse(time.RFC3339, evidenceAt)
	if err != nil {
		return err
	}
	nonce := []byte(strings.Repeat("\a", 32))
	answer, err := m.answer(nonce, nil)
	if err != nil {
		return err
	}
	pod, err := m.atls(nonce, at)
	if err != nil {
		return err
	}
	spaced := append([]byte(" "), m.manifest...)
	other, err := x509.MarshalPKIXPublicKey(&m.key.PublicKey)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"answer.json": answer, "pod.pem": fake.PEM(pod), "manifest.json": m.manifest, "spaced.json": spaced, "amd.pem": m.roots(), "capabilities": []byte(`{"api_versions":[]}`),
		"owner.pem": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: other}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// contrastMachineCommand is makeContrast for scripts.
func contrastMachineCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: contrast-machine DIR")
	}
	ts.Check(makeContrast(ts.MkAbs(args[0])))
}

// serve is a Coordinator on loopback: every connection gets a certificate for its
// nonce. http: it answers /capabilities and /v1/attest over it. wrong: the report
// is for another nonce.
func (m *contrastMachine) serve(t *testing.T, withHTTP, wrong bool) string {
	t.Helper()
	body := []byte("{\"api_versions\":[\"v1\"]}\n")
	mux := http.NewServeMux()
	if withHTTP {
		mux.HandleFunc("GET /capabilities", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })
		mux.HandleFunc("POST /v1/attest", func(w http.ResponseWriter, r *http.Request) {
			var ask struct{ Nonce []byte }
			raw, _ := io.ReadAll(r.Body)
			if err := json.Unmarshal(raw, &ask); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			answer, err := m.answer(ask.Nonce, body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			_, _ = w.Write(answer)
		})
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute, ErrorLog: nil}
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetHTTP1(true)
	conf := &tls.Config{NextProtos: []string{"h2"}, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		for _, p := range hello.SupportedProtos {
			nonce, err := contrast.NonceOf(p)
			if err != nil {
				return nil, err
			}
			if nonce == nil {
				continue
			}
			if wrong {
				nonce[0] ^= 1
			}
			cert, err := m.atls(nonce, time.Now())
			if err != nil {
				return nil, err
			}
			return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: m.key}, nil
		}
		return nil, fmt.Errorf("no nonce in %q", hello.SupportedProtos)
	}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server.TLSConfig = conf
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() {
		_ = server.Shutdown(context.Background())
		<-done
	})
	return l.Addr().String()
}

// TestContrastCapture: a Coordinator's session with everything, one that shows the
// certificate alone, and one whose report is for another nonce.
func TestContrastCapture(t *testing.T) {
	m, err := newContrastMachine()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	putFile(t, "manifest.json", m.manifest)
	putFile(t, "amd.pem", m.roots())
	for i, tt := range []struct {
		http, wrong bool
		code        int
		text        string
	}{
		{true, false, exitMatch, "are of one guest"},
		{false, false, exitMatch, "the SHA-512 of the certificate's public key and the nonce"},
		{true, true, exitDiffers, "another key or nonce"},
	} {
		out := fmt.Sprintf("capture%d", i)
		host := m.serve(t, tt.http, tt.wrong)
		code, shown, errText := inProcess(t, nil, "-q", "evidence", "capture", host, "--profile", "contrast", "--out", out)
		if code != exitMatch || !strings.Contains(shown, "nonce ") {
			t.Fatalf("capture: exit %d\n%s%s", code, shown, errText)
		}
		code, shown, errText = inProcess(t, nil, "-q", "evidence", "verify", out, "--manifest", "manifest.json", "--workload", "coordinator", "--roots", "amd.pem", "--test-root-ok", "-o", "json")
		if code != tt.code || !strings.Contains(shown, tt.text) {
			t.Errorf("case %d: exit %d, want %d with %q\n%s%s", i, code, tt.code, tt.text, shown, errText)
		}
		if !strings.Contains(shown, "a key, not a session") || !strings.Contains(shown, contrast.Unconfirmed) {
			t.Errorf("case %d: what is not shown is not said:\n%s", i, shown)
		}
		// A nonce of the user's own that the capture was not made with.
		code, shown, _ = inProcess(t, nil, "-q", "evidence", "verify", out, "--manifest", "manifest.json", "--workload", "coordinator", "--roots", "amd.pem", "--test-root-ok", "--nonce", hex.EncodeToString(make([]byte, 32)))
		if code != exitDiffers || !strings.Contains(shown, "the capture was made with the nonce") {
			t.Errorf("case %d, another nonce: exit %d\n%s", i, code, shown)
		}
	}
	// Somebody who knows nothing of aTLS.
	code, _, errText := inProcess(t, nil, "-q", "evidence", "capture", "127.0.0.1:1", "--profile", "contrast", "--out", "none")
	if code != exitTrouble || !strings.Contains(errText, "no TLS session") {
		t.Errorf("nobody there: exit %d, %s", code, errText)
	}
	if _, err := os.Stat("none"); err == nil {
		t.Error("a capture of nothing was written")
	}
}
