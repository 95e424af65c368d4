package evidence

import (
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/dstackattest"
	"github.com/retally/retally/evidence/tdxquote"
)

// dstack's extensions of RA-TLS certificates (dstack, crate ra-tls, oids): the
// quote, the event log beside it, and the versioned attestation that came after
// them. Each value is an OCTET STRING within the extension's own.
const (
	oidQuote       = "1.3.6.1.4.1.62397.1.1"
	oidEventLog    = "1.3.6.1.4.1.62397.1.2"
	oidAttestation = "1.3.6.1.4.1.62397.1.8"
)

// logMagic stands before an event log that is compressed with gzip; maxLog bounds
// what it unpacks to, in bytes. dstack itself stops at 16 KiB.
const (
	logMagic = "ELGZv1"
	maxLog   = 1 << 20
)

// readCertificates takes the evidence out of certificates in PEM or DER: RA-TLS
// certificates vouch for their own key by a quote. The first one must be the
// machine's; the ones behind it are its issuers, and another quote in them is
// another machine's.
func (b *Bundle) readCertificates(chain []*x509.Certificate) error {
	for i, c := range chain {
		found, err := b.certificateEvidence(c)
		if err != nil {
			return err
		}
		if found == nil {
			continue
		}
		if i > 0 {
			return &ForeignError{b.Name, fmt.Sprintf("a quote in certificate %d, which is an issuer's", i+1), "whose it is cannot be said: give the certificate with the quote alone"}
		}
		if err := b.take(*found); err != nil {
			return err
		}
		b.Holder = c
	}
	if b.Holder == nil {
		return errNoQuote
	}
	return nil
}

// errNoQuote says that certificates hold no evidence.
var errNoQuote = errors.New("a certificate without a quote in it")

// certificateEvidence finds the evidence in one certificate, nil if there is none.
func (b *Bundle) certificateEvidence(c *x509.Certificate) (*find, error) {
	var out *find
	var log []byte
	for _, e := range c.Extensions {
		value := e.Value
		var inner []byte
		if rest, err := asn1.Unmarshal(value, &inner); err == nil && len(rest) == 0 {
			value = inner
		}
		place := "the certificate's extension " + e.Id.String()
		var f *find
		var err error
		switch id := e.Id.String(); {
		case id == oidEventLog:
			if log, err = unpackLog(value); err != nil {
				return nil, malformedFile(b.Name, place, err.Error(), "dstack's event log")
			}
			continue
		case id == oidAttestation:
			if !dstackattest.Recognize(value) {
				return nil, malformedFile(b.Name, place, fmt.Sprintf("%d bytes beginning with %x", len(value), value[:min(8, len(value))]), "a dstack attestation")
			}
			fallthrough
		default:
			if f, err = bytesFind(b.Name, place, value); err != nil {
				return nil, err
			}
		}
		switch {
		case f == nil && e.Id.String() == oidQuote:
			return nil, malformedFile(b.Name, place, fmt.Sprintf("%d bytes beginning with %x", len(value), value[:min(8, len(value))]), "a TDX quote")
		case f == nil || f.beside != "":
		case out != nil && !out.same(f):
			return nil, ambiguous(b.Name, out, f)
		case out == nil || out.log == nil:
			out = f
		}
	}
	if out != nil && out.log == nil {
		out.log = log
	}
	return out, nil
}

func unpackLog(data []byte) ([]byte, error) {
	packed, ok := bytes.CutPrefix(data, []byte(logMagic))
	if !ok {
		return data, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(z, maxLog+1))
	if err == nil && len(out) > maxLog {
		err = fmt.Errorf("more than %d bytes", maxLog)
	}
	return out, err
}

// parseCertificates reads PEM, strictly, or DER. PEM of anything else is no
// certificate.
func parseCertificates(name string, data []byte) ([]*x509.Certificate, error) {
	if len(data) > maxCertificates {
		return nil, malformedFile(name, "", fmt.Sprintf("%d bytes", len(data)), fmt.Sprintf("certificates of at most %d", maxCertificates))
	}
	if !isPEM(data) {
		c, err := x509.ParseCertificate(data)
		if err != nil {
			return nil, err
		}
		return []*x509.Certificate{c}, nil
	}
	var out []*x509.Certificate
	for rest := data; len(bytes.TrimSpace(rest)) > 0; {
		block, after := pem.Decode(rest)
		if block == nil {
			return nil, malformedFile(name, "", "text between or behind PEM blocks", "certificates in PEM")
		}
		rest = after
		if block.Type != "CERTIFICATE" || len(out) == certs.MaxCertificates {
			return nil, malformedFile(name, "", fmt.Sprintf("a PEM block %.40q", block.Type), fmt.Sprintf("at most %d certificates", certs.MaxCertificates))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// maxCertificates bounds certificates that hold evidence, in bytes.
const maxCertificates = 1 << 20

// pemBody undoes PEM around something that is no certificate: a block of any other
// type, or base64 between lines that begin with dashes.
func pemBody(name string, text []byte) ([]byte, error) {
	block, rest := pem.Decode(text)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, malformedFile(name, "", "PEM that cannot be read, or more than one block", "one block")
	}
	if strings.Contains(block.Type, "KEY") {
		return nil, malformedFile(name, "", fmt.Sprintf("a PEM block %.40q", block.Type), "evidence")
	}
	if len(block.Bytes) > tdxquote.MaxSize {
		return nil, malformedFile(name, "", fmt.Sprintf("%d bytes", len(block.Bytes)), fmt.Sprintf("at most %d", tdxquote.MaxSize))
	}
	return block.Bytes, nil
}
