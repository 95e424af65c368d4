package tdxquote

import (
	"crypto/x509"
	_ "embed"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/internal/digest"
)

// The root of every PCK chain: "Intel SGX Root CA", valid from 2018-05-21 to
// 2049-12-31, published by Intel's Provisioning Certification Service. Its
// SHA-256 is 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3.
//
//go:embed intel_sgx_root_ca.pem
var intelRootPEM []byte

// IntelRoot returns the embedded root certificate.
func IntelRoot() (*x509.Certificate, error) {
	chain, err := certs.ReadPEM("embedded Intel SGX Root CA", intelRootPEM)
	if err != nil {
		return nil, err
	}
	return chain[0], nil
}

// PCK is what Intel certified about a platform in its provisioning
// certification key's certificate ("Intel SGX PCK Certificate and CRL Profile
// Specification", section 1.3.5).
type PCK struct {
	PPID    []byte // 16 bytes, names the platform
	FMSPC   [6]byte
	PCEID   [2]byte
	CPUSVN  [16]byte // raw, as written when the certificate was made
	SVN     [16]int  // its components
	PCESVN  int
	SGXType int // see SGXStandard; -1 unknown
	// PIID names the platform instance: all packages of a machine, as registered. It
	// is nil in certificates of the Processor CA, as is Configuration.
	PIID          []byte
	Configuration *Configuration
}

// The SGX types.
const (
	SGXStandard          = 0
	SGXScalable          = 1 // memory integrity by access control alone
	SGXScalableIntegrity = 2 // with cryptographic integrity
)

// Configuration is what Intel certified about a machine's setup; nil: not said.
type Configuration struct {
	DynamicPlatform *bool // packages may be added or replaced
	CachedKeys      *bool // Intel's registration service keeps the platform's root keys
	SMT             *bool // hyper-threading is on
}

type sgxEntry struct {
	ID    asn1.ObjectIdentifier
	Value asn1.RawValue
}

// The SGX extension's OID arc; a function, because a slice is no constant.
func sgxOID(below ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, below...)
}

// ReadPCK reads the SGX extension of a PCK leaf certificate.
func ReadPCK(leaf *x509.Certificate) (*PCK, error) {
	var raw []byte
	for _, e := range leaf.Extensions {
		if e.Id.Equal(sgxOID()) {
			raw = e.Value
		}
	}
	if raw == nil {
		return nil, errors.New("the PCK certificate has no SGX extension (1.2.840.113741.1.13.1)")
	}
	entries, err := sgxEntries(raw)
	if err != nil {
		return nil, fmt.Errorf("SGX extension: %w", err)
	}
	p := &PCK{SGXType: -1}
	var tcb, pceid, fmspc bool
	seen := map[string]bool{}
	for _, e := range entries {
		var err error
		if id := e.ID.String(); seen[id] {
			return nil, fmt.Errorf("SGX extension: entry %s is there twice", id)
		} else {
			seen[id] = true
		}
		switch {
		case e.ID.Equal(sgxOID(1)):
			p.PPID, err = octets(e.Value, 16)
		case e.ID.Equal(sgxOID(2)):
			err = p.readTCB(e.Value.FullBytes)
			tcb = true
		case e.ID.Equal(sgxOID(3)):
			err = octetsInto(p.PCEID[:], e.Value)
			pceid = true
		case e.ID.Equal(sgxOID(4)):
			err = octetsInto(p.FMSPC[:], e.Value)
			fmspc = true
		case e.ID.Equal(sgxOID(5)):
			var n asn1.Enumerated
			_, err = asn1.Unmarshal(e.Value.FullBytes, &n)
			p.SGXType = int(n)
		case e.ID.Equal(sgxOID(6)):
			p.PIID, err = octets(e.Value, 16)
		case e.ID.Equal(sgxOID(7)):
			p.Configuration, err = readConfiguration(e.Value.FullBytes)
		}
		if err != nil {
			return nil, fmt.Errorf("SGX extension: entry %s: %w", e.ID, err)
		}
	}
	if !tcb || !pceid || !fmspc {
		return nil, errors.New("SGX extension: it lacks TCB, PCEID or FMSPC")
	}
	return p, nil
}

// readConfiguration reads the setup's flags, each of which may be left out.
func readConfiguration(raw []byte) (*Configuration, error) {
	entries, err := sgxEntries(raw)
	if err != nil {
		return nil, err
	}
	c := &Configuration{}
	for _, e := range entries {
		var to **bool
		switch {
		case e.ID.Equal(sgxOID(7, 1)):
			to = &c.DynamicPlatform
		case e.ID.Equal(sgxOID(7, 2)):
			to = &c.CachedKeys
		case e.ID.Equal(sgxOID(7, 3)):
			to = &c.SMT
		default:
			continue // of a later specification
		}
		var flag bool
		if rest, err := asn1.Unmarshal(e.Value.FullBytes, &flag); err != nil || len(rest) > 0 || *to != nil {
			return nil, fmt.Errorf("entry %s is no boolean or there twice", e.ID)
		}
		*to = &flag
	}
	return c, nil
}

// readTCB reads the 16 components, PCESVN and CPUSVN; each must be there once.
func (p *PCK) readTCB(raw []byte) error {
	entries, err := sgxEntries(raw)
	if err != nil {
		return err
	}
	seen := 0
	for _, e := range entries {
		if len(e.ID) != 9 || !e.ID[:8].Equal(sgxOID(2)) {
			return fmt.Errorf("unknown entry %s", e.ID)
		}
		n := e.ID[8]
		if n < 1 || n > 18 || seen&(1<<n) != 0 {
			return fmt.Errorf("entry %s is unknown or there twice", e.ID)
		}
		seen |= 1 << n
		if n == 18 {
			if err := octetsInto(p.CPUSVN[:], e.Value); err != nil {
				return err
			}
			continue
		}
		var svn int
		if rest, err := asn1.Unmarshal(e.Value.FullBytes, &svn); err != nil || len(rest) > 0 {
			return fmt.Errorf("entry %s is no integer", e.ID)
		}
		if n == 17 {
			p.PCESVN = svn
		} else {
			p.SVN[n-1] = svn
		}
	}
	if seen != 1<<19-2 {
		return errors.New("not all 18 TCB entries are there")
	}
	return nil
}

func sgxEntries(raw []byte) ([]sgxEntry, error) {
	var entries []sgxEntry
	rest, err := asn1.Unmarshal(raw, &entries)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, errors.New("trailing bytes")
	}
	return entries, nil
}

func octets(v asn1.RawValue, n int) ([]byte, error) {
	if v.Class != asn1.ClassUniversal || v.Tag != asn1.TagOctetString || v.IsCompound || len(v.Bytes) != n {
		return nil, fmt.Errorf("found tag %d with %d bytes, want an octet string of %d", v.Tag, len(v.Bytes), n)
	}
	return v.Bytes, nil
}

func octetsInto(dst []byte, v asn1.RawValue) error {
	b, err := octets(v, len(dst))
	copy(dst, b)
	return err
}

// intelQE is what Intel's TD quoting enclave is known by: its signer and
// product ("TD QE identity", mrsigner and isvprodid). Without this check any
// enclave that the platform's owner provisions could sign quotes.
func intelQE() (signer digest.Digest, product uint16) {
	const mrsigner = "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"
	signer, err := digest.ParseHex(digest.SHA256, mrsigner)
	if err != nil {
		panic("tdxquote: constant MRSIGNER: " + err.Error()) // a constant of this file
	}
	return signer, 2
}
