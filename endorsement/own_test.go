package endorsement_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/endorsement"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
)

var update = flag.Bool("update", false, "write the demo's endorsement anew")

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// key is an Ed25519 key that is the same in each run.
func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("retally test key " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func spki(t testing.TB, public crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func publicPEM(t testing.TB, public crypto.PublicKey) []byte {
	t.Helper()
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki(t, public)})
}

// ownLog is a log of three entries, of which ours is the second.
type ownLog struct {
	key ed25519.PrivateKey
	id  [32]byte
}

func newLog(t testing.TB) *ownLog {
	k := key("log")
	return &ownLog{k, sha256.Sum256(spki(t, k.Public()))}
}

func hash(parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

type proof struct {
	hashes     [][]byte
	root       []byte
	checkpoint string
	set        []byte
	leaf       []byte
}

const integrated = 1772000000 // 2026-02-25

func (l *ownLog) add(t testing.TB, body []byte) proof {
	t.Helper()
	p := proof{leaf: hash([]byte{0}, body)}
	first, third := hash([]byte{0}, []byte("first")), hash([]byte{0}, []byte("third"))
	p.hashes = [][]byte{first, third}
	p.root = hash([]byte{1}, hash([]byte{1}, first, p.leaf), third)
	text := "log.example\n3\n" + b64(p.root) + "\n"
	p.checkpoint = text + "\n— log.example " + b64(append(l.id[:4:4], ed25519.Sign(l.key, []byte(text))...)) + "\n"
	set, err := json.Marshal(map[string]any{"body": b64(body), "integratedTime": integrated, "logID": hex.EncodeToString(l.id[:]), "logIndex": 1})
	if err != nil {
		t.Fatal(err)
	}
	p.set = ed25519.Sign(l.key, set)
	return p
}

// api is an entry as Rekor's API gives it.
func (l *ownLog) api(t testing.TB, body []byte) []byte {
	p := l.add(t, body)
	hashes := []string{hex.EncodeToString(p.hashes[0]), hex.EncodeToString(p.hashes[1])}
	return indented(t, map[string]any{"00000000000000aa" + hex.EncodeToString(p.leaf): map[string]any{
		"body": b64(body), "integratedTime": integrated, "logID": hex.EncodeToString(l.id[:]), "logIndex": 1,
		"verification": map[string]any{"signedEntryTimestamp": b64(p.set), "inclusionProof": map[string]any{
			"checkpoint": p.checkpoint, "hashes": hashes, "logIndex": 1, "rootHash": hex.EncodeToString(p.root), "treeSize": 3,
		}},
	}})
}

// bundled is an entry as a bundle has it.
func (l *ownLog) bundled(t testing.TB, kind, version string, body []byte) any {
	p := l.add(t, body)
	return map[string]any{
		"logIndex": "1", "logId": map[string]any{"keyId": b64(l.id[:])}, "kindVersion": map[string]any{"kind": kind, "version": version},
		"integratedTime": fmt.Sprint(integrated), "canonicalizedBody": b64(body), "inclusionPromise": map[string]any{"signedEntryTimestamp": b64(p.set)},
		"inclusionProof": map[string]any{"logIndex": "1", "rootHash": b64(p.root), "treeSize": "3", "hashes": []string{b64(p.hashes[0]), b64(p.hashes[1])}, "checkpoint": map[string]any{"envelope": p.checkpoint}},
	}
}

func indented(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(data, '\n')
}

func compact(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func pae(kind string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload)
}

const inToto = "application/vnd.in-toto+json"

// dsse is a bundle with a statement, logged, by a key or a certificate.
func (l *ownLog) dsse(t testing.TB, statement []byte, signer crypto.Signer, cert *x509.Certificate) []byte {
	t.Helper()
	message, opts := pae(inToto, statement), crypto.SignerOpts(crypto.Hash(0))
	if _, ok := signer.(*ecdsa.PrivateKey); ok {
		message, opts = hash(message), crypto.SHA256
	}
	sig, err := signer.Sign(rand.Reader, message, opts)
	if err != nil {
		t.Fatal(err)
	}
	material := map[string]any{}
	verifier := publicPEM(t, signer.Public())
	if cert != nil {
		verifier = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
		material["certificate"] = map[string]any{"rawBytes": b64(cert.Raw)}
	} else {
		material["publicKey"] = map[string]any{"hint": "x"}
	}
	body := compact(t, map[string]any{"apiVersion": "0.0.1", "kind": "dsse", "spec": map[string]any{
		"payloadHash": map[string]any{"algorithm": "sha256", "value": hex.EncodeToString(hash(statement))},
		"signatures":  []any{map[string]any{"signature": b64(sig), "verifier": b64(verifier)}},
	}})
	material["tlogEntries"] = []any{l.bundled(t, "dsse", "0.0.1", body)}
	return compact(t, map[string]any{
		"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial": material,
		"dsseEnvelope": map[string]any{"payload": b64(statement), "payloadType": inToto, "signatures": []any{map[string]any{"sig": b64(sig)}}},
	})
}

func statement(t testing.TB, kind string, predicate any, subjects ...[]byte) []byte {
	t.Helper()
	var list []any
	for i, s := range subjects {
		list = append(list, map[string]any{"name": fmt.Sprintf("file-%d", i), "digest": map[string]any{"sha256": hex.EncodeToString(hash(s))}})
	}
	return compact(t, map[string]any{"_type": "https://in-toto.io/Statement/v1", "subject": list, "predicateType": kind, "predicate": predicate})
}

func slsa(builder string) any {
	return map[string]any{
		"buildDefinition": map[string]any{"buildType": "https://example.org/build", "resolvedDependencies": []any{map[string]any{"uri": "git+https://example.org/r", "digest": map[string]any{"gitCommit": "00"}}}},
		"runDetails":      map[string]any{"builder": map[string]any{"id": builder}},
	}
}

// hierarchy is a root, and a certificate of ten minutes for a workflow.
type hierarchy struct {
	root   *x509.Certificate
	leaf   *x509.Certificate
	signer *ecdsa.PrivateKey
}

const (
	workflow = "https://example.org/owner/repo/.github/workflows/release.yml@refs/tags/v1"
	issuer   = "https://token.example.org"
)

func newHierarchy(t testing.TB, change func(*x509.Certificate)) *hierarchy {
	t.Helper()
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h := &hierarchy{}
	if h.signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	when := time.Unix(integrated, 0)
	make := func(c, parent *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, c, parent, public, rootKey)
		if err != nil {
			t.Fatal(err)
		}
		out, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: when.AddDate(-1, 0, 0), NotAfter: when.AddDate(9, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	h.root = make(root, root, &rootKey.PublicKey)
	uri, err := url.Parse(workflow)
	if err != nil {
		t.Fatal(err)
	}
	value, err := asn1.MarshalWithParams(issuer, "utf8")
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: when.Add(-5 * time.Minute), NotAfter: when.Add(5 * time.Minute), URIs: []*url.URL{uri},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: value}},
	}
	if change != nil {
		change(leaf)
	}
	h.leaf = make(leaf, h.root, &h.signer.PublicKey)
	return h
}

// trust is a trusted root of this hierarchy and the log.
func (h *hierarchy) trust(t testing.TB, l *ownLog) (tr endorsement.Trust) {
	t.Helper()
	data := indented(t, map[string]any{
		"mediaType":              "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
		"tlogs":                  []any{map[string]any{"baseUrl": "https://log.example", "hashAlgorithm": "SHA2_256", "publicKey": map[string]any{"rawBytes": b64(spki(t, l.key.Public())), "keyDetails": "PKIX_ED25519"}, "logId": map[string]any{"keyId": b64(l.id[:])}}},
		"certificateAuthorities": []any{map[string]any{"uri": "https://ca.example", "certChain": map[string]any{"certificates": []any{map[string]any{"rawBytes": b64(h.root.Raw)}}}}},
	})
	if err := tr.AddTrustedRoot("trusted_root.json", data); err != nil {
		t.Fatal(err)
	}
	return tr
}

func judge(t testing.TB, file []byte, q endorsement.Request) []endorsement.Check {
	t.Helper()
	docs, err := endorsement.Read("bundle.json", file, endorsement.Parts{})
	if err != nil {
		t.Fatal(err)
	}
	q.Documents = docs
	if q.At.IsZero() {
		q.At = at(t, "2026-06-01T00:00:00Z")
	}
	results, checks := endorsement.Verify(&q)
	for _, r := range results {
		checks = append(checks, r.Checks...)
	}
	return checks
}

func allHeld(t testing.TB, checks []endorsement.Check) {
	t.Helper()
	for _, c := range checks {
		if c.State == endorsement.Failed || c.State == endorsement.Open {
			t.Errorf("%+v", c)
		}
	}
}

func wanted(data ...[]byte) (out []endorsement.Wanted) {
	for i, d := range data {
		out = append(out, endorsement.Wanted{Name: fmt.Sprint(i), Digest: digest.SHA256.Sum(d)})
	}
	return out
}

// TestProvenance: SLSA provenance by exactly one workflow, for all files of a
// release at once.
func TestProvenance(t *testing.T) {
	l, h := newLog(t), newHierarchy(t, nil)
	file := l.dsse(t, statement(t, endorsement.PredicateSLSA1, slsa(workflow), []byte("a"), []byte("b"), []byte("c")), h.signer, h.leaf)
	q := endorsement.Request{Trust: h.trust(t, l), Identity: workflow, Issuer: issuer, Builder: workflow, PredicateType: endorsement.PredicateSLSA1, Subjects: wanted([]byte("a"), []byte("c"))}
	allHeld(t, judge(t, file, q))
	for name, tt := range map[string]struct {
		change func(*endorsement.Request)
		q      endorsement.Question
		check  string
		state  endorsement.State
	}{
		"another tag":         {func(q *endorsement.Request) { q.Identity = strings.Replace(workflow, "v1", "v10", 1) }, endorsement.Signed, "identity", endorsement.Failed},
		"a prefix":            {func(q *endorsement.Request) { q.Identity = workflow[:20] }, endorsement.Signed, "identity", endorsement.Failed},
		"nobody named":        {func(q *endorsement.Request) { q.Identity = "" }, endorsement.Signed, "identity", endorsement.Open},
		"no issuer named":     {func(q *endorsement.Request) { q.Issuer = "" }, endorsement.Signed, "issuer", endorsement.Open},
		"another builder":     {func(q *endorsement.Request) { q.Builder = "x" }, endorsement.Signed, "builder", endorsement.Failed},
		"no trust":            {func(q *endorsement.Request) { q.Trust = endorsement.Trust{} }, endorsement.Signed, "certificate", endorsement.Open},
		"no log":              {func(q *endorsement.Request) { q.Trust.Logs = nil }, endorsement.Signed, "certificate", endorsement.Open},
		"a file more":         {func(q *endorsement.Request) { q.Subjects = wanted([]byte("a"), []byte("d")) }, endorsement.Covers, "subject", endorsement.Failed},
		"no file":             {func(q *endorsement.Request) { q.Subjects = nil }, endorsement.Covers, "subject", endorsement.Open},
		"another root":        {func(q *endorsement.Request) { q.Trust = newHierarchy(t, nil).trust(t, l) }, endorsement.Signed, "certificate", endorsement.Failed},
		"before it was there": {func(q *endorsement.Request) { q.At = at(t, "2026-01-01T00:00:00Z") }, endorsement.Valid, "logged-by-then", endorsement.Failed},
	} {
		changed := q
		tt.change(&changed)
		t.Run(name, func(t *testing.T) { want(t, judge(t, file, changed), tt.q, tt.check, tt.state, "") })
	}
}

// TestCertificates: what a keyless certificate may not be.
func TestCertificates(t *testing.T) {
	l := newLog(t)
	for name, tt := range map[string]struct {
		change func(*x509.Certificate)
		check  string
	}{
		"an authority":        {func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, "certificate"},
		"for servers":         {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, "certificate"},
		"two names":           {func(c *x509.Certificate) { c.EmailAddresses = []string{"a@example.org"} }, "identity"},
		"over when logged":    {func(c *x509.Certificate) { c.NotAfter = time.Unix(integrated-60, 0) }, "certificate"},
		"not yet when logged": {func(c *x509.Certificate) { c.NotBefore = time.Unix(integrated+60, 0) }, "certificate"},
		"two issuers": {func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte("https://other")})
		}, "identity"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHierarchy(t, tt.change)
			file := l.dsse(t, statement(t, endorsement.PredicateSLSA1, slsa(workflow), []byte("a")), h.signer, h.leaf)
			want(t, judge(t, file, endorsement.Request{Trust: h.trust(t, l), Identity: workflow, Issuer: issuer, Subjects: wanted([]byte("a"))}), endorsement.Signed, tt.check, endorsement.Failed, "")
		})
	}
}

// TestKey: a bundle by a bare key, an entry of another signature, and a
// predicate that nobody knows.
func TestKey(t *testing.T) {
	l, k := newLog(t), key("endorser")
	said := statement(t, endorsement.PredicateSLSA02, map[string]any{"builder": map[string]any{"id": "b"}, "buildType": "t"}, []byte("a"))
	var tr endorsement.Trust
	for _, err := range []error{tr.AddKeys("endorser.pem", publicPEM(t, k.Public())), tr.AddLogKeys("log.pem", publicPEM(t, l.key.Public()))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	q := endorsement.Request{Trust: tr, Subjects: wanted([]byte("a"))}
	file := l.dsse(t, said, k, nil)
	allHeld(t, judge(t, file, q))
	other := l.dsse(t, said, key("other"), nil)
	want(t, judge(t, other, q), endorsement.Signed, "signature", endorsement.Failed, "")
	// The entry of one bundle in another: the log's word is about something else.
	var a, b map[string]any
	unmarshal(t, file, &a)
	unmarshal(t, l.dsse(t, statement(t, endorsement.PredicateSLSA02, map[string]any{"builder": map[string]any{"id": "b"}, "buildType": "t"}, []byte("b")), k, nil), &b)
	a["verificationMaterial"] = b["verificationMaterial"]
	want(t, judge(t, compact(t, a), q), endorsement.Logged, "entry", endorsement.Failed, "other content")
	unknown := l.dsse(t, statement(t, "https://example.org/unknown", map[string]any{"expires": "2020-01-01"}, []byte("a")), k, nil)
	want(t, judge(t, unknown, q), endorsement.Valid, "validity", endorsement.Open, "not understood")
	// One a line: each is judged, and what must be covered is in one of them.
	second := l.dsse(t, statement(t, endorsement.PredicateSLSA02, map[string]any{"builder": map[string]any{"id": "b"}, "buildType": "t"}, []byte("b")), k, nil)
	lines := bytes.Join([][]byte{file, second}, []byte("\n"))
	q.Subjects = wanted([]byte("a"), []byte("b"))
	allHeld(t, judge(t, lines, q))
	want(t, judge(t, bytes.Join([][]byte{file, second, other}, []byte("\n")), q), endorsement.Signed, "signature", endorsement.Failed, "")
}

func unmarshal(t testing.TB, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// TestRefused: what is not understood is an error with its place.
func TestRefused(t *testing.T) {
	l, k := newLog(t), key("endorser")
	file := string(l.dsse(t, statement(t, endorsement.PredicateSLSA02, map[string]any{"builder": map[string]any{"id": "b"}, "buildType": "t"}, []byte("a")), k, nil))
	for name, tt := range map[string][2]string{
		"an unknown member":    {strings.Replace(file, `"dsseEnvelope"`, `"more":1,"dsseEnvelope"`, 1), "/more"},
		"a member twice":       {strings.Replace(file, `"dsseEnvelope"`, `"mediaType":"","dsseEnvelope"`, 1), "mediaType"},
		"a newer bundle":       {strings.Replace(file, "bundle.v0.3", "bundle.v0.9", 1), "/mediaType"},
		"two kinds of keys":    {strings.Replace(file, `"publicKey":`, `"certificate":{"rawBytes":""},"publicKey":`, 1), "/verificationMaterial"},
		"another payload type": {strings.Replace(file, inToto, "text/plain", 1), "/dsseEnvelope/payloadType"},
		"nothing":              {"", ""},
		"a list":               {"[]", ""},
		"no endorsement":       {"{}", ""},
		"no subject":           {`{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":"x"}`, "/subject"},
		"a short digest":       {`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"ab"}}],"predicateType":"x"}`, "/subject/0/digest/sha256"},
		"a date that is none":  {`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"gitCommit":"ab"}}],"predicateType":"` + endorsement.PredicateOak + `","predicate":{"issuedOn":"yesterday"}}`, "/predicate/issuedOn"},
	} {
		_, err := endorsement.Read("b.json", []byte(tt[0]), endorsement.Parts{})
		if err == nil || !strings.Contains(err.Error(), tt[1]) || !strings.Contains(err.Error(), "b.json") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// demoParts are the demo's endorsement: of its machine's files, by an own key,
// with an entry of an own log.
func demoParts(t testing.TB) map[string][]byte {
	l, k := newLog(t), key("demo endorser")
	var subjects []any
	for _, name := range []string{"vm/docker-compose.yaml", "vm/tdx.csv"} {
		subjects = append(subjects, map[string]any{"name": name, "digest": map[string]any{"sha256": hex.EncodeToString(hash(read(t, testenv.ModuleRoot(t), "fixtures", "demo", name)))}})
	}
	said := indented(t, map[string]any{
		"_type": "https://in-toto.io/Statement/v1", "predicateType": endorsement.PredicateOak, "subject": subjects,
		"predicate": map[string]any{
			"issuedOn": "2026-02-01T00:00:00Z", "validity": map[string]any{"notBefore": "2026-02-01T00:00:00Z", "notAfter": "2027-02-01T00:00:00Z"},
			"claims": []any{map[string]any{"type": "https://harbor.example/claims/reviewed"}},
		},
	})
	sig := ed25519.Sign(k, said)
	body := compact(t, map[string]any{"apiVersion": "0.0.1", "kind": "rekord", "spec": map[string]any{
		"data":      map[string]any{"hash": map[string]any{"algorithm": "sha256", "value": hex.EncodeToString(hash(said))}},
		"signature": map[string]any{"content": b64(sig), "format": "x509", "publicKey": map[string]any{"content": b64(publicPEM(t, k.Public()))}},
	}})
	return map[string][]byte{
		"statement.json": said, "statement.json.sig": []byte(b64(sig) + "\n"), "log-entry.json": l.api(t, body), "endorser.pem": publicPEM(t, k.Public()), "log.pem": publicPEM(t, l.key.Public()),
	}
}

// TestDemo keeps the demo's endorsement as this program writes it, and judges
// every change of it.
func TestDemo(t *testing.T) {
	dir := filepath.Join(testenv.ModuleRoot(t), "fixtures", "demo", "endorsement")
	parts := demoParts(t)
	for name, data := range parts {
		path := filepath.Join(dir, name)
		if *update {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := read(t, path); !bytes.Equal(got, data) {
			t.Errorf("%s is another one: go test ./endorsement -run TestDemo -update", name)
		}
	}
	s := sample{
		file: parts["statement.json"], keys: parts["endorser.pem"], logs: parts["log.pem"],
		parts: endorsement.Parts{SignatureName: "sig", Signature: parts["statement.json.sig"], LogEntryName: "log-entry.json", LogEntry: parts["log-entry.json"]},
		ask:   endorsement.Request{At: at(t, "2026-06-01T00:00:00Z"), Subjects: wanted(read(t, testenv.ModuleRoot(t), "fixtures", "demo", "vm", "tdx.csv"))},
	}
	_, checks := s.all(t)
	allHeld(t, checks)
	n := 0
	refused := func(path string, s sample) {
		n++
		res, covers, err := s.verify()
		if err != nil {
			return
		}
		if len(failed(res[0].Checks))+len(failed(covers)) == 0 {
			t.Errorf("%s: taken", path)
		}
	}
	variants(t, s.file, "", func(path string, changed []byte) {
		c := s
		c.file = changed
		refused(path, c)
	})
	variants(t, s.parts.LogEntry, "", func(path string, changed []byte) {
		c := s
		c.parts.LogEntry = changed
		if path != "" && !strings.HasSuffix(path, "/logID") { // another log is one that is not trusted: open
			refused(path, c)
		}
	})
	if n < 40 {
		t.Errorf("only %d variants", n)
	}
}
