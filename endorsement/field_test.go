package endorsement_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/endorsement"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
)

func read(t testing.TB, path ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// publicGood is Sigstore's public instance: keys and certificates.
func publicGood(t testing.TB) (tr endorsement.Trust) {
	t.Helper()
	if err := tr.AddTrustedRoot("public_good.json", read(t, "testdata", "public_good.json")); err != nil {
		t.Fatal(err)
	}
	return tr
}

func at(t testing.TB, text string) time.Time {
	t.Helper()
	tm, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return tm
}

// sample is an endorsement with all that is needed to judge it.
type sample struct {
	file  []byte
	parts endorsement.Parts
	keys  []byte
	logs  []byte
	root  []byte
	ask   endorsement.Request
}

func (s sample) verify() ([]*endorsement.Result, []endorsement.Check, error) {
	docs, err := endorsement.Read("endorsement.json", s.file, s.parts)
	if err != nil {
		return nil, nil, err
	}
	q := s.ask
	q.Documents, q.Trust = docs, endorsement.Trust{}
	for _, add := range []struct {
		data []byte
		fn   func(string, []byte) error
	}{{s.keys, q.Trust.AddKeys}, {s.logs, q.Trust.AddLogKeys}, {s.root, q.Trust.AddTrustedRoot}} {
		if add.data == nil {
			continue
		}
		if err := add.fn("trust", add.data); err != nil {
			return nil, nil, err
		}
	}
	results, covers := endorsement.Verify(&q)
	return results, covers, nil
}

// all are the checks of a file of one document.
func (s sample) all(t testing.TB) (*endorsement.Result, []endorsement.Check) {
	t.Helper()
	res, covers, err := s.verify()
	if err != nil {
		t.Fatal(err)
	}
	if len(res) != 1 {
		t.Fatalf("%d documents", len(res))
	}
	return res[0], append(res[0].Checks, covers...)
}

func failed(checks []endorsement.Check) (out []string) {
	for _, c := range checks {
		if c.State == endorsement.Failed {
			out = append(out, string(c.Question)+" "+c.Name+": "+c.Reason)
		}
	}
	return out
}

func want(t testing.TB, checks []endorsement.Check, q endorsement.Question, name string, s endorsement.State, words string) {
	t.Helper()
	for _, c := range checks {
		if c.Question == q && c.Name == name && c.State == s && strings.Contains(c.Reason, words) {
			return
		}
	}
	t.Errorf("no check %s %s %s with %q in %v", q, name, s, words, checks)
}

func oak(t testing.TB) sample {
	dir := testenv.Vectors(t, "published/field/oak")
	d, err := digest.Parse("sha256:18c34d8cc737fb5709a99acb073cdc5ed8a404503f626cea6e0bad0a406002fc")
	if err != nil {
		t.Fatal(err)
	}
	return sample{
		file: read(t, dir, "endorsement.json"), keys: read(t, dir, "endorser_public_key.pem"), logs: read(t, dir, "rekor_public_key.pem"),
		parts: endorsement.Parts{SignatureName: "sig", Signature: read(t, dir, "endorsement.json.sig"), LogEntryName: "logentry.json", LogEntry: read(t, dir, "logentry.json")},
		ask:   endorsement.Request{At: at(t, "2024-12-01T00:00:00Z"), Subjects: []endorsement.Wanted{{Name: "oak_orchestrator", Digest: d}}},
	}
}

const routerWorkflow = "https://github.com/tinfoilsh/confidential-model-router/.github/workflows/build.yml@refs/tags/v0.0.38"

func tinfoil(t testing.TB) sample {
	dir := testenv.Vectors(t, "published/field/tinfoil")
	d, err := digest.Parse("sha256:5ed9d5c942528ec2eeb759919827f1bc2183c6810f80225a52147dd4020c12a0")
	if err != nil {
		t.Fatal(err)
	}
	return sample{
		file: read(t, dir, "router-v0.5.16-a.bundle.json"), root: read(t, "testdata", "public_good.json"),
		ask: endorsement.Request{
			At: at(t, "2026-06-01T00:00:00Z"), Subjects: []endorsement.Wanted{{Name: "deployment", Digest: d}},
			Identity: routerWorkflow, Issuer: "https://token.actions.githubusercontent.com",
		},
	}
}

func TestOak(t *testing.T) {
	s := oak(t)
	r, checks := s.all(t)
	for _, c := range checks {
		if c.State != endorsement.Held {
			t.Errorf("%+v", c)
		}
	}
	want(t, checks, endorsement.Signed, "signature", endorsement.Held, "")
	want(t, checks, endorsement.Logged, "promise", endorsement.Held, "132193865")
	want(t, checks, endorsement.Logged, "inclusion", endorsement.Held, "10289603 of 10289604")
	want(t, checks, endorsement.Covers, "subject", endorsement.Held, "oak_orchestrator")
	if got := r.Until.Format(time.RFC3339); got != "2025-02-27T09:47:12Z" {
		t.Error(got)
	}
	s.ask.At = at(t, "2026-12-01T00:00:00Z")
	_, checks = s.all(t)
	if f := failed(checks); len(f) != 1 || f[0] != "valid validity: expired since 2025-02-27" {
		t.Error(f)
	}
	s.ask.At = at(t, "2024-09-01T00:00:00Z") // between the statement and the log
	_, checks = s.all(t)
	want(t, checks, endorsement.Valid, "logged-by-then", endorsement.Failed, "2024-09-19")
}

func TestTinfoil(t *testing.T) {
	r, checks := tinfoil(t).all(t)
	for _, c := range checks {
		if c.State != endorsement.Held && c.Name != "source" {
			t.Errorf("%+v", c)
		}
	}
	for _, name := range []string{"signature", "certificate", "certificate-log", "identity", "issuer"} {
		want(t, checks, endorsement.Signed, name, endorsement.Held, "")
	}
	want(t, checks, endorsement.Logged, "promise", endorsement.Held, "845420855")
	want(t, checks, endorsement.Logged, "inclusion", endorsement.Held, "723516593 of 723516595")
	if r.LoggedAt.Format(time.DateOnly) != "2026-01-22" || r.Pointer != "/sigstoreBundle" {
		t.Error(r.LoggedAt, r.Pointer)
	}
}

// leaf is a text or number of a document, and how to put another there.
type leaf struct {
	path string
	text string
	set  func(any)
}

func leaves(v any, path string, set func(any)) (out []leaf) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			out = append(out, leaves(e, path+"/"+k, func(x any) { v[k] = x })...)
		}
	case []any:
		for i, e := range v {
			out = append(out, leaves(e, path+"/"+strconv.Itoa(i), func(x any) { v[i] = x })...)
		}
	case string:
		out = append(out, leaf{path, v, set})
	case json.Number:
		out = append(out, leaf{path, v.String(), func(x any) {
			if s, ok := x.(string); ok {
				if _, err := strconv.ParseInt(s, 10, 64); err == nil {
					x = json.Number(s)
				}
			}
			set(x)
		}})
	}
	return out
}

// damaged are small changes of a text: of a number, of bytes in base64, of hex.
func damaged(text string) (out []string) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return []string{strconv.FormatInt(n+1, 10), strconv.FormatInt(n-1, 10), "0"}
	}
	if raw, err := base64.StdEncoding.DecodeString(text); err == nil && len(raw) > 16 {
		for _, i := range []int{0, len(raw) / 3, len(raw) / 2, len(raw) - 1} {
			b := append([]byte{}, raw...)
			b[i] ^= 1
			out = append(out, base64.StdEncoding.EncodeToString(b))
		}
		return append(out, base64.StdEncoding.EncodeToString(raw[:len(raw)-1]), "")
	}
	for _, i := range []int{0, len(text) / 2, len(text) - 1} {
		b := []byte(text)
		if b[i]++; b[i] == 'g' || b[i] == ':' {
			b[i] = '1'
		}
		out = append(out, string(b))
	}
	return out
}

// variants changes every leaf of a document in turn, below a path.
func variants(t testing.TB, data []byte, under string, try func(path string, changed []byte)) {
	t.Helper()
	parse := func() any {
		dec := json.NewDecoder(strings.NewReader(string(data)))
		dec.UseNumber()
		var v any
		if err := dec.Decode(&v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, l := range leaves(parse(), "", nil) {
		if !strings.HasPrefix(l.path, under) {
			continue
		}
		for _, text := range damaged(l.text) {
			v := parse()
			for _, again := range leaves(v, "", nil) {
				if again.path == l.path {
					again.set(text)
				}
			}
			changed, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			try(l.path, changed)
		}
	}
}

// TestDamaged changes every value of the real files in turn: each variant is
// refused, with a reason, and never with the reason of another question only.
func TestDamaged(t *testing.T) {
	n := map[string]int{}
	refused := func(what, path string, s sample) {
		t.Helper()
		n[what]++
		res, covers, err := s.verify()
		if err != nil {
			if err.Error() == "" {
				t.Errorf("%s %s: no reason", what, path)
			}
			return
		}
		var f []string
		for _, r := range res {
			f = append(f, failed(r.Checks)...)
		}
		if f = append(f, failed(covers)...); len(f) == 0 {
			// A trust that no longer knows the log or the authority leaves it open.
			for _, r := range res {
				for _, c := range r.Checks {
					if c.State == endorsement.Open {
						return
					}
				}
			}
			t.Errorf("%s %s: taken", what, path)
		}
	}
	o := oak(t)
	variants(t, o.file, "", func(path string, changed []byte) {
		s := o
		s.file = changed
		refused("oak statement", path, s)
	})
	variants(t, o.parts.LogEntry, "", func(path string, changed []byte) {
		s := o
		s.parts.LogEntry = changed
		refused("oak log entry", path, s)
	})
	for i := range o.parts.Signature {
		s := o
		s.parts.Signature = append([]byte{}, o.parts.Signature...)
		s.parts.Signature[i] ^= 1
		refused("oak signature", strconv.Itoa(i), s)
	}
	swapped := o
	swapped.keys, swapped.logs = o.logs, o.keys
	refused("oak roots", "swapped", swapped)
	p := tinfoil(t)
	variants(t, p.file, "/sigstoreBundle", func(path string, changed []byte) {
		s := p
		s.file = changed
		refused("bundle", path, s)
	})
	for _, change := range []struct {
		what string
		fn   func(*endorsement.Request)
	}{
		{"identity", func(q *endorsement.Request) { q.Identity = strings.Replace(q.Identity, "v0.0.38", "v0.0.39", 1) }},
		{"issuer", func(q *endorsement.Request) { q.Issuer += "/" }},
		{"source", func(q *endorsement.Request) { q.Source = "https://github.com/tinfoilsh/other" }},
		{"builder", func(q *endorsement.Request) { q.Builder = "x" }},
		{"predicate", func(q *endorsement.Request) { q.PredicateType = endorsement.PredicateSLSA1 }},
		{"subject", func(q *endorsement.Request) {
			q.Subjects = append(q.Subjects, endorsement.Wanted{Name: "x", Digest: digest.SHA256.Sum(nil)})
		}},
		{"time", func(q *endorsement.Request) { q.At = at(t, "2026-01-01T00:00:00Z") }},
	} {
		s := p
		change.fn(&s.ask)
		refused("demand", change.what, s)
	}
	variants(t, p.root, "/tlogs/0/publicKey/rawBytes", func(path string, changed []byte) {
		s := p
		s.root = changed
		refused("trusted root", path, s)
	})
	variants(t, p.root, "/certificateAuthorities/1", func(path string, changed []byte) {
		if strings.HasSuffix(path, "rawBytes") {
			s := p
			s.root = changed
			refused("trusted root", path, s)
		}
	})
	variants(t, p.root, "/ctlogs/1/publicKey/rawBytes", func(path string, changed []byte) {
		s := p
		s.root = changed
		refused("trusted root", path, s)
	})
	total := 0
	for _, k := range n {
		total += k
	}
	t.Logf("%d variants refused: %v", total, n)
	if total < 40 {
		t.Errorf("only %d variants", total)
	}
}

// TestModels verifies who signed the models of the published samples.
func TestModels(t *testing.T) {
	dir := testenv.Vectors(t, "published/field/oms")
	for _, name := range []string{"v0.3.1-sigstore", "v1.0.0-sigstore", "v1.1.0-sigstore"} {
		docs, err := endorsement.Read(name, read(t, dir, name, "model.sig"), endorsement.Parts{})
		if err != nil {
			t.Fatal(err)
		}
		res, _ := endorsement.Verify(&endorsement.Request{Documents: docs, Trust: publicGood(t), At: at(t, "2026-06-01T00:00:00Z")})
		if f := failed(res[0].Checks); len(f) > 0 {
			t.Errorf("%s: %v", name, f)
		}
		want(t, res[0].Checks, endorsement.Signed, "certificate-log", endorsement.Held, "")
		want(t, res[0].Checks, endorsement.Signed, "identity", endorsement.Open, "nobody said")
		want(t, res[0].Checks, endorsement.Logged, "inclusion", endorsement.Held, "")
	}
	for _, name := range []string{"v0.3.1-certificate", "v1.0.0-certificate", "v1.1.0-certificate"} {
		docs, err := endorsement.Read(name, read(t, dir, name, "model.sig"), endorsement.Parts{})
		if err != nil {
			t.Fatal(err)
		}
		var tr endorsement.Trust
		if err := tr.AddCertificates("ca-cert.pem", read(t, dir, "keys", "certificate", "ca-cert.pem")); err != nil {
			t.Fatal(err)
		}
		res, _ := endorsement.Verify(&endorsement.Request{Documents: docs, Trust: tr, At: docs[0].Signer().NotBefore})
		if f := failed(res[0].Checks); len(f) > 0 {
			t.Errorf("%s: %v", name, f)
		}
		want(t, res[0].Checks, endorsement.Signed, "certificate", endorsement.Held, "")
		res, _ = endorsement.Verify(&endorsement.Request{Documents: docs, Trust: publicGood(t), At: docs[0].Signer().NotBefore})
		want(t, res[0].Checks, endorsement.Signed, "certificate", endorsement.Failed, "")
	}
}
