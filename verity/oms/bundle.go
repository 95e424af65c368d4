// Package oms reads OpenSSF Model Signing files (model.sig, v0.2 to v1.1): who
// signed which content of a model's files. The signature is a Sigstore bundle
// around a DSSE envelope around an in-toto statement, which lists digests of
// files or of shards of files.
package oms

import (
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"

	"github.com/retally/retally/internal/jsondoc"
)

// MaxSize bounds a signature file: some 400,000 resources.
const MaxSize = 64 << 20

const payloadType = "application/vnd.in-toto+json"

// mediaTypes are the bundle forms whose members are those read here (Sigstore
// bundle format, "media type").
var mediaTypes = []string{
	"application/vnd.dev.sigstore.bundle.v0.3+json",
	"application/vnd.dev.sigstore.bundle+json;version=0.3",
	"application/vnd.dev.sigstore.bundle+json;version=0.2",
	"application/vnd.dev.sigstore.bundle+json;version=0.1",
}

// Material is what a bundle gives to check its signature with.
type Material string

// The materials.
const (
	ByKey     Material = "key"         // a hint which key it is
	ByChain   Material = "certificate" // a certificate and those above it
	ByKeyless Material = "keyless"     // a certificate of Sigstore's, for minutes
)

// A Signature is a signature file that was read. Nothing in it is believed
// before Verify.
type Signature struct {
	Raw       []byte // the file
	Material  Material
	Hint      string              // of a key: SHA-256 of its PEM form, hex; may be empty
	Chain     []*x509.Certificate // the signer's first
	Statement *Statement

	payload, sig []byte
}

// ParseError is a signature file that cannot be read.
type ParseError struct {
	Name    string
	Line    int    // in the file; in the payload where Payload is set; 0 unknown
	Payload bool   // the fault lies in the signed statement
	Pointer string // JSON pointer
	Msg     string
}

func (e *ParseError) Error() string {
	in := "model signature"
	if e.Payload {
		in = "statement of model signature"
	}
	s := fmt.Sprintf("%s %s: ", in, e.Name)
	if e.Line > 0 {
		s += fmt.Sprintf("line %d, ", e.Line)
	}
	return s + fmt.Sprintf("%s: %s", e.Pointer, e.Msg)
}

// doc is one JSON document with its name in errors.
type doc struct {
	name    string
	data    []byte
	payload bool
}

func (d *doc) parse() (*jsondoc.Value, error) {
	v, err := jsondoc.Parse(d.data, jsondoc.Limits{Bytes: MaxSize, Depth: 32, Values: 4_000_000})
	if err != nil {
		return nil, &ParseError{Name: d.name, Payload: d.payload, Pointer: "/", Msg: err.Error()}
	}
	return v, nil
}

func (d *doc) fail(v *jsondoc.Value, pointer, format string, args ...any) error {
	e := &ParseError{Name: d.name, Payload: d.payload, Pointer: pointer, Msg: fmt.Sprintf(format, args...)}
	if v != nil {
		e.Line, _ = jsondoc.Position(d.data, v.Offset)
	}
	return e
}

// member asks for a member of a kind.
func (d *doc) member(v *jsondoc.Value, at, key string, kind jsondoc.Kind) (*jsondoc.Value, error) {
	m := v.Get(key)
	if m == nil {
		return nil, d.fail(v, at+"/"+key, "is missing")
	}
	if m.Kind != kind {
		return nil, d.fail(m, at+"/"+key, "is %s, want %s", m.Kind, kind)
	}
	return m, nil
}

func (d *doc) bytes(v *jsondoc.Value, at, key string) ([]byte, error) {
	m, err := d.member(v, at, key, jsondoc.String)
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.Strict().DecodeString(m.Text)
	if err != nil || len(b) == 0 {
		return nil, d.fail(m, at+"/"+key, "is no base64")
	}
	return b, nil
}

// Parse reads a signature file.
func Parse(name string, data []byte) (*Signature, error) {
	d := &doc{name: name, data: data}
	root, err := d.parse()
	if err != nil {
		return nil, err
	}
	if root.Kind != jsondoc.Object {
		return nil, d.fail(root, "/", "is %s, want a Sigstore bundle", root.Kind)
	}
	media, err := d.member(root, "", "mediaType", jsondoc.String)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(mediaTypes, media.Text) {
		return nil, d.fail(media, "/mediaType", "is %.100q, which is not known; known is %s", media.Text, mediaTypes[0])
	}
	s := &Signature{Raw: data}
	if err := s.material(d, root); err != nil {
		return nil, err
	}
	if err := s.envelope(d, root); err != nil {
		return nil, err
	}
	s.Statement, err = parseStatement(name, s.payload)
	return s, err
}

// material reads which key made the signature, by one of three ways.
func (s *Signature) material(d *doc, root *jsondoc.Value) error {
	const at = "/verificationMaterial"
	m, err := d.member(root, "", "verificationMaterial", jsondoc.Object)
	if err != nil {
		return err
	}
	n := 0
	for _, key := range []string{"publicKey", "x509CertificateChain", "certificate"} {
		v := m.Get(key)
		if v.IsNull() {
			continue
		}
		n++
		if v.Kind != jsondoc.Object {
			return d.fail(v, at+"/"+key, "is %s, want an object", v.Kind)
		}
		certs := []*jsondoc.Value{v}
		switch key {
		case "publicKey":
			s.Material, certs = ByKey, nil
			if h := v.Get("hint"); !h.IsNull() {
				if h.Kind != jsondoc.String {
					return d.fail(h, at+"/publicKey/hint", "is %s, want text", h.Kind)
				}
				s.Hint = h.Text
			}
		case "certificate":
			s.Material = ByKeyless
		default:
			s.Material = ByChain
			list, err := d.member(v, at+"/"+key, "certificates", jsondoc.Array)
			if err != nil {
				return err
			}
			if certs = list.Elems; len(certs) == 0 || len(certs) > 16 {
				return d.fail(list, at+"/"+key+"/certificates", "has %d entries, want 1 to 16", len(certs))
			}
		}
		for i, c := range certs {
			p := at + "/" + key
			if key == "x509CertificateChain" {
				p = fmt.Sprintf("%s/certificates/%d", p, i)
			}
			if c.Kind != jsondoc.Object {
				return d.fail(c, p, "is %s, want an object", c.Kind)
			}
			der, err := d.bytes(c, p, "rawBytes")
			if err != nil {
				return err
			}
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return d.fail(c, p+"/rawBytes", "is no certificate: %v", err)
			}
			s.Chain = append(s.Chain, cert)
		}
	}
	if n != 1 {
		return d.fail(m, at, "has %d of publicKey, x509CertificateChain and certificate, want one", n)
	}
	return nil
}

func (s *Signature) envelope(d *doc, root *jsondoc.Value) error {
	const at = "/dsseEnvelope"
	e, err := d.member(root, "", "dsseEnvelope", jsondoc.Object)
	if err != nil {
		return err
	}
	typ, err := d.member(e, at, "payloadType", jsondoc.String)
	if err != nil {
		return err
	}
	if typ.Text != payloadType {
		return d.fail(typ, at+"/payloadType", "is %.100q, want %s", typ.Text, payloadType)
	}
	if s.payload, err = d.bytes(e, at, "payload"); err != nil {
		return err
	}
	sigs, err := d.member(e, at, "signatures", jsondoc.Array)
	if err != nil {
		return err
	}
	// One of several could be anybody's.
	if len(sigs.Elems) != 1 || sigs.Elems[0].Kind != jsondoc.Object {
		return d.fail(sigs, at+"/signatures", "has %d entries, want one signature", len(sigs.Elems))
	}
	s.sig, err = d.bytes(sigs.Elems[0], at+"/signatures/0", "sig")
	return err
}
