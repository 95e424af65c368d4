// Package certs reads the certificate chains that attestation evidence carries
// and follows them to an anchor at a stated time. It is stricter than the
// standard library's reader of PEM, so that no byte of a chain but its line
// breaks can be changed without a verdict, and it never looks at the system's
// trust store.
package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"time"

	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/internal/digest"
)

// Limits of a chain. Intel's hold 3 certificates in 4 KiB, NVIDIA's 5 in 5 KiB.
const (
	MaxChainBytes   = 64 << 10
	MaxCertificates = 16
)

var (
	pemBegin = []byte("-----BEGIN CERTIFICATE-----")
	pemEnd   = []byte("-----END CERTIFICATE-----")
)

// ReadPEM reads certificates in PEM (RFC 7468), in the order of the text. Only
// line breaks may stand between the blocks, and line breaks and NUL bytes at
// the end: real TDX quotes end with a NUL. Base64 must be canonical. name is
// the input in errors.
func ReadPEM(name string, text []byte) ([]*x509.Certificate, error) {
	fail := func(at int, found, want string) error {
		return &malformed.Error{Input: name, Place: malformed.Offset(at), Field: "PEM certificate chain", Found: found, Want: want}
	}
	if len(text) > MaxChainBytes {
		return nil, fail(0, fmt.Sprintf("%d bytes", len(text)), fmt.Sprintf("at most %d", MaxChainBytes))
	}
	var chain []*x509.Certificate
	rest := text
	for {
		rest = bytes.TrimLeft(rest, "\r\n")
		at := len(text) - len(rest)
		if len(bytes.Trim(rest, "\x00\r\n")) == 0 {
			break
		}
		if !bytes.HasPrefix(rest, pemBegin) {
			return nil, fail(at, quote(rest), string(pemBegin))
		}
		if len(chain) == MaxCertificates {
			return nil, fail(at, "one certificate more", fmt.Sprintf("at most %d", MaxCertificates))
		}
		body := rest[len(pemBegin):]
		end := bytes.Index(body, pemEnd)
		if end < 0 {
			return nil, fail(at, "a block without an end", string(pemEnd))
		}
		der, err := strictBase64(body[:end])
		if err != nil {
			return nil, fail(at, err.Error(), "canonical base64")
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fail(at, "certificate "+strconv.Itoa(len(chain)+1)+": "+err.Error(), "a DER certificate (RFC 5280)")
		}
		chain = append(chain, cert)
		rest = body[end+len(pemEnd):]
		if len(rest) > 0 && rest[0] != '\n' && rest[0] != '\r' && rest[0] != 0 {
			return nil, fail(len(text)-len(rest), quote(rest), "a line break after a certificate")
		}
	}
	if len(chain) == 0 {
		return nil, fail(0, "no certificate", string(pemBegin))
	}
	return chain, nil
}

// strictBase64 ignores line breaks and nothing else, and refuses spare bits.
func strictBase64(text []byte) ([]byte, error) {
	out := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(out, text)
	return out[:n], err
}

func quote(b []byte) string { return strconv.Quote(string(b[:min(len(b), 32)])) }

// Anchors are the ends that a chain may have: certificates that are known in
// full, or SHA-256 digests of the DER of root certificates that the evidence
// carries itself.
type Anchors struct {
	Certificates []*x509.Certificate
	SHA256       []digest.Digest
}

// Has reports whether c is an anchor, byte by byte.
func (a Anchors) Has(c *x509.Certificate) bool {
	return slices.ContainsFunc(a.Certificates, c.Equal) || slices.Contains(a.SHA256, digest.SHA256.Sum(c.Raw))
}

// Error says at which certificate of a chain the way to the anchor ends.
type Error struct {
	Index   int    // 0 is the leaf
	Subject string // its subject, as RFC 4514 writes it
	Reason  string
}

func (e *Error) Error() string {
	return fmt.Sprintf("certificate %d (%s): %s", e.Index+1, e.Subject, e.Reason)
}

// Rules bound what a chain may be made of.
type Rules struct {
	At        time.Time
	Curve     elliptic.Curve          // of every key
	Signature x509.SignatureAlgorithm // of every certificate
	// Depth is how many certificates the way has, both ends counted and the
	// anchor among them where the chain leaves it out; 0: any number from 2 on.
	Depth int
	// CA says that the first certificate signs certificates and revocation
	// lists. Otherwise it must be none that could.
	CA bool
}

// Verify follows a chain, leaf first, to an anchor: every certificate is valid
// at the time, is signed by the next one, which is a CA that may sign, and the
// last one is an anchor or signed by one. The order is the chain's own; nothing
// is searched or left out, no certificate is there twice, and only the anchor
// may name itself as its issuer (RFC 5280 section 6, without policies and names,
// which these chains do not use). It returns the way with the anchor as its end.
func Verify(chain []*x509.Certificate, anchors Anchors, rules Rules) ([]*x509.Certificate, error) {
	path, err := toAnchor(chain, anchors)
	if err != nil {
		return nil, err
	}
	if err := shape(path, rules); err != nil {
		return nil, err
	}
	for i, c := range path {
		if reason := defect(c, i, rules); reason != "" {
			return nil, &Error{i, c.Subject.String(), reason}
		}
	}
	for i, c := range path[:len(path)-1] {
		parent := path[i+1]
		if !bytes.Equal(c.RawIssuer, parent.RawSubject) {
			return nil, &Error{i, c.Subject.String(), "its issuer is " + c.Issuer.String() + ", the next certificate is " + parent.Subject.String()}
		}
		if err := c.CheckSignatureFrom(parent); err != nil {
			return nil, &Error{i, c.Subject.String(), "its signature does not verify with the next certificate's key: " + err.Error()}
		}
	}
	return path, nil
}

// toAnchor completes a chain by its anchor.
func toAnchor(chain []*x509.Certificate, anchors Anchors) ([]*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, &Error{Reason: "the chain is empty"}
	}
	path := slices.Clone(chain)
	last := path[len(path)-1]
	if !anchors.Has(last) {
		if bytes.Equal(last.RawSubject, last.RawIssuer) {
			return nil, &Error{len(path) - 1, last.Subject.String(), "is a root that is not trusted, its SHA-256 is " + digest.SHA256.Sum(last.Raw).Hex()}
		}
		i := slices.IndexFunc(anchors.Certificates, func(a *x509.Certificate) bool { return bytes.Equal(a.RawSubject, last.RawIssuer) })
		if i < 0 {
			return nil, &Error{len(path) - 1, last.Subject.String(), "its issuer " + last.Issuer.String() + " is no trusted root"}
		}
		path = append(path, anchors.Certificates[i])
	}
	return path, nil
}

// shape refuses loops and ways of another length. A root that stands in a chain
// twice, or alone, would vouch for itself.
func shape(path []*x509.Certificate, rules Rules) error {
	end := len(path) - 1
	if end == 0 {
		return &Error{0, path[0].Subject.String(), "is the root itself, which signs certificates and nothing else"}
	}
	for i, c := range path {
		if j := slices.IndexFunc(path[:i], c.Equal); j >= 0 {
			return &Error{i, c.Subject.String(), fmt.Sprintf("is certificate %d again", j+1)}
		}
	}
	for i, c := range path[:end] {
		if bytes.Equal(c.RawSubject, c.RawIssuer) {
			return &Error{i, c.Subject.String(), "names itself as its issuer, but is not the root at the end of the chain"}
		}
	}
	if rules.Depth != 0 && len(path) != rules.Depth {
		return &Error{0, path[0].Subject.String(), fmt.Sprintf("is %d certificates away from the root, want %d", end, rules.Depth-1)}
	}
	return nil
}

// defect says what is wrong with certificate i alone; the anchor's own
// signature is not looked at, because the anchor is known byte by byte.
func defect(c *x509.Certificate, i int, rules Rules) string {
	switch {
	case rules.At.Before(c.NotBefore):
		return "is valid from " + stamp(c.NotBefore) + ", the time asked for is " + stamp(rules.At)
	case rules.At.After(c.NotAfter):
		return "was valid until " + stamp(c.NotAfter) + ", the time asked for is " + stamp(rules.At)
	case c.SignatureAlgorithm != rules.Signature:
		return "is signed with " + c.SignatureAlgorithm.String() + ", want " + rules.Signature.String()
	}
	if key, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != rules.Curve {
		return "has no ECDSA key on " + rules.Curve.Params().Name
	}
	if id := unprocessed(c); id != "" {
		return "has the critical extension " + id + ", which is not processed here"
	}
	if i == 0 && !rules.CA {
		switch {
		case c.IsCA || c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
			return "is a CA, which signs certificates and nothing else"
		case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageDigitalSignature == 0:
			return "may not sign (key usage)"
		}
		return ""
	}
	below := max(0, i-1) // the first certificate of a way is never counted
	switch {
	case !c.BasicConstraintsValid || !c.IsCA:
		return "is no CA, but signs"
	case c.KeyUsage&x509.KeyUsageCertSign == 0:
		return "may not sign certificates (key usage)"
	case (c.MaxPathLen > 0 || c.MaxPathLenZero) && below > c.MaxPathLen:
		return fmt.Sprintf("may have %d CA certificates below it, has %d", c.MaxPathLen, below)
	}
	return ""
}

// unprocessed names a critical extension whose meaning does not go into the
// verdict: RFC 5280 section 4.2 wants the certificate refused then. Key usage and
// basic constraints do go in; the standard library's list of what it has not
// handled says nothing, because its own path building is not used.
func unprocessed(c *x509.Certificate) string {
	for _, e := range c.Extensions {
		if e.Critical && !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 15}) && !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 19}) {
			return e.Id.String()
		}
	}
	return ""
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// VerifyRaw checks an ECDSA signature in the form r || s, both big-endian and of
// the curve's size, over a digest.
func VerifyRaw(key *ecdsa.PublicKey, sum, signature []byte) bool {
	size := (key.Curve.Params().BitSize + 7) / 8
	if len(signature) != 2*size {
		return false
	}
	r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
	return ecdsa.Verify(key, sum, r, s)
}
