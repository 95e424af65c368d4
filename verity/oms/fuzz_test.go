package oms_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/retally/retally/verity/oms"
)

// FuzzParse: any file is read or refused, and what is read has digests that give
// its root; nothing is signed by nobody.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("../../fixtures/oms/*.sig")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := oms.Parse("f", data)
		if err != nil {
			return
		}
		if len(s.Statement.Resources) == 0 {
			t.Fatal("a statement of nothing is read")
		}
		if signer, err := s.Verify(oms.Trust{}); err == nil {
			t.Fatalf("signed by %q without a key", signer.Name)
		}
	})
}

// FuzzStatement: the same for the signed statement inside.
func FuzzStatement(f *testing.F) {
	bundle := func(statement []byte) []byte {
		b, err := json.Marshal(map[string]any{
			"mediaType":            "application/vnd.dev.sigstore.bundle.v0.3+json",
			"verificationMaterial": map[string]any{"publicKey": map[string]any{}},
			"dsseEnvelope": map[string]any{
				"payload": statement, "payloadType": "application/vnd.in-toto+json", "signatures": []any{map[string]any{"sig": []byte("x")}},
			},
		})
		if err != nil {
			panic(err)
		}
		return b
	}
	files, _ := filepath.Glob("../../fixtures/oms/*.sig")
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		var b struct {
			Envelope struct {
				Payload string `json:"payload"`
			} `json:"dsseEnvelope"`
		}
		if err := json.Unmarshal(data, &b); err != nil {
			f.Fatal(err)
		}
		payload, err := base64.StdEncoding.DecodeString(b.Envelope.Payload)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, statement []byte) {
		s, err := oms.Parse("f", bundle(statement))
		if err != nil {
			return
		}
		paths := map[string]bool{}
		for _, r := range s.Statement.Resources {
			if r.Path != "." && filepath.Clean("/"+r.Path) != "/"+r.Path {
				t.Fatalf("path %q leads elsewhere", r.Path)
			}
			if paths[r.Path] && s.Statement.ShardSize == 0 {
				t.Fatalf("path %q is there twice", r.Path)
			}
			paths[r.Path] = true
		}
	})
}
