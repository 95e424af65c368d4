package snpreport

import (
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/hcl"
	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/jsondoc"
)

// MaxContainer bounds a file that holds a report, in bytes.
const MaxContainer = 4 << 20

// Form says how a report was packed.
type Form string

// The forms that Open knows.
const (
	FormRaw      Form = "report"                   // 1184 bytes
	FormExtended Form = "report with certificates" // 1184 bytes, then a certificate table
	FormPEM      Form = "report with PEM"          // 1184 bytes, then certificates in PEM
	FormResponse Form = "answer of /dev/sev-guest" // MSG_REPORT_RSP, zeros up to 4000 bytes
	FormTSM      Form = "configfs-tsm"             // JSON of provider, outblob, auxblob
	FormHCL      Form = "HCL report"               // Azure
	FormAzure    Form = "Azure evidence"           // trustee's JSON for Azure, an HCL report in it
	FormTrustee  Form = "trustee evidence"         // trustee's JSON
	FormProtobuf Form = "go-sev-guest attestation" // protobuf
	FormTinfoil  Form = "Tinfoil attestation bundle"
)

// Evidence is a report with what came beside it.
type Evidence struct {
	Form         Form
	Report       *Report
	Certificates Certificates
	HCL          *hcl.Report         // Azure: the report is the one inside
	TLSChain     []*x509.Certificate // of the service, where the container has it
}

// Verify verifies the report, and for Azure that it vouches for the runtime data
// in which the key of the virtual TPM stands.
func (e *Evidence) Verify(o Options) (*Result, error) {
	r, err := Verify(e.Report, e.Certificates, o)
	if err != nil || e.HCL == nil {
		return r, err
	}
	l := (*verdict.List)(&r.Checks)
	l.Judge("runtime-data", e.HCL.Bound(e.Report.ReportData),
		"the report data are the "+e.HCL.Algorithm.String()+" of the HCL report's runtime data, with the attestation key of the virtual TPM",
		fmt.Sprintf("the report data are %x, the runtime data of the HCL report give %x: they were changed", e.Report.ReportData, e.HCL.RuntimeDigest()))
	return r, nil
}

// Open reads a report from any container known here. It also undoes base64 and
// hexadecimal text around one. name is the file in errors.
func Open(name string, data []byte) (*Evidence, error) { return open(name, data, true) }

func open(name string, data []byte, packed bool) (*Evidence, error) {
	if len(data) > MaxContainer {
		return nil, &malformed.Error{Input: name, Field: "size", Found: fmt.Sprintf("%d bytes", len(data)), Want: fmt.Sprintf("at most %d", MaxContainer)}
	}
	text := bytes.TrimSpace(data)
	switch {
	case isText(text): // before the binary forms, one of which begins with a line feed
		return openText(name, text, packed)
	case bytes.HasPrefix(data, []byte(hcl.Signature)):
		return openHCL(data, FormHCL)
	case len(data) >= Size && binary.LittleEndian.Uint32(data) >= 2 && binary.LittleEndian.Uint32(data) <= 5:
		return openExtended(name, data)
	case len(data) >= responseHeader+Size && binary.LittleEndian.Uint32(data[4:]) == Size:
		return openResponse(name, data)
	case len(data) > 0 && data[0] == protobufReport:
		return openProtobuf(name, data)
	}
	return nil, unknownForm(name, data)
}

func unknownForm(name string, data []byte) error {
	return &malformed.Error{
		Input: name, Field: "form", Found: fmt.Sprintf("%d bytes beginning with %x", len(data), data[:min(len(data), 16)]),
		Want: "an SNP report (1184 bytes), alone, with a certificate table, in an HCL report, in JSON of configfs-tsm, trustee or Tinfoil, in a go-sev-guest attestation, or one of these as base64 or hexadecimal text",
	}
}

// isText: every binary form has a NUL among its first bytes.
func isText(data []byte) bool {
	return len(data) > 0 && utf8.Valid(data) && !bytes.ContainsFunc(data, func(r rune) bool { return r < ' ' && r != '\n' && r != '\r' && r != '\t' })
}

func openText(name string, text []byte, packed bool) (*Evidence, error) {
	if text[0] == '{' {
		doc, err := jsondoc.Parse(text, jsondoc.Limits{Bytes: MaxContainer, Depth: 12, Values: 200000})
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		return openJSON(&document{name: name}, doc)
	}
	if packed {
		if b, err := hex.DecodeString(string(text)); err == nil {
			return open(name, b, false)
		}
		if b, err := decodeBase64(string(text)); err == nil {
			return open(name, b, false)
		}
	}
	return nil, unknownForm(name, text)
}

func openExtended(name string, data []byte) (*Evidence, error) {
	r, err := Parse(data[:Size])
	if err != nil {
		return nil, err
	}
	e := &Evidence{Form: FormRaw, Report: r}
	switch rest := data[Size:]; {
	case len(rest) == 0:
	case bytes.HasPrefix(rest, []byte("-----BEGIN")):
		e.Form = FormPEM
		e.Certificates, err = ParseCertificates(name+": certificates after the report", rest)
	default:
		e.Form = FormExtended
		e.Certificates, err = ParseTable(name+": certificate table", rest)
	}
	return e, err
}

// responseHeader precedes the report in MSG_REPORT_RSP: u32 status, u32 size, 24
// reserved bytes ("Firmware ABI Specification", table MSG_REPORT_RSP).
const responseHeader = 32

func openResponse(name string, data []byte) (*Evidence, error) {
	if status := binary.LittleEndian.Uint32(data); status != 0 {
		return nil, &malformed.Error{Input: name, Place: malformed.Offset(0), Field: "STATUS", Found: fmt.Sprintf("%#x", status), Want: "0 (success)"}
	}
	for i, b := range data {
		if b != 0 && (i >= 8 && i < responseHeader || i >= responseHeader+Size) {
			return nil, &malformed.Error{Input: name, Place: malformed.Offset(i), Field: "around the report", Found: fmt.Sprintf("%#02x", b), Want: "0"}
		}
	}
	r, err := Parse(data[responseHeader : responseHeader+Size])
	return &Evidence{Form: FormResponse, Report: r}, err
}

func openHCL(data []byte, form Form) (*Evidence, error) {
	h, err := hcl.Parse(data)
	if err != nil {
		return nil, err
	}
	if h.Type != hcl.SNP {
		return nil, &malformed.Error{Input: "HCL report", Field: "report type", Found: h.Type.String(), Want: hcl.SNP.String()}
	}
	r, err := Parse(h.Hardware[:])
	return &Evidence{Form: form, Report: r, HCL: h}, err
}

// decodeBase64 takes both alphabets, with and without padding; line breaks are
// left out, nothing else is.
func decodeBase64(text string) ([]byte, error) {
	text = strings.NewReplacer("\r", "", "\n", "").Replace(strings.TrimSpace(text))
	enc := base64.RawStdEncoding
	if strings.ContainsAny(text, "-_") {
		enc = base64.RawURLEncoding
	}
	body := strings.TrimRight(text, "=")
	if pad := len(text) - len(body); pad > 0 && (pad > 2 || len(text)%4 != 0) {
		return nil, base64.CorruptInputError(len(body))
	}
	return enc.Strict().DecodeString(body)
}

// document takes members of a JSON container; after an error every member is
// empty.
type document struct {
	name string
	err  error
}

func (d *document) fail(place, found, want string) {
	if d.err == nil {
		d.err = &malformed.Error{Input: d.name, Place: place, Found: found, Want: want}
	}
}

func kind(v *jsondoc.Value) string {
	if v == nil {
		return "nothing"
	}
	return "a value of type " + v.Kind.String()
}

// bytes takes bytes in the two spellings that serializers give them: an array of
// numbers, or base64.
func (d *document) bytes(place string, v *jsondoc.Value) []byte {
	switch {
	case d.err != nil:
	case v != nil && v.Kind == jsondoc.String:
		b, err := decodeBase64(v.Text)
		if err == nil {
			return b
		}
		d.fail(place, err.Error(), "base64")
	case v != nil && v.Kind == jsondoc.Array:
		out := make([]byte, 0, len(v.Elems))
		for i, e := range v.Elems {
			n, ok := e.Uint64()
			if !ok || n > 255 {
				d.fail(fmt.Sprintf("%s/%d", place, i), kind(e), "a byte")
				return nil
			}
			out = append(out, byte(n))
		}
		return out
	default:
		d.fail(place, kind(v), "bytes (an array of numbers, or base64)")
	}
	return nil
}

// certificate files a certificate of a container: PEM text, base64 or bytes.
func (d *document) certificate(c *Certificates, place string, v *jsondoc.Value) {
	if v.IsNull() || d.err != nil {
		return
	}
	raw := []byte(v.Text)
	if v.Kind != jsondoc.String || !strings.Contains(v.Text, "-----BEGIN") {
		raw = d.bytes(place, v)
	}
	if d.err != nil {
		return
	}
	more, err := ParseCertificates(d.name+" "+place, raw)
	if err == nil {
		err = c.Merge(d.name+" "+place, more)
	}
	d.err = err
}

// holders are the members that hold a report, one form each. Azure's older form
// has it under "report", beside "vcek".
func holders(doc *jsondoc.Value) []string {
	var out []string
	for _, m := range []string{"outblob", "hcl_report", "report", "attestation_report", "enclaveAttestationReport"} {
		if doc.Get(m) != nil {
			out = append(out, m)
		}
	}
	return out
}

func openJSON(d *document, doc *jsondoc.Value) (*Evidence, error) {
	found := holders(doc)
	if inner := doc.Get("evidence"); inner != nil && inner.Kind == jsondoc.Object && doc.Get("platform") != nil {
		// attestation-rs names the platform around trustee's evidence
		found, doc = append(found, holders(inner)...), inner
	}
	if len(found) > 1 { // which of them counts is not for the sender to leave open
		d.fail("/", "more than one report: "+strings.Join(found, ", "), "one")
		return nil, d.err
	}
	switch strings.Join(found, "") {
	case "outblob":
		return openTSM(d, doc)
	case "hcl_report", "report":
		return openAzure(d, doc, found[0])
	case "attestation_report":
		return openTrustee(d, doc)
	case "enclaveAttestationReport":
		return openTinfoil(d, doc)
	}
	d.fail("/", "an object without a report", "outblob (configfs-tsm), hcl_report or report (Azure), attestation_report (trustee) or enclaveAttestationReport (Tinfoil)")
	return nil, d.err
}

// openTSM reads what configfs-tsm gives, as tools write it into JSON.
func openTSM(d *document, doc *jsondoc.Value) (*Evidence, error) {
	if p := doc.Get("provider"); p != nil && strings.TrimSpace(p.Text) != "sev_guest" {
		d.fail("/provider", fmt.Sprintf("%q", p.Text), "sev_guest")
	}
	out := d.bytes("/outblob", doc.Get("outblob"))
	var aux []byte
	if v := doc.Get("auxblob"); !v.IsNull() {
		aux = d.bytes("/auxblob", v)
	}
	if d.err != nil {
		return nil, d.err
	}
	r, err := Parse(out)
	if err != nil {
		return nil, err
	}
	e := &Evidence{Form: FormTSM, Report: r}
	e.Certificates, err = ParseTable(d.name+" /auxblob", aux)
	return e, err
}

func openAzure(d *document, doc *jsondoc.Value, member string) (*Evidence, error) {
	raw := d.bytes("/"+member, doc.Get(member))
	if d.err != nil {
		return nil, d.err
	}
	e, err := openHCL(raw, FormAzure)
	if err != nil {
		return nil, err
	}
	d.certificate(&e.Certificates, "/vcek", doc.Get("vcek"))
	return e, d.err
}

// maxTinfoil bounds the report that a Tinfoil bundle has compressed.
const maxTinfoil = Size + MaxTable

func openTinfoil(d *document, doc *jsondoc.Value) (*Evidence, error) {
	const format, place = "https://tinfoil.sh/predicate/sev-snp-guest/v2", "/enclaveAttestationReport"
	report := doc.Get("enclaveAttestationReport")
	if f := report.Get("format"); f == nil || f.Text != format {
		d.fail(place+"/format", kind(f), format)
		if f != nil && f.Kind == jsondoc.String {
			d.err = &malformed.Error{Input: d.name, Place: place + "/format", Found: f.Text, Want: format}
		}
		return nil, d.err
	}
	packed := d.bytes(place+"/body", report.Get("body"))
	if d.err != nil {
		return nil, d.err
	}
	raw, err := unzip(packed)
	if err != nil {
		d.fail(place+"/body", err.Error(), "a gzipped report")
		return nil, d.err
	}
	if len(raw) < Size {
		d.fail(place+"/body", fmt.Sprintf("%d bytes", len(raw)), "a report of 1184 bytes")
		return nil, d.err
	}
	e, err := openExtended(d.name, raw)
	if err != nil {
		return nil, err
	}
	e.Form = FormTinfoil
	d.certificate(&e.Certificates, "/vcek", doc.Get("vcek"))
	if c := doc.Get("enclaveCert"); c != nil && d.err == nil {
		e.TLSChain, d.err = certs.ReadPEM(d.name+" /enclaveCert", []byte(c.Text))
	}
	return e, d.err
}

func unzip(packed []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(z, maxTinfoil+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxTinfoil {
		return nil, fmt.Errorf("more than %d bytes", maxTinfoil)
	}
	return raw, nil
}
