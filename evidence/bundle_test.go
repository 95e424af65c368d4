package evidence_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"html"
	"strings"
	"testing"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/evidence/snpreport"
)

// TestRead recognizes what people save and paste.
func TestRead(t *testing.T) {
	p := ownPlatform(t)
	raw := ownQuote(t, p, ownBody(t))
	second := ownBody(t)
	second.MRTD = sum("second")
	other := hex.EncodeToString(ownQuote(t, p, second))
	text := hex.EncodeToString(raw)
	gpu, err := func() ([]byte, error) {
		g, err := fake.NewGPU("gpu", from, until)
		if err != nil {
			return nil, err
		}
		return fake.Evidence([32]byte{1}, nil, g)
	}()
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"binary": string(raw), "hex": text, "hex with line break": text + "\n", "0x": "0x" + text, "capitals": strings.ToUpper(text), "wrapped": text[:100] + "\r\n" + text[100:],
		"0X": "0X" + strings.ToUpper(text), "base64": base64.StdEncoding.EncodeToString(raw), "base64 without padding": base64.RawStdEncoding.EncodeToString(raw),
		"base64 for URLs": base64.URLEncoding.EncodeToString(raw), "byte order mark": "\ufeff" + text,
		"page": "<html><body><pre id=x>" + text + "</pre></body>", "page in capitals": "<HTML><PRE>" + text + "</PRE>", "textarea": "<p>hello<textarea>\n" + text + "</textarea>",
		"paragraph": "<p>Quote: <b>" + text + "</b>", "wrapped page": "<pre>" + text[:50] + "<br>\n" + text[50:] + "</pre>", "entities": "<pre>&#" + fmt.Sprint(text[0]) + ";" + text[1:] + "</pre>",
		"same quote twice": "<pre>" + text + "</pre><pre>" + text + "</pre>", "not closed": "<pre>" + text, "comment and script": "<!-- <pre>" + other + "</pre> --><script>'<pre>" + other + "</pre>'</SCRIPT ><pre>" + text + "</pre>",
		"json": `{"quote":"` + text + `"}`,
	} {
		b, err := evidence.Read(name, []byte(data))
		if err != nil || !bytes.Equal(b.Quote, raw) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, data := range map[string]string{"plain": string(gpu), "page": "<pre>" + string(gpu) + "</pre>", "escaped page": "<pre>" + html.EscapeString(string(gpu)) + "</pre>"} {
		b, err := evidence.Read(name, []byte(data))
		if err != nil || b.GPU == nil {
			t.Errorf("GPU evidence, %s: %v", name, err)
		}
	}
	machine, err := fake.NewSNPPlatform("bundle", from, until, fake.SNPOptions{})
	if err != nil {
		t.Fatal(err)
	}
	snp, err := machine.Report(snpreport.Report{Measurement: sum("launch")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	table, err := machine.Table()
	if err != nil {
		t.Fatal(err)
	}
	snpText := hex.EncodeToString(snp)
	for name, data := range map[string]string{
		"binary": string(snp), "with certificates": string(snp) + string(table), "hex": "0x" + snpText + "\n", "base64": base64.StdEncoding.EncodeToString(snp),
		"page": "<pre>" + snpText + "</pre>", "configfs-tsm": `{"provider":"sev_guest","outblob":"` + base64.StdEncoding.EncodeToString(snp) + `"}`,
	} {
		b, err := evidence.Read(name, []byte(data))
		if err != nil || b.SNP == nil || b.SNP.Report.Measurement != sum("launch") {
			t.Errorf("SEV-SNP report, %s: %v", name, err)
		}
	}
	for name, tt := range map[string]struct{ data, want string }{
		"empty": {"", "found nothing"}, "blank": {" \n", "found nothing"}, "prose": {"hello world, this is it", "neither hex nor base64"},
		"page without": {"<html><pre>hello</pre></html>", "found a page without a quote"}, "two quotes": {"<pre>" + text + "</pre><pre>" + other + "</pre>", "two different quotes"},
		"other JSON": {`{"a":1}`, "a JSON document without a quote"}, "broken JSON": {`{"quote":`, "read broken JSON: line 1"}, "quote is a number": {`{"quote":4}`, "/quote: found a value of type number"},
		"quote is prose": {`{"quote":"~"}`, "/quote: found text that is neither"}, "report data": {`{"quote":"00","report_data":"x"}`, "/report_data: found"},
		"a report and a quote": {"<pre>" + snpText + "</pre><pre>" + text + "</pre>", "a TDX quote and an SEV-SNP report"}, "cut report": {string(snp[:1183]) + "x" + string(table[:5]), ""}, "two reports": {"<pre>" + snpText + "</pre><pre>" + strings.Replace(snpText, hex.EncodeToString(sum("launch").Bytes()), hex.EncodeToString(sum("x").Bytes()), 1) + "</pre>", "two different reports"},
		"too large": {strings.Repeat("a", evidence.MaxFile+1), "want at most"},
	} {
		_, err := evidence.Read(name, []byte(tt.data))
		var typed *malformed.Error
		if err == nil || !strings.Contains(err.Error(), tt.want) || name != "broken JSON" && !errors.As(err, &typed) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}

func TestMerge(t *testing.T) {
	quote, gpu := &evidence.Bundle{Name: "q", Quote: []byte{1}}, &evidence.Bundle{Name: "g", GPU: []byte{2}}
	for name, list := range map[string][]*evidence.Bundle{"quote first": {quote, gpu}, "GPU first": {gpu, quote}} {
		got, err := evidence.Merge(list...)
		if err != nil || got.Quote == nil || got.GPU == nil || got.Name != "q, g" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, list := range map[string][]*evidence.Bundle{
		"none": nil, "two quotes": {quote, {Name: "p", Quote: []byte{3}}}, "two GPUs": {gpu, {Name: "h", GPU: []byte{3}}},
		"two logs":        {{Name: "p", Quote: []byte{1}, EventLog: []byte{1}}, {Name: "q", Quote: []byte{1}, EventLog: []byte{2}}},
		"two vm_configs":  {{Name: "p", VMConfig: []byte{1}}, {Name: "q", VMConfig: []byte{2}}},
		"two report data": {{Name: "p", ReportData: []byte{1}}, {Name: "q", ReportData: []byte{2}}},
	} {
		if got, err := evidence.Merge(list...); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if gpu.Quote != nil || quote.GPU != nil {
		t.Error("merging changed its input")
	}
}

func TestRequests(t *testing.T) {
	quote := &evidence.Bundle{Quote: []byte{1}}
	for name, tt := range map[string]struct {
		r    evidence.Request
		want string
	}{
		"nothing":         {evidence.Request{At: now}, "none given"},
		"no time":         {evidence.Request{Evidence: quote}, "no time given"},
		"unknown profile": {evidence.Request{At: now, Evidence: quote, Profile: "x"}, `unknown profile "x", known: secretvm, dstack, tdx, snp, tpm, blindllama, nvidia`},
		"no GPU":          {evidence.Request{At: now, Evidence: quote, Profile: evidence.NVIDIA}, "needs GPU evidence"},
		"no quote":        {evidence.Request{At: now, Evidence: &evidence.Bundle{GPU: []byte("{}")}, Profile: evidence.TDX}, "needs a TDX quote"},
	} {
		if _, err := evidence.Verify(tt.r); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}
