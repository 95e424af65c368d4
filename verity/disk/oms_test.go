package disk_test

import (
	"archive/tar"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/oms"
)

// signedBy reads a signature file and the files of keys and roots.
func signedBy(t *testing.T, sig string, trust ...string) (*oms.Signature, oms.Trust) {
	t.Helper()
	data, err := os.ReadFile(sig)
	if err != nil {
		t.Fatal(err)
	}
	s, err := oms.Parse(sig, data)
	if err != nil {
		t.Fatal(err)
	}
	var tr oms.Trust
	for _, name := range trust {
		pem, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := oms.ParseTrust(name, pem, &tr); err != nil {
			t.Fatal(err)
		}
	}
	return s, tr
}

// ownKey takes the key out of the bundles that carry it, as a user would have it
// from the signer. Nothing but a test may believe it.
func ownKey(t *testing.T, sig string) string {
	t.Helper()
	var b struct {
		Material struct {
			Key struct {
				Raw []byte `json:"rawBytes"`
			} `json:"publicKey"`
		} `json:"verificationMaterial"`
	}
	data, err := os.ReadFile(sig)
	if err == nil {
		err = json.Unmarshal(data, &b)
	}
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(out, b.Material.Key.Raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestSignedField holds the samples of the reference program, from v0.2 to
// v1.1, against the directories that they are of.
func TestSignedField(t *testing.T) {
	root := testenv.Vectors(t, "published/field/oms")
	ca := filepath.Join(root, "keys/certificate/ca-cert.pem")
	other := filepath.Join(root, "keys/certificate/signing-key-pub.pem")
	judged := 0
	for _, name := range []string{
		"v0.2.0-certificate", "v0.3.1-certificate", "v0.3.1-elliptic-key", "v0.3.1-sigstore", "v1.0.0-certificate",
		"v1.0.0-elliptic-key", "v1.0.0-sigstore", "v1.1.0-certificate", "v1.1.0-elliptic-key", "v1.1.0-sigstore",
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(root, name)
			sig := filepath.Join(dir, "model.sig")
			s, trust := signedBy(t, sig, ca)
			if strings.HasSuffix(name, "elliptic-key") {
				key := other
				if s.Hint == "" {
					key = ownKey(t, sig)
				}
				_, trust = signedBy(t, sig, key)
			}
			signer, err := s.Verify(trust)
			var not *oms.NotJudgedError
			switch {
			case strings.HasSuffix(name, "sigstore"):
				if !errors.As(err, &not) {
					t.Errorf("a keyless signature: %v, want not judged", err)
				}
			case err != nil:
				t.Error(err)
			default:
				judged++
				t.Logf("signed by %s; %s", signer.Name, signer.Note)
			}
			got := measure(t, disk.Options{Dir: dir, Signed: s.Statement, Signature: "model.sig"}).Signed
			if !got.OK() || got.Files != len(s.Statement.Resources) {
				t.Errorf("%s: %+v", got, got)
			}
			// Nobody's signature is believed without a key.
			if _, err := s.Verify(oms.Trust{}); !errors.As(err, &not) {
				t.Errorf("without keys: %v", err)
			}
		})
	}
	if judged != 7 {
		t.Errorf("%d signatures hold, want 7", judged)
	}
	t.Run("generated", func(t *testing.T) {
		dir := untar(t, filepath.Join(root, "generated/tree.tar"))
		for _, name := range []string{"files-sha256", "files-blake3"} {
			s, trust := signedBy(t, filepath.Join(root, "generated", name+".sig"), filepath.Join(root, "generated/key.pub"))
			if _, err := s.Verify(trust); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got := measure(t, disk.Options{Dir: dir, Signed: s.Statement}).Signed; !got.OK() {
				t.Errorf("%s: %s", name, got)
			}
		}
	})
}

func untar(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		_, rel, _ := strings.Cut(h.Name, "/")
		if h.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, rel), data)
	}
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// omsModel writes the tree that the signatures of fixtures/oms are of.
func omsModel(t *testing.T) string {
	t.Helper()
	stream := func(size int) []byte {
		var out []byte
		for c := uint64(0); len(out) < size; c++ {
			sum := sha256.Sum256(binary.LittleEndian.AppendUint64(nil, c))
			out = append(out, sum[:]...)
		}
		return out[:size]
	}
	dir := t.TempDir()
	for name, data := range map[string]string{
		".gitignore": "x\n", ".hidden": "h\n", "A": "A\n", "Z/q": "q\n", "a/b": "b\n", "a-b": "-\n", "a.c": ".\n", "big": string(stream(2500)), "empty": "",
		"sub/.git/config": "c\n", "ä/ü": "u\n", "notes/todo.txt": "ignored\n", "exact": string(stream(2000)),
	} {
		writeFile(t, filepath.Join(dir, name), []byte(data))
	}
	return dir
}

const omsFixtures = "../../fixtures/oms/"

// TestSignedKinds: every hash type and method, and what damages each.
func TestSignedKinds(t *testing.T) {
	link := func(t *testing.T, dir, target, name string) {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for sig, key := range map[string]string{
		"files-sha256": "k256", "files-blake2": "k384", "files-blake3": "k521", "shards-sha256": "k256", "shards-blake2": "k384", "links-sha256": "k256",
	} {
		links := sig == "links-sha256"
		model := func(t *testing.T) string {
			dir := omsModel(t)
			if links {
				link(t, dir, "a/b", "link")
				link(t, dir, "sub", "dirlink")
			}
			return dir
		}
		s, trust := signedBy(t, omsFixtures+sig+".sig", omsFixtures+key+".pub")
		t.Run(sig, func(t *testing.T) {
			if signer, err := s.Verify(trust); err != nil || !strings.HasPrefix(signer.Name, "key ") {
				t.Errorf("%+v, %v", signer, err)
			}
			got := measure(t, disk.Options{Dir: model(t), Signed: s.Statement, SHA256: true, Xet: true})
			if !got.Signed.OK() || got.Signed.Files < 10 {
				t.Errorf("%s: %+v", got.Signed, got.Signed)
			}
			uncovered := fmt.Sprint(got.Signed.Uncovered)
			for _, want := range []string{"{.gitignore ignored by", "{notes/todo.txt ignored by the statement}"} {
				if !strings.Contains(uncovered, want) {
					t.Errorf("%s is not said: %s", want, uncovered)
				}
			}
			if len(got.Content) != 13 || got.Content[0].SHA256.IsZero() || got.Content[0].Xet == "" {
				t.Errorf("content %+v", got.Content)
			}
		})
		for name, c := range map[string]struct {
			change func(t *testing.T, dir string)
			want   string
		}{
			"content":     {func(t *testing.T, dir string) { flipByte(t, filepath.Join(dir, "big"), 2400) }, `"big": content`},
			"longer":      {func(t *testing.T, dir string) { writeFile(t, filepath.Join(dir, "A"), []byte("A\nA")) }, `"A": `},
			"added":       {func(t *testing.T, dir string) { writeFile(t, filepath.Join(dir, "extra.py"), []byte("x")) }, `"extra.py": is in the directory and not signed`},
			"added deep":  {func(t *testing.T, dir string) { writeFile(t, filepath.Join(dir, "sub/.gitignore"), []byte("x")) }, `"sub/.gitignore": is in the directory and not signed`},
			"a like name": {func(t *testing.T, dir string) { writeFile(t, filepath.Join(dir, "notes2"), []byte("x")) }, `"notes2": is in the directory and not signed`},
			"removed":     {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "a.c")) }, `"a.c": is signed and not in the directory`},
			"renamed":     {func(t *testing.T, dir string) { os.Rename(filepath.Join(dir, "A"), filepath.Join(dir, "B")) }, `"A": is signed and not`},
			"a directory": {func(t *testing.T, dir string) {
				os.Remove(filepath.Join(dir, "A"))
				writeFile(t, filepath.Join(dir, "A/x"), nil)
			}, `"A": file type`},
			"another model": {func(t *testing.T, dir string) { writeFile(t, filepath.Join(dir, "model.sig"), []byte("x")) }, `"model.sig": is in the directory and not signed`},
			"symlink":       {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "A")); link(t, dir, "../elsewhere", "A") }, `"A": is a symlink`},
			"swapped": {func(t *testing.T, dir string) {
				os.Rename(filepath.Join(dir, "A"), filepath.Join(dir, "x"))
				os.Rename(filepath.Join(dir, "a.c"), filepath.Join(dir, "A"))
				os.Rename(filepath.Join(dir, "x"), filepath.Join(dir, "a.c"))
			}, `"A": content`},
		} {
			t.Run(sig+"/"+name, func(t *testing.T) {
				dir := model(t)
				c.change(t, dir)
				got := measure(t, disk.Options{Dir: dir, Signed: s.Statement}).Signed
				if got.OK() || !got.Differs() || !strings.Contains(fmt.Sprint(got.Problems), c.want) {
					t.Errorf("got %s, want %s", got.Problems, c.want)
				}
			})
		}
	}
	// What the recipe leaves out was signed: that is no match, and no difference.
	s, _ := signedBy(t, omsFixtures+"files-sha256.sig")
	got := measure(t, disk.Options{Dir: omsModel(t), Signed: s.Statement, Exclude: disk.ParseExclude("big")}).Signed
	if got.OK() || got.Differs() || len(got.Excluded) != 1 || got.Computed != "" {
		t.Errorf("%+v", got)
	}
}

// TestSignatureDamaged changes a signature file in every part that counts.
func TestSignatureDamaged(t *testing.T) {
	data, err := os.ReadFile(omsFixtures + "files-sha256.sig")
	if err != nil {
		t.Fatal(err)
	}
	_, trust := signedBy(t, omsFixtures+"files-sha256.sig", omsFixtures+"k256.pub")
	var whole map[string]any
	if err := json.Unmarshal(data, &whole); err != nil {
		t.Fatal(err)
	}
	envelope := func(b map[string]any) map[string]any { return b["dsseEnvelope"].(map[string]any) }
	// statement edits the payload's text.
	statement := func(edit func(string) string) func(map[string]any) {
		return func(b map[string]any) {
			p, err := base64.StdEncoding.DecodeString(envelope(b)["payload"].(string))
			if err != nil {
				t.Fatal(err)
			}
			was := string(p)
			now := edit(was)
			if now == was {
				t.Fatal("the edit changes nothing")
			}
			envelope(b)["payload"] = base64.StdEncoding.EncodeToString([]byte(now))
		}
	}
	replace := func(old, new string) func(string) string {
		return func(s string) string { return strings.Replace(s, old, new, 1) }
	}
	for name, c := range map[string]struct {
		edit func(map[string]any)
		want string
	}{
		"media type":   {func(b map[string]any) { b["mediaType"] = "application/json" }, "/mediaType"},
		"payload type": {func(b map[string]any) { envelope(b)["payloadType"] = "text/plain" }, "payloadType"},
		"no signature": {func(b map[string]any) { envelope(b)["signatures"] = []any{} }, "signatures"},
		"two signatures": {func(b map[string]any) {
			s := envelope(b)["signatures"].([]any)
			envelope(b)["signatures"] = append(s, s[0])
		}, "signatures"},
		"no material": {func(b map[string]any) { b["verificationMaterial"] = map[string]any{} }, "want one"},
		"another hint": {func(b map[string]any) {
			b["verificationMaterial"].(map[string]any)["publicKey"] = map[string]any{"hint": strings.Repeat("0", 64)}
		}, "the file says"},
		"white space":    {statement(func(s string) string { return s + "\n" }), "none of the given keys"},
		"another digest": {statement(replace(`"digest": "`, `"digest": "0`)), "hex digits"},
		"model's name":   {statement(replace(`"name": "model"`, `"name": "other"`)), "none of the given keys"},
		"another root": {statement(func(s string) string {
			i := strings.Index(s, `"sha256": "`) + 11
			return s[:i] + flipHex(s[i:i+1]) + s[i+1:]
		}), "the listed digests give"},
		"ignores more":    {statement(replace(`"notes"`, `"notes", "big"`)), "none of the given keys"},
		"ignores all":     {statement(replace(`"notes"`, `"."`)), "relative path"},
		"ignores upwards": {statement(replace(`"notes"`, `"notes/../.."`)), "relative path"},
		"hash type":       {statement(replace(`"hash_type": "sha256"`, `"hash_type": "md5"`)), "known are"},
		"blake3 instead":  {statement(replace(`"hash_type": "sha256"`, `"hash_type": "blake3"`)), "as serialization says"},
		"method":          {statement(replace(`"method": "files"`, `"method": "chunks"`)), "known are"},
		"shards":          {statement(replace(`"method": "files"`, `"method": "shards"`)), "shard_size"},
		"unknown":         {statement(replace(`"method": "files"`, `"method": "files", "transform": "gunzip"`)), "is not known"},
		"predicate":       {statement(replace("signature/v1.0", "signature/v2.0")), "is not known"},
		"statement":       {statement(replace("Statement/v1", "Statement/v2")), "/_type"},
		"twice":           {statement(replace(`"name": "A"`, `"name": ".hidden"`)), "twice"},
		"upwards":         {statement(replace(`"name": "A"`, `"name": "../A"`)), "relative path"},
		"empty list": {statement(func(s string) string {
			i := strings.Index(s, `"resources": [`) + 14
			j := strings.LastIndex(s, "]")
			e := sha256.Sum256(nil)
			k := strings.Index(s, `"sha256": "`) + 11
			s = s[:i] + s[j:]
			if k < i {
				s = s[:k] + fmt.Sprintf("%x", e) + s[k+64:]
			}
			return s
		}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			var b map[string]any
			if err := json.Unmarshal(data, &b); err != nil {
				t.Fatal(err)
			}
			c.edit(b)
			damaged, err := json.Marshal(b)
			if err != nil {
				t.Fatal(err)
			}
			s, err := oms.Parse("damaged.sig", damaged)
			if err == nil {
				_, err = s.Verify(trust)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	// Each bit of the signature counts.
	sig, _ := base64.StdEncoding.DecodeString(envelope(whole)["signatures"].([]any)[0].(map[string]any)["sig"].(string))
	for i := range len(sig) * 8 {
		bad := append([]byte(nil), sig...)
		bad[i/8] ^= 1 << (i % 8)
		envelope(whole)["signatures"].([]any)[0].(map[string]any)["sig"] = base64.StdEncoding.EncodeToString(bad)
		damaged, err := json.Marshal(whole)
		if err != nil {
			t.Fatal(err)
		}
		s, err := oms.Parse("damaged.sig", damaged)
		if err == nil {
			_, err = s.Verify(trust)
		}
		if err == nil {
			t.Fatalf("bit %d of the signature does not count", i)
		}
	}
}

func flipHex(s string) string {
	if s == "0" {
		return "1"
	}
	return "0"
}

// TestOtherKeys: a key or a root that nobody asked for makes no signature good.
func TestOtherKeys(t *testing.T) {
	s, _ := signedBy(t, omsFixtures+"files-sha256.sig")
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var bad *oms.SignatureError
	if _, err := s.Verify(oms.Trust{Keys: []*ecdsa.PublicKey{&k.PublicKey}}); !errors.As(err, &bad) {
		t.Errorf("another key: %v", err)
	}
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "no PEM", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))} {
		if err := oms.ParseTrust("x", []byte(text), new(oms.Trust)); err == nil {
			t.Errorf("%q is taken for keys", text)
		}
	}
}
