// Package sigstoretest holds our judgement of Sigstore bundles against
// sigstore-go's. It is a module of its own, so that none of its 368 modules is
// ever part of the program.
package sigstoretest

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

const trust = "../../endorsement/testdata/public_good.json"

// sample is a bundle with what it must be held against.
type sample struct {
	name             string
	data             []byte
	identity, issuer string
	subject          string // SHA-256 in hex
}

func samples(t *testing.T) []sample {
	t.Helper()
	vectors := os.Getenv("RETALLY_VECTORS")
	if vectors == "" {
		t.Skip("SKIP-VISIBLE vectors: RETALLY_VECTORS is not set, and the bundles are other people's")
	}
	field := filepath.Join(vectors, "published", "field")
	var outer struct {
		Bundle json.RawMessage `json:"sigstoreBundle"`
	}
	if err := json.Unmarshal(read(t, field, "tinfoil", "router-v0.5.16-a.bundle.json"), &outer); err != nil {
		t.Fatal(err)
	}
	out := []sample{{name: "tinfoil", data: outer.Bundle}}
	for _, v := range []string{"v0.3.1", "v1.0.0", "v1.1.0"} {
		out = append(out, sample{name: v, data: read(t, field, "oms", v+"-sigstore", "model.sig")})
	}
	for i := range out {
		s := &out[i]
		var b bundle.Bundle
		if err := b.UnmarshalJSON(s.data); err != nil {
			t.Fatal(err)
		}
		content, err := b.VerificationContent()
		if err != nil {
			t.Fatal(err)
		}
		summary, err := certificate.SummarizeCertificate(content.Certificate())
		if err != nil {
			t.Fatal(err)
		}
		s.identity, s.issuer = summary.SubjectAlternativeName, summary.Issuer
		var statement struct {
			Subject []struct{ Digest map[string]string }
		}
		if err := json.Unmarshal(b.GetDsseEnvelope().GetPayload(), &statement); err != nil {
			t.Fatal(err)
		}
		s.subject = statement.Subject[0].Digest["sha256"]
	}
	return out
}

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// theirs is sigstore-go's answer.
func theirs(t *testing.T, s sample, data []byte) error {
	t.Helper()
	material, err := root.NewTrustedRootFromJSON(read(t, trust))
	if err != nil {
		t.Fatal(err)
	}
	v, err := verify.NewVerifier(material, verify.WithSignedCertificateTimestamps(1), verify.WithTransparencyLog(1), verify.WithIntegratedTimestamps(1))
	if err != nil {
		t.Fatal(err)
	}
	id, err := verify.NewShortCertificateIdentity(s.issuer, "", s.identity, "")
	if err != nil {
		t.Fatal(err)
	}
	sum, err := hex.DecodeString(s.subject)
	if err != nil {
		t.Fatal(err)
	}
	var b bundle.Bundle
	if err := b.UnmarshalJSON(data); err != nil {
		return err
	}
	_, err = v.Verify(&b, verify.NewPolicy(verify.WithArtifactDigest("sha256", sum), verify.WithCertificateIdentity(id)))
	return err
}

// ours is the program's answer: its exit code.
func ours(t *testing.T, program string, s sample, data []byte) int {
	t.Helper()
	file := filepath.Join(t.TempDir(), "bundle.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "endorsement", "verify", file, "--trusted-root", trust, "--identity", s.identity, "--issuer", s.issuer, "--subject", "sha256:"+s.subject, "--at", "2026-11-01T00:00:00Z", "-o", "json")
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	t.Fatal(err)
	return -1
}

// TestAgainstSigstoreGo holds every bundle and every variant with one value
// changed against sigstore-go: what it refuses, ours refuses.
func TestAgainstSigstoreGo(t *testing.T) {
	program := filepath.Join(t.TempDir(), "retally")
	build := exec.Command("go", "build", "-o", program, "./cmd/retally")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	both, stricter := 0, map[string]int{}
	for _, s := range samples(t) {
		if err := theirs(t, s, s.data); err != nil {
			t.Fatalf("%s: sigstore-go: %v", s.name, err)
		}
		if code := ours(t, program, s, s.data); code != 0 {
			t.Errorf("%s: exit code %d, sigstore-go accepts it", s.name, code)
		}
		variants(t, s.data, func(path string, changed []byte) {
			err, code := theirs(t, s, changed), ours(t, program, s, changed)
			switch {
			case err != nil && code == 0:
				t.Errorf("%s %s: taken, sigstore-go says %v", s.name, path, err)
			case err != nil:
				both++
			case code != 0:
				stricter[path]++
			}
		})
	}
	t.Logf("%d variants refused by both; refused by ours alone: %v", both, stricter)
	if both < 100 {
		t.Errorf("only %d variants", both)
	}
}

// variants changes every value of a document in turn.
func variants(t *testing.T, data []byte, try func(path string, changed []byte)) {
	t.Helper()
	var walk func(doc, v any, path string, set func(any))
	walk = func(doc, v any, path string, set func(any)) {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				walk(doc, e, path+"/"+k, func(x any) { v[k] = x })
			}
		case []any:
			for i, e := range v {
				walk(doc, e, path+"/"+strconv.Itoa(i), func(x any) { v[i] = x })
			}
		case string:
			for _, text := range damaged(v) {
				set(text)
				changed, err := json.Marshal(doc)
				if err != nil {
					t.Fatal(err)
				}
				try(path, changed)
			}
			set(v)
		}
	}
	var doc any
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	walk(doc, doc, "", nil)
}

func damaged(text string) []string {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return []string{strconv.FormatInt(n+1, 10)}
	}
	if raw, err := base64.StdEncoding.DecodeString(text); err == nil && len(raw) > 16 {
		var out []string
		for _, i := range []int{0, len(raw) / 2, len(raw) - 1} {
			b := append([]byte{}, raw...)
			b[i] ^= 1
			out = append(out, base64.StdEncoding.EncodeToString(b))
		}
		return out
	}
	if text == "" {
		return nil
	}
	return []string{strings.ToUpper(text[:1]) + text[1:] + "x"}
}
