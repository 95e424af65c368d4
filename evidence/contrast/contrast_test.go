package contrast_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	sevabi "github.com/google/go-sev-guest/abi"
	sevproto "github.com/google/go-sev-guest/proto/sevsnp"
	tdxabi "github.com/google/go-tdx-guest/abi"
	tdxproto "github.com/google/go-tdx-guest/proto/tdx"
	"google.golang.org/protobuf/proto"

	"github.com/retally/retally/evidence/contrast"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
)

var (
	from  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	until = time.Date(2033, 1, 1, 0, 0, 0, 0, time.UTC)
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	check(t, err)
	return b
}

// TestReportData: the published vectors of both forms.
func TestReportData(t *testing.T) {
	var v struct {
		Cases []struct {
			Name, Nonce  string
			Transition   string `json:"transition_digest"`
			Capabilities string `json:"capabilities_digest"`
			Root         string `json:"root_ca"`
			Mesh         string `json:"mesh_ca"`
			Want         string `json:"report_data"`
		}
		Body string `json:"capabilities_body_example"`
	}
	raw, err := os.ReadFile(testenv.Vectors(t, "published/field/contrast/report_data.json"))
	check(t, err)
	check(t, json.Unmarshal(raw, &v))
	if len(v.Cases) < 2 {
		t.Fatal("too few cases")
	}
	for _, c := range v.Cases {
		tr, err := digest.ParseHex(digest.SHA256, c.Transition)
		check(t, err)
		var got [64]byte
		if c.Capabilities == "" {
			got = contrast.OfAnswer(unhex(t, c.Nonce), tr, []byte(c.Root), []byte(c.Mesh), nil)
		} else {
			got = contrast.OfAnswerDigest(unhex(t, c.Nonce), tr, []byte(c.Root), []byte(c.Mesh), unhex(t, c.Capabilities))
		}
		if hex.EncodeToString(got[:]) != c.Want {
			t.Errorf("%s: got %x, want %s", c.Name, got, c.Want)
		}
	}
	var own struct {
		Single string `json:"transition_single_83c1af"`
		Other  string `json:"transition_single_216de2"`
		Nonce  string
		Root   string   `json:"root_ca_ascii"`
		Mesh   string   `json:"mesh_ca_ascii"`
		Old    string   `json:"report_data_old"`
		All    []string `json:"transition_chain"`
	}
	raw, err = os.ReadFile(testenv.Vectors(t, "own/contrast/history.json"))
	check(t, err)
	check(t, json.Unmarshal(raw, &own))
	found := false
	for _, s := range append(own.All, own.Single, own.Other) {
		tr, err := digest.ParseHex(digest.SHA256, s)
		check(t, err)
		got := contrast.OfAnswer(unhex(t, own.Nonce), tr, []byte(own.Root), []byte(own.Mesh), nil)
		found = found || hex.EncodeToString(got[:]) == own.Old
	}
	if !found {
		t.Errorf("no transition gives the report data of own/contrast/history.json")
	}
}

func nonceProto() []byte { return bytes.Repeat([]byte{0xab}, 32) }

func TestProtocol(t *testing.T) {
	name := contrast.Protocol(nonceProto())
	if name != "atls:v1:nonce:"+strings.Repeat("ab", 32) {
		t.Error(name)
	}
	if got, err := contrast.NonceOf(name); err != nil || !bytes.Equal(got, nonceProto()) {
		t.Error(got, err)
	}
	if got, err := contrast.NonceOf("h2"); got != nil || err != nil {
		t.Error(got, err)
	}
	for _, bad := range []string{"atls:v2:nonce:" + strings.Repeat("ab", 32), "atls:v1:nonce:zz", "atls:v1:nonce:" + strings.Repeat("ab", 31), "atls:", "atls:v1:salt:" + strings.Repeat("ab", 32)} {
		if _, err := contrast.NonceOf(bad); err == nil {
			t.Errorf("%s: want an error", bad)
		}
	}
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func quote(t testing.TB) []byte {
	t.Helper()
	p, err := fake.NewPlatform("contrast", from, until)
	check(t, err)
	raw, err := p.Quote(tdxquote.Body{ReportData: [64]byte{1, 2, 3}, MRCONFIGID: [48]byte{9}}, fake.Options{})
	check(t, err)
	return raw
}

func report(t testing.TB) (*fake.SNPPlatform, []byte) {
	t.Helper()
	p, err := fake.NewSNPPlatform("contrast", from, until, fake.SNPOptions{})
	check(t, err)
	raw, err := p.Report(snpreport.Report{ReportData: [64]byte{1, 2, 3}, HostData: [32]byte{9}}, nil)
	check(t, err)
	return p, raw
}

func cert(t testing.TB, ext ...pkix.Extension) []byte {
	t.Helper()
	key, err := fake.Key(elliptic.P256(), "pod")
	check(t, err)
	c, err := fake.ATLS(key, from, until, ext...)
	check(t, err)
	return c.Raw
}

// TestPacking: the documents of the test machines are those that Google's libraries
// make, which Contrast uses, and both are read back to the bytes that were signed.
func TestPacking(t *testing.T) {
	raw := quote(t)
	q, err := tdxabi.QuoteToProto(raw)
	check(t, err)
	theirs, err := proto.Marshal(q.(*tdxproto.QuoteV4))
	check(t, err)
	ours, err := fake.TDXDocument(raw)
	check(t, err)
	if !proto.Equal(unmarshal(t, ours, new(tdxproto.QuoteV4)), q.(*tdxproto.QuoteV4)) {
		t.Error("the test machine's quote is packed otherwise")
	}
	for _, doc := range [][]byte{ours, theirs} {
		d, err := contrast.Parse("x", cert(t, pkix.Extension{Id: contrast.OIDTDX, Value: doc}))
		check(t, err)
		if !bytes.Equal(d.TDX, raw) || d.SNP != nil {
			t.Error("another quote was read")
		}
	}
	p, rep := report(t)
	r, err := sevabi.ReportToProto(rep)
	check(t, err)
	theirs, err = proto.Marshal(&sevproto.Attestation{Report: r, CertificateChain: &sevproto.CertificateChain{VcekCert: p.VCEK.Raw, Extras: map[string][]byte{"a": {1}, "b": {2}}}, Product: &sevproto.SevProduct{Name: 2}})
	check(t, err)
	for _, doc := range [][]byte{p.SNPDocument(rep), theirs} {
		d, err := contrast.Parse("x", cert(t, pkix.Extension{Id: contrast.OIDSNP, Value: doc}))
		check(t, err)
		if !bytes.Equal(d.SNP.Report.Marshal(), rep) || !d.SNP.Certificates.VCEK.Equal(p.VCEK) || d.TDX != nil {
			t.Error("another report was read")
		}
	}
}

func unmarshal(t testing.TB, b []byte, m proto.Message) proto.Message {
	t.Helper()
	check(t, proto.Unmarshal(b, m))
	return m
}

// TestWrongExtensions: certificates that show no report, two, one of no hardware,
// or one under the identifier of another.
func TestWrongExtensions(t *testing.T) {
	tdx, err := fake.TDXDocument(quote(t))
	check(t, err)
	p, rep := report(t)
	snp := p.SNPDocument(rep)
	insecure := asn1.ObjectIdentifier{1, 3, 9901, 2, 3}
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"none", cert(t), "no attestation document"},
		{"only a claim", cert(t, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 9901, 2, 1, 22}, Value: []byte{4, 0}}), "no attestation document"},
		{"both", cert(t, pkix.Extension{Id: contrast.OIDSNP, Value: snp}, pkix.Extension{Id: contrast.OIDTDX, Value: tdx}), "2 attestation documents"},
		{"hardware and none", cert(t, pkix.Extension{Id: contrast.OIDSNP, Value: snp}, pkix.Extension{Id: insecure, Value: []byte("x")}), "2 attestation documents"},
		{"insecure", cert(t, pkix.Extension{Id: insecure, Value: []byte("x")}), "no hardware known"},
		{"SNP as TDX", cert(t, pkix.Extension{Id: contrast.OIDTDX, Value: snp}), "attestation document"},
		{"TDX as SNP", cert(t, pkix.Extension{Id: contrast.OIDSNP, Value: tdx}), "attestation document"},
		{"bare report", cert(t, pkix.Extension{Id: contrast.OIDSNP, Value: rep}), "attestation"},
		{"bare quote", cert(t, pkix.Extension{Id: contrast.OIDTDX, Value: quote(t)}), "attestation"},
		{"empty", cert(t, pkix.Extension{Id: contrast.OIDTDX, Value: nil}), "values"},
		{"field twice", cert(t, pkix.Extension{Id: contrast.OIDTDX, Value: append(bytes.Clone(tdx), tdx...)}), "second time"},
		{"unknown field", cert(t, pkix.Extension{Id: contrast.OIDTDX, Value: append(bytes.Clone(tdx), 0x32, 1, 0)}), "unknown field"},
		{"unknown number", cert(t, pkix.Extension{Id: contrast.OIDTDX, Value: append(bytes.Clone(tdx), 0x30, 1)}), "unknown field"},
		{"truncated", cert(t, pkix.Extension{Id: contrast.OIDTDX, Value: tdx[:len(tdx)-9]}), "x"},
		{"a certificate more", slices.Concat(pemOf(cert(t, pkix.Extension{Id: contrast.OIDTDX, Value: tdx})), pemOf(cert(t))), "more behind"},
		{"no certificate", []byte("hello"), "neither"},
		{"unknown member", []byte(`{"raw_attestation_doc":"","attestation_type":[1],"allow":true}`), "unknown member"},
		{"no manifest", []byte(`{"raw_attestation_doc":"","attestation_type":[1],"manifests":null,"root_ca":"","mesh_ca":""}`), "no manifest"},
		{"not base64", []byte(`{"raw_attestation_doc":"*","attestation_type":[1],"manifests":["aa=="],"root_ca":"","mesh_ca":""}`), "base64"},
		{"other type", []byte(`{"raw_attestation_doc":"","attestation_type":[1,2],"manifests":["YQ=="],"root_ca":"","mesh_ca":""}`), "no hardware known"},
		{"member twice", []byte(`{"raw_attestation_doc":"","raw_attestation_doc":"","attestation_type":[1,2]}`), "raw_attestation_doc"},
	} {
		_, err := contrast.Parse("x", tt.data)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// FuzzDocument: no panic; a quote that is put together is one that parses to the
// same bytes, or fails to parse at all.
func FuzzDocument(f *testing.F) {
	tdx, err := fake.TDXDocument(quote(f))
	check(f, err)
	p, rep := report(f)
	d, err := fake.NewDeployment("x", from, until)
	check(f, err)
	answer, err := d.Answer(contrast.OIDTDX, tdx, nil, []byte("{}"))
	check(f, err)
	f.Add(answer)
	f.Add(cert(f, pkix.Extension{Id: contrast.OIDTDX, Value: tdx}))
	f.Add(cert(f, pkix.Extension{Id: contrast.OIDSNP, Value: p.SNPDocument(rep)}))
	f.Add(tdx)
	f.Fuzz(func(t *testing.T, data []byte) {
		contrast.Recognize(data)
		if d, err := contrast.Parse("fuzz", data); err == nil && (d.SNP == nil) == (d.TDX == nil) {
			t.Fatal("a document without one report")
		}
		quote, err := contrast.QuoteOf("fuzz", data)
		if err != nil {
			return
		}
		if q, err := tdxquote.Parse(quote); err == nil && !bytes.Equal(q.Marshal(), quote) {
			t.Fatal("another quote was read")
		}
	})
}
