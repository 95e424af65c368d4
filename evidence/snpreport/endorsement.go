package snpreport

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/retally/retally/evidence/certs"
)

// Endorsement is what AMD certified about a signing key ("VCEK Certificate and
// KDS Interface Specification", section 3.1, custom extensions).
type Endorsement struct {
	Certificate *x509.Certificate
	Key         SigningKey // KeyVCEK or KeyVLEK
	ProductName string     // "Milan-B0", "Genoa"
	TCB         Components
	HasFMC      bool
	HWID        []byte // the chip's id, 64 bytes or 8; VCEK only
	CSPID       string // the cloud provider; VLEK only

	// Unknown are AMD's extensions that have no meaning here, and a version of
	// their structure that is not known: one of them could be a part of the TCB.
	Unknown []string

	spare [4]int // spl_4 to spl_7, zero so far
}

// amdOID is AMD's arc for these extensions; a function, because a slice is no
// constant.
func amdOID(below ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, below...)
}

func extension(c *x509.Certificate, below ...int) []byte {
	for _, e := range c.Extensions {
		if e.Id.Equal(amdOID(below...)) {
			return e.Value
		}
	}
	return nil
}

// ReadEndorsement reads the extensions of a VCEK or VLEK certificate. Which of
// the two it is, the extensions say: a VCEK names a chip, a VLEK a provider.
func ReadEndorsement(c *x509.Certificate) (*Endorsement, error) {
	e := &Endorsement{Certificate: c}
	hwid, csp := extension(c, 4), extension(c, 5)
	switch {
	case hwid != nil && csp != nil:
		return nil, errors.New("the certificate names a chip and a provider, want one of the two (hwID, cspID)")
	case hwid != nil:
		e.Key = KeyVCEK
		if e.HWID = hardwareID(hwid); e.HWID == nil {
			return nil, fmt.Errorf("extension hwID: found %d bytes, want 64 or 8", len(hwid))
		}
	case csp != nil:
		e.Key = KeyVLEK
		var err error
		if e.CSPID, err = ia5(csp); err != nil {
			return nil, fmt.Errorf("extension cspID: %w", err)
		}
	default:
		return nil, errors.New("the certificate is neither a VCEK nor a VLEK: it names no chip and no provider (extensions 1.3.6.1.4.1.3704.1.4 and .5)")
	}
	var err error
	if e.ProductName, err = ia5(extension(c, 2)); err != nil {
		return nil, fmt.Errorf("extension productName: %w", err)
	}
	switch v, err := integer(extension(c, 1)); {
	case err != nil:
		return nil, fmt.Errorf("extension structVersion: %w", err)
	case v > 1:
		e.Unknown = append(e.Unknown, fmt.Sprintf("structVersion %d", v))
	}
	for _, f := range []struct {
		n    int
		name string
		dst  *uint8
	}{{1, "blSPL", &e.TCB.BootLoader}, {2, "teeSPL", &e.TCB.TEE}, {3, "snpSPL", &e.TCB.SNP}, {8, "ucodeSPL", &e.TCB.Microcode}, {9, "fmcSPL", &e.TCB.FMC}} {
		raw := extension(c, 3, f.n)
		if f.n == 9 {
			if e.HasFMC = raw != nil; !e.HasFMC {
				continue
			}
		}
		v, err := integer(raw)
		if err != nil {
			return nil, fmt.Errorf("extension %s: %w", f.name, err)
		}
		*f.dst = uint8(v)
	}
	for i := range e.spare {
		raw := extension(c, 3, 4+i)
		if raw == nil {
			continue
		}
		if e.spare[i], err = integer(raw); err != nil {
			return nil, fmt.Errorf("extension spl_%d: %w", 4+i, err)
		}
	}
	for _, x := range c.Extensions {
		if arc := amdOID(); len(x.Id) >= len(arc) && x.Id[:len(arc)].Equal(arc) && !knownExtension(x.Id[len(arc):]) {
			e.Unknown = append(e.Unknown, x.Id.String())
		}
	}
	return e, nil
}

// knownExtension: structVersion, productName, hwID, cspID, and the nine parts of
// the TCB.
func knownExtension(below []int) bool {
	switch len(below) {
	case 1:
		return below[0] == 1 || below[0] == 2 || below[0] == 4 || below[0] == 5
	case 2:
		return below[0] == 3 && below[1] >= 1 && below[1] <= 9
	}
	return false
}

// hardwareID takes the chip's id as AMD's service writes it, as bare bytes, and
// as the specification has it, in an octet string.
func hardwareID(raw []byte) []byte {
	const octets = 4
	if len(raw) > 2 && raw[0] == octets && int(raw[1]) == len(raw)-2 && len(raw) != 64 && len(raw) != turinChipIDSize {
		raw = raw[2:]
	}
	if len(raw) != 64 && len(raw) != turinChipIDSize {
		return nil
	}
	return bytes.Clone(raw)
}

func ia5(raw []byte) (string, error) {
	if raw == nil {
		return "", errors.New("is missing")
	}
	var v asn1.RawValue
	if rest, err := asn1.Unmarshal(raw, &v); err != nil || len(rest) > 0 || v.Class != asn1.ClassUniversal || v.Tag != asn1.TagIA5String || v.IsCompound {
		return "", errors.New("is no IA5String")
	}
	return string(v.Bytes), nil
}

func integer(raw []byte) (int, error) {
	if raw == nil {
		return 0, errors.New("is missing")
	}
	var v int
	if rest, err := asn1.Unmarshal(raw, &v); err != nil || len(rest) > 0 || v < 0 || v > 255 {
		return 0, fmt.Errorf("is no integer from 0 to 255: %x", raw[:min(len(raw), 16)])
	}
	return v, nil
}

// product is the line that the product name is of. AMD has one line for Genoa,
// Bergamo and Siena.
func (e *Endorsement) product() Product {
	line, _, _ := strings.Cut(e.ProductName, "-")
	if line == "Bergamo" || line == "Siena" {
		return Genoa
	}
	return Product(line)
}

// checkChain follows leaf, ASK or ASVK, ARK: exactly these three, each signed by
// the next, RSA-PSS with SHA-384 throughout. The ARK is known byte by byte, so
// its own signature proves nothing and is not looked at.
func checkChain(path [3]*x509.Certificate, at time.Time) error {
	fail := func(i int, reason string) error {
		return &certs.Error{Index: i, Subject: path[i].Subject.String(), Reason: reason}
	}
	for i, c := range path {
		if reason := defect(c, i, at); reason != "" {
			return fail(i, reason)
		}
	}
	for i, c := range path[:2] {
		parent := path[i+1]
		if !bytes.Equal(c.RawIssuer, parent.RawSubject) {
			return fail(i, "its issuer is "+c.Issuer.String()+", the next certificate is "+parent.Subject.String())
		}
		if err := c.CheckSignatureFrom(parent); err != nil {
			return fail(i, "its signature does not verify with the next certificate's key: "+err.Error())
		}
	}
	return nil
}

// defect says what is wrong with certificate i of a chain alone.
func defect(c *x509.Certificate, i int, at time.Time) string {
	const rsaBits = 4096
	switch {
	case at.Before(c.NotBefore):
		return "is valid from " + stamp(c.NotBefore) + ", the time asked for is " + stamp(at)
	case at.After(c.NotAfter):
		return "was valid until " + stamp(c.NotAfter) + " (expired), the time asked for is " + stamp(at)
	case len(c.UnhandledCriticalExtensions) > 0:
		return "has the unknown critical extension " + c.UnhandledCriticalExtensions[0].String()
	case c.SignatureAlgorithm != x509.SHA384WithRSAPSS:
		return "is signed with " + c.SignatureAlgorithm.String() + ", want SHA384-RSAPSS"
	}
	if i == 0 {
		if key, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P384() {
			return "has no ECDSA key on P-384"
		}
		if c.BasicConstraintsValid && c.IsCA {
			return "is a CA, and signs a report"
		}
		if c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
			return "may not sign (key usage)" // AMD sets no key usage here
		}
		return ""
	}
	if key, ok := c.PublicKey.(*rsa.PublicKey); !ok || key.N.BitLen() != rsaBits {
		return "has no RSA key of 4096 bits"
	}
	switch {
	case !c.BasicConstraintsValid || !c.IsCA:
		return "is no CA, but signs"
	case c.KeyUsage&x509.KeyUsageCertSign == 0:
		return "may not sign certificates (key usage)"
	case (c.MaxPathLen > 0 || c.MaxPathLenZero) && i-1 > c.MaxPathLen:
		return fmt.Sprintf("may have %d CA certificates below it, has %d", c.MaxPathLen, i-1)
	case i == 2 && !bytes.Equal(c.RawSubject, c.RawIssuer):
		return "is no root: it is issued by " + c.Issuer.String()
	}
	return ""
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
