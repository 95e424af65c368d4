package endorsement

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Object identifiers of Fulcio (sigstore/fulcio, docs/oid-info.md) and of
// Certificate Transparency (RFC 6962, 3.3).
var (
	oidIssuerRaw  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}
	oidOtherName  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 7}
	oidIssuer     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}
	oidSource     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 12}
	oidSourceHash = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 13}
	oidSourceRef  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 14}
	oidSAN        = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidSCTs       = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
)

// Identity is whom a certificate names.
type Identity struct {
	Name         string // the one subject alternative name, or the subject's common name
	Issuer       string // who vouched for the identity: of keyless certificates
	Source       string // repository
	SourceRef    string
	SourceDigest string
}

// identify reads whom a certificate names. More than one name could be read as
// whichever pleases, so it is refused.
func identify(c *x509.Certificate) (Identity, error) {
	var names []string
	names = append(names, c.EmailAddresses...)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	names = append(names, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	other, err := otherName(c)
	if err != nil {
		return Identity{}, err
	}
	if other != "" {
		names = append(names, other)
	}
	switch {
	case len(names) > 1:
		return Identity{}, fmt.Errorf("the certificate has %d names, want one", len(names))
	case len(names) == 0:
		names = []string{c.Subject.CommonName}
	}
	id := Identity{Name: names[0]}
	for _, f := range []struct {
		to  *string
		oid asn1.ObjectIdentifier
	}{{&id.Issuer, oidIssuer}, {&id.Source, oidSource}, {&id.SourceDigest, oidSourceHash}, {&id.SourceRef, oidSourceRef}} {
		if *f.to, err = utf8Extension(c, f.oid); err != nil {
			return Identity{}, err
		}
	}
	if raw := extension(c, oidIssuerRaw); raw != nil {
		if id.Issuer != "" && id.Issuer != string(raw) {
			return Identity{}, errors.New("the certificate names two issuers of its identity")
		}
		id.Issuer = string(raw)
	}
	return id, nil
}

func extension(c *x509.Certificate, oid asn1.ObjectIdentifier) []byte {
	for _, e := range c.Extensions {
		if e.Id.Equal(oid) {
			return e.Value
		}
	}
	return nil
}

func utf8Extension(c *x509.Certificate, oid asn1.ObjectIdentifier) (string, error) {
	raw := extension(c, oid)
	if raw == nil {
		return "", nil
	}
	var s string
	if rest, err := asn1.UnmarshalWithParams(raw, &s, "utf8"); err != nil || len(rest) > 0 {
		return "", fmt.Errorf("extension %s is no UTF8String", oid)
	}
	return s, nil
}

// otherName reads the name that Fulcio gives to users who have neither a mail
// address nor a URI (RFC 5280, 4.2.1.6, OtherName).
func otherName(c *x509.Certificate) (string, error) {
	raw := extension(c, oidSAN)
	if raw == nil {
		return "", nil
	}
	var seq asn1.RawValue
	if rest, err := asn1.Unmarshal(raw, &seq); err != nil || len(rest) > 0 {
		return "", errors.New("the subject alternative names cannot be read")
	}
	found := ""
	for rest := seq.Bytes; len(rest) > 0; {
		var v asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &v); err != nil {
			return "", errors.New("the subject alternative names cannot be read")
		}
		switch {
		case v.Class == asn1.ClassContextSpecific && v.Tag == 0:
			var name struct {
				ID    asn1.ObjectIdentifier
				Value string `asn1:"utf8,explicit,tag:0"`
			}
			if tail, err := asn1.UnmarshalWithParams(v.FullBytes, &name, "tag:0"); err != nil || len(tail) > 0 || !name.ID.Equal(oidOtherName) || found != "" {
				return "", errors.New("a subject alternative name is of a kind that is not known")
			}
			found = name.Value
		case v.Class == asn1.ClassContextSpecific && slices.Contains([]int{1, 2, 6, 7}, v.Tag): // mail, DNS, URI, IP
		default:
			return "", errors.New("a subject alternative name is of a kind that is not known")
		}
	}
	return found, nil
}

// chainTo finds the way from a certificate to an authority at a time. Sent
// certificates only help to find it.
func (a *Authority) chainTo(leaf *x509.Certificate, sent []*x509.Certificate, at time.Time) ([]*x509.Certificate, error) {
	if !within(at, a.start, a.end) {
		return nil, fmt.Errorf("%s was not trusted on %s", a.Name, day(at))
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range a.root {
		roots.AddCert(c)
	}
	for _, c := range slices.Concat(a.between, sent) {
		between.AddCert(c)
	}
	usage := x509.ExtKeyUsageAny
	if a.Keyless {
		usage = x509.ExtKeyUsageCodeSigning
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return nil, err
	}
	if leaf.IsCA && (a.Keyless || leaf.KeyUsage&x509.KeyUsageCertSign != 0) || leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, errors.New("the certificate is none for signing")
	}
	return chains[0], nil
}

// sct is a log's promise to hold a certificate (RFC 6962, 3.2).
type sct struct {
	logID     []byte
	when      time.Time
	timestamp []byte
	extras    []byte
	signature []byte
}

// promised verifies that a trusted log of certificates promised to hold one.
func promised(leaf, issuer *x509.Certificate, logs []Log) error {
	list, err := readSCTs(extension(leaf, oidSCTs))
	if err != nil {
		return err
	}
	tbs, err := withoutSCTs(leaf.RawTBSCertificate)
	if err != nil {
		return err
	}
	issuerHash := sha256.Sum256(issuer.RawSubjectPublicKeyInfo)
	for _, s := range list {
		for _, l := range logs {
			if !slices.Equal(l.id, s.logID) || !within(s.when, l.start, l.end) {
				continue
			}
			// version, type, time, entry type 1, issuer, length, certificate, extensions
			m := append([]byte{0, 0}, s.timestamp...)
			m = append(append(m, 0, 1), issuerHash[:]...)
			m = append(append(m, byte(len(tbs)>>16), byte(len(tbs)>>8), byte(len(tbs))), tbs...)
			m = binary.BigEndian.AppendUint16(m, uint16(len(s.extras)))
			m = append(m, s.extras...)
			if verify(l.key, m, s.signature) {
				return nil
			}
			return fmt.Errorf("the promise of %s to hold the certificate does not verify", l.Name)
		}
	}
	return fmt.Errorf("none of the %d promises in the certificate is of a trusted log", len(list))
}

// readSCTs reads the extension: an OCTET STRING with a list in TLS's form.
func readSCTs(raw []byte) ([]sct, error) {
	if raw == nil {
		return nil, errors.New("the certificate has no promise of a log in it")
	}
	bad := errors.New("the promises in the certificate cannot be read")
	var list []byte
	if rest, err := asn1.Unmarshal(raw, &list); err != nil || len(rest) > 0 {
		return nil, bad
	}
	list, rest, ok := prefixed(list)
	if !ok || len(rest) > 0 {
		return nil, bad
	}
	var out []sct
	for len(list) > 0 {
		var one []byte
		if one, list, ok = prefixed(list); !ok || len(one) < 41 || one[0] != 0 || len(out) >= maxEntries {
			return nil, bad
		}
		s := sct{logID: one[1:33], timestamp: one[33:41]}
		ms := binary.BigEndian.Uint64(s.timestamp)
		if ms > 1<<52 {
			return nil, bad
		}
		s.when = time.UnixMilli(int64(ms))
		if s.extras, one, ok = prefixed(one[41:]); !ok || len(one) < 2 {
			return nil, bad
		}
		if s.signature, one, ok = prefixed(one[2:]); !ok || len(one) > 0 {
			return nil, bad
		}
		out = append(out, s)
	}
	return out, nil
}

// prefixed takes bytes that follow their length in two bytes.
func prefixed(b []byte) (head, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

// withoutSCTs is the certificate as the log saw it: all but the one extension.
func withoutSCTs(tbs []byte) ([]byte, error) {
	var outer asn1.RawValue
	if rest, err := asn1.Unmarshal(tbs, &outer); err != nil || len(rest) > 0 {
		return nil, errors.New("the certificate cannot be read")
	}
	var body []byte
	for rest := outer.Bytes; len(rest) > 0; {
		var v asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &v); err != nil {
			return nil, err
		}
		if v.Class == asn1.ClassContextSpecific && v.Tag == 3 {
			if v.FullBytes, err = fewerExtensions(v.Bytes); err != nil {
				return nil, err
			}
		}
		body = append(body, v.FullBytes...)
	}
	return sequence(asn1.ClassUniversal, asn1.TagSequence, body)
}

func fewerExtensions(raw []byte) ([]byte, error) {
	var seq asn1.RawValue
	if rest, err := asn1.Unmarshal(raw, &seq); err != nil || len(rest) > 0 {
		return nil, errors.New("the certificate's extensions cannot be read")
	}
	var kept []byte
	for rest := seq.Bytes; len(rest) > 0; {
		var v asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &v); err != nil {
			return nil, err
		}
		var id asn1.ObjectIdentifier
		if _, err := asn1.Unmarshal(v.Bytes, &id); err != nil {
			return nil, err
		}
		if !id.Equal(oidSCTs) {
			kept = append(kept, v.FullBytes...)
		}
	}
	inner, err := sequence(asn1.ClassUniversal, asn1.TagSequence, kept)
	if err != nil {
		return nil, err
	}
	return sequence(asn1.ClassContextSpecific, 3, inner)
}

func sequence(class, tag int, content []byte) ([]byte, error) {
	return asn1.Marshal(asn1.RawValue{Class: class, Tag: tag, IsCompound: true, Bytes: content})
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02") }
