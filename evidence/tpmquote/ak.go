package tpmquote

import (
	"bytes"
	"crypto"
	"crypto/x509"
	_ "embed"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/internal/digest"
)

// Provider names whose TPM it is.
type Provider string

// The providers whose certificates have rules of their own.
const (
	Azure Provider = "azure"
	GCP   Provider = "gcp"
	AWS   Provider = "aws"
	Other Provider = "other" // a vendor of TPMs, or a CA of the caller's
)

// Root is where the chain of an attestation key may end.
type Root struct {
	Provider    Provider
	Certificate *x509.Certificate
}

// azureRoot is "Azure Virtual TPM Root Certificate Authority 2023", as Microsoft
// publishes it ("Trusted Launch FAQ": certificates of the virtual TPM) and as
// BlindLlama's client carries it. Its SHA-256 is e6c596b1…0e95.
//
//go:embed azure_virtual_tpm_root_2023.pem
var azureRoot []byte

// AzureRoot is the root of Azure's virtual TPMs that is built in. Google's
// (subject "EK/AK CA Root") and others must be given: no published copy was at
// hand that can be checked, and AWS issues no certificates for the keys of its
// NitroTPM.
func AzureRoot() (*x509.Certificate, error) {
	chain, err := certs.ReadPEM("built-in Azure root", azureRoot)
	if err != nil {
		return nil, err
	}
	return chain[0], nil
}

// builtIn are the roots that count where the caller gives none.
func builtIn() ([]Root, error) {
	c, err := AzureRoot()
	if err != nil {
		return nil, err
	}
	return []Root{{Azure, c}}, nil
}

// Extended key usages of TPM certificates (TCG, "EK Credential Profile" and
// "Attestation Identity Key certificate profile").
func ekUsage() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 23, 133, 8, 1} }
func akUsage() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 23, 133, 8, 3} }

// AK is an attestation key and what came with it.
type AK struct {
	Key    crypto.PublicKey
	Public *Public             // where the TPM's own description is known
	Chain  []*x509.Certificate // leaf first, then any that lead upwards
}

// ParseAK reads an attestation key as tools write it: certificates or a public
// key in PEM, a certificate in DER, TPM2B_PUBLIC or TPMT_PUBLIC. name is the file
// in errors.
func ParseAK(name string, data []byte) (*AK, error) {
	k, err := parseAK(name, data)
	if err != nil {
		return nil, err
	}
	if err := checkKey(k.Key); err != nil { // the standard library leaves out keys that it does not know
		return nil, &malformed.Error{Input: name, Field: "attestation key", Found: err.Error(), Want: "RSA of at least 2048 bits, P-256 or P-384"}
	}
	return k, nil
}

func parseAK(name string, data []byte) (*AK, error) {
	if len(data) > certs.MaxChainBytes {
		return nil, &malformed.Error{Input: name, Field: "size", Found: fmt.Sprintf("%d bytes", len(data)), Want: fmt.Sprintf("at most %d", certs.MaxChainBytes)}
	}
	switch {
	case bytes.HasPrefix(data, []byte("-----BEGIN CERTIFICATE-----")):
		chain, err := certs.ReadPEM(name, data)
		if err != nil {
			return nil, err
		}
		return &AK{Key: chain[0].PublicKey, Chain: chain}, nil
	case bytes.HasPrefix(data, []byte("-----BEGIN")):
		block, rest := pem.Decode(data)
		if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
			return nil, &malformed.Error{Input: name, Field: "PEM", Found: "no single block PUBLIC KEY", Want: "one block PUBLIC KEY, or certificates"}
		}
		return spki(name, block.Bytes)
	case len(data) > 0 && data[0] == 0x30:
		if c, err := x509.ParseCertificate(data); err == nil {
			return &AK{Key: c.PublicKey, Chain: []*x509.Certificate{c}}, nil
		}
		return spki(name, data)
	}
	p, err := ParsePublic(name, data)
	if err != nil {
		return nil, err
	}
	return &AK{Key: p.Key, Public: p}, nil
}

func spki(name string, der []byte) (*AK, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, &malformed.Error{Input: name, Field: "SubjectPublicKeyInfo", Found: err.Error(), Want: "a public key (RFC 5280)"}
	}
	return &AK{Key: key}, nil
}

// SameKey compares public keys by what they are.
func SameKey(a, b crypto.PublicKey) bool { return sameKey(a, b) }

// sameKey compares public keys by what they are.
func sameKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && b != nil && k.Equal(b)
}

// IssuerError says that a chain ends before a root that is trusted: whether the
// key is a TPM's is then not known, rather than wrong.
type IssuerError struct {
	Subject, Issuer string // of the last certificate, as RFC 4514 writes them
	Root            bool   // it is a root itself, which nobody vouches for
	SHA256          string // then its digest
}

func (e *IssuerError) Error() string {
	if e.Root {
		return "the chain ends in the root " + e.Subject + " (SHA-256 " + e.SHA256 + "), which is not among those trusted"
	}
	return "the issuer of " + e.Subject + " is " + e.Issuer + ", which is neither with the evidence nor among the roots trusted"
}

const maxPath = 8

// checkRoots refuses roots of the caller's that are none.
func checkRoots(roots []Root) error {
	if roots != nil && len(roots) == 0 {
		return errors.New("the list of roots is empty")
	}
	for i, r := range roots {
		if r.Certificate == nil {
			return fmt.Errorf("root %d (%s) has no certificate", i+1, r.Provider)
		}
	}
	return nil
}

// FollowChain finds the way from an attestation key's certificate through others
// to a root, and checks it: validity at the time, strong signatures, authorities
// that may sign, key usage, and the extended key usage by which the root's
// provider marks attestation keys. roots nil: those built in. An *IssuerError
// says that a certificate or root is missing.
func FollowChain(leaf *x509.Certificate, others []*x509.Certificate, roots []Root, at time.Time) ([]*x509.Certificate, *Root, error) {
	if roots == nil {
		var err error
		if roots, err = builtIn(); err != nil {
			return nil, nil, err
		}
	}
	if err := checkRoots(roots); err != nil {
		return nil, nil, fmt.Errorf("follow the chain of an attestation key: %w", err)
	}
	// Of two certificates of one authority the one that is valid is tried first.
	pool := slices.Clone(others)
	slices.SortStableFunc(pool, func(a, b *x509.Certificate) int { return outside(a, at) - outside(b, at) })
	path := []*x509.Certificate{leaf}
	for {
		last := path[len(path)-1]
		fail := func(reason string) error {
			return &certs.Error{Index: len(path) - 1, Subject: subject(last), Reason: reason}
		}
		if i := slices.IndexFunc(roots, func(r Root) bool { return r.Certificate.Equal(last) }); i >= 0 {
			return path, &roots[i], checkPath(path, roots[i].Provider, at)
		}
		if len(path) > maxPath {
			return nil, nil, fail(fmt.Sprintf("is certificate %d of the way, at most %d are followed", len(path), maxPath))
		}
		var named, signed error
		try := func(c *x509.Certificate) bool {
			if !bytes.Equal(c.RawSubject, last.RawIssuer) || slices.ContainsFunc(path, c.Equal) {
				return false
			}
			if named = last.CheckSignatureFrom(c); named != nil {
				signed = named
				return false
			}
			path = append(path, c)
			return true
		}
		if slices.ContainsFunc(roots, func(r Root) bool { return try(r.Certificate) }) || slices.ContainsFunc(pool, try) {
			continue
		}
		self := bytes.Equal(last.RawSubject, last.RawIssuer)
		switch {
		case signed != nil:
			return nil, nil, fail("its signature does not verify with the key of the certificate that names itself as its issuer: " + signed.Error())
		case self && slices.ContainsFunc(roots, func(r Root) bool { return bytes.Equal(r.Certificate.RawSubject, last.RawSubject) }):
			return nil, nil, fail("has the name of a trusted root, but is another certificate: SHA-256 " + digest.SHA256.Sum(last.Raw).Hex())
		}
		// What is wrong whoever the issuer is. Which usage the leaf must have, only
		// the provider says.
		for i, c := range path {
			if reason := defect(c, i, nil, at); reason != "" {
				return nil, nil, &certs.Error{Index: i, Subject: subject(c), Reason: reason}
			}
		}
		return nil, nil, &IssuerError{subject(last), last.Issuer.String(), self, digest.SHA256.Sum(last.Raw).Hex()}
	}
}

// subject names a certificate; Google's leaves have an empty subject.
func subject(c *x509.Certificate) string {
	if s := c.Subject.String(); s != "" {
		return s
	}
	return "the certificate with the serial number " + c.SerialNumber.Text(16)
}

func outside(c *x509.Certificate, at time.Time) int {
	if at.Before(c.NotBefore) || at.After(c.NotAfter) {
		return 1
	}
	return 0
}

// checkPath judges a way that is signed from end to end.
func checkPath(path []*x509.Certificate, p Provider, at time.Time) error {
	if len(path) == 1 {
		return &certs.Error{Subject: subject(path[0]), Reason: "is the root itself, which signs certificates and no quotes"}
	}
	usage, err := leafUsage(path[0], p)
	if err != nil {
		return &certs.Error{Subject: subject(path[0]), Reason: err.Error()}
	}
	for i, c := range path {
		if reason := defect(c, i, usage, at); reason != "" {
			return &certs.Error{Index: i, Subject: subject(c), Reason: reason}
		}
	}
	return nil
}

// leafUsage finds by which extended key usage a leaf is an attestation key, and
// returns it; nil: Google's older leaves name none.
func leafUsage(leaf *x509.Certificate, p Provider) (asn1.ObjectIdentifier, error) {
	has := func(id asn1.ObjectIdentifier) bool { return slices.ContainsFunc(leaf.UnknownExtKeyUsage, id.Equal) }
	none := len(leaf.UnknownExtKeyUsage) == 0 && len(leaf.ExtKeyUsage) == 0
	switch {
	case has(akUsage()):
		return akUsage(), nil
	case p == GCP && has(ekUsage()):
		return ekUsage(), nil
	case p == GCP && none && leaf.KeyUsage != 0:
		return nil, nil
	case p == GCP:
		return nil, errors.New("is of no attestation key: Google's have the extended key usage 2.23.133.8.1 or none")
	}
	return nil, errors.New("is of no attestation key: the extended key usage 2.23.133.8.3 is missing")
}

func defect(c *x509.Certificate, i int, usage asn1.ObjectIdentifier, at time.Time) string {
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case at.Before(c.NotBefore):
		return "is valid from " + stamp(c.NotBefore) + ", the time asked for is " + stamp(at)
	case at.After(c.NotAfter):
		return "expired: was valid until " + stamp(c.NotAfter) + ", the time asked for is " + stamp(at)
	}
	switch c.SignatureAlgorithm {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
	default:
		return "is signed with " + c.SignatureAlgorithm.String() + ", want RSA or ECDSA with SHA-256 or longer"
	}
	if err := checkKey(c.PublicKey); err != nil {
		return err.Error()
	}
	if id := unprocessed(c); id != "" {
		return "has the critical extension " + id + ", which is not processed here"
	}
	if i == 0 {
		switch {
		case c.IsCA || c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
			return "is a CA, which signs certificates and no quotes"
		case c.KeyUsage&x509.KeyUsageDigitalSignature == 0:
			return "may not sign (key usage)"
		}
		return ""
	}
	nested := len(c.UnknownExtKeyUsage)+len(c.ExtKeyUsage) == 0 || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
	switch below := i - 1; {
	case !c.BasicConstraintsValid || !c.IsCA:
		return "is no CA, but signs"
	case c.KeyUsage&x509.KeyUsageCertSign == 0:
		return "may not sign certificates (key usage)"
	case (c.MaxPathLen > 0 || c.MaxPathLenZero) && below > c.MaxPathLen:
		return fmt.Sprintf("may have %d CA certificates below it, has %d", c.MaxPathLen, below)
	case usage != nil && !nested && !slices.ContainsFunc(c.UnknownExtKeyUsage, usage.Equal):
		return "may not sign certificates for the extended key usage " + usage.String()
	}
	return ""
}

// unprocessed names a critical extension whose meaning does not go into the
// verdict. A subject alternative name is critical where the subject is empty; it
// describes the TPM, and nothing is judged by it.
func unprocessed(c *x509.Certificate) string {
	processed := []asn1.ObjectIdentifier{{2, 5, 29, 15}, {2, 5, 29, 17}, {2, 5, 29, 19}, {2, 5, 29, 37}}
	for _, e := range c.Extensions {
		if e.Critical && !slices.ContainsFunc(processed, e.Id.Equal) {
			return e.Id.String()
		}
	}
	return ""
}
