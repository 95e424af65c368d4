package evidence_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/verdict"
)

// numbers writes bytes as serializers write a vector of bytes.
func numbers(b []byte) string {
	out := make([]string, len(b))
	for i, x := range b {
		out[i] = fmt.Sprint(x)
	}
	return "[" + strings.Join(out, ",") + "]"
}

func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// wrapped are containers of bytes that the reader must look into.
func wrapped(raw []byte) map[string]string {
	h, b64 := hex.EncodeToString(raw), base64.StdEncoding.EncodeToString(raw)
	block := string(pem.EncodeToMemory(&pem.Block{Type: "TDX QUOTE", Bytes: raw}))
	return map[string]string{
		"list of bytes":           numbers(raw),
		"member of bytes":         `{"tee":{"Dstack":{"quote":` + numbers(raw) + `,"collateral":{}}}}`,
		"another name":            `{"intel_quote":"` + h + `"}`,
		"base64 for URLs":         `{"td_quote":"` + base64.RawURLEncoding.EncodeToString(raw) + `"}`,
		"base64 with line breaks": `{"a":[1,{"quote_b64":` + quoted(b64[:76]+"\n"+b64[76:]) + `}]}`,
		"JSON in JSON":            `{"body":` + quoted(`{"result":`+quoted(`{"q":"`+h+`"}`)+`}`) + `}`,
		"Trust Authority":         `{"quote":"` + b64 + `","verifier_nonce":{"val":"AAAA","iat":"AAAA","signature":"AAAA"},"runtime_data":"AAAA"}`,
		"JSON in base64":          base64.RawURLEncoding.EncodeToString([]byte(`{"quote":"` + h + `"}`)),
		"base64 of JSON in JSON":  `{"evidence":"` + base64.StdEncoding.EncodeToString([]byte(`{"td_quote":"`+b64+`"}`)) + `"}`,
		"YAML":                    "---\ntdx_quote_base64: \"" + base64.URLEncoding.EncodeToString(raw) + "\"\nak: |-\n  -----BEGIN CERTIFICATE-----\n  AAAA\n  -----END CERTIFICATE-----\nn: 3\n",
		"YAML list of bytes":      "quote: " + numbers(raw) + "\n",
		"PEM of its own":          block,
		"base64 in lines":         b64[:64] + "\r\n" + b64[64:] + "\r\n",
		"the same twice":          `{"a":"` + h + `","b":"` + b64 + `"}`,
		"a page":                  `<pre>{"quote":"` + h + `"}</pre>`,
	}
}

// TestContainers: a quote is found whatever its members are called.
func TestContainers(t *testing.T) {
	p := ownPlatform(t)
	raw := ownQuote(t, p, ownBody(t))
	for name, text := range wrapped(raw) {
		b, err := evidence.Read(name, []byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(b.Quote, raw) || b.SNP != nil || b.GPU != nil {
			t.Errorf("%s: got %d bytes of a quote", name, len(b.Quote))
		}
	}
}

// TestBeside: what stands beside a quote in a foreign container is taken over by
// dstack's names only.
func TestBeside(t *testing.T) {
	h := hex.EncodeToString(ownQuote(t, ownPlatform(t), ownBody(t)))
	for name, tt := range map[string]struct{ text, log, config, data, unread string }{
		"a report of an application": {text: `{"intel_quote":"` + h + `","event_log":"[{\"imr\":3}]","vm_config":"{}","report_data":"00ff"}`, log: `[{"imr":3}]`, config: "{}", data: "00ff"},
		"with tcb_info":              {text: `{"quote":"` + h + `","tcb_info":{"event_log":[{"imr":3}]}}`, log: `[{"imr":3}]`},
		"another maker's log":        {text: `{"tdx":"` + h + `","event_log":"AAAA"}`, unread: "event_log, which is no list of events as dstack writes it"},
		"another maker's data":       {text: `{"tdx":"` + h + `","report_data":"AA=="}`, unread: "report_data, which is not hexadecimal"},
	} {
		b, err := evidence.Read(name, []byte(tt.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if string(b.EventLog) != tt.log || string(b.VMConfig) != tt.config || hex.EncodeToString(b.ReportData) != tt.data || strings.Join(b.Unread, "") != tt.unread {
			t.Errorf("%s: log %s, config %s, data %x, unread %q", name, b.EventLog, b.VMConfig, b.ReportData, b.Unread)
		}
	}
	// What was not read is said, and is no reason to fail.
	b, err := evidence.Read("q", []byte(`{"tdx":"`+h+`","event_log":"AAAA"}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := evidence.Verify(evidence.Request{Evidence: b, At: now, IntelRoots: roots(ownPlatform(t))})
	if err != nil || got.Authentic.Verdict != verdict.Pass || !strings.Contains(strings.Join(got.Authentic.Reasons, "\n"), "unread: event_log") {
		t.Errorf("%v %v", got.Authentic, err)
	}
}

// TestAmbiguous: of two quotes in one file the first one never counts.
func TestAmbiguous(t *testing.T) {
	p := ownPlatform(t)
	raw := ownQuote(t, p, ownBody(t))
	second := ownBody(t)
	second.MRTD = sum("second")
	other := ownQuote(t, p, second)
	a, b := hex.EncodeToString(raw), hex.EncodeToString(other)
	machine, err := fake.NewSNPPlatform("evidence", from, until, fake.SNPOptions{})
	if err != nil {
		t.Fatal(err)
	}
	snp, err := machine.Report(snpreport.Report{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	gpus := [2]string{}
	for i := range gpus {
		g, err := fake.NewGPU("gpu", from, until)
		if err != nil {
			t.Fatal(err)
		}
		file, err := fake.Evidence([32]byte{byte(i)}, nil, g)
		if err != nil {
			t.Fatal(err)
		}
		gpus[i] = string(file)
	}
	attestation := fake.Attestation{Quote: other}
	cert := func(extensions ...fake.Extension) string {
		c, err := fake.RATLS("ambiguous", from, until, extensions...)
		if err != nil {
			t.Fatal(err)
		}
		return string(fake.PEM(c))
	}
	for name, text := range map[string]string{
		"two members":            `{"a":"` + a + `","b":"` + b + `"}`,
		"dstack's and another":   `{"quote":"` + a + `","extra":{"quote":"` + b + `"}}`,
		"behind a known form":    `{"x":{"intel_quote":"` + b + `"},"quote":"` + a + `","event_log":"[]","vm_config":"{}"}`,
		"one in a text":          `{"quote":"` + a + `","note":` + quoted(`{"q":"`+b+`"}`) + `}`,
		"one as numbers":         `{"quote":"` + a + `","n":` + numbers(other) + `}`,
		"one in an attestation":  `{"quote":"` + a + `","attestation":"` + hex.EncodeToString(attestation.V0()) + `"}`,
		"one in a certificate":   `{"quote":"` + a + `","app_cert":` + quoted(cert(fake.Extension{ID: quoteOID(), Value: other})) + `}`,
		"a quote and a report":   `{"quote":"` + a + `","report":"` + base64.StdEncoding.EncodeToString(snp) + `"}`,
		"a report and a quote":   `{"attestation_report":` + numbers(snp) + `,"q":"` + a + `"}`,
		"two evidences of GPUs":  `{"a":` + gpus[0] + `,"b":` + quoted(gpus[1]) + `}`,
		"in a page":              `<pre>{"a":"` + a + `","b":"` + b + `"}</pre>`,
		"two in a certificate":   cert(fake.Extension{ID: quoteOID(), Value: raw}, fake.Extension{ID: asn1.ObjectIdentifier{1, 2, 3, 4}, Value: other}),
		"an issuer with a quote": cert() + cert(fake.Extension{ID: quoteOID(), Value: other}),
	} {
		b, err := evidence.Read(name, []byte(text))
		if f := (*evidence.ForeignError)(nil); !errors.As(err, &f) {
			t.Errorf("%s: got %+v, %v", name, b, err)
		}
	}
}

// TestManyQuotes: a file of very many quotes is refused at the second, not
// compared quote by quote.
func TestManyQuotes(t *testing.T) {
	var b strings.Builder
	b.WriteString("[")
	for i := range 100000 {
		fmt.Fprintf(&b, `"0400020081000000%088x",`, i)
	}
	b.WriteString("0]")
	start := time.Now()
	_, err := evidence.Read("many", []byte(b.String()))
	if f := (*evidence.ForeignError)(nil); !errors.As(err, &f) || time.Since(start) > 20*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

// TestForeign: evidence of other kinds is named.
func TestForeign(t *testing.T) {
	sgx := append([]byte{3, 0, 2, 0}, make([]byte, 700)...)
	vendor, err := hex.DecodeString("939a7233f79c4ca9940a0db3957f0607")
	if err != nil {
		t.Fatal(err)
	}
	copy(sgx[12:], vendor)
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	token := part(`{"alg":"PS384","kid":"x"}`) + "." + part(`{"iss":"Intel Trust Authority","tdx":{"tdx_mrtd":"00"}}`) + "." + part("signature")
	g, err := fake.NewGPU("gpu", from, until)
	if err != nil {
		t.Fatal(err)
	}
	exchange, err := g.Exchange([32]byte{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ text, want string }{
		"SGX, binary":   {string(sgx), "an SGX quote (version 3);"},
		"SGX, hex":      {hex.EncodeToString(sgx), "an SGX quote (version 3);"},
		"SGX, JSON":     {`{"quote":"` + base64.StdEncoding.EncodeToString(sgx) + `"}`, "an SGX quote (version 3) at /quote;"},
		"SGX, numbers":  {numbers(sgx), "an SGX quote (version 3) at /;"},
		"a token":       {token, `a signed token (JWT) of "Intel Trust Authority"`},
		"in JSON":       {`{"token":"` + token + `"}`, `a signed token (JWT) at /token of "Intel Trust Authority"`},
		"in a list":     {`[["JWT","` + token + `"],{"GPU-0":"` + token + `"}]`, `a signed token (JWT) at /0/1 of`},
		"a GPU's alone": {hex.EncodeToString(exchange), "without its certificates"},
	} {
		_, err := evidence.Read(name, []byte(tt.text))
		if f := (*evidence.ForeignError)(nil); !errors.As(err, &f) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	// An enclave of the same host beside the machine's quote is named, too.
	quote := hex.EncodeToString(ownQuote(t, ownPlatform(t), ownBody(t)))
	b, err := evidence.Read("both", []byte(`{"quote":"`+quote+`","key_provider":"`+hex.EncodeToString(sgx)+`"}`))
	if err != nil || len(b.Unread) != 1 || !strings.Contains(b.Unread[0], "an SGX quote (version 3) at /key_provider") {
		t.Errorf("%v %v", b, err)
	}
}

func quoteOID() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 62397, 1, 1} }

func logOID() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 62397, 1, 2} }

// TestRATLS: the quote of a certificate belongs to the certificate's key, and that
// the certificate is the connection's, nobody but the user can say.
func TestRATLS(t *testing.T) {
	p := ownPlatform(t)
	key, err := fake.RATLSKey("ratls")
	if err != nil {
		t.Fatal(err)
	}
	body := ownBody(t)
	body.ReportData = sha512.Sum512(append([]byte("ratls-cert:"), key...))
	raw := ownQuote(t, p, body)
	const log = `[{"imr":3,"event_type":134217729,"digest":"","event":"x","event_payload":""}]`
	packed := bytes.NewBufferString("ELGZv1")
	z := gzip.NewWriter(packed)
	if _, err := z.Write([]byte(log)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	bomb := bytes.NewBufferString("ELGZv1")
	z = gzip.NewWriter(bomb)
	if _, err := z.Write(make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	attestation := fake.Attestation{Quote: raw, ReportData: body.ReportData, Events: []fake.DstackEvent{{IMR: 3, Type: 0x08000001, Name: "x"}}}
	ext := func(last int, value []byte) fake.Extension {
		return fake.Extension{ID: append(quoteOID()[:8:8], last), Value: value}
	}
	for name, tt := range map[string]struct {
		extensions []fake.Extension
		log, err   string
	}{
		"quote and log":         {[]fake.Extension{ext(1, raw), ext(2, []byte(log))}, log, ""},
		"log first":             {[]fake.Extension{ext(2, []byte(log)), ext(1, raw)}, log, ""},
		"packed log":            {[]fake.Extension{ext(1, raw), ext(2, packed.Bytes())}, log, ""},
		"a log that explodes":   {[]fake.Extension{ext(1, raw), ext(2, bomb.Bytes())}, "", "more than 1048576 bytes"},
		"attestation":           {[]fake.Extension{ext(8, attestation.V0())}, log, ""},
		"attestation, newer":    {[]fake.Extension{ext(8, attestation.V1())}, log, ""},
		"quote and attestation": {[]fake.Extension{ext(1, raw), ext(8, attestation.V1())}, log, ""},
		"bare value":            {[]fake.Extension{{ID: quoteOID(), Value: raw, Bare: true}}, "", ""},
		"of another maker":      {[]fake.Extension{{ID: asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 1}, Value: raw}}, "", ""},
		"no quote":              {[]fake.Extension{ext(3, []byte("app id"))}, "", "a certificate without a quote in it"},
		"a broken quote":        {[]fake.Extension{ext(1, []byte("quote"))}, "", "want a TDX quote"},
		"a broken attestation":  {[]fake.Extension{ext(8, []byte("attestation"))}, "", "want a dstack attestation"},
	} {
		c, err := fake.RATLS("ratls", from, until, tt.extensions...)
		if err != nil {
			t.Fatal(err)
		}
		for form, data := range map[string][]byte{"PEM": fake.PEM(c), "DER": c.Raw, "JSON": []byte(`{"cert":` + quoted(string(fake.PEM(c))) + `}`), "with an issuer": fake.PEM(c, p.Root)} {
			b, err := evidence.Read(name, data)
			switch {
			case tt.err != "":
				if err == nil || form != "JSON" && !strings.Contains(err.Error(), tt.err) {
					t.Errorf("%s, %s: %v, want %q", name, form, err, tt.err)
				}
				continue
			case err != nil:
				t.Errorf("%s, %s: %v", name, form, err)
				continue
			}
			if !bytes.Equal(b.Quote, raw) || string(b.EventLog) != tt.log {
				t.Errorf("%s, %s: log %s", name, form, b.EventLog)
			}
			if form == "JSON" {
				continue
			}
			got := verifyPlain(t, p, b)
			if reasons := strings.Join(got.Bound.Reasons, "\n"); got.Bound.Verdict != verdict.Unchecked || !strings.Contains(reasons, "certificate: report data names the key") || !strings.Contains(reasons, "tls: whether a connection ended") {
				t.Errorf("%s, %s: %s", name, form, reasons)
			}
		}
	}
	// The same quote in somebody else's certificate.
	thief, err := fake.RATLS("thief", from, until, ext(1, raw))
	if err != nil {
		t.Fatal(err)
	}
	b, err := evidence.Read("thief", fake.PEM(thief))
	if err != nil {
		t.Fatal(err)
	}
	if got := verifyPlain(t, p, b); got.Bound.Verdict != verdict.Fail || !strings.Contains(got.Bound.Reasons[0], "the quote was put into another certificate") {
		t.Errorf("a quote in another certificate: %v", got.Bound)
	}
}

func verifyPlain(t *testing.T, p *fake.Platform, b *evidence.Bundle) *evidence.Result {
	t.Helper()
	got, err := evidence.Verify(evidence.Request{Profile: evidence.TDX, Evidence: b, At: now, IntelRoots: roots(p)})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestPlainGPU: evidence of a GPU beside the quote of a machine that is not
// SecretVM's is the machine's if the quote names its nonce.
func TestPlainGPU(t *testing.T) {
	p := ownPlatform(t)
	g, err := fake.NewGPU("gpu", from, until)
	if err != nil {
		t.Fatal(err)
	}
	nonce := [32]byte{5, 6}
	file, err := fake.Evidence(nonce, nil, g)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		second [32]byte
		want   string
	}{{nonce, "gpu: the second half of the report data is the nonce that the GPU answered"}, {[32]byte{7}, "gpu: the GPU answered the nonce"}} {
		body := ownBody(t)
		copy(body.ReportData[32:], tt.second[:])
		raw := ownQuote(t, p, body)
		b, err := evidence.Read("report", []byte(`{"intel_quote":"`+hex.EncodeToString(raw)+`","nvidia_payload":`+quoted(string(file))+`,"event_log":"[]"}`))
		if err != nil {
			t.Fatal(err)
		}
		if b.GPU == nil || b.Quote == nil {
			t.Fatalf("got %+v", b)
		}
		got := verifyPlain(t, p, b)
		if !strings.Contains(strings.Join(got.Bound.Reasons, "\n"), tt.want) || got.Bound.Verdict == verdict.Pass {
			t.Errorf("%s", got.Bound.Reasons)
		}
	}
}
