// Package endorsement judges offline who vouches for a digest: Sigstore bundles,
// DSSE envelopes, in-toto statements with a signature beside them. It answers
// four questions: who signed it, which log holds it, is it in force, what does
// it cover. Every root of trust comes from the caller; nothing is fetched.
package endorsement

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/place"
)

// The bounds of what a file may hold.
const (
	// FileLimit is the most that a file of endorsements may have, in bytes.
	FileLimit    = 16 << 20
	maxDocuments = 256
	maxSubjects  = 65536
	maxEntries   = 32 // of a log, and signatures, and certificates
	maxHashes    = 64 // of an inclusion proof
)

// payloadInToto is the type of a DSSE payload that is an in-toto statement
// (in-toto attestation framework v1, Envelope).
const payloadInToto = "application/vnd.in-toto+json"

// bundleTypes are the media types of Sigstore bundles that are understood
// (sigstore/protobuf-specs, sigstore_bundle.proto).
var bundleTypes = []string{
	"application/vnd.dev.sigstore.bundle+json;version=0.1",
	"application/vnd.dev.sigstore.bundle+json;version=0.2",
	"application/vnd.dev.sigstore.bundle+json;version=0.3",
	"application/vnd.dev.sigstore.bundle.v0.3+json",
}

// Form is how an endorsement is written.
type Form string

// The forms.
const (
	FormBundle    Form = "Sigstore bundle"
	FormEnvelope  Form = "DSSE envelope"
	FormStatement Form = "in-toto statement"
)

// Document is one endorsement as it was read. Nothing of it is judged yet.
type Document struct {
	File    string
	Pointer string // where in the file, a JSON pointer; "" is the whole
	Form    Form
	// Statement is what is said; nil where a bundle signs a file by its digest.
	Statement *Statement
	// Message is the digest of the file that a bundle signs.
	Message digest.Digest

	payload     []byte
	payloadType string // of DSSE; "" where the payload itself is signed
	signatures  []signature
	certificate *x509.Certificate
	chain       []*x509.Certificate // further ones, from the bundle: of no weight
	entries     []entry
	timestamps  int // of RFC 3161, which are counted and not judged
}

type signature struct {
	raw   []byte
	keyID string
}

// Parts are files that lie beside a statement.
type Parts struct {
	SignatureName string
	Signature     []byte // raw, or base64
	LogEntryName  string
	LogEntry      []byte // as Rekor's API gives it
}

// Read reads a file of endorsements: one document, one a line, or a bundle in a
// member sigstoreBundle of a larger one. Errors are *place.Fault.
func Read(name string, data []byte, parts Parts) ([]*Document, error) {
	if len(data) > FileLimit {
		return nil, &place.Fault{Input: "endorsement", Where: place.InFile(name), Found: fmt.Sprintf("%d bytes", len(data)), Want: fmt.Sprintf("at most %d", FileLimit)}
	}
	values, err := parseAll(name, data)
	if err != nil {
		return nil, err
	}
	var docs []*Document
	for i, v := range values {
		r := &reader{file: name}
		at := node{v: v.Value}
		if len(values) > 1 {
			at.path = fmt.Sprintf("line %d", v.line)
		}
		d := r.document(at, v.text)
		if r.err != nil {
			return nil, r.err
		}
		docs = append(docs, d)
		if i >= maxDocuments {
			return nil, &place.Fault{Input: "endorsement", Where: place.InFile(name), Found: "more than 256 documents"}
		}
	}
	if len(parts.Signature)+len(parts.LogEntry) == 0 {
		return docs, nil
	}
	if len(docs) != 1 || docs[0].Form != FormStatement {
		return nil, &place.Fault{Input: "endorsement", Where: place.InFile(name), Found: "a document that has its signature in it", Want: "one in-toto statement, for a signature or log entry beside it"}
	}
	return docs, docs[0].attach(parts)
}

// attach adds what lies beside a statement.
func (d *Document) attach(parts Parts) error {
	if len(parts.Signature) > 0 {
		raw := parts.Signature
		if decoded, err := decodeBase64(strings.TrimSpace(string(raw))); err == nil && len(decoded) > 0 {
			raw = decoded
		}
		if len(raw) > 8<<10 {
			return &place.Fault{Input: "signature", Where: place.InFile(parts.SignatureName), Found: fmt.Sprintf("%d bytes", len(raw)), Want: "a raw signature or its base64"}
		}
		d.signatures = []signature{{raw: raw}}
	}
	if len(parts.LogEntry) == 0 {
		return nil
	}
	v, err := parseOne(parts.LogEntryName, parts.LogEntry)
	if err != nil {
		return err
	}
	r := &reader{file: parts.LogEntryName}
	d.entries = r.apiEntries(node{v: v})
	return r.err
}

// line is a JSON value with its own bytes.
type line struct {
	*jsondoc.Value
	text []byte
	line int
}

// parseAll reads one JSON value, or one a line.
func parseAll(name string, data []byte) ([]line, error) {
	whole, err := parseOne(name, data)
	if err == nil {
		return []line{{whole, data, 1}}, nil
	}
	var out []line
	for i, text := range strings.Split(string(data), "\n") {
		if strings.TrimSpace(text) == "" {
			continue
		}
		if len(out) >= maxDocuments {
			return nil, &place.Fault{Input: "endorsement", Where: place.InFile(name), Found: "more than 256 lines"}
		}
		v, lineErr := parseOne(name, []byte(text))
		if lineErr != nil {
			if len(out) == 0 {
				return nil, err
			}
			return nil, &place.Fault{Input: "endorsement", Where: place.Where{File: name, Line: i + 1}, Err: lineErr}
		}
		out = append(out, line{v, []byte(text), i + 1})
	}
	if len(out) < 2 {
		return nil, err
	}
	return out, nil
}

func parseOne(name string, data []byte) (*jsondoc.Value, error) {
	v, err := jsondoc.Parse(data, jsondoc.Limits{})
	if err != nil {
		return nil, &place.Fault{Input: "endorsement", Where: place.InFile(name), Err: err, Hint: "give a Sigstore bundle, a DSSE envelope or an in-toto statement in JSON"}
	}
	if v.Kind != jsondoc.Object {
		return nil, &place.Fault{Input: "endorsement", Where: place.InFile(name), Found: "a JSON " + v.Kind.String(), Want: "an object"}
	}
	return v, nil
}

// document tells the forms apart by the members that only they have.
func (r *reader) document(n node, text []byte) *Document {
	d := &Document{File: r.file, Pointer: n.path}
	switch {
	case n.has("sigstoreBundle"):
		r.bundle(n.get("sigstoreBundle"), d)
		d.Pointer = n.get("sigstoreBundle").path
	case n.has("mediaType") || n.has("verificationMaterial"):
		r.bundle(n, d)
	case n.has("payloadType") && n.has("signatures"):
		d.Form = FormEnvelope
		r.envelope(n, d)
	case n.has("_type"):
		d.Form, d.payload = FormStatement, text
		d.Statement = r.statement(n)
	default:
		r.fail(n, "no member of an endorsement", "mediaType, payloadType and signatures, or _type")
	}
	return d
}

// bundle reads a Sigstore bundle. A member that is not known could change what
// the others mean, so it is refused.
func (r *reader) bundle(n node, d *Document) {
	d.Form = FormBundle
	if media := r.text(n, "mediaType"); r.err == nil && !slices.Contains(bundleTypes, media) {
		r.fail(n.get("mediaType"), media, strings.Join(bundleTypes, ", "))
	}
	r.known(n, "mediaType", "verificationMaterial", "dsseEnvelope", "messageSignature")
	m := n.get("verificationMaterial")
	r.known(m, "certificate", "x509CertificateChain", "publicKey", "tlogEntries", "timestampVerificationData")
	r.material(m, d)
	switch {
	case n.has("dsseEnvelope") == n.has("messageSignature"):
		r.fail(n, "both or neither of dsseEnvelope and messageSignature", "one of them")
	case n.has("dsseEnvelope"):
		r.envelope(n.get("dsseEnvelope"), d)
	default:
		r.message(n.get("messageSignature"), d)
	}
	if r.err == nil && len(d.signatures) != 1 {
		r.fail(n, fmt.Sprintf("%d signatures", len(d.signatures)), "one, as bundles have")
	}
}

// material reads with what a bundle's signature is verified.
func (r *reader) material(m node, d *Document) {
	kinds := 0
	for _, k := range []string{"certificate", "x509CertificateChain", "publicKey"} {
		if m.has(k) {
			kinds++
		}
	}
	if kinds != 1 {
		r.fail(m, fmt.Sprintf("%d of certificate, x509CertificateChain, publicKey", kinds), "one")
		return
	}
	switch {
	case m.has("certificate"):
		d.certificate = r.certificate(m.get("certificate"))
	case m.has("x509CertificateChain"):
		for i, c := range r.list(m.get("x509CertificateChain"), "certificates", maxEntries) {
			if cert := r.certificate(c); i == 0 {
				d.certificate = cert
			} else {
				d.chain = append(d.chain, cert)
			}
		}
		if r.err == nil && d.certificate == nil {
			r.fail(m.get("x509CertificateChain"), "no certificate", "at least one")
		}
	}
	for _, e := range r.list(m, "tlogEntries", maxEntries) {
		d.entries = append(d.entries, r.bundleEntry(e))
	}
	if t := m.get("timestampVerificationData"); !t.v.IsNull() {
		r.known(t, "rfc3161Timestamps")
		d.timestamps = len(r.list(t, "rfc3161Timestamps", maxEntries))
	}
}

// envelope reads a DSSE envelope (secure-systems-lab/dsse, envelope.md).
func (r *reader) envelope(n node, d *Document) {
	r.known(n, "payload", "payloadType", "signatures")
	d.payload, d.payloadType = r.base64(n, "payload"), r.text(n, "payloadType")
	for _, s := range r.list(n, "signatures", maxEntries) {
		d.signatures = append(d.signatures, signature{raw: r.base64(s, "sig"), keyID: r.optional(s, "keyid")})
		if s.has("cert") && d.certificate == nil {
			d.certificate = r.pemCertificate(s, "cert")
		}
	}
	switch {
	case r.err != nil:
	case len(d.payload) == 0 || len(d.signatures) == 0:
		r.fail(n, "an empty payload, or no signature", "both")
	case d.payloadType != payloadInToto:
		r.fail(n.get("payloadType"), d.payloadType, payloadInToto)
	default:
		v, err := parseOne(r.file, d.payload)
		if err != nil {
			r.err = err
			return
		}
		d.Statement = r.statement(node{v: v, path: n.path + "/payload"})
	}
}

// message reads a signature over a file.
func (r *reader) message(n node, d *Document) {
	r.known(n, "messageDigest", "signature")
	m := n.get("messageDigest")
	d.signatures = []signature{{raw: r.base64(n, "signature")}}
	d.Message = r.namedDigest(m, r.text(m, "algorithm"), r.base64(m, "digest"))
}

// Signer is the certificate with whose key it was signed; nil: a bare key.
func (d *Document) Signer() *x509.Certificate { return d.certificate }
