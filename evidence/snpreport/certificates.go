package snpreport

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/malformed"
)

// Limits of a certificate table. Linux passes at most 32 pages.
const (
	MaxTable   = 256 << 10
	maxEntries = 32
	entrySize  = 24 // GUID, u32 offset, u32 length
)

// Certificates are what came beside a report. None of them is believed: the
// leaf is followed to a root, which is known.
type Certificates struct {
	VCEK, VLEK *x509.Certificate
	Signers    []*x509.Certificate // ASK, ASVK
	ARK        *x509.Certificate
	CRL        *x509.RevocationList
	// Others are GUIDs of a table that have no meaning here. Nothing is judged
	// by them.
	Others []string
}

// IsZero reports whether nothing came.
func (c *Certificates) IsZero() bool {
	return c.VCEK == nil && c.VLEK == nil && c.ARK == nil && c.CRL == nil && len(c.Signers) == 0
}

// Add files a certificate by what it is: a root signs itself, a signer is a CA,
// a leaf names a chip or a provider. The same place twice is an error, because
// two readers could take either.
func (c *Certificates) Add(name string, cert *x509.Certificate) error {
	twice := func(place string) error {
		return &malformed.Error{Input: name, Field: place, Found: "a second one, " + cert.Subject.String(), Want: "one"}
	}
	switch {
	case cert.IsCA && bytes.Equal(cert.RawSubject, cert.RawIssuer):
		if c.ARK != nil {
			return twice("root (ARK)")
		}
		c.ARK = cert
	case cert.IsCA:
		for _, s := range c.Signers {
			if bytes.Equal(s.RawSubject, cert.RawSubject) {
				return twice("signer (ASK, ASVK)")
			}
		}
		if len(c.Signers) == certs.MaxCertificates {
			return &malformed.Error{Input: name, Field: "signers", Found: "one more", Want: fmt.Sprintf("at most %d", certs.MaxCertificates)}
		}
		c.Signers = append(c.Signers, cert)
	default:
		e, err := ReadEndorsement(cert)
		if err != nil {
			return &malformed.Error{Input: name, Field: "certificate " + cert.Subject.String(), Found: err.Error(), Want: "a VCEK, VLEK, ASK, ASVK or ARK"}
		}
		leaf := &c.VCEK
		if e.Key == KeyVLEK {
			leaf = &c.VLEK
		}
		if *leaf != nil {
			return twice("signing key's certificate (" + e.Key.String() + ")")
		}
		*leaf = cert
	}
	return nil
}

// Merge adds what other has; a place that both have is an error, unless both
// have the same there.
func (c *Certificates) Merge(name string, other Certificates) error {
	for _, cert := range other.all() {
		if c.has(cert) {
			continue
		}
		if err := c.Add(name, cert); err != nil {
			return err
		}
	}
	if other.CRL != nil {
		if c.CRL != nil && !bytes.Equal(c.CRL.Raw, other.CRL.Raw) {
			return &malformed.Error{Input: name, Field: "revocation list", Found: "a second one", Want: "one"}
		}
		c.CRL = other.CRL
	}
	c.Others = append(c.Others, other.Others...)
	return nil
}

func (c *Certificates) all() []*x509.Certificate {
	var out []*x509.Certificate
	for _, cert := range append([]*x509.Certificate{c.VCEK, c.VLEK, c.ARK}, c.Signers...) {
		if cert != nil {
			out = append(out, cert)
		}
	}
	return out
}

func (c *Certificates) has(cert *x509.Certificate) bool {
	for _, own := range c.all() {
		if own.Equal(cert) {
			return true
		}
	}
	return false
}

// ParseCertificates reads certificates from a file: one in DER, or several in
// PEM in any order. name is the file in errors.
func ParseCertificates(name string, data []byte) (Certificates, error) {
	var c Certificates
	list, err := readCertificates(name, data)
	if err != nil {
		return c, err
	}
	for _, cert := range list {
		if err := c.Add(name, cert); err != nil {
			return Certificates{}, err
		}
	}
	return c, nil
}

func readCertificates(name string, data []byte) ([]*x509.Certificate, error) {
	if bytes.HasPrefix(bytes.TrimLeft(data, "\r\n"), []byte("-----BEGIN")) {
		return certs.ReadPEM(name, data)
	}
	if len(data) > certs.MaxChainBytes {
		return nil, &malformed.Error{Input: name, Field: "certificate", Found: fmt.Sprintf("%d bytes", len(data)), Want: fmt.Sprintf("at most %d", certs.MaxChainBytes)}
	}
	cert, err := x509.ParseCertificate(data)
	if err != nil {
		return nil, &malformed.Error{Input: name, Field: "certificate", Found: err.Error(), Want: "a certificate in DER or PEM (RFC 5280)"}
	}
	return []*x509.Certificate{cert}, nil
}

// guid names an entry of the table; in the table its bytes stand in the order
// of the text (RFC 9562), unlike the firmware's own GUIDs.
type guid [16]byte

func (g guid) String() string {
	h := hex.EncodeToString(g[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// The entries that a table may have ("GHCB Standardization", table of
// SNP extended guest request; the CRL's is Linux's).
const (
	guidVCEK = "63da758d-e664-4564-adc5-f4b93be8accd"
	guidVLEK = "a8074bc2-a25a-483e-aae6-39c045a0b8a1"
	guidASK  = "4ab7b379-bbac-4fe4-a02f-05aef327c782" // and ASVK
	guidARK  = "c0b406a4-a803-4952-9743-3fb6014cd0ae"
	guidCRL  = "92f81bc3-5811-4d3d-97ff-d19f88dc67ea"
)

// ParseTable reads a certificate table as Linux gives it: auxblob of
// configfs-tsm, the certificates of an extended request of /dev/sev-guest.
// Empty input and a table without entries hold no certificates. name is the
// input in errors.
func ParseTable(name string, data []byte) (Certificates, error) {
	var c Certificates
	fail := func(at int, field, found, want string) (Certificates, error) {
		return Certificates{}, &malformed.Error{Input: name, Place: malformed.Offset(at), Field: field, Found: found, Want: want}
	}
	if len(data) > MaxTable {
		return fail(0, "certificate table", fmt.Sprintf("%d bytes", len(data)), fmt.Sprintf("at most %d", MaxTable))
	}
	if len(data) == 0 {
		return c, nil
	}
	type entry struct {
		at, from, to int
		guid         string
	}
	var entries []entry
	end := 0 // of the table's head
	for at := 0; ; at += entrySize {
		if len(data)-at < entrySize {
			return fail(at, "certificate table", fmt.Sprintf("%d bytes left", len(data)-at), "an entry of 24 bytes; the last one is zero")
		}
		raw := data[at : at+entrySize]
		if bytes.Equal(raw, make([]byte, entrySize)) {
			end = at + entrySize
			break
		}
		if len(entries) == maxEntries {
			return fail(at, "certificate table", "one entry more", fmt.Sprintf("at most %d", maxEntries))
		}
		from, size := uint64(binary.LittleEndian.Uint32(raw[16:])), uint64(binary.LittleEndian.Uint32(raw[20:]))
		e := entry{at: at, guid: guid(raw[:16]).String()}
		if from+size > uint64(len(data)) {
			return fail(at, "entry "+e.guid, fmt.Sprintf("bytes %d to %d", from, from+size), fmt.Sprintf("at most %d, the end of the table", len(data)))
		}
		e.from, e.to = int(from), int(from+size)
		for _, other := range entries {
			switch {
			case other.guid == e.guid:
				return fail(at, "entry "+e.guid, "it a second time", "each certificate once")
			case e.from < other.to && other.from < e.to:
				return fail(at, "entry "+e.guid, "bytes that entry "+other.guid+" has too", "bytes of its own")
			}
		}
		entries = append(entries, e)
	}
	for _, e := range entries {
		if e.from < end {
			return fail(e.at, "entry "+e.guid, fmt.Sprintf("offset %d", e.from), fmt.Sprintf("at least %d, the end of the entries", end))
		}
		if err := c.addEntry(name, e.guid, data[e.from:e.to]); err != nil {
			return Certificates{}, err
		}
	}
	return c, nil
}

// addEntry reads an entry by its GUID, and holds the certificate to it.
func (c *Certificates) addEntry(name, id string, data []byte) error {
	name += ": entry " + id
	if id == guidCRL {
		list, err := ParseCRL(name, data)
		c.CRL = list
		return err
	}
	if id != guidVCEK && id != guidVLEK && id != guidASK && id != guidARK {
		c.Others = append(c.Others, id)
		return nil
	}
	list, err := readCertificates(name, data)
	if err != nil {
		return err
	}
	if len(list) != 1 {
		return &malformed.Error{Input: name, Found: fmt.Sprintf("%d certificates", len(list)), Want: "one"}
	}
	if err := c.Add(name, list[0]); err != nil {
		return err
	}
	places := map[string]bool{
		guidVCEK: c.VCEK == list[0], guidVLEK: c.VLEK == list[0], guidARK: c.ARK == list[0],
		guidASK: len(c.Signers) > 0 && c.Signers[len(c.Signers)-1] == list[0],
	}
	if !places[id] {
		return &malformed.Error{Input: name, Found: list[0].Subject.String(), Want: "the certificate that the GUID names"}
	}
	return nil
}

// MaxCRL bounds a revocation list in bytes. AMD's have 1 KiB.
const MaxCRL = 1 << 20

// ParseCRL reads a revocation list in DER, as AMD's service gives it, or in PEM.
// name is the file in errors.
func ParseCRL(name string, data []byte) (*x509.RevocationList, error) {
	if len(data) > MaxCRL {
		return nil, &malformed.Error{Input: name, Field: "revocation list", Found: fmt.Sprintf("%d bytes", len(data)), Want: fmt.Sprintf("at most %d", MaxCRL)}
	}
	if block, rest := pem.Decode(data); block != nil {
		if block.Type != "X509 CRL" || len(bytes.TrimSpace(rest)) > 0 {
			return nil, &malformed.Error{Input: name, Field: "revocation list", Found: fmt.Sprintf("a block %q and %d bytes after it", block.Type, len(rest)), Want: `one block "X509 CRL"`}
		}
		data = block.Bytes
	}
	list, err := x509.ParseRevocationList(data)
	if err != nil {
		return nil, &malformed.Error{Input: name, Field: "revocation list", Found: err.Error(), Want: "a DER revocation list (RFC 5280 section 5)"}
	}
	return list, nil
}
