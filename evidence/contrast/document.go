// Package contrast reads what a Contrast deployment shows of itself: a
// Coordinator's answer to /attest, and the self-signed certificate of attested
// TLS (aTLS), by which a Coordinator or any pod shows a hardware report for the
// key of a connection. It also makes the report data that each of them must have.
//
// Sources: Contrast (edgelesssys/contrast), apitypes/apiv1 (the answer and its
// report data), internal/atls and pull requests 1301 and 1647 (the nonce in
// ALPN), internal/oid and pull request 1349 (object identifiers), internal/
// attestation (a report's packing). No sample of a real deployment was at hand:
// see Unconfirmed.
package contrast

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/jsondoc"
)

// Unconfirmed is said with every verdict on such evidence.
const Unconfirmed = "read by the description of Contrast's sources; no evidence of a real deployment was at hand to confirm it"

// Limits of what is read.
const (
	MaxAnswer       = 16 << 20
	MaxManifests    = 1024
	MaxPolicies     = 4096
	MaxCapabilities = 1 << 20
)

// The object identifiers of attestation documents, and of the secret's name in
// certificates that a Coordinator issued.
var (
	// OIDSNP is of an SEV-SNP report, OIDTDX of a TDX quote.
	OIDSNP = asn1.ObjectIdentifier{1, 3, 9901, 2, 1}
	OIDTDX = asn1.ObjectIdentifier{1, 3, 9901, 2, 2}
	// OIDWorkloadSecret holds a workload's WorkloadSecretID in a mesh certificate.
	OIDWorkloadSecret = asn1.ObjectIdentifier{1, 3, 9901, 3, 1}

	oidReports = asn1.ObjectIdentifier{1, 3, 9901, 2}
)

// Kind says what a document is.
type Kind string

// The kinds.
const (
	Answer Kind = "answer of /attest"
	ATLS   Kind = "aTLS certificate"
)

// Document is one piece of such evidence. Everything in it is a claim of whoever
// sent it.
type Document struct {
	Name string
	Kind Kind
	raw  []byte

	// One of them: the hardware's report.
	SNP *snpreport.Evidence
	TDX []byte // a quote, put together from its fields
	// Extra says how many bytes came behind a quote that nothing signs.
	Extra int

	// Of an answer.
	Version        string   // of the Coordinator
	Manifests      [][]byte // oldest first
	Policies       [][]byte
	RootCA, MeshCA []byte // PEM, as the report data hash it

	// Of attested TLS.
	Certificate *x509.Certificate
}

// Same reports whether two documents are the same bytes.
func (d *Document) Same(o *Document) bool { return d.Kind == o.Kind && bytes.Equal(d.raw, o.raw) }

// under reports whether an object identifier is that of an attestation document,
// of whatever hardware. What stands below one is a single claim of a report, which
// a certificate of the mesh repeats.
func under(id asn1.ObjectIdentifier) bool {
	return len(id) == len(oidReports)+1 && id[:len(oidReports)].Equal(oidReports)
}

// Recognize reports whether a file is meant to be such evidence, whatever may be
// wrong with it: an object with raw_attestation_doc, or a certificate with an
// attestation document.
func Recognize(data []byte) bool {
	text := bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\ufeff")))
	if len(text) > 0 && text[0] == '{' {
		doc, err := jsondoc.Parse(text, jsondoc.Limits{Bytes: MaxAnswer, Depth: 8})
		return err == nil && doc.Kind == jsondoc.Object && (doc.Get("raw_attestation_doc") != nil || doc.Get("attestation_type") != nil)
	}
	cert := certificate(data)
	if cert == nil {
		return false
	}
	for _, e := range cert.Extensions {
		if under(e.Id) {
			return true
		}
	}
	return false
}

// certificate reads DER, or the first certificate of PEM; nil if there is none.
func certificate(data []byte) *x509.Certificate {
	switch {
	case len(data) > MaxAnswer:
		return nil
	case bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----BEGIN CERTIFICATE")):
		block, _ := pem.Decode(data)
		if block == nil {
			return nil
		}
		data = block.Bytes
	case len(data) == 0 || data[0] != 0x30: // a DER sequence
		return nil
	}
	cert, err := x509.ParseCertificate(data)
	if err != nil {
		return nil
	}
	return cert
}

// Parse reads an answer or a certificate. name is the file in errors.
func Parse(name string, data []byte) (*Document, error) {
	if len(data) > MaxAnswer {
		return nil, &malformed.Error{Input: name, Field: "size", Found: fmt.Sprintf("%d bytes", len(data)), Want: fmt.Sprintf("at most %d", MaxAnswer)}
	}
	text := bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\ufeff")))
	if len(text) > 0 && text[0] == '{' {
		return parseAnswer(name, text)
	}
	if cert := certificate(data); cert != nil {
		// DER may hold PEM inside: that of a PCK chain.
		if block, rest := pem.Decode(data); data[0] != 0x30 && block != nil && len(bytes.TrimSpace(rest)) > 0 {
			return nil, &malformed.Error{Input: name, Found: "more behind the certificate", Want: "one certificate: what is not judged has no place in the file"}
		}
		return FromCertificate(name, cert)
	}
	return nil, &malformed.Error{Input: name, Found: "neither JSON nor a certificate", Want: "a Coordinator's answer to /attest, or a certificate of attested TLS"}
}

// FromCertificate takes the attestation document out of a certificate. It must be
// the only one: of two, a reader could not know which is meant.
func FromCertificate(name string, cert *x509.Certificate) (*Document, error) {
	d := &Document{Name: name, Kind: ATLS, Certificate: cert, raw: cert.Raw}
	var found []pkix.Extension
	for _, e := range cert.Extensions {
		if under(e.Id) {
			found = append(found, e)
		}
	}
	fail := func(found, want string) (*Document, error) {
		return nil, &malformed.Error{Input: name, Field: "extensions", Found: found, Want: want}
	}
	switch {
	case len(found) == 0:
		return fail("no attestation document", OIDSNP.String()+" (SEV-SNP) or "+OIDTDX.String()+" (TDX)")
	case len(found) > 1:
		return fail(fmt.Sprintf("%d attestation documents (%s, %s)", len(found), found[0].Id, found[1].Id), "one")
	}
	return d, d.open(found[0].Id.String(), found[0].Value)
}

// open reads the attestation document of the kind that an object identifier names.
func (d *Document) open(id string, doc []byte) (err error) {
	switch id {
	case OIDSNP.String():
		if d.SNP, err = snpreport.Open(d.Name+": attestation document", doc); err != nil {
			return err
		}
		if d.SNP.Form != snpreport.FormProtobuf {
			return &malformed.Error{Input: d.Name, Field: "attestation document", Found: string(d.SNP.Form), Want: string(snpreport.FormProtobuf)}
		}
	case OIDTDX.String():
		d.TDX, d.Extra, err = quoteOf(d.Name+": attestation document", doc)
	default:
		return &malformed.Error{Input: d.Name, Field: "attestation type", Found: id, Want: OIDSNP.String() + " (SEV-SNP) or " + OIDTDX.String() + " (TDX); others are of no hardware known here"}
	}
	return err
}

// parseAnswer reads the JSON of /attest. Members that are not known may say
// something that nobody judges: they are refused.
func parseAnswer(name string, text []byte) (*Document, error) {
	bad := func(place, found, want string) error {
		return &malformed.Error{Input: name, Place: place, Found: found, Want: want}
	}
	doc, err := jsondoc.Parse(text, jsondoc.Limits{Bytes: MaxAnswer, Depth: 8, Values: 1 << 16})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	d := &Document{Name: name, Kind: Answer, raw: text}
	for _, m := range doc.Members {
		switch m.Key {
		case "version", "raw_attestation_doc", "attestation_type", "manifests", "policies", "root_ca", "mesh_ca":
		default:
			return nil, bad("/"+jsondoc.EscapePointer(m.Key), "an unknown member", "version, raw_attestation_doc, attestation_type, manifests, policies, root_ca, mesh_ca")
		}
	}
	blob := func(place string, v *jsondoc.Value) []byte {
		if v == nil || v.Kind != jsondoc.String {
			if err == nil {
				err = bad(place, "no text", "base64")
			}
			return nil
		}
		b, failed := base64.StdEncoding.Strict().DecodeString(v.Text)
		if failed != nil && err == nil {
			err = bad(place, failed.Error(), "base64")
		}
		return b
	}
	list := func(place string, v *jsondoc.Value, limit int) [][]byte {
		if v.IsNull() { // an empty list of Go's
			return nil
		}
		if v.Kind != jsondoc.Array || len(v.Elems) > limit {
			if err == nil {
				err = bad(place, fmt.Sprintf("a value of type %s with %d elements", v.Kind, len(v.Elems)), fmt.Sprintf("a list of at most %d", limit))
			}
			return nil
		}
		out := make([][]byte, 0, len(v.Elems))
		for i, e := range v.Elems {
			out = append(out, blob(fmt.Sprintf("%s/%d", place, i), e))
		}
		return out
	}
	d.Manifests = list("/manifests", doc.Get("manifests"), MaxManifests)
	d.Policies = list("/policies", doc.Get("policies"), MaxPolicies)
	d.RootCA, d.MeshCA = blob("/root_ca", doc.Get("root_ca")), blob("/mesh_ca", doc.Get("mesh_ca"))
	report := blob("/raw_attestation_doc", doc.Get("raw_attestation_doc"))
	if v := doc.Get("version"); v != nil && v.Kind == jsondoc.String {
		d.Version = v.Text
	}
	var id []string
	if v := doc.Get("attestation_type"); v != nil && v.Kind == jsondoc.Array && len(v.Elems) < 32 {
		for i, e := range v.Elems {
			n, ok := e.Uint64()
			if !ok && err == nil {
				err = bad(fmt.Sprintf("/attestation_type/%d", i), "a value of type "+e.Kind.String(), "a number of the object identifier")
			}
			id = append(id, fmt.Sprint(n))
		}
	}
	if err == nil && len(d.Manifests) == 0 {
		err = bad("/manifests", "no manifest", "the history, at least one: a Coordinator without a manifest shows nothing")
	}
	if err != nil {
		return nil, err
	}
	return d, d.open(strings.Join(id, "."), report)
}

// maxQuote bounds a quote that is put together.
const maxQuote = tdxquote.MaxSize
