package stages_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/disks"
	"github.com/retally/retally/verity/disk"
)

// signModel writes model.sig over some files as the reference program does, and
// the key's public half.
func signModel(t *testing.T, sigFile, keyFile string, files map[string]string, names ...string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := sha256.New()
	resources := []any{}
	for _, n := range names {
		sum := sha256.Sum256([]byte(files[n]))
		root.Write(sum[:])
		resources = append(resources, map[string]any{"name": n, "algorithm": "sha256", "digest": hex.EncodeToString(sum[:])})
	}
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	payload := encode(map[string]any{
		"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://model_signing/signature/v1.0",
		"subject": []any{map[string]any{"name": "m", "digest": map[string]any{"sha256": hex.EncodeToString(root.Sum(nil))}}},
		"predicate": map[string]any{
			"serialization": map[string]any{"method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": []string{"notes"}}, "resources": resources,
		},
	})
	const typ = "application/vnd.in-toto+json"
	pae := sha256.Sum256(append(fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(typ), typ, len(payload)), payload...))
	sig, err := ecdsa.SignASN1(rand.Reader, key, pae[:])
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		keyFile: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		sigFile: encode(map[string]any{
			"mediaType":            "application/vnd.dev.sigstore.bundle.v0.3+json",
			"verificationMaterial": map[string]any{"publicKey": map[string]any{}},
			"dsseEnvelope":         map[string]any{"payload": payload, "payloadType": typ, "signatures": []any{map[string]any{"sig": sig}}},
		}),
	} {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// What somebody signed is bound to the root hash that the deployment mounts only
// where the files are the signed ones and the signature is by somebody trusted.
func TestSignedRootDeployed(t *testing.T) {
	files := map[string]string{"config.json": "{}", "w.safetensors": strings.Repeat("w", 9000), "notes": "not covered"}
	for name, c := range map[string]struct {
		change  func(dir string)
		signers []string
		exclude []string
		want    string // verdicts of model-sig, signer, signed
		says    string
	}{
		"signed":          {nil, []string{"key.pub"}, nil, "match match match", ""},
		"by another":      {nil, []string{"other.pub"}, nil, "match differs unchecked", "does not hold"},
		"by whom":         {nil, nil, nil, "match unchecked unchecked", "no key was given"},
		"not all signed":  {func(dir string) { os.WriteFile(filepath.Join(dir, "m/extra.py"), []byte("x"), 0o644) }, []string{"key.pub"}, nil, "differs match unchecked", ""},
		"another content": {func(dir string) { os.WriteFile(filepath.Join(dir, "m/config.json"), []byte("[]"), 0o644) }, []string{"key.pub"}, nil, "differs match unchecked", ""},
		"some left out":   {nil, []string{"key.pub"}, []string{"config.json"}, "unchecked match unchecked", "leaves out"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			at := func(n string) string { return filepath.Join(dir, n) }
			if err := os.Mkdir(at("m"), 0o755); err != nil {
				t.Fatal(err)
			}
			for n, text := range files {
				if err := os.WriteFile(at("m/"+n), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			signModel(t, at("other.sig"), at("other.pub"), files, "config.json", "w.safetensors")
			signModel(t, at("m/model.sig"), at("key.pub"), files, "config.json", "w.safetensors")
			if c.change != nil {
				c.change(dir)
			}
			d := config.Disk{Dir: "m", ModelSig: "m/model.sig", Signers: c.signers, Exclude: &c.exclude}
			// The deployment mounts just this disk, so that only the signature counts.
			opts, err := disks.Resolve(config.Disk{Dir: at("m"), Exclude: &c.exclude}, nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := disk.Measure(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			root := res.RootHash.Hex()
			for n, text := range map[string]string{
				"d.yaml": released("contrast-cc", "exec a\n", "--root-hash="+root),
				"sc.yaml": "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata:\n  name: m\n  annotations:\n    privatemode.edgeless.systems/model_source: https://models.example/a/m\n    privatemode.edgeless.systems/commit_hash: " +
					strings.Repeat("2b", 20) + "\n    privatemode.edgeless.systems/root_hash: " + root + "\n",
			} {
				if err := os.WriteFile(at(n), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			cfg := &config.Config{Version: 1, Deployment: "d.yaml", StorageClasses: []string{"sc.yaml"}}
			probe, err := disks.Stage().Run(t.Context(), run.NewIn(cfg, run.NewReader(dir, nil)))
			if err != nil {
				t.Fatal(err)
			}
			_, key, _ := strings.Cut(string(probe.Measurements[0].Key), "/")
			model, _, _ := strings.Cut(key, "@")
			cfg.Disks = map[string]config.Disk{model: d}
			out, err := disks.Stage().Run(t.Context(), run.NewIn(cfg, run.NewReader(dir, nil)))
			if err != nil {
				t.Fatal(err)
			}
			findings, _ := pipeline.Compare(out.Measurements, out.References, pipeline.CompareOptions{Complete: out.Complete})
			got := map[string]pipeline.Verdict{}
			for _, f := range findings {
				k := string(f.Key)
				got[k[strings.LastIndexByte(k, '/')+1:]] = f.Verdict
			}
			if v := fmt.Sprintf("%s %s %s", got["model-sig"], got["signer"], got["signed"]); v != c.want || got["root"] != pipeline.Match {
				t.Errorf("got %s and root %s, want %s\n%+v", v, got["root"], c.want, findings)
			}
			if !strings.Contains(fmt.Sprint(out.Notes, findings), c.says) {
				t.Errorf("%q is not said: %v", c.says, out.Notes)
			}
			for _, m := range out.Measurements {
				if strings.HasSuffix(string(m.Key), "/signed") && (m.Basis != pipeline.Endorsed || !strings.Contains(m.Note, "signed by key ")) {
					t.Errorf("%+v", m)
				}
			}
			unsigned := 0
			for _, p := range out.Problems {
				if p.Code == "disk-unsigned" && strings.Contains(p.Msg, `"notes" (ignored by the statement)`) {
					unsigned++
				}
			}
			if unsigned != 1 {
				t.Errorf("that notes is not covered is not said once: %+v", out.Problems)
			}
		})
	}
}
