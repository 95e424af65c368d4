package oms

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Trust is whose signatures count.
type Trust struct {
	Keys  []*ecdsa.PublicKey
	Roots []*x509.Certificate
	// Bundle judges what this package does not, such as keyless signatures:
	// who signed the payload of a Sigstore bundle. nil: they are not judged.
	Bundle func(bundle []byte) (signer string, err error)
}

// A Signer is who made a valid signature.
type Signer struct {
	Name string // "key …" by the SHA-256 of its PEM form, or a certificate's subject
	Note string // what restricts it, "" for nothing
}

// NotJudgedError says why a signature was neither valid nor invalid.
type NotJudgedError struct{ Reason string }

func (e *NotJudgedError) Error() string { return "the signature was not judged: " + e.Reason }

// SignatureError says why a signature does not count.
type SignatureError struct{ Reason string }

func (e *SignatureError) Error() string { return "the signature does not hold: " + e.Reason }

// Verify says who signed the statement.
func (s *Signature) Verify(t Trust) (Signer, error) {
	for _, k := range t.Keys {
		if form, ok := s.signed(k); ok {
			id := KeyID(k)
			if s.Hint != "" && s.Hint != id {
				return Signer{}, &SignatureError{fmt.Sprintf("it is by key %s, and the file says it is by %.80q", id, s.Hint)}
			}
			return Signer{"key " + id, form}, nil
		}
	}
	switch {
	case s.Material == ByChain && len(t.Roots) > 0:
		return s.chain(t.Roots)
	case s.Material == ByKeyless && t.Bundle != nil:
		name, err := t.Bundle(s.Raw)
		return Signer{Name: name}, err
	case s.Material == ByKeyless:
		return Signer{}, &NotJudgedError{"it is keyless: its certificate is of minutes, and only a log says when it was made"}
	case len(t.Keys)+len(t.Roots) > 0:
		return Signer{}, &SignatureError{"it is by none of the given keys" + s.hint()}
	case s.Material == ByKey:
		return Signer{}, &NotJudgedError{"no key was given" + s.hint()}
	}
	return Signer{}, &NotJudgedError{fmt.Sprintf("no root was given for the certificate of %s", subject(s.Chain[0]))}
}

func (s *Signature) hint() string {
	if s.Hint == "" {
		return ""
	}
	return fmt.Sprintf("; the file says it is by %.80q", s.Hint)
}

// chain checks a certificate and what it signed. No time is signed, so the
// certificate is judged at its own begin, as the reference program does.
func (s *Signature) chain(trusted []*x509.Certificate) (Signer, error) {
	leaf := s.Chain[0]
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range trusted {
		roots.AddCert(c)
	}
	for _, c := range s.Chain[1:] {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: leaf.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return Signer{}, &SignatureError{fmt.Sprintf("the certificate of %s does not lead to a given root: %v", subject(leaf), err)}
	}
	if leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageCodeSigning) {
		return Signer{}, &SignatureError{fmt.Sprintf("the certificate of %s is not for signing", subject(leaf))}
	}
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return Signer{}, &SignatureError{fmt.Sprintf("the certificate of %s has a key of %s, want one of an elliptic curve", subject(leaf), leaf.PublicKeyAlgorithm)}
	}
	form, ok := s.signed(key)
	if !ok {
		return Signer{}, &SignatureError{fmt.Sprintf("it is not by the key of %s", subject(leaf))}
	}
	note := fmt.Sprintf("certificate of %s to %s, judged at its begin because no time is signed", leaf.NotBefore.UTC().Format(time.DateOnly), leaf.NotAfter.UTC().Format(time.DateOnly))
	if form != "" {
		note += "; " + form
	}
	return Signer{subject(leaf), note}, nil
}

func subject(c *x509.Certificate) string {
	name := c.Subject.String()
	if name == "" {
		name = "serial " + c.SerialNumber.String()
	}
	sum := sha256.Sum256(c.Raw)
	return fmt.Sprintf("%.200q (certificate sha256:%x)", name, sum)
}

// signed reports whether a key made the signature, and in which old form.
func (s *Signature) signed(k *ecdsa.PublicKey) (form string, ok bool) {
	now, err := curveHash(k, s.pae())
	if err != nil {
		return "", false
	}
	if ecdsa.VerifyASN1(k, now, s.sig) {
		return "", true
	}
	// Before v1.0 something else was signed, which holds the same payload.
	const old = "signed in the form of model_signing before v1.0"
	before := s.paeBefore()
	sum := sha256.Sum256(before)
	other, err := curveHash(k, before)
	if err == nil && ecdsa.VerifyASN1(k, other, s.sig) || ecdsa.VerifyASN1(k, sum[:], s.sig) {
		return old, true
	}
	return "", false
}

// curveHash hashes with the function that belongs to a key's curve.
func curveHash(k *ecdsa.PublicKey, b []byte) ([]byte, error) {
	switch k.Curve {
	case elliptic.P256():
		sum := sha256.Sum256(b)
		return sum[:], nil
	case elliptic.P384():
		sum := sha512.Sum384(b)
		return sum[:], nil
	case elliptic.P521():
		sum := sha512.Sum512(b)
		return sum[:], nil
	}
	return nil, errors.New("is on another curve than P-256, P-384 and P-521")
}

// pae is what a DSSE signature is over (DSSE protocol, "Signature Definition").
func (s *Signature) pae() []byte {
	return append(fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(payloadType), payloadType, len(s.payload)), s.payload...)
}

// paeBefore is what releases before v1.0 signed: the payload as Python prints
// bytes.
func (s *Signature) paeBefore() []byte {
	return append(fmt.Appendf(nil, "DSSEV1 %d %s %d ", len(payloadType), payloadType, len(s.payload)), pythonBytes(s.payload)...)
}

// pythonBytes writes bytes as repr does (Python, "Bytes Objects").
func pythonBytes(b []byte) []byte {
	quote := byte('\'')
	if strings.ContainsRune(string(b), '\'') && !strings.ContainsRune(string(b), '"') {
		quote = '"'
	}
	out := []byte{'b', quote}
	for _, c := range b {
		switch {
		case c == quote || c == '\\':
			out = append(out, '\\', c)
		case c == '\t':
			out = append(out, `\t`...)
		case c == '\n':
			out = append(out, `\n`...)
		case c == '\r':
			out = append(out, `\r`...)
		case c < ' ' || c >= 0x7f:
			out = fmt.Appendf(out, `\x%02x`, c)
		default:
			out = append(out, c)
		}
	}
	return append(out, quote)
}

// KeyID is how signature files call a key: SHA-256 of its PEM form, in hex.
func KeyID(k *ecdsa.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	return hex.EncodeToString(sum[:])
}

// ParseTrust reads PEM files of public keys and of certificates that are roots.
func ParseTrust(name string, data []byte, t *Trust) error {
	if !utf8.Valid(data) {
		return fmt.Errorf("%s: is no PEM file", name)
	}
	n := 0
	for rest := data; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch block.Type {
		case "PUBLIC KEY":
			key, err := x509.ParsePKIXPublicKey(block.Bytes)
			if err != nil {
				return fmt.Errorf("%s: block %d: %w", name, n+1, err)
			}
			ec, ok := key.(*ecdsa.PublicKey)
			if !ok {
				return fmt.Errorf("%s: block %d: is a %T, want a key of an elliptic curve", name, n+1, key)
			}
			if _, err := curveHash(ec, nil); err != nil {
				return fmt.Errorf("%s: block %d: %w", name, n+1, err)
			}
			t.Keys = append(t.Keys, ec)
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return fmt.Errorf("%s: block %d: %w", name, n+1, err)
			}
			t.Roots = append(t.Roots, c)
		default:
			return fmt.Errorf("%s: block %d: is a %.40q, want PUBLIC KEY or CERTIFICATE", name, n+1, block.Type)
		}
	}
	if n == 0 {
		return fmt.Errorf("%s: holds no PEM block, want PUBLIC KEY or CERTIFICATE", name)
	}
	return nil
}
