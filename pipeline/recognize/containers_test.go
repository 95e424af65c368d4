package recognize_test

import (
	"context"
	"crypto/sha512"
	"encoding/asn1"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline/recognize"
	"github.com/retally/retally/pipeline/stages"
)

// containers are evidence in foreign containers, by file name.
func containers(t *testing.T) (map[string][]byte, map[string]recognize.Kind) {
	t.Helper()
	from, until := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2033, 1, 1, 0, 0, 0, 0, time.UTC)
	p, err := fake.NewPlatform("recognize", from, until)
	if err != nil {
		t.Fatal(err)
	}
	key, err := fake.RATLSKey("recognize")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := p.Quote(tdxquote.Body{MRTD: digest.SHA384.Sum(nil), ReportData: sha512.Sum512(append([]byte("ratls-cert:"), key...))}, fake.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := fake.RATLS("recognize", from, until, fake.Extension{ID: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 62397, 1, 1}, Value: raw})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := fake.RATLS("plain", from, until)
	if err != nil {
		t.Fatal(err)
	}
	numbers := make([]string, len(raw))
	for i, b := range raw {
		numbers[i] = string('0'+b/100) + string('0'+b/10%10) + string('0'+b%10)
		for len(numbers[i]) > 1 && numbers[i][0] == '0' {
			numbers[i] = numbers[i][1:]
		}
	}
	text := hex.EncodeToString(raw)
	attestation := fake.Attestation{Quote: raw, Config: "{}"}
	sgx := append([]byte{3, 0, 2, 0}, make([]byte, 700)...)
	vendor, err := hex.DecodeString("939a7233f79c4ca9940a0db3957f0607")
	if err != nil {
		t.Fatal(err)
	}
	copy(sgx[12:], vendor)
	return map[string][]byte{
		"numbers.json": []byte("[" + strings.Join(numbers, ",") + "]"), "report.json": []byte(`{"signing_address":"0x00","intel_quote":"` + text + `"}`),
		"azure.yaml": []byte("---\ntdx_quote: \"" + text + "\"\n"), "attest.json": []byte(`{"attestation":"` + hex.EncodeToString(attestation.V0()) + `"}`), "attest.bin": attestation.V0(), "attest.msgpack": attestation.V1(),
		"list.json": []byte(`[{"arch":"HOPPER","certificate":"AAAA","evidence":"AAAA","nonce":"00"}]`), "ratls.pem": fake.PEM(cert), "ratls.der": cert.Raw,
		"quote.bin": raw, "sgx.bin": append(sgx, fake.PEM(plain)...), "two.json": []byte(`{"a":"` + text + `","b":"` + text[:368] + "ff" + text[370:] + `"}`),
		"token.jwt": []byte("eyJhbGciOiJub25lIn0.eyJpc3MiOiJ4In0.AA"), "plain.pem": fake.PEM(plain), "package.json": []byte(`{"name":"x","version":"1"}`),
		"both.json": []byte(`{"evidence_list":[{"certificate":"","evidence":""}],"arch":"","nonce":"","intel_quote":"` + text + `"}`),
	}, map[string]recognize.Kind{
		"numbers.json": recognize.KindQuote, "report.json": recognize.KindQuote, "azure.yaml": recognize.KindQuote, "attest.json": recognize.KindQuote, "attest.bin": recognize.KindQuote, "attest.msgpack": recognize.KindQuote,
		"list.json": recognize.KindGPU, "ratls.pem": recognize.KindRATLS, "ratls.der": recognize.KindRATLS, "quote.bin": recognize.KindQuote, "both.json": recognize.KindQuote,
	}
}

func look(t *testing.T, files map[string][]byte, names ...string) (*recognize.Subject, error) {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, files[name], 0o644); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	s, err := recognize.Look(context.Background(), stages.Table(), paths, nil)
	if err != nil {
		return nil, err
	}
	t.Cleanup(s.Close)
	s.JudgeAt(time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC))
	return s, s.Prepare(context.Background())
}

// TestContainers: evidence is recognized in every container that it is read from,
// named and in a folder.
func TestContainers(t *testing.T) {
	files, want := containers(t)
	for name := range files {
		if got := recognize.Content(name, files[name]); got != want[name] {
			t.Errorf("%s: %q, want %q", name, got, want[name])
		}
		if want[name] == recognize.KindUnknown {
			continue
		}
		for how, see := range map[string]func(*testing.T, map[string][]byte, ...string) (*recognize.Subject, error){"named": look, "in a folder": lookAt} {
			s, err := see(t, files, name)
			if err != nil || len(s.Found) != 1 || s.Found[0].Kind != want[name] {
				t.Errorf("%s %s: %v", name, how, err)
			}
		}
	}
}

// TestForeignNamed: what is named and not judged here says what it is, whatever is
// in it: the certificates of an SGX quote are no certificate of a connection.
func TestForeignNamed(t *testing.T) {
	files, _ := containers(t)
	for name, want := range map[string]string{
		"sgx.bin": "an SGX quote (version 3); SGX quotes are not verified by this version", "token.jwt": `a signed token (JWT) of "x"`,
		"two.json": "which one counts cannot be said", "package.json": "is nothing that retally knows", "plain.pem": "1 certificate for 0 quotes",
	} {
		if _, err := look(t, files, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// TestRATLSBeside: named beside one quote, an RA-TLS certificate is the
// connection's; in a folder, where anybody could have laid it, it is evidence.
func TestRATLSBeside(t *testing.T) {
	files, _ := containers(t)
	s, err := look(t, files, "quote.bin", "ratls.pem")
	if err != nil {
		t.Fatal(err)
	}
	e, ok := s.Config.Evidence["quote"]
	if !ok || len(s.Config.Evidence) != 1 || filepath.Base(e.TLSCert) != "ratls.pem" || e.Profile != string(evidence.Dstack) {
		t.Errorf("named: %+v", s.Config.Evidence)
	}
	if s, err = lookAt(t, files, "quote.bin", "ratls.pem"); err != nil {
		t.Fatal(err)
	}
	if len(s.Config.Evidence) != 2 || s.Config.Evidence["quote"].TLSCert != "" {
		t.Errorf("in a folder: %+v", s.Config.Evidence)
	}
	if s, err = look(t, files, "ratls.pem"); err != nil {
		t.Fatal(err)
	}
	if e := s.Config.Evidence["ratls"]; e.File == "" || e.TLSCert != "" {
		t.Errorf("alone: %+v", s.Config.Evidence)
	}
	if slices.ContainsFunc(s.Found, func(f recognize.Found) bool { return f.Kind == recognize.KindTLSCert }) {
		t.Error("a certificate with a quote is taken for the connection's")
	}
}
